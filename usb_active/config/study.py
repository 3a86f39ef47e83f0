"""A study: one YAML that says which runs are to be compared. Imports neither torch nor semilearn of itself.

A study has a base configuration, a matrix of keys and values over it, and seeds. Each combination with each seed is a *cell*: an ordinary
run, in a directory of its own below the study's folder. All that is wrong with a study is found before anything runs.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from usb_active.config.choices import Problems
from usb_active.config.settings import RunConfig, config_from_dict
from usb_active.config.study_slurm import slurm_block
from usb_active.config.usb_keys import show
from usb_active.errors import UsageError, name_some, nearest, printable
from usb_active.storage.path_texts import name_problem, path_problem
from usb_active.storage.paths import user_path
from usb_active.storage.yaml_input import (
    STUDIES,
    apply_overrides,
    packaged_folder,
    packaged_names,
    read_yaml,
    read_yaml_and_bytes,
    yaml_on_one_line,
)

KEYS = ("base", "matrix", "include", "exclude", "seeds", "save_dir", "name", "slurm")
# Where studies are kept unless they say otherwise; counts from where the command is given, as a run's save_dir.
SAVE_DIR = "runs"
MAX_CELLS = 10_000
# A cell's name is part of a path, and is to be read.
_MAX_NAME = 150
# Keys that every cell has of its own, and where a study says them.
_OWN_KEYS = {"seed": "give `seeds:`", "save_dir": "give `save_dir:` of the study", "save_name": "cells are named after their values"}


@dataclass(frozen=True)
class Cell:
    """One run of a study.

    Attributes:
        place: the study's keys and the values that they have in this cell, in the study's order.
        seed: of the run.
        overrides: all that is put over the base, as `--set` of `usb-active run` takes it.
        run_path: the run directory.
        config: the checked configuration.
    """

    place: Mapping[str, Any]
    seed: int
    overrides: tuple[str, ...]
    run_path: Path
    config: RunConfig = field(repr=False, compare=False)

    @property
    def name(self) -> str:
        """The name of its run directory: `acquisition=margin,budget=10,seed=0`."""
        return self.run_path.name

    @property
    def trainings(self) -> int:
        """How many trainings it takes."""
        return self.config.active.cycles + 1


@dataclass(frozen=True)
class Study:
    """A whole study, checked.

    Attributes:
        name: of the study's folder.
        folder: `save_dir/name`, in which the cells' run directories lie.
        cells: in the study's order, the seeds of one place side by side.
        base: the YAML that `usb-active run` gets.
        base_data: what was in it when the cells were checked.
        source: the study's YAML, for messages.
        warnings: what was dropped from the cells' configurations, a line each.
        slurm: what a cell gets on a cluster of SLURM; None where the study does not say it.
    """

    name: str
    folder: Path
    cells: tuple[Cell, ...]
    base: Path = Path()
    base_data: bytes = field(default=b"", repr=False)
    source: str = ""
    warnings: tuple[str, ...] = ()
    slurm: Mapping[str, Any] | None = None


def read_study(path: str | Path, overrides: Sequence[str] = ()) -> Study:
    """The study of a file, or a packaged one by its name.

    Args:
        path: a path, or a name such as `digits`.
        overrides: `key=value` texts that are put over the base of every cell.

    Raises:
        UsageError: what is wrong with the study and with the configurations of its cells, a line each.
    """
    file = _find_study(path)
    data = read_yaml(file)
    problems = Problems(str(path))
    if "active" in data:
        raise UsageError(f"{path}: is the configuration of a run (it has an `active:` block), no study; a study names it by `base:`")
    for key in data:
        if key not in KEYS:
            problems.add(key, f"unknown key{nearest(key, KEYS)}")
    base = _base(data.get("base"), file.resolve().parent, problems)
    folder = _folder(data, file.stem, problems)
    places = _places(data, problems)
    seeds = _seeds(data.get("seeds"), problems)
    slurm = slurm_block(data, problems)
    _check_overrides(places, overrides)
    problems.raise_if_any()
    if len(places) * max(1, len(seeds)) > MAX_CELLS:
        raise UsageError(f"{path}: {len(places) * max(1, len(seeds)):,} cells; a study has at most {MAX_CELLS:,}")
    study = _Builder(str(path), base, str(data["base"]), folder, tuple(overrides)).study(places, seeds)
    return replace(study, slurm=slurm)


def _find_study(path: str | Path) -> Path:
    file = user_path(path)
    try:
        if file.is_file():
            return file
    except (OSError, ValueError) as error:
        raise UsageError(f"{printable(path, 400)}: {getattr(error, 'strerror', None) or error}") from error
    names = sorted(found.stem for found in (packaged_folder() / STUDIES).glob("*.yaml"))
    name = str(path).removeprefix("yaml_configs/").removeprefix(f"{STUDIES}/").removesuffix(".yaml")
    if str(path) in (name, f"{STUDIES}/{name}") and name in names:
        return packaged_folder() / STUDIES / f"{name}.yaml"
    what = "is a folder" if file.is_dir() else "no such file"
    raise UsageError(f"{printable(path, 400)}: {what}, and no packaged study has this name{nearest(name, names)}")


# --- the keys of a study ---------------------------------------------------------------------------------------------------


def _base(value: Any, folder: Path, problems: Problems) -> Path:
    if not isinstance(value, str) or not value:
        what = "missing" if value is None else f"must be a text ({show(value)})"
        problems.add("base", f"{what}; a YAML's path from the study's folder, or the name of a packaged one, such as quickstart")
        return Path()
    if what := path_problem(value):
        problems.add("base", what)
        return Path()
    path = folder / user_path(value)
    if path.is_file():
        return path
    if value in packaged_names():
        return packaged_folder() / f"{value}.yaml"
    hint = nearest(value, packaged_names())
    problems.add("base", f"{printable(value)}: no such file in {folder}, and no packaged configuration has this name{hint}")
    return Path()


def _folder(data: Mapping[str, Any], stem: str, problems: Problems) -> Path:
    save_dir, name = data.get("save_dir", SAVE_DIR), data.get("name", stem)
    for key, value, check in (("save_dir", save_dir, path_problem), ("name", name, name_problem)):
        what = check(value) if isinstance(value, str) and value else f"must be a text ({show(value)})"
        if what:
            problems.add(key, what)
            return Path()
    return user_path(save_dir) / name


def _seeds(value: Any, problems: Problems) -> tuple[int, ...]:
    """() where the base's own seed is the only one."""
    if value is None:
        return ()
    if type(value) is int and 1 <= value <= MAX_CELLS:
        return tuple(range(value))
    if not isinstance(value, list) or not value or not all(type(item) is int and item >= 0 for item in value):
        problems.add("seeds", f"must be a list of seeds, or how many ({show(value)}); 3 is short for [0, 1, 2]")
        return ()
    if twice := sorted({item for item in value if value.count(item) > 1}):
        problems.add("seeds", f"{name_some(twice)}: stands there twice")
    return tuple(value)


