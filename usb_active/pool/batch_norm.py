"""BatchNorm's running statistics of a network, computed from given images: those of an average of weights belong to other weights."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from usb_active.pool.inference import evaluating


def tracking_layers(network: torch.nn.Module) -> dict[str, _BatchNorm]:
    """The BatchNorm layers that keep running statistics, by name."""
    layers = {name: layer for name, layer in network.named_modules() if isinstance(layer, _BatchNorm)}
    return {name: layer for name, layer in layers.items() if layer.track_running_stats and layer.running_mean is not None}


def trained_layers(network: torch.nn.Module) -> tuple[str, ...]:
    """Names of those of them that follow the training; a layer that is kept in eval mode keeps its statistics."""
    return tuple(name for name, layer in tracking_layers(network).items() if layer.training)


@torch.no_grad()
def recompute(network: torch.nn.Module, names: Iterable[str], batches: Iterable[torch.Tensor]) -> None:
    """Replace the running statistics of these layers by those of the batches (B, …), each of at least two images.

    Every batch counts by its size. All other layers are in eval mode, and so is the network afterwards as it was before; nothing is
    drawn at random. The variance is the mean of that within the batches, as in training.
    """
    found = tracking_layers(network)
    layers = [found[name] for name in names]
    momenta = [layer.momentum for layer in layers]
    with evaluating(network):
        try:
            for layer in layers:
                layer.reset_running_stats()
                layer.train()
            seen = 0
            for x in batches:
                seen += len(x)
                for layer in layers:
                    layer.momentum = len(x) / seen
                network(x)
        finally:
            for layer, momentum in zip(layers, momenta, strict=True):
                layer.momentum = momentum
