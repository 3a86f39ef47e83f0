"""Arrays kept on disk: what is written comes back, whole or not at all, and never as a pickle."""

from __future__ import annotations

import errno

import numpy as np
import pytest

from usb_active import UsageError
from usb_active.storage.artifacts import load_array, load_artifact, save_artifact
from usb_active.testing.pool import World


@pytest.mark.parametrize("value", [np.arange(6.0).reshape(2, 3), np.zeros((0, 4), np.float32), np.array(["a", "bc"]), [1, 2]])
def test_an_array_comes_back(tmp_path, value):
    save_artifact(tmp_path / "deep" / "one.of.several", value)
    found = load_artifact(tmp_path / "deep" / "one.of.several")
    assert found.dtype == np.asarray(value).dtype and np.array_equal(found, value)
    with pytest.raises(ValueError, match="read-only"):
        found[...] = found.dtype.type()


def test_several_arrays_come_back(tmp_path):
    given = {"idx": np.array([3, 1]), "labels": np.array([0, 2])}
    save_artifact(tmp_path / "several", given)
    found = load_artifact(tmp_path / "several")
    assert found.keys() == given.keys() and all(np.array_equal(found[name], given[name]) for name in given)


def test_what_was_never_kept_is_none(tmp_path):
    assert load_artifact(tmp_path / "nothing") is None


@pytest.mark.parametrize("value", [np.array([{}, None]), {"fine": np.zeros(2), "bad": np.array([object()])}])
def test_python_objects_are_refused_before_anything_is_written(tmp_path, value):
    with pytest.raises(UsageError, match="kept: an array of python objects"):
        save_artifact(tmp_path / "kept", value)
    assert not list(tmp_path.iterdir())


def test_a_pickle_from_elsewhere_is_not_read(tmp_path):
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(UsageError, match="objects.npy: not a readable .npy array"):
        load_array(tmp_path / "objects.npy")
    np.savez(tmp_path / "several.npz", idx=np.array([{}]))
    with pytest.raises(UsageError, match="several.npz: not a readable .npz archive"):
        load_artifact(tmp_path / "several")


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
@pytest.mark.parametrize("keep", [0, 4, 100])
def test_a_damaged_file_is_named_in_one_line(tmp_path, suffix, keep):
    save_artifact(tmp_path / "kept", np.arange(100.0) if suffix == ".npy" else {"a": np.arange(100.0)})
    path = tmp_path / f"kept{suffix}"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UsageError, match=f"kept{suffix}: not a readable") as error:
        load_artifact(tmp_path / "kept")
    assert "\n" not in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UsageError, match="gone.npy: no such file"):
        load_array(tmp_path / "gone.npy")


def test_a_failed_write_leaves_the_old_array(tmp_path, monkeypatch):
    save_artifact(tmp_path / "kept", np.arange(3))

    def full(fd):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UsageError, match="kept.npy.*No space left on device"):
        save_artifact(tmp_path / "kept", np.arange(4))
    assert load_artifact(tmp_path / "kept").tolist() == [0, 1, 2]
    assert [path.name for path in tmp_path.iterdir()] == ["kept.npy"]


# ---------------------------------------------------------------------------------------------- through a view


def test_a_view_makes_an_artifact_once_a_run(tmp_path):
    world, made = World(tmp_path), []

    def make():
        made.append(1)
        return np.full(3, len(made))

    assert world.view([]).artifact("key", make).tolist() == [1, 1, 1]
    # Another role, another cycle: the same run.
    assert world.view([], cycle=2, role="prior").artifact("key", make).tolist() == [1, 1, 1]
    assert World(tmp_path / "other").view([]).artifact("key", make).tolist() == [2, 2, 2]


def test_scratch_belongs_to_a_cycle_and_stays(tmp_path):
    world = World(tmp_path)
    (world.view([], cycle=1).scratch / "state").write_text("half done")
    assert (world.view([], cycle=1, role="prior").scratch / "state").read_text() == "half done"
    assert not list(world.view([], cycle=2).scratch.iterdir())


@pytest.mark.parametrize("role", ["acquisition", "prior/start@0", "acquisition@12"])
def test_large_outputs_of_the_model_are_mapped_files_with_the_same_values(tmp_path, monkeypatch, role):
    world = World(tmp_path)
    probs = np.array(world.view(["probs"], role=role).probs)
    # Above 0.5 kB means in a file: 60 samples of 3 classes are 720 bytes.
    monkeypatch.setattr("usb_active.pool.view.MEMORY_LIMIT", 512)
    mapped = world.view(["probs"], role=role).probs
    assert isinstance(mapped, np.memmap) and np.array_equal(mapped, probs)
    assert [path.suffix for path in (tmp_path / "scratch" / "cycle_001").iterdir()] == [".npy"]
