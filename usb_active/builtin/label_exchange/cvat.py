"""CVAT for images 1.1: `<annotations>` with an `<image name=…>` for each image, and in it a `<tag label=…>`.

Tags are labels of whole images; boxes, polygons and tracks are not read. The format cannot say that an image is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from xml.parsers import expat
from xml.sax.saxutils import escape, quoteattr

from usb_active.builtin.label_exchange.entries import Entry, Found
from usb_active.builtin.label_file import RowProblems
from usb_active.errors import UsageError, name_some, printable

# What XML 1.0 has no way to write.
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def write_cvat(entries: Iterable[Entry], class_names: Sequence[str]) -> bytes:
    """The images as XML; one without a label, refused ones among them, has no tag.

    Raises:
        UsageError: keys or labels with characters that XML cannot hold.
    """
    entries = list(entries)
    bad = [text for text in (*class_names, *(text for entry in entries for text in (entry.key, entry.label))) if _NO_XML.search(text)]
    if bad:
        raise UsageError(f"XML cannot hold characters of {name_some(bad)}; export as CSV or for Label Studio")
    lines = ['<?xml version="1.0" encoding="utf-8"?>', "<annotations>", "<version>1.1</version>", "<meta><task><labels>"]
    lines += [f"<label><name>{escape(name)}</name><type>tag</type></label>" for name in class_names]
    lines.append("</labels></task></meta>")
    for number, entry in enumerate(entries):
        lines.append(f'<image id="{number}" name={_quoted(entry.key)}>')
        if entry.label:
            lines.append(f'<tag label={_quoted(entry.label)} source="manual"></tag>')
        lines.append("</image>")
    return ("\n".join([*lines, "</annotations>"]) + "\n").encode("utf-8")


def _quoted(text: str) -> str:
    # As references, or a parser makes blanks of them.
    return quoteattr(text, {"\n": "&#10;", "\r": "&#13;", "\t": "&#9;"})


def read_cvat(where: str, data: bytes, problems: RowProblems) -> list[Found]:
    """The answers in it. An image with two tags, or with one that has no label, goes to `problems`.

    Raises:
        UsageError: no XML, not CVAT's for images, or with a DOCTYPE: only such a one can hold entities, which could grow without bound.
    """
    found: list[Found] = []
    image: list[str] = []
    tags: list[str] = []
    root: list[str] = []
    parser = expat.ParserCreate()

    def line() -> str:
        return f"{where}:{parser.CurrentLineNumber}"

    def refuse(*_: object) -> None:
        raise UsageError(f"{line()}: has a DOCTYPE, which files of CVAT have not; remove it")

    def begin(name: str, attributes: dict[str, str]) -> None:
        if not root:
            root.append(name)
            if name != "annotations":
                raise UsageError(f"{line()}: begins with <{printable(name)}>, must be CVAT for images 1.1, which begins with <annotations>")
        if name == "image":
            image[:], tags[:] = [attributes.get("name", "")], []
        elif name == "tag" and image:
            tags.append(attributes.get("label", ""))

    def end(name: str) -> None:
        if name != "image":
            return
        if not all(map(str.strip, tags)):
            problems.add(line(), f"a tag without a label for '{printable(image[0])}'", "", "a label, or no tag at all")
        elif len(set(tags)) > 1:
            problems.add(line(), "more than one tag", ", ".join(tags), "one for each image")
        elif tags:
            found.append(Found(line(), (image[0],), tags[0]))
        image.clear()

    parser.StartDoctypeDeclHandler, parser.EntityDeclHandler = refuse, refuse
    parser.StartElementHandler, parser.EndElementHandler = begin, end
    try:
        parser.Parse(data, True)
    except (expat.ExpatError, LookupError, ValueError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"{where}: cannot be read as XML ({printable(error)}); export it again, as CVAT for images 1.1") from error
    return found
