"""Named plugins of every kind: declared light, imported when asked for, checked when registered.

A distribution declares plugins by an entry point of the group `usb_active.plugins` that names a module; that module, light
to import, holds `PLUGINS`, a list of `Declaration`s. A module or file named in a YAML's `plugins:` may do the same, or use
the `register_plugin` decorator. Nothing here knows a plugin's name.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from usb_active.contracts.file_imports import import_file
from usb_active.contracts.misspelling import misspelt, misspelt_method
from usb_active.contracts.plugin import Plugin, optional_methods, overrides
from usb_active.errors import UsageError, nearest, plain, printable
from usb_active.records import RESERVED

GROUP = "usb_active.plugins"

# Base class of each kind, and the methods a plugin must define, with their positional parameters after `self`.
CONTRACTS: dict[str, tuple[str, dict[str, tuple[str, ...]]]] = {
    "acquisition": ("usb_active.contracts.acquisition:Acquisition", {"select": ("view", "budget")}),
    "initial_labels": ("usb_active.contracts.initial_labels:InitialLabels", {"known_labels": ("view",)}),
    "features": ("usb_active.contracts.features:Features", {"get": ("view",)}),
    "prior": ("usb_active.contracts.prior:Prior", {"fit": ("view", "when")}),
    "analysis": ("usb_active.contracts.analysis:Analysis", {"report": ("run", "out")}),
    "pretrainer": ("usb_active.contracts.pretrainer:Pretrainer", {"run": ("build_net", "dataset", "scratch", "rng", "device")}),
    "oracle": ("usb_active.contracts.oracle:Oracle", {"collect": ("query",)}),
    "dataset": ("usb_active.contracts.dataset:Dataset", {"prepare": (), "load": ("index",)}),
    "network": ("usb_active.contracts.network:Network", {"build": ("num_classes", "img_size", "in_channels")}),
    "algorithm": ("usb_active.contracts.algorithm:OwnAlgorithm", {"train_step": ()}),
}
# Kinds whose base says what may be defined, and need not be derived from: USB's own algorithms are plugins too.
DUCK_TYPED = frozenset({"algorithm"})
# What `active.initial` may name: a plugin that chooses, or one that brings labels. So no name may be of both.
INITIAL_KINDS = ("acquisition", "initial_labels")
_CHOOSING = ("extra_loss", "select", "pseudo_labels", "include_labeled")
_STAGES = ("before_run", "before_train_epoch", "before_train_step", "after_train_step", "after_train_epoch", "after_run")
_WATCHING = ("choose_hidden_modules", "setup", "observe", "on_interval", "state_dict", "load_state_dict", *_STAGES)
# What a plugin of a kind must not define, and why: this kind promises not to have its effect, or it would never be called.
FORBIDDEN: dict[str, tuple[tuple[str, ...], str]] = {
    "acquisition": (
        ("known_labels", "known_skips", "known_audit"),
        "an acquisition chooses; a plugin that brings labels is of kind initial_labels, derived from usb_active.InitialLabels",
    ),
    "initial_labels": ((*_CHOOSING, *_WATCHING), "it brings labels before the first training, and is asked for nothing else"),
    "analysis": ((*_CHOOSING, "known_labels", "known_skips", "known_audit"), "an analysis only observes"),
}


@dataclass(frozen=True)
class Declaration:
    """A plugin as its module declares it: enough to list it without importing it.

    Attributes:
        kind: one of the kinds of plugins, such as "acquisition".
        name: what a YAML calls it.
        target: "module:attribute".
        summary: one line.
        origin: which distribution declares it; filled in by the registry.
    """

    kind: str
    name: str
    target: str
    summary: str
    origin: str = ""


class PluginImportError(UsageError):
    """A plugin was found but does not import."""


def resolve(target: str) -> Any:
    """The object named "module:attribute"."""
    module, _, attribute = target.partition(":")
    value = importlib.import_module(module)
    for part in attribute.split("."):
        value = getattr(value, part)
    return value


class Registry:
    """All plugins known to this process."""

    def __init__(self) -> None:
        self._declared: dict[tuple[str, str], Declaration] = {}
        self._classes: dict[tuple[str, str], type] = {}
        self.broken: dict[str, str] = {}
        self._discovered = False

    def declare(self, declaration: Declaration) -> None:
        """Make a plugin known.

        Raises:
            UsageError: the kind is unknown, or the name is taken, by a kind of the same key too (says where), or means something else in
                labels.csv.
        """
        if declaration.kind not in CONTRACTS:
            raise UsageError(f"{declaration.origin}: unknown plugin kind '{declaration.kind}'{nearest(declaration.kind, CONTRACTS)}")
        _check_reserved(f"{declaration.origin}: {declaration.kind}", declaration.kind, declaration.name)
        for kind in (declaration.kind, *(INITIAL_KINDS if declaration.kind in INITIAL_KINDS else ())):
            holder = self._declared.get((kind, declaration.name))
            if holder is not None and replace(holder, summary=declaration.summary) != declaration:
                holds = f"{holder.origin} ({holder.target})"
                if kind != declaration.kind:
                    holds += f", as {kind}; active.initial takes both kinds, which share their names"
                raise UsageError(f"{declaration.origin}: {declaration.kind} '{declaration.name}' is already registered by {holds}")
        self._declared[declaration.kind, declaration.name] = declaration

    def add(self, kind: str, name: str, cls: type, summary: str | None = None) -> type:
        """Register a class at once, checked. Summary: the first line of its docstring unless given."""
        origin = _origin(cls)
        if summary is None:
            summary = (inspect.getdoc(cls) or "").partition("\n")[0]
        # Named before the check, so that a name that is taken is reported even when the class is broken as well.
        declaration = Declaration(kind, name, f"{cls.__module__}:{cls.__qualname__}", summary, origin)
        self.declare(declaration)
        try:
            check_contract(kind, name, cls)
        except UsageError:
            del self._declared[kind, name]
            raise
        self._classes[kind, name] = _named(cls, name)
        return cls

    def discover(self) -> None:
        """Read the entry points of the group, once. One that fails is kept in `broken` and does not affect the others."""
        if self._discovered:
            return
        self._discovered = True
        for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
            origin = f"{entry.dist.name} ({entry.value})" if entry.dist else entry.value
            try:
                self._declare_all(entry.load(), origin)
            except Exception as error:  # any failure of foreign code is reported by name, and stays its own
                self.broken[origin] = f"{type(error).__name__}: {error}"

    def _declare_all(self, module: Any, origin: str) -> None:
        for declaration in getattr(module, "PLUGINS", ()):
            self.declare(replace(declaration, origin=origin))

    def load_modules(self, modules: Iterable[str], base: Path | None = None) -> None:
        """Import what a YAML's `plugins:` names: module names, or paths of .py files (relative to `base`)."""
        self.discover()
        for name in modules:
            try:
                module = import_file((base or Path()) / name) if name.endswith(".py") else importlib.import_module(name)
            except UsageError:
                raise
            except Exception as error:
                raise PluginImportError(f"plugins: '{plain(name)}' does not import: {type(error).__name__}: {error}") from error
            self._declare_all(module, name)

    def names(self, kind: str) -> list[str]:
        """All names of a kind, sorted."""
        self.discover()
        return sorted(name for other, name in self._declared if other == kind)

    def declarations(self) -> list[Declaration]:
        """All plugins, by kind and name."""
        self.discover()
        return sorted(self._declared.values(), key=lambda d: (list(CONTRACTS).index(d.kind), d.name))

    def kind_of(self, name: str, *kinds: str) -> str:
        """The one of these kinds that has a plugin of this name. UsageError where none has (with the nearest name of all)."""
        self.discover()
        for kind in kinds:
            if (kind, name) in self._declared:
                return kind
        hint = f" (plugins that failed to import: {'; '.join(f'{k}: {v}' for k, v in self.broken.items())})" if self.broken else ""
        known = [other for kind in kinds for other in self.names(kind)]
        raise UsageError(f"unknown {' or '.join(kinds)} '{printable(name)}'{nearest(name, known)}{hint}")

    def get(self, kind: str, name: str) -> type[Any]:
        """The checked class. UsageError for an unknown name (with the nearest), PluginImportError when it does not import."""
        self.kind_of(name, kind)
        declaration = self._declared[kind, name]
        if (kind, name) not in self._classes:
            self._classes[kind, name] = self._import(declaration)
        return self._classes[kind, name]

    def _import(self, declaration: Declaration) -> type:
        try:
            cls = resolve(declaration.target)
        except UsageError:
            raise
        except Exception as error:
            raise PluginImportError(
                f"{declaration.kind} '{declaration.name}' ({declaration.target}, from {declaration.origin}) does not import: "
                f"{type(error).__name__}: {error}"
            ) from error
        check_contract(declaration.kind, declaration.name, cls)
        return _named(cls, declaration.name)


