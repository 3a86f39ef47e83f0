"""What a label is: its text, its number, what a training learns from it, how predictions are scored and shown.

Everything specific to one kind of label (encoding, metrics, texts) is behind `Task`, so that other kinds can be added. A data set says
which task its labels are of (`Dataset.task_of`), and no other module assumes that a label is a class. Files hold texts; inside, a label
is a whole number from 0 on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from usb_active.contracts.label_texts import ClassReader, fold
from usb_active.errors import name_some, nearest
from usb_active.records import CLASS_METRICS, SKIP, Metric


class Task:
    """One kind of label. A subclass sets the attributes and defines the methods that raise here.

    A label's number holds for one process: what is written to disk is its text.

    Attributes:
        name: in messages, and in what an algorithm declares as its `tasks`.
        metrics: what is reported of a model, the headline first.
        class_names: (C,) texts where labels are a fixed list of classes, number c being the c-th; else empty, and then priors,
            pseudo-labels and what needs class probabilities are refused.
        num_outputs: the size of the network's head, USB's `num_classes`.
        noun: what one label is ("class").
        problem: what is wrong with a text that is none ("unknown class").
        output: which of the network's outputs `predictions` takes: "logits" or "probs".
        prediction_columns: the head of a file of predictions, behind `key`.
    """

    name: ClassVar[str]
    metrics: ClassVar[tuple[Metric, ...]]
    class_names: tuple[str, ...] = ()
    num_outputs: int
    noun: ClassVar[str] = "label"
    problem: ClassVar[str] = "no label"
    output: ClassVar[str] = "logits"
    prediction_columns: ClassVar[tuple[str, ...]]

    @property
    def can_skip(self) -> bool:
        """Whether people refuse a sample with the word `skip`."""
        return True

    @property
    def metric(self) -> Metric:
        """The headline: what is printed, drawn, and chooses the best checkpoint."""
        return self.metrics[0]

    def record(self) -> dict[str, Any]:
        """What dataset.json keeps of a task without classes: reports need no data set, and no plugin, to show its metrics."""
        return {"name": self.name, "metrics": [asdict(metric) for metric in self.metrics]}

    # ------------------------------------------------------------------------------------------ texts and numbers
    @property
    def num_labels(self) -> int:
        """How many labels are known: their numbers are 0 to this, less one."""
        raise NotImplementedError(f"{type(self).__name__}.num_labels")

    def encode(self, text: str) -> int:
        """The number of a label that a file of the run holds. ValueError when the text is none."""
        raise NotImplementedError(f"{type(self).__name__}.encode")

    def decode(self, label: int) -> str:
        """Its text, as files of the run hold it: never empty."""
        raise NotImplementedError(f"{type(self).__name__}.decode")

    def read(self, text: str) -> int | None:
        """What a person wrote: a label's number, `SKIP`, or None for what is neither."""
        raise NotImplementedError(f"{type(self).__name__}.read")

    @property
    def valid(self) -> str | Sequence[str]:
        """What may be written: the texts themselves, or a description ("a number, such as 0.37"). Without `skip`."""
        raise NotImplementedError(f"{type(self).__name__}.valid")

    @property
    def expects(self) -> str:
        """The same for people who are asked, in words: "one of: cat, dog"."""
        return self.valid if isinstance(self.valid, str) else f"one of: {name_some(self.valid, 12)}"

    def hint(self, text: str) -> str:
        """What may follow a message about a text that is no label."""
        return f"; valid: {self.valid}" if isinstance(self.valid, str) else nearest(text, self.valid)

    # ------------------------------------------------------------------------------------------ training and scores
    def target(self, label: int) -> Any:
        """What a batch holds for one label: whatever a collate function makes a tensor of."""
        return self.targets(np.array([label]))[0]

    def targets(self, labels: np.ndarray) -> np.ndarray:
        """The same of labels (K,), for scores and for methods that look at labels; -1, unknown, stays recognisable."""
        raise NotImplementedError(f"{type(self).__name__}.targets")

    def evaluate(self, outputs: np.ndarray, targets: np.ndarray) -> dict[str, float]:
        """Scores of a network's logits (N, …) against what batches held (N, …): plain floats, those of `metrics` among them."""
        raise NotImplementedError(f"{type(self).__name__}.evaluate")

    def strata(self, labels: np.ndarray) -> np.ndarray:
        """(K,) whole numbers from 0 on for labels (K,), -1 for none: which of them held-out labels are drawn from evenly."""
        return np.where(np.asarray(labels) < 0, -1, 0)

    def counts(self, labels: np.ndarray) -> np.ndarray | None:
        """(C,) how many of labels (K,) are of each class; None without classes."""
        return np.bincount(labels, minlength=len(self.class_names)) if self.class_names else None

    # ------------------------------------------------------------------------------------------ predictions
    def predictions(self, values: np.ndarray) -> Iterator[tuple[str | float, ...]]:
        """What `prediction_columns` hold for each row of `values` (B, …), which are the network's `output`: texts and plain numbers."""
        raise NotImplementedError(f"{type(self).__name__}.predictions")


