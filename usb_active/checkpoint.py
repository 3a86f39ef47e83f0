"""Checkpoints: written whole or not at all, read in torch's safe mode."""

from __future__ import annotations

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
    atomic_write(path, lambda file: torch.save(checkpoint, file))


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Load in safe mode. UsageError in one line when it is missing or damaged."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UsageError(f"{path}: no such checkpoint") from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, pickle.UnpicklingError) as error:
        reason = str(error).partition("\n")[0]
        raise UsageError(f"{path} is damaged ({reason}); remove it to repeat this cycle's training. Labels are intact") from None


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
