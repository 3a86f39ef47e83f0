"""Whether the EMA of a training is too slow for it: the network that selects, is reported and predicts is then mostly its beginning."""

from __future__ import annotations

from math import ceil, floor, log, log10
from typing import TYPE_CHECKING

from usb_active.config.settings import own_algorithm
from usb_active.contracts.plugin import overrides

if TYPE_CHECKING:
    from usb_active.config.settings import RunConfig

# The memory of an EMA, 1/(1 - ema_m) steps, against the training: above a tenth of it, short trainings were seen to collapse.
SHARE = 10
# Trainings of fewer steps only try whether all works: of what they come to nothing is said.
SHORTEST = 50


def plans_steps(config: RunConfig) -> bool:
    """Whether the algorithm says itself, when a training begins, how many steps it has."""
    return overrides(own_algorithm(config.usb["algorithm"]), "plan")


def fitting_ema(steps: int) -> float:
    """The largest `ema_m` of few digits whose memory is at most a tenth of a training of more than ten steps."""
    scale = 10 ** max(1, ceil(log10(steps / SHARE)))
    # What is whole but for rounding stays as it is.
    return floor((1 - SHARE / steps) * scale + 1e-9) / scale


def ema_remark(ema_m: float, steps: int, batch_norm: str = "recomputed") -> str | None:
    """What people should know of this `ema_m` in trainings of `steps` steps; None where it fits. `batch_norm`: the key's value."""
    if steps < SHORTEST or ema_m <= 0 or steps * (1 - ema_m) >= SHARE - 1e-6:
        return None
    half = log(2) / -log(ema_m)
    way_out = f"at most {fitting_ema(steps):g} fits"
    if batch_norm == "usb":
        way_out += ", and active.batch_norm: recomputed helps networks with BatchNorm"
    return (
        f"ema_m: {ema_m:g} is a half-life of {half:.0f} steps in a training of {steps}, and the EMA network, which selects, is "
        f"reported and predicts, can be far worse than the trained one; {way_out}"
    )


def remarks(config: RunConfig) -> list[str]:
    """Of a configuration's `ema_m`, before a run; none where the steps are not known before a training begins."""
    usb = config.usb
    line = None if plans_steps(config) else ema_remark(usb["ema_m"], usb["num_train_iter"], config.active.batch_norm)
    return [] if line is None else [f"{config.source}: {line}" if config.source else line]
