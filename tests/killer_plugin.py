"""A plugin file that ends its own process, or fills its disk, at a point that the environment names.

The YAML of the broken run and of the one that resumes is the same; without the variables the file only brings plugins with
state. `USB_ACTIVE_TEST_POINT` is a key of `POINTS`, `USB_ACTIVE_TEST_ACT` one of `ACTS`.
"""

from __future__ import annotations

import errno
import os
import resource
import signal

import numpy as np
import torch

from usb_active import Acquisition, Prior, PriorTable, register_plugin
from usb_active.pool import inference
from usb_active.storage import checkpoint, durable, journal, run_dir
from usb_active.storage.run_dir import RunDir
from usb_active.usb.algorithm import ActiveMixin
from usb_active.usb.hooks import ActiveCheckpointHook

POINT, ACT = os.environ.get("USB_ACTIVE_TEST_POINT", ""), os.environ.get("USB_ACTIVE_TEST_ACT", "kill")
# Where it happens: what went before must survive, what comes after must follow from it.
CYCLE = 1


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _interrupt() -> None:
    # As a terminal does: to the process and to the workers of its loaders.
    os.killpg(0, signal.SIGINT)


def _fill_disk() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _read_only() -> None:
    raise OSError(errno.EROFS, os.strerror(errno.EROFS))