class Classification(Task):
    """One of C classes."""

    name = "classification"
    metrics = CLASS_METRICS
    noun, problem = "class", "unknown class"
    output = "probs"
    prediction_columns = ("class", "probability")

    def __init__(self, class_names: Sequence[str]):
        self.class_names = tuple(class_names)
        self.num_outputs = len(self.class_names)

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {name: label for label, name in enumerate(self.class_names)}

    @cached_property
    def _reader(self) -> ClassReader:
        return ClassReader(self.class_names)

    @property
    def num_labels(self) -> int:
        return len(self.class_names)

    @property
    def can_skip(self) -> bool:
        return self._reader.can_skip

    def encode(self, text: str) -> int:
        try:
            return self._numbers[text]
        except KeyError:
            raise ValueError(f"no class '{text}'") from None

    def decode(self, label: int) -> str:
        return self.class_names[label]

    def read(self, text: str) -> int | None:
        return self._reader.read(text)

    @property
    def valid(self) -> Sequence[str]:
        return self.class_names

    def target(self, label: int) -> int:
        return int(label)

    def targets(self, labels: np.ndarray) -> np.ndarray:
        return labels

    def evaluate(self, outputs: np.ndarray, targets: np.ndarray) -> dict[str, float]:
        return evaluate(outputs, targets)

    def strata(self, labels: np.ndarray) -> np.ndarray:
        return labels

    def predictions(self, values: np.ndarray) -> Iterator[tuple[str | float, ...]]:
        for label, probability in zip(values.argmax(axis=1), values.max(axis=1), strict=True):
            yield self.class_names[label], float(probability)


class OpenTask(Task):
    """Labels that are no fixed list: real numbers, paths of masks. They are numbered as they come; a subclass defines `canonical`."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._numbers: dict[str, int] = {}

    def canonical(self, text: str) -> str:
        """The one text by which files hold a label that people may write in several ways. ValueError when it is none."""
        raise NotImplementedError(f"{type(self).__name__}.canonical")

    @property
    def num_labels(self) -> int:
        return len(self._texts)

    def encode(self, text: str) -> int:
        text = self.canonical(text)
        if text not in self._numbers:
            self._numbers[text] = len(self._texts)
            self._texts.append(text)
        return self._numbers[text]

    def decode(self, label: int) -> str:
        return self._texts[label]

    def read(self, text: str) -> int | None:
        if fold(text) == "skip":
            return SKIP
        try:
            return self.encode(text)
        except ValueError:
            return None


def valid_numbers(num_labels: int) -> str:
    """Which numbers labels may have, for a message: "0 to 9"."""
    return f"0 to {num_labels - 1}" if num_labels else "none, as long as the task has encoded no text"


def evaluate(logits: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    """Scores of logits (N, C) against classes (N,): USB's names, floats (USB's checkpoints choke on numpy scalars).

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
