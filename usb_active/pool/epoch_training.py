"""Training a network of one's own in epochs: the loop, its checkpoint, its log, and resuming bit-identically.

For pretrainers, and for methods that train something inside `select` (CONTRIBUTING has an example).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from usb_active.contracts.plugin import PluginConfig
from usb_active.contracts.pretrainer import Pretrained
from usb_active.errors import UsageError, name_some
from usb_active.pool.divergence import nonfinite_of, nonfinite_tensors
from usb_active.randomness import seed_globals, seeded_globals
from usb_active.storage.checkpoint import REPEAT_PRETRAINING, must_fit, read_checkpoint, write_checkpoint
from usb_active.storage.durable import atomic_write, dump_json

if TYPE_CHECKING:
    from usb_active.contracts.dataset import Dataset

logger = logging.getLogger("usb_active")

# An epoch that is a multiple of this is reported, and the first and the last; the file has them all.
REPORTED = 10


class EpochTraining:
    """The state of a training between two epochs, and what leads from one to the next.

    A subclass sets `optimizer`, defines `train_epoch`, and `own_state`, `load_own_state` where it has more than a network and an
    optimizer. All that it draws must depend on (`seed`, `name`, `epoch`, …) alone: then a killed run resumes after the
    last whole epoch and, on the CPU, ends with the same bits.

    A pretrainer returns `run(scratch)`. Inside `select`, `train(view.scratch)` trains `net`; the seed is drawn from `view.rng` before
    anything else is, batches are those of `view.loader(…, epoch=self.epoch)`, and `part_of = "acquisition"`. The scratch folder is
    the cycle's: a process that resumes finds it, and the next cycle starts over.

    `scratch/<name>.jsonl` has a line for each epoch, `scratch/<name>.pth` the state after the last.

    Args:
        name: the plugin's, or another that nothing else uses in this folder.
        config: its keys, `epochs` and `lr` among them; `num_workers` may differ when a run is resumed.
        net: the network that is trained.
        dataset: the data set on whose samples it is trained.
        seed: of all that is drawn.
        device: where it is trained.
        begun_with: what else must be the same when a run is resumed.
    """

    optimizer: torch.optim.Optimizer
    # How messages begin, before the name.
    part_of: ClassVar[str] = "pretrain:"

    def __init__(
        self, name: str, config: PluginConfig, net: torch.nn.Module, dataset: Dataset, seed: int, device: torch.device, **begun_with: Any
    ):
        self.name, self.config, self.net, self.dataset, self.seed, self.device = name, config, net, dataset, seed, device
        self.epoch = 0
        self.log: list[dict[str, Any]] = []
        self._begun_with = {**config.model_dump(exclude={"num_workers"}), "number of samples": len(dataset), "seed": seed, **begun_with}

    @property
    def who(self) -> str:
        """How messages begin."""
        return f"{self.part_of} '{self.name}'"

    @property
    def _remedy(self) -> str:
        return REPEAT_PRETRAINING if self.part_of == EpochTraining.part_of else "remove it to repeat this training"

    # ------------------------------------------------------------------------------------------ of a subclass
    def train_epoch(self) -> dict[str, Any]:
        """Train epoch `self.epoch` (from 0); what is logged of it."""
        raise NotImplementedError(f"{type(self).__name__}.train_epoch")

    def own_state(self) -> dict[str, Any]:
        """Tensors, numbers and texts beyond network and optimizer, by name.

        A further network's `state_dict` belongs here; like those of `net`, weights that are not finite end the training.
        """
        return {}

    def load_own_state(self, state: Mapping[str, Any]) -> None:
        """The inverse of `own_state`."""

    def report(self, line: Mapping[str, Any]) -> None:
        """Say what became of an epoch that is reported."""
        logger.info(f"{self.name}: epoch {line['epoch']} of {self.config.epochs}: loss {line['loss']:.4f}")

    # ------------------------------------------------------------------------------------------ for a subclass
    @property
    def position(self) -> tuple[str, int]:
        """Where this epoch's randomness begins."""
        return self.name, self.epoch

    def seed_step(self, number: int) -> None:
        """For dropout: what a step draws must not depend on those before it."""
        seed_globals(self.seed, *self.position, "step", number)

    def finite(self, loss: float) -> float:
        """The epoch's loss. UsageError where it is none."""
        if not np.isfinite(loss):
            raise UsageError(f"{self.who}: epoch {self.epoch + 1}: the loss is {loss}; a smaller lr than {self.config.lr} may help")
        return loss

    # ------------------------------------------------------------------------------------------ the loop
    def run(self, scratch: Path) -> Pretrained:
        """All epochs that are still to be trained; the network."""
        self.train(scratch)
        # With the classifier, which no step has changed: it is left out when a backbone is loaded.
        return Pretrained({name: value.cpu() for name, value in self.net.state_dict().items()})

    def train(self, scratch: Path) -> None:
        """All epochs that are still to be trained: `net` is then trained. A checkpoint of another training there is refused."""
        kept = scratch / f"{self.name}.pth"
        if kept.exists():
            parts = ("begun_with", "epoch", "net", "optimizer", "log")
            self.load_state_dict(read_checkpoint(kept, self._remedy, parts), kept)
        while self.epoch < self.config.epochs:
            with seeded_globals(self.seed, *self.position):
                line = self.train_epoch()
            self._check_finite(line)
            self.epoch += 1
            self.log.append({"epoch": self.epoch, **line})
            # The checkpoint last: an epoch that is not in it is repeated, and its line written again.
            atomic_write(scratch / f"{self.name}.jsonl", lambda file: file.writelines(map(dump_json, self.log)))
            write_checkpoint(kept, self.state_dict())
            if self.epoch in (1, self.config.epochs) or self.epoch % REPORTED == 0:
                self.report(self.log[-1])

    def _check_finite(self, line: Mapping[str, Any]) -> None:
        """Before the epoch is kept: the checkpoint of a diverged one would be gone on from for ever."""
        if "loss" in line:
            self.finite(line["loss"])
        states = {part: state for part, state in self.own_state().items() if isinstance(state, Mapping)}
        others = {f"{part}.{name}": value for part, state in states.items() for name, value in state.items()}
        bad = [*nonfinite_tensors(self.net), *nonfinite_of(others)]
        if bad:
            advice = f"a smaller lr than {self.config.lr} may help (under another save_name: a run keeps its configuration)"
            raise UsageError(f"{self.who}: diverged in epoch {self.epoch + 1}: weights that are not finite: {name_some(bad)}; {advice}")

    def state_dict(self) -> dict[str, Any]:
        """All of it, between two epochs."""
        return {
            "begun_with": self._begun_with, "epoch": self.epoch, "net": self.net.state_dict(), "optimizer": self.optimizer.state_dict(),
            "log": self.log, **self.own_state(),
        }  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any], path: Path) -> None:
        """UsageError when it was begun with other keys or samples."""
        for name, value in state["begun_with"].items():
            now = self._begun_with.get(name)
            # An earlier version kept this one, too.
            if value != now and name != "num_workers":
                raise UsageError(
                    f"{self.who}: {path} was begun with {name}: {value}, now {now}; put it back, or remove the file to start over"
                )
        with must_fit(path, "weights", self._remedy):
            self.net.load_state_dict(state["net"])
            self.optimizer.load_state_dict(state["optimizer"])
        self.epoch, self.log = state["epoch"], state["log"]
        self.load_own_state(state)
