"""Checkpoints: written whole or not at all, read in torch's safe mode."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import torch

from usb_active.errors import UsageError
from usb_active.run_dir import atomic_write, make_folder


def write_checkpoint(path: Path, checkpoint: dict[str, Any]) -> None:
    """Save atomically. UsageError when it cannot be written, or when a plugin's state could not be read back."""
    check_plain("checkpoint", checkpoint)
    make_folder(path.parent)
    # In memory first: torch's writer turns what a full disk says into an error of its own.
    data = io.BytesIO()
    torch.save(checkpoint, data)
    atomic_write(path, lambda file: file.write(data.getbuffer()))


def read_checkpoint(path: Path, remedy: str = "remove it to repeat this cycle's training") -> dict[str, Any]:
    """Load in safe mode. UsageError in one line when it is missing or damaged."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UsageError(f"{path}: no such checkpoint") from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, pickle.UnpicklingError) as error:
        reason = str(error).partition("\n")[0]
        raise UsageError(f"{path} is damaged ({reason}); {remedy}. Labels are intact") from None


def read_weights(path: Path, who: str) -> dict[str, torch.Tensor]:
    """The state dict of a network in somebody's file: `.safetensors`, or torch's, read in safe mode.

    A checkpoint that holds one as `ema_model` (USB's; preferred), `model`, `state_dict` or `backbone` (a run's own
    `pretrain/pretrained.pth`) will do; the prefix `module.` is dropped.

    Raises:
        UsageError: missing, damaged, python objects in it, or no state dict; begins with `who`.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UsageError(f"{who}: {path}: no such file") from None
    except Exception as error:  # whatever a foreign file provokes
        reason = f"{type(error).__name__}; damaged, or it holds python objects"
        raise UsageError(f"{who}: {path}: cannot be read in torch's safe mode ({reason}); save a state dict with torch.save") from error
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
