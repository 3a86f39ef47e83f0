"""Small plugins, one for each seam of the core, as a user would write them in a file that the YAML's `plugins:` names.

They keep what they saw, so that a test can look at it: `algorithm.session.plugins["acquisition"]`.
"""

from __future__ import annotations

import copy
import random

import numpy as np
import torch
from pydantic import Field
from semilearn.algorithms.fixmatch import FixMatch
from semilearn.algorithms.fullysupervised import FullySupervised

from usb_active import Acquisition, InitialLabels, PluginConfig, Prior, PriorTable, UsageError, register_plugin


# ---------------------------------------------------------------------------------------------- picking
@register_plugin("acquisition", "quiet")
class Quiet(Acquisition):
    """Picks at random and looks at nothing."""

    def select(self, view, budget):
        return view.rng.permutation(view.candidates)[:budget]


@register_plugin("acquisition", "careless")
class Careless(Acquisition):
    """Breaks the contract of `select` in the way asked for."""

    class Config(PluginConfig):
        fault: str

    def select(self, view, budget):
        picks = view.candidates[:budget].copy()
        return {
            "too few": picks[:-1],
            "twice": np.append(picks[:-1], picks[0]),
            "labelled": np.append(picks[:-1], view.labeled[:1] if len(view.labeled) else len(view)),
            "floats": picks.astype(np.float64),
            "a column": picks[:, None],
        }[self.config.fault]


# ---------------------------------------------------------------------------------------------- observing
@register_plugin("acquisition", "watcher")
class Watcher(Quiet):
    """Keeps every step, and what an independent forward pass of the same weights gives; draws from all generators."""

    class Config(PluginConfig):
        recompute: bool = False
        hidden: list[str] = []

    interval = 3

    def __init__(self, config=None):
        super().__init__(config)
        self.batches, self.expected, self.interval_at = [], [], []

    @property
    def hidden_modules(self):
        return tuple(self.config.hidden)

    def before_train_step(self, algorithm):
        self._use_cat = algorithm.use_cat
        # The model changes in place; a copy stays as this step found it.
        self._net = copy.deepcopy(algorithm.model) if self.config.recompute else None

    def observe(self, batch):
        self.batches.append(batch)
        if self._net is not None:
            self.expected.append(self._logits(batch))
        _disturb_all_generators()

    @torch.no_grad()
    def _logits(self, batch):
        views = [batch.x_lb, batch.x_ulb_w, batch.x_ulb_s]
        if self._use_cat and batch.x_ulb_s is not None:
            return dict(zip(("lb", "weak", "strong"), self._net(torch.cat(views))["logits"].split([len(v) for v in views]), strict=True))
        pairs = zip(("lb", "weak", "strong"), views, strict=True)
        return {name: self._net(view)["logits"] for name, view in pairs if view is not None}

    def on_interval(self, view):
        self.interval_at.append(torch.nn.utils.parameters_to_vector(view.model.parameters()).detach())
        for _, values in view.predict(["probs"], view.candidates[:8], transform="strong", passes=2):
            assert values["probs"].shape == (2, 8, view.num_classes)
        _disturb_all_generators()


def _disturb_all_generators():
    torch.manual_seed(random.randrange(1000))
    torch.rand(3)
    np.random.seed(7)
    np.random.rand(2)


@register_plugin("acquisition", "demanding")
class Demanding(Quiet):
    """Needs the fields of a step that its config names."""

    class Config(PluginConfig):
        fields: list[str]

    @property
    def batch_fields(self):
        return frozenset(self.config.fields)

    def observe(self, batch):
        for name in self.config.fields:
            assert getattr(batch, name) is not None


# ---------------------------------------------------------------------------------------------- stages, setup
@register_plugin("acquisition", "diary")
class Diary(Quiet):
    """Writes down which of its methods is called when; its whole memory is state."""

    interval = 2

    def __init__(self, config=None):
        super().__init__(config)
        self.pages: list[str] = []
        self.infos = []

    def _note(self, what, algorithm):
        self.pages.append(f"{what} {algorithm.cycle}.{getattr(algorithm, 'epoch', 0)}.{algorithm.it}")

    def setup(self, info):
        self.infos.append(info)
        self.draw = float(torch.rand(1))
        self.pages.append(f"setup {info.cycle}")

    def before_run(self, algorithm):
        self._note("before_run", algorithm)

    def before_train_epoch(self, algorithm):
        self._note("before_train_epoch", algorithm)

    def before_train_step(self, algorithm):
        self._note("before_train_step", algorithm)

    def observe(self, batch):
        self.pages.append(f"observe {batch.cycle}.{batch.iteration}")

    def after_train_step(self, algorithm):
        self._note("after_train_step", algorithm)

    def on_interval(self, view):
        view.log("seen", len(self.pages))
        self.pages.append(f"on_interval {view.cycle}")

    def after_train_epoch(self, algorithm):
        self._note("after_train_epoch", algorithm)

    def after_run(self, algorithm):
        self._note("after_run", algorithm)

    def select(self, view, budget):
        self.pages.append(f"select {view.cycle}")
        return super().select(view, budget)

    def state_dict(self):
        return {"pages": list(self.pages)}

    def load_state_dict(self, state):
        self.pages = list(state["pages"])


