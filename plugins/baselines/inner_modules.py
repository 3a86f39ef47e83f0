"""Which modules of a network give something that can be learned from, and how wide it is. Found by one forward pass of an empty image.

Dimension letters: B batch, C classes, D channels of a map or length of a vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from usb_active.errors import name_some, nearest, printable, reason_of
from usb_active.pool.inference import evaluating

# As many as the four stages of a ResNet, after which the paper looks.
MOST = 4


@dataclass(frozen=True)
class Inner:
    """What a module gave: its name, as in `named_modules`, and the shape of its one output; None where there is no single tensor."""

    name: str
    shape: tuple[int, ...] | None
    passes_on: bool = False
    logits: bool = False

    @property
    def is_map(self) -> bool:
        return self.shape is not None and len(self.shape) == 4

    @property
    def is_vector(self) -> bool:
        return self.shape is not None and len(self.shape) == 2

    @property
    def size(self) -> tuple[int, ...]:
        """Height and width."""
        return (self.shape or ())[2:]


def inner_modules(net: nn.Module, in_channels: int, img_size: int) -> list[Inner]:
    """The modules of `net`, in the order in which they first gave something.

    Raises:
        ValueError: the network does not take such images.
    """
    if isinstance(net, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        # Where a launcher has wrapped it, steps and `predict` still know its modules by their own names.
        net = net.module
    seen: dict[str, list[object]] = {}
    modules = {name: module for name, module in net.named_modules() if name}

    def recorder(name: str):
        return lambda module, inputs, output: seen.setdefault(name, []).append(output)

    handles = [module.register_forward_hook(recorder(name)) for name, module in modules.items()]
    # Features that a network is trained on in place of images come as vectors.
    shape = (1, in_channels) if img_size == 1 else (1, in_channels, img_size, img_size)
    try:
        with torch.no_grad(), evaluating(net):
            result = net(torch.zeros(shape, device=next(net.parameters()).device))
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise ValueError(f"the network does not take {printable(shape)}: {reason_of(error)}") from error
    finally:
        for handle in handles:
            handle.remove()
    logits = result.get("logits") if isinstance(result, dict) else None
    return [_inner(name, modules[name], calls, logits) for name, calls in seen.items()]


def _inner(name: str, module: nn.Module, calls: list[object], logits: object) -> Inner:
    output = calls[0]
    single = len(calls) == 1 and isinstance(output, torch.Tensor)
    shape = tuple(output.shape) if single else None
    return Inner(name, shape, passes_on=_passes_on(module), logits=output is logits)


def _passes_on(module: nn.Module) -> bool:
    kind = type(module)
    return kind is nn.Identity or kind.__module__ in (nn.MaxPool2d.__module__, nn.Dropout.__module__)


def default_modules(found: Sequence[Inner]) -> list[str]:
    """Where to look if nothing is said: the last map of each resolution, of at most `MOST` resolutions, the coarsest.

    These are the ends of the stages between which a network halves the image: `layer1` … `layer4` of a ResNet, as in the paper. Outputs
    of poolings and dropout do not count, nor what is inside a module whose own map has another size (it belongs to the next stage) or
    that gives tokens. Where there are no two resolutions, as in transformers and networks on vectors, it is the last vector before the
    logits.

    Raises:
        ValueError: there is neither.
    """
    shapes = {one.name: one for one in found}
    last: dict[tuple[int, ...], str] = {}
    for one in found:
        outer = [other for name, other in shapes.items() if one.name.startswith(f"{name}.") and other.shape is not None]
        if one.is_map and not one.passes_on and all(other.is_vector or other.is_map and other.size == one.size for other in outer):
            last.pop(one.size, None)
            last[one.size] = one.name
    if len(last) > 1:
        return list(last.values())[-MOST:]
    vectors = [one.name for one in found if one.is_vector and not one.logits]
    if not (vectors or last):
        raise ValueError("no inner module of the network gives maps (B, D, height, width) or vectors (B, D) that could be looked at")
    return vectors[-1:] or list(last.values())


def dims_of(found: Sequence[Inner], names: Sequence[str]) -> dict[str, int]:
    """Name → D of these modules, in this order.

    Raises:
        ValueError: one that the network does not have, does not call once, or that gives neither a map nor vectors (says what would do).
    """
    shapes = {one.name: one for one in found}
    usable = [one.name for one in found if (one.is_map or one.is_vector) and not one.logits]
    valid = f"one that gives maps or vectors, such as {name_some(default_modules(found))}"
    for name in names:
        if name not in shapes:
            raise ValueError(f"the network calls no module '{printable(name)}'{nearest(name, usable)}; valid: {valid}")
        if name not in usable:
            raise ValueError(f"module '{name}' {_why_not(shapes[name])}; valid: {valid}")
    return {name: _dim(shapes[name]) for name in names}


def _dim(inner: Inner) -> int:
    assert inner.shape is not None, "only what gives a tensor is usable"
    return inner.shape[1]


def _why_not(inner: Inner) -> str:
    if inner.logits:
        return "gives the logits, which are no inner output"
    if inner.shape is None:
        return "is called several times in a forward pass, or gives no single tensor"
    return f"gives a tensor of shape (B, {', '.join(map(str, inner.shape[1:]))}), neither maps (B, D, height, width) nor vectors (B, D)"
