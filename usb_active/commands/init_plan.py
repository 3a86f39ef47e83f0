"""What `usb-active init` decides by itself: how labels are divided, image size, batches, names. Numbers in, numbers and reasons out."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from usb_active.config.averaging import ema_remark, fitting_ema
from usb_active.config.recipes import Length
from usb_active.errors import UsageError
from usb_active.storage.path_texts import name_problem

# Labels per class where nobody says how many: what the recipes' evidence is about.
PER_CLASS = 4
# Up to so many labels per class a model that is trained in between has little to say on what to label next.
AT_ONCE = 10
# Of more labels, how many per class come first, and in how many cycles the rest.
FIRST, CYCLES = 5, 3
# Evaluations of a training.
EVALUATIONS = 4


@dataclass(frozen=True)
class Division:
    """Labels of the first training and of each cycle after it, and why. Without cycles the budget is that of those which may be added."""

    first: int
    cycles: int
    budget: int
    why: str


def divide(labels: int, classes: int, known: int = 0) -> Division:
    """How many labels are asked for at once, and how many after a training.

    Args:
        labels: to be asked for.
        known: labels that exist already; the first training is on these.
    """
    few = f"up to {AT_ONCE} labels per class: asking for all at once"
    if known:
        if labels == 0:
            return Division(0, 0, classes, "no more labels are asked for")
        cycles = 1 if labels <= AT_ONCE * classes else next((number for number in (CYCLES, 4, 2, 5) if labels % number == 0), 1)
        return Division(0, cycles, labels // cycles, f"after a training on the {known} labels that there are")
    if labels <= AT_ONCE * classes:
        return Division(labels, 0, labels, few)
    budget = (labels - max(FIRST * classes, labels // (CYCLES + 1))) // CYCLES
    why = f"more than {AT_ONCE} labels per class: in cycles, so that later ones are chosen with the earlier ones at hand"
    return Division(labels - CYCLES * budget, CYCLES, budget, why)


def labels_to_ask(labels: int | None, classes: int, known: int, most: int) -> int:
    """How many labels are asked for, `PER_CLASS` of each class unless said.

    Raises:
        UsageError: fewer than classes, where there is none yet, or more than there are images.
    """
    if labels is None:
        return min(PER_CLASS * classes, most)
    if labels > most:
        raise UsageError(f"--labels: {labels}, but only {most} images can be labelled, one at least staying without a label")
    if labels < classes and not known:
        raise UsageError(f"--labels: {labels} for {classes} classes; at least {classes}, one of each")
    return labels


def trained_side(side: int, halved_to: int | None) -> tuple[int, str]:
    """The side of the views, and why: halved as often as a network wants that sees little at once."""
    if halved_to is not None and side > 4 * halved_to:
        return halved_to, f"{side} pixels made smaller: {halved_to} are about what this network sees at once, and faster"
    size = side
    while halved_to is not None and size > halved_to:
        size //= 2
    if size == side:
        return size, "as the images are"
    return size, f"{side} pixels halved until at most {halved_to}, about what this network sees at once, and faster"


def batch_size(wanted: int, labels: int) -> int:
    """The largest power of two that is at most the number of labels, and at least 4; `wanted` where that is less."""
    return min(wanted, max(4, 1 << (labels.bit_length() - 1)))


def units(length: Length, default: int, seconds: float | None, unit: float) -> int:
    """Epochs or steps of a training: the default, or what the seconds of one allow, within the recipe's bounds."""
    if seconds is None:
        return default
    found = min(length.most, max(length.least, int(seconds / max(unit, 1e-9))))
    # So that the last evaluation is the end of the training.
    return found - found % EVALUATIONS if length.key == "num_train_iter" else found


def fitting_average(config: dict[str, Any], steps: int) -> tuple[float, str] | None:
    """An `ema_m` for so short a training, and why; None where the recipe's fits."""
    wanted = config.get("ema_m", 0.999)
    if ema_remark(wanted, steps) is None:
        return None
    return fitting_ema(steps), f"averages over a tenth of {steps} steps; more would be mostly the beginning"


def folder_name(folder: Path) -> str:
    """The folder's name as it was typed, a link's own; "images" where it is no name for a file."""
    name = os.path.basename(os.path.abspath(folder))
    return "images" if name_problem(name) else name


def run_name(folder: Path, save_dir: Path) -> str:
    """A name for the run, after the folder; with a number where there is a run of that name."""
    name, number = folder_name(folder), 1
    while (save_dir / (name if number == 1 else f"{name}_{number}")).exists():
        number += 1
    return name if number == 1 else f"{name}_{number}"
