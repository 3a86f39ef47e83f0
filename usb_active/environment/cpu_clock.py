"""The processor's time that this process has used."""

from __future__ import annotations

import os
import time


def cpu_seconds() -> float:
    """Of all threads of this process, and of its child processes (workers that load images) that have ended and were waited for."""
    ended = os.times()
    return time.process_time() + ended.children_user + ended.children_system
