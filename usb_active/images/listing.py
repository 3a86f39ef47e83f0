"""Which images lie below a folder, and what else does: it is counted, so that nothing is left out unnoticed."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from usb_active.errors import UsageError, name_some
from usb_active.images.reading import image_suffixes, kind_of

# What archivers, file servers, operating systems and notebooks put beside people's files, in lower case.
SYSTEM_FOLDERS = frozenset({
    "__macosx", "@eadir", "@recycle", "@recently-snapshot", "#recycle", "#snapshot", "$recycle.bin", "recycler", "recycled",
    "system volume information", "lost+found", "network trash folder", "temporary items",
})  # fmt: skip
SYSTEM_FILES = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"})
# Of pillow-heif.
HEIF_SUFFIXES = frozenset({".heic", ".heics", ".heif", ".heifs", ".hif"})
_NO_SUFFIX = "without suffix"


def is_system_folder(name: str) -> bool:
    """Whether a folder is no part of the data: hidden, or made by a file server or the like."""
    return name.startswith(".") or name.casefold() in SYSTEM_FOLDERS


@dataclass
class Listing:
    """What lies below a folder. Paths are relative to the root that was given, with `/`.

    Attributes:
        images: sorted. A link to nothing is among them, so that reading it names it.
        others: files that are no image, by suffix in lower case.
        folders: left out, with all that is in them.
        hidden: images left out because their name begins with a dot.
        special: named like images, but a FIFO or the like, with what they are.
        broken: links to nothing.
    """

    images: list[str] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)
    folders: list[str] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)
    special: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)

    def __add__(self, other: Listing) -> Listing:
        return Listing(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))

    def remarks(self) -> list[str]:
        """A line for each kind of thing that was left out, or will be refused."""
        lines = []
        if self.others:
            lines.append(_describe_others(self.others))
        if self.folders or self.hidden:
            hidden = f"{len(self.hidden)} hidden image{'s' * (len(self.hidden) != 1)} ({name_some(self.hidden)})" if self.hidden else ""
            folders = f"folders that are hidden, or that archivers and file servers make: {name_some(self.folders)}" if self.folders else ""
            lines.append(f"left out: {'; '.join(filter(None, [folders, hidden]))}")
        if self.special:
            lines.append(f"named like images, but no files, and left out: {name_some(self.special)}")
        if self.broken:
            lines.append(f"links that lead nowhere, which a run refuses: {name_some(self.broken)}")
        return lines


def _describe_others(others: Counter[str]) -> str:
    number = others.total()
    kinds = sorted(others.items(), key=lambda item: (item[0] == _NO_SUFFIX, -item[1], item[0]))
    what = "files are no images" if number > 1 else "file is no image"
    heif = HEIF_SUFFIXES & others.keys()
    way_out = f" (for {', '.join(sorted(heif))}: pip install pillow-heif)" if heif else ""
    return f"{number} {what} that Pillow can read: {name_some((f'{count} {kind}' for kind, count in kinds), 8)}; left out{way_out}"


def look_through(root: Path, below: str = "", everything: bool = False) -> Listing:
    """All that lies at any depth of `root/below`. Hidden files and folders are passed over, symbolic links followed.

    Args:
        root: the folder that paths are relative to.
        below: a folder in it.
        everything: as version 0.1.0 did, folders of archivers and file servers as well.

    Raises:
        UsageError: a folder cannot be read, links form a loop, or a name is not valid text.
    """
    listing = Listing()
    _Search(str(root), everything, listing).collect(below, frozenset())
    for paths in (listing.images, listing.folders, listing.hidden, listing.special, listing.broken):
        paths.sort()
    return listing


@dataclass(frozen=True)
class _Search:
    root: str
    everything: bool
    listing: Listing

    def collect(self, below: str, parents: frozenset[tuple[int, int]]) -> None:
        folder = os.path.join(self.root, below)
        try:
            status = os.stat(folder)
            here = (status.st_dev, status.st_ino)
            if here in parents:
                raise UsageError(f"folder {folder}: a symbolic link leads back to a folder above it")
            with os.scandir(folder) as entries:
                for entry in entries:
                    name = f"{below}/{entry.name}" if below else entry.name
                    if _is_folder(entry):
                        self._folder(entry.name, name, parents | {here})
                    else:
                        self._file(entry, name)
        except OSError as error:
            raise UsageError(f"folder {folder}: {error.strerror}") from error

    def _folder(self, own: str, name: str, parents: frozenset[tuple[int, int]]) -> None:
        if own.startswith(".") if self.everything else is_system_folder(own):
            self.listing.folders.append(name)
        else:
            self.collect(name, parents)

    def _file(self, entry: os.DirEntry, name: str) -> None:
        suffix = os.path.splitext(entry.name)[1].lower()
        is_image = suffix in image_suffixes()
        if entry.name.startswith("."):
            if is_image or os.path.splitext(f"_{entry.name}")[1].lower() in image_suffixes():
                self.listing.hidden.append(name)
        elif is_image:
            self._image(entry, name)
        elif entry.name.casefold() not in SYSTEM_FILES:
            self.listing.others[_shown(suffix)] += 1

    def _image(self, entry: os.DirEntry, name: str) -> None:
        try:
            entry.path.encode()
        except UnicodeEncodeError:
            raise UsageError(f"file name {entry.path!r} is not valid UTF-8; rename it") from None
        # Asked of the folder itself, which costs nothing, unless it is a link or something odd.
        kind = "" if entry.is_file(follow_symlinks=False) else self._kind_behind(entry, name)
        if kind:
            self.listing.special.append(f"{name} ({kind})")
        else:
            self.listing.images.append(name)

    def _kind_behind(self, entry: os.DirEntry, name: str) -> str:
        try:
            return kind_of(entry.stat().st_mode)
        except OSError:  # a link to nothing, or round in a circle
            self.listing.broken.append(name)
            return ""


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link round in a circle
        return False


def _shown(suffix: str) -> str:
    """Names that are no suffix, such as the end of a sentence with a dot in it, are not shown: they may be anything."""
    if not suffix or suffix == ".":
        return _NO_SUFFIX
    return suffix if len(suffix) <= 12 and suffix[1:].isalnum() else "of other names"
