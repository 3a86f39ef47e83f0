"""How long a training takes, over several processes, by clocks that the tests turn."""

from __future__ import annotations

import pytest

from usb_active.usb import stopwatch
from usb_active.usb.stopwatch import Stopwatch


@pytest.fixture
def clock(monkeypatch):
    """A list whose first entry is the time. The processor's is twice that: two threads at work."""
    now = [100.0]
    monkeypatch.setattr(stopwatch.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(stopwatch, "cpu_seconds", lambda: 2 * now[0] - 7)
    return now


def test_it_counts_from_start_to_stop(clock):
    watch = Stopwatch()
    assert (watch.seconds, watch.cpu_seconds) == (0.0, 0.0)
    watch.start()
    clock[0] += 2.5
    assert (watch.seconds, watch.cpu_seconds) == (2.5, 5.0)
    watch.stop()
    clock[0] += 50.0
    assert (watch.seconds, watch.cpu_seconds) == (2.5, 5.0)


def test_a_resumed_training_counts_on_from_its_checkpoint(clock):
    watch = Stopwatch()
    watch.set(7.0, 10.0)
    clock[0] += 50.0
    assert (watch.seconds, watch.cpu_seconds) == (7.0, 10.0)
    watch.start()
    clock[0] += 1.5
    assert (watch.seconds, watch.cpu_seconds) == (8.5, 13.0)
    watch.stop()
    assert (watch.seconds, watch.cpu_seconds) == (8.5, 13.0)


def test_what_an_earlier_process_did_not_count_is_not_guessed(clock):
    watch = Stopwatch()
    watch.set(7.0, None)
    watch.start()
    clock[0] += 1.5
    watch.stop()
    assert (watch.seconds, watch.cpu_seconds) == (8.5, None)
