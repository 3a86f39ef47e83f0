"""The processor's time: of this process, and of children that have ended."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from usb_active.environment.cpu_clock import cpu_seconds

BUSY = "import time\nwhile time.process_time() < 0.3: pass"


def test_it_counts_work_and_not_waiting():
    before, own = cpu_seconds(), time.process_time()
    while time.process_time() < own + 0.2:
        pass
    assert cpu_seconds() >= before + 0.2


def test_it_counts_children_that_have_ended():
    before, own = cpu_seconds(), time.process_time()
    subprocess.run([sys.executable, "-c", BUSY], check=True)
    # Those of children come in ticks.
    ticks = 2 / os.sysconf("SC_CLK_TCK")
    assert cpu_seconds() - before >= 0.3 - ticks + (time.process_time() - own)
