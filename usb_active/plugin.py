"""What every plugin has: a kind, a Config that is validated, and a name given to it by the registry."""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, ConfigDict


class PluginConfig(BaseModel):
    """Base of every plugin's own keys: unknown keys are errors, values are checked, the instance does not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=False)


class Plugin:
    """Base of all plugins. `Config` declares the keys that may stand beside `name` in the YAML."""

    kind: ClassVar[str]
    # Set by the registry; the name under which users ask for this plugin.
    name: ClassVar[str] = ""

    class Config(PluginConfig):
        """No keys of its own."""

    def __init__(self, config: PluginConfig | None = None):
        self.config = self.Config() if config is None else config

    def check(self, num_samples: int, num_classes: int) -> None:
        """UsageError where keys do not go with a pool of this size. Called before anything runs, for what chooses, guides, watches or
        pretrains."""
