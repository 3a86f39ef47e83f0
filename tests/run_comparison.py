"""Two run directories, entry by entry: what differs but for times, the run's number, and where the run is."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

# Who works in the run and when, and what is drawn from the rest.
LEFT_OUT = re.compile(r"lock|log\.txt|report/.*")
# Files → their entries that differ by nature. The checksums of start.json and of the baselines are of rows of labels.csv with their times.
BY_NATURE = (
    (r".*\.pth", r"belongs_to\.run|active\.elapsed(_cpu)?"),
    (r".*\.jsonl?", r"(.*\.)?(acquisition_|train_|cpu_)?seconds"),
    (r"dataset\.json", r"run"),
    (r"cycle_\d+/start\.json", r"journal_(sha256|crc32)(\..*)?"),
    (r"artifacts/baselines\.json", r"(.*\.)?labels"),
    (r"config\.yaml", r"save_name"),
    (r"labels\.csv", r"\d+\.time"),
)


@dataclass
class Comparison:
    """How many files were compared, how many entries of checkpoints and of other files, and a line for each difference."""

    files: int = 0
    checkpoint_entries: int = 0
    other_entries: int = 0
    differences: list[str] = field(default_factory=list)


def compare(run: Path, reference: Path) -> Comparison:
    """Every file of two run directories: the same names, and the same entries bit for bit."""
    here, there = _names(run), _names(reference)
    found = Comparison(files=len(here & there), differences=_only_one(here, there))
    for name in sorted(here & there):
        mine, other = entries(run, name), entries(reference, name)
        found.differences += [f"{name}: {line}" for line in [*_only_one(mine.keys(), other.keys()), *_unequal(mine, other)]]
        if name.endswith(".pth"):
            found.checkpoint_entries += len(other)
        else:
            found.other_entries += len(other)
    return found


def _only_one(here: set[str], there: set[str]) -> list[str]:
    return [f"{name}: missing" for name in sorted(there - here)] + [f"{name}: not in the reference" for name in sorted(here - there)]


def _unequal(here: Mapping[str, Any], there: Mapping[str, Any]) -> list[str]:
    unequal = [key for key in here if key in there and here[key] != there[key]]
    return [f"{key}: {_short(here[key])}, in the reference {_short(there[key])}" for key in unequal]


def _short(value: tuple) -> str:
    return " ".join(str(part) for part in value if not isinstance(part, bytes))[:120]


def _names(run: Path) -> set[str]:
    names = (path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file())
    return {name for name in names if not LEFT_OUT.fullmatch(name)}


def entries(run: Path, name: str) -> dict[str, tuple]:
    """Dotted key → value of a file of a run, equal only when all bits are, without what differs by nature."""
    left_out = [re.compile(keys) for files, keys in BY_NATURE if re.fullmatch(files, name)]
    leaves = _leaves(_read(run / name), str(run))
    return {key: value for key, value in leaves if not any(keys.fullmatch(key) for keys in left_out)}


def _read(path: Path) -> Any:
    if path.suffix == ".pth":
        return torch.load(path, map_location="cpu", weights_only=True)
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    if path.suffix == ".npy":
        return np.load(path, allow_pickle=False)
    return _TEXTS[path.suffix](path.read_text(encoding="utf-8-sig")) if path.suffix in _TEXTS else path.read_bytes()


_TEXTS = {
    ".json": json.loads,
    ".jsonl": lambda text: [json.loads(line) for line in text.splitlines()],
    ".yaml": yaml.safe_load,
    ".csv": lambda text: list(csv.DictReader(io.StringIO(text, newline=""))),
}


def _leaves(value: Any, place: str, key: str = "") -> Iterator[tuple[str, tuple]]:
    """Containers are taken apart, and an empty one is a leaf. Texts do not say where the run is."""
    if isinstance(value, Mapping) and value:
        for name, item in value.items():
            yield from _leaves(item, place, f"{key}.{name}" if key else str(name))
    elif isinstance(value, (list, tuple)) and value:
        yield from _leaves(dict(enumerate(value)), place, key)
    elif isinstance(value, (torch.Tensor, np.ndarray)):
        array = np.ascontiguousarray(value)
        yield key, (type(value).__name__, str(value.dtype), tuple(value.shape), array.tobytes())
    else:
        # The text of a number tells all its bits but those of a nan, which is equal to itself here.
        yield key, (type(value).__name__, repr(value).replace(place, "RUN"))
