"""The keys that may differ when a run is resumed. Plugins declare theirs by `usb_active.contracts.plugin.free_key`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from usb_active.contracts.plugin import PluginConfig, free_names, later_defaults
from usb_active.contracts.registry import INITIAL_KINDS, REGISTRY
from usb_active.errors import UsageError

# The core's own: they change neither what is trained nor what is selected. (Image size may be the data set's own choice: what it comes
# to is kept in the run's dataset.json, and compared there.)
FREE_KEYS = (
    "save_dir",
    "save_name",
    "data_dir",
    "num_workers",
    "num_log_iter",
    "use_tensorboard",
    "use_wandb",
    "use_aim",
    "gpu",
    "img_size",
    "num_classes",
    "active.cycles",
    "active.keep",
    "active.cache_images",
    "active.views_on",
    "active.fast_hooks",
    "active.baselines",
    "active.stop",
)
# Where a configuration names a plugin, and of which kinds.
_TOP = {"dataset": ("dataset",), "net": ("network",)}
_ACTIVE = {
    "initial": INITIAL_KINDS, "acquisition": ("acquisition",), "prior": ("prior",), "analysis": ("analysis",),
    "pretrain": ("pretrainer",), "oracle": ("oracle",), "features": ("features",),
}  # fmt: skip


def free_keys(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Dotted keys of a resolved configuration that may differ: the core's, and those that its plugins declare.

    A plugin that is not at hand, as of a run that came from elsewhere, declares none.
    """
    own = [f"{where}.{name}" for where, kinds, plugin in _plugins(config) for name in free_names(_keys_of(kinds, plugin))]
    return (*FREE_KEYS, *own)


def unsaid_keys(config: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys that a run's configuration does not have where they have their default (`later_key`), with that default."""
    found = {where: later_defaults(_keys_of(kinds, plugin)) for where, kinds, plugin in _plugins(config)}
    return {f"{where}.{name}": value for where, keys in found.items() for name, value in keys.items()}


def _plugins(config: Mapping[str, Any]) -> Iterator[tuple[str, tuple[str, ...], str]]:
    """(dotted key, kinds, name) of every plugin that is given as a block."""
    active = config.get("active")
    blocks = [(where, kinds, config.get(where)) for where, kinds in _TOP.items()]
    if isinstance(active, Mapping):
        blocks += [(f"active.{where}", kinds, active.get(where)) for where, kinds in _ACTIVE.items()]
    blocks = [item for where, kinds, block in blocks for item in _each(where, kinds, block)]
    blocks += [(f"{where}.features", ("features",), block.get("features")) for where, _, block in blocks]
    for where, kinds, block in blocks:
        if isinstance(block, Mapping) and isinstance(block.get("name"), str):
            yield where, kinds, block["name"]


def _each(where: str, kinds: tuple[str, ...], block: Any) -> Iterator[tuple[str, tuple[str, ...], Mapping[str, Any]]]:
    """A block, or those of a list, each under the key by which `differences` knows it."""
    numbered = [(f"{where}[{number}]", item) for number, item in enumerate(block)] if isinstance(block, (list, tuple)) else [(where, block)]
    return ((key, kinds, item) for key, item in numbered if isinstance(item, Mapping))


def _keys_of(kinds: tuple[str, ...], name: str) -> type[PluginConfig]:
    try:
        return REGISTRY.get(REGISTRY.kind_of(name, *kinds), name).Config
    except UsageError:
        return PluginConfig  # not at hand, or it does not import; an error where the plugin itself is used
