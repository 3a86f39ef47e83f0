"""Files that survive: written whole or not at all, by one process at a time; a bad disk gives one line."""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from usb_active.errors import UsageError

try:
    import fcntl
except ModuleNotFoundError:  # Windows; `check_locks` says so
    fcntl = None

# Lock files this process holds, as (device, inode): POSIX locks do not conflict within one process, and
# closing a second descriptor of the file would release the first one's lock.
_held: set[tuple[int, int]] = set()
# How often a lock is tried for, and the seconds between: who only looks at it (`lock_holder`) has it for a moment.
_TRIES, _PAUSE = 10, 0.05
# How the refusal of a lock begins; who starts runs knows it by this in their logs.
REFUSED_LOCK = "another process (pid "


@contextmanager
def no_os_error(doing: str, path: Path) -> Iterator[None]:
    """Turns an OSError, which the user can mend, into one line: `cannot {doing} {path}: {reason}`."""
    try:
        yield
    except OSError as error:
        raise UsageError(f"cannot {doing} {path}: {error.strerror or error}") from error


def sync_folder(folder: Path) -> None:
    """Make renames and new names in a folder survive a power cut."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    except OSError as error:
        # Some network file systems cannot sync a folder and say so; they order the rename themselves.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(fd)


def make_folder(folder: Path) -> None:
    """Make a folder and its parents, durably; fine if it is there. UsageError when it cannot be made."""
    with no_os_error("make the folder", folder):
        missing = [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        for path in missing:
            sync_folder(path.parent)


def atomic_write(path: Path, writer: Callable[[BinaryIO], Any], *, durable: bool = True) -> None:
    """Write a file whole or not at all: `writer(file)` fills a temporary neighbour that then takes the name.

    Args:
        path: the file; what stood there before stays until the new content is complete.
        writer: called with a binary file.
        durable: survive a power cut as well (fsync); False for many files that can be made again.

    Raises:
        UsageError: one line, path and reason (disk full, read-only, forbidden). Nothing is left behind.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with no_os_error("write", path):
        try:
            with open(temporary, "wb") as file:
                writer(file)
                file.flush()
                if durable:
                    os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        if durable:
            sync_folder(path.parent)


def remove_leftovers(folder: Path) -> None:
    """Remove what killed `atomic_write`s left in a folder and below it; nothing else may be writing there."""
    with no_os_error("clean up", folder):
        for path in folder.rglob(".*.tmp"):
            # `.name.pid.tmp`, as atomic_write calls them.
            if path.suffixes[-2:-1] and path.suffixes[-2][1:].isdigit():
                path.unlink()


def write_all(fd: int, data: bytes) -> None:
    """`os.write` until all is written: it may write less than it is given."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def reserve(fd: int, size: int) -> None:
    """Make an open file this long, with all of its space taken on the disk. OSError when there is not enough.

    Whoever writes through a memory map of a file with holes is killed (SIGBUS) where the disk has no block left for one.
    """
    allocate = getattr(os, "posix_fallocate", None)
    if allocate is not None:
        try:
            return allocate(fd, 0, size)
        except OSError as error:
            # File systems that cannot reserve say so; zeros take the space as well.
            if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS):
                raise
    zeros = bytes(2**20)
    for start in range(os.lseek(fd, 0, os.SEEK_END), size, len(zeros)):
        write_all(fd, zeros[: size - start])


def read_bytes(path: Path) -> bytes | None:
    """The content, None where there is no file. UsageError when there is one that cannot be read."""
    with no_os_error("read", path):
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return None


def dump_json(value: Any) -> bytes:
    """One line of ASCII JSON, numpy's numbers and arrays included."""
    return (json.dumps(value, default=_plain) + "\n").encode("ascii")


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def parse_json(where: Path | str, data: bytes, remedy: str) -> Any:
    """The object in `data`. UsageError names the file, what is wrong with it and what to do."""
    try:
        return json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:  # what JSON or UTF-8 does not allow, a number of 5,000 digits; a deep nesting
        raise UsageError(f"{where} is damaged ({error}); {remedy}") from error


def check_locks() -> None:
    """UsageError where the system has no POSIX file locks."""
    if fcntl is None:
        raise UsageError("runs need POSIX file locks, which this system lacks; on Windows, use WSL (Linux is tested, macOS is not)")


def take_lock(path: Path) -> int:
    """Lock a file for the life of this process; the descriptor that holds the lock.

    A POSIX record lock: workers made by fork do not inherit it, so it ends with the process that took it. It
    also ends when ANY descriptor of the file is closed in this process: nothing else may open the file.

    Raises:
        UsageError: this or another process (its pid is named) holds it; the file cannot be made; the system has no such locks.
    """
    check_locks()
    with no_os_error("lock", path):
        if path.exists() and _identity(path.stat()) in _held:
            raise UsageError(f"this process (pid {os.getpid()}) already uses {path.parent}; close it first")
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _lock(fd, path)
        except BaseException:
            os.close(fd)
            raise
        _held.add(_identity(os.fstat(fd)))
        return fd


def lock_holder(path: Path) -> str | None:
    """Who holds the lock of a file now: the pid, as the holder wrote it; None where nobody does. The lock is left as it is.

    To look at it is to hold it for microseconds; whoever wants it at that moment tries again (`take_lock`).
    """
    check_locks()
    with no_os_error("look at the lock", path):
        if not path.exists():
            return None
        if _identity(path.stat()) in _held:
            # Closing a descriptor of the file would give the lock back.
            return str(os.getpid())
        fd = os.open(path, os.O_RDWR)
        try:
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise
            return _written_pid(fd)
        finally:
            os.close(fd)
    return None


def release_lock(fd: int) -> None:
    """Give it back. The file stays: removing it would let two processes lock two different files."""
    _held.discard(_identity(os.fstat(fd)))
    os.close(fd)


def _identity(state: os.stat_result) -> tuple[int, int]:
    return state.st_dev, state.st_ino


def _lock(fd: int, path: Path) -> None:
    for left in reversed(range(_TRIES)):
        try:
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise
            if not left:
                raise UsageError(f"{REFUSED_LOCK}{_written_pid(fd)}) uses {path.parent}; wait for it or stop it") from error
            time.sleep(_PAUSE)
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)


def _written_pid(fd: int) -> str:
    return os.pread(fd, 20, 0).decode("ascii", "replace").strip() or "unknown"
