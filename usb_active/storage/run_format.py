"""What a run began with, and keeps to its end whatever later versions do: a number in its dataset.json.

1: runs of version 0.1.0, whose dataset.json has no number. How an image file becomes pixels, and which labels are held out, is decided
by this number wherever a later version decides otherwise, so that an old run resumes bit-identically.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from usb_active.errors import UsageError

if TYPE_CHECKING:
    from usb_active.storage.run_dir import RunDir

FIRST = 1
# 2: images are turned as EXIF says, transparency lies on a background, folders of file servers are left out; `validation` is
# divided among the classes, and class_counts are of what is trained on.
CURRENT = 2
PINNED_FILE = "dataset.json"
DATASET_REMEDY = "restore it from a copy: it says what the run began with"


def run_format(run: RunDir) -> int:
    """The number of a run; that of new runs where nothing has begun yet.

    Raises:
        UsageError: dataset.json is gone or damaged, or a later version of this package wrote it.
    """
    pinned = read_pinned(run)
    return CURRENT if pinned is None else pinned.get("format", FIRST)


def read_pinned(run: RunDir) -> dict[str, Any] | None:
    """What dataset.json holds, None before the first start has written it. UsageError as for `run_format`."""
    path = run.path / PINNED_FILE
    pinned = run.read_json(PINNED_FILE, DATASET_REMEDY)
    if pinned is None:
        # It is written before the order of the pool is, so that a run with an order has lost it.
        if (run.path / "keys.txt").exists():
            raise UsageError(f"{path} is gone; {DATASET_REMEDY}")
        return None
    if not isinstance(pinned, dict):
        raise UsageError(f"{path} is damaged (no object in it); {DATASET_REMEDY}")
    number = pinned.get("format", FIRST)
    if type(number) is not int or number < FIRST:
        raise UsageError(f"{path} is damaged (format: {number!r}, must be {FIRST} to {CURRENT}); {DATASET_REMEDY}")
    if number > CURRENT:
        raise UsageError(f"{path}: format {number} is of a later version of usb-active than this one, which knows up to {CURRENT}; upgrade")
    return pinned
