"""USB's argument namespace: made from a configuration, and read back from USB's train.py."""

from __future__ import annotations

import argparse
from typing import Any

from usb_active.config import RunConfig
from usb_active.usb_keys import algorithm_keys


def make_args(config: RunConfig) -> argparse.Namespace:
    """What USB's constructors read, for a process of its own: one device, no launcher."""
    usb = {**config.usb, "algorithm": config.algorithm}
    alone = {"rank": 0, "world_size": 1, "distributed": False, "multiprocessing_distributed": False}
    return argparse.Namespace(**{**usb, **alone, "run_config": config})


def yaml_keys(args: argparse.Namespace) -> dict[str, Any]:
    """The keys of a YAML that USB's train.py has spread over its namespace, without the parser's own additions."""
    return {name: value for name, value in vars(args).items() if name in algorithm_keys(args.algorithm)}
