"""All views of a training batch in one compiled pass, with the bytes that USB's pipeline makes of what is drawn for them.

What is drawn is in `batch_draws`: by default, to the number, what USB draws sample by sample. Which views a row has, and in which order
they draw, is seen by making one row with transforms that only note that they were called. A row that does more with its views than to
return them is made as before.
"""

from __future__ import annotations

import copy
import logging
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from platform import python_version
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from usb_active.images import kernels
from usb_active.randomness import global_generators_kept
from usb_active.usb.batch_draws import Draw, draw_exact, values_of
from usb_active.usb.transforms import MODES, ImageViews
from usb_active.usb.view_draws import reflected
from usb_active.usb.view_trial import agree_with_pillow

logger = logging.getLogger("usb_active")

WEAK, STRONG = kernels.WEAK, kernels.STRONG
KINDS = {"weak": WEAK, "strong": STRONG}


@dataclass(frozen=True)
class Plan:
    """What a row is made of.

    Attributes:
        kinds: WEAK or STRONG of each view, in the order in which they draw.
        outputs: name in the row → which of these it is. A view that is drawn may be none's.
        names: of the row's entries, in their order.
    """

    kinds: tuple[int, ...]
    outputs: Mapping[str, int]
    names: tuple[str, ...]


class _Noted:
    """What a transform that only notes its call gives in place of a view."""

    def __init__(self, number: int):
        self.number = number


class _NoSamples:
    """A base that has no sample: the row that is made to see a plan needs none."""

    def __init__(self, base: Any):
        self.views, self.task = base.views, base.task

    def load(self, index: int) -> None:
        return None


def plan_of(stream: Any) -> Plan | None:
    """The plan of a stream's rows; None where they are to be made one by one.

    Args:
        stream: of `PoolStream`'s kind, whose views are `ImageViews`.
    """
    kinds: list[int] = []

    def noting(kind: int) -> Callable[[Any], _Noted]:
        def transform(sample: Any) -> _Noted:
            kinds.append(kind)
            return _Noted(len(kinds) - 1)

        return transform

    trial = copy.copy(stream)
    trial.base, trial.transform, trial.strong_transform = _NoSamples(stream.base), noting(WEAK), noting(STRONG)
    if stream.declared is not None:
        if not all(isinstance(view, str) and view in KINDS for view in stream.declared.values()):
            return None
        trial.own_views = {name: noting(KINDS[view]) for name, view in stream.declared.items()}
    try:
        row = trial[0]
    except TypeError:  # it does more with its views than to return them, as ReMixMatch does, which rotates one
        return None
    outputs = {name: value.number for name, value in row.items() if isinstance(value, _Noted)}
    there_is_none = STRONG in kinds and stream.base.views.strong is None
    if there_is_none or set(row) - set(outputs) - {"idx_lb", "idx_ulb", "y_lb"}:
        return None
    return Plan(tuple(kinds), outputs, tuple(row))


def views_of(views: ImageViews, samples: Sequence[Any], plan: Plan, seed: int, draw: Draw) -> torch.Tensor:
    """(V, B, C, S, S) float32 of a batch's samples.

    Args:
        samples: as the data set loads them.
        seed: see `draw_exact`.
        draw: what decides on crops and operations.
    """
    images = _as_array(views, samples)
    if images is None:
        images = [views.as_pixels(picture_of(sample)) for sample in samples]
    shapes = [image.shape[:2] for image in images]
    reflections = {shape: tuple(reflected(side, views.padding) for side in shape) for shape in set(shapes)}
    drawn = draw(seed, plan.kinds, [tuple(map(len, reflections[shape])) for shape in shapes], views)
    codes, values = values_of(drawn, views.img_size)
    kinds = np.array(plan.kinds, np.int64)
    out = np.empty((len(kinds), len(images), views.in_channels, views.img_size, views.img_size), np.float32)

    def fill(some: slice, pixels: NDArray[np.uint8], to: NDArray[np.float32]) -> None:
        of_some = (drawn.places[some], codes[some], values[some], drawn.boxes[some])
        kernels.fill_views(pixels, *reflections[shapes[some.start]], views.img_size, kinds, *of_some, views.levels, to)

    if len(reflections) == 1:
        fill(slice(0, len(images)), np.stack(images) if isinstance(images, list) else images, out)
        return torch.from_numpy(out)
    for number, image in enumerate(images):
        # In a piece of its own: the compiled pass takes what lies in one piece.
        one = np.empty((len(kinds), 1, *out.shape[2:]), np.float32)
        fill(slice(number, number + 1), np.stack([image]), one)
        out[:, number] = one[:, 0]
    return torch.from_numpy(out)


def _as_array(views: ImageViews, samples: Sequence[Any]) -> NDArray[np.uint8] | None:
    """(B, S, S', C) or (B, S', S, C) of samples that are arrays of one shape and the size of a view already; None of others."""
    side, channels = views.img_size, views.in_channels
    shape = np.shape(samples[0]) if len(samples) and isinstance(samples[0], np.ndarray) else ()
    if len(shape) < 2 or min(shape[:2]) != side or shape[2:] != (() if channels == 1 else (3,)):
        return None
    if not all(isinstance(sample, np.ndarray) and sample.dtype == np.uint8 and sample.shape == shape for sample in samples):
        return None
    # As `np.stack`, in half the time; in the order that the compiled pass takes, whatever that of the samples is.
    pixels = np.empty((len(samples), *shape[:2], channels), np.uint8)
    np.concatenate(samples, out=pixels.reshape(-1, *shape[1:]))
    return pixels


def picture_of(sample: Any) -> Any:
    """A sample as USB's rows give it to a view: any array as a picture. Those that the view would take as they are stay arrays."""
    if isinstance(sample, np.ndarray) and not (sample.dtype == np.uint8 and (sample.ndim == 2 or sample.shape[2:] == (3,))):
        return Image.fromarray(sample)
    return sample


@cache
def can_batch() -> bool:
    """Whether batches have the bits that Pillow's operations and the generators of Python, numpy and torch give; tried once."""
    kernels.prepare()
    same = agree_with_pillow() and all(_same_batch(channels) for channels in MODES)
    if agree_with_pillow() and not same:
        logger.warning(
            "views: Python %s, numpy %s or torch %s draws differently from the compiled draws; views are made one by one, which is slower",
            python_version(), np.__version__, torch.__version__,
        )  # fmt: skip
    return same


def _same_batch(channels: int) -> bool:
    """Whether a batch made at once is what USB's RandAugment and the global generators make of it."""
    views, seed = ImageViews(9, 0.75, [0.4] * channels, [0.3] * channels), 2**40 + 77
    shape = (9, 11, 3) if channels == 3 else (9, 11)
    samples = list(np.random.default_rng(0).integers(0, 256, (24, *shape), dtype=np.uint8))
    plan = Plan((WEAK, STRONG), {}, ())
    made = views_of(views, samples, plan, seed, draw_exact)
    with global_generators_kept():
        random.seed(seed)
        np.random.seed(seed & 0xFFFFFFFF)
        torch.manual_seed(seed)
        for number, sample in enumerate(samples):
            if not (torch.equal(made[0, number], views.weak(sample)) and torch.equal(made[1, number], views.strong_by_pillow(sample))):
                return False
    return True
