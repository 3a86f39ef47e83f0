"""What plugins have learned, on disk after every step of a cycle, so that another process can resume it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from usb_active.contracts.plugin import overrides
from usb_active.errors import UsageError
from usb_active.storage.checkpoint import Owner, read_checkpoint, write_checkpoint

Step = Literal["query", "answers", "training"]
_REMEDY = "restore it from a copy: what plugins had learned is nowhere else"


class PluginStates:
    """The states of a run's plugins (role → plugin), and their files in `folder`; `run_id()` says whose files these are."""

    def __init__(self, plugins: Mapping[str, Any], folder: Path, run_id: Callable[[], str | None] = lambda: None):
        self._plugins, self._folder, self._run_id = plugins, folder, run_id

    def collect(self) -> dict[str, Any]:
        """The state of every plugin that has one, by role."""
        return {role: plugin.state_dict() for role, plugin in self._plugins.items() if overrides(plugin, "state_dict")}

    def give(self, states: Mapping[str, Any]) -> None:
        """The inverse of `collect`. UsageError for a state of what keeps none in this run."""
        for role, state in states.items():
            if role in self._plugins:
                self._plugins[role].load_state_dict(state)
            elif state:
                # An empty one is in checkpoints of version 0.1.0, of what brings the initial labels too.
                raise UsageError(f"a checkpoint has a state of active.{role}, whose plugin keeps none; use the one the run began with")

    def _path(self, cycle: int, step: Step) -> Path:
        return self._folder / f"cycle_{cycle:03d}.{step}.pth"

    def save(self, cycle: int, step: Step) -> None:
        """Keep them as they are after a step of the cycle; to be called before what commits the step is on disk."""
        states = {role: state for role, state in self.collect().items() if state}
        # Once there was any, always: a file that is missing is then told from a state that became empty.
        if states or next(self._folder.glob("cycle_*.pth"), None):
            write_checkpoint(self._path(cycle, step), {**states, **Owner(self._run_id(), cycle, step=step).stamp()})

    def load(self, cycle: int, step: Step) -> None:
        """Take them up again. UsageError when they are damaged, or gone though the plugins have a state."""
        path = self._path(cycle, step)
        if path.exists():
            self.give(self._read(path, Owner(self._run_id(), cycle, step=step)))
        elif any(self.collect().values()):
            raise UsageError(f"{path} is gone; {_REMEDY}")

    def _read(self, path: Path, owner: Owner) -> dict[str, Any]:
        states = read_checkpoint(path, _REMEDY)
        owner.check(path, states, _REMEDY)
        states.pop("belongs_to", None)
        for role, state in states.items():
            if not isinstance(state, dict) or (state and role not in self._plugins):
                raise UsageError(f"{path} is damaged ('{role}' is no plugin of this run with a state); {_REMEDY}")
        return states
