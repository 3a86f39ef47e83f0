"""Runs that wait for labels, made without any training, and desks at them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from usb_active.commands.labels import unread_answers
from usb_active.labeling.desk import Desk
from usb_active.records import LABELED, LabelRow, Query
from usb_active.storage.run_dir import RunDir

NAMES = ("cat", "dog", "guinea pig")
# Of the second query's three samples: dog, surely; cat, nearly; guinea pig, hardly.
PROBS = np.array([[0.02, 0.97, 0.01], [0.8, 0.1, 0.1], [0.3, 0.3, 0.4]])


def desk_at(path: Path) -> Desk:
    """A desk at a run."""
    return Desk(path, unread_answers)


def waiting_run(path: Path, names: Sequence[str] = NAMES, probs: np.ndarray = PROBS) -> Path:
    """Query 0: samples 0 and 1, a cat and a dog. Query 1: samples 5, 4 and 7, of which none is answered."""
    with RunDir.open(path, {"seed": 1}) as run:
        run.write_keys([f"train/{number}" for number in range(8)])
        for cycle, method, idx, table in ((0, "random", [0, 1], None), (1, "margin", [5, 4, 7], probs)):
            keys = tuple(run.keys()[index] for index in idx)
            run.save_query(Query(cycle, np.array(idx), keys, method, tuple(names), table))
        time = "2024-05-01T12:00:00+00:00"
        run.append_rows([LabelRow(0, index, f"train/{index}", names[index], LABELED, "random", time) for index in (0, 1)])
    return path


def rows(path: Path) -> list[tuple[int, int, str, str, str]]:
    """(cycle, index, label, status, acquisition) of the journal."""
    return [(row.cycle, row.index, row.label, row.status, row.acquisition) for row in RunDir.read(path).rows()]
