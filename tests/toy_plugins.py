"""A plugin of every kind that a configuration can name, as a user would write them in a file of their own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydantic import Field

from usb_active import (
    Acquisition,
    Analysis,
    Answers,
    Dataset,
    Features,
    InitialLabels,
    Network,
    Oracle,
    PluginConfig,
    Prior,
    register_plugin,
)


@register_plugin("dataset", "toy_pool")
class ToyPool(Dataset):
    """Nothing but a name."""

    class Config(PluginConfig):
        noise: float = Field(0.0, ge=0)

    def prepare(self):
        self.keys, self.targets, self.queryable, self.class_names = ["a"], np.zeros(1, int), np.ones(1, bool), ("x",)

    def load(self, index):
        return np.zeros((8, 8), np.uint8)


@register_plugin("network", "toy_net")
class ToyNet(Network):
    """No network."""

    class Config(PluginConfig):
        width: int = Field(8, ge=1)

    def build(self, num_classes, img_size, in_channels, pretrained_path=None):
        raise NotImplementedError


@register_plugin("acquisition", "toy_first")
class ToyFirst(Acquisition):
    """The first ones."""

    class Config(PluginConfig):
        alpha: float = Field(0.5, ge=0, le=1)
        steps: int = 3
        flag: bool = False
        table: Path | None = None

    def select(self, view, budget):
        return view.candidates[:budget]


@register_plugin("acquisition", "toy_balanced")
class ToyBalanced(ToyFirst):
    """As many of each class."""

    per_class = True


@register_plugin("acquisition", "toy_apart")
class ToyApart(ToyFirst):
    """Wants labelled samples left out of the unlabelled stream."""

    include_labeled = False


@register_plugin("initial_labels", "toy_known")
class ToyKnown(InitialLabels):
    """Brings labels."""

    def known_labels(self, view):
        return np.array([0]), np.array([0])


@register_plugin("oracle", "toy_oracle")
class ToyOracle(Oracle):
    """Answers nothing."""

    def collect(self, query):
        return Answers()


@register_plugin("features", "toy_zeros")
class ToyZeros(Features):
    """Zeros."""

    def get(self, view):
        return np.zeros((1, 1), np.float32)


@register_plugin("prior", "toy_prior")
class ToyPrior(Prior):
    """None."""

    def fit(self, view, when):
        return None


@register_plugin("analysis", "toy_witness")
class ToyWitness(Analysis):
    """Watches nothing."""

    class Config(PluginConfig):
        interval: int = Field(5, ge=1)

    def report(self, run, out):
        return None


@register_plugin("algorithm", "toymatch")
class ToyMatch:
    """An algorithm with a key of its own, declared in USB's way."""

    @staticmethod
    def get_argument():
        class Argument:
            name, type, default = "--sharpness", float, 2.0

        return [Argument]

    def train_step(self):
        raise NotImplementedError
