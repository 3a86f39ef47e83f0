"""What is compiled: where numba keeps it, and a line on the screen while it takes long."""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

logger = logging.getLogger("usb_active")

# Longer than it takes to read what was compiled before.
PATIENCE_S = 3.0


def use_writable_cache(function: Callable) -> None:
    """Let numba compile a module of whose folder nothing can be written to, nor to the user's cache: in a folder of this process then.

    numba keeps what it has compiled beside the source, else in the user's cache, and refuses to decorate where neither can be written to.
    The folder is new and private: what numba reads from its cache it unpickles.

    Args:
        function: any of the module that is to be compiled.
    """
    from numba import config, njit

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


@contextmanager
def said_where_long(what: str, how_often: str = "it is done once") -> Iterator[None]:
    """Say what is being compiled, and how often that is done, if it takes longer than `PATIENCE_S` seconds."""
    timer = threading.Timer(PATIENCE_S, logger.info, ("compiling %s; %s", what, how_often))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
