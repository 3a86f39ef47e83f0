"""Cells of a sweep that have one pretraining: one of them makes it, and the others wait for it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from usb_active.commands.sweep_screen import HELD, QUEUED, RUNNING, SUBMITTED, CellState
from usb_active.config.shared_pretraining import pretraining_key


class SharedPretraining:
    """The cells with the same pretraining, and which of them was seen to have it."""

    def __init__(self, members: Sequence[CellState]):
        self._members = members
        self._donor = _first_with_pretraining(members)

    def donor(self) -> Path | None:
        """The run of a cell whose pretraining is over; remembered once it is found."""
        if self._donor is None:
            # Those in the queue were looked at when the sweep began, and make nothing: a study may have thousands.
            self._donor = _first_with_pretraining([state for state in self._members if state.state != QUEUED])
        return self._donor

    def lets_start(self) -> bool:
        """Whether the turn of a member in the queue has come: the pretraining is over, or nobody is at it."""
        return self.donor() is not None or not any(state.state in (SUBMITTED, RUNNING, HELD) for state in self._members)


def shared_pretrainings(states: Sequence[CellState]) -> dict[str, SharedPretraining]:
    """Name of a cell → those that it shares a pretraining with, itself among them. Cells without a pretrainer are not in it."""
    groups: dict[str, list[CellState]] = {}
    for state in states:
        key = pretraining_key(state.cell.config)
        if key is not None:
            groups.setdefault(key, []).append(state)
    shared = [(members, SharedPretraining(members)) for members in groups.values()]
    return {state.cell.name: group for members, group in shared for state in members}


def _first_with_pretraining(states: Sequence[CellState]) -> Path | None:
    # False also where nobody may look: the run itself says so.
    paths = (state.cell.run_path for state in states)
    return next((path for path in paths if os.path.exists(path / "pretrain" / "pretrained.pth")), None)
