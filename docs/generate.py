"""The pages of the documentation that are made from the code, so that they cannot go stale, and links of pages that lie elsewhere.

Functions from the package to Markdown; docs/hooks.py gives them to MkDocs, of which nothing is imported here.
"""

from __future__ import annotations

import argparse
import inspect
import os
import pkgutil
import posixpath
import re
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

import usb_active
import usb_active.numerics
from usb_active.cli import build_parser
from usb_active.config.free_keys import FREE_KEYS
from usb_active.config.settings import DEFAULT_PLUGINS, DEFAULTS, ActiveConfig, ActiveKeys, InitialKeys, PriorKeys
from usb_active.config.stop_rules import STOP_RULES
from usb_active.config.usb_keys import ALGORITHMS, BASE, DERIVED, FIXED, FROM_DATASET, IGNORED, NEWER, RENAMED, Key, algorithm_keys, show
from usb_active.contracts.plugin import PluginConfig, free_names
from usb_active.contracts.registry import CONTRACTS, REGISTRY, Declaration

FREE = "may change when a run is resumed"
# What stands in the example of the whole block, where it is not the default. (The package itself names no plugin.)
EXAMPLES = {
    "initial": "{name: random, size: 100}",
    "acquisition": "{name: margin}",
    "cycles": "10",
    "budget": "100",
    "pretrain": "{name: file, path: backbone.pth}",
    "prior": "{name: file, path: prior.npy, until_iter: 5000, then: remove, update_every: null}",
    "analysis": "{name: temporal_instability, interval: 5000}",
    "stop": "[kappa]",
}
_NAMES = {bool: "true or false", int: "integer", float: "number", str: "text", Path: "path", type(None): "null", dict: "mapping"}


# --- Markdown --------------------------------------------------------------------------------------------------------------


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table, without columns that are empty in every row; `|` in cells is escaped."""
    lines = [list(head), *map(list, rows)]
    filled = [number for number in range(len(lines[0])) if any(line[number] for line in lines[1:])]
    lines = [[line[number] for number in filled] for line in lines]
    lines.insert(1, [":---"] * len(lines[0]))
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def code(text: str) -> str:
    """As code; nothing stays nothing."""
    return f"`{text}`" if text else ""


# --- keys of a pydantic model ----------------------------------------------------------------------------------------------


def type_name(annotation: Any) -> str:
    """What a value of this type is, in words."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return type_name(args[0])
    if origin is typing.Literal:
        return " or ".join(code(show_value(value)) for value in args)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(map(type_name, args)))
    if origin in (list, tuple):
        items = dict.fromkeys(type_name(item) for item in args if item is not Ellipsis)
        length = f" of {len(args)}" if origin is tuple and Ellipsis not in args else ""
        return f"list{length} ({', '.join(items)})"
    return _NAMES.get(annotation, getattr(annotation, "__name__", str(annotation)))


def show_value(value: Any) -> str:
    """A default or a valid value as YAML has it."""
    return value if isinstance(value, str) and value else show(list(value) if isinstance(value, tuple) else value)


def value_range(info: FieldInfo) -> str:
    """The interval of a field, as in `[1, ∞)`; "" where every value of the type is valid."""
    bounds = {name: getattr(item, name) for item in info.metadata for name in ("ge", "gt", "le", "lt") if hasattr(item, name)}
    if not bounds:
        return ""
    low = f"[{bounds['ge']:g}" if "ge" in bounds else f"({bounds['gt']:g}" if "gt" in bounds else "(−∞"
    high = f"{bounds['le']:g}]" if "le" in bounds else f"{bounds['lt']:g})" if "lt" in bounds else "∞)"
    return f"{low}, {high}"


def default_of(info: FieldInfo) -> str:
    """The default as code, or that there is none."""
    return "required" if info.is_required() else code(show_value(info.get_default(call_default_factory=True)))


