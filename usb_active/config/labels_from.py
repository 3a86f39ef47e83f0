"""`--from RUN`: a new run begins with the labels of another one, which stand in place of its own `initial:` block."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from usb_active.errors import UsageError, printable
from usb_active.storage.labels_in_force import labels_in_force, run_number
from usb_active.storage.paths import absolute
from usb_active.storage.run_dir import RunDir

if TYPE_CHECKING:
    from usb_active.config.settings import RunConfig

# What brings them: a plugin of the core, of kind initial_labels.
OTHER_RUN = "other_run"


def with_labels_of(read: Callable[[Mapping[str, Any]], RunConfig], data: Mapping[str, Any], source: Path) -> RunConfig:
    """The configuration `read(data)` with `active.initial` replaced by the labels of the run at `source`.

    A run that has begun with them keeps the block that its config.yaml holds: the other run may have moved since, or be gone.

    Args:
        read: makes a checked configuration of plain data.
        data: what the YAML holds; it is not changed.
        source: the run directory.

    Raises:
        UsageError: what `read` refuses; or in one line: no run or no label at `source`, or the new run has begun with others.
    """
    if not isinstance(data.get("active"), dict):
        # Says itself what is missing.
        return read(data)
    path = Path(absolute(str(source)))
    # Where it would run does not depend on whose labels it begins with.
    run_path = read(_replaced(data, {"path": str(path)})).run_path
    begun = _begun_with(run_path)
    if begun is not None:
        return read(_replaced(data, _kept(run_path, begun, path)))
    found = labels_in_force(path)
    config = read(_replaced(data, {"path": str(path), "run": found.number}))
    given = data["active"].get("initial")
    name = given.get("name") if isinstance(given, dict) else given
    unused = f"'{printable(name)}' is not used: " if name is not None else ""
    line = f"{config.source}: active.initial: {unused}--from {path} brings {found.counts}"
    return replace(config, warnings=(*config.warnings, line))


def check_begun_from(config: RunConfig) -> None:
    """UsageError, in one line, when a run that has begun with `--from` is to be resumed without it."""
    begun = _begun_with(config.run_path)
    if begun and begun.get("name") == OTHER_RUN and config.active.initial.name != OTHER_RUN:
        raise UsageError(f"{config.run_path} has begun with --from {begun.get('path')}; give it again, or choose another save_name")


def _replaced(data: Mapping[str, Any], keys: Mapping[str, Any]) -> dict[str, Any]:
    return {**data, "active": {**data["active"], "initial": {"name": OTHER_RUN, **keys}}}


def _begun_with(run_path: Path) -> Mapping[str, Any] | None:
    """The block `initial` of a run that has begun; None before that."""
    if not (run_path / "config.yaml").is_file():
        return None
    block = (RunDir.read(run_path).config.get("active") or {}).get("initial")
    return block if isinstance(block, dict) else {}


def _kept(run_path: Path, begun: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The keys that the run began with, if they are those of the run at `path`."""
    if begun.get("name") != OTHER_RUN:
        raise UsageError(f"{run_path} has begun without --from, with labels of its own; choose another save_name, or leave --from out")
    known, number = Path(str(begun.get("path", ""))), begun.get("run")
    # Of a run that is gone, or was left on another machine, there is no more than its name; and none may have a number.
    by_number = bool(number) and (path / "config.yaml").is_file()
    same = run_number(RunDir.read(path)) == number if by_number else path.name == known.name
    if not same:
        raise UsageError(f"{run_path} has begun with the labels of another run, {known}, and not of {path}; choose another save_name")
    kept = {name: begun[name] for name in ("path", "run") if name in begun}
    # Its labels are read where it lies now, until they have been taken.
    return kept | {"path": str(path)} if by_number and not (run_path / "queries" / "cycle_000.json").is_file() else kept
