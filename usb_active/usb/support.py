"""Which of USB's algorithms cannot be driven in cycles, and why: said in one line before anything runs."""

from __future__ import annotations

from typing import Any

import torch
from semilearn.core import AlgorithmBase

from usb_active.analysis import check_intervals, is_analysis
from usb_active.config import RunConfig
from usb_active.errors import UsageError, printable
from usb_active.registry import REGISTRY
from usb_active.usb.device import pick_device
from usb_active.usb.seams import PRIOR_HOOKS, batch_fields, check_fields, check_prior_stages, wanted_fields
from usb_active.usb.unlabeled import check_views

# These move tensors with `.cuda()` in their own code.
CUDA_ONLY = frozenset({"comatch", "crmatch", "simmatch", "vat"})


# USB's algorithms that lack a hook through which a prior enters, with those they have; others are asked when they are built.
STAGES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("fullysupervised", "supervised", "meanteacher", "mixmatch", "pimodel", "remixmatch", "vat"), ()),
    **dict.fromkeys(("comatch", "crmatch", "simmatch"), ("MaskingHook",)),
}


def check_training(parts: dict[str, Any]) -> None:
    """UsageError when the algorithm cannot do what the run's plugins ask of it, or the network cannot be built.

    Args:
        parts: those of `setup.Components`, without the run directory.
    """
    config, dataset = parts["config"], parts["dataset"]
    name = config.usb["algorithm"]
    cls = REGISTRY.get("algorithm", name)
    check_supported(name, cls, pick_device(config.usb["gpu"]))
    for role, plugin in parts["plugins"].items():
        check_fields(f"{role} '{plugin.name}'", wanted_fields(plugin), name, batch_fields(name, cls))
    # An algorithm with a plan of its own says only then how long it trains.
    for role, plugin in parts["plugins"].items():
        if is_analysis(role) and not hasattr(cls, "plan"):
            check_intervals(config.source, plugin, config.usb["num_train_iter"], role)
    if "prior" in parts["plugins"]:
        check_prior_stages(name, STAGES.get(name, PRIOR_HOOKS))
    build_network(parts["network"], config, dataset.num_classes, dataset.img_size, dataset.in_channels)


def check_supported(name: str, cls: type, device: torch.device) -> None:
    """UsageError when algorithm `name` (class `cls`, without the mixin) does what the core must do, or wants a GPU that is not there."""
    own = [method for method in ("set_dataset", "set_data_loader") if getattr(cls, method) is not getattr(AlgorithmBase, method)]
    if own:
        raise UsageError(f"algorithm '{name}' cannot run in active cycles: it makes data streams of its own ({', '.join(own)})")
    if hasattr(cls, "warmup"):
        raise UsageError(f"algorithm '{name}' cannot run in active cycles: it wants its warmup() called before any label exists")
    if name in CUDA_ONLY and device.type != "cuda":
        raise UsageError(f"algorithm '{name}' needs a CUDA device: its own code says .cuda()")
    check_views(name, cls)


def build_network(network: Any, config: RunConfig, *shape: Any) -> torch.nn.Module:
    """The network. UsageError where its keys make none: sizes that torch refuses, or more weights than there is memory."""
    try:
        return network.build(*shape)
    except UsageError:
        raise
    except (RuntimeError, ValueError, TypeError, OverflowError, MemoryError, ArithmeticError) as error:
        raise UsageError(f"{config.source}: net: '{config.net.name}' cannot be built: {reason_of(error)}; look at its keys") from error


def reason_of(error: Exception) -> str:
    """What somebody's code says, on one line."""
    return printable(f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}", 200)