def model_rows(model: type[BaseModel], free: Iterable[str] = ()) -> list[tuple[str, str, str, str, str]]:
    """(key, type, default, range, description) of each field. `free`: those that may change when a run is resumed."""
    rows = []
    for name, info in model.model_fields.items():
        what = "; ".join(filter(None, (info.description, FREE if name in free else "")))
        rows.append((code(name), type_name(info.annotation), default_of(info), value_range(info), what))
    return rows


HEAD = ("key", "type", "default", "range", "what")


# --- the `active:` block ---------------------------------------------------------------------------------------------------


def block_order() -> list[str]:
    """The keys of the block as a reader wants them: what is chosen, the core's keys, further plugins."""
    first = ["initial", "acquisition"]
    own = list(ActiveKeys.model_fields)
    return [*first, *own, *(name for name in ActiveConfig.model_fields if name not in {*first, *own})]


def block_default(name: str) -> str:
    """The default of a key of the block, as YAML; "" where it is required, or absent unless given."""
    if name in DEFAULT_PLUGINS:
        return f"{{name: {DEFAULT_PLUGINS[name]}}}"
    info = ActiveConfig.model_fields[name]
    return "" if info.is_required() or name not in ActiveKeys.model_fields else show_value(info.default)


def commented_block() -> str:
    """A YAML with every key of the block, its default or an example, and its description as a comment."""
    lines = ["# every key of the active: block", "algorithm: fixmatch", "dataset: cifar10", "active:"]
    for name in block_order():
        value = EXAMPLES.get(name) or block_default(name)
        lines.append(f"  {f'{name}: {value}':<34}  # {ActiveConfig.model_fields[name].description}".replace("`", ""))
    return "\n".join(lines) + "\n"


def active_page() -> str:
    """Every key of the `active:` block."""
    free = {name.removeprefix("active.") for name in FREE_KEYS}
    rows = []
    for name in block_order():
        info = ActiveConfig.model_fields[name]
        kind = type_name(info.annotation) if name in ActiveKeys.model_fields else "list of rules" if name == "stop" else "plugin"
        what = "; ".join(filter(None, (info.description, FREE if name in free else "")))
        default = block_default(name)
        rows.append((code(name), kind, code(default) or ("required" if name in ("initial", "cycles") else ""), value_range(info), what))
    parts = [
        "# Keys of the `active:` block\n",
        "A plugin is a name, or a mapping with `name` and [the plugin's own keys](plugins.md).\n",
        table(HEAD, rows),
        "## `initial:`\n\nBeside the plugin's own keys and `features`:\n",
        table(HEAD, model_rows(InitialKeys)),
        "## `prior:`\n\nBeside the plugin's own keys and `features`:\n",
        table(HEAD, model_rows(PriorKeys)),
        "## `stop:`\n\nEach rule is a name, or a mapping with `name` and these keys ([when to stop](../audit.md#when-to-stop)).\n",
        *(f"### `{name}`\n\n{inspect.getdoc(rule)}\n\n{table(HEAD, model_rows(rule))}" for name, rule in STOP_RULES.items()),
    ]
    return "\n".join(parts)


# --- plugins ---------------------------------------------------------------------------------------------------------------


def shipped() -> list[Declaration]:
    """The plugins of this package; others may be installed beside it."""
    return [item for item in REGISTRY.declarations() if re.match(r"usb-active \(", item.origin)]


def plugins_page(declarations: Iterable[Declaration] | None = None) -> str:
    """Each plugin by kind: name, summary, config keys, docstring. Imports them all."""
    found = shipped() if declarations is None else list(declarations)
    parts = ["# Plugins\n", "All that `usb-active list` shows of this package, with the keys that may stand beside `name`.\n"]
    for kind in CONTRACTS:
        own = [item for item in found if item.kind == kind]
        if own:
            parts += [f"## {kind}\n", *(plugin_section(item) for item in own)]
    return "\n".join(parts)


