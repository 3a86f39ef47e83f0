"""Reading YAML strictly: safe loader, no key twice, errors with file, line and column; and `--set a.b=c` on top. And a value on one line.

A YAML may come from anyone, so reading one is bounded: by its size, its depth, and the number of its values with all aliases
expanded. A value that cannot be what its tag says is an error like any other.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from usb_active.errors import UsageError, nearest, plain, printable
from usb_active.storage.paths import user_path

MAX_BYTES = 1_000_000
# Keys and values, each alias counted as all that it stands for. More than a list of ImageNet's 21,841 classes.
MAX_NODES = 30_000
MAX_DEPTH = 50
# Python refuses to print integers of thousands of digits, and needs time in the square of their number to read them.
MAX_DIGITS = 100
# The folders of packaged recipes and studies, which are no configurations.
RECIPES, STUDIES = "recipes", "studies"
_TAG = "tag:yaml.org,2002:"
_NUMBERS = (f"{_TAG}int", f"{_TAG}float")
_NOUNS = {"int": "an integer", "float": "a number", "bool": "true or false", "timestamp": "a date", "binary": "base64", "null": "empty"}
# YAML 1.1 reads 12:30 as 12 * 60 + 30.
_SEXAGESIMAL = re.compile(r"[-+]?[0-9][0-9_]*(?::[0-9_]+)+(?:\.[0-9_]*)?")
_REMEDY = "put it in quotes if it is a text"


class _Bounds:
    """Counts what a document comes to, and refuses what is beyond the bounds."""

    def __init__(self) -> None:
        # Of each anchor: how many nodes stand below it, aliases expanded; None while it is open.
        self.anchors: dict[str, int | None] = {}
        self._open: list[tuple[str | None, int]] = []
        self._count = 0

    def see(self, event: yaml.Event) -> None:
        """The next event of the parser. MarkedYAMLError at the first one too many."""
        if isinstance(event, yaml.CollectionEndEvent):
            anchor, before = self._open.pop()
            if anchor is not None:
                self.anchors[anchor] = self._count - before
            return
        if not isinstance(event, yaml.NodeEvent):
            return
        self._count += self._size(event)
        if self._count > MAX_NODES:
            _refuse(event, f"more than {MAX_NODES} keys and values, aliases expanded; this is no configuration")
        if isinstance(event, yaml.CollectionStartEvent):
            self._open.append((event.anchor, self._count - 1))
            if event.anchor is not None:
                self.anchors[event.anchor] = None
            if len(self._open) > MAX_DEPTH:
                _refuse(event, f"more than {MAX_DEPTH} levels, one inside the other; this is no configuration")
        elif event.anchor is not None and isinstance(event, yaml.ScalarEvent):
            self.anchors[event.anchor] = 1

    def _size(self, event: yaml.NodeEvent) -> int:
        if not isinstance(event, yaml.AliasEvent):
            return 1
        size = self.anchors.get(event.anchor, 1)
        if size is None:
            _refuse(event, f"the alias '{printable(event.anchor)}' stands inside what it stands for")
        return size


def _refuse(at: yaml.Event | yaml.Node, problem: str) -> None:
    raise yaml.MarkedYAMLError(problem=problem, problem_mark=at.start_mark)


class _Loader(yaml.SafeLoader):
    """The safe loader, within bounds; a key that stands twice in a mapping is an error, where YAML lets the last one win."""

    def __init__(self, text: str):
        super().__init__(text)
        self._bounds = _Bounds()

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node:
        self._bounds.see(self.peek_event())
        return super().compose_node(parent, index)

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        self._bounds.see(yaml.MappingEndEvent())
        # Here, not where it is constructed: by then merged keys are among its own.
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != f"{_TAG}merge":
                if key.value in seen:
                    _refuse(key, f"the key '{printable(key.value)}' stands here twice")
                seen.add(key.value)
        return node

    def compose_sequence_node(self, anchor: str | None) -> yaml.SequenceNode:
        node = super().compose_sequence_node(anchor)
        self._bounds.see(yaml.SequenceEndEvent())
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        if not isinstance(node, yaml.ScalarNode):
            return super().construct_object(node, deep)
        if node.tag in _NUMBERS:
            _check_number(node)
        try:
            value = super().construct_object(node, deep)
        except yaml.YAMLError:
            raise
        except Exception:  # what a constructor raises at a text that it cannot take is its own affair
            noun = _NOUNS.get(node.tag.removeprefix(_TAG), printable(node.tag))
            _refuse(node, f"'{printable(node.value)}' is read as {noun} and is none; {_REMEDY}")
        if type(value) is int and not -(2**63) <= value < 2**63:
            _refuse(node, f"the integer {printable(node.value)} is beyond 64 bits")
        return value


def _check_number(node: yaml.ScalarNode) -> None:
    if len(node.value) > MAX_DIGITS:
        _refuse(node, f"a number of {len(node.value)} characters ({printable(node.value, 20)}); {_REMEDY}")
    if _SEXAGESIMAL.fullmatch(node.value):
        _refuse(node, f"YAML reads {printable(node.value)} as a number to the base of 60; {_REMEDY}, or write the number in decimals")


def _look_over(text: str) -> None:
    """Refuse what is beyond the bounds by libyaml, where it is installed: thirty times as fast as Python, which then only sees the rest."""
    if not yaml.__with_libyaml__ or len(text) < MAX_NODES:
        return
    bounds = _Bounds()
    for event in yaml.parse(text, Loader=yaml.CSafeLoader):
        bounds.see(event)


def parse_yaml(text: str, source: str) -> Any:
    """The value of a YAML text. UsageError: not valid YAML, beyond the bounds, or a key twice; one line with source, line and column."""
    source = plain(source)
    if len(text) > MAX_BYTES:
        raise UsageError(f"{source}: {len(text):,} characters; a configuration has at most {MAX_BYTES:,}")
    try:
        _look_over(text)
        loader = _Loader(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{source}, line {mark.line + 1}, column {mark.column + 1}" if mark else source
        what = " ".join(filter(None, [error.context, error.problem]))
        raise UsageError(f"{where}: {_shortened(what)}") from error
    except yaml.YAMLError as error:
        raise UsageError(f"{source}: {_shortened(' '.join(str(error).split()))}") from error


def _shortened(message: str) -> str:
    """A message of PyYAML, which quotes tags and anchors of any length."""
    return re.sub(r"\S{81,}", lambda word: printable(word[0]), plain(message))


def packaged_names() -> list[str]:
    """The YAMLs that come with the package, as `name` or `folder/name`."""
    root = packaged_folder()
    found = (path.relative_to(root) for path in root.rglob("*.yaml"))
    return sorted(path.with_suffix("").as_posix() for path in found if path.parts[0] not in (RECIPES, STUDIES))


def packaged_folder() -> Path:
    """Where the YAMLs lie that come with the package."""
    return Path(str(files("usb_active.yaml_configs")))


def find_yaml(path_or_name: str | Path) -> Path:
    """A path as it is, or a packaged YAML by its name. A file that exists wins over a name.

    Raises:
        UsageError: neither a file nor a packaged name.
    """
    path, name = user_path(path_or_name), str(path_or_name)
    if name in packaged_names():
        packaged = packaged_folder() / f"{name}.yaml"
        return path if _what(path) == "file" else packaged
    what = _what(path)
    if what == "file":
        return path
    shown = {"folder": "is a folder", "": "no such file"}.get(what, what)
    hint = nearest(_bare(name), packaged_names())
    raise UsageError(f"{printable(name, 400)}: {shown}, and no packaged configuration has this name{hint}")


def _bare(name: str) -> str:
    """`quickstart` of `yaml_configs/quickstart.yaml`, which is there in a clone alone."""
    return name.removeprefix("yaml_configs/").removesuffix(".yaml")


def _what(path: Path) -> str:
    """"file", "folder", "" for nothing; else what is the matter with it."""
    try:
        if path.is_file():
            return "file"
        return "folder" if path.is_dir() else "is no file" if path.exists() else ""
    except (OSError, ValueError) as error:  # a name that is too long, or that no file can have
        return getattr(error, "strerror", None) or str(error)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a file. UsageError when it cannot be read or is no mapping."""
    return read_yaml_and_bytes(path)[0]


