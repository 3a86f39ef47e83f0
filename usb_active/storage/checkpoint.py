"""Checkpoints: written whole or not at all, read in torch's safe mode."""

from __future__ import annotations

import io
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from usb_active.errors import UsageError, name_some, printable
from usb_active.storage.run_dir import atomic_write, make_folder

REPEAT = "remove it to repeat this cycle's training"
REPEAT_PRETRAINING = "remove it to repeat the pretraining"
# What a cycle's checkpoint must hold, and of what type; under "active" it is the core's own.
_CYCLE_PARTS = {
    "model": dict, "ema_model": dict, "optimizer": dict, "loss_scaler": dict, "it": int, "best_it": int, "best_eval_acc": float,
    "active": dict,
}  # fmt: skip
_ACTIVE_PARTS = {
    "cycle": int, "device": str, "algorithm": dict, "plugins": dict, "registered": dict, "optimizers": dict, "evaluation": dict,
    "prior": str, "elapsed": float, "log": dict,
}  # fmt: skip


@dataclass(frozen=True)
class Owner:
    """Whose a file of weights or states is. What is None is not said: `run` in runs that began before they had a number."""

    run: str | None
    cycle: int | None = None
    algorithm: str | None = None
    step: str | None = None

    def stamp(self) -> dict[str, Any]:
        """For a file of this owner, as its entry "belongs_to"."""
        return {"belongs_to": asdict(self)}

    def check(self, path: Path, checkpoint: Mapping[str, Any], remedy: str) -> None:
        """UsageError when the file is another's. One without an entry can only be of a run that began without a number."""
        found = checkpoint.get("belongs_to")
        if found is None:
            if self.run is not None:
                raise UsageError(f"{path} does not say which run it is of, so it is not of this one; {remedy}")
            return
        if not isinstance(found, dict):
            raise UsageError(f"{path} is damaged (belongs_to: no mapping in it); {remedy}")
        for name, own in asdict(self).items():
            if found.get(name) != own:
                raise UsageError(f"{path} is of another {name} ({printable(found.get(name))}, and here it must be {own}); {remedy}")


def read_cycle_checkpoint(path: Path, owner: Owner, remedy: str = REPEAT) -> dict[str, Any]:
    """The checkpoint of a cycle's training. UsageError when it is missing, damaged, or of another run, cycle or algorithm."""
    checkpoint = read_checkpoint(path, remedy)
    _check_parts(path, checkpoint, _CYCLE_PARTS, "", remedy)
    _check_parts(path, checkpoint["active"], _ACTIVE_PARTS, "active.", remedy)
    owner.check(path, checkpoint, remedy)
    # Runs from before say at least this.
    if checkpoint["active"]["cycle"] != owner.cycle:
        raise UsageError(f"{path} is of another cycle ({checkpoint['active']['cycle']}, and here it must be {owner.cycle}); {remedy}")
    return checkpoint


def _check_parts(path: Path, parts: Mapping[str, Any], types: Mapping[str, type], prefix: str, remedy: str) -> None:
    missing = [prefix + name for name in types if name not in parts]
    if missing:
        raise UsageError(f"{path} is no checkpoint of a training (it lacks {name_some(missing)}); {remedy}")
    for name, kind in types.items():
        if not isinstance(parts[name], (float, int) if kind is float else kind):
            raise UsageError(f"{path} is damaged ({prefix}{name} is a {type(parts[name]).__name__}); {remedy}")


@contextmanager
def must_fit(path: Path, what: str, remedy: str = REPEAT) -> Iterator[None]:
    """What `load_state_dict` says of a state that is not of this network or optimizer, as one line."""
    try:
        yield
    except (RuntimeError, KeyError, ValueError, TypeError, AttributeError, IndexError) as error:
        reason = printable(" ".join(str(error).split()), 200)
        raise UsageError(f"{path}: {what} in it do not fit this run ({reason}); {remedy}") from error


def write_checkpoint(path: Path, checkpoint: dict[str, Any]) -> None:
    """Save atomically. UsageError when it cannot be written, or when a plugin's state could not be read back."""
    check_plain("checkpoint", checkpoint)
    make_folder(path.parent)
    # In memory first: torch's writer turns what a full disk says into an error of its own.
    data = io.BytesIO()
    torch.save(checkpoint, data)
    atomic_write(path, lambda file: file.write(data.getbuffer()))


def read_checkpoint(path: Path, remedy: str = REPEAT, parts: Collection[str] = ()) -> dict[str, Any]:
    """Load in safe mode. UsageError in one line when it is missing or damaged, or lacks one of `parts`."""
    found = _load(path, remedy)
    if not isinstance(found, dict):
        raise UsageError(f"{path} is damaged (no mapping in it, but a {type(found).__name__}); {remedy}. Labels are intact")
    missing = [name for name in parts if name not in found]
    if missing:
        raise UsageError(f"{path} is damaged (it lacks {name_some(missing)}); {remedy}. Labels are intact")
    return found


def _load(path: Path, remedy: str) -> Any:
    def damaged(error: Exception) -> str:
        # Not torch's words: they are long, and advise to load the file in a way that executes what is in it.
        return f"{path} is damaged ({type(error).__name__} when read); {remedy}. Labels are intact"

    return _load_safely(path, f"{path}: no such checkpoint", damaged)


def _load_safely(path: Path, missing: str, damaged: Callable[[Exception], str]) -> Any:
    """What a file of torch's, or of safetensors', holds, without running code of it. UsageError in the words given."""
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UsageError(missing) from None
    except Exception as error:  # whatever a damaged or foreign file provokes
        raise UsageError(damaged(error)) from error


def read_weights(path: Path, who: str) -> dict[str, torch.Tensor]:
    """The state dict of a network in a file of any origin: `.safetensors`, or torch's, read in safe mode.

    A checkpoint that holds one as `ema_model` (USB's; preferred), `model`, `state_dict` or `backbone` (a run's own
    `pretrain/pretrained.pth`) will do; the prefix `module.` is dropped.

    Raises:
        UsageError: missing, damaged, python objects in it, or no state dict; begins with `who`.
    """

    def damaged(error: Exception) -> str:
        reason = f"{type(error).__name__}; damaged, or it holds python objects"
        return f"{who}: {path}: cannot be read in torch's safe mode ({reason}); save a state dict with torch.save"

    state = _load_safely(path, f"{who}: {path}: no such file", damaged)
    if isinstance(state, dict):
        state = next((state[name] for name in ("ema_model", "model", "state_dict", "backbone") if isinstance(state.get(name), dict)), state)
    if not isinstance(state, dict) or not state or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise UsageError(f"{who}: {path}: holds no state dict of a network")
    return {name.removeprefix("module."): value for name, value in state.items()}


def check_plain(where: str, value: Any) -> None:
    """UsageError when something is not a tensor, number, string or container of such: safe loading would refuse it, at resume."""
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, (str, int)):
                raise UsageError(f"{where}: key {key!r} is a {type(key).__name__}; must be a string or an integer")
            check_plain(f"{where}.{key}", item)
    elif isinstance(value, (list, tuple, set)):
        for number, item in enumerate(value):
            check_plain(f"{where}[{number}]", item)
    elif value is not None and type(value) not in (bool, int, float, str) and not isinstance(value, (torch.Tensor, torch.Size)):
        raise UsageError(
            f"{where} is a {type(value).__module__}.{type(value).__name__}; state must be tensors, numbers, strings and containers of them"
        )
