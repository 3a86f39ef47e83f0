"""The commands. What is heavy is imported by the command that needs it: help, version and list import neither torch nor semilearn."""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import math
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from usb_active import __version__
from usb_active.commands.sweep_engines import ENGINES
from usb_active.config.trust import FLAG
from usb_active.contracts.registry import CONTRACTS, REGISTRY
from usb_active.environment.signals import LINES, Stopped, StopSignals, exit_code
from usb_active.environment.working_directory import prefer_installed_semilearn
from usb_active.errors import UsageError, WaitingForLabels, plain
from usb_active.storage.paths import user_path

if TYPE_CHECKING:
    from usb_active.config.settings import RunConfig

OK, FAILED, WRONG_USE, WAITING, INTERRUPTED = 0, 1, 2, 3, 130

EXIT_CODES = """\
exit codes:
  0    done
  1    something failed that should not have
  2    a mistake in the configuration, the data or the command; one line says which
  3    labels are awaited: give them, and run the same command again
  130  interrupted (Ctrl-C): the same command resumes from there
  143  terminated (SIGTERM): as 130; 129: the terminal has gone (SIGHUP)
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
    _add_init(commands)
    _add_run(commands)
    _add_sweep(commands)
    _add_list(commands)
    _add_report(commands)
    _add_label(commands)
    _add_labels(commands)
    _add_predict(commands)
    _add_doctor(commands)
    return parser


def path_argument(text: str) -> Path:
    """A path of the command line. The shell leaves the `~` of `--out=~/x` to the program."""
    try:
        return user_path(text)
    except UsageError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _positive(kind: Callable[[str], float]) -> Callable[[str], float]:
    """A number of the command line that is above 0 and finite."""

    def read(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = -1
        if not 0 < value < float("inf"):
            raise argparse.ArgumentTypeError(f"must be {'an integer' if kind is int else 'a number'} above 0 ({text!r})")
        return value

    return read


def _finite(text: str) -> float:
    """A number of the command line that is finite."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"must be a number ({text!r})")
    return value


def _add_init(commands: argparse._SubParsersAction) -> None:
    text = "look at a folder of images, and write a YAML for it with the reason for each key"
    command = commands.add_parser("init", help=text, description=text, epilog=EXIT_CODES, formatter_class=_Raw)
    where = "a folder with unlabeled/ or train/<class>/, and test/<class>/ if accuracy is to be measured"
    command.add_argument("folder", nargs="?", type=path_argument, metavar="FOLDER", help=where)
    command.add_argument("--list", action="store_true", dest="list_recipes", help="show the recipes: what each is for, costs, and rests on")
    command.add_argument("--labels", type=_positive(int), metavar="N", help="how many labels you are ready to give (default: 4 per class)")
    command.add_argument("--minutes", type=_positive(float), metavar="M", help="how long to train, in all (default: as the recipe says)")
    simulate = "the classes in train/<class>/ answer instead of a person, for trying and comparing"
    command.add_argument("--simulate", action="store_true", help=simulate)
    command.add_argument("--classes", metavar="A,B,C", help="the names of the classes, where train/ has no class folders")
    kinds = "what the images are, where init sees it wrongly: drawings (digits, text, icons, scans) or photos"
    command.add_argument("--kind", choices=("drawings", "photos"), help=kinds)
    command.add_argument("--recipe", metavar="NAME", help="a recipe of --list, or a file of your own like those of yaml_configs/recipes")
    command.add_argument("--out", type=path_argument, metavar="FILE", help="the YAML (default: <name of the folder>.yaml)")
    command.add_argument("--force", action="store_true", help="overwrite the YAML if it is there")
    command.set_defaults(handler=_init)


