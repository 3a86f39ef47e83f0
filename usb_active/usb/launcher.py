"""Launching an experiment: by building the algorithm here, or by USB's own train.py, run in this process.

train.py is given what it lacks, and kept from deleting a run.
"""

from __future__ import annotations

import argparse
import copyreg
import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from semilearn.algorithms import get_algorithm
from semilearn.core import utils

from usb_active.config.settings import RunConfig, config_from_dict
from usb_active.environment.script_main import as_main
from usb_active.storage.durable import no_os_error
from usb_active.storage.run_dir import RunDir, make_folder
from usb_active.usb.arguments import make_args
from usb_active.usb.device import pick_device
from usb_active.usb.registration import register_usb_algorithms

logger = logging.getLogger("usb_active.usb")


def make_algorithm(config: RunConfig, parts: dict[str, Any] | None = None) -> Any:
    """The active algorithm of a configuration, on its device; `train()` runs the experiment.

    `parts`: those of `setup.build_parts`, where they have been built already.
    """
    register_usb_algorithms([config.usb["algorithm"]])
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


def run_script(script: Path, config: RunConfig) -> None:
    """Run USB's train.py on a configuration; the algorithm that it builds does the rest.

    Raises:
        UsageError: as the run itself.
        WaitingForLabels: as the run itself.
    """
    register_usb_algorithms([config.usb["algorithm"]])
    # Made a run before train.py puts a log into the directory: in a directory with unknown files no run starts.
    with RunDir.open(config.run_path, config.stored(), free_keys=config.free_keys) as run:
        made_run = run.is_new
    log_to_file(config)
    code = compile(script.read_bytes(), str(script), "exec")
    with _replaced(sys, argv=[str(script), "--c", config.source]), _replaced(utils, **_stand_ins(config, made_run)), _device_counted():
        with as_main(script) as main:
            exec(code, main.__dict__)  # noqa: S102 — the file that the user named


def _stand_ins(config: RunConfig, made_run: bool) -> dict[str, Callable]:
    """What train.py imports by name from USB's utilities, as this run needs it."""

    def over_write_args_from_file(args: argparse.Namespace, yml: str) -> None:
        # That this start has made the run goes with the arguments, as the algorithm may be built in a process of its own.
        vars(args).update({**script_args(config), "made_run": made_run})

    def get_net_builder(net_name: str, from_name: bool) -> Callable:
        return config.net.make().build

    stand_ins: dict[str, Callable] = {"over_write_args_from_file": over_write_args_from_file, "get_net_builder": get_net_builder}
    if not torch.cuda.is_available():
        # USB's own refuses to run without CUDA.
        stand_ins["send_model_cuda"] = lambda args, model, clip_batch=True: model
    return stand_ins


def script_args(config: RunConfig) -> dict[str, Any]:
    """The values that train.py's namespace takes over.

    train.py removes the run directory unless it is told to resume, and then requires a checkpoint path, but tolerates a missing
    file. The cycles find their checkpoints themselves.
    """
    nothing = config.run_path / "(each cycle finds its own checkpoint)"
    # A device of its own: without one, train.py spreads the model over all there are.
    gpu = pick_device(config.usb["gpu"]).index
    return {**vars(make_args(config)), "gpu": gpu, "resume": True, "overwrite": True, "load_path": str(nothing)}


@contextmanager
def _device_counted() -> Iterator[None]:
    """train.py divides by the number of GPUs, so that on a CPU there has to be one."""
    if torch.cuda.is_available():
        yield
        return
    with _replaced(torch.cuda, device_count=lambda: 1):
        yield


@contextmanager
def _replaced(owner: Any, **values: Any) -> Iterator[None]:
    before = {name: getattr(owner, name) for name in values}
    _set(owner, values)
    try:
        yield
    finally:
        _set(owner, before)


def _set(owner: Any, values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        setattr(owner, name, value)


def _reduce(config: RunConfig) -> tuple[Callable, tuple]:
    return _restore, (config.resolved(), config.base, config.source)


def _restore(resolved: Mapping[str, Any], base: Path, source: str) -> RunConfig:
    config = config_from_dict(resolved, base=base, source=source)
    register_usb_algorithms([config.usb["algorithm"]])
    return config


# train.py hands its namespace to the processes it spawns, which know nothing of this package: taking the configuration out
# of the parcel imports this module, the run's plugins, and gives USB the `active_*` names.
copyreg.pickle(RunConfig, _reduce)
