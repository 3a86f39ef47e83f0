"""PoolView: what a method may look at."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from usb_active.contracts.features import independent_sources
from usb_active.errors import UsageError, name_some, nearest
from usb_active.numerics.arrays import nonfinite_rows
from usb_active.pool.split import NOBODY
from usb_active.randomness import generator
from usb_active.storage.artifacts import load_artifact, new_map, save_artifact
from usb_active.storage.run_dir import make_folder

if TYPE_CHECKING:
    import torch

    from usb_active.contracts.dataset import Dataset
    from usb_active.contracts.features import Features
    from usb_active.pool.inference import Output
    from usb_active.pool.pool import Pool

# Arrays of the whole pool above this size are kept in a file and mapped.
MEMORY_LIMIT = 256 * 2**20


@dataclass
class ViewSource:
    """What a view is made from; built by the core.

    Attributes:
        model: `model()` gives the EMA network of this moment, or None before any training.
        held_out: (V,) idx whose labels the view does not show: what makes targets for a training must not know the labels that the
            training is judged by. Held-out samples appear in neither `labeled` nor `unlabeled`.
        inputs: the samples as the network takes them; None: the data set's images.
    """

    dataset: Dataset
    pool: Pool
    run_path: Path
    seed: int
    device: torch.device
    model: Callable[[], torch.nn.Module | None]
    batch_size: int
    num_workers: int
    simulated: bool
    pretrained_features: Callable[[], np.ndarray | None]
    metrics: dict[str, float] = field(default_factory=dict)
    pretrained_modules: Callable[[], Mapping[str, Mapping[str, Any]]] = dict
    held_out: np.ndarray = field(default_factory=lambda: NOBODY)
    live_model: Callable[[], torch.nn.Module | None] = lambda: None
    inputs: Dataset | None = None
    # By the plugin's role, or "algorithm", then by name.
    registered: Callable[[], Mapping[str, Mapping[str, Registered]]] = dict
    # Of a cycle.
    previous_features: Callable[[int], np.ndarray | None] = lambda cycle: None


@dataclass(frozen=True)
class Registered:
    """What `register_state` made: a module or another object with a state, and its optimizer where it was given one."""

    module: Any
    optimizer: torch.optim.Optimizer | None = None


class PoolView:
    """The pool as a method sees it at one moment.

    Args:
        source: what the core provides.
        cycle: the number of the query that is being made; 0 is the initial one.
        role: what the randomness belongs to ("acquisition", "prior", …); `rng` derives from (seed, cycle, role).
        needs: what was declared: a subset of {"features", "probs", "truth"}.
        features: the source of `features`.
    """

    def __init__(self, source: ViewSource, cycle: int, role: str, needs: frozenset[str], features: Features | None):
        self._source, self._role, self._needs, self._features_source = source, role, needs, features
        self.cycle = cycle
        self.dataset = source.dataset
        self._inputs = source.inputs or source.dataset
        self.device = source.device
        self.task = source.dataset.task
        self.rng = generator(source.seed, cycle, role)
        pool = source.pool
        self.labeled, self.unlabeled, self.candidates = np.setdiff1d(pool.labeled, source.held_out), pool.unlabeled, pool.candidates
        self.labels = self.task.targets(pool.labels[self.labeled])
        for array in (self.labeled, self.unlabeled, self.candidates, self.labels):
            array.setflags(write=False)

    def __len__(self) -> int:
        return len(self.dataset)

    @property
    def num_classes(self) -> int:
        """C. UsageError where labels are no classes."""
        self._need_classes("classes")
        return len(self.task.class_names)

    def _need_classes(self, what: str) -> None:
        if not self.task.class_names:
            of_task = f"the labels of dataset '{self.dataset.name}' are of the task '{self.task.name}'"
            raise UsageError(f"{self._who}: there are no {what}: {of_task}")

    # ------------------------------------------------------------------------------------------ declared needs
    @cached_property
    def features(self) -> np.ndarray:
        """(N, D) float32, read-only. Only if "features" is in `needs`."""
        self._require("features")
        features = self._features_source.get(self if self._features_source.follows_model else self.of_images())
        if features.ndim != 2 or len(features) != len(self):
            raise UsageError(f"features '{self._features_source.name}': expected ({len(self)}, D), got {features.shape}")
        check_finite_rows("features", features)
        return _read_only(features)

    @cached_property
    def probs(self) -> np.ndarray:
        """(N, C) float32, read-only: the EMA model's on the eval view. Only if "probs" is in `needs`."""
        self._require("probs")
        self._need_classes("probs")
        return self.model_outputs["probs"]

    @property
    def truth(self) -> np.ndarray:
        """(N,) class indices, -1 unknown, as those of the audit (or the task's `targets`).

        Only if "truth" is in `needs`, and only under a simulated oracle.
        """
        self._require("truth")
        if not self._source.simulated:
            raise UsageError(f"{self._who}: needs the true labels, which only a simulated oracle knows; use oracle: dataset")
        return _read_only(self.task.targets(self._known()))

    def _known(self) -> np.ndarray:
        """(N,) the data set's labels, -1 for those of the audit, of which no method learns anything."""
        known, audited = self.dataset.targets, self._source.pool.audited
        return np.where(audited, -1, known) if audited.any() else known

    @cached_property
    def previous_features(self) -> np.ndarray | None:
        """(M, D) float32, read-only: features of the EMA model that the last cycle's training ended with. None in cycle 0.

        Row i is sample i, for the samples that the pool had then: M ≤ N, what has joined since is at the end of the pool. For priors,
        whose "start" comes when the next training's model is in its place already. Only if "previous_features" is in `needs`.
        """
        self._require("previous_features")
        features = self._source.previous_features(self.cycle)
        return None if features is None else _read_only(features)

    def of_images(self) -> PoolView:
        """The same view, whose batches are of images even where the network is trained on features of them."""
        view = copy.copy(self)
        view._inputs = self.dataset
        return view

    def _require(self, need: str) -> None:
        if need not in self._needs:
            raise UsageError(f"{self._who}: '{need}' was not declared in `needs` ({name_some(sorted(self._needs)) or 'nothing'})")

    @property
    def _who(self) -> str:
        """Whose view it is, in the words of a YAML."""
        role = self._role.partition("/")[0].partition("@")[0]
        return role if role == "algorithm" else f"active.{role}"

    def prepare(self) -> None:
        """Compute what was declared, before the method runs."""
        # "head" says of which features, "labels" that there must be some; there is nothing to compute.
        for need in sorted(self._needs - {"head", "labels"}):
            getattr(self, need)

    @cached_property
    def model_outputs(self) -> dict[str, np.ndarray]:
        """One pass of the EMA model over the pool: `features` and `probs` as far as they are needed."""
        follows = self._features_source is not None and self._features_source.follows_model and "features" in self._needs
        outputs = [name for name, wanted in (("features", follows), ("probs", "probs" in self._needs)) if wanted]
        return self.model_pass(outputs)

    def model_pass(self, outputs: Sequence[Output], first: int | None = None) -> dict[str, np.ndarray]:
        """{name: (N, …) float32, read-only} of the EMA model on the eval views of the whole pool, or of its `first` samples."""
        from usb_active.pool.inference import collect

        size = len(self) if first is None else first
        arrays = collect(self.predict(outputs, np.arange(size)), size, self._allocate)
        return {name: _read_only(array) for name, array in arrays.items()}

    def _allocate(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        if np.prod(shape, dtype=np.int64) * 4 <= MEMORY_LIMIT:
            return np.empty(shape, dtype=np.float32)
        # Without the step: the last pass of a kind is enough, and a map of an earlier one keeps its own data.
        path = self.scratch / f"{self._role.partition('@')[0].replace('/', '_')}_{name}.npy"
        return new_map(path, shape)

    # ------------------------------------------------------------------------------------------ the model
    @property
    def model(self) -> torch.nn.Module:
        """The EMA network, eval mode. Read-only: the core checks nothing here, but nothing of it is kept."""
        model = self._source.model()
        if model is None:
            raise UsageError(f"{self._who}: there is no trained model yet; take features from {independent_sources()}")
        return model.eval()

    @property
    def live_model(self) -> torch.nn.Module:
        """The network with the weights that are trained, beside the EMA ones of `model`; after a training, those of its last step.

        In the mode in which the training has it: look at it inside `usb_active.pool.inference.evaluating(model)`, or by
        `predict(…, live=True)`; a forward pass in train mode would move its batch norms. Read-only.
        """
        model = self._source.live_model()
        if model is None:
            raise UsageError(f"{self._who}: there is no trained model yet")
        return model

    def registered(self, name: str) -> Registered:
        """What this plugin registered by `register_state` in the last (or running) training, else what the algorithm did.

        What `select` does to a module is not kept: a resumed run takes it from the training's checkpoint. To be looked at, or trained on
        in a copy of one's own.

        Args:
            name: as it was registered; "algorithm/NAME" is the algorithm's in any case.

        Raises:
            UsageError: nothing is registered under this name.
        """
        states = self._source.registered()
        owner = re.split("[/@]", self._role)[0]
        of_algorithm = states.get("algorithm", {})
        known = {**of_algorithm, **{f"algorithm/{key}": value for key, value in of_algorithm.items()}, **states.get(owner, {})}
        if name not in known:
            raise UsageError(f"{self._who}: nothing is registered as '{name}'{nearest(name, known)}")
        return known[name]

    def predict(
        self,
        outputs: Sequence[Output] | Mapping[str, Output],
        idx: np.ndarray,
        *,
        transform: str = "eval",
        passes: int = 1,
        modules: Sequence[str] = (),
        live: bool = False,
    ) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
        """Stream (idx (B,), {name: (passes, B, …) float32}) in the order of `idx`, one batch in memory at a time.

        Args:
            outputs: any of
                - "features" (…, D), "logits" (…, C), "probs" (…, C);
                - the name of a module of the network (as in `named_modules`): its output as it is, neither pooled nor flattened, so
                  (passes, B, channels, height, width) of a convolution. The network must call it once in a forward pass;
                - a function of {name: (passes · B, …) tensor on the device} to a tensor (passes · B, …), called without gradients.
                  The mapping has features, logits, probs and the modules named in `outputs` or `modules`. It comes under its
                  `__name__`: what is large may so be reduced before it leaves the device.
                A mapping {name: output} gives them other names.
            idx: (P,) dataset indices of the samples.
            transform: "eval", "weak" or "strong"; augmentation depends on (seed, cycle, transform, batch) alone.
            passes: how many augmented views of every sample.
            modules: further modules, for functions alone.
            live: by the weights that are trained instead of the EMA ones.

        Raises:
            UsageError: an output is not known or not finite (names the samples); a module that is called several times.
        """
        from usb_active.pool import inference

        source, rows, model = self._source, self._rows(idx, transform, passes), self.live_model if live else self.model
        has_probs = bool(self.task.class_names)
        if not has_probs and "probs" in inference.named_outputs(outputs).values():
            self._need_classes("probs")
        batch_size = max(1, source.batch_size // passes)
        yield from inference.predict(model, rows, outputs, batch_size, source.num_workers, self.device, modules, has_probs)

    def loader(
        self, idx: np.ndarray, transform: str = "eval", batch_size: int | None = None, *, epoch: int = 0, start: int = 0
    ) -> torch.utils.data.DataLoader:
        """Batches {idx (B,), x (1, B, channels, height, width)} for methods that train modules of their own; x (1, B, D) under
        `train_on: features`.

        In the order of `idx`, which is the caller's to draw. Augmentation depends on (seed, cycle, role, transform, epoch, batch) alone:
        give each pass its own `epoch`, or all passes see the same.

        Args:
            idx: (P,) dataset indices of the samples, in the order of the batches.
            transform: "eval", "weak" or "strong".
            batch_size: None: the run's `eval_batch_size`.
            epoch: the number of the pass, from 0.
            start: the number of the batch to begin with. The batches from there on are those of a loader that began at 0.

        Raises:
            UsageError: an unknown transform, a negative epoch, or a start beyond the end.
        """
        from usb_active.pool import inference

        inference.check_transform("loader", transform)
        rows, batch_size = self._rows(idx, transform, 1, epoch), batch_size or self._source.batch_size
        batches = -(-len(rows) // batch_size)
        if epoch < 0 or not 0 <= start <= batches:
            raise UsageError(f"loader: epoch: {epoch}, start: {start}; epoch must be at least 0, start from 0 to {batches}")
        return inference.pool_loader(rows, batch_size, self._source.num_workers, start)

    def _rows(self, idx: np.ndarray, transform: str, passes: int, epoch: int = 0) -> Any:
        from usb_active.pool.inference import PoolRows

        # The first epoch has the position that there was before there were several.
        position = (self.cycle, self._role, "views", *(("epoch", epoch) if epoch else ()))
        return PoolRows(self._inputs, np.asarray(idx, dtype=np.int64), transform, passes, self._source.seed, position)

    @property
    def pretrained_features(self) -> np.ndarray | None:
        """(N, D) features that pretraining left, or None."""
        return self._source.pretrained_features()

    @property
    def pretrained_modules(self) -> Mapping[str, Mapping[str, Any]]:
        """State dicts of the further modules that pretraining left, by name; empty without pretraining."""
        return self._source.pretrained_modules()

    # ------------------------------------------------------------------------------------------ disk and logging
    def artifact(self, key: str, make: Callable[[], np.ndarray | dict[str, np.ndarray]]) -> Any:
        """A result kept on disk for this run: made once by `make()`, then loaded (arrays mapped read-only)."""
        path = self.artifacts / key
        found = load_artifact(path)
        if found is None:
            save_artifact(path, make())
            found = load_artifact(path)
        return found

    @property
    def artifacts(self) -> Path:
        """The folder of what is kept for this run."""
        return self._source.run_path / "artifacts"

    @property
    def num_workers(self) -> int:
        """Processes that load, beside this one."""
        return self._source.num_workers

    @property
    def scratch(self) -> Path:
        """A folder of this cycle that survives a crash."""
        path = self._source.run_path / "scratch" / f"cycle_{self.cycle:03d}"
        make_folder(path)
        return path

    def log(self, name: str, value: float) -> None:
        """Into the next line of metrics.jsonl, under `log`."""
        self._source.metrics[name] = float(value)

    def audit(self, fn: Callable[[np.ndarray], None]) -> None:
        """Call fn(truth (N,)) where the true classes are known, for logging; never for choosing.

        The truth is -1 where it is not known, and for the samples that measure the model (the key `audit`, another thing than this method).
        """
        if self._source.simulated and self.task.class_names:
            fn(_read_only(self._known()))


def _read_only(array: np.ndarray) -> np.ndarray:
    view = array.view()
    view.setflags(write=False)
    return view


def check_finite_rows(what: str, array: np.ndarray) -> None:
    """UsageError that names the rows of (N, D) that are not finite."""
    bad = nonfinite_rows(array)
    if len(bad):
        raise UsageError(f"{what}: not finite for samples {name_some(bad)}")