def _check_overrides(places: Sequence[Mapping[str, Any]], overrides: Iterable[str]) -> None:
    """UsageError where the command line gives what the study itself decides."""
    varied = dict.fromkeys(key for place in places for key in place)
    for override in overrides:
        key = override.partition("=")[0].strip()
        if key in _OWN_KEYS:
            raise UsageError(f"--set {key}: every cell has its own; {_OWN_KEYS[key]}")
        if above := next((name for name in varied if f"{key}.".startswith(f"{name}.")), None):
            raise UsageError(f"--set {printable(key)}: the study varies {above} itself")


# --- combinations ----------------------------------------------------------------------------------------------------------


def _places(data: Mapping[str, Any], problems: Problems) -> list[dict[str, Any]]:
    """The combinations: the matrix's product without what `exclude` says, then with what `include` says."""
    before = len(problems.lines)
    matrix = _matrix(data.get("matrix"), "include" in data, problems)
    excluded = _mappings(data, "exclude", problems)
    included = _mappings(data, "include", problems)
    for number, item in enumerate(excluded):
        for key in item:
            if key not in matrix:
                problems.add(f"exclude[{number}].{key}", f"no key of the matrix{nearest(key, matrix)}")
    if len(problems.lines) > before:
        return []
    size = math.prod(map(len, matrix.values()))
    if size > MAX_CELLS:
        problems.add("matrix", f"{size:,} combinations; a study has at most {MAX_CELLS:,} cells")
        return []
    product = [dict(zip(matrix, values, strict=True)) for values in itertools.product(*matrix.values())] if matrix else []
    kept = [place for place in product if not any(_agree(item, place) for item in excluded)]
    for number, item in enumerate(excluded):
        if not any(_agree(item, place) for place in product):
            problems.add(f"exclude[{number}]", f"no combination of the matrix has these values ({show(item)})")
    places = [*_extended(kept, included)]
    if not places:
        problems.add("exclude", "nothing is left of the matrix")
    for place in places:
        _check_order(place, problems)
    return places


