"""Features of many images by an encoder that does not change: kept as they are made, so that no image is encoded twice.

Beside an array of features lies a *stamp* of each row: a number that follows from the image's key and, where it is a file, from its size
and date. Rows whose stamps are known are taken over, wherever they stood: what is encoded are images that are new, or were replaced.
"""

from __future__ import annotations

import glob
import hashlib
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from usb_active.contracts.features import Encoder
from usb_active.errors import UsageError, name_some
from usb_active.numerics.arrays import nonfinite_rows
from usb_active.pool.sampling import Batch, SequentialSampler, TravellingRows, make_loader
from usb_active.storage.artifacts import load_array
from usb_active.storage.durable import atomic_write, dump_json, make_folder, no_os_error, parse_json, read_bytes

logger = logging.getLogger("usb_active")

# A crash costs at most what is computed in so many seconds.
_SECONDS_BETWEEN_WRITES = 10.0
# Beyond so many seconds, it is said what took them.
_LONG = 5.0
_ROWS_COPIED_AT_ONCE = 1024


@dataclass
class EncoderRows(TravellingRows):
    """Images as tensors for an encoder: batches (B, channels, height, width) of the samples `idx`."""

    load: Callable[[int], Any]
    transform: Callable[[Any], torch.Tensor]
    idx: np.ndarray

    def __len__(self) -> int:
        return len(self.idx)

    def __getitems__(self, batch: Batch) -> torch.Tensor:
        return torch.stack([self.transform(self.load(int(self.idx[row]))) for row in batch[1]])


def _as_it_is(batch: Any) -> Any:
    return batch


@dataclass(frozen=True)
class Encoding:
    """One array of features that is to be made, and how.

    Attributes:
        encoder: made when there is something left to be encoded.
        identity: a text that is another one where the encoder is another one; None: it is not to be had, and what is kept must do.
        load: row → undecorated sample.
        stamps: (N,) uint64, of the images; see `image_stamps`.
        width: D.
        what: the features' name, for messages ("features: timm: 'resnet18'").
        device: where the encoder computes.
        num_workers: processes that load images.
    """

    encoder: Callable[[], Encoder]
    identity: str | None
    load: Callable[[int], Any]
    stamps: np.ndarray
    width: int
    what: str
    device: torch.device
    num_workers: int = 0

    def keep(self, folder: Path, stem: str) -> np.ndarray:
        """(N, D) float32, mapped read-only: from `folder`/`stem`_N.npy, which is made if it is not there, or of other images.

        A computation that was cut short goes on with the batch that it had on disk.

        Raises:
            UsageError: features that are not finite (names the samples), of another width, or a disk without room.
        """
        path, partial = folder / f"{stem}_{len(self.stamps)}.npy", folder / f"{stem}.partial"
        found = _Kept(path)
        # Runs of version 0.1.0 kept no stamps.
        is_known = self.identity is None or found.stamps is None or np.array_equal(found.stamps, self._stamps)
        if not found.exists or not is_known:
            make_folder(folder)
            self._make(path, partial, self._earlier(folder, stem))
        for leftover in (partial, _progress_file(partial)):
            leftover.unlink(missing_ok=True)
        return load_array(path)

    @cached_property
    def _stamps(self) -> np.ndarray:
        """(N,) of rows: of the image and of what encodes it."""
        return self.stamps ^ np.uint64(_number(self.identity or ""))

    def _earlier(self, folder: Path, stem: str) -> list[_Kept]:
        """Arrays of these features that are kept, of other numbers of images too."""
        found = []
        for path in folder.glob(f"{glob.escape(stem)}_*.npy"):
            kept = _Kept(path)
            if path.stem.removeprefix(f"{stem}_").isdigit() and kept.stamps is not None and load_array(path).shape[1:] == (self.width,):
                found.append(kept)
        return found

    def _make(self, path: Path, partial: Path, earlier: Sequence[_Kept]) -> None:
        sources = [_Rows(load_array(kept.path), places_of(kept.stamps, self._stamps)) for kept in earlier]
        known = np.zeros(len(self._stamps), dtype=bool)
        for rows in sources:
            known |= rows.places >= 0
        todo = np.flatnonzero(~known)
        if len(todo):
            self._encode(partial, todo)
            made = np.full(len(self._stamps), -1, dtype=np.int64)
            made[todo] = np.arange(len(todo))
            with no_os_error("read", partial):
                sources.append(_Rows(np.memmap(partial, dtype="<f4", mode="r", shape=(len(todo), self.width)), made))
        atomic_write(path, lambda file: self._assemble(file, sources))
        # After the array: without its stamps, it would be taken for one of version 0.1.0.
        _Kept(path).save_stamps(self._stamps)
        for kept in earlier:
            if kept.path != path:
                kept.remove()

    def _assemble(self, file: BinaryIO, sources: Sequence[_Rows]) -> None:
        size = len(self._stamps)
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (size, self.width)})
        for start in range(0, size, _ROWS_COPIED_AT_ONCE):
            block = np.empty((min(_ROWS_COPIED_AT_ONCE, size - start), self.width), dtype="<f4")
            for rows in sources:
                places = rows.places[start : start + len(block)]
                there = places >= 0
                block[there] = rows.array[places[there]]
            file.write(block.tobytes())

    # ------------------------------------------------------------------------------------------ the computation
    def _encode(self, partial: Path, todo: np.ndarray) -> None:
        encoder = self.encoder()
        progress = {"images": _digest(self._stamps[todo]), "width": self.width, "batch_size": encoder.batch_size}
        with no_os_error("write", partial):
            file = open(partial, "a+b")  # noqa: SIM115 — closed below: errors of images in between are not of this file
        try:
            done = _take_up(file, partial, progress, 4 * self.width)
            if done < len(todo):
                self._append(file, partial, encoder, todo, done, progress)
        finally:
            file.close()

    def _append(
        self, file: BinaryIO, partial: Path, encoder: Encoder, todo: np.ndarray, done: int, progress: dict[str, Any]
    ) -> None:
        began, written, first = time.monotonic(), time.monotonic(), done
        sampler = SequentialSampler(len(todo), encoder.batch_size, done // encoder.batch_size)
        with _bar(self.what, len(todo), done) as advance:
            for batch in make_loader(EncoderRows(self.load, encoder.transform, todo), sampler, self.num_workers, _as_it_is):
                features = encode(encoder, batch, self.device)
                self._check(features, todo[done : done + len(features)])
                with no_os_error("write", partial):
                    file.write(features.astype("<f4", copy=False).tobytes())
                done += len(features)
                advance(len(features))
                if time.monotonic() - written > _SECONDS_BETWEEN_WRITES or done == len(todo):
                    _sync(file, partial, {**progress, "rows": done})
                    written = time.monotonic()
        seconds = time.monotonic() - began
        if seconds > _LONG:
            logger.info("%s: %d images in %.0f s, kept with the run", self.what, done - first, seconds)

    def _check(self, features: np.ndarray, idx: np.ndarray) -> None:
        if features.ndim != 2 or features.shape[1] != self.width:
            raise UsageError(f"{self.what}: expected (B, {self.width}) for a batch, got {features.shape}")
        bad = nonfinite_rows(features)
        if len(bad):
            raise UsageError(f"{self.what}: not finite for samples {name_some(idx[bad])}")


@dataclass(frozen=True)
class _Rows:
    """Rows that are there: `places` (N,) says where in `array` a row of the whole is, -1 where it is not."""

    array: np.ndarray
    places: np.ndarray


@dataclass(frozen=True)
class _Kept:
    """An array on disk, and its stamps."""

    path: Path

    @property
    def exists(self) -> bool:
        return self.path.is_file()

    @property
    def _stamps_path(self) -> Path:
        return self.path.with_suffix(".stamps")

    @cached_property
    def stamps(self) -> np.ndarray | None:
        """(N,); None where there are none, or not as many as rows."""
        data = read_bytes(self._stamps_path)
        found = None if data is None or len(data) % 8 else np.frombuffer(data, dtype="<u8")
        return found if found is not None and self.exists and len(load_array(self.path)) == len(found) else None

    def save_stamps(self, stamps: np.ndarray) -> None:
        atomic_write(self._stamps_path, lambda file: file.write(stamps.astype("<u8").tobytes()))

    def remove(self) -> None:
        self._stamps_path.unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)


