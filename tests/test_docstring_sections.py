"""Sections of docstrings, which the reference shows: one item per line, and of public names every parameter and attribute."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from docstring_sections import attributes, documented, faults, names, parameters, sections

import usb_active
import usb_active.numerics

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("folder", ["usb_active", "plugins", "docs"])
def test_sections_have_one_item_per_line(folder):
    found = [(path, list(documented(path))) for path in sorted((ROOT / folder).rglob("*.py"))]
    assert sum(len(nodes) for _, nodes in found) > 0
    assert not [f"{path.relative_to(ROOT)}: {fault}" for path, nodes in found for node in nodes for fault in faults(*node)]


def public() -> Iterator[tuple[str, Any]]:
    """The names of the reference, and what they name, with the methods that a class itself defines."""
    walked = pkgutil.walk_packages(usb_active.numerics.__path__, f"{usb_active.numerics.__name__}.")
    modules = [importlib.import_module(module.name) for module in walked if "._" not in module.name]
    found = {name: getattr(usb_active, name) for name in usb_active.__all__}
    found |= {f"{module.__name__}.{name}": value for module in modules for name, value in vars(module).items() if not name.startswith("_")}
    for name, value in found.items():
        if inspect.isfunction(value) or inspect.isclass(value) and value.__module__.startswith("usb_active"):
            yield name, value
        if inspect.isclass(value) and value.__module__.startswith("usb_active"):
            # Also of a classmethod.
            methods = ((own, getattr(method, "__func__", method)) for own, method in vars(value).items() if not own.startswith("_"))
            yield from ((f"{name}.{own}", method) for own, method in methods if inspect.isfunction(method))


PUBLIC = dict(public())


def signature(value: Any) -> list[str]:
    return [name for name in inspect.signature(value).parameters if name not in ("self", "cls")]


def fields(cls: type) -> list[str]:
    """Of a dataclass or a NamedTuple; none of another class."""
    return [field.name for field in dataclasses.fields(cls)] if dataclasses.is_dataclass(cls) else list(getattr(cls, "_fields", ()))


def own_sections(value: Any) -> dict[str, list[str]]:
    return sections(value.__doc__ or "")


def test_an_args_section_has_every_parameter_in_order():
    with_args = {name: value for name, value in PUBLIC.items() if "Args" in own_sections(value)}
    assert len(with_args) > 10
    wrong = {name: (names(own_sections(value)["Args"]), signature(value)) for name, value in with_args.items()}
    assert not {name: (shown, there) for name, (shown, there) in wrong.items() if shown != there}


def test_an_attributes_section_has_every_field_in_order():
    """Of a dataclass or a NamedTuple."""
    classes = {name: value for name, value in PUBLIC.items() if inspect.isclass(value) and fields(value)}
    assert len(classes) > 10
    wrong = {name: (names(own_sections(value).get("Attributes", [])), fields(value)) for name, value in classes.items()}
    assert not {name: (shown, there) for name, (shown, there) in wrong.items() if shown != there}


def test_an_attributes_section_has_what_a_subclass_must_set_and_nothing_unknown():
    classes = {name: value for name, value in PUBLIC.items() if inspect.isclass(value) and not fields(value)}
    shown = {name: names(own_sections(value)["Attributes"]) for name, value in classes.items() if "Attributes" in own_sections(value)}
    assert len(shown) > 2
    for name, items in shown.items():
        node = ast.parse(inspect.getsource(classes[name])).body[0]
        bare = [inner.target.id for inner in node.body if isinstance(inner, ast.AnnAssign) and inner.value is None]
        assert not set(items) - set(attributes(node)), name
        assert not {one for one in bare if not one.startswith("_")} - set(items), name


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("a: the first. b: the second.", "f: Args: b on the line of a"),
        ("a: the first,\n            as it is. b: the second.", "f: Args: b on the line of a"),
        ("a, b: both.", "f: Args: no `name: text`: a, b: both."),
        ("a: the first.\n        b:", "f: Args: no `name: text`: b:"),
        ("a: the first; c: no parameter.\n        b: (N,): the second.", ""),
    ],
)
def test_items_that_share_a_line_are_found(text, fault):
    (node,) = ast.parse(f'def f(a, b):\n    """Text.\n\n    Args:\n        {text}\n\n    More text: a: b.\n    """').body
    assert "; ".join(faults(node, sections(ast.get_docstring(node)))) == fault
    (node,) = ast.parse('class C:\n    """Attributes:\n        x: as a section this has no item.\n    """').body
    assert list(faults(node, sections(ast.get_docstring(node)))) == ["C: Attributes: no item below it"]


def test_parameters_leave_out_what_is_not_passed():
    (node,) = ast.parse("def f(self, a, /, *rest, b, **more): pass").body
    assert parameters(node) == ["a", "rest", "b", "more"]
