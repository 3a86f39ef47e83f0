"""USB on CPU and on CUDA, with USB unmodified: a mixin placed before any of USB's algorithm classes."""

from __future__ import annotations

import contextlib
import os
import time
import warnings
from functools import cached_property, partial
from inspect import signature
from typing import TYPE_CHECKING, Any

import torch
from semilearn.core.hooks import Hook

from usb_active.environment.bfloat16 import native_bfloat16

if TYPE_CHECKING:
    from usb_active.config.settings import ActiveConfig, RunConfig


def pick_device(gpu: int | None = None) -> torch.device:
    """CUDA when there is one (`gpu`: which), else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device() if gpu is None else int(gpu))
    return torch.device("cpu")


def configure_torch(active: ActiveConfig) -> None:
    """The block's `threads` and `deterministic`, for this process."""
    if active.threads is not None:
        torch.set_num_threads(active.threads)
    if active.deterministic:
        # Read by cuBLAS when it starts, at the first product on a GPU.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False


def device_remarks(config: RunConfig) -> list[str]:
    """What is slow on the device that there is, before a run: `amp`, where this CPU is known to imitate bfloat16; `views_on: device`."""
    lines = []
    if pick_device(config.usb["gpu"]).type == "cpu":
        if config.usb["amp"] and native_bfloat16() is False:
            lines.append("amp: true computes in bfloat16 on a CPU, and this one only imitates it: slower than amp: false")
        if config.active.views_on == "device":
            lines.append("active.views_on: device makes views for a GPU, and there is none: slower than active.views_on: cpu")
    return [f"{config.source}: {line}" for line in lines]


class TimerHook(Hook):
    """USB's timer without CUDA events: learning rate and the seconds between two steps.

    It does not set `start_run`, at which USB's ParamUpdateHook would synchronise the GPU at every step.
    """

    def before_run(self, algorithm: Any) -> None:
        self._end_of_step = time.perf_counter()

    def before_train_step(self, algorithm: Any) -> None:
        self._prefetch = time.perf_counter() - self._end_of_step

    def after_train_step(self, algorithm: Any) -> None:
        algorithm.log_dict["lr"] = algorithm.optimizer.param_groups[-1]["lr"]
        algorithm.log_dict["train/prefetch_time"] = self._prefetch
        self._end_of_step = time.perf_counter()


class DeviceMixin:
    """Moves batches to the algorithm's device, whatever it is, and keeps USB's mixed precision working on it."""

    def __init__(self, args: Any, *positional: Any, **keywords: Any):
        self.device = pick_device(getattr(args, "gpu", None))
        with warnings.catch_warnings():
            # USB builds a GradScaler under its old name, for CUDA, which is replaced below.
            warnings.simplefilter("ignore")
            super().__init__(args, *positional, **keywords)
        # USB divides by the number of GPUs in three hooks.
        self.ngpus_per_node = max(1, self.ngpus_per_node)
        self.loss_scaler = torch.amp.GradScaler(self.device.type, enabled=self.use_amp and self.device.type == "cuda")
        # bfloat16 on a CPU: float16 is not implemented for all of its operators.
        precision = {"dtype": torch.bfloat16} if self.device.type == "cpu" else {}
        self.amp_cm = partial(torch.autocast, self.device.type, **precision) if self.use_amp else contextlib.nullcontext

    def place_networks(self) -> None:
        """A model that a launcher moved stays where it is; one that was not moved goes to the device."""
        if self.device.type != "cpu":
            self.model.to(self.device)
            self.ema_model.to(self.device)

    def set_hooks(self) -> None:
        super().set_hooks()
        replace_hook(self, TimerHook(), "TimerHook", "LOW")

    @cached_property
    def step_arguments(self) -> tuple[str, ...]:
        """What USB's train_step of this algorithm takes; looked up once, USB does it at every step."""
        owner = next(c for c in type(self).__mro__ if "train_step" in vars(c) and not vars(c).get("wraps_train_step", False))
        return tuple(name for name in signature(owner.train_step).parameters if name != "self")

    def process_batch(self, input_args: list[str] | None = None, **batch: Any) -> dict[str, Any]:
        """The arguments of train_step, on the device."""
        names = self.step_arguments if input_args is None else input_args
        return {name: self.to_device(batch[name]) for name in names if batch.get(name) is not None}

    def to_device(self, value: Any) -> Any:
        """Tensors and dicts of tensors to the algorithm's device."""
        if isinstance(value, dict):
            return {key: self.to_device(item) for key, item in value.items()}
        return value.to(self.device, non_blocking=True)


def replace_hook(algorithm: Any, hook: Hook, name: str, priority: str) -> None:
    """Register a hook in another's place; USB's `register_hook` alone would keep the old one's rank or the old one."""
    remove_hook(algorithm, name)
    algorithm.register_hook(hook, name, priority)


def remove_hook(algorithm: Any, name: str) -> None:
    """Forget a hook: from the list as well, from which USB rebuilds its dict at every registration."""
    algorithm._hooks = [hook for hook in algorithm._hooks if hook.name != name]
    algorithm.hooks_dict = type(algorithm.hooks_dict)((hook.name, hook) for hook in algorithm._hooks)