def image_stamps(keys: Sequence[str], path: Callable[[int], Path | None]) -> np.ndarray:
    """(N,) uint64: of each image's key and, where it is a file that is there, of its size and the time it was written."""
    return np.array([_number(f"{key}\n{_state(path(row))}") for row, key in enumerate(keys)], dtype=np.uint64)


def _state(path: Path | None) -> str:
    try:
        found = None if path is None else os.stat(path)
    except OSError:  # whoever reads the image says what is wrong with it
        return "gone"
    return "" if found is None else f"{found.st_size} {found.st_mtime_ns}"


def _number(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).digest(), "little")


def _digest(stamps: np.ndarray) -> str:
    return hashlib.blake2b(stamps.astype("<u8").tobytes(), digest_size=16).hexdigest()


def places_of(have: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """(N,) where each wanted stamp is among those that there are, -1 where it is not."""
    order = np.argsort(have, kind="stable")
    at = np.minimum(np.searchsorted(have[order], wanted), max(len(have) - 1, 0))
    places = order[at] if len(have) else np.full(len(wanted), -1)
    return np.where(have[places] == wanted, places, -1) if len(have) else places


def _progress_file(partial: Path) -> Path:
    return partial.with_name(f"{partial.name}.json")


def _take_up(file: BinaryIO, partial: Path, progress: dict[str, Any], row_bytes: int) -> int:
    """Leave whole batches of an earlier computation of the same in the file; how many rows."""
    where = _progress_file(partial)
    data = read_bytes(where)
    before = {} if data is None else parse_json(where, data, "remove it to begin again")
    same = isinstance(before, dict) and all(before.get(name) == value for name, value in progress.items())
    said = int(before.get("rows", 0)) if same else 0
    with no_os_error("write", partial):
        # Only what was on the disk when that was said of it. In whole batches: a row's last bits may depend on what is beside it.
        is_there = file.seek(0, os.SEEK_END) >= said * row_bytes
        done = said // progress["batch_size"] * progress["batch_size"] if is_there else 0
        file.truncate(done * row_bytes)
        file.seek(0, os.SEEK_END)
    return done


def _sync(file: BinaryIO, partial: Path, progress: dict[str, Any]) -> None:
    with no_os_error("write", partial):
        file.flush()
        os.fsync(file.fileno())
    atomic_write(_progress_file(partial), lambda out: out.write(dump_json(progress)))


def encode(encoder: Encoder, batch: torch.Tensor, device: torch.device) -> np.ndarray:
    """(B, D) float32 features of a batch of tensors from the encoder's `transform`."""
    with torch.inference_mode():
        return encoder.encode(batch.to(device)).float().cpu().numpy()


@contextmanager
def _bar(what: str, total: int, done: int) -> Iterator[Callable[[int], Any]]:
    """A bar on the standard error, if that is a terminal."""
    from tqdm import tqdm

    hidden = not sys.stderr.isatty()
    with tqdm(desc=what, total=total, initial=done, unit="image", leave=False, file=sys.stderr, disable=hidden) as bar:
        yield bar.update
