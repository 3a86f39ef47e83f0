"""Networks and images in torch's channels_last format: the same numbers in another order in memory, which sums in another order."""

from __future__ import annotations

import math

import torch

# What one layer gives for a part of a batch should stay in a CPU's cache. Measured: docs/faster.md.
CACHE_BYTES = 8 * 2**20
# Below so many images the overhead of a call shows.
LEAST_IMAGES = 8


def use_channels_last(network: torch.nn.Module) -> None:
    """Keep the network's weights so, in place; state dicts have the same names and values."""
    network.to(memory_format=torch.channels_last)


def is_channels_last(network: torch.nn.Module) -> bool:
    """Whether any of the network's weights is kept so."""
    return any(
        weight.ndim == 4 and weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()
        for weight in network.parameters()
    )


def as_channels_last(x: torch.Tensor) -> torch.Tensor:
    """Images (B, C, H, W) in that format; any other tensor as it is."""
    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x


def images_at_once(network: torch.nn.Module, image: torch.Tensor, most: int) -> int:
    """How many images, at most `most`, the network should be given at once on a CPU, so that what its largest layer gives fits the cache.

    Args:
        network: in eval mode.
        image: (1, …), any of them.
    """
    sizes = [0]

    def note(module: torch.nn.Module, inputs: object, output: object) -> None:
        if isinstance(output, torch.Tensor):
            sizes.append(output.numel() * output.element_size())

    handles = [module.register_forward_hook(note) for module in network.modules()]
    try:
        network(image)
    finally:
        for handle in handles:
            handle.remove()
    fitting = CACHE_BYTES // max(1, *sizes)
    return min(most, max(LEAST_IMAGES, 2 ** int(math.log2(max(1, fitting)))))
