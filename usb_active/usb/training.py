"""What the owners of a training's parts ask of USB's algorithm, which holds it."""

from __future__ import annotations

from typing import Any, Protocol

import torch

from usb_active.loop.session import Session


class Training(Protocol):
    """What USB's algorithm holds of a training; `usb/algorithm.py` has it.

    Checkpoints also read its tensors, its numbers and those of its hooks (see `state`).
    """

    session: Session
    cycle: int
    num_train_iter: int
    device: torch.device
    model: torch.nn.Module
    ema_model: torch.nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: Any
    loss_scaler: torch.amp.GradScaler
    it: int
    best_it: int
    best_eval_acc: float