def plugin_section(item: Declaration) -> str:
    """One plugin. The keys of an algorithm stand at the top level of the YAML, with USB's."""
    if item.kind == "algorithm":
        return algorithm_section(item)
    cls = REGISTRY.get(item.kind, item.name)
    rows = model_rows(cls.Config, free_names(cls.Config))
    parts = [f"### `{item.name}` {{ #{item.kind}-{item.name} }}\n", f"{item.summary}\n"]
    if rows:
        parts.append(table(HEAD, rows))
    parts += [folded(title, text) for title, text in (("The class", docstring(cls)), ("Its keys", docstring(cls.Config))) if text]
    return "\n".join(parts)


def algorithm_section(item: Declaration) -> str:
    """An algorithm; the docstrings of USB's own are USB's matter."""
    keys = algorithm_keys(item.name)
    parts = [f"### `{item.name}` {{ #{item.kind}-{item.name} }}\n", f"{item.summary}\n", usb_table(keys) if keys else ""]
    if item.name not in ALGORITHMS:
        parts.append(folded("The class", docstring(REGISTRY.get(item.kind, item.name))))
    return "\n".join(parts)


def docstring(cls: type) -> str:
    """A class's own docstring; "" where it says no more than its base."""
    own = cls.__dict__.get("__doc__") or ""
    return "" if cls is PluginConfig or "No keys of its own" in own else inspect.cleandoc(own)


def folded(title: str, text: str) -> str:
    """A text as it is, shown when the reader asks for it."""
    lines = ["```text", *text.splitlines(), "```"]
    return "\n".join([f'??? note "{title}"', *(f"    {line}".rstrip() for line in lines), ""])


# --- USB's keys ------------------------------------------------------------------------------------------------------------


def usb_range(valid: str | tuple[str, ...]) -> str:
    """The interval, or the list, of the values that are valid."""
    return valid.replace("inf", "∞") if isinstance(valid, str) else ", ".join(map(code, valid))


def usb_note(name: str) -> str:
    """What becomes of a key of USB that is not simply passed on."""
    if name in FIXED:
        return f"this value only: {FIXED[name][1]}"
    if name in DERIVED:
        return "read and checked; the run decides it itself"
    return "; ".join(filter(None, ("the data set's own unless given" if name in FROM_DATASET else "", FREE if name in FREE_KEYS else "")))


def usb_table(keys: Mapping[str, Key]) -> str:
    """Keys of USB or of an algorithm: type, default, range, and what is particular."""
    rows = []
    for name, key in keys.items():
        kind = f"{_NAMES.get(key.type, 'anything')}{' or null' if key.nullable else ''}"
        default = code(show_value(None if name in FROM_DATASET else key.default))
        rows.append((code(name), kind, default, usb_range(key.valid), usb_note(name)))
    return table(("key", "type", "default", "range", "note"), rows)


def usb_page() -> str:
    """USB's keys, and those that each of its algorithms adds."""
    dropped = [(code(name), "read by nothing in USB 0.3.2: dropped with a warning") for name in sorted(IGNORED)]
    dropped += [
        (code(name), f"`{show(only)}` is dropped with a warning; any other value is refused: {what} need a newer USB")
        for name, (only, what) in sorted(NEWER.items())
    ]
    dropped += [(code(old), f"means {code(new)}") for old, new in sorted(RENAMED.items())]
    parts = [
        "# USB's keys\n",
        "The keys of USB 0.3.2's YAMLs, at the top level, beside these three, which name plugins:\n",
        table(("key", "default"), [(code(name), code(value)) for name, value in DEFAULTS.items()]),
        "All others:\n",
        usb_table(BASE),
        "## What USB's own YAMLs set besides\n",
        table(("key", "what becomes of it"), dropped),
        "## Keys of the algorithms\n",
        "Those of algorithms that are plugins are on the page [Plugins](plugins.md#algorithm).\n",
    ]
    for name, keys in ALGORITHMS.items():
        parts.append(f"### `{name}`\n\n{usb_table(keys) if keys else 'None of its own.' + chr(10)}")
    return "\n".join(parts)