def _add_run(commands: argparse._SubParsersAction) -> None:
    for name, handler, text in (
        ("run", _run, "run an experiment, or resume one by the same command"),
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
        labels_from = "begin a new run with the labels and skips of another one, in place of `initial:`; the same command resumes it"
        command.add_argument("--from", dest="labels_from", type=path_argument, metavar="RUN", help=labels_from)
        command.add_argument("-v", "--verbose", action="store_true", help="show what USB logs as well")
        if name == "run":
            in_browser = "where labels are awaited, ask for them in a browser, and go on (`usb-active label RUN --loop`)"
            command.add_argument("--label", action="store_true", help=in_browser)
        command.set_defaults(handler=handler)


def _add_sweep(commands: argparse._SubParsersAction) -> None:
    text = "run all cells of a study (a base configuration, a matrix of keys, seeds), or go on with it by the same command"
    command = commands.add_parser("sweep", help=text, description=text, epilog=EXIT_CODES, formatter_class=_Raw)
    command.add_argument("study", metavar="STUDY", help="a study's YAML, or the name of a packaged one such as digits")
    jobs = "runs at a time (default: 1 on this machine, whose cores and GPUs are shared out; on a cluster all)"
    command.add_argument("--jobs", type=_positive(int), metavar="N", help=jobs)
    engine = "where runs are started: processes of this machine, or jobs of SLURM (default: local)"
    command.add_argument("--engine", choices=ENGINES, default="local", help=engine)
    command.add_argument("--dry-run", action="store_true", help="show the cells and their commands, and start nothing")
    over = "put a value over the base of every cell, as in --set num_train_iter=100; may be repeated"
    command.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE", help=over)
    command.set_defaults(handler=_sweep)


def _add_list(commands: argparse._SubParsersAction) -> None:
    text = "list all plugins with one line each, and where each comes from"
    command = commands.add_parser("list", help=text, description=text)
    command.add_argument("kind", nargs="?", choices=list(CONTRACTS), metavar="KIND", help=f"one of {', '.join(CONTRACTS)}")
    command.add_argument("--check", action="store_true", help="import them all and say which fail")
    command.set_defaults(handler=_list)


def _add_report(commands: argparse._SubParsersAction) -> None:
    text = "draw learning curves and write tables of one or several runs; seeds of one method are averaged"
    command = commands.add_parser("report", help=text, description=text)
    command.add_argument("runs", nargs="+", type=path_argument, metavar="RUN", help="run directories, or folders that hold some")
    where = "where to (default: RUN/report, FOLDER/report for a folder of runs, or ./report for several runs)"
    command.add_argument("--out", type=path_argument, metavar="DIR", help=where)
    analysis = "write analysis.md too: what the runs' `analysis:` observed, and which method beats which"
    command.add_argument("--analysis", action="store_true", help=analysis)
    embed = "draw embed.png too: a t-SNE map of one run's features (of its pretraining, else the pixels) with the picks of each cycle"
    command.add_argument("--embed", action="store_true", help=embed)
    target = "of several runs: look up the labels needed to reach this accuracy, in percent as the report shows it; may be repeated"
    command.add_argument("--target", dest="targets", type=_finite, action="append", default=[], metavar="VALUE", help=target)
    reference = "of several runs: the acquisition, or a method as the report calls it, that others are measured against (default: random)"
    command.add_argument("--reference", metavar="NAME", help=reference)
    _add_trust(command)
    command.set_defaults(handler=_report)


def _add_label(commands: argparse._SubParsersAction) -> None:
    text = "answer in a browser what a run asks: a page of this machine, by keyboard, mouse or touch"
    command = commands.add_parser("label", help=text, description=text, epilog=EXIT_CODES, formatter_class=_Raw)
    command.add_argument("run", type=path_argument, metavar="RUN", help="a run directory")
    loop = "train when a batch is complete, show the learning curve, and go on with the next batch"
    command.add_argument("--loop", action="store_true", help=loop)
    command.add_argument("--port", type=int, default=0, metavar="N", help="the port on 127.0.0.1 (default: a free one)")
    command.add_argument("--no-browser", action="store_true", help="print the address, and open no browser")
    _add_trust(command)
    command.set_defaults(handler=_label)


def _add_labels(commands: argparse._SubParsersAction) -> None:
    text = "show what is labelled, skipped and pending, or correct or take back a label"
    command = commands.add_parser("labels", help=text, description=text)
    command.add_argument("run", type=path_argument, metavar="RUN", help="a run directory")
    command.add_argument("--csv", action="store_true", help="print every sample that was asked, as CSV")
    command.add_argument(
        "--set",
        dest="corrections",
        action="append",
        default=[],
        metavar="KEY=LABEL",
        help="give or correct the label of any image of the pool by a new row of the journal; may be repeated",
    )
    command.add_argument("--skip", action="append", default=[], metavar="KEY", help="refuse a sample: never asked again; may be repeated")
    back = "take the label, or the refusal, of a sample back: it has none, and may be asked for again; may be repeated"
    command.add_argument("--retract", action="append", default=[], metavar="KEY", help=back)
    history = "print all that was said of a sample: when, what, by whom, and which trainings began with it; may be repeated"
    command.add_argument("--history", action="append", default=[], metavar="KEY", help=history)
    more = "add a class while a query waits for answers: the next training has an output more, and fresh weights; may be repeated"
    command.add_argument("--add-class", action="append", default=[], metavar="NAME", help=more)
    formats = "CSV, Label Studio's JSON, CVAT for images (XML), or a folder for each class"
    command.add_argument("--import", dest="source", type=path_argument, metavar="FILE", help=f"take the labels of a file: {formats}")
    command.add_argument("--export", type=path_argument, metavar="FILE", help=f"write all labels to a new file: {formats}")
    said = "of --import and --export: csv, label-studio, cvat or folders, where the name of the file does not say it"
    command.add_argument("--format", metavar="NAME", help=said)
    edits = "take labels.csv as it is, where rows that a cycle began with were edited on purpose; they are checked and shown first"
    command.add_argument("--accept-edits", action="store_true", help=edits)
    _add_trust(command)
    command.set_defaults(handler=_labels)


def _add_predict(commands: argparse._SubParsersAction) -> None:
    text = "label the rest of the pool, or a folder, with the final model; CSV (key, class, probability) on the standard output"
    command = commands.add_parser("predict", help=text, description=text)
    command.add_argument("run", type=path_argument, metavar="RUN", help="a run directory")
    command.add_argument("--data", type=path_argument, metavar="DIR", help="images to label instead of the pool")
    _add_trust(command)
    command.set_defaults(handler=_predict)


def _add_doctor(commands: argparse._SubParsersAction) -> None:
    text = "show versions, what imports, devices and write access: what to paste into a bug report"
    commands.add_parser("doctor", help=text, description=text).set_defaults(handler=_doctor)


def _add_trust(command: argparse.ArgumentParser) -> None:
    text = "import the plugins that the run's config.yaml names even where they are not installed: they are executed here"
    command.add_argument(FLAG, action="store_true", help=text)


def _load(args: argparse.Namespace):
    from usb_active.config.settings import load_yaml_config

    config = load_yaml_config(args.config, args.overrides, args.labels_from)
    show_warnings(config)
    return config


def show_warnings(config: RunConfig) -> None:
    """What was dropped from a YAML, on the standard error."""
    for line in config.warnings:
        print(f"usb-active: warning: {plain(line)}", file=sys.stderr)


def _init(args: argparse.Namespace) -> int:
    from usb_active.commands import init

    if args.list_recipes:
        init.list_recipes(sys.stdout)
        return OK
    if args.folder is None:
        raise UsageError("init: which folder? usb-active init FOLDER, or usb-active init --list for the recipes")
    names = ("folder", "labels", "minutes", "simulate", "classes", "kind", "recipe", "out", "force")
    init.init(init.InitOptions(**{name: getattr(args, name) for name in names}), sys.stdout)
    return OK


def _run(args: argparse.Namespace) -> int:
    config = _load(args)
    if args.label:
        from usb_active.commands.label import LabelOptions, run_and_label

        return run_and_label(config, _run_command(args), LabelOptions(loop=True, trusted=True), sys.stdout)
    from usb_active.commands.run import run_experiment

    return run_experiment(config, args.verbose)


def _run_command(args: argparse.Namespace) -> list[str]:
    """The arguments of the same `run`, without `--label`."""
    overrides = [part for override in args.overrides for part in ("--set", override)]
    labels_from = [] if args.labels_from is None else ["--from", str(args.labels_from)]
    return ["run", args.config, *overrides, *labels_from, *(["--verbose"] if args.verbose else [])]


def _check(args: argparse.Namespace) -> int:
    config = _load(args)
    from usb_active.commands.run import check

    return check(config) or OK


def _sweep(args: argparse.Namespace) -> int:
    from usb_active.commands.sweep import SweepOptions, sweep

    return sweep(SweepOptions(args.study, args.jobs, args.dry_run, tuple(args.overrides), args.engine), sys.stdout)


def _list(args: argparse.Namespace) -> int:
    declarations = [item for item in REGISTRY.declarations() if args.kind in (None, item.kind)]
    failures = dict(REGISTRY.broken)
    if args.check:
        for item in declarations:
            try:
                REGISTRY.get(item.kind, item.name)
            except UsageError as error:
                failures[f"{item.kind} '{item.name}'"] = str(error)
    rows = [tuple(map(plain, (item.kind, item.name, item.summary, item.origin))) for item in declarations]
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(3)]
    for row in rows:
        print("  ".join([*(text.ljust(width) for text, width in zip(row, widths, strict=False)), row[3]]))
    for who, error in failures.items():
        print(plain(f"broken: {who}: {error}"))
    if args.check:
        print(f"{len(declarations)} plugins, {len(failures)} broken")
    return FAILED if args.check and failures else OK


