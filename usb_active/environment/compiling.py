"""What numba compiles: where it is kept, and a line on the screen while it takes long."""

from __future__ import annotations

import logging
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
        logger.info("compiled code is kept in %s: neither the package's folder nor the user's cache can be written to", config.CACHE_DIR)


@contextmanager
def said_where_long(what: str) -> Iterator[None]:
    """Say what is being compiled if it takes longer than `PATIENCE_S` seconds: it does only at the first use."""
    timer = threading.Timer(PATIENCE_S, logger.info, ("compiling %s; this is kept for the next time", what))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
