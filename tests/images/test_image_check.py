"""Images that were replaced in mid-run, and dark ones of many bits: said once, by name, and the run continues."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np
import pytest
import run_helpers
import yaml
from data_makers import picture, write_folder, write_image
from PIL import Image
from run_helpers import config_of, settings

from usb_active import cli
from usb_active.builtin.image_folder import ImageFolder
from usb_active.contracts.dataset import DatasetOptions
from usb_active.errors import UsageError
from usb_active.images.checking import PRINT, check_images
from usb_active.images.files import ImageFiles
from usb_active.loop.session import Session
from usb_active.loop.setup import build_parts, say_remarks


@pytest.fixture
def photos(tmp_path) -> Path:
    return write_folder(tmp_path / "photos", {"train/cat": 4, "train/dog": 3, "test/cat": 1, "test/dog": 1})


@pytest.fixture
def cache(tmp_path) -> Path:
    return tmp_path / "verified.json"


def verify(root: Path, cache: Path, caplog, **config) -> list[str]:
    """The warnings of a start."""
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        ImageFolder(ImageFolder.Config(**config), DatasetOptions(data_dir=root)).verify(cache)
    return [record.getMessage() for record in caplog.records]


def touch(path: Path, seconds: int = 5) -> None:
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + seconds * 10**9))


SAID = "changed since the run last read them (size or time); it continues with them as they are: "


def test_replaced_images_are_named_once(photos, cache, caplog):
    assert verify(photos, cache, caplog) == []
    assert verify(photos, cache, caplog) == []
    write_image(photos / "train/dog/001.png", picture(77, 9))
    touch(photos / "train/dog/001.png")
    touch(photos / "test/cat/000.png")
    assert verify(photos, cache, caplog) == [f"2 images {SAID}train/dog/001.png, test/cat/000.png"]
    assert verify(photos, cache, caplog) == []
    touch(photos / "train/cat/000.png", -100)
    assert verify(photos, cache, caplog) == [f"1 image {SAID}train/cat/000.png"]


def test_images_that_join_or_leave_were_not_replaced(photos, cache, caplog):
    verify(photos, cache, caplog)
    write_image(photos / "train/cat/new.png")
    (photos / "train/cat/003.png").unlink()
    assert verify(photos, cache, caplog) == []
    write_image(photos / "train/cat/003.png", picture(5, 11))
    assert verify(photos, cache, caplog) == [f"1 image {SAID}train/cat/003.png"]


def test_a_replaced_image_that_cannot_be_read_is_still_said_when_it_is_mended(photos, cache, caplog):
    verify(photos, cache, caplog)
    victim = photos / "train/cat/001.png"
    victim.write_bytes(b"half copied")
    with pytest.raises(UsageError, match=r"1 of 9 images below .*train/cat/001\.png"):
        verify(photos, cache, caplog)
    write_image(victim, picture(9, 10))
    touch(victim, 60)
    assert verify(photos, cache, caplog) == [f"1 image {SAID}train/cat/001.png"]


def test_what_0_1_0_had_verified_is_not_read_again(photos, cache, monkeypatch):
    files = ImageFiles(str(photos), [f"train/cat/{n:03d}.png" for n in range(4)], 3)
    check_images(files, cache)
    np.save(states := cache.with_suffix(".npy"), np.load(cache)["state"])
    states.replace(cache)
    read = []
    monkeypatch.setattr(ImageFiles, "load", lambda self, index: read.append(index))
    assert check_images(files, cache).changed == [] and read == []
    assert np.load(cache).dtype == PRINT and len(np.load(cache)) == 4
    monkeypatch.undo()
    touch(photos / "train/cat/002.png")
    assert check_images(files, cache).changed == ["train/cat/002.png"]


def deep(path: Path, highest: int) -> None:
    Image.fromarray(np.linspace(0, highest, 64).round().astype(np.uint16).reshape(8, 8)).save(path)


def test_dark_images_are_said_when_they_are_read(photos, cache, caplog):
    deep(photos / "train/cat/000.png", 4095)
    deep(photos / "train/cat/001.png", 1023)
    deep(photos / "test/dog/000.png", 65535)
    (line,) = verify(photos, cache, caplog)
    assert line == (
        "2 images end at 4,095 of 65,535, nearly black: train/cat/000.png, train/cat/001.png; if white is 4,095, write "
        "value_range: [0, 4095] below `dataset:`"
    )
    assert verify(photos, cache, caplog) == []
    cache.unlink()
    assert verify(photos, cache, caplog, value_range=[0, 4095]) == []


def test_what_check_has_said_reading_them_all_does_not_repeat(photos, tmp_path, caplog):
    for number in range(3):
        deep(photos / f"train/dog/{number:03d}.png", 4000)
    data = settings(tmp_path, dataset="image_folder", data_dir=str(photos), active={"initial": {"name": "random", "size": 2}, "budget": 2})
    parts = build_parts(config_of(data))
    say_remarks(parts)
    parts["dataset"].verify()
    assert caplog.text.count("3 images end at 4,000 of 65,535") == 1
    caplog.clear()
    say_remarks(build_parts(config_of({**data, "dataset": {"name": "image_folder", "value_range": [0, 4095]}})))
    assert "nearly black" not in caplog.text


@pytest.mark.parametrize("replaced", [{"value_range": [5, 1]}, {"background": "#fff0"}])
def test_wrong_keys_are_one_line_of_check(photos, tmp_path, capsys, replaced):
    data = settings(tmp_path, dataset={"name": "image_folder", **replaced}, data_dir=str(photos))
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(data))
    assert cli.main(["check", str(tmp_path / "c.yaml")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"usb-active: error: {tmp_path / 'c.yaml'}: dataset.{next(iter(replaced))}: must be ")


def test_images_replaced_while_a_run_trains_are_named_at_the_next_query(tmp_path, monkeypatch, caplog):
    """Once each, and not only at the next start."""
    photos = write_folder(tmp_path / "photos", {"train/cat": 20, "train/dog": 20})
    active = {"initial": {"name": "random", "size": 6}, "acquisition": {"name": "random"}, "budget": 4, "cycles": 2}
    data = run_helpers.settings(tmp_path, dataset="image_folder", data_dir=str(photos), num_train_iter=2, num_eval_iter=2, active=active)
    training = Session._training

    def replacing(session, cycle):
        training(session, cycle)
        if cycle == 0:
            write_image(photos / "train/cat/003.png", picture(999, 9))
            caplog.clear()

    monkeypatch.setattr(Session, "_training", replacing)
    run_helpers.train(data)
    assert caplog.text.count(f"1 image {SAID}train/cat/003.png") == 1 == caplog.text.count(SAID)
