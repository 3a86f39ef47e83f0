"""The live network's scores beside the EMA network's: a gap beyond noise means that the averaging has failed.

Selection, reports and `predict` use the EMA network. It averages the weights, and copies the statistics of BatchNorm from the live
network, to which they belong: in short trainings it can be far worse than the network that was trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import sqrt
from typing import TYPE_CHECKING, Any

from usb_active.config.averaging import SHORTEST, ema_remark, fitting_ema

if TYPE_CHECKING:
    from usb_active.contracts.task import Task

# What people call the samples of a split; "labeled" are those trained on, where nothing is held out.
PLACES = {"eval": "the test set", "validation": "the held-out labels", "labeled": "the labels trained on"}
# The normal quantile of a 95 % interval.
_QUANTILE = 1.959964


@dataclass(frozen=True)
class LiveScores:
    """Both networks' scores of one evaluation, on the same samples.

    Attributes:
        split: "eval", "validation", or "labeled" where there is neither.
        count: how many samples it has.
        ema: scores of the EMA network, by the task's own names.
        live: those of the live network.
    """

    split: str
    count: int
    ema: dict[str, float]
    live: dict[str, float]

    def state_dict(self) -> dict[str, Any]:
        """As a checkpoint holds it."""
        return asdict(self)


def lead(ema: float, live: float, count: int) -> tuple[float, float]:
    """(lowest, highest) by how much the live network's share of right answers is above the EMA network's, with 95 % confidence.

    Args:
        ema: share of `count` samples.
        live: the same of the live network.

    The interval of Agresti and Caffo for two binomials (The American Statistician 54, 2000): one right and one wrong answer are added to
    each sample, so that it has a width at 0 and 1 as well. The two networks see the same samples, which the interval does not use: it is
    rather too wide.
    """
    shares = [(value * count + 1) / (count + 2) for value in (ema, live)]
    half = _QUANTILE * sqrt(sum(share * (1 - share) for share in shares) / (count + 2))
    middle = shares[1] - shares[0]
    return middle - half, middle + half


def live_fields(scores: LiveScores | None, task: Task) -> dict[str, float | None]:
    """What a line of metrics.jsonl holds of them: `live_accuracy` beside `accuracy`, and so on.

    Without any held-out samples there is no `accuracy`: then `labeled_accuracy` and `live_labeled_accuracy`, on the labels trained on.
    """
    if scores is None:
        return {}
    if scores.split != "labeled":
        return {f"live_{metric.key}": scores.live.get(metric.score) for metric in task.metrics}
    headline = task.metric
    return {f"labeled_{headline.key}": scores.ema.get(headline.score), f"live_labeled_{headline.key}": scores.live.get(headline.score)}


def gap_remark(scores: LiveScores | None, task: Task, usb: Mapping[str, Any], steps: int, can_recompute: bool = False) -> str | None:
    """What people should know when the live network is better than the EMA network beyond noise; None where it is not.

    Args:
        steps: of the training.
        can_recompute: whether `batch_norm: recomputed` is another way than the run's.

    Only of classes, and of trainings that are more than a trial: of other labels it is not known how far a score varies.
    """
    if scores is None or not task.class_names or steps < SHORTEST:
        return None
    metric = task.metric
    ema, live = scores.ema[metric.score], scores.live[metric.score]
    low, high = lead(ema, live, scores.count)
    if low <= 0:
        return None
    return (
        f"the EMA network, which selects, is reported and predicts, has {metric.show(ema)} on {PLACES[scores.split]} "
        f"({scores.count} samples), the live network {metric.show(live)}: more than noise (a lead of {100 * low:.1f} to {100 * high:.1f} "
        f"points, 95 % interval); try {way_out(usb['ema_m'], steps, can_recompute)}, under another save_name"
    )


def way_out(ema_m: float, steps: int, can_recompute: bool) -> str:
    """What may bring the EMA network close to the live one."""
    too_slow = ema_remark(ema_m, steps) is not None
    shorter = f"an ema_m of at most {fitting_ema(steps):g} (it is {ema_m:g})" if too_slow else f"a smaller ema_m than {ema_m:g}"
    return f"{shorter} or active.batch_norm: recomputed" if can_recompute else shorter
