"""What is compiled: where numba keeps it, and a line on the screen while it takes long."""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from numba import config, njit
from numba.core import event as numba_events

logger = logging.getLogger("usb_active")

# Longer than it takes to read what was compiled before.
PATIENCE_S = 3.0


# Module that is compiled → what is in it, for people.
_purposes: dict[str, str] = {}


def prepare_compiling(function: Callable, what: str) -> None:
    """To be called by a module before numba sees it: keeps what is compiled where it can be, and has it said where it takes long.

    numba keeps what it has compiled beside the source, else in the user's cache, and refuses to decorate where neither can be written to.
    Then this process has a folder, which is new and private: what numba reads from its cache it unpickles.

    Args:
        function: any of the module.
        what: is compiled, for people: "the augmentation of images".
    """
    _purposes[function.__module__] = what
    try:
        njit(cache=True)(function)
    except RuntimeError:
        config.CACHE_DIR = tempfile.mkdtemp(prefix="usb-active-compiled-")
        atexit.register(_remove, config.CACHE_DIR, os.getpid())
        # Processes that are started afresh read it from there.
        os.environ["NUMBA_CACHE_DIR"] = config.CACHE_DIR
        logger.info("compiled code is kept in %s until the end: no folder of numba's cache can be written to", config.CACHE_DIR)


def _remove(folder: str, owner: int) -> None:
    # A process that was forked has not made it.
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)


class _Compilations(numba_events.Listener):
    """Says, once in a process for each module, what is being compiled when that takes longer than `PATIENCE_S` seconds in all."""

    def __init__(self) -> None:
        self._seconds: Counter[str] = Counter()
        self._said: set[str] = set()
        # Of each thread, what it compiles: a function, and within that others.
        self._of_thread = threading.local()

    def on_start(self, event: Any) -> None:
        # What an event holds is numba's own affair: nothing may fail by it.
        function = getattr((event.data or {}).get("dispatcher"), "py_func", None)
        what, timer = _purposes.get(getattr(function, "__module__", ""), ""), None
        under_way = vars(self._of_thread).setdefault("under_way", [])
        if what and not under_way:
            timer = threading.Timer(max(0.0, PATIENCE_S - self._seconds[what]), self._say, (what,))
            timer.daemon = True
            timer.start()
        under_way.append((what, time.monotonic(), timer))

    def on_end(self, event: Any) -> None:
        under_way = vars(self._of_thread).get("under_way")
        if not under_way:
            # It began before this was listening.
            return
        what, began, timer = under_way.pop()
        if timer is not None:
            timer.cancel()
            self._seconds[what] += time.monotonic() - began

    def _say(self, what: str) -> None:
        if what not in self._said:
            self._said.add(what)
            logger.info("compiling %s, some seconds; it is done once", what)


_compilations = _Compilations()
numba_events.register("numba:compile", _compilations)


@contextmanager
def said_where_long(what: str, how_often: str) -> Iterator[None]:
    """Say what torch is compiling, and how often that is done, if it takes longer than `PATIENCE_S` seconds."""
    timer = threading.Timer(PATIENCE_S, logger.info, ("compiling %s; %s", what, how_often))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
