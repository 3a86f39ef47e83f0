"""Defaults that have changed: a run that began with the former one, of a YAML that leaves the key out, goes on with it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from usb_active.config.choices import Problems
from usb_active.config.usb_keys import algorithm_keys, show
from usb_active.storage.run_dir import RunDir
from usb_active.storage.run_format import PINNED_FILE


def keep_former_defaults(usb: dict[str, Any], given: Mapping[str, Any], problems: Problems) -> tuple[str, ...]:
    """Put the former defaults into `usb` where its run began with them. A warning names each.

    Args:
        usb: USB's keys and the algorithm's, defaults filled in.
        given: the YAML's top level; what it names itself is left as it is.

    Returns:
        Those keys that the run does not know, from before there were any.
    """
    changed = {name: key for name, key in algorithm_keys(usb["algorithm"]).items() if key.former is not None and name not in given}
    run = Path(usb["save_dir"]) / usb["save_name"]
    if not changed or not (run / PINNED_FILE).is_file() or not (run / "config.yaml").is_file():
        return ()
    began_with, unknown = RunDir.read(run).config, []
    for name, key in changed.items():
        # A run from before there was the key is as the former default has it.
        if began_with.get(name, key.former) == key.former and began_with.get("algorithm") == usb["algorithm"]:
            usb[name] = key.former
            unknown += [name] if name not in began_with else []
            if key.former == key.default:  # a key that there was not, and that is off: nothing has changed
                continue
            problems.warn(name, f"{run} began when {show(key.former)} was the default, and keeps it; new runs have {show(key.default)}")
    return tuple(unknown)