# ---------------------------------------------------------------------------------------------- extra_loss, register_state
@register_plugin("acquisition", "decay")
class Decay(Quiet):
    """Adds 0.5·strength·‖θ‖², whose gradient is strength·θ: SGD's weight decay, written as a loss."""

    class Config(PluginConfig):
        strength: float = Field(0.01, ge=0)

    def setup(self, info):
        self._parameters = list(info.net.parameters())

    def extra_loss(self, batch):
        return 0.5 * self.config.strength * sum((p**2).sum() for p in self._parameters)


@register_plugin("acquisition", "odd_loss")
class OddLoss(Quiet):
    """Gives an extra loss that is none."""

    class Config(PluginConfig):
        value: float | list[float]

    def extra_loss(self, batch):
        return torch.tensor(self.config.value) if isinstance(self.config.value, list) else self.config.value


@register_plugin("acquisition", "loss_head")
class LossHead(Quiet):
    """A head of its own that learns the labelled loss from the features (as in learning loss), and counts its steps."""

    batch_fields = frozenset({"logits_lb", "feats"})

    def setup(self, info):
        sgd = lambda parameters: torch.optim.Adam(parameters, lr=0.01)  # noqa: E731 — a one-line factory
        self.head = info.register_state("head", lambda: torch.nn.Linear(info.feature_dim, 1), optimizer=sgd)
        self.fresh = self.head.weight.detach().clone()
        self.steps = 0

    def extra_loss(self, batch):
        self.steps += 1
        target = torch.nn.functional.cross_entropy(batch.logits_lb.float(), batch.y_lb, reduction="none")
        return ((self.head(batch.feats["x_lb"].float())[:, 0] - target.detach()) ** 2).mean()

    def state_dict(self):
        return {"steps": getattr(self, "steps", 0)}

    def load_state_dict(self, state):
        self.steps = state["steps"]


@register_plugin("acquisition", "twice_registered")
class TwiceRegistered(Quiet):
    """Registers one name twice."""

    def setup(self, info):
        for _ in range(2):
            info.register_state("head", lambda: torch.nn.Linear(2, 1))


@register_plugin("acquisition", "bad_state")
class BadState(Quiet):
    """Keeps a numpy array as state, which torch's safe mode would refuse at resume."""

    def state_dict(self):
        return {"array": np.zeros(2)}


# ---------------------------------------------------------------------------------------------- pseudo_labels
@register_plugin("acquisition", "labeller")
class Labeller(Quiet):
    """Gives pseudo-labels to its second choices; remembers them from `select` on."""

    def __init__(self, config=None):
        super().__init__(config)
        self.second: list[int] = []
        self.asked = 0

    def select(self, view, budget):
        order = view.rng.permutation(view.candidates)
        # The first one will be labelled by the oracle as well: the human's label has to win.
        self.second = [int(i) for i in order[[0, *range(budget, budget + 5)]]]
        return order[:budget]

    def pseudo_labels(self, view):
        self.asked += 1
        view.log("pseudo_labels", len(self.second))
        return np.array(self.second), np.full(len(self.second), 7)

    def state_dict(self):
        return {"second": list(self.second), "asked": self.asked}

    def load_state_dict(self, state):
        self.second, self.asked = list(state["second"]), state["asked"]


# ---------------------------------------------------------------------------------------------- priors
@register_plugin("prior", "made")
class MadePrior(Prior):
    """A table made on the spot; notes when it was asked.

    `table`: zero, one_hot (class (i + shift) mod C for sample i), half (as one_hot, for even i only), or a broken one.
    """

    class Config(PluginConfig):
        table: str = "zero"
        when: list[str] = ["start"]

    def __init__(self, config=None):
        super().__init__(config)
        self.asked, self.shown = [], []

    def fit(self, view, when):
        self.asked.append((when, view.cycle))
        self.shown.append(view.labeled)
        if when not in self.config.when:
            return None
        shift = {"start": 0, "step": 3, "end": 5}[when] + view.cycle
        return PriorTable(made_table(self.config.table, len(view), view.num_classes, shift))


def made_table(kind, size, num_classes, shift=0):
    """(N, C) float32."""
    table = np.zeros((size, num_classes), dtype=np.float32)
    rows = np.arange(size)
    if kind == "short":
        return table[:-1]
    if kind == "zero":
        return table
    if kind == "half":
        rows = rows[::2]
    table[rows, (rows + shift) % num_classes] = 1
    if kind == "sums":
        table[[4, 9]] *= 0.5
    if kind == "nan":
        table[11, 0] = np.nan
    if kind == "negative":
        table[5, :2] = [-0.5, 1.5]
    return table


@register_plugin("prior", "probing")
class ProbingPrior(Prior):
    """One-hot of the model's own predictions at the time; the model must therefore be the right one."""

    class Config(PluginConfig):
        when: list[str] = ["end"]

    def fit(self, view, when):
        if when not in self.config.when:
            return None
        idx = np.arange(len(view))
        probs = np.concatenate([values["probs"][0] for _, values in view.predict(["probs"], idx)])
        return PriorTable(np.eye(view.num_classes, dtype=np.float32)[probs.argmax(axis=1)])


