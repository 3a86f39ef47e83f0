"""Running a network over (a part of) the pool."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from usb_active.datasets import Dataset
from usb_active.errors import UsageError, name_some
from usb_active.randomness import seeded_globals
from usb_active.sampling import Batch, SequentialSampler, TravellingRows, make_loader

OUTPUTS = ("features", "logits", "probs")
TRANSFORMS = ("weak", "strong", "eval")


@dataclass
class PoolRows(TravellingRows):
    """Views of the samples `idx`: batches {idx (B,), x (passes, B, channels, height, width)}, augmentation seeded by position."""

    dataset: Dataset
    idx: np.ndarray
    transform: str
    passes: int
    seed: int
    position: tuple[int | str, ...]

    def __len__(self) -> int:
        return len(self.idx)

    def __getitems__(self, batch: tuple[int, np.ndarray]) -> dict[str, torch.Tensor]:
        number, rows = batch
        idx, view = self.idx[rows], getattr(self.dataset.views, self.transform)
        with seeded_globals(self.seed, *self.position, self.transform, number):
            samples = [self.dataset.load(int(i)) for i in idx]
            views = [self._collated([view(sample) for sample in samples]) for _ in range(self.passes)]
        return {"idx": torch.from_numpy(np.asarray(idx, dtype=np.int64)), "x": torch.stack(views)}

    def _collated(self, views: list[Any]) -> torch.Tensor:
        if self.dataset.collate is None:
            return torch.stack(views)
        return self.dataset.collate([{"x": view} for view in views])["x"]


def _as_it_is(batch: Any) -> Any:
    return batch


def view_loader(rows: PoolRows, batches: Iterable[Batch], num_workers: int) -> torch.utils.data.DataLoader:
    """These numbered batches of `rows`."""
    return make_loader(rows, batches, num_workers, _as_it_is)


def pool_loader(rows: PoolRows, batch_size: int, num_workers: int) -> torch.utils.data.DataLoader:
    """Batches of `rows` in their order."""
    return view_loader(rows, SequentialSampler(len(rows), batch_size), num_workers)


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """The model in eval mode; every module's own mode is put back afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield model
    finally:
        for module, training in modes:
            module.training = training


def predict(
    model: torch.nn.Module, rows: PoolRows, outputs: Sequence[str], batch_size: int, num_workers: int, device: torch.device
) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
    """Stream (idx (B,), {name: (passes, B, …) float32}) over `rows`, in their order.

    Raises:
        UsageError: an output is not finite; names the samples.
    """
    unknown = set(outputs) - set(OUTPUTS)
    if unknown:
        raise UsageError(f"predict: unknown outputs {name_some(sorted(unknown))}; known: {', '.join(OUTPUTS)}")
    if rows.transform not in TRANSFORMS:
        raise UsageError(f"predict: unknown transform '{rows.transform}'; known: {', '.join(TRANSFORMS)}")
    for batch in pool_loader(rows, batch_size, num_workers):
        with torch.no_grad(), evaluating(model):
            values = _forward(model, batch["x"].to(device), outputs)
        idx = batch["idx"].numpy()
        for name, value in values.items():
            _check_finite(name, value, idx)
        yield idx, values


def _forward(model: torch.nn.Module, x: torch.Tensor, outputs: Sequence[str]) -> dict[str, np.ndarray]:
    passes, size = x.shape[:2]
    result = model(x.flatten(0, 1))
    logits = result["logits"].float()
    tensors = {"logits": logits, "probs": torch.softmax(logits, dim=-1), "features": result["feat"].float()}
    return {name: tensors[name].reshape(passes, size, -1).cpu().numpy() for name in outputs}


def _check_finite(name: str, value: np.ndarray, idx: np.ndarray) -> None:
    finite = np.isfinite(value).all(axis=(0, 2))
    if not finite.all():
        raise UsageError(f"{name} of the model are not finite for samples {name_some(idx[~finite])}; did the training diverge?")


def collect(stream: Iterator[tuple[np.ndarray, dict[str, np.ndarray]]], size: int, allocate: Any) -> dict[str, np.ndarray]:
    """Put a one-pass stream into arrays (size, …), in order; `allocate(name, shape)` makes them (memory or file)."""
    arrays: dict[str, np.ndarray] = {}
    start = 0
    for idx, values in stream:
        for name, value in values.items():
            if name not in arrays:
                arrays[name] = allocate(name, (size, value.shape[2]))
            arrays[name][start : start + len(idx)] = value[0]
        start += len(idx)
    return arrays
