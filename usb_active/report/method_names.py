"""Short labels that tell methods apart: by the settings in which they differ, and by no others."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

# Keys that tell runs of one method apart; the configuration's own free keys come on top.
RUN_KEYS = ("seed", "save_name", "save_dir")
# Keys that name a group whenever they differ, in the label's order; others only where these do not suffice.
NAMING = {
    "algorithm": "{}",
    "active.acquisition.name": "{}",
    "active.prior.name": "prior {}",
    "active.pretrain.name": "pretrain {}",
    "active.initial.name": "initial {}",
    "active.initial.size": "initial size {}",
    "active.budget": "budget {}",
}
# Keys below `active` that choose a plugin, by name or by a block with the name in it.
CHOICES = ("initial", "acquisition", "oracle", "pretrain", "features", "prior", "analysis")


def method_settings(config: dict, varied: Sequence[str] = ()) -> dict[str, Any]:
    """The configuration, flat (`active.acquisition.name`), without the seed and what changes no results.

    Args:
        config: of a run.
        varied: keys that stay whatever they change, and all below them.
    """
    from usb_active.config.free_keys import free_keys, unsaid_keys
    from usb_active.config.settings import OBSERVING_KEYS

    active = dict(config.get("active") or {})
    # The short form of a choice, `acquisition: margin`, means the same as `{name: margin}`.
    active |= {key: {"name": active[key]} for key in CHOICES if isinstance(active.get(key), str)}
    free = (*RUN_KEYS, *free_keys(config), *OBSERVING_KEYS)
    whole = {**config, "active": active} | {key: {"name": config[key]} for key in ("dataset", "net") if isinstance(config.get(key), str)}
    flat = unsaid_keys(whole) | _flatten(whole)
    return {key: flat[key] for key in flat if _below(key, varied) or not _below(key, free)}


def _below(key: str, above: Sequence[str]) -> bool:
    return any(f"{key}.".startswith(f"{other}.") for other in above)


def _flatten(tree: dict, prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def differing_keys(settings: Sequence[dict]) -> list[str]:
    """Keys whose values differ, or that only some have: those of NAMING first, the acquisition's next."""
    keys = {key for of_group in settings for key in of_group}
    found = [key for key in keys if len({setting_text(of_group, key) for of_group in settings}) > 1]
    order = {key: place for place, key in enumerate(NAMING)}
    is_other = {key: not key.startswith("active.acquisition.") for key in found}
    return sorted(found, key=lambda key: (order.get(key, len(order)), is_other[key], key))


def setting_text(settings: dict, key: str) -> str:
    """A setting as text; "none" for a plugin not chosen (`prior: null`) and for a key that is not there."""
    value = settings.get(key)
    if value is None or isinstance(value, str):
        return value or "none"
    return json.dumps(value, default=str)


def method_names(settings: Sequence[dict]) -> list[str]:
    """Short labels that tell the groups apart: `margin`, or `flexmatch · margin`, or `assl · alpha=0.5`."""
    parts: list[tuple[str, ...]] = [()] * len(settings)
    for key in differing_keys(settings):
        # A plugin's setting says nothing beside another plugin's name: only where groups still look alike.
        alike = [[i for i, other in enumerate(parts) if other == mine] for mine in parts]
        shown = NAMING.get(key, key.rpartition(".")[2] + "={}")
        unresolved = [len({setting_text(settings[i], key) for i in same}) > 1 for same in alike]
        for i, of_group in enumerate(settings):
            if key in NAMING or unresolved[i]:
                parts[i] = (*parts[i], shown.format(setting_text(of_group, key)))
    return [" · ".join(part) or _only_name(of_group) for part, of_group in zip(parts, settings, strict=True)]


def _only_name(settings: dict) -> str:
    return settings.get("active.acquisition.name") or settings.get("algorithm") or "run"
