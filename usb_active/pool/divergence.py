"""Trainings that diverged: found before anything of them is kept as a result.

Weights that are not finite are an error, and so are such logits. A loss that is not finite is only a trace: mixed precision
skips the update of such a step by design, and the weights stay as they were.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

from usb_active.errors import UsageError, name_some

_NEVER = 2**62


class DivergenceWatch:
    """Since which step the loss was not finite: kept on the device, so that no step waits for it."""

    def __init__(self, device: torch.device):
        self._since = torch.full((), _NEVER, dtype=torch.long, device=device)

    @torch.no_grad()
    def see(self, loss: torch.Tensor, step: int) -> None:
        """Take note of the loss of a step, counted from 1."""
        bad = torch.where(torch.isfinite(loss.detach()), _NEVER, step)
        self._since = torch.minimum(self._since, bad.amin().to(self._since.device))

    def first(self) -> int | None:
        """The first step whose loss was not finite, None for none. The device is waited for."""
        since = int(self._since)
        return None if since == _NEVER else since

    def forget(self) -> None:
        """Start over: what was seen did no harm."""
        self._since.fill_(_NEVER)


class Divergence:
    """Whether one training has diverged: owns what was seen of its losses, and looks at what is trained.

    Args:
        training: which one it is; messages begin with it ("runs/a: the training of cycle 1").
        device: of its losses.
        modules: what is trained, by name, asked for at every look: some modules are made after this.
        advice: what may help.
    """

    def __init__(self, training: str, device: torch.device, modules: Callable[[], Mapping[str, torch.nn.Module]], advice: str):
        self.advice = advice
        self._training, self._modules = training, modules
        self._watch = DivergenceWatch(device)

    def see(self, loss: Any, step: int) -> None:
        """Take note of the loss of a step, counted from 1; what is no tensor is none."""
        if isinstance(loss, torch.Tensor):
            self._watch.see(loss, step)

    def check(self, step: int, num_steps: int, thoroughly: bool) -> None:
        """Between two steps: UsageError when weights, buffers or EMA weights are not finite.

        Args:
            step: how many steps are done.
            num_steps: how many there are.
            thoroughly: look at the weights in any case; else only where the loss of a step since the last look was not finite. Mixed
                precision skips such a step, and all is well.
        """
        since = self._watch.first()
        if since is None and not thoroughly:
            return
        found = self.nonfinite()
        if found:
            seen = "" if since is None else f"the loss is not finite since step {since} of {num_steps}; "
            raise self.error(f"{seen}at step {step}, {found}")
        self._watch.forget()

    def nonfinite(self) -> str:
        """Which weights or buffers are not finite, in words; "" when all are."""
        for who, module in self._modules().items():
            bad = nonfinite_tensors(module)
            if bad:
                return f"{len(bad)} of {len(module.state_dict())} tensors of {who} are not finite ({name_some(bad, 3)})"
        return ""

    def error(self, found: str) -> UsageError:
        """That the training has no result because of what was found."""
        return UsageError(f"{self._training} diverged and has no result: {found}; {self.advice}{self._about_plugins()}")

    def _about_plugins(self) -> str:
        """Which plugins' networks are not finite either: where one began, USB's keys do not help."""
        bad = [who for who, module in self._modules().items() if who.startswith("active.") and nonfinite_tensors(module)]
        return f"; or a smaller lr of {name_some(bad)}, where that diverged first" if bad else ""


def nonfinite_tensors(module: torch.nn.Module) -> list[str]:
    """Names of the weights and buffers that are not finite. The device is waited for once."""
    return nonfinite_of(module.state_dict())


@torch.no_grad()
def nonfinite_of(state: Mapping[str, Any]) -> list[str]:
    """Names of the tensors of a state that are not finite, in its order."""
    tensors = {name: value for name, value in state.items() if isinstance(value, torch.Tensor) and value.is_floating_point()}
    if not tensors:
        return []
    finite = torch.stack([torch.isfinite(value).all() for value in tensors.values()]).tolist()
    return [name for name, good in zip(tensors, finite, strict=True) if not good]


def check_finite_states(who: str, states: Mapping[str, Mapping[str, Any]]) -> None:
    """UsageError that names the weights that are not finite; `states`: name → state dict."""
    for name, state in states.items():
        bad = nonfinite_of(state)
        if bad:
            raise UsageError(f"{who}: diverged: weights of {name} that are not finite: {name_some(bad)}")


def advice(usb: Mapping[str, Any]) -> str:
    """What may help against a divergence, as far as it has not been tried."""
    tries: Iterable[str] = [
        f"a smaller lr than {usb['lr']:g}",
        *([] if usb.get("clip_grad") else ["clip_grad: 1"]),
        *(["amp: false"] if usb.get("amp") else []),
    ]
    return f"try {' or '.join(tries)}, under another save_name: a run keeps its configuration"