def _matrix(value: Any, may_be_missing: bool, problems: Problems) -> dict[str, list[Any]]:
    if value is None and may_be_missing:
        return {}
    if not isinstance(value, dict) or not value:
        what = "missing" if value is None else "empty" if value == {} else f"must be a mapping ({show(value)})"
        problems.add("matrix", f"{what}; keys with lists of values, as in `active.budget: [10, 50]`")
        return {}
    for key, values in value.items():
        _check_key(f"matrix.{key}", key, problems)
        if not isinstance(values, list) or not values:
            what = "an empty list; give at least one value" if values == [] else f"must be a list of values ({show(values)})"
            problems.add(f"matrix.{printable(key)}", what)
    return value


def _mappings(data: Mapping[str, Any], name: str, problems: Problems) -> list[dict[str, Any]]:
    value = data.get(name)
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, dict) and item for item in value):
        problems.add(name, f"must be a list of mappings, as in `- {{active.budget: 10}}` ({show(value)})")
        return []
    for number, item in enumerate(value):
        for key in item:
            _check_key(f"{name}[{number}].{key}", key, problems)
    return value


def _check_key(where: str, key: Any, problems: Problems) -> None:
    if not isinstance(key, str) or not all(part.strip() for part in key.split(".")) or "=" in key or key != key.strip():
        problems.add(where, "must be a key of a run's YAML, with dots, as in active.budget")
    elif key in _OWN_KEYS:
        problems.add(where, f"every cell has its own; {_OWN_KEYS[key]}")


def _check_order(place: Mapping[str, Any], problems: Problems) -> None:
    """A key below another is put over it, so it must come later."""
    keys = list(place)
    for number, key in enumerate(keys):
        if below := next((name for name in keys[:number] if name.startswith(f"{key}.")), None):
            line = f"comes after {below}, and would replace it; put it first"
            if not any(found.endswith(f"{key}: {line}") for found in problems.lines):
                problems.add(key, line)


