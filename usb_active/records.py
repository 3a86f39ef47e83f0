"""What passes between queries, oracles and the journal. Records alone: every room may import them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

# The two values of a row's `status`.
LABELED, SKIPPED = "labeled", "skipped"


@dataclass(frozen=True)
class Query:
    """One round's picks, on disk before anyone is asked.

    Attributes:
        cycle: the number of the query; 0 is the initial one. Its id.
        idx: (Q,) dataset indices, best first. keys: their keys.
        acquisition: the name of what chose them.
        class_names: the labels that may be given.
        probs: (Q, C) what the model thinks, if known.
    """

    cycle: int
    idx: np.ndarray
    keys: tuple[str, ...]
    acquisition: str
    class_names: tuple[str, ...]
    probs: np.ndarray | None = None


@dataclass(frozen=True)
class Answers:
    """What is known of a query, and of earlier ones.

    Attributes:
        labels: dataset index → class index. skipped: refused samples. pending: not answered yet.
        emptied: those of them that have a place for an answer in which nothing stands: the core warns where an answer stood there
            before, which it keeps.
    """

    labels: Mapping[int, int] = field(default_factory=dict)
    skipped: frozenset[int] = frozenset()
    pending: frozenset[int] = frozenset()
    emptied: frozenset[int] = frozenset()


@dataclass(frozen=True)
class LabelRow:
    """One row: `label` is a class name, "" where `status` is "skipped"; `time` is UTC, ISO, in seconds."""

    cycle: int
    index: int
    key: str
    label: str
    status: str
    acquisition: str
    time: str
