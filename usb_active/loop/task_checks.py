"""What a run's parts take labels for, against what its data set's labels are: said before anything runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from usb_active.config.usb_keys import ALGORITHMS, algorithm_class
from usb_active.contracts.acquisition import Acquisition
from usb_active.contracts.algorithm import declared
from usb_active.contracts.observer import Observer
from usb_active.contracts.plugin import overrides
from usb_active.errors import UsageError

if TYPE_CHECKING:
    from usb_active.config.settings import RunConfig
    from usb_active.contracts.dataset import Dataset


def check_task(config: RunConfig, plugins: Mapping[str, Any], dataset: Dataset) -> None:
    """UsageError when the algorithm does not learn such labels, or a plugin needs classes where there are none.

    Args:
        plugins: by role, as `active:` names them.
    """
    task = dataset.task
    of_task = f"the labels of dataset '{dataset.name}' are of the task '{task.name}'"
    name = config.usb["algorithm"]
    learned = tasks_of(name)
    if task.name not in learned:
        way_out = "an algorithm of one's own names the tasks it learns in `tasks`"
        raise UsageError(f"{config.source}: algorithm: '{name}' learns {', '.join(sorted(learned))}, and {of_task}; {way_out}")
    if task.class_names:
        return
    for role, plugin in plugins.items():
        needed = _classes_needed(role, plugin)
        if needed:
            raise UsageError(f"{config.source}: active.{role}: '{plugin.name}' {needed}, and {of_task}, which has no classes")


def tasks_of(algorithm: str) -> frozenset[str]:
    """The tasks whose labels an algorithm learns: of USB's own, classification."""
    return frozenset({"classification"} if algorithm in ALGORITHMS else declared(algorithm_class(algorithm), "tasks"))


def _classes_needed(role: str, plugin: Any) -> str:
    """For what a plugin needs classes, as far as it says so; empty for nothing."""
    if role == "prior":
        return "guides pseudo-labels by probabilities of classes"
    # What brings labels that exist already sees no training.
    watched = plugin.batch_fields if isinstance(plugin, Observer) else frozenset()
    if "probs" in plugin.needs or "probs_weak" in watched:
        return "needs probabilities of classes"
    if isinstance(plugin, Acquisition) and plugin.per_class:
        return "takes equally many of each class"
    return "gives pseudo-labels, which are classes" if overrides(plugin, "pseudo_labels") else ""
