"""A network that lacks what the algorithm calls: found before a run where the algorithm says what it needs, and named in any case."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch

from usb_active.config.settings import RunConfig
from usb_active.contracts.algorithm import declared
from usb_active.errors import UsageError, name_some, printable

# What a network gives by USB's calling convention. An algorithm may do with less.
OUTPUTS = ("logits", "feat")


def check_network(config: RunConfig, cls: type, net: torch.nn.Module) -> None:
    """UsageError where the network has not what algorithm `cls`, or the pretrainer, declares in `needs_network`."""
    missing = _missing(net, declared(cls, "needs_network"))
    if missing:
        raise _lacking(config, missing)
    pretrain = config.active.pretrain
    missing = "" if pretrain is None else _missing(net, pretrain.cls.needs_network)
    if missing:
        raise _lacking(config, missing, f"pretrainer '{pretrain.name}'", "pretrain")


def _missing(net: torch.nn.Module, names: Sequence[str]) -> str:
    """Those that the network lacks, for a message; "" for none."""
    arguments = inspect.signature(net.forward).parameters
    missing = [name for name in names if not hasattr(net, name) and name not in arguments]
    return name_some(f"'{name}'" for name in missing) if missing else ""


def check_outputs(config: RunConfig, fields: frozenset[str], out: dict[str, Any]) -> None:
    """UsageError where an algorithm whose steps have these fields of a TrainBatch works with features, and the network gives none."""
    if "feats" in fields and "feat" not in out:
        raise _lacking(config, "'feat' in what it gives")


@contextmanager
def network_named(config: RunConfig, model: torch.nn.Module | None = None) -> Iterator[None]:
    """What an algorithm does not find in its network (attribute, argument of `forward`, output), as a UsageError that names all three.

    What the network's own code does not find in itself is its fault alone, and is raised as it is.

    Args:
        model: the network, if it is known; None while it is made: any module then counts.
    """
    try:
        yield
    except AttributeError as error:
        module = error.obj
        if error.name is None or not _is_of(module, model) or _is_its_own(_asking(error), module):
            raise
        raise _lacking(config, f"'{error.name}'") from error
    except TypeError as error:
        argument = _unexpected_argument(error, model)
        if argument is None:
            raise
        raise _lacking(config, f"an argument {argument} of forward") from error
    except KeyError as error:
        # In code of the network's own it is something else.
        if model is None or error.args[0] not in OUTPUTS or isinstance(_frames(error)[-1].f_locals.get("self"), torch.nn.Module):
            raise
        raise _lacking(config, f"'{error.args[0]}' in what it gives") from error


def _lacking(config: RunConfig, what: str, caller: str = "", key: str = "algorithm") -> UsageError:
    caller = caller or f"algorithm '{config.usb['algorithm']}'"
    reason = f"'{config.net.name}' has no {printable(what)}, which {caller} calls"
    return UsageError(f"{config.source}: net: {reason}; choose another net or {key}")


def _is_of(module: Any, model: torch.nn.Module | None) -> bool:
    return isinstance(module, torch.nn.Module) and (model is None or any(one is module for one in model.modules()))


def _frames(error: BaseException) -> list[FrameType]:
    frames, traceback = [], error.__traceback__
    while traceback is not None:
        frames.append(traceback.tb_frame)
        traceback = traceback.tb_next
    return frames


def _asking(error: AttributeError) -> FrameType:
    """Where the attribute was asked for; torch's modules answer in a method of their own."""
    return next(frame for frame in reversed(_frames(error)) if frame.f_code.co_name != "__getattr__")


def _is_its_own(frame: FrameType, module: torch.nn.Module) -> bool:
    """Whether the code is a method of the module, or of one that holds it; USB's wrappers of networks are a part of the algorithm."""
    owner = frame.f_locals.get("self")
    if not isinstance(owner, torch.nn.Module) or type(owner).__module__.startswith("semilearn."):
        return False
    return owner is module or any(child is module for child in vars(owner).get("_modules", {}).values())


def _unexpected_argument(error: TypeError, model: torch.nn.Module | None) -> str | None:
    """The argument that a network's `forward` was called with and does not take."""
    frame = _frames(error)[-1]
    module: Any = frame.f_locals.get("self")
    # torch hands all arguments on, in a method of its own.
    if not _is_of(module, model) or not frame.f_code.co_filename.startswith(inspect.getfile(torch.nn.Module)):
        return None
    _, found, argument = str(error).partition(f"{type(module).forward.__qualname__}() got an unexpected keyword argument ")
    return argument.partition(".")[0] if found else None
