"""The pages made from the code: every key, plugin, command and public name is there, with its default; links of included pages."""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import sys
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Annotated, Literal

import pytest
import yaml
from pydantic import BaseModel, Field

import usb_active
from usb_active.cli import build_parser
from usb_active.config.settings import DEFAULTS, ActiveConfig, ActiveKeys, InitialKeys, PriorKeys, config_from_dict
from usb_active.config.usb_keys import ALGORITHMS, BASE, DERIVED, FIXED, IGNORED, NEWER, RENAMED, algorithm_keys
from usb_active.contracts.registry import GROUP, REGISTRY, Declaration

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"


def load_generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_generate", DOCS / "generate.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


generate = load_generator()


def rows(page: str) -> list[dict[str, str]]:
    """The rows of all tables of a page, by the heads of their columns."""
    found: list[dict[str, str]] = []
    head: list[str] = []
    for line in page.splitlines():
        if not line.startswith("|"):
            head = []
            continue
        cells = [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if not head:
            head = cells
        elif set(cells) != {":---"}:
            found.append(dict(zip(head, cells, strict=True)))
    return found


def section(page: str, heading: str) -> str:
    """What stands below a heading, up to the next one of its level or a higher one."""
    level = heading.partition(" ")[0]
    _, found, rest = page.partition(f"{heading}\n")
    assert found, f"no {heading!r}"
    return re.split(rf"^#{{1,{len(level)}}} ", rest, maxsplit=1, flags=re.MULTILINE)[0]


def plain_default(value: object) -> str:
    """A default as a cell shows it, written down apart from the generator."""
    if value is None or isinstance(value, bool):
        return f"`{json.dumps(value)}`"
    return f"`{value}`" if value != "" else "`''`"


# --- the `active:` block ---------------------------------------------------------------------------------------------------


def test_every_key_of_the_active_block_is_there_with_default_and_description():
    page = generate.active_page()
    block, *_ = re.split(r"^## ", page, maxsplit=1, flags=re.MULTILINE)
    found = {row["key"].strip("`"): row for row in rows(block)}
    assert set(found) == set(ActiveConfig.model_fields)
    for name, info in ActiveKeys.model_fields.items():
        assert found[name]["default"] == ("required" if info.is_required() else plain_default(info.default))
    for name, info in ActiveConfig.model_fields.items():
        assert info.description and info.description in found[name]["what"]
    assert found["validation"]["range"] == "[0, 0.5]" and found["cycles"]["range"] == "[0, ∞)"
    assert "resumed" in found["cycles"]["what"] and "resumed" not in found["budget"]["what"]


@pytest.mark.parametrize("heading, model", [("## `initial:`", InitialKeys), ("## `prior:`", PriorKeys)])
def test_the_keys_beside_a_plugins_own_are_there(heading, model):
    found = {row["key"].strip("`"): row for row in rows(section(generate.active_page(), heading))}
    assert set(found) == set(model.model_fields)
    for name, info in model.model_fields.items():
        assert found[name]["what"] == info.description and found[name]["default"] == plain_default(info.default)


def test_the_defaults_are_those_of_a_configuration_that_says_nothing(tmp_path):
    block = {"initial": {"name": "random", "size": 10}, "acquisition": "random", "cycles": 1, "budget": 5}
    config = config_from_dict({"active": block}, base=tmp_path, source="x.yaml").resolved()
    for name, value in config["active"].items():
        if name not in block and value is not None:
            assert yaml.safe_load(generate.block_default(name)) == value, name
    assert {name: config[name] if name == "algorithm" else config[name]["name"] for name in DEFAULTS} == DEFAULTS


def test_the_page_about_yamls_has_the_block_that_the_models_make():
    page = (DOCS / "yaml.md").read_text(encoding="utf-8")
    assert f"```yaml\n{generate.commented_block()}```\n" in page, "put the text of docs/generate.py's commented_block() there"


# --- plugins ---------------------------------------------------------------------------------------------------------------


def declared() -> list[Declaration]:
    """What the package's own entry points declare."""
    entries = [entry for entry in entry_points(group=GROUP) if entry.value.startswith("usb_active.")]
    return [item for entry in entries for item in entry.load().PLUGINS]


def test_the_page_lists_the_plugins_of_this_package_and_no_others():
    assert {(item.kind, item.name) for item in generate.shipped()} == {(item.kind, item.name) for item in declared()}


def check_plugins(declarations: list[Declaration], keys_of) -> None:
    assert declarations
    page = generate.plugins_page(declarations)
    for item in declarations:
        text = section(page, f"### `{item.name}` {{ #{item.kind}-{item.name} }}")
        assert item.summary in text
        found = {row["key"].strip("`"): row["default"] for row in rows(text) if "key" in row}
        assert found == keys_of(item), item


def config_defaults(item: Declaration) -> dict[str, str]:
    fields = REGISTRY.get(item.kind, item.name).Config.model_fields
    return {name: "required" if info.is_required() else plain_default(info.default) for name, info in fields.items()}


def test_every_plugin_is_there_with_its_keys_and_defaults():
    for kind in sorted({item.kind for item in declared()} - {"algorithm"}):
        # By kind: names of two kinds may be the same.
        check_plugins([item for item in declared() if item.kind == kind], config_defaults)


@pytest.mark.slow
def test_every_algorithm_is_there_with_its_keys_and_defaults():
    algorithms = [item for item in declared() if item.kind == "algorithm"]
    check_plugins(algorithms, lambda item: {name: plain_default(key.default) for name, key in algorithm_keys(item.name).items()})


def test_keys_that_may_change_are_marked():
    (csv,) = [item for item in declared() if (item.kind, item.name) == ("oracle", "csv")]
    (row,) = rows(generate.plugin_section(csv))
    assert row["key"] == "`accept_partial`" and row["what"] == generate.FREE


# --- USB's keys ------------------------------------------------------------------------------------------------------------


def test_every_key_of_usb_is_there_with_its_default():
    page = generate.usb_page()
    base = {row["key"].strip("`"): row for row in rows(page.split("## What USB's own YAMLs set besides")[0]) if "type" in row}
    assert set(base) == set(BASE)
    for name, key in BASE.items():
        default = None if name in ("num_classes", "img_size") else key.default
        assert base[name]["default"] == plain_default(default), name
    for name, (_, reason) in FIXED.items():
        assert reason in base[name]["note"]
    for name in DERIVED:
        assert base[name]["note"]
    assert base["optim"]["range"] == "`SGD`, `AdamW`" and base["ema_m"]["range"] == "[0, 1)" and base["lr"]["range"] == "(0, ∞)"


def test_the_keys_of_every_algorithm_of_usb_are_there():
    page = generate.usb_page()
    for algorithm, keys in ALGORITHMS.items():
        found = {row["key"].strip("`"): row["default"] for row in rows(section(page, f"### `{algorithm}`"))}
        assert found == {name: plain_default(key.default) for name, key in keys.items()}


def test_keys_that_are_dropped_or_renamed_are_named():
    found = {row["key"].strip("`") for row in rows(section(generate.usb_page(), "## What USB's own YAMLs set besides"))}
    assert found == {*IGNORED, *NEWER, *RENAMED}


def test_the_three_keys_that_name_plugins_have_their_defaults():
    found = {row["key"].strip("`"): row["default"].strip("`") for row in rows(generate.usb_page()) if set(row) == {"key", "default"}}
    assert found == DEFAULTS


# --- commands and Python ---------------------------------------------------------------------------------------------------


def test_every_command_and_option_is_there_whatever_the_terminal_is(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    page = generate.commands_page()
    monkeypatch.setenv("COLUMNS", "200")
    assert generate.commands_page() == page
    (commands,) = [action for action in build_parser()._actions if isinstance(action, argparse._SubParsersAction)]
    for name, command in commands.choices.items():
        text = section(page, f"## `usb-active {name}`")
        for action in command._actions:
            assert all(option in text for option in action.option_strings), (name, action)
            assert not action.help or "".join(action.help.split()) in "".join(text.split())
    assert "exit codes:" in section(page, "## `usb-active`")


def test_every_public_name_is_there():
    names = re.findall(r"^::: (\S+)$", generate.api_page(), re.MULTILINE)
    assert {f"usb_active.{name}" for name in usb_active.__all__} <= set(names)
    files = {path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".") for path in (ROOT / "usb_active/numerics").rglob("*.py")}
    modules = {name.removesuffix(".__init__") for name in files if not name.rpartition(".")[2].startswith("_") or name.endswith("__init__")}
    assert {name for name in names if name.startswith("usb_active.numerics.")} == modules - {"usb_active.numerics"}


# --- words for types and ranges --------------------------------------------------------------------------------------------


class Sample(BaseModel):
    path: Path
    number: float = Field(0.5, gt=0, lt=1)
    most: int | None = Field(None, le=7)
    kind: Literal["a", "b"] | None = None
    sizes: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1)] | None = None
    ends: tuple[float, float] = (0.0, 1.0)
    names: tuple[str, ...] = ()


