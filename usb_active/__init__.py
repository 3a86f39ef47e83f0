"""Active learning inside USB's trainers. Importing this package imports neither torch nor semilearn."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from usb_active.environment import import_guard, moved

if TYPE_CHECKING:
    # The same names for type checkers and editors, which cannot read the table below.
    from usb_active.api import Run as Run
    from usb_active.api import TrainedModel as TrainedModel
    from usb_active.api import load_config as load_config
    from usb_active.api import open_run as open_run
    from usb_active.api import run as run
    from usb_active.config.settings import RunConfig as RunConfig
    from usb_active.contracts.acquisition import Acquisition as Acquisition
    from usb_active.contracts.acquisition import TrainBatch as TrainBatch
    from usb_active.contracts.acquisition import TrainingInfo as TrainingInfo
    from usb_active.contracts.algorithm import OwnAlgorithm as OwnAlgorithm
    from usb_active.contracts.analysis import Analysis as Analysis
    from usb_active.contracts.dataset import Dataset as Dataset
    from usb_active.contracts.dataset import DatasetOptions as DatasetOptions
    from usb_active.contracts.dataset import ImageDataset as ImageDataset
    from usb_active.contracts.dataset import Samples as Samples
    from usb_active.contracts.features import Features as Features
    from usb_active.contracts.initial_labels import InitialLabels as InitialLabels
    from usb_active.contracts.network import Network as Network
    from usb_active.contracts.observer import Observer as Observer
    from usb_active.contracts.oracle import Oracle as Oracle
    from usb_active.contracts.plugin import Plugin as Plugin
    from usb_active.contracts.plugin import PluginConfig as PluginConfig
    from usb_active.contracts.plugin import free_key as free_key
    from usb_active.contracts.plugin import later_key as later_key
    from usb_active.contracts.plugin import overrides as overrides
    from usb_active.contracts.pretrainer import Pretrained as Pretrained
    from usb_active.contracts.pretrainer import Pretrainer as Pretrainer
    from usb_active.contracts.prior import Prior as Prior
    from usb_active.contracts.prior import PriorTable as PriorTable
    from usb_active.contracts.prior import When as When
    from usb_active.contracts.registry import Declaration as Declaration
    from usb_active.contracts.registry import register_plugin as register_plugin
    from usb_active.contracts.task import Classification as Classification
    from usb_active.contracts.task import OpenTask as OpenTask
    from usb_active.contracts.task import Task as Task
    from usb_active.errors import UsageError as UsageError
    from usb_active.errors import WaitingForLabels as WaitingForLabels
    from usb_active.numerics.ranking import top_k as top_k
    from usb_active.pool.epoch_training import EpochTraining as EpochTraining
    from usb_active.pool.heads import task_head as task_head
    from usb_active.pool.view import PoolView as PoolView
    from usb_active.randomness import generator as generator
    from usb_active.records import SKIP as SKIP
    from usb_active.records import Answers as Answers
    from usb_active.records import LabelRow as LabelRow
    from usb_active.records import Metric as Metric
    from usb_active.records import Query as Query
    from usb_active.report.runs import RunRecord as RunRecord
    from usb_active.storage.artifacts import load_artifact as load_artifact
    from usb_active.storage.artifacts import save_artifact as save_artifact
    from usb_active.storage.spreadsheet import text_cell as text_cell
    from usb_active.usb.registration import register as register
    from usb_active.usb.registration import register_usb_algorithms as register_usb_algorithms

__version__ = "0.1.0"

# Before anything can import semilearn.
import_guard.install()
moved.install_old_names()

# The public names, and the module that has each (":" and its name there, where that is another). Imported when a name is first used.
_PUBLIC = {
    # Experiments from Python.
    "Run": "usb_active.api",
    "RunConfig": "usb_active.config.settings",
    "TrainedModel": "usb_active.api",
    "load_config": "usb_active.api",
    "open_run": "usb_active.api",
    "run": "usb_active.api",
    # What a plugin derives from, is given and gives back.
    "Acquisition": "usb_active.contracts.acquisition",
    "Analysis": "usb_active.contracts.analysis",
    "Dataset": "usb_active.contracts.dataset",
    "DatasetOptions": "usb_active.contracts.dataset",
    "Features": "usb_active.contracts.features",
    "ImageDataset": "usb_active.contracts.dataset",
    "InitialLabels": "usb_active.contracts.initial_labels",
    "Network": "usb_active.contracts.network",
    "Observer": "usb_active.contracts.observer",
    "Oracle": "usb_active.contracts.oracle",
    "OwnAlgorithm": "usb_active.contracts.algorithm",
    "Plugin": "usb_active.contracts.plugin",
    "PluginConfig": "usb_active.contracts.plugin",
    "PoolView": "usb_active.pool.view",
    "Pretrained": "usb_active.contracts.pretrainer",
    "Pretrainer": "usb_active.contracts.pretrainer",
    "Prior": "usb_active.contracts.prior",
    "PriorTable": "usb_active.contracts.prior",
    "RunRecord": "usb_active.report.runs",
    "Samples": "usb_active.contracts.dataset",
    "TrainBatch": "usb_active.contracts.acquisition",
    "TrainingInfo": "usb_active.contracts.acquisition",
    "When": "usb_active.contracts.prior",
    # What labels are, and what is asked and answered.
    "Answers": "usb_active.records",
    "Classification": "usb_active.contracts.task",
    "LabelRow": "usb_active.records",
    "Metric": "usb_active.records",
    "OpenTask": "usb_active.contracts.task",
    "Query": "usb_active.records",
    "SKIP": "usb_active.records",
    "Task": "usb_active.contracts.task",
    # Making plugins known.
    "Declaration": "usb_active.contracts.registry",
    "free_key": "usb_active.contracts.plugin",
    "later_key": "usb_active.contracts.plugin",
    "overrides": "usb_active.contracts.plugin",
    "register": "usb_active.usb.registration",
    "register_usb_algorithms": "usb_active.usb.registration",
    "register_plugin": "usb_active.contracts.registry",
    # What methods are made with.
    "EpochTraining": "usb_active.pool.epoch_training",
    "generator": "usb_active.randomness",
    "load_artifact": "usb_active.storage.artifacts",
    "save_artifact": "usb_active.storage.artifacts",
    "task_head": "usb_active.pool.heads",
    "text_cell": "usb_active.storage.spreadsheet",
    "top_k": "usb_active.numerics.ranking",
    # What is raised.
    "UsageError": "usb_active.errors",
    "WaitingForLabels": "usb_active.errors",
}

__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'usb_active' has no attribute '{name}'")
    value = getattr(importlib.import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
