"""All views of a training batch in one compiled pass, with the draws and the bytes that USB's pipeline has, sample by sample.

The generators of a batch are seeded by its position, so that their streams are known before anything is drawn: `twister` has the same
numbers as Python, numpy and torch. Which views a row has, and in which order they draw, is seen by making one row with transforms
that only note that they were called. A row that does more with its views than to return them is made as before.
"""

from __future__ import annotations

import copy
import logging
import random
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from usb_active.environment.compiling import said_where_long
from usb_active.images import kernels, twister
from usb_active.usb import view_draws
from usb_active.usb.transforms import ImageViews
from usb_active.usb.view_draws import ROTATE, SHEAR_X, SHEAR_Y, TRANSLATE_X, TRANSLATE_Y, as_kernel, reflected
from usb_active.usb.view_trial import agree_with_pillow

logger = logging.getLogger("usb_active")

WEAK, STRONG = kernels.WEAK, kernels.STRONG


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


def plan_of(stream: Any) -> Plan | None:
    """The plan of a stream's rows; None where they are to be made one by one.

    Args:
        stream: of `PoolStream`'s kind.
    """
    if type(stream.base.views) is not ImageViews or stream.base.collate is not None or not len(stream):
        return None
    kinds: list[int] = []

    def noting(kind: int):
        def transform(sample: Any) -> _Noted:
            kinds.append(kind)
            return _Noted(len(kinds) - 1)

        return transform

    trial = copy.copy(stream)
    trial.transform, trial.strong_transform = noting(WEAK), noting(STRONG)
    if stream.declared is not None:
        if not set(stream.declared.values()) <= {"weak", "strong"}:
            return None
        trial.own_views = {name: noting(STRONG if view == "strong" else WEAK) for name, view in stream.declared.items()}
    try:
        row = trial[0]
    except Exception:  # whatever a row does with its views, these are none
        return None
    outputs = {name: value.number for name, value in row.items() if isinstance(value, _Noted)}
    if set(row) - set(outputs) - {"idx_lb", "idx_ulb", "y_lb"}:
        return None
    return Plan(tuple(kinds), outputs, tuple(row))


@dataclass(frozen=True)
class Drawn:
    """Of B samples and V views: where crops begin, whether they are mirrored, and what RandAugment does.

    Attributes:
        places: (B, V, 3) int64: top, left, 1 if mirrored.
        operations: (B, V, n) int64, of `view_draws.OPERATIONS`.
        magnitudes: (B, V, n) float64.
        boxes: (B, V, 4) int64.
    """

    places: NDArray[np.int64]
    operations: NDArray[np.int64]
    magnitudes: NDArray[np.float64]
    boxes: NDArray[np.int64]

    @classmethod
    def nothing(cls, samples: int, views: int) -> Drawn:
        """Every crop from the corner, as it is, and no cutout."""
        count = view_draws.NUM_OPERATIONS
        return cls(
            np.zeros((samples, views, 3), np.int64), np.full((samples, views, count), kernels.IDENTITY, np.int64),
            np.zeros((samples, views, count)), np.tile(np.array(view_draws.NO_BOX, np.int64), (samples, views, 1)),
        )  # fmt: skip


def draw(seed: int, samples: int, plan: Plan, height: int, width: int, size: int, flip: bool) -> Drawn:
    """What USB's pipeline draws for a batch, its generators seeded as `seed_globals(…)` does by a position's seed.

    Args:
        seed: `position_seed(…)`.
        samples: B.
        height: of the reflected image.
        width: likewise.
        size: side of a view.
        flip: whether there are mirrored views.
    """
    drawn = Drawn.nothing(samples, len(plan.kinds))
    codes, least, largest = (np.array(values) for values in zip(*view_draws.OPERATIONS, strict=True))
    streams = twister.python_stream(seed), twister.numpy_stream(seed), twister.numpy_stream(seed)
    twister.draw_views(
        *streams, np.array(plan.kinds, np.int64) == STRONG, height, width, size, flip, codes.astype(np.int64), least.astype(np.float64),
        largest.astype(np.float64), view_draws.LARGEST_CUTOUT, drawn.places, drawn.operations, drawn.magnitudes, drawn.boxes,
    )  # fmt: skip
    return drawn