def _limit_files() -> None:
    # The system itself refuses to write more.
    resource.setrlimit(resource.RLIMIT_FSIZE, (1700, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


ACTS = {"kill": _kill, "interrupt": _interrupt, "full": _fill_disk, "read_only": _read_only, "limit": _limit_files}


def fire() -> None:
    """What the environment asks for."""
    ACTS[ACT]()


# ---------------------------------------------------------------------------------------------------------- plugins with state
class RunningMean(Acquisition):
    """Picks by the running mean of weak predictions, by today's model, and by how often it was asked: all of it is state."""

    def __init__(self, config=None):
        super().__init__(config)
        # Longer than a cycle.
        self.rounds: list[int] = []

    @property
    def needs(self):
        return frozenset({"probs"})

    def setup(self, info):
        self.total = torch.zeros(info.num_samples, info.num_classes)
        self.count = torch.zeros(info.num_samples)

    def observe(self, batch):
        if batch.probs_weak is None:
            idx, probs = batch.idx_lb, torch.softmax(batch.logits_lb.detach(), dim=1)
        else:
            idx, probs = batch.idx_ulb, batch.probs_weak.detach()
        # Draws: a plugin may, and no training changes.
        self.total.index_add_(0, idx, probs * torch.rand(len(probs), 1))
        self.count.index_add_(0, idx, torch.ones(len(idx)))

    def select(self, view, budget):
        if POINT == "select" and view.cycle == CYCLE:
            fire()
        mean = (self.total / self.count.clamp_min(1)[:, None]).numpy() + view.probs
        scores = mean[view.candidates].max(axis=1) + 1e-3 * view.rng.random(len(view.candidates))
        self.rounds.append(view.cycle)
        return view.candidates[np.roll(np.argsort(scores), -7 * len(self.rounds))[:budget]]

    def state_dict(self):
        tables = {"total": self.total, "count": self.count} if hasattr(self, "total") else {}
        return {"rounds": list(self.rounds), **tables}

    def load_state_dict(self, state):
        self.rounds = list(state["rounds"])
        if "total" in state:
            self.total, self.count = state["total"].clone(), state["count"].clone()


register_plugin("acquisition", "running_mean")(RunningMean)


@register_plugin("acquisition", "running_mean_head")
class RunningMeanHead(RunningMean):
    """The same, with a module and an optimizer of its own."""

    def setup(self, info):
        super().setup(info)
        make = lambda: torch.nn.Linear(info.feature_dim, info.num_classes)  # noqa: E731 — closure
        self.head = info.register_state("head", make, lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9))

    def extra_loss(self, batch):
        return 0.3 * torch.nn.functional.cross_entropy(self.head(batch.feats["x_lb"]), batch.y_lb)


@register_plugin("acquisition", "running_mean_pseudo")
class RunningMeanPseudo(RunningMean):
    """The same, and labels for the next training from what `select` left behind."""

    def select(self, view, budget):
        picks = super().select(view, budget)
        self.left = torch.from_numpy(np.setdiff1d(view.candidates, picks)[:: len(self.rounds) + 3][:9].copy())
        return picks

    def pseudo_labels(self, view):
        # State again, that the next query depends on.
        self.rounds.append(-1)
        idx = self.left.numpy()
        probs = np.concatenate([values["probs"][0] for _, values in view.predict(["probs"], idx)])
        return idx, probs.argmax(axis=1)

    def state_dict(self):
        return {**super().state_dict(), **({"left": self.left} if hasattr(self, "left") else {})}

    def load_state_dict(self, state):
        super().load_state_dict(state)
        if "left" in state:
            self.left = state["left"]


@register_plugin("acquisition", "staged")
class Staged(RunningMean):
    """Counts USB's stages, and picks by the counts."""

    def __init__(self, config=None):
        super().__init__(config)
        self.stages: dict[str, int] = {}

    def _count(self, stage):
        self.stages[stage] = self.stages.get(stage, 0) + 1

    def before_run(self, algorithm):
        self._count("before_run")

    def before_train_epoch(self, algorithm):
        self._count("before_train_epoch")

    def before_train_step(self, algorithm):
        self._count("before_train_step")

    def after_train_step(self, algorithm):
        self._count("after_train_step")

    def after_train_epoch(self, algorithm):
        self._count("after_train_epoch")

    def after_run(self, algorithm):
        self._count("after_run")

    def select(self, view, budget):
        picks = super().select(view, len(view.candidates))
        for stage, count in self.stages.items():
            view.log(stage, count)
        return np.roll(picks, sum(self.stages.values()))[:budget]

    def state_dict(self):
        return {**super().state_dict(), "stages": dict(self.stages)}

    def load_state_dict(self, state):
        super().load_state_dict(state)
        self.stages = dict(state["stages"])


@register_plugin("prior", "learned")
class Learned(Prior):
    """Half of the model's own predictions, sharper at every fit: a table that depends on state and on the model."""

    def __init__(self, config=None):
        super().__init__(config)
        self.fits = 0

    def fit(self, view, when):
        self.fits += 1
        if when == "start":
            return None
        rows = np.zeros((len(view), view.num_classes), dtype=np.float32)
        idx = view.unlabeled[:: self.fits + 1]
        probs = np.concatenate([values["probs"][0] for _, values in view.predict(["probs"], idx)])
        rows[idx] = np.eye(view.num_classes, dtype=np.float32)[probs.argmax(axis=1)]
        return PriorTable(rows)

    def state_dict(self):
        return {"fits": self.fits}

    def load_state_dict(self, state):
        self.fits = state["fits"]


# ---------------------------------------------------------------------------------------------------------- the named points
def _around(owner, name, *, before=None, after=None) -> None:
    """Fire before or after a call of `owner.name`, when the given test of its arguments says so."""
    original = getattr(owner, name)

    def wrapped(*args, **kwargs):
        if before is not None and before(*args, **kwargs):
            fire()
        result = original(*args, **kwargs)
        if after is not None and after(*args, **kwargs):
            fire()
        return result

    setattr(owner, name, wrapped)


def _at_step(iteration: int) -> None:
    _around(ActiveMixin, "train_step", before=lambda trainer, **_: (trainer.cycle, trainer.it) == (CYCLE, iteration))


def _after_checkpoint(iteration: int) -> None:
    at = lambda hook, trainer: (trainer.cycle, trainer.it + 1) == (CYCLE, iteration)  # noqa: E731 — closure
    _around(ActiveCheckpointHook, "after_train_step", after=at)


def _in_predict() -> None:
    original = inference.predict

    def predict(model, rows, *args):
        for item in original(model, rows, *args):
            yield item
            if rows.position[0] == CYCLE:
                fire()

    inference.predict = predict


def _wrote(name: str):
    return lambda run, file, *_: file == name


class _Failing:
    """A file of which a part is written before something happens."""

    def __init__(self, file, size: int):
        self._file, self._left = file, size

    def write(self, data):
        data = memoryview(data).cast("B")
        self._file.write(data[: self._left])
        self._left -= min(self._left, len(data))
        if self._left == 0:
            self._file.flush()
            fire()
        return len(data)

    def __getattr__(self, name):
        return getattr(self._file, name)


def _in_checkpoint(number: int = 2, size: int = 5000) -> None:
    """In the middle of writing a cycle's checkpoint for the `number`-th time."""
    original, seen = checkpoint.atomic_write, []

    def atomic_write(path, writer):
        if (path.parent.name, path.name) == (f"cycle_{CYCLE:03d}", "latest_model.pth"):
            seen.append(path)
        chosen = len(seen) == number
        if chosen and ACT == "limit":
            fire()
        original(path, (lambda file: writer(_Failing(file, size))) if chosen and ACT != "limit" else writer)

    checkpoint.atomic_write = atomic_write


def _at_call(owner, name: str, number: int) -> None:
    """Before the `number`-th call of a system call, as durable.py makes it."""
    calls = []

    def chosen(*_, **__):
        calls.append(name)
        return len(calls) == number

    _around(owner, name, before=chosen)


def _in_first_folder() -> None:
    """When the first folder of the run is made durable; what tries the configuration out beforehand lies elsewhere."""
    calls = []

    def chosen(folder):
        calls.extend([folder] if "usb-active-" not in str(folder) else [])
        return len(calls) == 1

    _around(durable, "sync_folder", before=chosen)


def _in_labels(cycle: int = CYCLE) -> None:
    """After half of the rows are in the file."""
    original = journal.write_all

    def write_all(fd, data):
        if b"\n%d," % cycle in b"\n" + data:
            original(fd, data[: len(data) // 2])
            fire()
            data = data[len(data) // 2 :]
        original(fd, data)

    journal.write_all = write_all


def _sync_of_labels() -> None:
    """When the rows are in the file, and the disk is asked to keep them."""
    append, sync, rows = journal.append_journal, os.fsync, []

    def append_journal(path, added):
        rows[:] = added
        append(path, added)

    def fsync(fd):
        if rows and rows.pop().cycle == CYCLE:
            fire()
        sync(fd)

    run_dir.append_journal, journal.os.fsync = append_journal, fsync


POINTS = {
    "train_early": lambda: _at_step(2),
    "train": lambda: _at_step(9),
    "epoch_end": lambda: _after_checkpoint(6),
    "training_end": lambda: _after_checkpoint(12),
    "predict": _in_predict,
    "select": lambda: None,
    "before_query": lambda: _around(RunDir, "save_query", before=lambda run, query: query.cycle == CYCLE),
    "query": lambda: _around(RunDir, "save_query", after=lambda run, query: query.cycle == CYCLE),
    "in_labels": _in_labels,
    "before_first_labels": lambda: _around(RunDir, "write_json", after=_wrote("dataset.json")),
    "in_first_labels": lambda: _in_labels(0),
    "first_query": lambda: _around(RunDir, "save_query", after=lambda run, query: query.cycle == 0),
    "first_start": lambda: _around(RunDir, "write_json", after=_wrote("cycle_000/start.json")),
    "labels": lambda: _around(RunDir, "append_rows", after=lambda run, rows: rows[0].cycle == CYCLE),
    "first_labels": lambda: _around(RunDir, "append_rows", after=lambda run, rows: rows[0].cycle == 0),
    "start": lambda: _around(RunDir, "write_json", after=_wrote(f"cycle_{CYCLE:03d}/start.json")),
    "checkpoint": _in_checkpoint,
    "before_done": lambda: _around(RunDir, "write_json", before=_wrote(f"cycle_{CYCLE:03d}/done.json")),
    "done": lambda: _around(RunDir, "write_json", after=_wrote(f"cycle_{CYCLE - 1:03d}/done.json")),
    "last_done": lambda: _around(RunDir, "write_json", after=_wrote(f"cycle_{CYCLE:03d}/done.json")),
    "fsync_labels": _sync_of_labels,
    "open": lambda: _in_first_folder(),
    "fsync": lambda: _at_call(durable.os, "fsync", 45),
    "replace": lambda: _at_call(durable.os, "replace", 20),
}
if POINT:
    POINTS[POINT]()