def _report(args: argparse.Namespace) -> int:
    from usb_active.report import write_report

    options = {"analysis": args.analysis, "embed": args.embed, "trusted": args.trust_plugins}
    for path in write_report(args.runs, args.out, targets=args.targets, reference=args.reference, **options):
        print(path)
    return OK


def _label(args: argparse.Namespace) -> int:
    from usb_active.commands.label import LabelOptions, label

    label(args.run, LabelOptions(args.port, not args.no_browser, args.loop, args.trust_plugins), sys.stdout)
    return OK


def _labels(args: argparse.Namespace) -> int:
    from usb_active.commands import labels

    if args.accept_edits:
        labels.accept_edits(args.run, sys.stdout, trusted=args.trust_plugins)
    corrects = bool(args.corrections or args.skip or args.retract or args.add_class)
    if corrects:
        options = {"retractions": args.retract, "new_classes": args.add_class, "trusted": args.trust_plugins}
        labels.correct(args.run, args.corrections, args.skip, sys.stdout, **options)
    _exchange(args)
    if args.history:
        from usb_active.commands.history import show_history

        show_history(args.run, args.history, sys.stdout)
    if args.csv:
        labels.write_csv(args.run, sys.stdout)
    elif not (corrects or args.accept_edits or args.history or args.source or args.export):
        labels.show_labels(args.run, sys.stdout)
    return OK