# --- commands --------------------------------------------------------------------------------------------------------------


@contextmanager
def columns(width: int) -> Iterator[None]:
    """argparse breaks lines for a terminal of this width, whatever there is."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = str(width)
    try:
        yield
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before


def commands_page(parser: argparse.ArgumentParser | None = None) -> str:
    """The help of every command, as the program prints it."""
    parser = parser or build_parser()
    (commands,) = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    parts = ["# Help of the commands\n"]
    with columns(100):
        for name, command in {"": parser, **commands.choices}.items():
            parts.append(f"## `usb-active{' ' if name else ''}{name}`\n\n```text\n{command.format_help()}```\n")
    return "\n".join(parts)


# --- Python ----------------------------------------------------------------------------------------------------------------


def api_page() -> str:
    """The public names, for mkdocstrings: those of `usb_active`, and the modules of `usb_active.numerics`."""
    parts = ["# Python API\n", "## usb_active\n", "`from usb_active import …`\n"]
    parts += [f"::: usb_active.{name}\n" for name in usb_active.__all__]
    parts += ["## usb_active.numerics\n", "Arrays in, arrays out; no trainer.\n"]
    parts += [f"::: {name}\n    options:\n      show_root_full_path: true\n      members_order: source\n" for name in numerics_modules()]
    return "\n".join(parts)


def numerics_modules() -> list[str]:
    """The modules of `usb_active.numerics`, without private ones."""
    found = pkgutil.walk_packages(usb_active.numerics.__path__, f"{usb_active.numerics.__name__}.")
    return sorted(module.name for module in found if not module.name.rpartition(".")[2].startswith("_"))


# --- pages that lie elsewhere ----------------------------------------------------------------------------------------------

# Page of the site → the function that makes it.
GENERATED: dict[str, Callable[[], str]] = {
    "reference/active.md": active_page,
    "reference/usb_keys.md": usb_page,
    "reference/plugins.md": plugins_page,
    "reference/commands.md": commands_page,
    "reference/api.md": api_page,
}
# Page of the site → the file of the repository that is that page.
INCLUDED = {"index.md": "README.md", "contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}

_FENCE = re.compile(r"(^ *```.*?^ *```[ ]*$)", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(?<!!)\[([^\]\n]+)\]\(([^)\s]+)\)")
_IMAGE = re.compile(r"(!\[[^\]\n]*\])\(([^)\s]+)\)")


def site_links(text: str, source: str, page: str) -> str:
    """A page with its links to files of the repository as links of the site.

    A link to what is no page of the site, such as a module, becomes its text alone.

    Args:
        source: the file's path in the repository, from which its links count.
        page: its path in the site.
    """
    pieces = _FENCE.split(text)
    for number in range(0, len(pieces), 2):
        pieces[number] = _LINK.sub(lambda match: _link(match, source, page), pieces[number])
        pieces[number] = _IMAGE.sub(lambda match: f"{match[1]}({_target(match[2], source, page) or match[2]})", pieces[number])
    return "".join(pieces)


def _link(match: re.Match[str], source: str, page: str) -> str:
    text, link = match[1], match[2]
    if "://" in link or link.startswith(("#", "mailto:")):
        return match[0]
    target = _target(link, source, page)
    return f"[{text}]({target})" if target else text if "`" in text else code(text)


def _target(link: str, source: str, page: str) -> str:
    """The link from a page of the site; "" where it leads out of the site."""
    file, hash_sign, heading = link.partition("#")
    path = posixpath.normpath(posixpath.join(posixpath.dirname(source), file))
    pages = {repository: site for site, repository in INCLUDED.items()}
    site = pages.get(path, path.removeprefix("docs/") if path.startswith("docs/") else "")
    if not site or site.endswith(".py"):
        return ""
    return posixpath.relpath(site, posixpath.dirname(page) or ".") + hash_sign + heading
