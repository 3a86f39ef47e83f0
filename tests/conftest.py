"""What holds for every test: one thread, no network."""

from __future__ import annotations

import os

# Before anything imports torch: several test processes share few cores. And nothing is looked up on the network.
for name, value in {
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "WANDB_MODE": "disabled",
    "MPLBACKEND": "Agg",
}.items():
    os.environ.setdefault(name, value)
