"""Arrays that are mapped for writing: their space is on the disk before anyone writes through the map."""

from __future__ import annotations

import errno
import os
import resource
import signal

import numpy as np
import pytest

from usb_active.errors import UsageError
from usb_active.pool import view
from usb_active.storage import artifacts, durable
from usb_active.storage.artifacts import load_array, new_map

SHAPE = (3000, 100)
SIZE = 3000 * 100 * 4


def refuse(code):
    def posix_fallocate(fd, offset, length):
        raise OSError(code, os.strerror(code))

    return posix_fallocate


def test_zeros_that_can_be_written_and_read_back(tmp_path):
    path = tmp_path / "x.npy"
    array = new_map(path, SHAPE)
    assert array.dtype == np.float32 and array.shape == SHAPE and not array.any()
    assert path.stat().st_blocks * 512 >= SIZE, "not a file with holes"
    array[:] = 2.5
    array.flush()
    assert np.array_equal(load_array(path), np.full(SHAPE, 2.5, dtype=np.float32))


def test_a_map_of_the_old_file_keeps_its_data(tmp_path):
    old = new_map(tmp_path / "x.npy", (4, 2))
    old[:] = 1
    new_map(tmp_path / "x.npy", (4, 2))[:] = 3
    assert (old == 1).all()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, monkeypatch, code):
    monkeypatch.setattr(os, "posix_fallocate", refuse(code))
    with pytest.raises(UsageError) as caught:
        new_map(tmp_path / "x.npy", SHAPE)
    assert str(caught.value) == f"cannot write {tmp_path / 'x.npy'}: {os.strerror(code)}"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("code", [errno.EINVAL, errno.EOPNOTSUPP, None])
def test_file_systems_that_cannot_reserve_are_written_full_of_zeros(tmp_path, monkeypatch, code):
    if code is None:
        monkeypatch.delattr(os, "posix_fallocate")
    else:
        monkeypatch.setattr(os, "posix_fallocate", refuse(code))
    array = new_map(tmp_path / "x.npy", SHAPE)
    assert not array.any() and (tmp_path / "x.npy").stat().st_blocks * 512 >= SIZE
    assert (tmp_path / "x.npy").stat().st_size == load_array(tmp_path / "x.npy").nbytes + 128


@pytest.mark.parametrize("reserved", [True, False])
def test_a_limit_of_the_process_is_one_line_as_well(tmp_path, monkeypatch, reserved):
    if not reserved:
        monkeypatch.delattr(os, "posix_fallocate")
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**18, limits[1]))
    try:
        with pytest.raises(UsageError, match=r"cannot write .*x\.npy: File too large"):
            new_map(tmp_path / "x.npy", SHAPE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert not list(tmp_path.iterdir())


def test_what_a_view_maps_is_reserved(tmp_path, monkeypatch):
    """The outputs of the model for a pool beyond the limit of memory."""
    asked = []
    monkeypatch.setattr(durable.os, "posix_fallocate", lambda fd, offset, length: asked.append(length) or os.ftruncate(fd, length))
    monkeypatch.setattr(view, "MEMORY_LIMIT", 100)
    owner = type("View", (), {"_role": "acquisition@7", "scratch": tmp_path})()
    array = view.PoolView._allocate(owner, "probs", SHAPE)
    assert asked == [SIZE + 128] and array.shape == SHAPE and (tmp_path / "acquisition_probs.npy").exists()
    assert artifacts.load_array(tmp_path / "acquisition_probs.npy").shape == SHAPE
