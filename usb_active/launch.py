"""`python -m usb_active.launch path/to/train.py --c CONFIG.yaml`: USB's own train.py runs the whole experiment."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from usb_active.cli import EXIT_CODES, OK, guarded, path_argument, show_warnings
from usb_active.config.settings import RunConfig, load_yaml_config
from usb_active.environment.working_directory import prefer_installed_semilearn
from usb_active.errors import UsageError


def build_parser() -> argparse.ArgumentParser:
    """The launcher's own options; train.py gets its values from the YAML alone."""
    parser = argparse.ArgumentParser(
        prog="python -m usb_active.launch",
        description="Run an experiment through USB's own train.py; the same command resumes.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    # Both are needed; that they are missing is said in one line, like every other mistake.
    parser.add_argument("script", nargs="?", type=path_argument, metavar="TRAIN.PY", help="USB's train.py, of its repository")
    parser.add_argument("--c", dest="config", metavar="CONFIG", help="a YAML file, or the name of a packaged one")
    parser.add_argument(
        "--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE", help="put a value over the YAML's; may be repeated"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The program; returns its exit code."""
    args, others = build_parser().parse_known_args(argv)
    return guarded(lambda: launch(args.script, args.config, args.overrides, others), is_last=argv is None)


def launch(script: Path | None, config_name: str | None, overrides: Sequence[str] = (), others: Sequence[str] = ()) -> int:
    """Check everything that can be checked without USB, then hand over to train.py. Exit code 0, or an exception that says why not."""
    if script is None or not script.is_file():
        raise UsageError(f"{script or 'TRAIN.PY'}: no such file; give the path of USB's train.py, and --c CONFIG.yaml")
    if config_name is None:
        raise UsageError("--c: missing; the YAML of the experiment, as in --c config.yaml")
    if others:
        raise UsageError(f"{' '.join(others)}: not taken; values come from the YAML, or from --set key=value")
    config = load_yaml_config(config_name, overrides)
    show_warnings(config)
    _check_epochs(config)
    # Imported late: they bring numpy and matplotlib.
    from usb_active.commands.run import check_all, finish, log_progress, say_advice

    check_all(config)
    log_progress()
    say_advice(config)
    from usb_active.usb.launcher import run_script

    run_script(script, config)
    finish(config)
    return OK


def _check_epochs(config: RunConfig) -> None:
    steps, epochs = config.usb["num_train_iter"], config.usb["epoch"]
    if steps % epochs:
        raise UsageError(f"{config.source}: epoch: USB's train.py wants num_train_iter ({steps}) to be a multiple of it ({epochs})")


if __name__ == "__main__":
    prefer_installed_semilearn()
    sys.exit(main())