def read_yaml_and_bytes(path: Path) -> tuple[dict[str, Any], bytes]:
    """As `read_yaml`, with the very bytes that it was read from."""
    data = _read(path)
    value = parse_yaml(_decoded(path, data), str(path))
    if not isinstance(value, dict):
        raise UsageError(f"{path}: must be a mapping of keys to values, not {type(value).__name__}")
    for key in value:
        if not isinstance(key, str):
            raise UsageError(f"{path}: {printable(key)}: keys must be texts")
    return value, data


def _read(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
    if len(data) > MAX_BYTES:
        raise UsageError(f"{path}: larger than {MAX_BYTES:,} bytes; this is no configuration")
    return data


def _decoded(path: Path, data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: cannot be read: {error.reason} at byte {error.start}; it must be UTF-8") from error


def apply_overrides(data: dict[str, Any], overrides: Iterable[str]) -> list[str]:
    """Put each `a.b=value` into `data`; the value is YAML. A plugin's short form is opened up: `active.oracle.x=1`.

    Returns:
        The dotted keys that were set.
    """
    changed = []
    for override in overrides:
        dotted, equals, text = override.partition("=")
        dotted = dotted.strip()
        if not equals or not all(dotted.split(".")):
            raise UsageError(f"--set {printable(override)}: must be key=value, as in active.budget=50")
        _set(data, dotted, parse_yaml(text, f"--set {printable(dotted)}"))
        changed.append(dotted)
    return changed


def _set(data: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, last = dotted.split(".")
    for depth, parent in enumerate(parents):
        child = data.get(parent)
        if child is None:
            child = {}
        elif isinstance(child, str):
            child = {"name": child}
        elif not isinstance(child, dict):
            parent = printable(".".join(parents[: depth + 1]))
            raise UsageError(f"--set {printable(dotted)}: {parent} is a {type(child).__name__}, it has no keys")
        data[parent] = dict(child)
        data = data[parent]
    data[last] = value


def yaml_on_one_line(value: Any, *, sort_keys: bool = False) -> str:
    """A value as YAML on one line, quoted where YAML would read another one."""
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10**9, sort_keys=sort_keys)
    # The end of a document after a bare value is no part of it.
    return text.strip().removesuffix("\n...").strip()