def _check_reserved(who: str, kind: str, name: str) -> None:
    if kind in INITIAL_KINDS and name in RESERVED:
        raise UsageError(f"{who} '{name}': the name means something else in the column acquisition of labels.csv; choose another")


def _named(cls: type, name: str) -> type:
    """The class knows the name under which it is asked for; the first one, should there be several."""
    if issubclass(cls, Plugin) and "name" not in cls.__dict__:
        cls.name = name
    return cls


def check_contract(kind: str, name: str, cls: Any) -> None:
    """UsageError that names plugin, method and signature when a class does not fulfil its kind's contract."""
    base_target, required = CONTRACTS[kind]
    where = f"{kind} '{name}' ({getattr(cls, '__module__', '?')}:{getattr(cls, '__qualname__', cls)})"
    if not inspect.isclass(cls):
        raise UsageError(f"{where}: must be a class")
    base = resolve(base_target)
    if not issubclass(cls, base) and kind not in DUCK_TYPED:
        raise UsageError(f"{where}: must derive from usb_active.{base.__name__}")
    # It goes by the name that it gives itself, if it does.
    _check_reserved(f"{where}: its name", kind, cls.__dict__.get("name", name))
    forbidden, reason = FORBIDDEN.get(kind, ((), ""))
    _check_spelling(where, cls, base, {*required, *forbidden})
    for method in forbidden:
        if hasattr(cls, method):
            raise UsageError(f"{where}: must not define {method}: {reason}")
    for method, parameters in required.items():
        if getattr(cls, method, None) is getattr(base, method, None):
            raise UsageError(f"{where}: must define {method}({', '.join(('self', *parameters))})")
    for method, parameters in required.items():
        if callable(getattr(cls, method, None)):
            _check_signature(where, cls, method, parameters)
    for method in optional_methods(base):
        if overrides(cls, method):
            _check_signature(where, cls, method, *_parameters(base, method))


