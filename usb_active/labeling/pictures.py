"""The samples as pictures of a browser, by their dataset index alone: large ones, and small ones for a grid."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from typing import Any

from usb_active.builtin.contact_sheet import NoImage, as_image, flat
from usb_active.errors import UsageError, reason_of

# Sides in pixels, at most: of what is looked at, zoomed in, and of a picture among many.
LARGE, SMALL = 2048, 160
# Up to this side pixels are kept as they are.
_EXACT = 512


class SamplePictures:
    """SamplePictures of a data set. Nothing is kept: a browser remembers what it has seen."""

    def __init__(self, load: Callable[[int], Any]):
        """`load`: dataset index → the sample, as the data set gives it. It is called by one thread at a time."""
        self._load = load
        self._lock = threading.Lock()

    def picture(self, index: int, side: int) -> tuple[str, bytes]:
        """Its media type and its bytes, with no side above `side`. UsageError says in one line why there is none."""
        try:
            with self._lock:
                image = flat(as_image(self._load(index)))
            if max(image.size) > side:
                image.thumbnail((side, side))
            kind = "png" if max(image.size) <= _EXACT else "jpeg"
            buffer = io.BytesIO()
            image.save(buffer, format=kind.upper(), **({} if kind == "png" else {"quality": 90}))
        except NoImage as error:
            raise UsageError(f"sample {index} is no image: {error}") from error
        except Exception as error:  # a data set may be anyone's code, and a file anything; the page says which and why
            raise UsageError(f"sample {index}: {reason_of(error)}") from error
        return f"image/{kind}", buffer.getvalue()
