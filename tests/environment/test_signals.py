"""Signals end a program with one line and their own code; workers leave them to the process that started them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from usb_active import cli
from usb_active.environment import signals
from usb_active.environment.signals import LINES, Stopped, StopSignals, exit_code, ignore_in_worker

WORK = """
import os, signal, sys, time
from usb_active import cli
from usb_active.environment import signals

signals.GRACE = {grace}

def work():
    print("ready", flush=True)
    {body}
    return 0

sys.exit(cli.guarded(work))
"""
SLEEP = "time.sleep(60)"
SWALLOW = "\n".join(["while True:", "        try:", "            time.sleep(60)", "        except BaseException:", "            pass"])
IN_DESTRUCTOR = "\n".join([
    "class D:", "        def __del__(self): os.kill(os.getpid(), signal.SIGINT); time.sleep(0.01)", "    D()", "    time.sleep(60)",
])  # fmt: skip
# Two signals, so that the handler itself has to say the line.
IN_STDERR = "\n".join([
    "import io", "    class Raw(io.RawIOBase):", "        def writable(self): return True", "        def write(self, data):",
    "            for _ in range(2):", "                try:", "                    os.kill(os.getpid(), signal.SIGINT); time.sleep(0.01)",
    "                except BaseException: pass", "            return len(data)",
    "    sys.stderr = io.TextIOWrapper(io.BufferedWriter(Raw()), write_through=True)", "    print('x', file=sys.stderr, flush=True)",
    "    time.sleep(60)",
])  # fmt: skip
# Ready when the first batch has come from the workers.
WORKERS = "\n".join([
    "import torch", "    from usb_active.pool.sampling import SeededRows, SequentialSampler, make_loader",
    "    rows = SeededRows(range(10**6), 0, 'test')",
    "    for number, _ in enumerate(make_loader(rows, SequentialSampler(10**6, 1), 2, list)):",
    "        if number == 10: print('working', flush=True)",
])  # fmt: skip


def ended(body, *sent, wait=0.3, grace=signals.GRACE):
    """Exit code, stderr, and seconds from the first signal to the end."""
    code = WORK.format(body=body, grace=grace)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, "-c", code], **pipes, start_new_session=True)
    assert process.stdout.readline() == "ready\n" and (body != WORKERS or process.stdout.readline() == "working\n")
    started = time.monotonic()
    for number in sent:
        time.sleep(wait)
        os.killpg(process.pid, number)
    err = process.communicate(timeout=60)[1]
    return process.returncode, err, time.monotonic() - started


@pytest.mark.parametrize("number", list(LINES), ids=lambda number: number.name)
def test_each_signal_has_its_line_and_its_code(number):
    code, err, _ = ended(SLEEP, number)
    assert (code, err) == (exit_code(number), LINES[number] + "\n")
    assert (exit_code(signal.SIGINT), exit_code(signal.SIGTERM), exit_code(signal.SIGHUP)) == (130, 143, 129)


def test_one_that_is_swallowed_ends_the_program_all_the_same():
    code, err, seconds = ended(SWALLOW, signal.SIGINT, grace=1.5)
    assert (code, err) == (130, LINES[signal.SIGINT] + "\n") and seconds > 1.5


def test_a_second_one_ends_at_once():
    code, err, seconds = ended(SWALLOW, signal.SIGINT, signal.SIGINT)
    assert (code, err) == (130, LINES[signal.SIGINT] + "\n") and seconds < signals.GRACE - 1


def test_one_in_a_destructor_is_neither_lost_nor_shown():
    assert ended(IN_DESTRUCTOR)[:2] == (130, LINES[signal.SIGINT] + "\n")


def test_one_that_comes_while_stderr_is_written_ends_the_program():
    """stderr then refuses a second writer: "reentrant call"."""
    assert ended(IN_STDERR)[:2] == (130, LINES[signal.SIGINT] + "\n")


@pytest.mark.slow
@pytest.mark.parametrize("number", list(LINES), ids=lambda number: number.name)
def test_workers_of_a_loader(number):
    # The pipes end with the last process that holds them: no worker stays.
    assert ended(WORKERS, number)[:2] == (exit_code(number), LINES[number] + "\n")


def test_handlers_are_put_back_and_an_ignored_signal_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignals():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN and signal.getsignal(signal.SIGINT) is not signal.default_int_handler
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGHUP, before)


def test_what_must_not_be_interrupted_ends_first():
    done = []
    with StopSignals() as stop, pytest.raises(Stopped):
        with StopSignals.held():
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)
            done.append(1)
        done.append(2)
    assert done == [1] and stop.received == signal.SIGTERM


def test_the_hard_end_can_be_put_off():
    StopSignals.put_off(1)
    with StopSignals() as stop, pytest.raises(Stopped):
        StopSignals.put_off(1)
        assert stop._timer is None, "no signal has come"
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)
        finally:
            first = stop._timer
            StopSignals.put_off(600)
    assert first.interval == signals.GRACE and first.finished.is_set() and stop._timer.interval == 600


def test_without_a_main_thread_nothing_is_handled():
    codes = []
    thread = threading.Thread(target=lambda: codes.append(cli.guarded(lambda: 7)))
    thread.start()
    thread.join()
    assert codes == [7]


def _of_child(connection):
    ignore_in_worker()
    connection.send([signal.getsignal(number) is signal.SIG_IGN for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM)])


def test_workers_ignore_what_a_terminal_sends():
    ours, theirs = multiprocessing.Pipe()
    child = multiprocessing.get_context("fork").Process(target=_of_child, args=(theirs,))
    child.start()
    assert ours.recv() == [True, True, False]
    child.join()


def test_a_signal_while_the_interpreter_ends_changes_nothing():
    # `late` is taken down after Python's own handlers.
    code = (
        "import os, signal, sys\n"
        "from usb_active.cli import guarded\n"
        "class Late:\n"
        "    def __del__(self, kill=os.kill, pid=os.getpid(), number=signal.SIGINT): kill(pid, number)\n"
        "late = Late()\n"
        "sys.exit(guarded(lambda: 3, is_last=True))\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (3, "")


def test_a_worker_keeps_quiet_when_the_other_process_has_gone():
    code = (
        "import sys\n"
        "from usb_active.environment.signals import ignore_in_worker\n"
        "ignore_in_worker()\n"
        "for error in (ConnectionResetError(104, 'reset'), EOFError(), ValueError('its own')): sys.excepthook(type(error), error, None)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 0 and ended.stderr == "ValueError: its own\n"
