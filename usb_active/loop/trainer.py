"""What the loop asks of the thing that trains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from usb_active.pool.split import Split
from usb_active.pool.view import Registered

if TYPE_CHECKING:
    import torch

    from usb_active.loop.live_scores import LiveScores


class Trainer(Protocol):
    """`usb/algorithm.py` is one."""

    base_name: str
    device: torch.device
    model: torch.nn.Module
    ema_model: torch.nn.Module
    it: int
    num_train_iter: int
    evaluation: dict[str, float]
    best_test_score: float | None
    live_scores: LiveScores | None
    elapsed: float
    cpu_elapsed: float | None

    def prepare(self, cycle: int, split: Split) -> None: ...
    def load_model(self, load_path: str) -> Any: ...
    def fit(self) -> None: ...
    def score(self, model: torch.nn.Module, split: str) -> dict[str, float]: ...
    def registered(self) -> Mapping[str, Mapping[str, Registered]]: ...
    def log_record(self, record: Mapping[str, Any]) -> None: ...
