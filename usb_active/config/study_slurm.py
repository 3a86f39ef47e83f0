"""The block of a study that says what a cell gets on a cluster, `slurm:`. Checked whatever engine is used."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from usb_active.config.choices import Problems
from usb_active.config.usb_keys import show
from usb_active.errors import nearest, plain, printable

# What is wrong with a value; "" if nothing.
Check = Callable[[Any], str]


def _whole(least: int) -> Check:
    return lambda value: "" if type(value) is int and value >= least else f"must be a whole number, at least {least}"


def _amount(value: Any) -> str:
    return "" if type(value) in (int, float) and math.isfinite(value) and value > 0 else "must be a number above 0"


def _text(value: Any) -> str:
    # Each goes into a line of its own of a script.
    return "" if isinstance(value, str) and value.strip() and plain(value) == value else "must be a text of one line"


def _truth(value: Any) -> str:
    return "" if isinstance(value, bool) else "must be true or false"


def _texts(value: Any) -> str:
    return "" if isinstance(value, list) and not any(map(_text, value)) else "must be a list of texts, each of one line"


def _further(value: Any) -> str:
    fits = isinstance(value, dict) and all(
        isinstance(key, str) and re.fullmatch(r"[A-Za-z][\w-]*", key) and (type(item) in (bool, int, float) or not _text(item))
        for key, item in value.items()
    )
    return "" if fits else "must be a mapping of options of sbatch, without the dashes, to texts or numbers"


# As submitit calls them.
SLURM: dict[str, Check] = {
    "timeout_min": _whole(1),
    "partition": _text,
    "cpus_per_task": _whole(1),
    "gpus_per_node": _whole(0),
    "mem_gb": _amount,
    "account": _text,
    "qos": _text,
    "constraint": _text,
    "gres": _text,
    "nodelist": _text,
    "exclude": _text,
    "comment": _text,
    "mail_type": _text,
    "mail_user": _text,
    "setup": _texts,
    "use_srun": _truth,
    "signal_delay_s": _whole(1),
    "max_num_timeout": _whole(0),
    "additional_parameters": _further,
}
_DECIDED = {
    "array_parallelism": "give --jobs",
    "job_name": "jobs are named after their cells",
    "name": "jobs are named after their cells",
    "nodes": "a run is one process",
    "tasks_per_node": "a run is one process",
    "ntasks_per_node": "a run is one process",
    "time": "give timeout_min",
    "mem": "give mem_gb",
}


def slurm_block(data: Mapping[str, Any], problems: Problems) -> dict[str, Any] | None:
    """The block, with what is wrong with it added to `problems`; None where there is none."""
    value = data.get("slurm")
    if value is None:
        return None
    if not isinstance(value, dict):
        problems.add("slurm", f"must be a mapping ({show(value)})")
        return None
    for key, item in value.items():
        where = f"slurm.{printable(key)}"
        if key not in SLURM:
            problems.add(where, _DECIDED.get(key) or f"unknown key{nearest(key, SLURM)}")
        elif what := SLURM[key](item):
            problems.add(where, f"{what} ({show(item)})")
    if "timeout_min" not in value:
        problems.add("slurm.timeout_min", "missing; minutes after which SLURM stops a job, as in 240")
    return value
