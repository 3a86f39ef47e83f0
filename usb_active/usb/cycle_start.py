"""What a cycle's training begins with: fresh weights, and the schedule of its learning rate."""

from __future__ import annotations

from typing import Any

import torch


def load_into(existing: torch.nn.Module, fresh: torch.nn.Module) -> torch.nn.Module:
    """Fresh values in the modules that exist, so that device, wrappers and hooks on them survive."""
    state = fresh.state_dict()
    prefixed = all(name.startswith("module.") for name in existing.state_dict()) and not all(n.startswith("module.") for n in state)
    existing.load_state_dict({f"module.{name}": value for name, value in state.items()} if prefixed else state)
    for parameter in existing.parameters():
        parameter.grad = None
    return existing


def constant_after_warmup(optimizer: torch.optim.Optimizer, warmup: int) -> Any:
    """A rate that rises to the optimizer's own over so many steps, and stays there."""
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, step / warmup) if warmup else 1.0)
