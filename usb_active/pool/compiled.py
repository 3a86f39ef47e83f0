"""Networks whose forward pass is compiled by torch: in place, and in force only where the core asks for it.

Whoever else calls the network (a plugin, a hook, BatchNorm's recomputation) gets it as it was written, in any shape. Each shape is
compiled by itself: what is computed for one must not depend on which came before it, or a resumed run would end otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import torch

from usb_active.environment.compiling import said_where_long
from usb_active.errors import UsageError, reason_of

# Shapes and modes that are compiled of one function before torch goes on without: all that a run has.
MOST_SHAPES = 64

_compiled: WeakKeyDictionary[torch.nn.Module, Callable[..., Any]] = WeakKeyDictionary()
_called: WeakSet[torch.nn.Module] = WeakSet()


def compile_forward(network: torch.nn.Module) -> None:
    """Have the network's forward pass compiled where `in_force` asks for it; again is harmless. Names of weights stay as they are."""
    if network in _compiled:
        return
    limits = torch._dynamo.config
    for name in ("recompile_limit", "cache_size_limit"):  # the second: torch 2.6
        if hasattr(limits, name):
            setattr(limits, name, max(MOST_SHAPES, getattr(limits, name)))
    network.compile(dynamic=False)
    _compiled[network], network._compiled_call_impl = network._compiled_call_impl, None


@contextmanager
def in_force(network: torch.nn.Module, wanted: bool = True) -> Iterator[None]:
    """Inside, calls of a network that `compile_forward` was told of are compiled ones, if `wanted`; those of any other are as they are."""
    call = _compiled.get(network) if wanted else None
    if call is None:
        yield
        return
    first = network not in _called
    _called.add(network)
    network._compiled_call_impl = call
    try:
        with said_where_long("the network, which may take minutes") if first else nullcontext():
            yield
    finally:
        network._compiled_call_impl = None


@cache
def check_compiler(device: str) -> None:
    """UsageError where torch cannot compile for this device, tried on a line of arithmetic."""
    try:
        with said_where_long("a line of arithmetic, to see whether this machine can"):
            torch.compile(lambda x: 2 * x + 1, dynamic=False)(torch.ones(8, device=device))
    except Exception as error:  # torch, its backends and the compilers that they call have no error in common
        needed = "a C++ compiler (g++)" if device == "cpu" else "Triton and a C compiler (gcc)"
        raise UsageError(f"active.compile: torch cannot compile here, for which it needs {needed}: {reason_of(error)}") from error
