"""What passes between queries, oracles, the journal and reports. Records alone: every room may import them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

# The values of a row's `status`. A retracted sample has no label any more and is no refused one: it may be asked for again.
LABELED, SKIPPED, RETRACTED = "labeled", "skipped", "retracted"
# In the journal's column `acquisition`: a sample that was drawn to measure the model by, whatever chose the rest of its query.
AUDIT = "audit"
# A row that a person added with `usb-active labels`, and the same of a sample that no query had asked for.
CORRECTION, VOLUNTEERED = "correction", "volunteered"
# So nothing that chooses or brings labels may be called like this.
RESERVED = (AUDIT, CORRECTION, VOLUNTEERED)
# The number that stands for a refused sample where others stand for labels.
SKIP = -1
# The same for one whose answer is taken back.
RETRACT = -2


@dataclass(frozen=True)
class Query:
    """One round's picks, on disk before the oracle is asked.

    Attributes:
        cycle: the number of the query; 0 is the initial one. Its id.
        idx: (Q,) dataset indices, best first.
        keys: (Q,) their keys.
        acquisition: the name of what chose them.
        class_names: the labels that may be given; none where labels are no classes.
        probs: (Q, C) the model's predictions, if known.
        expects: where labels are no classes, what may be given, in words ("a number, such as 0.37").
    """

    cycle: int
    idx: np.ndarray
    keys: tuple[str, ...]
    acquisition: str
    class_names: tuple[str, ...]
    probs: np.ndarray | None = None
    expects: str = ""


@dataclass(frozen=True)
class Answers:
    """What is known of a query, and of earlier ones.

    Attributes:
        labels: dataset index → label, a class index or what the data set's `task` reads.
        skipped: refused samples.
        pending: not answered yet.
        emptied: pending ones that have a place for an answer in which nothing stands: the core warns where an answer stood there
            before, which it keeps.
        retracted: pending ones of which is said that no answer stands any more: what was answered is taken back.
    """

    labels: Mapping[int, int] = field(default_factory=dict)
    skipped: frozenset[int] = frozenset()
    pending: frozenset[int] = frozenset()
    emptied: frozenset[int] = frozenset()
    retracted: frozenset[int] = frozenset()


@dataclass(frozen=True)
class LabelRow:
    """One row of labels.csv.

    Attributes:
        cycle: the number of the query that asked for the sample, the last one where it was asked for again.
        index: the sample's dataset index.
        key: the sample's key.
        label: the label's text, such as a class name; "" where `status` is another one than "labeled".
        status: "labeled", "skipped" or "retracted".
        acquisition: the name of what chose the sample; "audit" of those that measure the model; "correction" for a row that
            `usb-active labels` added, and "volunteered" where no query had asked for the sample.
        time: UTC, ISO, in seconds.
    """

    cycle: int
    index: int
    key: str
    label: str
    status: str
    acquisition: str
    time: str

    @property
    def answer(self) -> str | None:
        """What the row says: a label's text, "" where the sample is refused, None where what was said is taken back."""
        return None if self.status == RETRACTED else self.label


def status_of(answer: str | None) -> str:
    """The `status` of a row with this `answer`."""
    if answer is None:
        return RETRACTED
    return LABELED if answer else SKIPPED


@dataclass(frozen=True)
class Metric:
    """A score as people see it.

    Attributes:
        score: its name among those of `usb_active.contracts.task.Task.evaluate`.
        name: what messages, tables and figures call it. In metrics.jsonl it is `key`.
        higher_is_better: or else lower.
        factor: a value is shown times this.
        unit: what stands behind a value that is shown.
        digits: how many digits it is shown with.
        short: what a narrow column calls it.
    """

    score: str
    name: str
    higher_is_better: bool = True
    factor: float = 1.0
    unit: str = ""
    digits: int = 3
    short: str = ""

    @property
    def key(self) -> str:
        """Its name in metrics.jsonl."""
        return self.name.replace(" ", "_")

    @property
    def column(self) -> str:
        """What a narrow column calls it."""
        return self.short or self.name

    def is_better(self, value: float, than: float) -> bool:
        """Whether one value is better than another, and not as good."""
        return value > than if self.higher_is_better else value < than

    def show(self, value: float) -> str:
        """`accuracy 59.91 %`"""
        return f"{self.name} {self.factor * value:.{self.digits}f}{self.unit and f' {self.unit}'}"


# Those of class labels.
CLASS_METRICS = (
    Metric("top-1-acc", "accuracy", factor=100, unit="%", digits=2, short="%"),
    Metric("balanced_acc", "balanced accuracy", factor=100, unit="%", digits=2, short="balanced %"),
)
