"""Arrays kept on disk: `.npy` for one, `.npz` for several, never pickled."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from usb_active.errors import UsageError
from usb_active.storage.durable import no_os_error, reserve
from usb_active.storage.run_dir import atomic_write, make_folder


def save_artifact(path: Path, value: np.ndarray | dict[str, np.ndarray]) -> None:
    """Write an array as `path`.npy, or a dict of arrays as `path`.npz, atomically."""
    make_folder(path.parent)
    arrays = value if isinstance(value, dict) else {"": value}
    for name, array in arrays.items():
        if np.asarray(array).dtype.hasobject:
            raise UsageError(f"{path}: an array of python objects ({name or 'the only one'}) could not be read back")
    if isinstance(value, dict):
        atomic_write(path.with_name(path.name + ".npz"), lambda file: np.savez(file, **value))
    else:
        atomic_write(path.with_name(path.name + ".npy"), lambda file: np.save(file, np.asarray(value), allow_pickle=False))


def new_map(path: Path, shape: tuple[int, ...], dtype: type[np.generic] = np.float32) -> np.memmap:
    """A new `.npy` file at `path`, all zeros, mapped for writing. UsageError when the disk has no room for all of it."""
    kind = np.dtype(dtype)
    header = {"descr": np.lib.format.dtype_to_descr(kind), "fortran_order": False, "shape": shape}
    with no_os_error("write", path):
        # Never written over: a map of the old file keeps its own data.
        path.unlink(missing_ok=True)
        try:
            with open(path, "xb") as file:
                np.lib.format.write_array_header_1_0(file, header)
                file.flush()
                reserve(file.fileno(), file.tell() + math.prod(shape) * kind.itemsize)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return np.lib.format.open_memmap(path, mode="r+")


def load_artifact(path: Path) -> np.ndarray | dict[str, np.ndarray] | None:
    """What `save_artifact` wrote (one array: mapped, read-only), or None."""
    single, several = path.with_name(path.name + ".npy"), path.with_name(path.name + ".npz")
    if single.is_file():
        return load_array(single)
    if several.is_file():
        return _load_archive(several)
    return None


def _load_archive(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except Exception as error:  # whatever a damaged file provokes: its headers are Python literals, an archive is a zip file
        raise UsageError(f"{path}: not a readable .npz archive ({error}); remove it to make it again") from None


def load_array(path: Path) -> np.ndarray:
    """A `.npy` file, mapped read-only. UsageError when it is missing, damaged, or holds python objects."""
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file") from None
    except Exception as error:  # whatever a damaged file provokes: its headers are Python literals, an archive is a zip file
        raise UsageError(f"{path}: not a readable .npy array ({' '.join(str(error).split())})") from None


def check_array(path: Path, array: object, kinds: str, shape: tuple[int | None, ...], remedy: str) -> np.ndarray:
    """The array, when it is one of these kinds (numpy's letters) and of this shape, None for any length. UsageError names the file."""
    expected = f"({', '.join('any' if length is None else str(length) for length in shape)})"
    if not isinstance(array, np.ndarray):
        raise UsageError(f"{path} is damaged (not one array of shape {expected}); {remedy}")
    fits = len(array.shape) == len(shape) and all(want in (None, has) for want, has in zip(shape, array.shape, strict=True))
    if array.dtype.kind not in kinds or not fits:
        raise UsageError(f"{path} is damaged ({array.dtype} of shape {array.shape}, must be of shape {expected}); {remedy}")
    return array
