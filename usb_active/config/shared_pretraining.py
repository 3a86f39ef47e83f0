"""Which runs have the same pretraining, and how a run is told whose it may take over.

A pretraining follows from the data, the network, the pretrainer and the seed. Runs that are equal in all keys but those listed here have
the same one, so that a sweep has it made by one of them.
"""

from __future__ import annotations

import json
from typing import Any

from usb_active.config.settings import RunConfig
from usb_active.config.usb_keys import algorithm_keys

# The variable that names a finished pretraining's run directory. It changes how long a run takes, and nothing that it computes.
VARIABLE = "USB_ACTIVE_PRETRAINING_OF"
# What comes after the pretraining, or changes no result; everything else may have a part in it.
_LATER = (
    "algorithm", "num_labels", "num_train_iter", "num_eval_iter", "num_log_iter", "epoch", "batch_size", "uratio", "lr", "weight_decay",
    "momentum", "ema_m", "use_cat", "save_dir", "save_name",
)  # fmt: skip
_LATER_IN_BLOCK = (
    "initial", "acquisition", "prior", "analysis", "oracle", "cycles", "budget", "warm_start", "schedule", "validation", "batch_norm",
    "keep", "baselines", "cache_images", "views", "views_on", "fast", "channels_last", "weak_no_grad", "compile", "charge_volunteered",
    "audit", "stop",
)  # fmt: skip


def pretraining_key(config: RunConfig) -> str | None:
    """Equal for runs whose pretraining is the same; None without a pretrainer."""
    if config.active.pretrain is None:
        return None
    stored: dict[str, Any] = config.stored()
    block = {name: value for name, value in stored.pop("active").items() if name not in _LATER_IN_BLOCK}
    later = {*_LATER, *algorithm_keys(config.usb["algorithm"])}
    return json.dumps([{name: value for name, value in stored.items() if name not in later}, block], sort_keys=True, default=str)
