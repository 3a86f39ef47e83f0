"""The run directory: what a run knows, on disk.

The rule: a label once received is never lost and never asked for twice, unless it is taken back. The journal is append-only and
fsynced, everything else is replaced atomically, and one process at a time writes.
"""

from __future__ import annotations

import json
import logging
import os
import shlex
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from usb_active.errors import UsageError, name_some, printable
from usb_active.records import LABELED, SKIPPED, LabelRow, Query
from usb_active.storage.durable import (
    atomic_write,
    dump_json,
    make_folder,
    no_os_error,
    parse_json,
    read_bytes,
    release_lock,
    remove_leftovers,
    take_lock,
)
from usb_active.storage.journal import append_journal, drop_torn_row, read_journal, utc_now
from usb_active.storage.journal_checks import check_prefix
from usb_active.storage.schemas import METRICS_REMEDY, QUERY_REMEDY, ConfigRecord, MetricsLine, check_record, read_dataset
from usb_active.storage.yaml_input import parse_yaml

__all__ = ["LABELED", "SKIPPED", "LabelRow", "RunDir", "atomic_write", "differences", "read_query", "utc_now"]

logger = logging.getLogger("usb_active")

_MISSING = object()
# What an array of indices can hold.
_MAX_INDEX = 2**63 - 1


class OtherConfigurationError(UsageError):
    """A run that was begun with another configuration; its keys are shown, old -> new."""


