"""A page with what a query asks for, to look at while labels are given: one file, without scripts and without anything from elsewhere."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from usb_active.errors import name_some, plain, reason_of
from usb_active.records import Query
from usb_active.storage.durable import atomic_write

if TYPE_CHECKING:
    from PIL import Image

# So many samples have a picture, of at most so many pixels a side; smaller images are shown enlarged, pixel by pixel.
MOST, SIDE = 1000, 96
_NAMED = 20
_PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA")
_HEAD = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
body {{ font-family: sans-serif; margin: 1em; color: #222; background: #fff }}
main {{ display: flex; flex-wrap: wrap; gap: 10px }}
figure {{ margin: 0; width: 128px; font-size: 11px; overflow-wrap: anywhere }}
figure > div {{ height: 96px; background: #eee; display: flex; align-items: center; justify-content: center; overflow: hidden }}
.small {{ image-rendering: pixelated }}
.reason {{ color: #a00; padding: 4px }}
b {{ font-size: 13px }}
</style></head><body>
<h1>{title}</h1>
"""


class NoImage(Exception):
    """A sample that was read, and is no image."""


def write_contact_sheet(path: Path, query: Query, load: Callable[[int], Any], suggestions: Sequence[tuple[str, float]] | None) -> bool:
    """Write the page at `path`, atomically; whether there is one: not of samples that are no images.

    Args:
        path: the file.
        query: what is asked; its samples are numbered from 1 in its order.
        load: dataset index → the sample, as the data set gives it. What it raises stands in the place of the picture.
        suggestions: (Q,) what the model takes each sample for, and with which probability; None where it was not asked.
    """
    try:
        # All of it before anything is written: the last sample may be the first that can be read.
        figures = list(_figures(query, load, suggestions))
    except NoImage:
        return False
    page = "".join([_head(query, path), "<main>\n", *figures, "</main>\n", _rest(query), "</body></html>\n"])
    data = page.encode("utf-8", "backslashreplace")
    atomic_write(path, lambda file: file.write(data))
    return True


def as_image(sample: Any) -> Image.Image:
    """A sample as an image that PNG can hold.

    Raises:
        NoImage: it is neither an image of PIL nor uint8 (H, W) or (H, W, 3); its text says what was got.
    """
    from PIL import Image

    if not isinstance(sample, Image.Image):
        sample = np.asarray(sample)
        if sample.dtype != np.uint8 or not (sample.ndim == 2 or sample.ndim == 3 and sample.shape[2] == 3):
            raise NoImage(f"{sample.dtype} of shape {sample.shape}")
        sample = Image.fromarray(sample)
    if sample.mode.startswith("I;16"):
        # Pillow would cut off what is above 255.
        sample = Image.fromarray((np.asarray(sample) >> 8).astype(np.uint8))
    return sample if sample.mode in _PNG_MODES else sample.convert("RGB")


def _head(query: Query, path: Path) -> str:
    title = f"Query {query.cycle}: {len(query.idx)} samples, chosen by {_text(query.acquisition)}"
    valid = f"one of: {', '.join(map(_text, query.class_names))}" if query.class_names else _text(query.expects)
    where = _text(path.with_suffix(".csv").name)
    return f"{_HEAD.format(title=title)}<p>Labels go into the column <code>label</code> of {where}; valid: {valid}.</p>\n"


def _figures(query: Query, load: Callable[[int], Any], suggestions: Sequence[tuple[str, float]] | None) -> Iterator[str]:
    for row, (index, key) in enumerate(zip(query.idx.tolist()[:MOST], query.keys, strict=False)):
        suggested = "" if suggestions is None else f"<br>{_text(suggestions[row][0])} {suggestions[row][1]:.3f}"
        picture = f"<div>{_picture(load, index)}</div>"
        yield f"<figure>{picture}<figcaption><b>{row + 1}</b>{suggested}<br>{_text(key)}</figcaption></figure>\n"


def _rest(query: Query) -> str:
    rest = query.keys[MOST:]
    return f"<p>Without a picture here: {escape(name_some(rest, _NAMED))}.</p>\n" if rest else ""


def _picture(load: Callable[[int], Any], index: int) -> str:
    try:
        image = as_image(load(index))
        kind, data, size = _thumbnail(image)
    except NoImage:
        raise
    except Exception as error:  # a data set may be anyone's code, and a file anything; the page says which and why
        return f'<span class="reason">{_text(reason_of(error))}</span>'
    small = ' class="small"' if kind == "png" else ""
    content = base64.b64encode(data).decode("ascii")
    return f'<img{small} width="{size[0]}" height="{size[1]}" alt="" src="data:image/{kind};base64,{content}">'


def _thumbnail(image: Image.Image) -> tuple[str, bytes, tuple[int, int]]:
    """Its format, its bytes, and the size that it is shown in: (width, height)."""
    image = flat(image)
    kind, buffer = ("png", io.BytesIO()) if max(image.size) <= SIDE else ("jpeg", io.BytesIO())
    image.thumbnail((SIDE, SIDE))
    image.save(buffer, format=kind.upper(), **({} if kind == "png" else {"quality": 85}))
    factor = SIDE // max(image.size)
    return kind, buffer.getvalue(), (image.width * factor, image.height * factor)


def flat(image: Image.Image) -> Image.Image:
    """In mode L or RGB; what is transparent is white, as `image_folder` has it by default."""
    from PIL import Image

    if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        seen = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen).convert("RGB")
    return image.convert("L" if image.mode in ("1", "L") else "RGB")


def _text(text: str) -> str:
    return escape(plain(text))
