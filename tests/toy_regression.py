"""A second kind of label, as a user would bring it: one real number per image, learned by the mean absolute error.

A data set, its task, and an algorithm; whatever else a run of it needs is the core's and knows nothing of numbers.
"""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import torch
from pydantic import Field

from usb_active import Acquisition, Metric, OpenTask, PluginConfig, Prior, Samples, register_plugin
from usb_active.contracts.dataset import ImageDataset
from usb_active.usb.bases import AlgorithmBase, OwnAlgorithm


class RealNumber(OpenTask):
    """A real number, in files as Python writes it."""

    name = "number"
    metrics = (
        Metric("mae", "mean absolute error", higher_is_better=False, short="error"),
        Metric("rmse", "root mean squared error", higher_is_better=False, digits=4),
    )
    num_outputs = 1
    noun, problem, valid = "number", "not a number", "a number, such as 0.37"
    prediction_columns = ("number",)

    def canonical(self, text):
        value = float(text.strip().replace(",", "."))
        if not math.isfinite(value):
            raise ValueError(f"not finite: {text}")
        return repr(value)

    def targets(self, labels):
        return np.array([float(self.decode(label)) if label >= 0 else np.nan for label in labels], dtype=np.float32)

    def evaluate(self, outputs, targets):
        errors = outputs[:, 0].astype(np.float64) - targets
        return {"mae": float(np.abs(errors).mean()), "rmse": float(np.sqrt((errors**2).mean()))}

    def predictions(self, values):
        return ((f"{value:.6f}",) for value in values[:, 0])


@register_plugin("dataset", "brightness")
class Brightness(ImageDataset):
    """Grey images of 8×8 pixels; the label is how bright they are, from 0 to 1 with three digits."""

    class Config(PluginConfig):
        size: int = Field(90, ge=1)

    mean, std = (0.5,), (0.3,)
    img_size, in_channels = 8, 1

    @classmethod
    def task_of(cls, config, class_names):
        return RealNumber()

    def prepare(self):
        rng = np.random.default_rng(0)
        level = rng.integers(20, 236, self.config.size + 30)
        noise = rng.integers(-20, 20, (len(level), 8, 8))
        self._images = (level[:, None, None] + noise).astype(np.uint8)
        labels = np.array([self.task.encode(f"{image.mean() / 255:.3f}") for image in self._images])
        self.keys = [f"grey/{number:03d}" for number in range(self.config.size)]
        self.targets, held = labels[: self.config.size], labels[self.config.size :]
        self.queryable = np.ones(self.config.size, dtype=bool)
        self.test = Samples(partial(_at, self._images[self.config.size :]), held)

    def load(self, index):
        return self._images[index]


def _at(images, index):
    return images[index]


@register_plugin("algorithm", "l1")
class L1(OwnAlgorithm, AlgorithmBase):
    """The mean absolute error on labelled images, and nothing else."""

    tasks = frozenset({"number"})
    unlabeled_views = {}

    def train_step(self, x_lb, y_lb):
        loss = torch.nn.functional.l1_loss(self.model(x_lb)["logits"][:, 0], y_lb)
        return self.process_out_dict(loss=loss), self.process_log_dict(loss=loss.item())


@register_plugin("acquisition", "curious")
class Curious(Acquisition):
    """Asks what the view says of labels, and keeps it."""

    class Config(PluginConfig):
        ask: str = ""
        outputs: list[str] = ["logits"]

    def select(self, view, budget):
        self.labels, self.seen = view.labels, getattr(view, self.config.ask) if self.config.ask else None
        self.outputs = list(view.predict(self.config.outputs, view.candidates[:3])) if view.cycle else []
        view.audit(self._fail)
        return view.rng.permutation(view.candidates)[:budget]

    @staticmethod
    def _fail(truth):
        raise AssertionError("audits are of classes")


@register_plugin("acquisition", "presumptuous")
class Presumptuous(Curious):
    """Gives pseudo-labels."""

    def pseudo_labels(self, view):
        return (), ()


@register_plugin("prior", "guess")
class Guess(Prior):
    """Of no class."""

    def fit(self, view, when):
        return None