class RunDir:
    """The directory of one run: `open` to work in it, locked for the life of the process; `read` to look."""

    def __init__(self, path: Path, lock_fd: int | None):
        """Use `open` or `read`."""
        self.path = path
        self._lock_fd = lock_fd
        self._rows: list[LabelRow] | None = None
        # Whether this very start has made the run.
        self.is_new = False

    @classmethod
    def open(
        cls, path: str | Path, config: dict, *, free_keys: Collection[str] = (), check_labels: bool = True, is_new: bool = False
    ) -> RunDir:
        """Create the run, or resume it.

        Args:
            path: the directory; made if it is missing.
            config: the resolved configuration, plain YAML values.
            free_keys: dotted keys that may differ, with all below them, from those the run was started with.
            check_labels: refuse a journal whose rows are not as they were when a cycle began to train on them.
            is_new: the same start has made the run before, and closed it.

        Raises:
            UsageError: another process uses it; a different configuration (its keys are shown, old -> new); a
                directory that is not a run; a disk that cannot be written.
        """
        path = Path(path)
        _refuse_foreign(path)
        make_folder(path)
        run = cls(path, take_lock(path / "lock"))
        try:
            remove_leftovers(path)
            run._settle_config(config, free_keys)
            run.is_new |= is_new
            # Before anything is cut off: a row that a cycle was trained on is not torn, it was altered.
            if check_labels:
                check_prefix(run)
            drop_torn_row(run._journal)
        except BaseException:
            run.close()
            raise
        return run

    @classmethod
    def read(cls, path: str | Path) -> RunDir:
        """A run to look at: no lock, and nothing can be written. UsageError if there is none at `path`."""
        path = Path(path)
        if not (path / "config.yaml").is_file():
            raise UsageError(f"{path} is not a run directory: it has no config.yaml")
        return cls(path, None)

    def close(self) -> None:
        """Give the lock back. Closing twice does no harm."""
        if self._lock_fd is not None:
            release_lock(self._lock_fd)
            self._lock_fd = None

    def withdraw(self) -> None:
        """Take back what this very start has written, where the run was refused before it came to anything.

        Only when this start made the run, and only while there is neither a query nor a label nor anything else that was worked for:
        otherwise nothing is touched. What is left (a lock, a log) keeps no corrected configuration from the directory.
        """
        if self._lock_fd is None or not self.is_new:
            return
        with no_os_error("look into", self.path):
            names = set(os.listdir(self.path))
        if not names <= {*_AT_START, *(name for name in names if name.startswith(_TOLERATED))}:
            return
        for name in reversed(_AT_START):
            with no_os_error("take back", self.path / name):
                (self.path / name).unlink(missing_ok=True)

    def __enter__(self) -> RunDir:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check_writable(self) -> None:
        if self._lock_fd is None:
            raise UsageError(f"{self.path} was opened for reading, or is closed: nothing can be written")

    # Configuration

    @property
    def config(self) -> dict:
        """The resolved configuration, as last given to `open`."""
        path = self.path / "config.yaml"
        try:
            config = parse_yaml((read_bytes(path) or b"").decode("utf-8"), path.name)
        except (UsageError, UnicodeDecodeError) as error:
            raise UsageError(f"{path} is damaged ({error}); restore it from a copy") from error
        if not isinstance(config, dict):
            raise UsageError(f"{path} is damaged (no mapping in it); restore it from a copy")
        return check_record(ConfigRecord, path, config, "restore it from a copy")

    def _settle_config(self, config: dict, free_keys: Collection[str]) -> None:
        self.is_new = not (self.path / "config.yaml").exists()
        if not self.is_new and not _check_differences(self, config, free_keys):
            return
        text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
        atomic_write(self.path / "config.yaml", lambda file: file.write(text.encode("utf-8")))

    # Labels

    @property
    def _journal(self) -> Path:
        return self.path / "labels.csv"

    def rows(self) -> list[LabelRow]:
        """The journal, oldest first; the last row of an index counts. A torn last row is left out.

        Raises:
            UsageError: damage anywhere else; names file, line and what is wrong.
        """
        if self._lock_fd is None:
            return read_journal(self._journal)
        # Nothing else writes while the lock is held, and a long journal is asked for many times.
        if self._rows is None:
            self._rows = read_journal(self._journal)
        return list(self._rows)

    def append_rows(self, rows: Sequence[LabelRow]) -> None:
        """Add rows: when this returns they survive a power cut; when it raises the journal is as before.

        Raises:
            UsageError: a row that is no row; a disk that is full or cannot be written (path and reason).
        """
        self._check_writable()
        self._rows = None
        append_journal(self._journal, rows)

    # The pool's order

    def keys(self) -> list[str] | None:
        """(N,) the key of every dataset index as the run knows them; None before `write_keys`."""
        path = self.path / "keys.txt"
        data = read_bytes(path)
        if data is None:
            return None
        # JSON escapes newlines, so the lines can be parsed as one list: a million of them in a second.
        keys = parse_json(path, b"[" + data.removesuffix(b"\n").replace(b"\n", b",\n") + b"]", "restore it from a copy")
        if not all(isinstance(key, str) for key in keys):
            raise UsageError(f"{path} is damaged (a line that is no text in quotes); restore it from a copy")
        return keys

    def write_keys(self, keys: Sequence[str]) -> None:
        """Fix the order of the pool. Keys may only be added at the end.

        Raises:
            UsageError: a key that moved or vanished, or that stands there twice.
        """
        self._check_writable()
        keys = list(keys)
        _check_distinct(keys)
        old = self.keys()
        if old == keys:
            return
        if old is not None and keys[: len(old)] != old:
            at = next((i for i, key in enumerate(keys) if key != old[i]), len(keys))
            now = f"now it is '{printable(keys[at])}'" if at < len(keys) else "now there is none"
            rule = "samples may only be added at the end"
            raise UsageError(f"{self.path / 'keys.txt'}: sample {at} was '{printable(old[at])}', {now}; {rule}")
        text = json.dumps(keys, separators=("\n", ":"))[1:-1] + ("\n" if keys else "")
        atomic_write(self.path / "keys.txt", lambda file: file.write(text.encode("ascii")))

    @property
    def run_id(self) -> str | None:
        """The number by which files of this run are told from those of others; None in runs that began without."""
        return (read_dataset(self) or {}).get("run")

    # Queries

    def query(self, cycle: int, *, probs: bool = True) -> Query | None:
        """The query of a cycle, None if there is none yet. UsageError names a damaged file. `probs` as in `read_query`."""
        return read_query(self.path, cycle, probs=probs)

    def save_query(self, query: Query) -> None:
        """Put the picks on disk, durably, before the oracle is asked. Again with the same picks: nothing happens.

        Raises:
            UsageError: there is a query of this cycle with other picks: it is never changed.
        """
        self._check_writable()
        saved = self.query(query.cycle)
        path = _query_path(self.path, query.cycle, ".json")
        if saved is not None:
            if not _same_query(saved, query):
                raise UsageError(f"{path} holds other picks; a query that was made is never changed")
            return
        make_folder(path.parent)
        if query.probs is not None:
            probs = np.asarray(query.probs)
            probs_path = _query_path(self.path, query.cycle, ".probs.npy")
            atomic_write(probs_path, lambda file: np.save(file, probs, allow_pickle=False))
        self.write_json(f"queries/{path.name}", _query_record(query))

    # Cycles, state and metrics

    def cycle_path(self, cycle: int) -> Path:
        """The folder of a cycle's training; it may not exist yet."""
        return self.path / f"cycle_{cycle:03d}"

    def read_json(self, name: str, remedy: str = "restore it from a copy, or move its folder away") -> Any:
        """What a file (`cycle_003/done.json`) holds, None if there is none. UsageError if it is damaged."""
        data = read_bytes(self.path / name)
        return None if data is None else parse_json(self.path / name, data, remedy)

    def write_json(self, name: str, value: Any) -> None:
        """Replace a file of the run by this value, atomically and durably; folders are made as needed."""
        self._check_writable()
        data = dump_json(value)
        make_folder((self.path / name).parent)
        atomic_write(self.path / name, lambda file: file.write(data))

    def state(self) -> dict | None:
        """What `write_state` wrote; None if there is none, or (a warning) a damaged one: write it again."""
        path = self.path / "state.json"
        data = read_bytes(path)
        if data is None:
            return None
        try:
            state = parse_json(path, data, "it is derived and will be rebuilt")
            if not isinstance(state, dict):
                raise UsageError(f"{path} is damaged (no object in it); it is derived and will be rebuilt")
        except UsageError as error:
            logger.warning("%s", error)
            return None
        return state

    def write_state(self, state: dict) -> None:
        """Replace state.json, atomically."""
        self.write_json("state.json", state)

    def metrics(self, model: type[MetricsLine] = MetricsLine) -> list[dict]:
        """One dict per finished training, by cycle, each with what `model` says. A torn last line is left out, other damage an error."""
        path = self.path / "metrics.jsonl"
        *lines, torn = (read_bytes(path) or b"").split(b"\n")
        if torn:
            logger.warning("%s: the last line is torn and left out: %s", path, printable(torn))
        found: dict[int, dict] = {}
        for number, line in enumerate(lines, start=1):
            record = parse_json(f"{path}:{number}", line, METRICS_REMEDY)
            check_record(model, f"{path}:{number}", record, METRICS_REMEDY)
            found[record["cycle"]] = record
        return [found[cycle] for cycle in sorted(found)]

    def append_metrics(self, record: dict) -> None:
        """Add a training's line; one of the same cycle is replaced, so doing it twice does no harm."""
        self._check_writable()
        records = {old["cycle"]: old for old in self.metrics()}
        where = f"{self.path / 'metrics.jsonl'}: the line of cycle {record['cycle']}"
        check_record(MetricsLine, where, parse_json(where, dump_json(record), METRICS_REMEDY), "nothing was written")
        records[int(record["cycle"])] = record
        data = b"".join(dump_json(records[cycle]) for cycle in sorted(records))
        atomic_write(self.path / "metrics.jsonl", lambda file: file.write(data))


