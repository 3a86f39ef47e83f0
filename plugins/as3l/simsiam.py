"""SimSiam as a pretrainer: a network learns to predict, from one view of an image, what it makes of another."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import cos, pi
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import nn
from usb_active.plugins.as3l.views import SimSiamView

from usb_active import Dataset, EpochTraining, PluginConfig, Pretrained, Pretrainer, UsageError, free_key, generator
from usb_active.pool.inference import PoolRows, view_loader
from usb_active.randomness import seeded_globals

logger = logging.getLogger("usb_active")

WHO = "pretrain: 'simsiam'"
# Outputs on the sphere that do not collapse have a standard deviation of nearly 1/√d in each dimension (§4.1). They have collapsed
# below this share of it, or on less than so many directions (ours: without the stopped gradient there are 1 to 2.5 on digits).
_COLLAPSED_STD = 0.5
_COLLAPSED_DIRECTIONS = 3.0


class SimSiamConfig(PluginConfig):
    """Keys; the defaults are those of SimSiam's CIFAR experiments (Chen and He 2021, appendix D), which AS3L follows (§4.1.3).

    Attributes:
        epochs: over the pool.
        batch_size: an epoch drops what does not fill a batch.
        lr: base rate, times batch_size / 256 (§3, baseline settings); half a cosine over the epochs.
        momentum: of SGD.
        weight_decay: of SGD.
        fixed_predictor_lr: the prediction head keeps the rate of the start (§4.2, Table 1, slightly better; the form of its later
            studies).
        projection_layers: 2 for CIFAR, 3 for ImageNet.
        projection_dim: d of all of them.
        prediction_dim: of the prediction head's hidden layer.
        crop: the least share of the area that a view shows; more than 0.2 suits images of a few pixels, of which a fifth shows nothing.
        flip: None: as the data set has it.
        stop_gradient: false is the collapse of Fig. 2.
        num_workers: processes that load images.
    """

    epochs: int = Field(800, ge=1)
    batch_size: int = Field(512, ge=2)
    lr: float = Field(0.03, gt=0, allow_inf_nan=False)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(5e-4, ge=0, allow_inf_nan=False)
    fixed_predictor_lr: bool = True
    projection_layers: int = Field(2, ge=1)
    projection_dim: int = Field(2048, ge=2)
    prediction_dim: int = Field(512, ge=1)
    crop: float = Field(0.2, gt=0, le=1)
    flip: bool | None = None
    stop_gradient: bool = True
    num_workers: int = free_key(0, ge=0)


class SimSiam(Pretrainer):
    """SimSiam (Chen and He, "Exploring Simple Siamese Representation Learning", CVPR 2021), f_self of AS3L (§3.1).

    Two views of an image go through the network and a projection head, z; a prediction head on one of them, p, is drawn towards
    the other without a gradient there: ½ D(p₁, stop z₂) + ½ D(p₂, stop z₁), D the negative cosine (Eq. 1–4). SGD; weight decay on
    everything; the rate changes from epoch to epoch. The views are `SimSiamView`. No label is looked at.

    The network keeps what USB made of its batch norms: wide ResNets follow with a momentum of 0.001, and some thousands of steps
    pass before the running statistics, with which features are taken, mean anything.

    `scratch/simsiam.jsonl` has a line for each epoch: loss (−1 at best), lr; and of its last batch, std, the standard deviation
    of z/‖z‖ averaged over its d dimensions, uniform_std = 1/√d, which it is on a sphere evenly filled, directions, on how many
    directions z lies (a participation ratio), and collapsed. Both tell of a collapse: the last batch norm keeps std up even where
    z lies on a line. A killed run resumes after the last whole epoch and, on the CPU, ends with the same bits.
    """

    Config = SimSiamConfig

    def run(
        self, build_net: Callable[[], nn.Module], dataset: Dataset, scratch: Path, rng: np.random.Generator, device: torch.device
    ) -> Pretrained:
        if len(dataset) < self.config.batch_size:
            raise UsageError(f"{WHO}: batch_size: {self.config.batch_size}; the pool has {len(dataset)} samples, which fill no batch")
        return _Training(self.config, build_net().to(device), dataset, int(rng.integers(2**31)), device).run(scratch)


class _Training(EpochTraining):
    """Adds the two heads."""

    def __init__(self, config: SimSiamConfig, net: nn.Module, dataset: Dataset, seed: int, device: torch.device):
        super().__init__("simsiam", config, net, dataset, seed, device)
        # Made on the CPU: the same on every device.
        with seeded_globals(seed, "simsiam", "heads"):
            self.projection = projection_head(self._feature_dim(), config.projection_dim, config.projection_layers).to(device)
            self.prediction = prediction_head(config.projection_dim, config.prediction_dim).to(device)
        # The decay is on batch norms and biases too (appendix A).
        groups = [[*net.parameters(), *self.projection.parameters()], self.prediction.parameters()]
        self.optimizer = torch.optim.SGD(
            [{"params": group} for group in groups], self._initial_lr, momentum=config.momentum, weight_decay=config.weight_decay
        )
        self._augmented = Augmented(dataset, config)

    @property
    def _initial_lr(self) -> float:
        return self.config.lr * self.config.batch_size / 256

    def _feature_dim(self) -> int:
        view = self.dataset.views.eval(self.dataset.load(0))
        with torch.no_grad():
            training = self.net.training
            features = self.net.eval()(view[None].to(self.device), only_feat=True)
            self.net.train(training)
        return features.shape[1]

    def train_epoch(self) -> dict[str, Any]:
        """Two views of every sample; an incomplete last batch is dropped."""
        lr = self._set_lr()
        for module in (self.net, self.projection, self.prediction):
            module.train()
        batches = self._batches()
        total, z = torch.zeros((), device=self.device), None
        for number, batch in enumerate(self._loader(batches)):
            self.seed_step(number)
            loss, z = self._step(*batch["x"].to(self.device))
            total += loss
        return {"loss": self.finite(total.item() / len(batches)), "lr": lr, **spread(z)}

    def _set_lr(self) -> float:
        lr = self._initial_lr * 0.5 * (1 + cos(pi * self.epoch / self.config.epochs))
        self.optimizer.param_groups[0]["lr"] = lr
        self.optimizer.param_groups[1]["lr"] = self._initial_lr if self.config.fixed_predictor_lr else lr
        return lr

    def _batches(self) -> list[tuple[int, np.ndarray]]:
        size = self.config.batch_size
        order = generator(self.seed, *self.position, "order").permutation(len(self.dataset))
        return [(number, order[number * size : (number + 1) * size]) for number in range(len(order) // size)]

    def _loader(self, batches: list[tuple[int, np.ndarray]]) -> Any:
        rows = PoolRows(self._augmented, np.arange(len(self.dataset)), "simsiam", 2, self.seed, self.position)
        return view_loader(rows, batches, self.config.num_workers)

    def _step(self, *views: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss, and z (B, d) of the first view."""
        # One after the other: batch norm takes its statistics from one kind of view at a time.
        outputs = [self.projection(self.net(view, only_feat=True)) for view in views]
        predicted = [self.prediction(z) for z in outputs]
        targets = [z.detach() for z in outputs] if self.config.stop_gradient else outputs
        loss = (negative_cosine(predicted[0], targets[1]) + negative_cosine(predicted[1], targets[0])) / 2
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.detach(), outputs[0].detach()

    def own_state(self) -> dict[str, Any]:
        return {"projection": self.projection.state_dict(), "prediction": self.prediction.state_dict()}

    def load_own_state(self, state: Mapping[str, Any]) -> None:
        self.projection.load_state_dict(state["projection"])
        self.prediction.load_state_dict(state["prediction"])

    def report(self, line: Mapping[str, Any]) -> None:
        where = f"simsiam: epoch {line['epoch']} of {self.config.epochs}"
        spread_of = f"std {line['std']:.4f} (1/√d is {line['uniform_std']:.4f}), on {line['directions']:.0f} directions"
        logger.info(f"{where}: loss {line['loss']:.4f}, {spread_of}")
        if line["collapsed"]:
            logger.warning(f"{where}: the outputs have collapsed, {spread_of}; features of such a network tell little apart")


