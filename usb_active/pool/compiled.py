"""Networks whose forward pass is compiled by torch: in place, and in force only where the core asks for it.

Whoever else calls the network (a plugin, a hook, BatchNorm's recomputation) gets it as it was written, in any shape. Each shape is
compiled by itself: what is computed for one must not depend on which came before it, or a resumed run would end otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from usb_active.environment.compiling import said_where_long
from usb_active.errors import UsageError, reason_of

# Shapes and modes of one function, and those of all networks of a process together, after which torch compiles no more.
MOST_SHAPES = 64
MOST_IN_A_PROCESS = 16 * MOST_SHAPES
# In the network's own __dict__, so that both can go together.
_NAME = "_usb_active_compiled"
_OFTEN = "it is done again in every process, and for every shape of a batch"


@dataclass(eq=False)
class _Compiled:
    """A network's compiled call. Copies and pickles of the network have None in its place."""

    call: Callable[..., Any] | None
    used: bool = False

    def __reduce__(self) -> tuple[Any, tuple]:
        return type(None), ()


def compile_forward(network: torch.nn.Module) -> None:
    """Have the network's forward pass compiled where `in_force` asks for it; again is harmless. Names of weights stay as they are."""
    if is_compiled(network):
        return
    before = network._compiled_call_impl
    network.compile(dynamic=False)
    setattr(network, _NAME, _Compiled(network._compiled_call_impl))
    network._compiled_call_impl = before


def is_compiled(network: torch.nn.Module) -> bool:
    """Whether `compile_forward` was told of this network: of this one, not of one that it is a copy of."""
    return vars(network).get(_NAME) is not None


@contextmanager
def in_force(network: torch.nn.Module, wanted: bool = True) -> Iterator[None]:
    """Inside, calls of a network that `compile_forward` was told of are compiled ones if `wanted`, else as they are written.

    Those of any other are as they are. May be nested: what was in force before is so afterwards.

    Raises:
        UsageError: more shapes than torch should compile. Going on without would end otherwise than a resumed run.
    """
    if not is_compiled(network):
        yield
        return
    compiled: _Compiled = vars(network)[_NAME]
    before, network._compiled_call_impl = network._compiled_call_impl, compiled.call if wanted else None
    try:
        with _compiling(compiled) if wanted else nullcontext():
            yield
    finally:
        network._compiled_call_impl = before


@contextmanager
def _compiling(compiled: _Compiled) -> Iterator[None]:
    """The limits in force, and a line on the screen where the first call takes long."""
    first, compiled.used = not compiled.used, True
    try:
        with _limits(), said_where_long("the network, which may take minutes", _OFTEN) if first else nullcontext():
            yield
    except _limit_errors() as error:
        most = f"the {MOST_SHAPES} shapes and modes of one network, or {MOST_IN_A_PROCESS} of all in a process, that are compiled at most"
        way = "resume the run, or begin one without `compile`"
        raise UsageError(f"active.compile: a batch would need more than {most}; {way}") from error


def _limits() -> AbstractContextManager:
    config = torch._dynamo.config
    names = ("recompile_limit", "accumulated_recompile_limit", "fail_on_recompile_limit_hit")
    if not hasattr(config, names[0]):  # torch 2.6
        names = ("cache_size_limit", "accumulated_cache_size_limit", "fail_on_cache_limit_hit")
    return config.patch(dict(zip(names, (MOST_SHAPES, MOST_IN_A_PROCESS, True), strict=True)))


def _limit_errors() -> tuple[type[Exception], ...]:
    """What torch raises beyond its limits: the name has changed between versions."""
    names = ("FailOnRecompileLimitHit", "RecompileLimitExceeded", "FailOnCacheLimitHit", "CacheLimitExceeded")
    return tuple(getattr(torch._dynamo.exc, name) for name in names if hasattr(torch._dynamo.exc, name))


@cache
def check_compiler(device: str) -> None:
    """UsageError where torch cannot compile for this device, tried on a line of arithmetic."""
    try:
        with said_where_long("a line of arithmetic, to see whether this machine can", "it is done in every process"):
            torch.compile(lambda x: 2 * x + 1, dynamic=False)(torch.ones(8, device=device))
    except Exception as error:  # torch, its backends and the compilers that they call have no error in common
        needed = "a C++ compiler (g++)" if device == "cpu" else "Triton and a C compiler (gcc)"
        raise UsageError(f"active.compile: torch cannot compile here, for which it needs {needed}: {reason_of(error)}") from error
