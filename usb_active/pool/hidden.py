"""Outputs of a network's inner modules, taken by forward hooks.

What is taken is the tensor itself, not a copy: where the network changes it in place afterwards, as `ReLU(inplace=True)` after a batch
norm does, it shows what it became. That is so in training and in `view.predict` alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from usb_active.errors import UsageError


def unwrapped(model: torch.nn.Module) -> torch.nn.Module:
    """The network itself, without a wrapper for several devices."""
    wrappers = (torch.nn.DataParallel, torch.nn.parallel.DistributedDataParallel)
    return model.module if isinstance(model, wrappers) else model


def module_names(model: torch.nn.Module) -> list[str]:
    """The names of all inner modules."""
    return [name for name, _ in unwrapped(model).named_modules() if name]


def modules_named(model: torch.nn.Module, names: Iterable[str], who: str) -> dict[str, torch.nn.Module]:
    """The modules of these names, as `named_modules` calls them. UsageError for one that is not there."""
    modules = dict(unwrapped(model).named_modules())
    for name in names:
        if not name or name not in modules:
            examples = ", ".join([known for known in modules if known][:5])
            raise UsageError(f"{who}: the network has no module '{name}'; it has e.g. {examples}")
    return {name: modules[name] for name in names}


@contextmanager
def outputs_of(modules: dict[str, torch.nn.Module]) -> Iterator[dict[str, list[Any]]]:
    """What each module gives inside the block, call by call."""
    seen: dict[str, list[Any]] = {name: [] for name in modules}

    def recorder(name: str) -> Any:
        return lambda module, inputs, output: seen[name].append(output)

    handles = [module.register_forward_hook(recorder(name)) for name, module in modules.items()]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def only_output(name: str, calls: list[Any], rows: int, who: str) -> torch.Tensor:
    """The (rows, …) tensor that a module gave in one forward pass. UsageError when there is no such single tensor."""
    if len(calls) != 1:
        times = f"calls it {len(calls)} times in a forward pass" if calls else "does not call it in a forward pass"
        raise UsageError(f"{who}: module '{name}': the network {times}, so it has no single output")
    output = calls[0]
    if not isinstance(output, torch.Tensor) or output.ndim == 0 or len(output) != rows:
        shape = f"a tensor of shape {tuple(output.shape)}" if isinstance(output, torch.Tensor) else type(output).__name__
        raise UsageError(f"{who}: module '{name}' gives {shape}, not a tensor with a row for each of the {rows} samples")
    return output
