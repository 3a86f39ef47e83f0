"""What `active.train_on: features` asks of the other keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

from usb_active.config.choices import PluginChoice, Problems
from usb_active.contracts.plugin import overrides
from usb_active.contracts.registry import REGISTRY
from usb_active.errors import UsageError

if TYPE_CHECKING:
    from usb_active.config.settings import ActiveConfig


def check_train_on(active: ActiveConfig, net: PluginChoice, problems: Problems) -> None:
    """Add what does not go with a training on features: their source, the network, a pretraining."""
    if active.train_on == "images":
        return
    source, where = active.features, "active.train_on"
    if not overrides(source.cls, "width"):
        what = f"features need a source that needs no training, and active.features is '{source.name}'"
        problems.add(where, f"{what}; one of {_names('features')}")
    if not net.cls.takes_vectors:
        problems.add("net", f"'{net.name}' takes images, and active.train_on is features; one of {_names('network')}")
    if active.cache_images:
        what = "keeps images for their views, and active.train_on is features: no view of an image is made; remove it"
        problems.add("active.cache_images", what)
    for key, usual in (("views", "exact"), ("views_on", "cpu")):
        if (value := getattr(active, key)) != usual:
            problems.add(f"active.{key}", f"{value}, and active.train_on is features: no view of an image is made; remove it")
    if active.pretrain is not None:
        problems.add("active.pretrain", f"'{active.pretrain.name}' trains on images, and active.train_on is features; remove it")


def _names(kind: str) -> str:
    """Plugins of a kind that go with it."""
    found = []
    for name in REGISTRY.names(kind):
        try:
            cls = REGISTRY.get(kind, name)
        except UsageError:  # it does not import: nothing to recommend
            continue
        if cls.takes_vectors if kind == "network" else overrides(cls, "width"):
            found.append(name)
    return ", ".join(found)
