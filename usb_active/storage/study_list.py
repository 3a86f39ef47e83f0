"""study.json: what a sweep keeps of its study, a line for each cell. Reports read in it which keys the study varied."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from usb_active.errors import UsageError
from usb_active.storage.durable import dump_json, parse_json, read_bytes

STUDY_FILE = "study.json"
_REMEDY = "delete it: the runs are not touched"


def study_list(source: str, cells: Mapping[str, Any]) -> bytes:
    """The file's content. `cells`: name of a run directory → its `seed`, `overrides`, `base` and `varied`, the keys of the matrix;
    and `dropped` where the study has it no more."""
    return dump_json({"format": 1, "study": source, "cells": cells})


def read_study_list(folder: Path) -> dict[str, Any]:
    """The cells of the study in a folder, by the names of their run directories; {} where there is no such file.

    Raises:
        UsageError: the file is damaged.
    """
    path = folder / STUDY_FILE
    data = read_bytes(path)
    if data is None:
        return {}
    record = parse_json(path, data, _REMEDY)
    cells = record.get("cells") if isinstance(record, dict) else None
    if not isinstance(cells, dict) or not all(isinstance(cell, dict) for cell in cells.values()):
        raise UsageError(f"{path} is damaged (no cells in it); {_REMEDY}")
    return cells


def varied_keys(runs: Iterable[Path]) -> tuple[str, ...]:
    """The keys, with dots, that studies varied between these run directories; none of runs that are no cells.

    Raises:
        UsageError: the list of a study is damaged.
    """
    places: dict[Path, list[str]] = {}
    for run in runs:
        # Not what a link leads to: a cell is known by the name that it has in its study's folder.
        path = Path(os.path.abspath(run))
        places.setdefault(path.parent, []).append(path.name)
    found: dict[str, None] = {}
    for folder, names in places.items():
        cells = read_study_list(folder)
        for name in names:
            varied = cells.get(name, {}).get("varied", [])
            if not isinstance(varied, list) or not all(isinstance(key, str) for key in varied):
                raise UsageError(f"{folder / STUDY_FILE} is damaged (what varies in {name}); {_REMEDY}")
            found.update(dict.fromkeys(varied))
    return tuple(found)
