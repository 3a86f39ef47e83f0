"""Modules and optimizers beside USB's own one: what plugins and the algorithm gave to `register_state` for a cycle's training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from semilearn.core.hooks import Hook

from usb_active.errors import UsageError
from usb_active.pool.view import Registered
from usb_active.randomness import seeded_globals

# The role of the algorithm itself, beside those of plugins.
OWN = "algorithm"


class RegisteredState(Hook):
    """What was given to `register_state`: objects with a state dict, and optimizers that step with the loss."""

    def __init__(self, name: str = ""):
        self.name = name
        self.registered: dict[str, Any] = {}
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        self._scale = 1.0

    @property
    def title(self) -> str:
        """Whose it is, in the words of a YAML."""
        role = self.name.partition("/")[2]
        return role if role == "algorithm" else f"active.{role}"

    def before_train_step(self, algorithm: Any) -> None:
        # The scale under which this step's loss will be differentiated; ParamUpdateHook changes it afterwards. Asked only where
        # needed, because on a GPU the answer has to be waited for.
        self._scale = algorithm.loss_scaler.get_scale() if algorithm.use_amp and self.optimizers else 1.0

    def after_train_step(self, algorithm: Any) -> None:
        for optimizer in self.optimizers.values():
            step_scaled(optimizer, self._scale)


def step_scaled(optimizer: torch.optim.Optimizer, scale: float) -> None:
    """Step on gradients of a loss that was multiplied by `scale`; skipped, as mixed precision does, when one is not finite."""
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    if scale != 1.0:
        for gradient in gradients:
            gradient.div_(scale)
    if scale == 1.0 or all(torch.isfinite(gradient).all() for gradient in gradients):
        optimizer.step()
    optimizer.zero_grad()


class Registrations:
    """Owns what was registered for one cycle's training: makes it, finds it, and puts its state into checkpoints and back.

    Args:
        hooks: role → the plugin's hook, which steps what that plugin registers. The algorithm's own is made here, as `own`.
        seed: what is registered under a name is initialised by this, `cycle`, the role and the name.
        cycle: the training's.
    """

    def __init__(self, hooks: Mapping[str, RegisteredState], seed: int, cycle: int, device: torch.device):
        self.own = RegisteredState(f"active/{OWN}")
        self._hooks = {**hooks, OWN: self.own}
        self._seed, self._cycle, self._device = seed, cycle, device

    def register(self, role: str, name: str, factory: Callable[[], Any], optimizer: Callable[[Any], Any] | None = None) -> Any:
        """What the factory makes, on the device; see `TrainingInfo.register_state`.

        Raises:
            UsageError: the role has something of this name.
        """
        hook = self._hooks[role]
        if name in hook.registered:
            raise UsageError(f"{hook.title}: state '{name}' is registered twice")
        with seeded_globals(self._seed, self._cycle, f"active/{role}", name):
            made = factory()
        if isinstance(made, torch.nn.Module):
            made = made.to(self._device)
        hook.registered[name] = made
        if optimizer is not None:
            hook.optimizers[name] = optimizer(made.parameters())
        return made

    def registrar(self, role: str) -> Callable[..., Any]:
        """`register` for one role."""
        return partial(self.register, role)

    def by_role(self) -> dict[str, dict[str, Registered]]:
        """Role → name → what was registered."""
        return {
            role: {name: Registered(made, hook.optimizers.get(name)) for name, made in hook.registered.items()}
            for role, hook in self._hooks.items()
        }

    def modules(self) -> dict[str, torch.nn.Module]:
        """The networks among it, under names for messages ("active.acquisition: 'critic'")."""
        made = {f"{hook.title}: '{name}'": value for hook in self._hooks.values() for name, value in hook.registered.items()}
        return {name: value for name, value in made.items() if isinstance(value, torch.nn.Module)}

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds of it: "registered" and "optimizers", each role → name → state."""
        return {
            "registered": {role: _states(hook.registered) for role, hook in self._hooks.items()},
            "optimizers": {role: _states(hook.optimizers) for role, hook in self._hooks.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`, into what is registered already. Roles that a checkpoint does not have stay as they are."""
        for role, hook in self._hooks.items():
            for kind, owner in (("registered", hook.registered), ("optimizers", hook.optimizers)):
                for name, value in state[kind].get(role, {}).items():
                    owner[name].load_state_dict(value)


def _states(objects: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value.state_dict() for name, value in objects.items()}
