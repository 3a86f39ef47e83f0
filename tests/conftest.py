"""What holds for every test: one thread, no network."""

from __future__ import annotations

import logging
import os

import pytest

# Its failures shall show values, as those of test files do.
pytest.register_assert_rewrite("acquisition_contract")

# Before anything imports torch: several test processes share few cores. And nothing is looked up on the network.
for name, value in {
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "WANDB_MODE": "disabled",
    "MPLBACKEND": "Agg",
}.items():
    os.environ.setdefault(name, value)


@pytest.fixture(autouse=True)
def usb_active_logging():
    """A run in a test's own process sends the log to the terminal; the next test finds it as it was."""
    logger = logging.getLogger("usb_active")
    before = list(logger.handlers), logger.propagate, logger.level
    yield
    logger.handlers, logger.propagate = before[:2]
    logger.setLevel(before[2])