def _exchange(args: argparse.Namespace) -> None:
    if args.format is not None and not (args.source or args.export):
        raise UsageError("--format is read only beside --import or --export")
    if args.source or args.export:
        from usb_active.commands import exchange

        options = {"format_name": args.format, "trusted": args.trust_plugins}
        if args.source:
            exchange.import_labels(args.run, args.source, sys.stdout, **options)
        if args.export:
            exchange.export_labels(args.run, args.export, sys.stdout, **options)


def _predict(args: argparse.Namespace) -> int:
    from usb_active.commands.predict import write_predictions

    write_predictions(args.run, args.data, sys.stdout, trusted=args.trust_plugins)
    return OK


def _doctor(args: argparse.Namespace) -> int:
    from usb_active.commands.doctor import doctor

    return OK if doctor(sys.stdout) else FAILED


def main(argv: Sequence[str] | None = None) -> int:
    """The program; returns its exit code."""
    return guarded(lambda: _command(argv), is_last=argv is None)


class _Formatter(logging.Formatter):
    """`usb-active: warning: …`, as the errors of the command line begin."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return f"usb-active: {record.levelname.lower()}: {record.message}"


def _command(argv: Sequence[str] | None) -> int:
    args = build_parser().parse_args(argv)
    handler = logging.StreamHandler()
    handler.setFormatter(_Formatter())
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    return args.handler(args)


def guarded(work: Callable[[], int], is_last: bool = False) -> int:
    """The exit code of what was done; what the user can mend, or is asked to do, as lines without a traceback.

    Also where a signal ends the program, and where the standard output takes nothing any more. `is_last`: nothing but the
    interpreter's end comes after it.
    """
    with StopSignals(is_last) as stop:
        code = FAILED
        try:
            code = _outcome(work)
        except BaseException as error:
            # A worker that the signal hit first is missed before the signal itself is seen here.
            if not stop.came(0.5 if "DataLoader worker" in str(error) else 0.0):
                raise
        stop.code = code if stop.received is None else exit_code(stop.received)
        if stop.received is not None:
            stop.say()
        return stop.code


def _outcome(work: Callable[[], int]) -> int:
    try:
        try:
            return _told(work)
        finally:
            # Here, where it can still be said that a disk is full, and not when the interpreter ends.
            if sys.stdout is not None:
                sys.stdout.flush()
    except BrokenPipeError:
        # The reader has gone (`| head`): nothing is wrong, and the interpreter must not complain when it flushes.
        _discard_output()
        return OK
    except OSError as error:
        if not _output_fails():
            raise
        _discard_output()
        print(f"usb-active: error: cannot write the standard output: {error.strerror or error}", file=sys.stderr)
        return WRONG_USE


def _told(work: Callable[[], int]) -> int:
    try:
        return work()
    except UsageError as error:
        for line in _own_words(str(error)).rstrip("\n").split("\n"):
            print(f"usb-active: error: {plain(line)}", file=sys.stderr)
        return WRONG_USE
    except WaitingForLabels as waiting:
        for line in str(waiting).split("\n"):
            print(plain(line))
        return WAITING
    except Stopped:
        raise
    except KeyboardInterrupt:
        # Where no handler could be set, or raised by the work itself.
        print(LINES[signal.SIGINT], file=sys.stderr)
        return INTERRUPTED


def _own_words(message: str) -> str:
    """A UsageError's message without the traceback that one raised in a loader's worker brings before it."""
    if "\nOriginal Traceback" not in message:
        return message
    kinds, todo = set(), [UsageError]
    while todo:
        kind = todo.pop()
        kinds.add(f"{kind.__module__}.{kind.__qualname__}")
        todo += kind.__subclasses__()
    heads = list(re.finditer(rf"^(?:{'|'.join(map(re.escape, kinds))}): ", message, re.MULTILINE))
    return message[heads[-1].end() :] if heads else message


def _output_fails() -> bool:
    """Whether it is the standard output that failed: then it does so again. (Its buffer may have been emptied without being written.)"""
    try:
        sys.stdout.flush()
        os.write(sys.stdout.fileno(), b"\n")
    except io.UnsupportedOperation:
        return False
    except OSError:
        return True
    except (ValueError, AttributeError):
        return False
    return False


def _discard_output() -> None:
    with contextlib.suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
        return
    sys.stdout = None


if __name__ == "__main__":
    prefer_installed_semilearn()
    sys.exit(main())
