"""What trains and what is held out: a cycle's samples, from the labels as they stood at its start."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from usb_active.errors import UsageError
from usb_active.pool.pool import Pool
from usb_active.randomness import generator


@dataclass(frozen=True)
class Split:
    """A cycle's samples. All index arrays are sorted dataset indices.

    Attributes:
        labeled: (L,) the labelled stream.
        labels: (L,) its labels.
        unlabeled: (U,) the unlabelled stream.
        validation: (V,) samples held out to choose a checkpoint.
        validation_labels: (V,) their labels.
    """

    labeled: np.ndarray
    labels: np.ndarray
    unlabeled: np.ndarray
    validation: np.ndarray
    validation_labels: np.ndarray


NOBODY = np.empty(0, dtype=np.int64)

# (K,) labels → (K,) whole numbers from 0 on, -1 for none: what is divided evenly between training and held-out labels.
Strata = Callable[[np.ndarray], np.ndarray]


def _as_they_are(labels: np.ndarray) -> np.ndarray:
    return labels


def provisional_split(num_samples: int) -> Split:
    """A stand-in for USB's constructors, which want a labelled set before the first label exists. Nothing trains on it."""
    return Split(np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.int64), np.arange(num_samples), NOBODY, NOBODY)


def make_split(
    pool: Pool,
    validation: float,
    include_labeled: bool,
    seed: int,
    pseudo: Mapping[str, np.ndarray] | None = None,
    stratified: bool = False,
    strata: Strata = _as_they_are,
) -> Split:
    """Split the pool.

    Args:
        pool: the labels as they stood.
        validation: share of every round's labels that is held out; a sample once held out stays so (without `stratified`, unless
            late answers join its round).
        include_labeled: whether labelled samples are in the unlabelled stream too (held-out ones and those of the audit never are:
            they would be seen in training).
        pseudo: `idx` (P,) and `labels` (P,) that join the labelled stream; a human's label wins, and those of the audit are left out.
        stratified: as for `hold_out`.
        strata: as for `hold_out`.
    """
    held = hold_out(pool, validation, seed, stratified, strata)
    labeled = np.setdiff1d(pool.labeled, held)
    if len(labeled) == 0:
        raise UsageError("there is no labelled sample to train on")
    unlabeled = np.setdiff1d(np.flatnonzero(~pool.audited), held) if include_labeled else pool.unlabeled
    if len(unlabeled) == 0:
        raise UsageError("every sample is labelled, so there is none for the unlabelled stream; set include_lb_to_ulb: true")
    labels = pool.labels.copy()
    if pseudo is not None:
        extra = ~np.isin(pseudo["idx"], pool.labeled) & ~pool.audited[pseudo["idx"]]
        labels[pseudo["idx"][extra]] = pseudo["labels"][extra]
        labeled = np.union1d(labeled, pseudo["idx"][extra])
    return Split(labeled, labels[labeled], unlabeled, held, pool.labels[held])


def hold_out(pool: Pool, share: float, seed: int, stratified: bool = False, strata: Strata = _as_they_are) -> np.ndarray:
    """(V,) sorted: of every round's labels the share with the lowest draw; the draw belongs to (seed, sample).

    Args:
        stratified: by class, as runs are split since format 2 (`usb_active.storage.run_format`).
        strata: the task's, in place of the labels themselves.
    """
    if share == 0:
        return NOBODY
    draws = generator(seed, "validation").random(len(pool))
    if stratified:
        return _stratified(strata(pool.first_label), pool, share, draws)
    held, labels_so_far, held_so_far = [NOBODY], 0, 0
    for number in np.unique(pool.round[pool.labeled]):
        members = np.flatnonzero((pool.round == number) & (pool.labels >= 0))
        labels_so_far += len(members)
        # Rounded over all rounds so far: a share of many small rounds must not vanish in each of them.
        count = int(share * labels_so_far + 0.5) - held_so_far
        held.append(members[np.argsort(draws[members], kind="stable")][:count])
        held_so_far += len(held[-1])
    return np.sort(np.concatenate(held))


def _stratified(first: np.ndarray, pool: Pool, share: float, draws: np.ndarray) -> np.ndarray:
    """(V,) sorted: the share of the labels, divided among the classes by largest remainders, over all rounds so far.

    A class keeps a training label as long as any class has another to give. A round is what a cycle trains on for the first time,
    a class the first one that a sample was given (`first`, (N,)): neither late answers nor corrections move a sample across.
    """
    seen = np.zeros(first.max(initial=0) + 1, dtype=np.int64)
    taken = np.zeros_like(seen)
    held = [NOBODY]
    for cycle in np.unique(pool.first_cycle[first >= 0]):
        members = np.flatnonzero((first >= 0) & (pool.first_cycle == cycle))
        members = members[np.argsort(draws[members], kind="stable")]
        classes = first[members]
        seen += np.bincount(classes, minlength=len(seen))
        count = int(share * seen.sum() + 0.5) - int(taken.sum())
        place = _places(classes)
        # What a class is owed, less what those before in the same class have of it.
        owed = share * seen[classes] - taken[classes] - place
        is_last = place >= seen[classes] - taken[classes] - 1
        chosen = np.lexsort((np.arange(len(members)), -owed, is_last))[:count]
        held.append(members[chosen])
        taken += np.bincount(classes[chosen], minlength=len(seen))
    found = np.sort(np.concatenate(held))
    # Someone may have been refused since.
    return found[pool.labels[found] >= 0]


def _places(classes: np.ndarray) -> np.ndarray:
    """(M,) how many of the same class come before each: 0, 0, 1, 0 for classes 3, 5, 3, 7."""
    order = np.argsort(classes, kind="stable")
    ordered = classes[order]
    first = np.searchsorted(ordered, ordered)
    places = np.empty(len(classes), dtype=np.int64)
    places[order] = np.arange(len(classes)) - first
    return places


def classes_without_training(pool: Pool, split: Split) -> np.ndarray:
    """Class indices that have labels, all of them held out."""
    return np.setdiff1d(pool.labels[pool.labeled], split.labels)