@dataclass
class Augmented:
    """A dataset with SimSiam's view instead of its own."""

    dataset: Dataset
    config: SimSiamConfig

    @cached_property
    def views(self) -> Augmented:
        return self

    @cached_property
    def simsiam(self) -> SimSiamView:
        return SimSiamView(self.dataset, self.config.crop, self.config.flip)

    @property
    def load(self) -> Callable[[int], Any]:
        return self.dataset.load

    @property
    def collate(self) -> Callable | None:
        return self.dataset.collate


def projection_head(features: int, dim: int, layers: int) -> nn.Sequential:
    """Layers of `dim` with batch norm each, ReLU between them: 2 for CIFAR (appendix D), 3 for ImageNet (§3).

    As in the authors' code, the last batch norm neither scales nor shifts, and what a batch norm follows has no bias.
    """
    modules: list[nn.Module] = []
    for layer in range(layers):
        last = layer == layers - 1
        modules += [nn.Linear(dim if layer else features, dim, bias=False), nn.BatchNorm1d(dim, affine=not last)]
        modules += [] if last else [nn.ReLU(inplace=True)]
    return nn.Sequential(*modules)


def prediction_head(dim: int, hidden: int) -> nn.Sequential:
    """dim → hidden → dim, with batch norm and ReLU between (§3)."""
    return nn.Sequential(nn.Linear(dim, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU(inplace=True), nn.Linear(hidden, dim))


def negative_cosine(p: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    """D(p, z) of (B, d) and (B, d): less the cosine, averaged over the batch; −1 … 1 (Eq. 1)."""
    return -nn.functional.cosine_similarity(p, z, dim=1).mean()


def spread(z: torch.Tensor) -> dict[str, Any]:
    """How z (B, d) is spread: std, uniform_std, directions, collapsed. See `SimSiam`."""
    unit = nn.functional.normalize(z.double(), dim=1)
    centred = unit - unit.mean(dim=0)
    std, uniform = centred.square().mean(dim=0).sqrt().mean().item(), z.shape[1] ** -0.5
    # Of the covariance's eigenvalues λ: (Σλ)² / Σλ², from the products of the rows, which are fewer.
    products = centred @ centred.T
    squares = products.square().sum().item()
    directions = products.trace().item() ** 2 / squares if squares > 0 else 0.0
    # Few rows or few dimensions have few directions at best.
    least = min(_COLLAPSED_DIRECTIONS, min(len(z) - 1, z.shape[1]) / 2)
    collapsed = std < _COLLAPSED_STD * uniform or directions < least
    return {"std": std, "uniform_std": uniform, "directions": directions, "collapsed": collapsed}
