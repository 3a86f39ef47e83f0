"""Google sections of docstrings, read as mkdocstrings reads them: one item per line, `name: text`."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

SECTIONS = ("Args", "Attributes", "Raises")
_HEAD = re.compile(r"^(\w+):$")
_ITEM = re.compile(r"^\*{0,2}(\w[\w.]*)(?: \([^)]*\))?: +\S")

Documented = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def sections(text: str) -> dict[str, list[str]]:
    """Section → its items, each on one line, without the indentation. A line that begins no item is one all the same."""
    found: dict[str, list[str]] = {}
    items: list[str] | None = None
    for line in inspect.cleandoc(text).splitlines():
        if head := _HEAD.match(line):
            items = found.setdefault(head[1], []) if head[1] in SECTIONS else None
        elif line and not line.startswith(" "):
            items = None
        elif items is not None and line.strip():
            if line.startswith("     ") and items:
                items[-1] += f" {line.strip()}"
            else:
                items.append(line.strip())
    return found


def names(items: list[str]) -> list[str]:
    """What each item is about; an item that is none stays whole, so that it equals no name."""
    return [match[1] if (match := _ITEM.match(item)) else item for item in items]


def parameters(node: Documented) -> list[str]:
    """The names of a function's parameters, without self and cls; a class's are those of its `__init__`."""
    if isinstance(node, ast.ClassDef):
        made = [inner for inner in node.body if isinstance(inner, ast.FunctionDef) and inner.name == "__init__"]
        return parameters(made[0]) if made else attributes(node)
    args = node.args
    every = [*args.posonlyargs, *args.args, args.vararg, *args.kwonlyargs, args.kwarg]
    return [arg.arg for arg in every if arg is not None and arg.arg not in ("self", "cls")]


def attributes(node: ast.ClassDef) -> list[str]:
    """The public names that a class annotates, assigns, gives to `self`, or has as properties, each once, in order."""
    found: list[str] = []
    for inner in ast.walk(node):
        if isinstance(inner, ast.Assign | ast.AnnAssign):
            for target in inner.targets if isinstance(inner, ast.Assign) else [inner.target]:
                for part in target.elts if isinstance(target, ast.Tuple) else [target]:
                    if isinstance(part, ast.Attribute) and isinstance(part.value, ast.Name) and part.value.id == "self":
                        found.append(part.attr)
                    elif isinstance(part, ast.Name) and inner in node.body:
                        found.append(part.id)
        elif isinstance(inner, ast.FunctionDef) and inner in node.body and any("property" in ast.unparse(d) for d in inner.decorator_list):
            found.append(inner.name)
    return [name for name in dict.fromkeys(found) if not name.startswith("_")]


def documented(path: Path) -> Iterator[tuple[Documented, dict[str, list[str]]]]:
    """The classes and functions of a file whose docstrings have sections."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, Documented) and (text := ast.get_docstring(node)) and (found := sections(text)):
            yield node, found


def faults(node: Documented, found: dict[str, list[str]]) -> Iterator[str]:
    """What is wrong with the sections of a docstring: items that are none, and several on one line."""
    known = {"Args": parameters(node), "Attributes": attributes(node) if isinstance(node, ast.ClassDef) else []}
    for section, items in found.items():
        if not items:
            yield f"{node.name}: {section}: no item below it"
        for item, name in zip(items, names(items), strict=True):
            if not re.fullmatch(r"[\w.]+", name):
                yield f"{node.name}: {section}: no `name: text`: {item}"
                continue
            inner = re.findall(r"(?<=[.;,)]) (\w+): ", item)
            # Exceptions by their spelling, others by their names.
            inner = [other for other in inner if (re.match("[A-Z][a-z]+[A-Z]", other) if section == "Raises" else other in known[section])]
            if inner:
                yield f"{node.name}: {section}: {', '.join(inner)} on the line of {name}"
