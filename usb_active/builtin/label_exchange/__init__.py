"""Labels in the files of other tools: CSV, Label Studio's JSON, CVAT's XML for images, a folder per class.

Functions between bytes (or a folder) and records alone: they know neither runs nor pools. What a file calls a sample is looked up by
whoever reads it.
"""

from __future__ import annotations

from pathlib import Path

from usb_active.errors import UsageError, name_some, nearest

# Format → what its files are called, and whether they can hold that a sample is refused.
FORMATS = {"csv": ".csv", "label-studio": ".json", "cvat": ".xml", "folders": ""}
HOLD_SKIPS = frozenset({"csv", "label-studio"})


def format_of(path: Path, name: str | None = None) -> str:
    """The format of a file by its name, or by what it is said to be. UsageError where neither says it."""
    if name is not None:
        if name not in FORMATS:
            raise UsageError(f"--format {name}: no such format{nearest(name, FORMATS)}")
        return name
    suffix = "" if path.is_dir() else path.suffix.lower()
    for format_name, own in FORMATS.items():
        if suffix == own:
            return format_name
    known = name_some(f"{own} ({name})" for name, own in FORMATS.items() if own)
    raise UsageError(f"{path}: its name says no format; known: {known}, no suffix (folders); or say it by --format")
