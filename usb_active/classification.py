"""All that encodes, decodes, scores or evaluates a label stands here, so that another kind of label can be brought."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def encode(text: str, class_names: Sequence[str]) -> int:
    """Class name → class index. ValueError when there is no such class."""
    try:
        return list(class_names).index(text)
    except ValueError:
        raise ValueError(f"no class '{text}'") from None


def decode(label: int, class_names: Sequence[str]) -> str:
    """Class index → class name."""
    return class_names[label]


def evaluate(logits: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    """Scores of logits (N, C) against targets (N,): USB's names, floats (USB's checkpoints choke on numpy scalars).

    `balanced_acc` is the mean recall over the classes that occur among the targets; `precision`, `recall` and `F1` are
    means over the classes that occur among targets or predictions, zero where they are undefined.
    """
    from sklearn.metrics import precision_recall_fscore_support

    predicted = logits.argmax(axis=1)
    precision, recall, f1, support = precision_recall_fscore_support(targets, predicted, zero_division=0)
    log_probs = logits - logits.max(axis=1, keepdims=True)
    log_probs = log_probs - np.log(np.exp(log_probs, dtype=np.float64).sum(axis=1, keepdims=True))
    return {
        "loss": float(-log_probs[np.arange(len(targets)), targets].mean()),
        "top-1-acc": float((predicted == targets).mean()),
        "balanced_acc": float(recall[support > 0].mean()),
        "precision": float(precision.mean()),
        "recall": float(recall.mean()),
        "F1": float(f1.mean()),
    }
