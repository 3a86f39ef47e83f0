"""What holds for every test: one thread, no network, no GPU unless it is asked for."""

from __future__ import annotations

import logging
import os
import signal

import pytest

# Before anything imports torch: several test processes share few cores. And nothing is looked up on the network.
for name, value in {
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "WANDB_MODE": "disabled",
    "MPLBACKEND": "Agg",
}.items():
    os.environ.setdefault(name, value)


def pytest_configure(config):
    """Hide the GPUs, from child processes too, unless the tests are picked by `-m cuda`: a run has to be compared with one on
    the same device. It works before CUDA is first asked for anything, so that torch need not be imported.
    """
    if not config.option.markexpr.startswith("cuda"):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    # A shell starts a job in its background with Ctrl-C ignored, and so would be all that the tests start.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def usb_active_logging():
    """A run in a test's own process sends the log to the terminal; the next test finds it as it was."""
    logger = logging.getLogger("usb_active")
    before = list(logger.handlers), logger.propagate, logger.level
    yield
    logger.handlers, logger.propagate = before[:2]
    logger.setLevel(before[2])


@pytest.fixture
def torch_settings():
    """torch, with its threads and its determinism put back at the end; the environment starts without a word about cuBLAS."""
    import torch

    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    cublas = os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)
    yield torch
    torch.set_num_threads(before[0])
    torch.use_deterministic_algorithms(before[1])
    torch.backends.cudnn.benchmark = before[2]
    os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)
    if cublas is not None:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = cublas
