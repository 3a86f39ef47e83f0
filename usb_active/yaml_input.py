"""Reading YAML strictly: safe loader, no key twice, errors with file, line and column; and `--set a.b=c` on top."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from usb_active.errors import UsageError, nearest
from usb_active.paths import user_path


class _Loader(yaml.SafeLoader):
    """The safe loader; a key that stands twice in a mapping is an error, where YAML lets the last one win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.MarkedYAMLError(problem=f"the key '{key.value}' stands here twice", problem_mark=key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def parse_yaml(text: str, source: str) -> Any:
    """The value of a YAML text. UsageError: not valid YAML, or a key twice; one line with source, line and column."""
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 (a subclass of the safe loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{source}, line {mark.line + 1}, column {mark.column + 1}" if mark else source
        raise UsageError(f"{where}: {' '.join(filter(None, [error.context, error.problem]))}") from error
    except yaml.YAMLError as error:
        raise UsageError(f"{source}: {' '.join(str(error).split())}") from error


def packaged_names() -> list[str]:
    """The YAMLs that come with the package, as `name` or `folder/name`."""
    root = Path(str(files("usb_active.yaml_configs")))
    return sorted(path.relative_to(root).with_suffix("").as_posix() for path in root.rglob("*.yaml"))


def find_yaml(path_or_name: str | Path) -> Path:
    """A path as it is, or a packaged YAML by its name. A file that exists wins over a name.

    Raises:
        UsageError: neither a file nor a packaged name.
    """
    path = user_path(path_or_name)
    if path.is_file():
        return path
    name = str(path_or_name)
    if name in packaged_names():
        return Path(str(files("usb_active.yaml_configs"))) / f"{name}.yaml"
    what = "is a folder" if path.is_dir() else "no such file"
    raise UsageError(f"{name}: {what}, and no packaged configuration has this name{nearest(name, packaged_names())}")


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a file. UsageError when it cannot be read or is no mapping."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read: {error}") from error
    value = parse_yaml(text, str(path))
    if not isinstance(value, dict):
        raise UsageError(f"{path}: must be a mapping of keys to values, not {type(value).__name__}")
    for key in value:
        if not isinstance(key, str):
            raise UsageError(f"{path}: {key!r}: keys must be texts")
    return value


def apply_overrides(data: dict[str, Any], overrides: Iterable[str]) -> list[str]:
    """Put each `a.b=value` into `data`; the value is YAML. A plugin's short form is opened up: `active.oracle.x=1`.

    Returns the dotted keys that were set.
    """
    changed = []
    for override in overrides:
        dotted, equals, text = override.partition("=")
        dotted = dotted.strip()
        if not equals or not all(dotted.split(".")):
            raise UsageError(f"--set {override}: must be key=value, as in active.budget=50")
        _set(data, dotted, parse_yaml(text, f"--set {dotted}"))
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
            raise UsageError(f"--set {dotted}: {'.'.join(parents[: depth + 1])} is a {type(child).__name__}, it has no keys")
        data[parent] = dict(child)
        data = data[parent]
    data[last] = value
