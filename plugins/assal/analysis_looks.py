"""What the analysis of an autoencoder looks at, at the end of a training: passes of the network over the pool and over a few images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from usb_active.plugins.assal import analysis_functional as functional
from usb_active.plugins.assal.algorithm import SAMPLER
from usb_active.plugins.assal.analysis_functional import CodeSpread, Shown

from usb_active import PoolView, UsageError
from usb_active.pool.inference import evaluating

# Images that traversals begin with.
STARTS = 4
_POOLS = ("labeled", "unlabeled")
_NONE = np.zeros(0, dtype=np.int64)


@dataclass(frozen=True)
class Coded:
    """A few images as the network sees them, and their codes.

    Attributes:
        idx: (R,) dataset indices.
        views: (R, c, H, W).
        mu: (R, d).
    """

    idx: NDArray
    views: NDArray
    mu: NDArray


def look(view: PoolView, config: Any, before: Shown | None) -> Shown:
    """What to keep of this moment; draws from the view's generator alone.

    Args:
        view: the pool at the end of a training.
        config: the analysis' keys.
        before: what was kept of an earlier cycle, whose images are shown again.
    """
    sampler = sampler_of(view)
    with evaluating(_unwrapped(view.live_model)) as net:
        spread, logits = _over_pool(view, net, sampler)
        kept: dict[str, Any] = {"cycle": view.cycle, "labels": len(view.labeled), "variance": spread.variance}
        kept |= _scores(view, logits) | _pictures(view, net, config, before, spread)
    return Shown(**kept)


def sampler_of(view: PoolView) -> nn.Module | None:
    """What the algorithm has registered as its sampler; None where it has none."""
    try:
        return view.registered(f"algorithm/{SAMPLER}").module
    except UsageError:  # nothing is registered under this name
        return None


@torch.no_grad()
def _over_pool(view: PoolView, net: nn.Module, sampler: nn.Module | None) -> tuple[CodeSpread, NDArray | None]:
    """How μ varies over the pool, and (N,) logits of the sampler."""
    spread: CodeSpread | None = None
    logits = None if sampler is None else np.empty(len(view), dtype=np.float32)
    for batch in view.loader(np.arange(len(view))):
        mu = _encoded(view, net, batch)
        if sampler is not None:
            with evaluating(sampler):
                logits[batch["idx"].numpy()] = sampler(mu).float().cpu().numpy()
        spread = spread or CodeSpread(mu.shape[1])
        spread.add(mu.cpu().numpy())
    return spread, logits


def _encoded(view: PoolView, net: nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    return net.encode(batch["x"][0].to(view.device))[0].float()


def _scores(view: PoolView, logits: NDArray | None) -> dict[str, NDArray]:
    found: dict[str, NDArray] = {"edges": np.linspace(0, 1, functional.BINS + 1)}
    for name in _POOLS:
        values = np.zeros(0, dtype=np.float32) if logits is None else logits[getattr(view, name)]
        found |= {f"{name}_logits": values, f"{name}_counts": functional.score_histogram(values)}
    return found


@torch.no_grad()
def _pictures(view: PoolView, net: nn.Module, config: Any, before: Shown | None, spread: CodeSpread) -> dict[str, NDArray]:
    pixels = _pixels_of(view)

    def decoded(codes: NDArray) -> NDArray[np.uint8]:
        flat = torch.from_numpy(codes.reshape(-1, codes.shape[-1])).to(view.device)
        images = pixels(net.decode(flat).float().cpu().numpy())
        return images.reshape(*codes.shape[:-1], *images.shape[1:])

    found: dict[str, NDArray] = {}
    few: list[Coded] = []
    for name in _POOLS:
        earlier = _NONE if before is None else getattr(before, f"{name}_idx")
        images = _coded(view, net, functional.kept_first(getattr(view, name), earlier, config.images, view.rng))
        found |= {f"{name}_idx": images.idx, f"{name}_images": pixels(images.views), f"{name}_reconstructions": decoded(images.mu)}
        few.insert(0, images)
    found["samples"] = decoded(view.rng.standard_normal((config.samples, len(spread.mean))).astype(np.float32))
    # Unlabelled ones, as far as there are any.
    starts = np.concatenate([images.mu for images in few])[:STARTS]
    found["starts"] = np.stack([pixels(np.concatenate([images.views for images in few])[:STARTS]), decoded(starts)], axis=1)
    directions = functional.widest_directions(spread.variance)
    values = [functional.traversal_values(spread.mean[i], spread.variance[i], config.steps) for i in directions]
    codes = [functional.traversal_codes(starts, i, at) for i, at in zip(directions.tolist(), values, strict=True)]
    return found | {"directions": directions, "values": np.stack(values), "traversals": decoded(np.stack(codes))}


def _coded(view: PoolView, net: nn.Module, idx: NDArray) -> Coded:
    # An empty pool has images of the same shape, none of them.
    batches = list(view.loader(idx if len(idx) else np.arange(1)))
    views = np.concatenate([batch["x"][0].numpy() for batch in batches])[: len(idx)]
    mu = np.concatenate([_encoded(view, net, batch).cpu().numpy() for batch in batches])[: len(idx)]
    return Coded(idx, views, mu)


def _pixels_of(view: PoolView) -> Callable[[NDArray], NDArray[np.uint8]]:
    """`to_pixels` with the data set's normalisation; one that has none gives views from 0 to 1."""
    mean, std = getattr(view.dataset, "mean", (0.0,)), getattr(view.dataset, "std", (1.0,))
    return lambda views: functional.to_pixels(views, mean, std)


def _unwrapped(model: nn.Module) -> nn.Module:
    return model.module if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)) else model