def _extended(places: Sequence[Mapping[str, Any]], included: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """As GitHub Actions has it: a mapping is added to every combination of the matrix none of whose own values it would change; where
    there is no such combination, it becomes one of its own."""
    extended, alone = [dict(place) for place in places], []
    for item in included:
        fitting = [number for number, place in enumerate(places) if all(key not in place or _same(place[key], item[key]) for key in item)]
        for number in fitting:
            extended[number].update(item)
        if not fitting:
            alone.append(dict(item))
    yield from extended
    yield from alone


def _agree(item: Mapping[str, Any], place: Mapping[str, Any]) -> bool:
    return all(key in place and _same(value, place[key]) for key, value in item.items())


def _same(one: Any, other: Any) -> bool:
    return _canonical(one) == _canonical(other)


def _canonical(value: Any) -> str:
    """One text for equal values; 1, 1.0, true and "1" are four."""
    return json.dumps(_ordered(value), default=str)


def _ordered(value: Any) -> Any:
    """With the keys of all mappings as JSON, in order: 1 and "1" are two, and a run says what is wrong with the first."""
    if isinstance(value, dict):
        return dict(sorted((json.dumps(key, default=str), _ordered(item)) for key, item in value.items()))
    return [_ordered(item) for item in value] if isinstance(value, list) else value


# --- cells -----------------------------------------------------------------------------------------------------------------


def override_text(key: str, value: Any) -> str:
    """`key=value` as `--set` takes it; the value is YAML on one line."""
    return f"{key}={yaml_on_one_line(value, sort_keys=True)}"


def _cell_name(place: Mapping[str, Any], seed: int) -> str:
    """Depends on this cell alone, so that a study can grow; `is_cell_name` knows it again."""
    parts = [f"{_clean(key.removeprefix('active.'))}={_word(value)}" for key, value in place.items()]
    name = ",".join([*parts, f"seed={seed}"])
    if len(name.encode()) <= _MAX_NAME:
        return name
    head = name.encode()[: _MAX_NAME - 40].decode(errors="ignore")
    return f"{head}~{_digest(place)},seed={seed}"


def is_cell_name(name: str) -> bool:
    """Whether a folder is called as cells are."""
    return re.search(r"(?:^|,)seed=\d+$", name) is not None


def _word(value: Any) -> str:
    """A value in a name; what cannot be told by its letters alone has a digest."""
    if isinstance(value, str):
        cleaned = _clean(value)
        return cleaned if cleaned == value and isinstance(yaml.safe_load(value), str) else f"{cleaned[:40]}~{_digest(value)}"
    if isinstance(value, dict):
        return f"{_clean(str(value.get('name', '')))[:40]}~{_digest(value)}"
    return _clean(_canonical(value)) if value is None or isinstance(value, (bool, int, float)) else f"~{_digest(value)}"


def _clean(text: str) -> str:
    return re.sub(r"[^\w.+-]", "_", text)


def _digest(value: Any) -> str:
    return hashlib.sha256(_canonical(value).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class _Builder:
    """Makes the cells, and says at once what is wrong with any."""

    source: str
    base: Path
    base_text: str
    folder: Path
    overrides: tuple[str, ...]

    def study(self, places: Sequence[Mapping[str, Any]], seeds: Sequence[int]) -> Study:
        data, base_data = read_yaml_and_bytes(self.base)
        # Line → the cells that it is about.
        wrong: dict[str, list[str]] = {}
        cells: list[Cell] = []
        pairs = [(place, seed) for place in places for seed in seeds or (self._own_seed(data),)]
        for place, seed in pairs:
            try:
                cells.append(self._cell(data, place, seed))
            except UsageError as error:
                for line in str(error).splitlines():
                    wrong.setdefault(self._line(line), []).append(_cell_name(place, seed))
        lines = [line if len(names) == len(pairs) else f"{line} (in {name_some(names, 2)})" for line, names in wrong.items()]
        lines += self._twice(cells)
        if lines:
            raise UsageError("\n".join(lines))
        warnings = dict.fromkeys(line for cell in cells for line in cell.config.warnings)
        return Study(self.folder.name, self.folder, tuple(cells), self.base, base_data, self.source, tuple(warnings))

    def _own_seed(self, data: Mapping[str, Any]) -> int:
        seed = data.get("seed", 0)
        return seed if type(seed) is int else 0

    def _cell(self, base: Mapping[str, Any], place: Mapping[str, Any], seed: int) -> Cell:
        name = _cell_name(place, seed)
        own = {**place, "seed": seed, "save_dir": str(self.folder), "save_name": name}
        overrides = (*self.overrides, *(override_text(key, value) for key, value in own.items()))
        data = dict(base)
        changed = apply_overrides(data, overrides)
        config = config_from_dict(data, base=self.base.resolve().parent, source=self.base_text, overridden=changed)
        return Cell(place, seed, overrides, self.folder / name, config)

    def _line(self, line: str) -> str:
        """A message that speaks of `--set`, where the value is the study's."""
        key = re.match(r"--set:? ([^\s:]+)", line)
        given = key and not any(f"{key[1]}.".startswith(f"{override.partition('=')[0]}.") for override in self.overrides)
        return f"{self.source}: {re.sub('^--set:? ', '', line)}" if given else line

    def _twice(self, cells: Iterable[Cell]) -> Iterator[str]:
        """Cells that would be one run under two names, or two under one."""
        runs: dict[str, Cell] = {}
        names: dict[Path, Cell] = {}
        for cell in cells:
            config = _canonical({**cell.config.stored(), "save_name": None})
            if config in runs:
                yield f"{self.source}: two cells are the same run: {runs[config].name} and {cell.name}"
            elif cell.run_path in names:
                yield f"{self.source}: two cells have one name: {cell.name}"
            runs.setdefault(config, cell)
            names.setdefault(cell.run_path, cell)
