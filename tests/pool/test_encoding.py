"""Features of many images by an encoder: the same however often it was cut short, and never computed twice."""

from __future__ import annotations

import io
import os
from dataclasses import replace

import numpy as np
import pytest
import torch

from usb_active.contracts.features import Encoder
from usb_active.errors import UsageError
from usb_active.pool import encoding
from usb_active.pool.encoding import Encoding, image_stamps

WIDTH, BATCH = 3, 4
RNG = np.random.default_rng(0)
IMAGES = torch.from_numpy(RNG.normal(size=(30, 2, 2)).astype(np.float32))
WEIGHTS = torch.from_numpy(RNG.normal(size=(4, WIDTH)).astype(np.float32))
EXPECTED = (IMAGES.flatten(1) @ WEIGHTS).numpy()


class Stopped(Exception):
    """Somebody pulled the plug."""


class Counted:
    """An encoder that remembers how many images it was shown, and may be stopped at one."""

    def __init__(self, stop_after=None, spoilt=()):
        self.shown, self.stop_after, self.spoilt = 0, stop_after, spoilt

    def __call__(self):
        return Encoder(torch.as_tensor, self.encode, BATCH)

    def encode(self, batch):
        if self.stop_after is not None and self.shown + len(batch) > self.stop_after:
            raise Stopped
        rows = range(self.shown, self.shown + len(batch))
        self.shown += len(batch)
        made = batch.flatten(1) @ WEIGHTS
        for place, row in enumerate(rows):
            if row in self.spoilt:
                made[place, 0] = float("nan")
        return made


STAMPS = image_stamps([f"key {row}" for row in range(40)], lambda row: None)


def made(encoder, rows=10, width=WIDTH, stamps=None, identity="one"):
    stamps = STAMPS[:rows] if stamps is None else stamps
    return Encoding(encoder, identity, IMAGES.__getitem__, stamps, width, "features: made", torch.device("cpu"))


def test_they_are_those_of_each_image(tmp_path):
    features = made(Counted()).keep(tmp_path / "artifacts", "made")
    np.testing.assert_allclose(features, EXPECTED[:10], rtol=1e-5)
    assert features.dtype == np.float32
    assert sorted(path.name for path in (tmp_path / "artifacts").iterdir()) == ["made_10.npy", "made_10.stamps"]


def test_they_are_kept(tmp_path):
    first = np.array(made(Counted()).keep(tmp_path, "made"))
    never = Counted(stop_after=0)
    assert np.array_equal(made(never).keep(tmp_path, "made"), first)


@pytest.mark.parametrize("stop_after", [0, 4, 7, 8, 10])
def test_cut_short_they_go_on_where_they_were(tmp_path, stop_after, monkeypatch):
    monkeypatch.setattr(encoding, "_SECONDS_BETWEEN_WRITES", -1)
    with pytest.raises(Stopped):
        made(Counted(stop_after), 11).keep(tmp_path, "made")
    assert not (tmp_path / "made_11.npy").exists()
    rest = Counted()
    assert np.array_equal(made(rest, 11).keep(tmp_path, "made"), made(Counted(), 11).keep(tmp_path / "whole", "made"))
    assert rest.shown == 11 - stop_after // BATCH * BATCH


def test_half_a_row_that_a_power_cut_left_is_made_again(tmp_path, monkeypatch):
    monkeypatch.setattr(encoding, "_SECONDS_BETWEEN_WRITES", -1)
    with pytest.raises(Stopped):
        made(Counted(8)).keep(tmp_path, "made")
    with open(tmp_path / "made.partial", "ab") as file:
        file.write(b"\x01" * 7)
    rest = Counted()
    np.testing.assert_allclose(made(rest).keep(tmp_path, "made"), EXPECTED[:10], rtol=1e-5)
    assert rest.shown == 2


@pytest.mark.parametrize("lost", ["cut", "unsaid"])
def test_what_may_not_have_reached_the_disk_is_made_again(tmp_path, lost, monkeypatch):
    monkeypatch.setattr(encoding, "_SECONDS_BETWEEN_WRITES", -1 if lost == "cut" else 1000)
    with pytest.raises(Stopped):
        made(Counted(8)).keep(tmp_path, "made")
    if lost == "cut":
        os.truncate(tmp_path / "made.partial", 4 * WIDTH * 6)
    rest = Counted()
    np.testing.assert_allclose(made(rest).keep(tmp_path, "made"), EXPECTED[:10], rtol=1e-5)
    assert rest.shown == 10


