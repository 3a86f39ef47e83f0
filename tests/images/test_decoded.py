"""Pixels in a file without a name: read back as they were, gone with the process, and a full disk is one line."""

from __future__ import annotations

import errno
import os
import pickle

import numpy as np
import pytest

from usb_active.errors import UsageError
from usb_active.images.decoded import DecodedImages, PixelFile

VIEWS = object()


def pictures(channels: int) -> list[np.ndarray]:
    """Of several sizes."""
    rng, tail = np.random.default_rng(channels), () if channels == 1 else (channels,)
    return [rng.integers(0, 256, (height, width, *tail), dtype=np.uint8) for height, width in ((4, 4), (6, 4), (4, 9))]


def decoded_of(images: list[np.ndarray], folder, channels: int, keys=("a", "b", "c")) -> DecodedImages:
    file = PixelFile(folder)
    starts = [file.append(image) for image in images]
    sides = [image.shape[:2] for image in images]
    pixels = file.mapped()
    file.close()
    return DecodedImages(VIEWS, keys, pixels, np.array(starts), np.array(sides), channels)


@pytest.mark.parametrize("channels", [1, 3])
def test_images_of_several_sizes_come_back(tmp_path, channels):
    images = pictures(channels)
    decoded = decoded_of(images, tmp_path / "scratch", channels)
    for index, key in enumerate("abc"):
        found = decoded.pixels_of(index, key, VIEWS)
        assert found.dtype == np.uint8 and np.array_equal(found, images[index])
        assert not found.flags.writeable, "a view that writes into its sample must not change it for all others"


def test_of_another_sample_or_for_other_views_there_is_nothing(tmp_path):
    decoded = decoded_of(pictures(3), tmp_path, 3)
    assert decoded.pixels_of(3, "d", VIEWS) is None, "it has joined later"
    assert decoded.pixels_of(1, "a", VIEWS) is None, "the samples are in another order now"
    assert decoded.pixels_of(1, "b", object()) is None
    assert decoded_of(pictures(3), tmp_path, 3, None).pixels_of(1, None, VIEWS) is not None


def test_no_name_is_left_while_it_is_open(tmp_path):
    file = PixelFile(tmp_path / "runs" / "scratch")
    file.append(np.ones(5000, np.uint8))
    assert not (tmp_path / "runs" / "scratch").exists()
    kept = tmp_path / "other.npy"
    kept.touch()
    other = PixelFile(tmp_path)
    assert list(tmp_path.glob("*.npy")) == [kept] and not list(tmp_path.glob("decoded*"))
    for one in (file, other):
        one.close()


def test_what_is_appended_after_a_map_was_made_is_in_the_next(tmp_path):
    file = PixelFile(tmp_path)
    file.reserve(10)
    assert file.append(np.arange(10, dtype=np.uint8)) == 0
    first = file.mapped()
    file.reserve(3)
    assert file.append(np.full((1, 5), 7, np.uint8)) == 10
    second = file.mapped()
    file.close()
    assert first.tolist() == list(range(10)) and second.tolist() == [*range(10), *[7] * 5]


def test_its_room_is_taken_before_anything_is_decoded(tmp_path):
    file = PixelFile(tmp_path)
    file.reserve(100_000)
    assert os.fstat(file._file.fileno()).st_blocks * 512 >= 100_000
    file.close()


def full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_is_one_line(tmp_path, monkeypatch):
    file = PixelFile(tmp_path)
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(UsageError) as caught:
        file.reserve(12_345_678)
    said = f"active.cache_images: there is no room for 12.3 MB of decoded images in {tmp_path}: {os.strerror(errno.ENOSPC)}; "
    assert str(caught.value) == f"{said}free some, or set active.cache_images to false"
    monkeypatch.undo()
    file.append(np.zeros(2_000_000, np.uint8))
    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(UsageError, match=r"^active.cache_images: there is no room for 2.0 MB of .*; free some, or set .*$"):
        file.append(np.zeros(10, np.uint8))
    file.close()


def test_a_disk_that_says_so_only_when_it_is_to_write_is_one_line_as_well(tmp_path, monkeypatch):
    file = PixelFile(tmp_path)
    file.append(np.zeros(10, np.uint8))
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UsageError, match="^active.cache_images: there is no room"):
        file.mapped()
    file.close()


def test_a_write_that_takes_a_part_is_continued(tmp_path, monkeypatch):
    original = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: original(fd, data[:7], offset))
    image = np.arange(50, dtype=np.uint8)
    file = PixelFile(tmp_path)
    file.append(image)
    assert np.array_equal(file.mapped(), image)
    file.close()


def test_another_process_gets_nothing(tmp_path):
    decoded = decoded_of(pictures(3), tmp_path, 3)
    data = pickle.dumps({"decoded": decoded})
    assert pickle.loads(data) == {"decoded": None} and len(data) < 200
