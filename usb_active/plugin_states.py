"""What plugins have learned, on disk after every step of a cycle, so that another process can go on with it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from usb_active.checkpoint import read_checkpoint, write_checkpoint
from usb_active.errors import UsageError

Step = Literal["query", "answers", "training"]
_REMEDY = "restore it from a copy: what plugins had learned is nowhere else"


class PluginStates:
    """The states of a run's plugins (role → plugin), and their files in `folder`."""

    def __init__(self, plugins: Mapping[str, Any], folder: Path):
        self._plugins, self._folder = plugins, folder

    def collect(self) -> dict[str, Any]:
        """The state of every plugin, by role."""
        return {role: plugin.state_dict() for role, plugin in self._plugins.items() if hasattr(plugin, "state_dict")}

    def give(self, states: Mapping[str, Any]) -> None:
        """The inverse of `collect`."""
        for role, state in states.items():
            self._plugins[role].load_state_dict(state)

    def _path(self, cycle: int, step: Step) -> Path:
        return self._folder / f"cycle_{cycle:03d}.{step}.pth"

    def save(self, cycle: int, step: Step) -> None:
        """Keep them as they are after a step of the cycle; to be called before what commits the step is on disk."""
        states = {role: state for role, state in self.collect().items() if state}
        # Once there was any, always: a file that is missing is then told from a state that became empty.
        if states or next(self._folder.glob("cycle_*.pth"), None):
            write_checkpoint(self._path(cycle, step), states)

    def load(self, cycle: int, step: Step) -> None:
        """Take them up again. UsageError when they are damaged, or gone though the plugins have a state."""
        path = self._path(cycle, step)
        if path.exists():
            self.give(read_checkpoint(path, _REMEDY))
        elif any(self.collect().values()):
            raise UsageError(f"{path} is gone; {_REMEDY}")