def test_another_encoder_goes_on_with_nothing(tmp_path, monkeypatch):
    """Weights that were replaced while a computation was interrupted, or after it."""
    monkeypatch.setattr(encoding, "_SECONDS_BETWEEN_WRITES", -1)
    with pytest.raises(Stopped):
        made(Counted(8)).keep(tmp_path, "made")
    for identity in ("two", "three"):
        encoder = Counted()
        made(encoder, identity=identity).keep(tmp_path, "made")
        assert encoder.shown == 10, identity


def test_of_a_pool_that_has_grown_only_the_new_ones_are_made(tmp_path):
    shown = []
    for rows in (10, 14, 27, 30):
        before = [np.array(np.load(path)) for path in tmp_path.glob("*.npy")]
        encoder = Counted()
        features = made(encoder, rows).keep(tmp_path, "made")
        np.testing.assert_allclose(features, EXPECTED[:rows], rtol=1e-5)
        # To the last bit, whatever is beside it in a batch now.
        assert all(np.array_equal(features[: len(array)], array) for array in before)
        shown.append(encoder.shown)
    assert shown == [10, 4, 13, 3]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made_30.npy", "made_30.stamps"]


def test_images_that_were_replaced_or_moved_up_are_told_by_their_stamps(tmp_path):
    """Test samples are sorted anew at every start: a new one may stand in the middle."""
    made(Counted(), 10).keep(tmp_path, "made")
    replaced = STAMPS[:10].copy()
    replaced[[2, 5]] = STAMPS[[35, 36]]
    encoder = Counted()
    np.testing.assert_allclose(made(encoder, stamps=replaced).keep(tmp_path, "made"), EXPECTED[:10], rtol=1e-5)
    assert encoder.shown == 2
    order = np.array([0, 1, 20, 2, 3, 4])
    images = IMAGES[order]
    encoder = Counted()
    stamps = np.insert(replaced[:5], 2, STAMPS[20])
    later = replace(made(encoder, stamps=stamps), load=images.__getitem__)
    np.testing.assert_allclose(later.keep(tmp_path, "made"), EXPECTED[order], rtol=1e-5)
    assert encoder.shown == 1


def test_a_stamp_follows_from_the_key_and_the_file(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"one")
    files = [lambda row: None, lambda row: path, lambda row: tmp_path / "gone.png"]
    first = [image_stamps(["a", "b"], file).tolist() for file in files]
    assert len({stamp for stamps in first for stamp in stamps}) == 6
    assert [image_stamps(["a", "b"], file).tolist() for file in files] == first
    path.write_bytes(b"other")
    assert image_stamps(["a"], files[1])[0] != first[1][0]


def test_an_array_of_version_0_1_0_has_no_stamps_and_is_taken_as_it_is(tmp_path):
    np.save(tmp_path / "made_10.npy", np.ones((10, WIDTH), np.float32))
    assert (made(Counted(stop_after=0)).keep(tmp_path, "made") == 1).all()


def test_arrays_of_others_are_not_taken_for_these(tmp_path):
    np.save(tmp_path / "made_test_5.npy", np.zeros((5, WIDTH), np.float32))
    np.save(tmp_path / "made_6.npy", np.zeros((6, WIDTH + 1), np.float32))
    np.save(tmp_path / "made_40.npy", np.zeros((40, WIDTH), np.float32))
    encoder = Counted()
    np.testing.assert_allclose(made(encoder).keep(tmp_path, "made"), EXPECTED[:10], rtol=1e-5)
    assert encoder.shown == 10 and len(list(tmp_path.glob("*.npy"))) == 4


def test_samples_that_are_not_finite_are_named_and_not_kept(tmp_path):
    with pytest.raises(UsageError, match="^features: made: not finite for samples 5, 7$"):
        made(Counted(spoilt=(5, 7))).keep(tmp_path, "made")
    np.testing.assert_allclose(made(Counted()).keep(tmp_path, "made"), EXPECTED[:10], rtol=1e-5)


def test_another_width_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"^features: made: expected \(B, 4\) for a batch, got \(4, 3\)$"):
        made(Counted(), width=4).keep(tmp_path, "made")


def test_a_full_disk_gives_one_line(tmp_path, monkeypatch):
    class Full(io.BytesIO):
        def write(self, data):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(encoding, "open", lambda path, mode: Full(), raising=False)
    with pytest.raises(UsageError, match=r"^cannot write .*made\.partial: No space left on device$"):
        made(Counted()).keep(tmp_path, "made")


def test_an_error_of_an_image_is_not_one_of_the_disk(tmp_path):
    def load(row):
        raise FileNotFoundError(2, "No such file", "image.png")

    with pytest.raises(FileNotFoundError, match="image.png"):
        replace(made(Counted()), load=load).keep(tmp_path, "made")
