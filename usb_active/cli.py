"""The commands. What is heavy is imported by the command that needs it: help, version and list import neither torch nor semilearn."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from usb_active import __version__
from usb_active.errors import UsageError, WaitingForLabels
from usb_active.registry import CONTRACTS, REGISTRY

if TYPE_CHECKING:
    from usb_active.config import RunConfig

OK, FAILED, WRONG_USE, WAITING, INTERRUPTED = 0, 1, 2, 3, 130

EXIT_CODES = """\
exit codes:
  0    done
  1    something failed that should not have
  2    a mistake in the configuration, the data or the command; one line says which
  3    labels are awaited: give them, and run the same command again
  130  interrupted (Ctrl-C): the same command goes on from there
"""

# Keeps the line breaks of the table above.
_Raw = argparse.RawDescriptionHelpFormatter


def build_parser() -> argparse.ArgumentParser:
    """All commands with their options."""
    parser = argparse.ArgumentParser(
        prog="usb-active",
        description="Active learning inside USB's semi-supervised trainers: train, select, label, train again.",
        epilog=EXIT_CODES,
        formatter_class=_Raw,
    )
    parser.add_argument("--version", action="version", version=f"usb-active {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_run(commands)
    _add_list(commands)
    _add_report(commands)
    _add_labels(commands)
    _add_predict(commands)
    return parser


def _add_run(commands: argparse._SubParsersAction) -> None:
    for name, handler, text in (
        ("run", _run, "run an experiment, or go on with one; the same command resumes"),
        ("check", _check, "validate a configuration without running it"),
    ):
        command = commands.add_parser(name, help=text, description=text, epilog=EXIT_CODES, formatter_class=_Raw)
        command.add_argument("config", metavar="CONFIG", help="a YAML file, or the name of a packaged one such as quickstart")
        command.add_argument(
            "--set",
            dest="overrides",
            action="append",
            default=[],
            metavar="KEY=VALUE",
            help="put a value over the file's, as in --set active.budget=50 --set seed=3; may be repeated",
        )
        command.add_argument("-v", "--verbose", action="store_true", help="show what USB logs as well")
        command.set_defaults(handler=handler)


def _add_list(commands: argparse._SubParsersAction) -> None:
    text = "list all plugins with one line each, and where each comes from"
    command = commands.add_parser("list", help=text, description=text)
    command.add_argument("kind", nargs="?", choices=list(CONTRACTS), metavar="KIND", help=f"one of {', '.join(CONTRACTS)}")
    command.add_argument("--check", action="store_true", help="import them all and say which fail")
    command.set_defaults(handler=_list)


def _add_report(commands: argparse._SubParsersAction) -> None:
    text = "draw learning curves and write tables of one or several runs; seeds of one method are averaged"
    command = commands.add_parser("report", help=text, description=text)
    command.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run directories")
    command.add_argument("--out", type=Path, metavar="DIR", help="where to (default: RUN/report, or ./report for several runs)")
    analysis = "write analysis.md too: what the runs' `analysis:` observed, and which method beats which"
    command.add_argument("--analysis", action="store_true", help=analysis)
    embed = "draw embed.png too: a t-SNE map of one run's features (of its pretraining, else the pixels) with the picks of each cycle"
    command.add_argument("--embed", action="store_true", help=embed)
    command.set_defaults(handler=_report)


def _add_labels(commands: argparse._SubParsersAction) -> None:
    text = "show what is labelled, skipped and pending, or correct a label"
    command = commands.add_parser("labels", help=text, description=text)
    command.add_argument("run", type=Path, metavar="RUN", help="a run directory")
    command.add_argument("--csv", action="store_true", help="print every sample that was asked, as CSV")
    command.add_argument(
        "--set",
        dest="corrections",
        action="append",
        default=[],
        metavar="KEY=CLASS",
        help="give or correct a label by a new row of the journal; may be repeated",
    )
    command.add_argument("--skip", action="append", default=[], metavar="KEY", help="refuse a sample: never asked again; may be repeated")
    edits = "take labels.csv as it is, where rows that a cycle began with were edited on purpose; they are checked and shown first"
    command.add_argument("--accept-edits", action="store_true", help=edits)
    command.set_defaults(handler=_labels)


def _add_predict(commands: argparse._SubParsersAction) -> None:
    text = "label the rest of the pool, or a folder, with the final model; CSV (key, class, probability) on the standard output"
    command = commands.add_parser("predict", help=text, description=text)
    command.add_argument("run", type=Path, metavar="RUN", help="a run directory")
    command.add_argument("--data", type=Path, metavar="DIR", help="images to label instead of the pool")
    command.set_defaults(handler=_predict)


def _load(args: argparse.Namespace):
    from usb_active.config import load_config

    config = load_config(args.config, args.overrides)
    show_warnings(config)
    return config


def show_warnings(config: RunConfig) -> None:
    """What was dropped from a YAML, on the standard error."""
    for line in config.warnings:
        print(f"usb-active: warning: {line}", file=sys.stderr)


def _run(args: argparse.Namespace) -> int:
    config = _load(args)
    from usb_active.runner import run

    return run(config, args.verbose)


def _check(args: argparse.Namespace) -> int:
    config = _load(args)
    from usb_active.runner import check

    return check(config) or OK


def _list(args: argparse.Namespace) -> int:
    declarations = [item for item in REGISTRY.declarations() if args.kind in (None, item.kind)]
    failures = dict(REGISTRY.broken)
    if args.check:
        for item in declarations:
            try:
                REGISTRY.get(item.kind, item.name)
            except UsageError as error:
                failures[f"{item.kind} '{item.name}'"] = str(error)
    rows = [(item.kind, item.name, item.summary, item.origin) for item in declarations]
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(3)]
    for row in rows:
        print("  ".join([*(text.ljust(width) for text, width in zip(row, widths, strict=False)), row[3]]))
    for who, error in failures.items():
        print(f"broken: {who}: {error}")
    if args.check:
        print(f"{len(declarations)} plugins, {len(failures)} broken")
    return FAILED if args.check and failures else OK


def _report(args: argparse.Namespace) -> int:
    from usb_active.report import write_report

    for path in write_report(args.runs, args.out, analysis=args.analysis, embed=args.embed):
        print(path)
    return OK


def _labels(args: argparse.Namespace) -> int:
    from usb_active import labels

    if args.accept_edits:
        labels.accept_edits(args.run, sys.stdout)
    if args.corrections or args.skip:
        labels.correct(args.run, args.corrections, args.skip, sys.stdout)
    if args.csv:
        labels.write_csv(args.run, sys.stdout)
    elif not (args.corrections or args.skip or args.accept_edits):
        labels.show(args.run, sys.stdout)
    return OK


def _predict(args: argparse.Namespace) -> int:
    from usb_active.predict import predict

    predict(args.run, args.data, sys.stdout)
    return OK


def main(argv: Sequence[str] | None = None) -> int:
    """The program; returns its exit code."""
    args = build_parser().parse_args(argv)
    logging.basicConfig(format="usb-active: %(levelname)s: %(message)s", level=logging.WARNING)
    return guarded(lambda: args.handler(args))


def guarded(work: Callable[[], int]) -> int:
    """The exit code of what was done; what the user can mend, or is asked to do, as lines without a traceback."""
    try:
        return work()
    except UsageError as error:
        # One raised in a loader's worker comes with that process's traceback before it.
        message = str(error).rpartition(f"{UsageError.__module__}.{UsageError.__name__}: ")[2]
        for line in message.splitlines():
            print(f"usb-active: error: {line}", file=sys.stderr)
        return WRONG_USE
    except WaitingForLabels as waiting:
        print(waiting)
        return WAITING
    except KeyboardInterrupt:
        print("\nusb-active: interrupted; the same command goes on from here", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader has gone (`| head`): nothing is wrong, and the interpreter must not complain when it flushes.
        sys.stdout = None
        return OK


if __name__ == "__main__":
    sys.exit(main())
