"""Running a network over (a part of) the pool."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from usb_active.contracts.dataset import Dataset, are_image_views, may_load_in_threads, sample_for_views
from usb_active.errors import UsageError, name_some
from usb_active.images.ahead import go_on
from usb_active.pool import hidden
from usb_active.pool.compiled import in_force
from usb_active.pool.memory_format import as_channels_last, images_at_once, is_channels_last
from usb_active.pool.sampling import Batch, SequentialSampler, TravellingRows, make_loader
from usb_active.randomness import seeded_globals

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

    @property
    def can_run_ahead(self) -> bool:
        """Whether another thread may make batches: the package's own eval views draw nothing."""
        data = self.dataset
        return self.transform == "eval" and data.collate is None and may_load_in_threads(data) and are_image_views(data.views)

    def __getitems__(self, batch: tuple[int, np.ndarray]) -> dict[str, torch.Tensor]:
        number, rows = batch
        idx = self.idx[rows]
        # The global generators belong to the thread that uses the batches.
        with nullcontext() if self.can_run_ahead else seeded_globals(self.seed, *self.position, self.transform, number):
            samples = (self._sample(int(i)) for i in idx)
            x = self._eval_views(samples) if self.transform == "eval" else self._drawn_views(list(samples))
        return {"idx": torch.from_numpy(np.asarray(idx, dtype=np.int64)), "x": x}

    def _sample(self, index: int) -> Any:
        go_on()
        return sample_for_views(self.dataset, index, self.dataset.views)

    def _eval_views(self, samples: Iterable[Any]) -> torch.Tensor:
        """(passes, B, …), all passes alike."""
        views = eval_views(self.dataset.views, self.dataset.collate, samples)
        views = self._collated([self.dataset.views.eval(sample) for sample in samples]) if views is None else views
        return torch.stack([views] * self.passes) if self.passes > 1 else views[None]

    def _drawn_views(self, samples: list[Any]) -> torch.Tensor:
        view = getattr(self.dataset.views, self.transform)
        return torch.stack([self._collated([view(sample) for sample in samples]) for _ in range(self.passes)])

    def _collated(self, views: list[Any]) -> torch.Tensor:
        if self.dataset.collate is None:
            return torch.stack(views)
        return self.dataset.collate([{"x": view} for view in views])["x"]


def eval_views(views: Any, collate: Callable | None, samples: Iterable[Any]) -> torch.Tensor | None:
    """(B, …) eval views of a data set's samples, made at once; None, and no sample asked for, where they are to be made one by one."""
    return views.eval_batch(samples) if collate is None and are_image_views(views) else None


def _as_it_is(batch: Any) -> Any:
    return batch


def view_loader(rows: PoolRows, batches: Iterable[Batch], num_workers: int) -> torch.utils.data.DataLoader:
    """These numbered batches of `rows`."""
    return make_loader(rows, batches, num_workers, _as_it_is)


def pool_loader(rows: PoolRows, batch_size: int, num_workers: int, start: int = 0) -> torch.utils.data.DataLoader:
    """Batches of `rows` in their order, from batch number `start` on."""
    return view_loader(rows, SequentialSampler(len(rows), batch_size, start), num_workers)


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


Output = str | Callable[[Mapping[str, torch.Tensor]], torch.Tensor]


def predict(
    model: torch.nn.Module,
    rows: PoolRows,
    outputs: Sequence[Output] | Mapping[str, Output],
    batch_size: int,
    num_workers: int,
    device: torch.device,
    modules: Sequence[str] = (),
    has_probs: bool = True,
) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
    """Stream (idx (B,), {name: (passes, B, …) float32}) over `rows`, in their order. The arguments are those of `PoolView.predict`.

    Args:
        model: the network.
        rows: the samples, in the view and with the passes that are asked for.
        outputs: as in `PoolView.predict`.
        batch_size: samples at a time.
        num_workers: processes that load images.
        device: where the network computes.
        modules: as in `PoolView.predict`.
        has_probs: whether the network's outputs are logits of classes.

    Raises:
        UsageError: an output is not known, or not finite; names the samples.
    """
    wanted = named_outputs(outputs)
    check_transform("predict", rows.transform)
    names = [value for value in wanted.values() if isinstance(value, str) and value not in OUTPUTS]
    inner = hidden.module_names(model)
    unknown = sorted({*names, *modules} - set(inner))
    if unknown:
        known = f"{', '.join(OUTPUTS)}, functions, and the network's modules, e.g. {', '.join(inner[:5])}"
        raise UsageError(f"predict: unknown outputs {name_some(unknown)}; known: {known}")
    found = hidden.modules_named(model, dict.fromkeys([*names, *modules]), "predict")
    asked = _Asked(model, wanted, found, has_probs, batch_size)
    for batch in pool_loader(rows, batch_size, num_workers):
        values = asked.values(batch["x"].to(device))
        idx = batch["idx"].numpy()
        for name, value in values.items():
            _check_finite(name, value, idx)
        yield idx, values


