"""DeepCluster as a pretrainer: the clusters of its own features are what a network learns, again every epoch."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import nn
from usb_active.plugins.jlp.clustering import agreement, kmeans, project, uniform_sampling, without_empty

from usb_active import Dataset, EpochTraining, PluginConfig, Pretrained, Pretrainer, UsageError, free_key, generator
from usb_active.numerics.arrays import unit_rows
from usb_active.pool.inference import PoolRows, collect, predict, view_loader
from usb_active.randomness import position_seed, seeded_globals

logger = logging.getLogger("usb_active")

WHO = "pretrain: 'deepcluster'"
# The standard deviation of a new head's weights (the DeepCluster authors' code).
_HEAD_STD = 0.01


class DeepClusterConfig(PluginConfig):
    """Keys. Of the label propagation paper (Siméoni et al. 2021, section VI.A): 250 epochs, otherwise "the settings of" DeepCluster.

    Of its authors' code: clusters_per_class 5, lr 0.02, batch_size 128; they also switched `pca` and `whiten` off.
    Of DeepCluster (Caron et al. 2018): momentum 0.9, weight_decay 1e-5, PCA to 256 components with whitening, 20 iterations
    of k-means.

    Attributes:
        epochs: over the pool.
        clusters: their number, in place of clusters_per_class times the number of classes.
        clusters_per_class: their number for each class.
        pca: whether the features are reduced.
        pca_dim: components; None: 256, or as many as there are features where those are fewer.
        whiten: without `pca`, of all components.
        iterations: of k-means.
        lr: of SGD.
        momentum: of SGD.
        weight_decay: of SGD.
        batch_size: at most so many; the batches of an epoch are of equal size but for one sample.
        num_workers: processes that load images.
    """

    epochs: int = Field(250, ge=1)
    clusters: int | None = Field(None, ge=2)
    clusters_per_class: int = Field(5, ge=1)
    pca: bool = True
    pca_dim: int | None = Field(None, ge=1)
    whiten: bool = True
    iterations: int = Field(20, ge=1)
    lr: float = Field(0.02, gt=0, allow_inf_nan=False)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(1e-5, ge=0, allow_inf_nan=False)
    batch_size: int = Field(128, ge=2)
    num_workers: int = free_key(0, ge=0)

    @model_validator(mode="after")
    def _no_key_without_effect(self) -> DeepClusterConfig:
        if self.clusters is not None and "clusters_per_class" in self.model_fields_set:
            raise ValueError("clusters and clusters_per_class: give one of them")
        if self.pca_dim is not None and not self.pca:
            raise ValueError("pca_dim: has no effect with `pca: false`")
        return self


class DeepCluster(Pretrainer):
    """DeepCluster (Caron et al. 2018), the unsupervised pre-training PRE of Siméoni et al. 2021 (section IV).

    Every epoch: features of the whole pool in the eval view; PCA, whitening, rows of length one; k-means; a new linear head,
    one output for each cluster that is not empty; then as many weak views as the pool has samples, drawn evenly from the
    clusters, with the cross-entropy of their clusters. No label is looked at.

    The head has the momentum that the network has (ours; in DeepCluster's code it has none). The rate is constant.
    A new head needs some dozens of steps before it teaches anything: a pool of a few thousand wants a smaller batch_size
    and a larger lr than the defaults, else the loss stays at the logarithm of the number of clusters.

    `scratch/deepcluster.jsonl` has a line for each epoch: clusters, empty ones, nmi and kept (see `agreement`, against the
    epoch before), loss. A killed run resumes after the last whole epoch and, on the CPU, ends with the same bits.
    """

    Config = DeepClusterConfig

    def run(
        self, build_net: Callable[[], nn.Module], dataset: Dataset, scratch: Path, rng: np.random.Generator, device: torch.device
    ) -> Pretrained:
        return _Training(self.config, build_net().to(device), dataset, int(rng.integers(2**31)), device).run(scratch)


class _Training(EpochTraining):
    """Adds clusters: how many, and the last epoch's."""

    def __init__(self, config: DeepClusterConfig, net: nn.Module, dataset: Dataset, seed: int, device: torch.device):
        self.clusters = _number_of_clusters(config, dataset)
        super().__init__("deepcluster", config, net, dataset, seed, device, **{"number of clusters": self.clusters})
        self.optimizer = self._sgd(net)
        self._assignment: np.ndarray | None = None

    def train_epoch(self) -> dict[str, Any]:
        """Cluster, then train on the clusters."""
        with self._epoch_named():
            features = self._features()
            assignment, found = self._cluster(features)
        loss = self._train(assignment, self._new_head(features.shape[1], found))
        nmi, kept = (None, None) if self._assignment is None else agreement(self._assignment, assignment)
        self._assignment = assignment
        return {"clusters": found, "empty": self.clusters - found, "nmi": nmi, "kept": kept, "loss": loss}

    def _features(self) -> np.ndarray:
        """(N, D) of the eval views. UsageError that names the samples where one is not finite."""
        size = len(self.dataset)
        rows = PoolRows(self.dataset, np.arange(size), "eval", 1, self.seed, self.position)
        stream = predict(self.net, rows, ["features"], self.config.batch_size, self.config.num_workers, self.device)
        return collect(stream, size, lambda name, shape: np.empty(shape, dtype=np.float32))["features"]

    def _cluster(self, features: np.ndarray) -> tuple[np.ndarray, int]:
        """(N,) clusters, numbered without the empty ones; and how many there are."""
        config, seed = self.config, position_seed(self.seed, *self.position, "kmeans")
        if config.pca or config.whiten:
            features = project(features, self._dim(features.shape[1]), config.whiten)
        assignment, found = without_empty(kmeans(unit_rows(features), self.clusters, config.iterations, seed))
        if found < 2:
            raise UsageError("all samples are in one cluster; their features do not differ")
        return assignment, found

    @contextmanager
    def _epoch_named(self) -> Iterator[None]:
        """What is wrong, with where it was."""
        try:
            yield
        except ValueError as error:
            raise UsageError(f"{WHO}: epoch {self.epoch + 1}: {error}") from error

    def _dim(self, width: int) -> int:
        if not self.config.pca:
            return width
        if (self.config.pca_dim or 0) > width:
            raise UsageError(f"pca_dim: {self.config.pca_dim}; the network has {width} features")
        return self.config.pca_dim or min(256, width)

    def _new_head(self, width: int, clusters: int) -> nn.Linear:
        # Made on the CPU: the same on every device.
        with seeded_globals(self.seed, *self.position, "head"):
            head = nn.Linear(width, clusters)
            nn.init.normal_(head.weight, std=_HEAD_STD)
            nn.init.zeros_(head.bias)
        return head.to(self.device)

    def _train(self, assignment: np.ndarray, head: nn.Linear) -> float:
        """An epoch; the mean loss of its samples."""
        size = len(assignment)
        idx = uniform_sampling(assignment, size, generator(self.seed, *self.position, "sample"))
        rows = PoolRows(self.dataset, idx, "weak", 1, self.seed, self.position)
        loader = view_loader(rows, _even_batches(size, self.config.batch_size), self.config.num_workers)
        head_optimizer, targets = self._sgd(head), torch.from_numpy(assignment)
        total = torch.zeros((), device=self.device)
        self.net.train()
        for number, batch in enumerate(loader):
            self.seed_step(number)
            logits = head(self.net(batch["x"][0].to(self.device), only_feat=True))
            loss = nn.functional.cross_entropy(logits, targets[batch["idx"]].to(self.device))
            for optimizer in (self.optimizer, head_optimizer):
                optimizer.zero_grad()
            loss.backward()
            for optimizer in (self.optimizer, head_optimizer):
                optimizer.step()
            total += loss.detach() * (len(logits) / size)
        return self.finite(total.item())

    def _sgd(self, module: nn.Module) -> torch.optim.SGD:
        config = self.config
        return torch.optim.SGD(module.parameters(), config.lr, momentum=config.momentum, weight_decay=config.weight_decay)

    def own_state(self) -> dict[str, Any]:
        return {"assignment": torch.from_numpy(self._assignment)}

    def load_own_state(self, state: Mapping[str, Any]) -> None:
        self._assignment = state["assignment"].numpy()

    def report(self, line: Mapping[str, Any]) -> None:
        stable = "" if line["nmi"] is None else f", NMI with the clusters before {line['nmi']:.3f}, kept {line['kept']:.1%}"
        logger.info(f"deepcluster: epoch {line['epoch']} of {self.config.epochs}: loss {line['loss']:.4f}{stable}, {line['empty']} empty")


def _number_of_clusters(config: DeepClusterConfig, dataset: Dataset) -> int:
    clusters = config.clusters or config.clusters_per_class * dataset.num_classes
    of = "" if config.clusters else f" (clusters_per_class: {config.clusters_per_class}, {dataset.num_classes} classes)"
    if not 2 <= clusters <= len(dataset):
        raise UsageError(f"{WHO}: {clusters} clusters{of}; must be 2 to the {len(dataset)} samples of the pool")
    return clusters


def _even_batches(size: int, batch_size: int) -> list[tuple[int, np.ndarray]]:
    """The rows 0 … size − 1 in numbered batches of equal size but for one row, and of two rows at least: batch norm needs them."""
    count = min(-(-size // batch_size), max(1, size // 2))
    return list(enumerate(np.array_split(np.arange(size), count)))