def _parameters(base: type, method: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What the core gives an optional method: by position, after `self`; and by name, to those that take it."""
    given = list(inspect.signature(getattr(base, method)).parameters.values())[1:]
    by_name = tuple(parameter.name for parameter in given if parameter.kind is parameter.KEYWORD_ONLY)
    return tuple(parameter.name for parameter in given if parameter.name not in by_name), by_name


def _check_spelling(where: str, cls: type, base: type, more: set[str]) -> None:
    """UsageError for public names of a plugin that are one edit away from a name of its contract: they would never be called.

    Names that the class has from elsewhere (another library's class that it derives from) are not its own.

    Args:
        more: names of the contract that the base lacks.
    """
    known = {*_public(base), *more}
    annotated = {name for one in base.__mro__ for name in one.__dict__.get("__annotations__", ())}
    package = cls.__module__.partition(".")[0]
    added = [one for one in cls.__mro__ if one not in base.__mro__]
    own = [one for one in added if issubclass(one, base) or one.__module__.partition(".")[0] == package]
    inherited = {name for one in added if one not in own for name in vars(one)}
    names = dict.fromkeys(name for one in own for name in vars(one) if not name.startswith("_"))
    methods = {name for one in own for name, value in vars(one).items() if inspect.isfunction(value)}
    hooks = optional_methods(base)
    new = [name for name in names if name not in known | annotated | inherited]
    found = {name: misspelt(name, known) or (misspelt_method(name, hooks) if name in methods else None) for name in new}
    wrong = [f"{name}: did you mean '{meant}'?" for name, meant in found.items() if meant]
    if wrong:
        way_out = "a name of the plugin's own that is so near to one of its contract must begin with an underscore"
        raise UsageError(f"{where}: {' '.join(wrong)} ({way_out})")


def _origin(cls: type) -> str:
    """The file that defines a class; its module, where that is a notebook."""
    try:
        return inspect.getsourcefile(cls) or cls.__module__
    except (OSError, TypeError):
        return cls.__module__


def _public(base: type) -> set[str]:
    return {name for name in dir(base) if not name.startswith("_")}


def _check_signature(where: str, cls: type, method: str, parameters: tuple[str, ...], by_name: tuple[str, ...] = ()) -> None:
    if not parameters:
        return
    signature = inspect.signature(getattr(cls, method))
    try:
        signature.bind(None, *parameters, **{name: None for name in by_name if name in signature.parameters})
    except TypeError as error:
        wanted = f"{method}({', '.join(('self', *parameters))})"
        raise UsageError(f"{where}: {method}{signature} cannot be called as {wanted}: {error}") from error


REGISTRY = Registry()


def register_plugin(kind: str, name: str) -> Callable[[type], type]:
    """Class decorator for plugins in a module or file that a YAML's `plugins:` names."""
    return lambda cls: REGISTRY.add(kind, name, cls)
