"""How long a training will take: the first steps of one are really made, in a folder that is thrown away."""

from __future__ import annotations

import functools
import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from usb_active.config.settings import config_from_dict
from usb_active.loop.setup import build_dataset, build_parts
from usb_active.randomness import generator, global_generators_kept
from usb_active.usb.launcher import make_algorithm

# Seconds of steps, after which what is known must do.
LIMIT = 30.0


@dataclass(frozen=True)
class Timing:
    """What was seen of a short training.

    Attributes:
        unit: seconds of one more unit, an epoch or a step.
        steps: of a unit.
        end: seconds of an evaluation and its checkpoint.
        is_whole: whether the short training came to its end within the limit.
    """

    unit: float
    steps: float
    end: float
    is_whole: bool

    def training(self, units: int, evaluations: int) -> float:
        """Seconds of a training of so many units."""
        return self.unit * units + self.end * evaluations


class _Enough(BaseException):
    """The limit is reached. No Exception: those are looked into for what diverged."""


def time_training(data: Mapping[str, Any], base: Path, key: str, units: int, labels: int, limit: float = LIMIT) -> Timing:
    """Train for a moment as `data` says, with classes drawn at random for some samples.

    Args:
        data: a configuration of an image folder, as a YAML has it.
        base: the folder from which the paths of plugins count.
        key: what `units` are, "epoch" or "num_train_iter".
        units: of the short training; the last one is what counts, since the first ones may be of another kind.
        labels: samples that are labelled.
        limit: seconds after which it is broken off.

    Raises:
        UsageError: as a run of this configuration.
    """
    with tempfile.TemporaryDirectory(prefix="usb-active-") as folder, global_generators_kept(), _handlers_kept():
        answers = Path(folder) / "labels.csv"
        config = config_from_dict(_short(data, folder, answers, key, units), base=base, source="init")
        parts = _parts(config, answers, labels)
        algorithm = make_algorithm(config, parts)
        starts: list[float] = []
        algorithm.train_step = _timed(algorithm.train_step, starts, limit)
        try:
            algorithm.train()
            is_whole = True
        except _Enough:
            is_whole = False
        finally:
            algorithm.session.close()
        return _timing(starts, perf_counter(), algorithm.num_train_iter / units, is_whole)


def _short(data: Mapping[str, Any], folder: str, answers: Path, key: str, units: int) -> dict[str, Any]:
    """The configuration with one short training, on labels from a file."""
    never = 1_000_000_000
    others = {"save_dir": folder, "save_name": "trial", "num_eval_iter": never, "num_log_iter": never, key: units}
    active = {name: value for name, value in data["active"].items() if name not in ("acquisition", "budget")}
    active |= {"initial": {"name": "file", "path": str(answers)}, "cycles": 0, "oracle": "csv"}
    return {**data, **others, "dataset": {**data["dataset"], "verify": False}, "active": active}


def _parts(config: Any, answers: Path, labels: int) -> dict[str, Any]:
    """The parts of the short training. The file of its labels is written first."""
    dataset = build_dataset(config)
    rng, names = generator(0, "timing"), dataset.class_names
    chosen = rng.choice(len(dataset), size=min(labels, len(dataset) - 1), replace=False)
    rows = [f"{index},{_quoted(names[number % len(names)])}" for number, index in enumerate(np.sort(chosen).tolist())]
    answers.write_text("\n".join(["index,label", *rows, ""]), encoding="utf-8")
    return build_parts(config)


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def _timed(step: Callable, starts: list[float], limit: float) -> Callable:
    # USB looks at the signature.
    @functools.wraps(step)
    def timed(*args: Any, **inputs: Any) -> Any:
        starts.append(perf_counter())
        if starts[-1] - starts[0] > limit:
            raise _Enough
        return step(*args, **inputs)

    return timed


def _timing(starts: list[float], end: float, steps: float, is_whole: bool) -> Timing:
    """Of a unit of several steps, the last one with all that comes between its steps; of single steps, those after the first ones."""
    whole = round(steps)
    if 1 < whole < len(starts):
        unit = starts[-1] - starts[-1 - whole]
    else:
        # The first steps also load and compile.
        tail = starts[len(starts) // 4 :]
        unit = steps * (tail[-1] - tail[0]) / max(1, len(tail) - 1)
    return Timing(unit, steps, end - starts[-1] if is_whole else 0.0, is_whole)


@contextmanager
def _handlers_kept() -> Iterator[None]:
    """The package's logger as it was: a run has a log of its own."""
    root = logging.getLogger("usb_active")
    before = list(root.handlers)
    try:
        yield
    finally:
        for handler in [handler for handler in root.handlers if handler not in before]:
            handler.close()
        root.handlers = before
