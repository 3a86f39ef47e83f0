"""Ctrl-C, SIGTERM and SIGHUP: a run ends at once, with one line and the exit code of the signal, and nothing of it stays.

The first signal raises `Stopped` in the main thread, so that what is being written is put away. Between two bytecodes that may be
anywhere, in a library that swallows it included: what has not ended `GRACE` seconds later is ended, as by a second signal. That is
safe at any moment: a run that is killed outright loses nothing either.

Loader workers ignore the signals that a terminal sends to them too; they end with the process that started them.
"""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any

# Of each signal: the exit code (128 + its number, as shells say it), and the line.
_RESUMES = "the same command resumes from here"
LINES = {
    signal.SIGINT: f"\nusb-active: interrupted; {_RESUMES}",
    signal.SIGTERM: f"usb-active: terminated; {_RESUMES}",
}
if hasattr(signal, "SIGHUP"):
    LINES[signal.SIGHUP] = f"usb-active: the terminal has gone (SIGHUP); {_RESUMES}"
# Those that reach the workers as well, when a terminal sends them; SIGTERM is how a loader ends its own.
_OF_TERMINALS = tuple(number for number in LINES if number != signal.SIGTERM)
# Seconds from the first signal to the hard end: longer than loaders wait for their workers.
GRACE = 15.0


def exit_code(number: int) -> int:
    """130, 143, 129."""
    return 128 + int(number)


class Stopped(KeyboardInterrupt):
    """A signal that ends the program; `number` is the signal's. No Exception, so that no `except Exception` takes it for an error."""

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.number = number


class StopSignals:
    """Handles the signals while the context is entered, in the process and the thread that enter it."""

    # The innermost one that is entered.
    _active: StopSignals | None = None

    def __init__(self, is_last: bool = False) -> None:
        """`is_last`: after it there is only the interpreter's own end, which a signal then shortens, with the exit code `code`."""
        self._is_last = is_last
        self.code = 0
        self.received: int | None = None
        self._pid = os.getpid()
        self._before: dict[int, Any] = {}
        self._hook: Any = None
        self._timer: threading.Timer | None = None
        self._said = threading.Lock()
        self._held = 0
        self._outer: StopSignals | None = None

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is not threading.main_thread():
            return self
        for number in LINES:
            # Left alone where the one who started us has it ignored: nohup, or a job in the background of a script.
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._handle)
        if self._is_last:
            # Registered first, so called last, after whatever may wait: then Python takes handlers away one by one, and a signal would end
            # a program that has done its work with the code of a killed one.
            atexit.register(_ignore, self._before)
        self._hook, sys.unraisablehook = sys.unraisablehook, self._swallowed
        self._outer, StopSignals._active = StopSignals._active, self
        return self

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for number, before in self._before.items():
            signal.signal(number, self._shorten if self._is_last else before)
        if self._hook is not None:
            sys.unraisablehook = self._hook
            StopSignals._active = self._outer

    @classmethod
    @contextlib.contextmanager
    def held(cls) -> Iterator[None]:
        """Not to be interrupted half-way: a first signal is raised when the context ends. A second one ends the program even so."""
        active = cls._active
        if active is None or os.getpid() != active._pid or threading.current_thread() is not threading.main_thread():
            yield
            return
        before, active._held = active.received, active._held + 1
        try:
            yield
        finally:
            active._held -= 1
        if not active._held and active.received != before:
            raise Stopped(active.received)

    @classmethod
    def put_off(cls, seconds: float) -> None:
        """The hard end of a signal that has come is so many seconds from now: for who waits for processes that take up to `GRACE` each."""
        active = cls._active
        if active is None or active._timer is None:
            return
        active._timer.cancel()
        active._timer = threading.Timer(seconds, active._end)
        active._timer.daemon = True
        active._timer.start()

    def say(self) -> None:
        """The line of the signal that came, once."""
        if self._said.acquire(blocking=False):
            # Nobody may be there to read it, and whatever stderr is must not keep the program from its end.
            with contextlib.suppress(Exception):
                try:
                    print(LINES[self.received], file=sys.stderr, flush=True)
                except RuntimeError:  # a "reentrant call": the signal came while stderr was being written
                    os.write(2, f"{LINES[self.received]}\n".encode())

    def came(self, seconds: float = 0.0) -> bool:
        """Whether a signal has come, or comes within so many seconds: workers that it hit first are reported before it.

        From here on none is raised any more: the work is over.
        """
        self._held += 1
        until = time.monotonic() + seconds
        while self.received is None and time.monotonic() < until:
            time.sleep(0.01)
        return self.received is not None

    def _handle(self, number: int, frame: Any) -> None:
        if os.getpid() != self._pid:
            self._handle_in_child(number)
            return
        if self.received is not None:
            self._end()
        self.received = number
        self._timer = threading.Timer(GRACE, self._end)
        self._timer.daemon = True
        self._timer.start()
        if not self._held:
            raise Stopped(number)

    @staticmethod
    def _handle_in_child(number: int) -> None:
        """A worker that was forked a moment ago, and has not yet been told to ignore these."""
        if number not in _OF_TERMINALS:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def _swallowed(self, what: Any) -> None:
        """What was raised where nothing can be (in a destructor, in a callback) is raised again, soon after it. What else goes wrong
        there once a signal has come is of no interest: half-made loaders are taken down."""
        if not isinstance(what.exc_value, Stopped):
            if self.received is None:
                self._hook(what)
        elif os.getpid() == self._pid and self.received is not None:
            if self._timer is not None:
                self._timer.cancel()
            number, self.received = self.received, None
            # From another thread: here, it would be raised where it is swallowed once more.
            again = threading.Timer(0.05, os.kill, (self._pid, number))
            again.daemon = True
            again.start()

    def _shorten(self, number: int, frame: Any) -> None:
        if os.getpid() == self._pid:
            os._exit(self.code)

    def _end(self) -> None:
        """At once: a second signal, or the first one came to nothing."""
        self.say()
        with contextlib.suppress(Exception):
            for child in multiprocessing.active_children():
                child.kill()
        os._exit(exit_code(self.received))


def _ignore(numbers: Iterable[int]) -> None:
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)


def ignore_in_worker(_worker: int = 0) -> None:
    """For a loader's `worker_init_fn`: the process that started the worker ends it, and says why."""
    _ignore(_OF_TERMINALS)
    hook = sys.excepthook

    def without_lost_connections(kind: type[BaseException], error: BaseException, traceback: Any) -> None:
        # A thread of `multiprocessing` was handing over a batch when the other process was stopped.
        if not issubclass(kind, (ConnectionError, EOFError)):
            hook(kind, error, traceback)

    sys.excepthook = without_lost_connections


@contextlib.contextmanager
def held_for_workers() -> Iterator[None]:
    """While workers are started: a loader that is made by half cannot be taken down.

    Workers that are started fresh (`spawn`, `forkserver`) are for seconds unable to be told what to ignore. They inherit that the signals
    of a terminal are blocked, and this process gets what came meanwhile when they have been started. Forked workers have our handler
    from the first.
    """
    # The first of all is the default; asking for that outright would fix it for good.
    method = multiprocessing.get_start_method(allow_none=True) or multiprocessing.get_all_start_methods()[0]
    with StopSignals.held():
        if method == "fork" or not hasattr(signal, "pthread_sigmask"):
            yield
            return
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _OF_TERMINALS)
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
