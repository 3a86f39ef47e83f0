"""USB's argument namespace: made from a configuration, or completed by one."""

from __future__ import annotations

import argparse
from pathlib import Path

from usb_active.config.settings import RunConfig, config_from_dict
from usb_active.config.usb_keys import BASE, RENAMED, algorithm_keys

# A YAML's keys beside those of USB's tables.
_OWN = ("algorithm", "dataset", "net", "active", "plugins")


def make_args(config: RunConfig) -> argparse.Namespace:
    """What USB's constructors read, for a process of its own: one device, no launcher."""
    usb = {**config.usb, "algorithm": config.algorithm}
    alone = {"rank": 0, "world_size": 1, "distributed": False, "multiprocessing_distributed": False}
    return argparse.Namespace(**{**usb, **alone, "run_config": config})


def complete_args(args: argparse.Namespace) -> None:
    """Give a namespace that others made (semilearn's `get_config`) its checked configuration, in place.

    Such a namespace holds a default for every key, and a default cannot be told from a value that was given. So what
    equals USB's default counts as not given: the same thing, except that `num_classes`, `img_size` and `num_labels` are
    then those of the data set and of the `active` block, and that 1 worker may be none (docs/faster.md).

    Raises:
        UsageError: what `config_from_dict` finds wrong; there is no `active` block.
    """
    keys = {**BASE, **algorithm_keys(args.algorithm.removeprefix("active_"))}
    defaults = {name: key.default for name, key in keys.items()} | {old: keys[new].default for old, new in RENAMED.items()}
    values = vars(args)
    given = {name: value for name, value in values.items() if name in defaults and value != defaults[name]}
    own = {name: values[name] for name in _OWN if name in values}
    config = config_from_dict({**given, **own}, base=Path.cwd(), source=values.get("c") or "arguments")
    values.update(vars(make_args(config)))