# ---------------------------------------------------------------------------------------------- algorithms
@register_plugin("algorithm", "growing")
class Growing(FullySupervised):
    """Supervised epochs over the labelled set, as many steps as it takes, each sample once; batches of 7, the last one smaller."""

    BATCH = 7

    def plan(self, pool):
        self.steps_an_epoch = -(-len(pool.labeled) // self.BATCH)
        return 3, 3 * self.steps_an_epoch

    def make_sampler(self, split, epoch, start):
        if split != "lb":
            return None
        order = np.random.default_rng([self.cycle, epoch]).permutation(self.session.pool.labeled)
        self.__dict__.setdefault("starts", []).append((self.cycle, epoch, start))
        return (order[k * self.BATCH : (k + 1) * self.BATCH] for k in range(start, self.steps_an_epoch))

    def train_step(self, x_lb, y_lb):
        self.__dict__.setdefault("seen", []).append((self.cycle, self.epoch, self._loaded["idx_lb"].tolist()))
        return super().train_step(x_lb, y_lb)


@register_plugin("algorithm", "both_streams")
class BothStreams(FixMatch):
    """FixMatch with labelled batches of a size that varies, from an endless sampler, beside USB's own unlabelled ones."""

    def make_sampler(self, split, epoch, start):
        return self._endless(epoch, start) if split == "lb" else None

    def _endless(self, epoch, start):
        labeled = self.session.pool.labeled
        while True:
            yield np.random.default_rng([self.cycle, epoch, start]).choice(labeled, 3 + start % 4)
            start += 1


@register_plugin("algorithm", "running_dry")
class RunningDry(FullySupervised):
    """Its sampler has fewer batches than the epoch has steps, or names a sample that has no label."""

    def make_sampler(self, split, epoch, start):
        if split != "lb":
            return None
        return iter([self.session.pool.labeled[:4]] * 2 if epoch == 0 else [self.session.pool.unlabeled[:2]])


@register_plugin("algorithm", "curious")
class Curious(FixMatch):
    """Looks at the pool itself in the middle of a training."""

    def train_step(self, x_lb, y_lb, x_ulb_w, x_ulb_s):
        view = self.session.algorithm_view(frozenset({"probs"}))
        self.__dict__.setdefault("sums", []).append(float(view.probs.sum()))
        self.shown = view.labeled
        return super().train_step(x_lb, y_lb, x_ulb_w, x_ulb_s)


# ---------------------------------------------------------------------------------------------- the view
@register_plugin("acquisition", "explorer")
class Explorer(Acquisition):
    """Calls every method of the view it is given, and keeps what came."""

    class Config(PluginConfig):
        needs: list[str] = ["features", "probs", "truth"]

    def __init__(self, config=None):
        super().__init__(config)
        self.kept = []
        self.made = 0

    @property
    def needs(self):
        return frozenset(self.config.needs)

    def select(self, view, budget):
        self.view = view
        kept = {
            "draw": view.rng.random(),
            "scratch": view.scratch.is_dir() and view.scratch,
            "artifact": np.array(view.artifact("squares", self._make)),
        }
        view.audit(lambda truth: kept.update(truth=truth))
        view.log("budget", budget)
        self.kept.append(kept)
        return view.candidates[:budget]

    def _make(self):
        self.made += 1
        return np.arange(4) ** 2


@register_plugin("initial_labels", "teller")
class Teller(InitialLabels):
    """Brings labels that exist already; broken in the way asked for."""

    class Config(PluginConfig):
        fault: str = ""

    def known_labels(self, view):
        idx, labels = np.arange(20), np.arange(20) % view.num_classes
        if self.config.fault == "class":
            labels[3] = -1
        if self.config.fault == "sample":
            idx[3] = len(view)
        if self.config.fault == "twice":
            idx[3] = 4
        if self.config.fault == "floats":
            labels = labels + 0.5
        if self.config.fault == "no such class":
            labels[7] = view.num_classes
        if self.config.fault == "names":
            labels = [view.dataset.class_names[label] for label in labels]
        if self.config.fault == "lengths":
            labels = labels[1:]
        if self.config.fault == "ragged":
            idx = [[0], [1, 2]]
        if self.config.fault == "nothing":
            return None
        if self.config.fault == "empty":
            return [], []
        return idx, labels


@register_plugin("acquisition", "stopper")
class Stopper(Labeller):
    """Stops the process where a crash would: once, at the step named."""

    class Config(PluginConfig):
        flag: str
        at: str

    def _stop(self, where):
        from pathlib import Path

        flag = Path(self.config.flag)
        if where == self.config.at and not flag.exists():
            flag.touch()
            raise UsageError(f"stopped at {where}")

    def pseudo_labels(self, view):
        if view.cycle:
            self._stop("pseudo_labels")
        return super().pseudo_labels(view)

    def before_run(self, algorithm):
        if algorithm.cycle:
            self._stop("before_run")
