"""What the package offers, and that the plugins it ships are made of nothing else."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import usb_active
from usb_active.contracts.registry import CONTRACTS

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted((ROOT / "plugins").rglob("*.py"))


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


# ------------------------------------------------------------------------------------------------- the package's own


def test_type_checkers_see_the_same_names_as_python():
    (block,) = [node for node in tree(ROOT / "usb_active/__init__.py").body if isinstance(node, ast.If)]
    assert block.test.id == "TYPE_CHECKING"
    seen = {}
    for node in block.body:
        for alias in node.names:
            # With `as`, and under its own name: only so is it public under PEP 484.
            assert alias.asname == alias.name
            seen[alias.name] = node.module
    assert seen == usb_active._PUBLIC


def test_every_public_name_is_there_and_once():
    values = {name: getattr(usb_active, name) for name in usb_active.__all__}
    assert usb_active.__all__ == sorted(usb_active._PUBLIC) and None not in values.values()
    assert len({id(value) for value in values.values()}) == len(values)
    assert not [name for name in values if name.startswith("_")]


def test_a_name_stands_for_one_thing():
    # Every program has a `main`, and most a parser.
    entry_points = {"main", "build_parser"}
    places: dict[str, list[str]] = {}
    for path in sorted((ROOT / "usb_active").rglob("*.py")):
        for node in tree(path).body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert len(places) > 500 and entry_points <= set(places)
    assert not {name: found for name, found in places.items() if len(found) > 1 and name not in entry_points}


@pytest.mark.parametrize("kind", CONTRACTS)
def test_every_contract_is_public(kind):
    module, _, name = CONTRACTS[kind][0].partition(":")
    assert getattr(usb_active, name) is getattr(importlib.import_module(module), name) and name in usb_active.__all__


# ------------------------------------------------------------------------------------------------- what plugins import


def documented() -> list[str]:
    """The modules that a plugin may import, by CONTRIBUTING.md; `package.*` stands for all of a package."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = text.partition("\n### What a plugin may import\n")[2].partition("\n## ")[0]
    return re.findall(r"^\| `(usb_active[\w.*]*)` \|", section, re.MULTILINE)


def allows(module: str, row: str) -> bool:
    return f"{module}.".startswith(row[:-1]) if row.endswith(".*") else module == row


def imports() -> Iterator[tuple[str, str, str]]:
    """(place, module, name) of everything that a shipped plugin imports of the core."""
    for path in FILES:
        for node in ast.walk(tree(path)):
            place = f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.Import):
                yield from ((place, alias.name, "") for alias in node.names if alias.name.partition(".")[0] == "usb_active")
            elif isinstance(node, ast.ImportFrom) and node.module.partition(".")[0] == "usb_active":
                if not node.module.startswith("usb_active.plugins"):
                    yield from ((place, node.module, alias.name) for alias in node.names)


IMPORTS = list(imports())


def test_plugins_import_what_contributing_says_and_it_says_no_more():
    rows = documented()
    assert rows[0] == "usb_active" and len(IMPORTS) > 50
    wrong = [f"{place}: {module} is not public" for place, module, _ in IMPORTS if not any(allows(module, row) for row in rows)]
    unused = [row for row in rows if not any(allows(module, row) for _, module, _ in IMPORTS)]
    assert not wrong and not unused


def test_plugins_import_public_names():
    assert not [problem for place, module, name in IMPORTS if (problem := fault(place, module, name))]


def fault(place: str, module: str, name: str) -> str:
    """What is wrong with a name that a plugin takes from a public module; "" if nothing is."""
    where = f"{place}: {name or module}"
    if not name:
        return f"{where}: write `from {module} import …`"
    if name.startswith("_"):
        return f"{where}: private"
    found = importlib.import_module(module)
    if hasattr(found, "__all__"):
        return "" if name in found.__all__ else f"{where}: not in {module}.__all__"
    node = definitions(module).get(name)
    if node is None:
        return f"{where}: not defined in {module}"
    has_text = not isinstance(node, (ast.FunctionDef, ast.ClassDef)) or ast.get_docstring(node)
    return "" if has_text else f"{where}: no docstring"


@cache
def definitions(module: str) -> dict[str, ast.AST]:
    """What stands at the top of a module, imports left out."""
    found: dict[str, ast.AST] = {}
    for node in tree(Path(importlib.import_module(module).__file__)).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found[node.name] = node
        for target in node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []:
            found |= {name.id: node for name in ast.walk(target) if isinstance(name, ast.Name)}
    return found


@pytest.mark.parametrize(
    ("module", "name", "problem"),
    [
        ("usb_active.errors", "", "write `from usb_active.errors import …`"),
        ("usb_active.errors", "_escaped", "private"),
        ("usb_active", "RunDir", "not in usb_active.__all__"),
        ("usb_active.numerics.arrays", "Callable", "not defined in usb_active.numerics.arrays"),
        ("usb_active.numerics.arrays", "absent", "not defined in usb_active.numerics.arrays"),
    ],
)
def test_what_is_not_public_is_found(module, name, problem):
    assert fault("here", module, name) == f"here: {name or module}: {problem}"