# Opening

# What may lie in a directory that is no run yet, by how the names begin; and what a start writes before its first query.
_TOLERATED = ("lock", ".config.yaml.", "log.txt", "tensorboard")
_AT_START = ("config.yaml", "dataset.json", "keys.txt", "verified.json")
# What helps where a directory cannot be used.
_OTHER_NAME = "choose another save_name"


def check_reopening(path: Path, config: dict, *, free_keys: Collection[str] = (), remedy: str | None = None) -> None:
    """What `RunDir.open` would refuse of a directory that exists, without touching it. `remedy`: beside undoing the changes."""
    _refuse_foreign(path, remedy or _OTHER_NAME)
    if (path / "config.yaml").is_file():
        _check_differences(RunDir.read(path), config, free_keys, remedy)


def _refuse_foreign(path: Path, remedy: str = _OTHER_NAME) -> None:
    """Never work in a folder of something else. A start that died left a lock and a temporary config; USB's train.py logs first."""
    with no_os_error("use", path):
        if path.exists() and not path.is_dir():
            raise UsageError(f"{path} is a file; the run needs a directory")
        if not path.exists() or (path / "config.yaml").exists():
            return
        foreign = [name for name in os.listdir(path) if not name.startswith(_TOLERATED)]
    if foreign:
        shown = name_some(sorted(foreign), 3)
        raise UsageError(f"{path} is not empty and no run (no config.yaml, but {shown}); {remedy}")


