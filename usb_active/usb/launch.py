"""Building an active algorithm: by USB's own factory, as USB's train.py does it."""

from __future__ import annotations

import logging
from typing import Any

from semilearn.algorithms import get_algorithm

from usb_active.config.settings import RunConfig
from usb_active.storage.durable import no_os_error
from usb_active.storage.run_dir import make_folder
from usb_active.usb.algorithm import register
from usb_active.usb.arguments import make_args

logger = logging.getLogger("usb_active.usb")


def make_algorithm(config: RunConfig, parts: dict[str, Any] | None = None) -> Any:
    """The active algorithm of a configuration, on its device; `train()` runs the experiment.

    `parts`: those of `setup.build_parts`, where they have been built already.
    """
    register([config.usb["algorithm"]])
    args = make_args(config)
    args.parts = parts
    algorithm = get_algorithm(args, None, None, logger)
    log_to_file(config)
    return algorithm


class _LogFile(logging.FileHandler):
    def handleError(self, record: logging.LogRecord) -> None:
        """Nothing: on a full disk the run ends with one line, at the first file that matters."""


def log_to_file(config: RunConfig) -> None:
    """All that USB and the core say, in the run's log.txt; one handler, however many runs a process makes."""
    root = logging.getLogger("usb_active")
    for handler in [handler for handler in root.handlers if isinstance(handler, logging.FileHandler)]:
        root.removeHandler(handler)
        handler.close()
    make_folder(config.run_path)
    with no_os_error("write", config.run_path / "log.txt"):
        handler = _LogFile(config.run_path / "log.txt", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    root.addHandler(handler)
