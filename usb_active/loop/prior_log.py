"""What a prior did in a training, step by step: RUN/cycle_NNN/prior.jsonl."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from usb_active.storage.durable import atomic_write, dump_json, make_folder, parse_json, read_bytes
from usb_active.storage.schemas import PriorChanges, PriorMade, check_record

FILE = "prior.jsonl"
REMEDY = "remove it: nothing but what was logged of the prior is lost"


class PriorLog:
    """One training's records, in order. `iteration` counts the steps done.

    - {"iteration", "changed", "rows"}: of `rows` pseudo-labels with a prior since the last such record, `changed` have another
      class than the model alone would have given them (a sample counts as often as it was drawn);
    - {"iteration", "when", "log"}: a new table, and what the prior logged of it.
    """

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []

    def replace(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Begin with these: none in a new training, a checkpoint's in one that goes on."""
        self.records = [dict(record) for record in records]

    def add_interval(self, iteration: int, changed: int, rows: int) -> float | None:
        """The share that the prior changed; None, and no record, where no pseudo-label had a prior."""
        if rows == 0:
            return None
        self.records.append({"iteration": iteration, "changed": changed, "rows": rows})
        return changed / rows

    def add_table(self, iteration: int, when: str, logged: Mapping[str, float]) -> None:
        """A table that is in force from here on."""
        self.records.append({"iteration": iteration, "when": when, "log": dict(logged)})

    def save(self, folder: Path) -> None:
        """Write them into a cycle's folder, whole; nothing where there is nothing."""
        if self.records:
            make_folder(folder)
            atomic_write(folder / FILE, lambda stream: stream.write(b"".join(map(dump_json, self.records))))


def read_prior_log(folder: Path) -> list[dict[str, Any]]:
    """The records in a cycle's folder, none where it has no file. UsageError names a damaged line."""
    path = folder / FILE
    lines = (read_bytes(path) or b"").splitlines()
    return [_checked(f"{path}:{number}", line) for number, line in enumerate(lines, start=1)]


def _checked(where: str, line: bytes) -> dict[str, Any]:
    record = parse_json(where, line, REMEDY)
    return check_record(PriorMade if isinstance(record, dict) and "when" in record else PriorChanges, where, record, REMEDY)
