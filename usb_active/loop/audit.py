"""The audit (`active.audit`): a random part of the pool that is labelled with the first query, and that the model is measured by.

Its labels are trained on by nothing, so that the accuracy on it is unbiased, without a test set; beside it stands what the model says of
itself. Dimension letters: A audit, W watched samples, C classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from usb_active.errors import UsageError
from usb_active.numerics.assessment import clopper_pearson, cohen_kappa, mean_confidence, mean_entropy
from usb_active.randomness import generator
from usb_active.storage.artifacts import check_array, load_artifact, save_artifact
from usb_active.storage.audit_file import samples_at_draw
from usb_active.storage.schemas import read_start

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from usb_active.contracts.task import Task
    from usb_active.loop.session import Session
    from usb_active.pool.pool import Pool
    from usb_active.storage.run_dir import RunDir

# So many samples, drawn once, stand for the pool in the model's own estimate, and are those on which successive models are compared.
WATCHED = 2000
_REMEDY = "restore it from a copy, or remove it: the agreement with the model before is then not known once"


def draw_audit(queryable: np.ndarray, known: Collection[int], size: int, seed: int) -> np.ndarray:
    """(A,) ascending dataset indices, each part of this size as likely as any other.

    Args:
        queryable: (N,) bool.
        known: samples that are labelled or refused already, which cannot be drawn.
        size: A.
        seed: of the run; nothing else decides.

    Raises:
        UsageError: fewer samples are left.
    """
    left = np.setdiff1d(np.flatnonzero(queryable), np.array(sorted(known), dtype=np.int64))
    if size > len(left):
        raise UsageError(f"active.audit: {size}: only {len(left)} samples can be queried that have no label yet; at most {len(left)}")
    return np.sort(generator(seed, "audit").permutation(left)[:size])


def mixed(picks: np.ndarray, audit: np.ndarray, seed: int, cycle: int = 0) -> np.ndarray:
    """(Q + A,): the audit (A,) at random places among the picks (Q,), which stay in their order: who labels cannot tell which is which.

    After cycle 0 these are samples of the audit whose answers were taken back.
    """
    rng = generator(seed, "audit", "places", *([cycle] if cycle else []))
    is_audit = rng.permutation(np.arange(len(picks) + len(audit)) < len(audit))
    query = np.empty(len(is_audit), dtype=np.int64)
    query[is_audit], query[~is_audit] = rng.permutation(audit), picks
    return query


def audit_fields(pool: Pool, probs: np.ndarray, task: Task) -> dict[str, Any]:
    """What a line of metrics.jsonl holds of the audit. `audit_hits`: for each sample, ascending, 1 right, 0 wrong, - without a label.

    Args:
        pool: with the audit's labels.
        probs: (A, C) of its labelled samples, in ascending order.
        task: of the pool.
    """
    labels = pool.audit_labels[pool.audit_labels >= 0]
    hits = probs.argmax(axis=1) == labels
    counts, right = task.counts(labels), task.counts(labels[hits])
    low, high = clopper_pearson(int(hits.sum()), len(labels))
    by_class = [clopper_pearson(*pair) for pair in zip(right.tolist(), counts.tolist(), strict=True)]
    marks = np.full(int(pool.audited.sum()), "-")
    marks[pool.audit_labels[pool.audited] >= 0] = np.where(hits, "1", "0")
    return {
        "audit_hits": "".join(marks),
        "audit_samples": len(labels),
        "audit_skipped": int((pool.audited & pool.skipped).sum()),
        "audit_accuracy": float(hits.mean()) if len(labels) else None,
        "audit_low": low,
        "audit_high": high,
        "audit_class_counts": counts.tolist(),
        "audit_class_right": right.tolist(),
        "audit_class_low": [low for low, _ in by_class],
        "audit_class_high": [high for _, high in by_class],
    }


def assess(session: Session, cycle: int) -> dict[str, Any]:
    """How good the model of a finished training is, without a test set; nothing where neither `audit` nor `stop` asks for it.

    One pass over the labelled samples of the audit and over at most `WATCHED` others.
    """
    active = session.config.active
    if not active.audit and not active.stop:
        return {}
    pool, path = session.ledger.training_pool(), session.run_dir.path / "artifacts"
    watched = _watched(_watched_file(session.run_dir, cycle), pool, session.seed)
    audit = np.flatnonzero(pool.audit_labels >= 0)
    probs = _probs(session, np.concatenate([audit, watched]))
    fields = audit_fields(pool, probs[: len(audit)], session.dataset.task) if active.audit else {}
    if (drawn := samples_at_draw(session.run_dir)) is not None:
        fields["audit_joined"] = len(pool) - drawn
    is_same = cycle > 0 and _watched_file(session.run_dir, cycle - 1) == _watched_file(session.run_dir, cycle)
    return {**fields, **_own_view(path, cycle, pool, watched, probs[len(audit) :], is_same)}


def _own_view(path: Path, cycle: int, pool: Pool, watched: np.ndarray, probs: np.ndarray, is_same: bool) -> dict[str, Any]:
    """What needs no label.

    Args:
        path: the folder where the predictions on the watched samples (W,) are kept.
        is_same: whether the same samples were watched in the cycle before.
    """
    predicted = probs.argmax(axis=1).astype(np.int32)
    before_path = path / f"stop_set_{cycle - 1:03d}"
    before = load_artifact(before_path) if is_same else None
    if before is not None:
        check_array(before_path.with_name(f"{before_path.name}.npy"), before, "iu", (len(watched),), _REMEDY)
    save_artifact(path / f"stop_set_{cycle:03d}", predicted)
    rest = probs[np.isin(watched, pool.unlabeled)]
    return {
        "own_estimate": mean_confidence(rest) if len(rest) else None,
        "uncertainty": mean_entropy(rest) if len(rest) else None,
        "kappa": None if before is None or not len(predicted) else cohen_kappa(before, predicted, probs.shape[1]),
    }


def _watched_file(run: RunDir, cycle: int) -> Path:
    """Which samples a cycle watches: the same as long as the pool does not grow, though some of them get labels."""
    folder = run.path / "artifacts"
    first = next((before for before in range(cycle) if (folder / f"stop_set_{before:03d}.npy").exists()), cycle)
    sizes = [(read_start(run, number) or {}).get("samples") for number in (first, cycle)]
    return folder / ("stop_set" if sizes[0] == sizes[1] else f"stop_set_of_{sizes[1]}")


def _watched(file: Path, pool: Pool, seed: int) -> np.ndarray:
    """(W,) the samples that stand for the pool: a random part of it, kept in a file."""
    found = load_artifact(file)
    if found is None:
        rest = np.flatnonzero(~pool.audited)
        save_artifact(file, np.sort(generator(seed, "stop_set").permutation(rest)[:WATCHED]))
        found = load_artifact(file)
    where, remedy = file.with_name(f"{file.name}.npy"), "restore it from a copy"
    idx = np.asarray(check_array(where, found, "iu", (None,), remedy))
    if len(idx) and not (0 <= idx.min() and idx.max() < len(pool)):
        raise UsageError(f"{where} is damaged (samples that do not exist); {remedy}")
    return idx


def _probs(session: Session, idx: np.ndarray) -> np.ndarray:
    """(K, C) of the EMA model."""
    view = session.algorithm_view()
    batches = [values["probs"][0] for _, values in view.predict(["probs"], idx)] if len(idx) else []
    return np.concatenate(batches) if batches else np.empty((0, len(session.dataset.class_names)), dtype=np.float32)
