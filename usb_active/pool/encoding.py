"""Features of many images by an encoder that does not change: kept block by block, so that a crash costs no more than the last one."""

from __future__ import annotations

import glob
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from usb_active.contracts.features import Encoder
from usb_active.errors import UsageError, name_some
from usb_active.numerics.arrays import nonfinite_rows
from usb_active.pool.sampling import Batch, SequentialSampler, TravellingRows, make_loader
from usb_active.storage.artifacts import load_array
from usb_active.storage.durable import atomic_write, make_folder, no_os_error

logger = logging.getLogger("usb_active")

# What is computed between two writes to the disk: a crash costs at most so much.
_SECONDS_BETWEEN_WRITES = 10.0
# Beyond so many seconds, it is said what took them.
_LONG = 5.0
_COPIED_AT_ONCE = 2**22


@dataclass
class EncoderRows(TravellingRows):
    """Images as tensors for an encoder: batches (B, channels, height, width)."""

    load: Callable[[int], Any]
    transform: Callable[[Any], torch.Tensor]
    size: int

    def __len__(self) -> int:
        return self.size

    def __getitems__(self, batch: Batch) -> torch.Tensor:
        return torch.stack([self.transform(self.load(int(row))) for row in batch[1]])


def _as_it_is(batch: Any) -> Any:
    return batch


@dataclass(frozen=True)
class Encoding:
    """One array of features that is to be made, and how.

    Attributes:
        encoder: made when there is something left to be encoded.
        load: row → undecorated sample.
        rows: how many there are, N.
        width: D.
        what: the features' name, for messages ("features: timm: 'resnet18'").
    """

    encoder: Callable[[], Encoder]
    load: Callable[[int], Any]
    rows: int
    width: int
    what: str
    device: torch.device
    num_workers: int = 0

    def keep(self, folder: Path, stem: str) -> np.ndarray:
        """(N, D) float32, mapped read-only: from `folder`/`stem`_N.npy, which is made if it is not there.

        A computation that was cut short goes on with the batch it had reached. Samples join a pool at its end: an array of fewer samples
        is the beginning of a longer one.

        Raises:
            UsageError: features that are not finite (names the samples), of another width, or a disk without room.
        """
        path = folder / f"{stem}_{self.rows}.npy"
        if not path.is_file():
            make_folder(folder)
            self._compute(folder, stem)
        return load_array(path)

    def _compute(self, folder: Path, stem: str) -> None:
        partial = folder / f"{stem}.partial"
        encoder = self.encoder()
        with no_os_error("write", partial), open(partial, "a+b") as file:
            done = self._take_up(file, folder, stem, encoder.batch_size)
            if done < self.rows:
                self._append(file, encoder, done)
            file.seek(0)
            header = {"descr": "<f4", "fortran_order": False, "shape": (self.rows, self.width)}
            atomic_write(folder / f"{stem}_{self.rows}.npy", lambda out: _copy(file, out, header))
        partial.unlink()

    def _take_up(self, file: BinaryIO, folder: Path, stem: str, batch_size: int) -> int:
        """Leave whole batches of an earlier computation in the file, whose beginning they are; how many rows."""
        row_bytes = 4 * self.width
        done = file.seek(0, os.SEEK_END) // row_bytes
        shorter, path = self._shorter(folder, stem)
        if shorter > done:
            file.truncate(0)
            file.write(np.asarray(load_array(path), dtype="<f4").tobytes())
            done = shorter
        # The numbers of a batch may depend on its size in the last bits.
        done = min(done, self.rows) // batch_size * batch_size
        file.truncate(done * row_bytes)
        file.seek(0, os.SEEK_END)
        return done

    def _shorter(self, folder: Path, stem: str) -> tuple[int, Path]:
        """The longest kept array that is the beginning of this one."""
        found = [(0, folder)]
        for path in folder.glob(f"{glob.escape(stem)}_*.npy"):
            count = path.stem.removeprefix(f"{stem}_")
            if count.isdigit() and int(count) < self.rows and load_array(path).shape == (int(count), self.width):
                found.append((int(count), path))
        return max(found, key=lambda item: item[0])

    def _append(self, file: BinaryIO, encoder: Encoder, done: int) -> None:
        began, written, first = time.monotonic(), time.monotonic(), done
        rows = EncoderRows(self.load, encoder.transform, self.rows)
        sampler = SequentialSampler(self.rows, encoder.batch_size, done // encoder.batch_size)
        with _progress(self.what, self.rows, done) as advance:
            for batch in make_loader(rows, sampler, self.num_workers, _as_it_is):
                features = encode(encoder, batch, self.device)
                self._check(features, done)
                file.write(features.astype("<f4", copy=False).tobytes())
                done += len(features)
                advance(len(features))
                if time.monotonic() - written > _SECONDS_BETWEEN_WRITES:
                    file.flush()
                    os.fsync(file.fileno())
                    written = time.monotonic()
        file.flush()
        seconds = time.monotonic() - began
        if seconds > _LONG:
            logger.info("%s: %d images in %.0f s, kept with the run", self.what, done - first, seconds)

    def _check(self, features: np.ndarray, start: int) -> None:
        if features.ndim != 2 or features.shape[1] != self.width:
            raise UsageError(f"{self.what}: expected (B, {self.width}) for a batch, got {features.shape}")
        # Before they are kept: mended weights must not meet what damaged ones left.
        bad = nonfinite_rows(features)
        if len(bad):
            raise UsageError(f"{self.what}: not finite for samples {name_some(start + bad)}")


def encode(encoder: Encoder, batch: torch.Tensor, device: torch.device) -> np.ndarray:
    """(B, D) float32 features of a batch of tensors from the encoder's `transform`."""
    with torch.inference_mode():
        return encoder.encode(batch.to(device)).float().cpu().numpy()


def _copy(source: BinaryIO, out: BinaryIO, header: dict[str, Any]) -> None:
    np.lib.format.write_array_header_1_0(out, header)
    while block := source.read(_COPIED_AT_ONCE):
        out.write(block)


@contextmanager
def _progress(what: str, total: int, done: int) -> Iterator[Callable[[int], Any]]:
    """A bar on the standard error, if that is a terminal."""
    from tqdm import tqdm

    hidden = not sys.stderr.isatty()
    with tqdm(desc=what, total=total, initial=done, unit="image", leave=False, file=sys.stderr, disable=hidden) as bar:
        yield bar.update