def differences(old: Any, new: Any, prefix: str = "") -> list[tuple[str, Any, Any]]:
    """Where two nested dicts differ: (dotted key, old value, new value), in the new one's order.

    Items of lists of dicts have keys too, such as `active.analysis[0].k`, where both lists are of one length.
    """
    if isinstance(old, dict) and new is _MISSING:
        new = {}
    if isinstance(new, dict) and old is _MISSING:
        old = {}
    if _are_blocks(old) and _are_blocks(new) and len(old) == len(new):
        pairs = enumerate(zip(old, new, strict=True))
        return [item for number, (one, other) in pairs for item in differences(one, other, f"{prefix}[{number}]")]
    if not (isinstance(old, dict) and isinstance(new, dict)):
        # The texts are compared as well, because nan is not equal to itself.
        return [] if old == new or repr(old) == repr(new) else [(prefix, old, new)]
    found = []
    for key in [*new, *(key for key in old if key not in new)]:
        dotted = f"{prefix}.{key}" if prefix else str(key)
        found += differences(old.get(key, _MISSING), new.get(key, _MISSING), dotted)
    return found


def _are_blocks(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 0 and all(isinstance(item, dict) for item in value)


def _shown(value: Any) -> str:
    if value is _MISSING:
        return "(not set)"
    return printable(json.dumps(value, ensure_ascii=False, default=str))


def _is_free(key: str, free_keys: Collection[str]) -> bool:
    return any(key == free or key.startswith((free + ".", free + "[")) for free in free_keys)


def _check_differences(run: RunDir, config: dict, free_keys: Collection[str], remedy: str | None = None) -> bool:
    """Whether the configuration of a run changes at all. UsageError where it does in a key that is not free."""
    # Read back, so that tuples and lists, which YAML does not tell apart, are no difference.
    found = differences(run.config, yaml.safe_load(yaml.safe_dump(config, sort_keys=False)))
    fixed = [item for item in found if not _is_free(item[0], free_keys) and not _same_place(*item[1:])]
    if fixed:
        takes_over = f" (--from {shlex.quote(str(run.path))} takes its labels over)" if run._journal.is_file() else ""
        _refuse_difference(run.path, fixed, remedy or _OTHER_NAME + takes_over)
    return bool(found)


def _same_place(old: Any, new: Any) -> bool:
    """Whether relative paths of version 0.1.0's config.yaml lead, from here, to the absolute ones that are kept now."""
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return all(one == other or _same_place(one, other) for one, other in zip(old, new, strict=True))
    texts = isinstance(old, str) and isinstance(new, str)
    return texts and os.path.isabs(new) and not os.path.isabs(old) and os.path.abspath(old) == new


def _refuse_difference(path: Path, found: list[tuple[str, Any, Any]], remedy: str, limit: int = 5) -> None:
    lines = [f"  {key}: {_shown(old)} -> {_shown(new)}" for key, old, new in found[:limit]]
    if len(found) > limit:
        lines.append(f"  and {len(found) - limit} more")
    head = f"{path} holds a run of another configuration; {remedy}, or undo these changes:"
    raise OtherConfigurationError("\n".join([head, *lines]))


def _check_distinct(keys: list[str]) -> None:
    if len(set(keys)) == len(keys):
        return
    counts: dict[str, int] = {}
    for key in keys:
        counts[key] = counts.get(key, 0) + 1
    twice = [f"'{key}'" for key, count in counts.items() if count > 1]
    raise UsageError(f"the pool has several samples of one key: {name_some(twice)}; keys must be distinct")


# Queries

def _query_path(run_path: Path, cycle: int, suffix: str) -> Path:
    return run_path / "queries" / f"cycle_{cycle:03d}{suffix}"


def _query_record(query: Query) -> dict[str, Any]:
    return {
        "cycle": int(query.cycle),
        "idx": np.asarray(query.idx).tolist(),
        "keys": list(query.keys),
        "acquisition": query.acquisition,
        "class_names": list(query.class_names),
        **({"expects": query.expects} if query.expects else {}),
        # Said here, so that probabilities of an attempt that died before this file are not taken for its.
        "probs": query.probs is not None,
    }


def read_query(run_path: Path, cycle: int, *, probs: bool = True) -> Query | None:
    """The query of a cycle of the run at `run_path`, None if there is none. UsageError names a damaged file.

    `probs=False` leaves them alone, even where there are some.
    """
    path = _query_path(run_path, cycle, ".json")
    data = read_bytes(path)
    if data is None:
        return None
    record = parse_json(path, data, QUERY_REMEDY)
    try:
        _check_query(record, cycle)
    except (KeyError, ValueError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else error
        raise UsageError(f"{path} is damaged ({reason}); {QUERY_REMEDY}") from error
    names = tuple(record["class_names"])
    idx = np.array(record["idx"], dtype=np.int64)
    known = probs and record.get("probs")
    table = _read_probs(run_path, cycle, (len(idx), len(names))) if known else None
    return Query(cycle, idx, tuple(record["keys"]), record["acquisition"], names, table, record.get("expects", ""))


def _check_query(record: Any, cycle: int) -> None:
    if not isinstance(record, dict):
        raise ValueError("no object in it")
    if record["cycle"] != cycle:
        raise ValueError(f"cycle is {record['cycle']}, must be {cycle}")
    for name, kind, what in (("idx", int, "whole numbers"), ("keys", str, "texts"), ("class_names", str, "texts")):
        if not isinstance(record[name], list) or not all(type(item) is kind for item in record[name]):
            raise ValueError(f"{name} must be {what}")
    if max(map(abs, record["idx"]), default=0) > _MAX_INDEX:
        raise ValueError("idx must be whole numbers of 64 bits")
    if len(set(record["idx"])) != len(record["idx"]):
        raise ValueError("idx has a sample twice")
    if len(record["keys"]) != len(record["idx"]):
        raise ValueError(f"{len(record['keys'])} keys for {len(record['idx'])} idx")
    # Only queries of tasks without classes say what is expected.
    for name, text in (("acquisition", record["acquisition"]), ("expects", record.get("expects", ""))):
        if not isinstance(text, str):
            raise ValueError(f"{name} must be a text")


def _read_probs(run_path: Path, cycle: int, shape: tuple[int, int]) -> np.ndarray:
    path = _query_path(run_path, cycle, ".probs.npy")
    try:
        probs = np.load(path, mmap_mode="r", allow_pickle=False)
        if probs.shape != shape:
            raise ValueError(f"shape {probs.shape}, must be {shape}")
    except Exception as error:  # whatever a damaged file provokes: its header is a Python literal
        beside = _query_path(run_path, cycle, ".json").name
        remedy = f'restore it, or set "probs" to false in {beside} to do without suggestions'
        raise UsageError(f"{path} is damaged or missing ({error}); {remedy}") from error
    return probs


def _same_query(one: Query, other: Query) -> bool:
    texts = ("cycle", "acquisition", "class_names")
    same_samples = np.array_equal(one.idx, other.idx) and tuple(one.keys) == tuple(other.keys)
    return same_samples and all(getattr(one, name) == getattr(other, name) for name in texts)
