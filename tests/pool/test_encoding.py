"""Features of many images by an encoder: the same however often it was cut short, and never computed twice."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from usb_active.contracts.features import Encoder
from usb_active.errors import UsageError
from usb_active.pool import encoding
from usb_active.pool.encoding import Encoding

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


def made(encoder, rows=10, width=WIDTH):
    return Encoding(encoder, IMAGES.__getitem__, rows, width, "features: made", torch.device("cpu"))


def test_they_are_those_of_each_image(tmp_path):
    features = made(Counted()).keep(tmp_path / "artifacts", "made")
    np.testing.assert_allclose(features, EXPECTED[:10], rtol=1e-5)
    assert features.dtype == np.float32 and [path.name for path in (tmp_path / "artifacts").iterdir()] == ["made_10.npy"]


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


def test_half_a_row_that_a_power_cut_left_is_made_again(tmp_path):
    with pytest.raises(Stopped):
        made(Counted(8)).keep(tmp_path, "made")
    with open(tmp_path / "made.partial", "ab") as file:
        file.write(b"\x01" * 7)
    np.testing.assert_allclose(made(Counted()).keep(tmp_path, "made"), EXPECTED[:10], rtol=1e-5)


def test_of_a_pool_that_has_grown_only_the_new_ones_are_made(tmp_path):
    for rows in (10, 14, 27):
        made(Counted(), rows).keep(tmp_path, "made")
    encoder = Counted()
    np.testing.assert_allclose(made(encoder, 30).keep(tmp_path, "made"), EXPECTED, rtol=1e-5)
    # The last batch of the 27 was not a whole one.
    assert encoder.shown == 30 - 24


def test_arrays_of_others_are_not_taken_for_a_beginning(tmp_path):
    np.save(tmp_path / "made_test_5.npy", np.zeros((5, WIDTH), np.float32))
    np.save(tmp_path / "made_6.npy", np.zeros((6, WIDTH + 1), np.float32))
    np.save(tmp_path / "made_40.npy", np.zeros((40, WIDTH), np.float32))
    encoder = Counted()
    np.testing.assert_allclose(made(encoder).keep(tmp_path, "made"), EXPECTED[:10], rtol=1e-5)
    assert encoder.shown == 10


def test_samples_that_are_not_finite_are_named_and_not_kept(tmp_path):
    with pytest.raises(UsageError, match="^features: made: not finite for samples 5, 7$"):
        made(Counted(spoilt=(5, 7))).keep(tmp_path, "made")
    np.testing.assert_allclose(made(Counted()).keep(tmp_path, "made"), EXPECTED[:10], rtol=1e-5)


def test_another_width_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"^features: made: expected \(B, 4\) for a batch, got \(4, 3\)$"):
        made(Counted(), width=4).keep(tmp_path, "made")


def test_a_full_disk_gives_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(encoding, "atomic_write", lambda path, writer: writer(open("/dev/full", "wb", buffering=0)))
    with pytest.raises(UsageError, match=r"^cannot write .*made\.partial: No space left on device$"):
        made(Counted()).keep(tmp_path, "made")
