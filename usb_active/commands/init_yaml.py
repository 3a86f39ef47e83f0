"""A configuration as YAML, with the reason for each value in a comment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from usb_active.errors import plain
from usb_active.storage.yaml_input import yaml_on_one_line

# From here on a line has its comment above it.
_WIDTH = 100
# Blocks whose keys have a line each.
_OPEN = ("dataset", "active")


def commented(data: Mapping[str, Any], reasons: Mapping[str, str], head: list[str]) -> str:
    """The text of a YAML.

    Args:
        data: plain values.
        reasons: dotted key → why; keys without one have no comment.
        head: comment lines at the top.
    """
    lines = [f"# {plain(line)}".rstrip() for line in head]
    lines += _lines(data, reasons, "", "")
    return "\n".join(lines) + "\n"


def _lines(data: Mapping[str, Any], reasons: Mapping[str, str], indent: str, prefix: str) -> list[str]:
    shown = {}
    for key, value in data.items():
        if not prefix and key in _OPEN and isinstance(value, Mapping):
            shown[key] = f"{key}:"
        else:
            shown[key] = f"{indent}{key}: {yaml_on_one_line(value)}"
    fits = [len(text) for text in shown.values() if len(text) <= 46]
    column = max(fits, default=0) + 2
    lines = []
    for key, text in shown.items():
        why = plain(reasons.get(f"{prefix}{key}", ""))
        if not why:
            lines.append(text)
        elif len(text) >= column or column + len(why) > _WIDTH + 30:
            lines += [f"{indent}# {why}", text]
        else:
            lines.append(f"{text.ljust(column)}# {why}")
        if text.endswith(":") and isinstance(data[key], Mapping):
            lines += _lines(data[key], reasons, indent + "  ", f"{prefix}{key}.")
    return lines
