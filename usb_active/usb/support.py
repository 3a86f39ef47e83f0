"""Which of USB's algorithms cannot be driven in cycles, and why: said in one line before anything runs."""

from __future__ import annotations

import torch
from semilearn.core import AlgorithmBase

from usb_active.errors import UsageError

# These move tensors with `.cuda()` in their own code.
CUDA_ONLY = frozenset({"comatch", "crmatch", "simmatch", "vat"})


def check_supported(name: str, cls: type, device: torch.device) -> None:
    """UsageError when algorithm `name` (class `cls`, without the mixin) does what the core must do, or wants a GPU that is not there."""
    own = [method for method in ("set_dataset", "set_data_loader") if getattr(cls, method) is not getattr(AlgorithmBase, method)]
    if own:
        raise UsageError(f"algorithm '{name}' cannot run in active cycles: it makes data streams of its own ({', '.join(own)})")
    if hasattr(cls, "warmup"):
        raise UsageError(f"algorithm '{name}' cannot run in active cycles: it wants its warmup() called before any label exists")
    if name in CUDA_ONLY and device.type != "cuda":
        raise UsageError(f"algorithm '{name}' needs a CUDA device: its own code says .cuda()")
