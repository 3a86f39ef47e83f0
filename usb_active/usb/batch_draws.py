"""What is drawn for the views of a whole batch: USB's own numbers, or the same law from one generator (`active.views`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from usb_active.images import kernels, twister
from usb_active.usb import view_draws
from usb_active.usb.transforms import ImageViews
from usb_active.usb.view_draws import ROTATE, SHEAR_X, SHEAR_Y, TRANSLATE_X, TRANSLATE_Y, as_kernel

# The numbers of a view in `draw_vectorized`: first these, then one for each operation, then one for each magnitude.
PLACE, MIRRORING, CUTOUT_SIDE, CUTOUT_CENTRE = slice(0, 2), 2, slice(3, 4), slice(4, 6)
FIRST_OPERATION = 6
# USB's list.
_CODES = np.array([code for code, *_ in view_draws.OPERATIONS], np.int64)
_LEAST, _LARGEST = np.array([magnitudes for _, *magnitudes in view_draws.OPERATIONS], np.float64).T.copy()


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
    def nothing(cls, samples: int, views: int, count: int) -> Drawn:
        """Every crop from the corner, as it is; `count` times the identity, and no cutout."""
        return cls(
            np.zeros((samples, views, 3), np.int64), np.full((samples, views, count), kernels.IDENTITY, np.int64),
            np.zeros((samples, views, count)), np.tile(np.array(view_draws.NO_BOX, np.int64), (samples, views, 1)),
        )  # fmt: skip

    def of_views(self, which: NDArray[np.bool_]) -> Drawn:
        """What was drawn for some of the views."""
        return Drawn(self.places[:, which], self.operations[:, which], self.magnitudes[:, which], self.boxes[:, which])


Draw = Callable[[int, Sequence[int], Sequence[tuple[int, int]], ImageViews], Drawn]


def draw_exact(seed: int, kinds: Sequence[int], sides: Sequence[tuple[int, int]], views: ImageViews) -> Drawn:
    """What USB's pipeline draws for a batch, its generators seeded as `seed_globals(…)` does by a position's seed.

    Args:
        seed: `position_seed(…)`.
        kinds: WEAK or STRONG of each view, in the order in which they draw.
        sides: of each sample, height and width of the reflected image.
        views: their side, whether there are mirrored ones, and how many operations a strong one has.
    """
    drawn = Drawn.nothing(len(sides), len(kinds), views.randaugment_n)
    of_numpy = twister.numpy_stream(seed)
    streams = twister.python_stream(seed), of_numpy, of_numpy.copy()
    twister.draw_views(
        *streams, np.array(kinds, np.int64) == kernels.STRONG, np.array(sides, np.int64), views.img_size, views.flip,
        _CODES, _LEAST, _LARGEST, view_draws.LARGEST_CUTOUT, drawn.places, drawn.operations, drawn.magnitudes, drawn.boxes,
    )  # fmt: skip
    return drawn


def draw_vectorized(seed: int, kinds: Sequence[int], sides: Sequence[tuple[int, int]], views: ImageViews) -> Drawn:
    """As `draw_exact` in law, from other numbers: of one generator, for all samples and views at once.

    Every view has the same count of numbers of [0, 1), of which a weak one uses those of its crop. So what a sample has does not depend on
    how many come after it.
    """
    drawn, size, count = Drawn.nothing(len(sides), len(kinds), views.randaugment_n), views.img_size, views.randaugment_n
    numbers = np.random.Generator(np.random.PCG64(seed)).random((len(sides), len(kinds), FIRST_OPERATION + 2 * count))
    room = np.array(sides, np.int64)[:, None, :] - size + 1
    drawn.places[..., :2] = (numbers[..., PLACE] * room).astype(np.int64)
    drawn.places[..., 2] = (numbers[..., MIRRORING] < 0.5) & views.flip
    strong = np.array(kinds, np.int64) == kernels.STRONG
    of_strong = numbers[:, strong]
    first_magnitude = FIRST_OPERATION + count
    chosen = (of_strong[..., FIRST_OPERATION:first_magnitude] * len(_CODES)).astype(np.int64)
    drawn.operations[:, strong] = _CODES[chosen]
    drawn.magnitudes[:, strong] = _LEAST[chosen] + (_LARGEST - _LEAST)[chosen] * of_strong[..., first_magnitude:]
    drawn.boxes[:, strong] = _boxes(of_strong[..., CUTOUT_SIDE], of_strong[..., CUTOUT_CENTRE], size)
    return drawn


# By the value of `active.views`.
DRAWS: Mapping[str, Draw] = {"exact": draw_exact, "vectorized": draw_vectorized}


def _boxes(of_side: NDArray[np.float64], of_centre: NDArray[np.float64], size: int) -> NDArray[np.int64]:
    """`view_draws.draw_box` of many views, from numbers (…, 1) and (…, 2) of [0, 1)."""
    side = of_side * view_draws.LARGEST_CUTOUT * size
    # Uniform between 1 and the size, as USB has it.
    first = np.maximum(0.0, size + (1.0 - size) * of_centre - side / 2.0).astype(np.int64)
    last = np.minimum(float(size), first + side).astype(np.int64)
    return np.where(side > 0, np.concatenate([first, last], axis=-1), np.array(view_draws.NO_BOX))


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
