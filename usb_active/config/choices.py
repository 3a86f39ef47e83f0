"""What a YAML says of one plugin: its name, and keys that the plugin's own model validates; and the collector of problems."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from usb_active.config.usb_keys import INVALID, NOUNS, convert, noun, quoting_hint, show
from usb_active.contracts.plugin import PluginConfig, stored_keys
from usb_active.contracts.registry import REGISTRY
from usb_active.environment.usb_names import why_not
from usb_active.errors import UsageError, nearest, printable
from usb_active.storage.path_texts import path_problem
from usb_active.storage.paths import user_path


def _number(value: Any) -> Any:
    number = convert(value, float)
    return value if number is INVALID else number


Number = Annotated[float, BeforeValidator(_number)]


class Problems:
    """Collects what is wrong, so that all of it is reported at once."""

    def __init__(self, source: str, overridden: Iterable[str] = ()):
        self.source = source
        self.overridden = tuple(overridden)
        self.lines: list[str] = []
        self.warnings: list[str] = []

    def _line(self, key: str, text: str) -> str:
        # A value given on the command line is not to be looked for in the file.
        given = any(key == dotted or key.startswith(f"{dotted}.") for dotted in self.overridden)
        return f"{'--set' if given else self.source}: {printable(key)}: {text}"

    def add(self, key: str, text: str) -> None:
        self.lines.append(self._line(key, text))

    def warn(self, key: str, text: str) -> None:
        self.warnings.append(self._line(key, text))

    @contextmanager
    def collected(self) -> Iterator[None]:
        """A UsageError inside is kept with the others."""
        try:
            yield
        except UsageError as error:
            self.lines.append(str(error))

    def raise_if_any(self) -> None:
        if self.lines:
            raise UsageError("\n".join(self.lines))


class Strict(BaseModel):
    """Base of the core's own keys: nothing is converted, unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


@dataclass(frozen=True)
class PluginChoice:
    """A plugin that the YAML asks for, with its own keys validated. `features`: where its features come from, if said."""

    kind: str
    name: str
    config: PluginConfig
    features: PluginChoice | None = None

    @property
    def cls(self) -> type:
        """The plugin's class."""
        return REGISTRY.get(self.kind, self.name)

    def make(self, *args: Any, **kwargs: Any) -> Any:
        """An instance: the class called with the validated config, and whatever else its kind takes."""
        return self.cls(self.config, *args, **kwargs)

    def resolved(self) -> dict[str, Any]:
        """The mapping that gives this choice again."""
        extra = {} if self.features is None else {"features": self.features.resolved()}
        return {"name": self.name, **stored_keys(self.config), **extra}


def choose(kind: str, value: Any, where: str, base: Path, problems: Problems, features: bool = False) -> PluginChoice | None:
    """The plugin that `value` asks for: a name, or a mapping with `name` and the plugin's own keys."""
    return choose_with(kind, value, where, base, problems, None, features)[0]


def choose_with(
    kinds: str | tuple[str, ...], value: Any, where: str, base: Path, problems: Problems, core: type[Strict] | None, features: bool = True
) -> tuple[PluginChoice | None, Any]:
    """As `choose`, of one kind or any of several; the keys of the model `core` stand beside the plugin's own: the second result."""
    kinds = (kinds,) if isinstance(kinds, str) else kinds
    keys = {"name": value} if isinstance(value, str) else value
    if not isinstance(keys, dict) or not isinstance(keys.get("name"), str):
        what = "missing" if value is None else f"must be a name, or a mapping with a name ({show(value)})"
        problems.add(where, f"{what}{nearest('', [name for kind in kinds for name in REGISTRY.names(kind)])}")
        return None, None
    core_names = set(core.model_fields) if core else set()
    core_keys = None if core is None else validate(core, {key: keys[key] for key in keys if key in core_names}, where, problems)
    source = None
    if features and keys.get("features") is not None:
        source = choose("features", keys["features"], f"{where}.features", base, problems)
    taken = core_names | {"name"} | ({"features"} if features else set())
    own = {key: item for key, item in keys.items() if key not in taken}
    try:
        kind = REGISTRY.kind_of(keys["name"], *kinds)
        cls = REGISTRY.get(kind, keys["name"])
    except UsageError as error:
        problems.add(where if isinstance(value, str) else f"{where}.name", why_not(kinds[0], keys["name"]) or str(error))
        return None, core_keys
    wrong = {key: what for key in _path_keys(cls.Config) if (what := path_problem(own.get(key)))}
    for key, what in wrong.items():
        problems.add(f"{where}.{key}", what)
    config = None if wrong else validate(cls.Config, _with_base(cls.Config, own, base, where, problems), where, problems, also=taken)
    return None if config is None else PluginChoice(kind, keys["name"], config, source), core_keys


def _with_base(model: type[BaseModel], values: dict[str, Any], base: Path, where: str, problems: Problems) -> dict[str, Any]:
    """Relative paths in a plugin's keys (fields declared as `Path`) count from the YAML's folder; `~` is a home folder."""
    found = dict(values)
    for name in _path_keys(model) & values.keys():
        if isinstance(values[name], str):
            try:
                found[name] = str(base / user_path(values[name]))
            except UsageError as error:
                problems.add(f"{where}.{name}", str(error))
    return found


def _path_keys(model: type[BaseModel]) -> set[str]:
    return {name for name, info in model.model_fields.items() if Path in _alternatives(info.annotation)}


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    is_union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    return typing.get_args(annotation) if is_union else (annotation,)


def validate(model: type[BaseModel], values: dict[str, Any], where: str, problems: Problems, also: Iterable[str] = ()) -> Any:
    """The model's instance, or None with the problems added. `also`: keys known beside the model's, for the nearest name."""
    known = [*model.model_fields, *also]
    try:
        config = model.model_validate(values)
    except ValidationError as error:
        for item in error.errors():
            dotted = ".".join([where, *map(str, item["loc"])])
            problems.add(dotted, _describe(item, known if len(item["loc"]) == 1 else ()))
        return None
    wrong = [(name, _coerced(values[name], getattr(config, name, None))) for name in values]
    for name, wanted in wrong:
        if wanted:
            problems.add(f"{where}.{name}", f"must be {wanted} ({show(values[name])} is {noun(values[name])})")
    return None if any(wanted for _, wanted in wrong) else config


def _coerced(given: Any, value: Any) -> str:
    """What was wanted, where pydantic has quietly made one type of another (a text of digits an integer, true a 1); else ""."""
    if type(value) is int and not (type(given) is int or isinstance(given, float)):
        return NOUNS[int]
    if type(value) is bool and type(given) is not bool:
        return NOUNS[bool]
    if type(value) is float and isinstance(given, bool):
        return NOUNS[float]
    return ""


def _describe(item: Mapping[str, Any], known: Iterable[str]) -> str:
    kind, value = item["type"], show(item["input"])
    if kind == "extra_forbidden":
        return f"unknown key{nearest(item['loc'][-1], known) if known else ''}"
    if kind == "missing":
        return "missing"
    message = item["msg"].removeprefix("Value error, ").removeprefix("Input ")
    hint = quoting_hint(item["input"], str) if kind == "string_type" else ""
    # Of what is wrong with several keys together, the message itself says which.
    given = "" if isinstance(item["input"], Mapping) and kind == "value_error" else f" ({value})"
    return f"{message[:1].lower()}{message[1:]}{given}{hint}"
