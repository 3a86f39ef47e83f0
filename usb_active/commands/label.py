"""`usb-active label RUN`: answer in a browser what a run asks."""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import sys
import threading
import webbrowser
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TextIO

from usb_active.commands.labels import unread_answers
from usb_active.config.settings import RunConfig, load_yaml_config
from usb_active.config.trust import check_plugins
from usb_active.contracts.dataset import Dataset
from usb_active.errors import UsageError
from usb_active.labeling.pictures import SamplePictures
from usb_active.labeling.service import WAITING, ServedRun, Service
from usb_active.loop.setup import build_dataset, take_pinned
from usb_active.storage.run_dir import RunDir

_NEEDS = ("starlette", "uvicorn")
# In the run's directory while the page is served: what the browser is given to open.
_DOOR = "labeling.html"


@dataclass(frozen=True)
class LabelOptions:
    """What the command line says: `port` 0 takes a free one; `browser`: open one; `loop`: train between batches; `trusted`: see
    `usb_active.config.trust`."""

    port: int = 0
    browser: bool = True
    loop: bool = False
    trusted: bool = False


def check_extra() -> None:
    """UsageError where what serves the page is not installed."""
    missing = [name for name in _NEEDS if find_spec(name) is None]
    if missing:
        raise UsageError(f"label: {' and '.join(missing)} not installed; pip install 'usb-active[label]'")


def label(path: Path, options: LabelOptions, out: TextIO, command: Sequence[str] = ()) -> int:
    """Serve the page until it, or a signal, ends it. The exit code that `usb-active run` would have where the run is then.

    Args:
        path: the run's directory.
        options: how.
        out: where the address is printed.
        command: arguments of `usb-active` that go on with the run; without them `run` of the run's own configuration.

    Raises:
        UsageError: the extra is missing; no run, or one that asks for nothing that the page can show; one that another process uses.
    """
    check_extra()
    from usb_active.labeling.server import local_socket, serve

    run = RunDir.read(path)
    check_plugins(path, run.config.get("plugins"), options.trusted)
    config = load_yaml_config(path / "config.yaml")
    plan = ServedRun(
        path,
        unread=unread_answers,
        pictures=lambda: SamplePictures(_samples(config, path).load),
        command=command or _own_command(config, path),
        loop=options.loop,
    )
    service, token = Service(plan), secrets.token_urlsafe(32)
    service.open()
    try:
        with local_socket(options.port) as listening:
            address = f"http://127.0.0.1:{listening.getsockname()[1]}/{token}/"

            def ready() -> None:
                print(f"label {path} at {address}", file=out)
                print(_what_is_asked(service), file=out)
                print("Ctrl-C ends it; every answer is in labels.csv once the page says so", file=out, flush=True)
                if options.browser:
                    _open_browser(address, path / _DOOR)

            try:
                serve(service, token, listening, ready)
            finally:
                with contextlib.suppress(OSError):
                    (path / _DOOR).unlink(missing_ok=True)
                # After Ctrl-C too.
                if service.stage != "done":
                    print(f"go on: {plan.next_command}", file=out, flush=True)
    finally:
        service.close()
    return service.exit_code


def run_and_label(config: RunConfig, command: Sequence[str], options: LabelOptions, out: TextIO) -> int:
    """`usb-active run`, and the page whenever labels are awaited. The exit code of the last start; 3 where labels are awaited still.

    Args:
        config: of the run.
        command: the arguments of `usb-active` that run it.
        options: of the page.
        out: where the address is printed.
    """
    check_extra()
    # In a process of its own: the page outlives it, and need not hold the memory that a training takes.
    code = subprocess.run([sys.executable, "-m", "usb_active", *command], check=False).returncode
    if code != WAITING:
        return code if code >= 0 else 128 - code
    return label(config.run_path, options, out, command)


def _what_is_asked(service: Service) -> str:
    """`12 of 30 labels are missing`, or that nothing is."""
    desk = service.desk
    if desk is not None and desk.pending and desk.is_asking:
        return f"{len(desk.pending)} of {desk.batch} labels are missing"
    return "nothing is asked now; what is labelled can be looked at and corrected"


def _samples(config: RunConfig, path: Path) -> Dataset:
    """The data set in the run's own order."""
    run = RunDir.read(path)
    dataset = build_dataset(config, run)
    take_pinned(run, dataset)
    dataset.align(run.keys() or dataset.keys, grow=False)
    return dataset


def _own_command(config: RunConfig, path: Path) -> list[str]:
    """`usb-active run` of the run's config.yaml; where the run was moved, with its place."""
    path = path.absolute()
    command = ["run", str(path / "config.yaml")]
    if config.run_path.absolute() != path:
        command += ["--set", f"save_dir={path.parent}", "--set", f"save_name={path.name}"]
    return command


def _open_browser(address: str, door: Path) -> None:
    """Unless there is only a browser for terminals, which would take this one.

    The browser is given a file that only this user can read, and that leads to the address: what is on a command line can be read by every
    user of the machine.
    """
    if sys.platform == "darwin" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        try:
            _write_door(door, address)
        except OSError as error:
            return print(f"no browser is opened: {door}: {error.strerror}", file=sys.stderr)
        threading.Thread(target=webbrowser.open, args=(door.absolute().as_uri(),), daemon=True).start()
    return None


def _write_door(door: Path, address: str) -> None:
    """A page that leads on to another. Its address is URL-safe: nothing of it is markup."""
    door.unlink(missing_ok=True)
    # Not where something lies already, such as a link; and never readable by others, not even at first.
    with open(os.open(door, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(f'<!DOCTYPE html><meta http-equiv="refresh" content="0; url={address}"><a href="{address}">usb-active label</a>\n')