def values_of(drawn: Drawn, size: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The kernels' codes (B, V, n) and values (B, V, n, 6)."""
    codes, magnitudes = drawn.operations.copy(), drawn.magnitudes
    values = np.zeros((*codes.shape, kernels.NUM_VALUES))
    values[..., 0] = magnitudes
    for operation, place, factor in ((SHEAR_X, 1, 1), (SHEAR_Y, 3, 1), (TRANSLATE_X, 2, size), (TRANSLATE_Y, 5, size)):
        here = drawn.operations == operation
        moved = np.zeros((int(here.sum()), kernels.NUM_VALUES))
        moved[:, 0] = moved[:, 4] = 1
        moved[:, place] = magnitudes[here] * factor
        values[here], codes[here] = moved, kernels.AFFINE
    # By Python's functions: another cosine may differ in its last bit.
    for place in zip(*np.nonzero(drawn.operations == ROTATE), strict=True):
        codes[place], values[place] = as_kernel(ROTATE, float(magnitudes[place]), size, size)
    return codes, values


def views_of(views: ImageViews, samples: list[Any], plan: Plan, seed: int) -> torch.Tensor | None:
    """(V, B, C, S, S) float32 of a batch's samples, or None where their sizes differ.

    Args:
        samples: as the data set loads them.
        seed: see `draw`.
    """
    images = [views.as_pixels(sample) for sample in samples]
    if any(image.shape != images[0].shape for image in images):
        return None
    (height, width, channels), size = images[0].shape, views.img_size
    rows, columns = reflected(height, views.padding), reflected(width, views.padding)
    drawn = draw(seed, len(images), plan, len(rows), len(columns), size, views.flip)
    codes, values = values_of(drawn, size)
    out = torch.empty((len(plan.kinds), len(images), channels, size, size))
    kernels.fill_views(
        np.stack(images), rows, columns, size, np.array(plan.kinds, np.int64), drawn.places, codes, values, drawn.boxes, views.levels,
        out.numpy(),
    )  # fmt: skip
    return out


@cache
def can_batch() -> bool:
    """Whether the compiled views and draws are those of this Pillow, Python, numpy and torch; tried once in a process."""
    with said_where_long("the views of a batch, about ten seconds"):
        return agree_with_pillow() and _same_draws()


def _same_draws() -> bool:
    """And everything is compiled that a batch needs."""
    views_of(ImageViews(8, 0.75, [0.0], [1.0]), [np.zeros((8, 8), np.uint8)], Plan((WEAK, STRONG), {}, ()), 0)
    seed = 2**40 + 77
    plan, size, padded = Plan((WEAK, STRONG), {}, ()), 8, 11
    drawn = draw(seed, 20, plan, padded, padded, size, True)
    found = _drawn_one_by_one(seed, 20, plan, padded, size)
    same = all(np.array_equal(one, other) for one, other in zip(vars(drawn).values(), vars(found).values(), strict=True))
    if not same:
        logger.warning("views: torch %s draws otherwise than the compiled draws; views are made one by one, slower", torch.__version__)
    return same


def _drawn_one_by_one(seed: int, samples: int, plan: Plan, padded: int, size: int) -> Drawn:
    of_torch = torch.Generator()
    of_torch.manual_seed(seed)
    sources = view_draws.Sources(random.Random(seed), np.random.RandomState(seed & 0xFFFFFFFF), of_torch)
    found = Drawn.nothing(samples, len(plan.kinds))
    for sample in range(samples):
        for view, kind in enumerate(plan.kinds):
            crop = view_draws.draw_crop(padded, padded, size, True, sources)
            found.places[sample, view] = crop.top, crop.left, crop.flip
            if kind == STRONG:
                chosen, box = view_draws.draw_operations(size, size, sources)
                found.operations[sample, view], found.magnitudes[sample, view] = zip(*chosen, strict=True)
                found.boxes[sample, view] = box
    return found
