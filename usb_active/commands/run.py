"""What `usb-active run` and `usb-active check` do."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from usb_active.config import averaging
from usb_active.config.choices import Problems
from usb_active.config.settings import RunConfig
from usb_active.loop.setup import build_dataset, build_parts, check_directory, say_remarks
from usb_active.report import summary_table, write_report
from usb_active.report.baselines import baseline_warning, run_baselines
from usb_active.report.runs import read_runs
from usb_active.storage.durable import check_locks
from usb_active.storage.run_dir import RunDir, make_folder
from usb_active.storage.schemas import run_metrics

__all__ = ["build_dataset", "check", "check_all", "run_experiment", "say_advice", "train_experiment"]

logger = logging.getLogger("usb_active")


def check(config: RunConfig) -> int:
    """Everything that `run` would refuse before it trains. Exit code 0, or UsageError."""
    check_all(config)
    say_advice(config)
    print(f"{config.source}: fine; it would run in {config.run_path}")
    return 0


def run_experiment(config: RunConfig, verbose: bool = False) -> int:
    """Run an experiment to its end, or on from where it stopped; then report. Exit code 0, or an exception that says why not."""
    parts = check_all(config)
    log_progress(verbose)
    say_advice(config)
    train_experiment(parts)
    finish(config)
    return 0


def train_experiment(parts: dict[str, Any]) -> None:
    """The whole experiment of parts that were checked, from where it stopped.

    Raises:
        UsageError: something that only shows while it runs.
        WaitingForLabels: people are to give labels, and then it is called again.
    """
    config = parts["config"]
    make_folder(config.run_path.parent)
    from usb_active.usb.launcher import make_algorithm

    make_algorithm(config, parts).train()


def check_all(config: RunConfig) -> dict[str, Any]:
    """The parts of the run, checked: first what costs nothing, so that a mistake there is not waited for while USB is imported.

    Raises:
        UsageError: all that is wrong with the training, and with the directory, at once.
    """
    check_locks()
    parts = build_parts(config)
    from usb_active.usb.support import check_training
    from usb_active.usb.trial import try_out

    problems = Problems(config.source)
    with problems.collected():
        check_directory(config)
    with problems.collected():
        check_training(parts)
        try_out(parts)
    problems.raise_if_any()
    say_remarks(parts)
    return parts


def say_advice(config: RunConfig) -> None:
    """Whether the EMA, `amp` or `views_on` is too slow here, as warnings: once for a command, when its log is as its user sees it."""
    from usb_active.usb.device import device_remarks

    for line in [*averaging.remarks(config), *device_remarks(config)]:
        logger.warning("%s", line)


def finish(config: RunConfig) -> None:
    """Show what a finished run has come to: the table, the path, the report."""
    run = RunDir.read(config.run_path)
    print(summary_table(run.metrics(), run_metrics(run)))
    print(f"run: {config.run_path}")
    # The user has typed the configuration, and its plugins are imported already.
    written = write_report([config.run_path], trusted=True)
    for path in [path for path in written if not path.name.startswith("gallery")]:
        print(f"     {path}")
    (finished,), _ = read_runs([config.run_path])
    warning = baseline_warning(finished, run_baselines(finished)[0])
    if warning:
        print(warning)


def log_progress(verbose: bool = False, quiet: bool = False) -> None:
    """A line per cycle, warnings, and with `verbose` what USB says; above the progress bar, not through it. `quiet`: warnings alone."""
    handler = _AboveProgress(logging.WARNING if quiet else logging.INFO)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.handlers = [handler]
    logger.propagate = False
    logger.setLevel(logging.INFO)
    logging.getLogger("usb_active.usb").setLevel(logging.INFO if verbose else logging.WARNING)


@contextmanager
def progress_logged(verbose: bool = False, quiet: bool = False) -> Iterator[None]:
    """`log_progress` inside, and afterwards the loggers as they were: for processes that do more than one run."""
    usb = logging.getLogger("usb_active.usb")
    before = list(logger.handlers), logger.propagate, logger.level, usb.level
    log_progress(verbose, quiet)
    try:
        yield
    finally:
        # The run's log.txt, which is one of them.
        for handler in logger.handlers:
            handler.close()
        logger.handlers, logger.propagate = before[:2]
        logger.setLevel(before[2])
        usb.setLevel(before[3])


class _AboveProgress(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        text = self.format(record)
        prefix = "" if record.levelno < logging.WARNING else f"usb-active: {record.levelname.lower()}: "
        tqdm.write(f"{prefix}{text}", file=sys.stdout if record.levelno < logging.WARNING else sys.stderr)
