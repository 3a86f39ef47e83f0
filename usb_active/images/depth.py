"""Images of more than 8 bits per channel whose values end far below the highest possible one: nearly black, unless a range is given."""

from __future__ import annotations

from collections.abc import Mapping

from usb_active.errors import name_some
from usb_active.images.reading import HIGHEST, UPPER_BITS

# An image of 16 bits whose values all lie below this is at most a quarter as bright as it could be.
DIM = 65536 // 4


def describe_depth(found: Mapping[str, Mapping[str, int]]) -> list[str]:
    """A line for images of more than 8 bits per channel that come out nearly black, and say how to mend it.

    Args:
        found: by key, the `HIGHEST` value of an image and whether Pillow gave its `UPPER_BITS` only.
    """
    lines = []
    for upper_bits in (False, True):
        dim = {key: info[HIGHEST] for key, info in found.items() if bool(info.get(UPPER_BITS)) is upper_bits and 0 < info[HIGHEST] < DIM}
        if not dim:
            continue
        highest = max(dim.values())
        what = f"{len(dim)} images end at" if len(dim) > 1 else "1 image ends at"
        white = 2 ** max(8, highest.bit_length()) - 1
        mend = f"if white is {white:,}, write value_range: [0, {white}] below `dataset:`"
        if upper_bits:
            mend = "of 16 bits per channel in colour Pillow reads the upper 8; save them with 8"
        lines.append(f"{what} {highest:,} of 65,535, nearly black: {name_some(dim)}; {mend}")
    return lines