def test_types_and_ranges_in_words():
    found = {name.strip("`"): (kind, default, valid) for name, kind, default, valid, _ in generate.model_rows(Sample)}
    assert found == {
        "path": ("path", "required", ""),
        "number": ("number", "`0.5`", "(0, 1)"),
        "most": ("integer or null", "`null`", "(−∞, 7]"),
        "kind": ("`a` or `b` or null", "`null`", ""),
        "sizes": ("list (integer) or null", "`null`", ""),
        "ends": ("list of 2 (number)", "`[0.0, 1.0]`", ""),
        "names": ("list (text)", "`[]`", ""),
    }


def test_a_table_escapes_bars_and_leaves_out_empty_columns():
    assert generate.table(("a", "b", "c"), [("x|y", "", "1"), ("z", "", "")]) == "| a | c |\n| :--- | :--- |\n| x\\|y | 1 |\n| z |  |\n"


# --- links of the pages ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "source, page, text, expected",
    [
        ("README.md", "index.md", "[docs](docs/jlp.md#keys)", "[docs](jlp.md#keys)"),
        ("README.md", "index.md", "![a](docs/a.png)", "![a](a.png)"),
        ("README.md", "index.md", "[CONTRIBUTING.md](CONTRIBUTING.md)", "[CONTRIBUTING.md](contributing.md)"),
        ("docs/yaml.md", "yaml.md", "[site](../README.md#documentation)", "[site](index.md#documentation)"),
        ("docs/versions.md", "versions.md", "[.ci/versions](../.ci/versions)", "`.ci/versions`"),
        ("CONTRIBUTING.md", "contributing.md", "[`killer`](tests/killer.py), [Style](#style)", "`killer`, [Style](#style)"),
        ("README.md", "index.md", "[USB](https://example.org/x)", "[USB](https://example.org/x)"),
        ("README.md", "index.md", "```python\n[a](docs/b.md)\n```", "```python\n[a](docs/b.md)\n```"),
        ("docs/a.md", "reference/b.md", "[x](c.md)", "[x](../c.md)"),
    ],
)
def test_links_lead_to_pages_of_the_site(source, page, text, expected):
    assert generate.site_links(text, source, page) == expected


def nav_pages(item: object) -> list[str]:
    if isinstance(item, str):
        return [item]
    children = item.values() if isinstance(item, dict) else item
    return [page for child in children for page in nav_pages(child)]


def test_the_navigation_has_every_page_once():
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    pages = [*(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")), *generate.GENERATED, *generate.INCLUDED]
    assert sorted(nav_pages(settings["nav"])) == sorted(pages)
    assert all((ROOT / source).is_file() for source in generate.INCLUDED.values())
    assert settings["strict"] is True
