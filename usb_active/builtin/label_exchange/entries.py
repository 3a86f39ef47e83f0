"""What the files hold, whatever their format."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """A sample that was asked for or labelled, as it stands: what is written.

    Attributes:
        key: the sample's key.
        label: its label's text, "" where it has none.
        is_skipped: whether it is refused.
    """

    key: str
    label: str = ""
    is_skipped: bool = False


@dataclass(frozen=True)
class Found:
    """An answer in a file: what is read.

    Attributes:
        where: the place, for messages.
        names: what may be the sample's key, the surest first.
        label: the label's text; "" where the sample is refused.
    """

    where: str
    names: tuple[str, ...]
    label: str
