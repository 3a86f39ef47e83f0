"""Active learning inside USB's trainers. Importing this package imports neither torch nor semilearn."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from usb_active import import_guard
from usb_active.errors import UsageError, WaitingForLabels
from usb_active.registry import Declaration
from usb_active.registry import register as register_plugin

if TYPE_CHECKING:
    from usb_active.acquisition import Acquisition, TrainBatch, TrainingInfo
    from usb_active.analysis import Analysis
    from usb_active.datasets import Dataset, DatasetOptions, Samples
    from usb_active.features import Features
    from usb_active.network import Network
    from usb_active.observer import Observer
    from usb_active.oracle import Answers, Oracle, Query
    from usb_active.own_algorithm import OwnAlgorithm
    from usb_active.plugin import PluginConfig, free_key
    from usb_active.pretraining import Pretrained, Pretrainer
    from usb_active.prior import Prior, PriorTable
    from usb_active.usb.algorithm import register
    from usb_active.view import PoolView

__version__ = "0.1.0"

# Before anything can import semilearn.
import_guard.install()

# Public name → the module that has it, imported when the name is first used.
_LAZY = {
    "register": "usb_active.usb.algorithm",
    "Acquisition": "usb_active.acquisition",
    "Analysis": "usb_active.analysis",
    "TrainBatch": "usb_active.acquisition",
    "TrainingInfo": "usb_active.acquisition",
    "Features": "usb_active.features",
    "Prior": "usb_active.prior",
    "PriorTable": "usb_active.prior",
    "Pretrainer": "usb_active.pretraining",
    "Pretrained": "usb_active.pretraining",
    "Observer": "usb_active.observer",
    "Oracle": "usb_active.oracle",
    "OwnAlgorithm": "usb_active.own_algorithm",
    "Query": "usb_active.oracle",
    "Answers": "usb_active.oracle",
    "Dataset": "usb_active.datasets",
    "DatasetOptions": "usb_active.datasets",
    "Samples": "usb_active.datasets",
    "Network": "usb_active.network",
    "PluginConfig": "usb_active.plugin",
    "free_key": "usb_active.plugin",
    "PoolView": "usb_active.view",
}

__all__ = [
    "Acquisition",
    "Analysis",
    "Answers",
    "Dataset",
    "DatasetOptions",
    "Declaration",
    "Features",
    "Network",
    "Observer",
    "Oracle",
    "OwnAlgorithm",
    "PluginConfig",
    "PoolView",
    "Pretrained",
    "Pretrainer",
    "Prior",
    "PriorTable",
    "Query",
    "Samples",
    "TrainBatch",
    "TrainingInfo",
    "UsageError",
    "WaitingForLabels",
    "free_key",
    "register",
    "register_plugin",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'usb_active' has no attribute '{name}'")
    value = getattr(importlib.import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
