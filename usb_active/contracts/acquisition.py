"""The contract of an acquisition: what to label next.

Dimension letters: N pool, M candidates, U unlabelled, L labelled, C classes, D feature dimension, B batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from usb_active.contracts.observer import Contributor
from usb_active.contracts.plugin import optional
from usb_active.contracts.task import valid_numbers
from usb_active.errors import UsageError, name_some, reason_of

if TYPE_CHECKING:
    import torch

    from usb_active.pool.view import PoolView

# "head": that the features are those which the model's classifier takes. "labels": that some sample is labelled. The last is for
# priors alone.
NEEDS = frozenset({"features", "probs", "truth", "head", "labels", "previous_features"})


@dataclass(frozen=True)
class TrainBatch:
    """What one training step saw, after its forward pass and before its update. References, no copies; do not change them.

    Attributes:
        cycle: the training's cycle.
        iteration: the step in it, from 0.
        idx_lb: (B_l,) dataset indices of the labelled part.
        x_lb: its views.
        y_lb: its labels.
        logits_lb: its logits.
        idx_ulb: (B_u,) dataset indices of the unlabelled part.
        x_ulb_w: its weak views.
        x_ulb_s: its strong views.
        probs_weak: (B_u, C) the training model's softmax on the weak view, before sharpening, alignment and prior.
        logits_strong: (B_u, C) logits on the strong view.
        feats: features by view name (`x_lb`, `x_ulb_w`, `x_ulb_s`).
        hidden: `hidden[view][module]` is what a module named by the plugin's `hidden_modules` gave for a view (`x_lb`, `x_ulb_w`,
            `x_ulb_s`, and what else train_step takes), (B, …), whatever forward passes the algorithm made of them. Gradients flow
            where the algorithm's own do: not where it looks at a weak view without. Of a view that passes several times, the first
            pass with gradients counts. What passes as a mixture is no view.

    A field that the algorithm does not have is None. The indices are on the CPU, all else is on the training's device;
    probabilities, logits and features are float32, also under mixed precision.
    """

    cycle: int
    iteration: int
    idx_lb: torch.Tensor | None = None
    x_lb: torch.Tensor | None = None
    y_lb: torch.Tensor | None = None
    logits_lb: torch.Tensor | None = None
    idx_ulb: torch.Tensor | None = None
    x_ulb_w: torch.Tensor | None = None
    x_ulb_s: torch.Tensor | None = None
    probs_weak: torch.Tensor | None = None
    logits_strong: torch.Tensor | None = None
    feats: Mapping[str, torch.Tensor] | None = None
    hidden: Mapping[str, Mapping[str, torch.Tensor]] = field(default_factory=dict)


BATCH_FIELDS = frozenset(TrainBatch.__dataclass_fields__) - {"cycle", "iteration"}


@dataclass(frozen=True)
class TrainingInfo:
    """What `setup` is told at the start of every cycle's training.

    Attributes:
        num_samples: samples of the pool.
        num_classes: classes of the data set; 0 where labels are no classes.
        img_size: the side of a view.
        in_channels: the channels of a view.
        feature_dim: D of the network's features; None where it has none.
        device: where the training runs.
        cycle: the training's cycle.
        num_train_iter: its steps.
        net: the training model itself, for plugins whose modules must fit it; treat it as read-only.
        register_state: `register_state(name, factory)` makes a module (or any object with `state_dict`) that the core moves to the
            device and checkpoints; `factory` is called under a seed of its own. A module's parameters join the training when
            `optimizer` is given: `optimizer(parameters) -> torch.optim.Optimizer`, stepped with the loss.
    """

    num_samples: int
    num_classes: int
    img_size: int
    in_channels: int
    feature_dim: int | None
    device: torch.device
    cycle: int
    num_train_iter: int
    net: torch.nn.Module
    register_state: Callable[..., Any]


class Acquisition(Contributor):
    """Chooses samples. Override `select`; everything else is optional, and the core calls what a class defines.

    The instance lives for the whole run. The core masks labelled samples, seeds, moves, checks and stores: `select` only ranks. What
    may be defined besides, to watch the training or to take part in it, is in usb_active/contracts/observer.py.
    """

    kind: ClassVar[str] = "acquisition"
    # Whether it picks equally many of each class, so that the budget must be a multiple of the classes.
    per_class: ClassVar[bool] = False
    # Whether it picks by chance alone: what reports measure the others against, unless they are told otherwise.
    by_chance: ClassVar[bool] = False

    def select(self, view: PoolView, budget: int) -> np.ndarray:
        """The picks: (budget,) distinct dataset indices, best first, all of them in `view.candidates`."""
        raise NotImplementedError(f"{type(self).__name__}.select")

    @optional
    def pseudo_labels(self, view: PoolView) -> tuple[Any, Any]:
        """idx (P,) and labels (P,) that no oracle gave. Called when the answers are in; they join the next training only."""
        return (), ()


def check_picks(picks: Any, candidates: np.ndarray, budget: int, who: str) -> np.ndarray:
    """The picks as (budget,) int64, or a UsageError that says what the plugin did wrong.

    Raises:
        UsageError: not integers, not `budget` many, picked twice, or not among the candidates.
    """
    picks = np.asarray(picks)
    if picks.ndim != 1 or not np.issubdtype(picks.dtype, np.integer):
        raise UsageError(f"{who}: select must return a 1-D integer array of dataset indices, got {picks.dtype} of shape {picks.shape}")
    picks = picks.astype(np.int64)
    if len(picks) != budget:
        raise UsageError(f"{who}: select returned {len(picks)} samples where {budget} were asked for")
    unique, counts = np.unique(picks, return_counts=True)
    if len(unique) != len(picks):
        raise UsageError(f"{who}: select picked samples twice: {name_some(unique[counts > 1])}")
    foreign = picks[~np.isin(picks, candidates)]
    if len(foreign):
        reason = "labelled, skipped, pending or not queryable"
        raise UsageError(f"{who}: select picked samples that cannot be queried ({reason}): {name_some(foreign)}")
    return picks


def label_arrays(returned: Any, who: str) -> tuple[np.ndarray, np.ndarray]:
    """The `idx` and `labels` that a method returned, as arrays. UsageError: no two of them, or rows of several lengths."""
    try:
        idx, labels = returned
        return np.asarray(idx), np.asarray(labels)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{who}: must return two arrays, idx and labels; got {type(returned).__name__} ({reason_of(error)})") from error


def check_pseudo_labels(idx: Any, labels: Any, num_samples: int, num_labels: int, who: str) -> dict[str, np.ndarray]:
    """Labels that a plugin brings as `idx` (P,) and `labels` (P,) int64. UsageError: not integers, other shapes, twice, or out of range."""
    idx, labels = np.asarray(idx), np.asarray(labels)
    if idx.ndim != 1 or idx.shape != labels.shape:
        raise UsageError(f"{who}: must return idx and labels of one length, got {idx.shape} and {labels.shape}")
    for name, values, limit in (("samples", idx, num_samples), ("labels", labels, num_labels)):
        if len(values) and not np.issubdtype(values.dtype, np.integer):
            raise UsageError(f"{who}: {name} must be integers, got {values.dtype}")
        foreign = values[(values < 0) | (values >= limit)]
        if len(foreign):
            raise UsageError(f"{who}: {name} out of range: {name_some(foreign)}; valid: {valid_numbers(limit)}")
    unique, counts = np.unique(idx, return_counts=True)
    if len(unique) != len(idx):
        raise UsageError(f"{who}: a sample stands there twice: {name_some(unique[counts > 1])}")
    return {"idx": idx.astype(np.int64), "labels": labels.astype(np.int64)}
