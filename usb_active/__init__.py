"""Active learning inside USB's trainers. Importing this package imports neither torch nor semilearn."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from usb_active.contracts.registry import Declaration
from usb_active.contracts.registry import register as register_plugin
from usb_active.environment import import_guard
from usb_active.errors import UsageError, WaitingForLabels

if TYPE_CHECKING:
    from usb_active.contracts.acquisition import Acquisition, TrainBatch, TrainingInfo
    from usb_active.contracts.algorithm import OwnAlgorithm
    from usb_active.contracts.analysis import Analysis
    from usb_active.contracts.dataset import Dataset, DatasetOptions, Samples
    from usb_active.contracts.features import Features
    from usb_active.contracts.initial_labels import InitialLabels
    from usb_active.contracts.network import Network
    from usb_active.contracts.observer import Observer
    from usb_active.contracts.oracle import Oracle
    from usb_active.contracts.plugin import PluginConfig, free_key
    from usb_active.contracts.pretrainer import Pretrained, Pretrainer
    from usb_active.contracts.prior import Prior, PriorTable
    from usb_active.pool.view import PoolView
    from usb_active.records import Answers, Query
    from usb_active.usb.registration import register, register_usb_algorithms

__version__ = "0.1.0"

# Before anything can import semilearn.
import_guard.install()

# Public name → the module that has it, imported when the name is first used.
_LAZY = {
    "register": "usb_active.usb.registration",
    "register_usb_algorithms": "usb_active.usb.registration",
    "Acquisition": "usb_active.contracts.acquisition",
    "Analysis": "usb_active.contracts.analysis",
    "TrainBatch": "usb_active.contracts.acquisition",
    "TrainingInfo": "usb_active.contracts.acquisition",
    "Features": "usb_active.contracts.features",
    "InitialLabels": "usb_active.contracts.initial_labels",
    "Prior": "usb_active.contracts.prior",
    "PriorTable": "usb_active.contracts.prior",
    "Pretrainer": "usb_active.contracts.pretrainer",
    "Pretrained": "usb_active.contracts.pretrainer",
    "Observer": "usb_active.contracts.observer",
    "Oracle": "usb_active.contracts.oracle",
    "OwnAlgorithm": "usb_active.contracts.algorithm",
    "Query": "usb_active.records",
    "Answers": "usb_active.records",
    "Dataset": "usb_active.contracts.dataset",
    "DatasetOptions": "usb_active.contracts.dataset",
    "Samples": "usb_active.contracts.dataset",
    "Network": "usb_active.contracts.network",
    "PluginConfig": "usb_active.contracts.plugin",
    "free_key": "usb_active.contracts.plugin",
    "PoolView": "usb_active.pool.view",
}

__all__ = [
    "Acquisition",
    "Analysis",
    "Answers",
    "Dataset",
    "DatasetOptions",
    "Declaration",
    "Features",
    "InitialLabels",
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
    "register_usb_algorithms",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'usb_active' has no attribute '{name}'")
    value = getattr(importlib.import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