def named_outputs(outputs: Sequence[Output] | Mapping[str, Output]) -> dict[str, Output]:
    """What is wanted, under the names by which it comes. UsageError where two would have one name."""
    if isinstance(outputs, str):
        raise UsageError(f"predict: outputs must be a list or a mapping, such as ['{outputs}']")
    if isinstance(outputs, Mapping):
        return dict(outputs)
    named = {value if isinstance(value, str) else getattr(value, "__name__", type(value).__name__): value for value in outputs}
    if len(named) < len(set(outputs)):
        raise UsageError("predict: two outputs have one name; give a mapping {name: function}")
    return named


def check_transform(who: str, transform: str) -> None:
    """UsageError for a view that there is not."""
    if transform not in TRANSFORMS:
        raise UsageError(f"{who}: unknown transform '{transform}'; known: {', '.join(TRANSFORMS)}")


@dataclass
class _Asked:
    """What is wanted of passes over a pool: outputs under their names, by way of modules."""

    model: torch.nn.Module
    wanted: Mapping[str, Output]
    modules: dict[str, torch.nn.Module]
    has_probs: bool
    batch_size: int

    def __post_init__(self) -> None:
        # Samples of a batch that the network is given together; 0: not known yet.
        self.at_once = 0
        self.by_name = all(isinstance(value, str) for value in self.wanted.values())
        self.channels_last = is_channels_last(self.model)

    def values(self, x: torch.Tensor) -> dict[str, np.ndarray]:
        """{name: (passes, B, …)} of a batch (passes, B, …)."""
        # Not inference mode: what a network keeps of such a pass (a table of positions) could take no part in its next training.
        with torch.no_grad(), evaluating(self.model):
            self.at_once = self.at_once or self._fitting(x)
            whole = x.shape[1] == self.batch_size
            parts = [self._forward(part, whole) for part in x.split(self.at_once, dim=1)]
        return parts[0] if len(parts) == 1 else {name: np.concatenate([part[name] for part in parts], axis=1) for name in parts[0]}

    def _fitting(self, x: torch.Tensor) -> int:
        """All samples of a batch together, unless smaller parts are faster: rounding may depend on what is computed together."""
        if not (self.by_name and self.channels_last and x.device.type == "cpu"):
            return self.batch_size
        passes = len(x)
        return max(1, images_at_once(self.model, as_channels_last(x[0, :1]), passes * self.batch_size) // passes)

    def _forward(self, x: torch.Tensor, of_whole_batch: bool) -> dict[str, np.ndarray]:
        passes, size = x.shape[:2]
        images = as_channels_last(x.flatten(0, 1)) if self.channels_last else x.flatten(0, 1)
        # Of one shape only, however large the part of the pool is: each takes its time to compile.
        compiled = self.by_name and not self.modules and of_whole_batch and size == self.at_once
        with hidden.outputs_of(self.modules) as calls, in_force(self.model, compiled):
            result = self.model(images)
        logits = result["logits"].float()
        tensors = {"logits": logits, "features": result["feat"].float()}
        if self.has_probs:
            tensors["probs"] = torch.softmax(logits, dim=-1)
        tensors |= {name: hidden.only_output(name, given, passes * size, "predict").float() for name, given in calls.items()}
        arrays = {}
        for name, output in self.wanted.items():
            value = tensors[output] if isinstance(output, str) else _computed(name, output, tensors, passes * size)
            arrays[name] = value.reshape(passes, size, *value.shape[1:]).cpu().numpy()
        return arrays


def _computed(name: str, function: Callable, tensors: Mapping[str, torch.Tensor], rows: int) -> torch.Tensor:
    value = function(tensors)
    if not isinstance(value, torch.Tensor) or value.ndim == 0 or len(value) != rows:
        got = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, torch.Tensor) else type(value).__name__
        raise UsageError(f"predict: '{name}' must return a tensor with a row for each of the {rows} samples, got {got}")
    return value.float()


def _check_finite(name: str, value: np.ndarray, idx: np.ndarray) -> None:
    finite = np.isfinite(value).all(axis=(0, *range(2, value.ndim)))
    if not finite.all():
        raise UsageError(f"{name} of the model are not finite for samples {name_some(idx[~finite])}; did the training diverge?")


def collect(stream: Iterator[tuple[np.ndarray, dict[str, np.ndarray]]], size: int, allocate: Any) -> dict[str, np.ndarray]:
    """Put a one-pass stream into arrays (size, …), in order; `allocate(name, shape)` makes them (memory or file)."""
    arrays: dict[str, np.ndarray] = {}
    start = 0
    for idx, values in stream:
        for name, value in values.items():
            if name not in arrays:
                arrays[name] = allocate(name, (size, *value.shape[2:]))
            arrays[name][start : start + len(idx)] = value[0]
        start += len(idx)
    return arrays
