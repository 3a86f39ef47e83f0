"""Which of USB's algorithms cannot be driven in cycles, and why: said in one line before anything runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from semilearn.core import AlgorithmBase

from usb_active.config.settings import RunConfig
from usb_active.config.usb_keys import algorithm_class
from usb_active.contracts.analysis import check_intervals, is_analysis
from usb_active.contracts.plugin import overrides
from usb_active.errors import UsageError, reason_of
from usb_active.usb.device import pick_device
from usb_active.usb.missing_parts import check_network
from usb_active.usb.seams import PRIOR_HOOKS, batch_fields, check_fields, check_prior_stages, mixes, wanted_fields
from usb_active.usb.unlabeled import check_views, view_names

# These move tensors with `.cuda()` in their own code.
CUDA_ONLY = frozenset({"comatch", "crmatch", "simmatch", "vat"})


# USB's algorithms that lack a hook through which a prior enters, with those they have; others are asked when they are built.
STAGES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("fullysupervised", "supervised", "meanteacher", "mixmatch", "pimodel", "remixmatch", "vat"), ()),
    **dict.fromkeys(("comatch", "crmatch", "simmatch"), ("MaskingHook",)),
}


def check_training(parts: dict[str, Any]) -> None:
    """UsageError when the algorithm cannot do what the run's plugins ask of it.

    Args:
        parts: those of `setup.Components`, without the run directory.
    """
    config = parts["config"]
    name = config.usb["algorithm"]
    cls = algorithm_class(name)
    check_supported(name, cls, pick_device(config.usb["gpu"]))
    rotated = [view for view in view_names(name, cls) if view.endswith("_rot")]
    if rotated and config.active.train_on == "features":
        raise UsageError(f"{config.source}: active.train_on: features cannot be rotated, as '{name}' does with images")
    for role, plugin in parts["plugins"].items():
        check_fields(f"active.{role}: '{plugin.name}'", wanted_fields(plugin), name, batch_fields(name, cls), mixes(cls))
    # An algorithm with a plan of its own says only then how long it trains.
    for role, plugin in parts["plugins"].items():
        if is_analysis(role) and not overrides(cls, "plan"):
            check_intervals(config.source, plugin, config.usb["num_train_iter"], role)
    if "prior" in parts["plugins"]:
        check_prior_stages(name, STAGES.get(name, PRIOR_HOOKS))


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


def build_network(build: Callable[[], torch.nn.Module], config: RunConfig) -> torch.nn.Module:
    """What `build` makes. UsageError where the network's keys make none: sizes that torch refuses, or more weights than there is memory;
    or where it lacks what the algorithm or the pretrainer declares to need."""
    try:
        net = build()
    except UsageError:
        raise
    except (RuntimeError, ValueError, TypeError, OverflowError, MemoryError, ArithmeticError) as error:
        raise UsageError(f"{config.source}: net: '{config.net.name}' cannot be built: {reason_of(error)}; look at its keys") from error
    check_network(config, algorithm_class(config.usb["algorithm"]), net)
    return net
