"""The label propagator (§3.2): a graph convolutional network of two layers, trained on the labelled nodes of a neighbour graph.

Dimension letters: N pool, D feature dimension, H hidden units, L labelled, C classes.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, field

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import ArrayLike, NDArray
from usb_active.plugins.revival.backends import Aggregate, aggregator, check_backend
from usb_active.plugins.revival.graph import check_graph, convolution_matrix, induced, neighbor_graph, reached

from usb_active.numerics.arrays import blocks, check_count, check_range, checked_idx, named, nonfinite_rows, unit_rows

logger = logging.getLogger("usb_active")

_REMEDY = "use a smaller one, or unit_features: true"
# Far beyond what trains; above, Adam's own constants leave single precision.
_LARGEST_LR = 1e30
# Entries of features that are not divided by their lengths: above, their products with the weights may leave single precision.
_LARGEST_ENTRY = 1e18


@dataclass(frozen=True)
class GcnSettings:
    """What the paper leaves open, all of it ours. Adam, the decay and where it applies are those of Kipf & Welling 2017.

    Their loss is a mean over the labelled nodes; Eq. 3 is a sum, beside which the same decay is L times weaker, L the number of labels.

    Attributes:
        weights: of the edges, see `neighbor_graph`.
        unit_features: the network's input are the features divided by their lengths; otherwise as they are.
        hidden: H.
        lr: of Adam, at most 1e30.
        epochs: passes over all labelled nodes.
        weight_decay: of the first layer.
        backend: what multiplies by the graph: "torch", "dgl" or "torch_geometric".
        device: where it is computed.
    """

    weights: str = "similarity"
    unit_features: bool = True
    hidden: int = 128
    lr: float = 0.01
    epochs: int = 200
    weight_decay: float = 5e-4
    backend: str = "torch"
    device: torch.device | str = "cpu"


@dataclass
class Propagator:
    """A network on a graph: softmax(Â ReLU(Â X W0) W1) (Eq. 2, without bias as there).

    Attributes:
        features: X (N, D), as the network takes them.
        aggregate: x → Â x, with Â the convolution matrix of the graph.
        first: W0 (D, H).
        second: W1 (H, C).
        labeled: (L,) idx of the nodes that it was trained on.
        losses: of each epoch, before its update (Eq. 3).
    """

    features: NDArray
    aggregate: Aggregate
    first: torch.Tensor
    second: torch.Tensor
    labeled: NDArray[np.int64]
    losses: list[float] = field(default_factory=list)

    def rows(self, idx: NDArray) -> torch.Tensor:
        """(B, D) of consecutive `idx`, in the precision and on the device of the weights."""
        block = np.array(self.features[idx[0] : idx[-1] + 1])
        return torch.as_tensor(block, dtype=self.first.dtype, device=self.first.device)

    @torch.no_grad()
    def projected(self) -> torch.Tensor:
        """X W0 (N, H), by blocks: all that the network sees of its input, of which Â X W0 is then a product of H columns, not D."""
        out = self.first.new_empty(len(self.features), self.first.shape[1])
        for idx in blocks(np.arange(len(self.features)), self.features.shape[1]):
            torch.mm(self.rows(idx), self.first, out=out[idx[0] : idx[-1] + 1])
        return out

    def log_probs(self, projected: torch.Tensor) -> torch.Tensor:
        """(N, C) from X W0 (N, H), differentiable."""
        return self.aggregate(self.aggregate(projected).relu() @ self.second).log_softmax(dim=1)

    @torch.no_grad()
    def probs(self) -> NDArray[np.float32]:
        """The virtual labels ȳ of all nodes, (N, C), rows that sum to one."""
        return self.log_probs(self.projected()).exp().float().cpu().numpy()


def fit_propagator(
    features: ArrayLike,
    labeled: ArrayLike,
    labels: ArrayLike,
    num_classes: int,
    *,
    k: int = 20,
    settings: GcnSettings = GcnSettings(),  # noqa: B008 — frozen
    rng: np.random.Generator,
) -> Propagator:
    """Make the graph of the features, and train a network on its labelled nodes.

    A class without a label keeps its column; what the network says there is the little that training has left.

    Args:
        features: (N, D), finite, no row of zeros; may be a memory map.
        labeled: (L,) idx, at least one.
        labels: (L,) classes, 0..C-1.
        num_classes: C.
        k: neighbours of each sample, itself among them.
        settings: of the graph's weights and of the network.
        rng: what draws the initial weights.

    Raises:
        ValueError: features as in `neighbor_graph`, k outside 1..N, no labels, idx or labels out of range, settings that are out of
            range, a training that diverges, and features beyond 1e18 that are not divided by their lengths.
        UsageError: the backend's library is not there.
    """
    # All that is cheap, before the search for neighbours.
    check_settings(settings)
    features = np.asarray(features)
    check_graph(features, k, settings.weights)
    labeled, labels = checked_labels(labeled, labels, len(features), num_classes)
    if not settings.unit_features:
        _check_entries(features)
    graph = neighbor_graph(features, k, settings.weights)
    if not graph.nnz:
        logger.warning("label propagator: the graph has no edges (k: %d), so that no label reaches another sample", k)
    inputs = unit_rows(features) if settings.unit_features else features
    weights = initial_weights(features.shape[1], settings.hidden, num_classes, rng)
    propagator = train(convolution_matrix(graph), inputs, labeled, labels, weights, settings)
    bad = nonfinite_rows(propagator.probs())
    if len(bad):
        raise ValueError(f"lr: {settings.lr!r}: no finite virtual label of {named('sample', bad)}; {_REMEDY}")
    return propagator


def _check_entries(features: NDArray) -> None:
    every = blocks(np.arange(len(features)), features.shape[1])
    far = np.concatenate([idx[(np.abs(features[idx[0] : idx[-1] + 1]) > _LARGEST_ENTRY).any(axis=1)] for idx in every])
    if len(far):
        raise ValueError(f"features: above {_LARGEST_ENTRY:.0e} in {named('row', far)}; use unit_features: true, or scale them")


def check_settings(settings: GcnSettings) -> None:
    """ValueError that names a setting outside its range."""
    for name in ("hidden", "epochs"):
        check_count(name, getattr(settings, name))
    if not 0 < settings.lr <= _LARGEST_LR:
        raise ValueError(f"lr: {settings.lr!r}, expected a number above 0, at most {_LARGEST_LR:.0e}")
    if not settings.weight_decay >= 0 or not math.isfinite(settings.weight_decay):
        raise ValueError(f"weight_decay: {settings.weight_decay!r}, expected a number, at least 0")
    check_backend(settings.backend)


def checked_labels(labeled: ArrayLike, labels: ArrayLike, size: int, num_classes: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """`labeled` and `labels` (L,) as int64. ValueError: none, of two lengths, repeated or out of range."""
    check_count("num_classes", num_classes)
    labeled, labels = checked_idx("labeled", labeled), np.asarray(labels)
    if not len(labeled):
        raise ValueError("labeled: nothing is labelled, and the label propagator learns from labels")
    check_range("labeled", labeled, size)
    if labels.shape != labeled.shape or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"labels: expected {len(labeled)} integers, one per labelled sample, got shape {labels.shape} of {labels.dtype}")
    bad = labeled[(labels < 0) | (labels >= num_classes)]
    if len(bad):
        raise ValueError(f"labels: outside 0..{num_classes - 1} for {named('sample', bad)}")
    return labeled, labels.astype(np.int64)


def initial_weights(
    dim: int, hidden: int, num_classes: int, rng: np.random.Generator, dtype: torch.dtype = torch.float32
) -> tuple[torch.Tensor, torch.Tensor]:
    """W0 (D, H) and W1 (H, C), uniform as in Glorot & Bengio 2010 and Kipf & Welling 2017."""

    def drawn(rows: int, columns: int) -> torch.Tensor:
        limit = math.sqrt(6 / (rows + columns))
        return torch.as_tensor(rng.uniform(-limit, limit, (rows, columns)), dtype=dtype)

    return drawn(dim, hidden), drawn(hidden, num_classes)


def train(
    matrix: sp.csr_array,
    features: NDArray,
    labeled: NDArray[np.int64],
    labels: NDArray[np.int64],
    weights: tuple[torch.Tensor, torch.Tensor],
    settings: GcnSettings,
) -> Propagator:
    """Train from these weights on the cross-entropy of the labelled nodes, summed (Eq. 3).

    Exact, not the plain epoch over the graph: Â (X W0) = (Â X) W0, with Â X made once, and no row counts but those within two
    steps of a labelled node. What an epoch costs grows with the labels and their neighbours, not with the pool.

    Args:
        matrix: Â (N, N), as of `convolution_matrix`.
        features: X (N, D), as the network takes them.
        labeled: (L,) idx.
        labels: (L,) classes.
        weights: W0 (D, H) and W1 (H, C), in whose precision is computed; they stay as they are.
        settings: all but `weights` and `unit_features`.
    """
    first, second = (weight.to(settings.device).clone().requires_grad_() for weight in weights)
    made = {"backend": settings.backend, "device": settings.device, "dtype": first.dtype}
    near = reached(matrix, labeled)
    inputs = _aggregated(matrix, features, near, **made)
    aggregate = aggregator(induced(matrix, near), **made)
    rows = torch.as_tensor(np.searchsorted(near, labeled), device=settings.device)
    targets = torch.as_tensor(labels, device=settings.device)
    optimizer = torch.optim.Adam([{"params": [first], "weight_decay": settings.weight_decay}, {"params": [second]}], lr=settings.lr)

    def loss_now() -> torch.Tensor:
        logits = aggregate((inputs @ first).relu() @ second)[rows]
        return torch.nn.functional.cross_entropy(logits, targets, reduction="sum")

    losses = []
    for _ in range(settings.epochs):
        loss = loss_now()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    values = torch.stack(losses).tolist()
    with torch.no_grad():
        # That of the weights that are kept: the last of the epochs is from before its update.
        if not torch.isfinite(loss_now()):
            raise ValueError(f"lr: {settings.lr!r}: the label propagator diverged; {_REMEDY}")
    return Propagator(features, aggregator(matrix, **made), first.detach(), second.detach(), labeled, values)


def _aggregated(matrix: sp.csr_array, features: NDArray, nodes: NDArray, **made: object) -> torch.Tensor:
    """Rows `nodes` of Â X, from the part of the graph within a step of them."""
    around = reached(matrix, nodes)
    x = torch.as_tensor(np.asarray(features[around]), dtype=made["dtype"], device=made["device"])
    return aggregator(induced(matrix, around), **made)(x)[torch.as_tensor(np.searchsorted(around, nodes), device=x.device)]
