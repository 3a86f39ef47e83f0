"""What every plugin has: a kind, a Config that is validated, a name given to it by the registry, and methods that it may define."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, Field
from pydantic.config import JsonDict

Method = TypeVar("Method", bound=Callable[..., Any])
# The defaults themselves, not a mark on them: `functools.wraps` would copy a mark onto what a plugin puts in their place.
_OPTIONAL: set[Any] = set()


def optional(method: Method) -> Method:
    """Decorator for a method that a plugin may define, and of which this one is the default: see `overrides`."""
    _OPTIONAL.add(method)
    return method


def overrides(owner: Any, name: str) -> bool:
    """Whether a plugin has a method of its own in place of an optional one.

    A class that lacks the contract's base, as an algorithm of USB's may, has it when it has any method of this name.

    Args:
        owner: the plugin, a class or an instance.
        name: of the optional method.
    """
    method = getattr(owner, name, None)
    return callable(method) and getattr(method, "__func__", method) not in _OPTIONAL


def optional_methods(base: type) -> list[str]:
    """Names of the methods of a contract that a plugin may define."""
    members = {name: inspect.getattr_static(base, name) for name in dir(base) if not name.startswith("_")}
    return [name for name, member in members.items() if inspect.isfunction(member) and member in _OPTIONAL]


def call_check(plugin: Any, num_samples: int, num_classes: int, **parts: Callable[[], Any]) -> None:
    """Have a plugin check itself: `check` with those of the keyword arguments `parts` that it takes, made when one is wanted."""
    if not overrides(plugin, "check"):
        return
    parameters = inspect.signature(plugin.check).parameters.values()
    named = {parameter.name for parameter in parameters if parameter.kind in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD)}
    takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    plugin.check(num_samples, num_classes, **{name: make() for name, make in parts.items() if takes_all or name in named})


_FREE: JsonDict = {"usb_active": "free"}


def free_key(default: Any = ..., **constraints: Any) -> Any:
    """A pydantic `Field` for a key that may change when a run is resumed: it changes neither what is trained nor what is selected."""
    return Field(default, json_schema_extra=_FREE, **constraints)


def free_names(model: type[BaseModel]) -> list[str]:
    """Names of the fields that were declared by `free_key`."""
    return [name for name, info in model.model_fields.items() if info.json_schema_extra == _FREE]


_LATER: JsonDict = {"usb_active": "later"}


def later_key(default: Any, **constraints: Any) -> Any:
    """A pydantic `Field` for a key that its plugin did not have from the start, with the default that changes nothing.

    A run's configuration has it only where it has another value (`stored_keys`), so that runs from before there was the key resume. For
    keys of a plugin itself, not of a block within them; the default is one that validation leaves as it is.
    """
    return Field(default, json_schema_extra=_LATER, **constraints)


def later_defaults(model: type[BaseModel]) -> dict[str, Any]:
    """The keys that were declared by `later_key`, with their defaults: what a configuration without them means."""
    return {name: info.default for name, info in model.model_fields.items() if info.json_schema_extra == _LATER}


def stored_keys(config: BaseModel) -> dict[str, Any]:
    """A plugin's own keys as the configuration of a run keeps them: plain data, without those of `later_key` that have their default."""
    idle = {name for name, default in later_defaults(type(config)).items() if getattr(config, name) == default}
    return {name: value for name, value in config.model_dump(mode="json").items() if name not in idle}


class PluginConfig(BaseModel):
    """Base of every plugin's own keys: unknown keys are errors, values are checked, the instance does not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=False)


class Plugin:
    """Base of all plugins. `Config` declares the keys that may stand beside `name` in the YAML."""

    kind: ClassVar[str]
    # Set by the registry; the name under which users ask for this plugin.
    name: ClassVar[str] = ""
    config: PluginConfig

    class Config(PluginConfig):
        """No keys of its own."""

    def __init__(self, config: PluginConfig | None = None):
        self.config = self.Config() if config is None else config

    @optional
    def check(
        self,
        num_samples: int,
        num_classes: int,
        *,
        algorithm: type | None = None,
        network: type | None = None,
        budget: int | None = None,
        img_size: int | None = None,
    ) -> None:
        """UsageError where keys do not go with the pool, or the plugin not with the algorithm or the network.

        Called before anything runs, for every plugin of a configuration but the algorithm. A plugin names those of
        the keyword arguments that it wants to see: `check(self, num_samples, num_classes)` is called without them.

        Args:
            num_samples: samples of the pool.
            num_classes: classes of the data set; 0 where labels are no classes.
            algorithm: the algorithm's class, without what the core puts around it.
            network: the network plugin's class.
            budget: `active.budget`, the labels of a cycle.
            img_size: the side of the data set's images.
        """
