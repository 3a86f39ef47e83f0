"""Runs in processes of their own that may end at any point, and what they leave behind.

The processes are forked from a server that has imported USB once: seconds each would cost otherwise. What they run is the
command line's own `main`.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import run_helpers

PLUGIN = Path(__file__).with_name("killer_plugin.py")
KILLED = -signal.SIGKILL
LIMIT_SECONDS = 300

_server = multiprocessing.get_context("forkserver")
_server.set_forkserver_preload(["usb_active.commands.run", "usb_active.usb.launcher", "tensorboard", "matplotlib.pyplot"])


@dataclass(frozen=True)
class Ended:
    """How a process ended: its exit code (minus the signal that killed it), and what it said."""

    code: int
    out: str
    err: str


def environment(point: str = "", act: str = "kill") -> dict[str, str]:
    """The variables that make a process with the plugin do `act` at `point`; none without a point."""
    return {"USB_ACTIVE_TEST_POINT": point, "USB_ACTIVE_TEST_ACT": act}


def settings(tmp_path: Path, name: str = "run", /, active: Mapping[str, Any] | None = None, **usb: Any) -> dict[str, Any]:
    """A tiny run of three trainings whose acquisition has state and knows how to end its process."""
    block = {"acquisition": {"name": "running_mean"}, "cycles": 2, **(active or {})}
    return run_helpers.settings(tmp_path, name, active=block, **{"plugins": [str(PLUGIN)], **usb})


def run(data: Mapping[str, Any], point: str = "", act: str = "kill", more: Sequence[str] = ()) -> Ended:
    """`usb-active run` on these settings in a process of its own; `more`: further arguments."""
    process = start(data, point, act, more)
    process.join(LIMIT_SECONDS)
    if process.exitcode is None:
        process.kill()
        raise AssertionError(f"still running after {LIMIT_SECONDS} s")
    return Ended(process.exitcode, *said(data))


def start(data: Mapping[str, Any], point: str = "", act: str = "kill", more: Sequence[str] = ()) -> multiprocessing.process.BaseProcess:
    """The process of `run`, which has just begun; it leads a process group as soon as it comes to our code."""
    yaml = run_helpers.write_yaml(_beside(data, "yaml"), data)
    process = _server.Process(target=_command, args=(["run", str(yaml), *more], environment(point, act), *map(str, _texts(data))))
    process.start()
    return process


def said(data: Mapping[str, Any]) -> tuple[str, str]:
    """What the last process of these settings wrote to stdout and stderr; "" when it died before it wrote anything."""
    out, err = (text.read_text(encoding="utf-8") if text.exists() else "" for text in _texts(data))
    return out, err


def _texts(data: Mapping[str, Any]) -> list[Path]:
    return [_beside(data, f"{name}.txt") for name in ("out", "err")]


def _beside(data: Mapping[str, Any], suffix: str) -> Path:
    return Path(data["save_dir"]) / f"{data['save_name']}.{suffix}"


def _command(arguments: list[str], env: Mapping[str, str], out: str, err: str) -> None:
    # A group of its own, so that a signal to the group is ours alone.
    os.setsid()
    # As in a process that was not forked: a server's children would start servers of their own for their loaders' workers.
    multiprocessing.set_start_method("fork", force=True)
    os.environ.update(env, CUDA_VISIBLE_DEVICES="")
    for number, name, path in ((1, "stdout", out), (2, "stderr", err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o666), number)
        setattr(sys, name, open(number, "w", buffering=1, encoding="utf-8", closefd=False))
    from usb_active.cli import main

    sys.exit(main(arguments))


class References:
    """Uninterrupted runs, each made once: what any other run of the same settings must end with."""

    def __init__(self, folder: Path):
        self._folder, self._names = folder, {}

    def __call__(self, active: Mapping[str, Any] | None = None, **usb: Any) -> Path:
        """The directory of the finished run."""
        key = repr((active, usb))
        if key not in self._names:
            self._names[key] = f"reference_{len(self._names)}"
            finish(settings(self._folder, self._names[key], active, **usb))
        return self._folder / self._names[key]


def finish(data: Mapping[str, Any]) -> Path:
    """Run to the end; the run's directory."""
    ended = run(data)
    assert ended.code == 0 and all(line.startswith("usb-active: warning: ") for line in ended.err.splitlines()), ended
    return directory(data)


def directory(data: Mapping[str, Any]) -> Path:
    """Where the run of these settings is."""
    return Path(data["save_dir"]) / data["save_name"]


def scores_of(path: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without its times."""
    from usb_active.storage.run_dir import RunDir

    return [{key: value for key, value in line.items() if not key.endswith("seconds")} for line in RunDir.read(path).metrics()]


def assert_same_end(one: Path, other: Path, cycle: int = 2) -> None:
    """The same labels, the same scores, and the same final weights bit for bit."""
    assert run_helpers.labels_of(one) == run_helpers.labels_of(other)
    assert scores_of(one) == scores_of(other)
    assert run_helpers.weights_equal(run_helpers.checkpoint(one, cycle), run_helpers.checkpoint(other, cycle))
