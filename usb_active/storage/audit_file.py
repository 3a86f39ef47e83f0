"""Which samples of a run are its audit: set aside before anything was chosen, to measure the model by. They are never changed again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import Field

from usb_active.errors import UsageError, printable
from usb_active.storage.schemas import QUERY_REMEDY, Record, check_record

if TYPE_CHECKING:
    from usb_active.storage.run_dir import RunDir

AUDIT_FILE = "queries/audit.json"


class AuditRecord(Record):
    """`queries/audit.json`: (A,) dataset indices, ascending, their keys, and how many samples the pool had then."""

    idx: list[Annotated[int, Field(ge=0, lt=2**63)]]
    keys: list[str]
    samples: Annotated[int, Field(ge=0)] | None = None


def write_audit(run: RunDir, idx: np.ndarray, pool_keys: Sequence[str]) -> None:
    """Put the audit on disk, before the query that asks for it.

    Args:
        run: its directory, opened for writing.
        idx: (A,) dataset indices.
        pool_keys: (N,) of all samples.
    """
    run.write_json(AUDIT_FILE, {"idx": idx.tolist(), "keys": [pool_keys[int(index)] for index in idx], "samples": len(pool_keys)})


def samples_at_draw(run: RunDir) -> int | None:
    """How many samples the pool had when its audit was drawn; None where there is none, or nothing says so.

    Raises:
        UsageError: as `read_audit`.
    """
    return (run.read_json(AUDIT_FILE, QUERY_REMEDY) or {}).get("samples") if len(read_audit(run)) else None


def read_audit(run: RunDir) -> np.ndarray:
    """(A,) int64 dataset indices of a run's audit, ascending; none where it has none.

    Raises:
        UsageError: the file is damaged, or does not fit the pool.
    """
    record = run.read_json(AUDIT_FILE, QUERY_REMEDY)
    path = run.path / AUDIT_FILE
    if record is None and not path.exists():
        return np.empty(0, dtype=np.int64)
    check_record(AuditRecord, path, record, QUERY_REMEDY)
    idx, keys = record["idx"], record["keys"]
    if sorted(set(idx)) != idx or len(keys) != len(idx):
        raise UsageError(f"{path} is damaged (idx must ascend, with a key each); {QUERY_REMEDY}")
    known = run.keys() or []
    for index, key in zip(idx, keys, strict=True):
        if index >= len(known) or known[index] != key:
            raise UsageError(f"{path} is damaged ('{printable(key)}' is not the key of sample {index}, see keys.txt); {QUERY_REMEDY}")
    return np.array(idx, dtype=np.int64)
