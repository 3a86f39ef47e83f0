"""The stop rules (`active.stop`), read from a run's lines of metrics.jsonl alone: a run that was killed judges as one that was not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from usb_active.config.stop_rules import Kappa, OverallUncertainty, Plateau, StopRule, Target
from usb_active.numerics.assessment import CONFIDENCE, paired_gain

# A gain whose p is below this is one: as an interval of the audit, that leaves half of what is beyond it on either side.
_CHANCE = (1 - CONFIDENCE) / 2


def reached(rule: StopRule, lines: Sequence[Mapping[str, Any]]) -> str | None:
    """Why a rule says stop after the last of these trainings; None where it does not.

    Args:
        rule: with its keys.
        lines: of metrics.jsonl, by cycle.
    """
    why = _JUDGES[type(rule)](rule, lines)
    return None if why is None else f"{rule.name}: {why}"


def all_reached(rules: Sequence[StopRule], lines: Sequence[Mapping[str, Any]]) -> list[tuple[StopRule, str]]:
    """The rules that say stop after the last of these trainings, and why."""
    found = [(rule, reached(rule, lines)) for rule in rules]
    return [(rule, why) for rule, why in found if why is not None]


def _kappa(rule: Kappa, lines: Sequence[Mapping[str, Any]]) -> str | None:
    values = _last(lines, "kappa", rule.last)
    if values is None or sum(values) / len(values) < rule.at_least:
        return None
    mean = sum(values) / len(values)
    return f"successive models agree, with a mean kappa of {mean:.4f} over the last {len(values)} (at least {rule.at_least:g})"


def _overall_uncertainty(rule: OverallUncertainty, lines: Sequence[Mapping[str, Any]]) -> str | None:
    values = _last(lines, "uncertainty", 1)
    if values is None or values[0] >= rule.below:
        return None
    return f"the mean entropy of the unlabelled pool is {values[0]:.4f} (below {rule.below:g})"


def _plateau(rule: Plateau, lines: Sequence[Mapping[str, Any]]) -> str | None:
    before = _last(lines[: -rule.last], "audit_accuracy", 1)
    values = _last(lines, "audit_accuracy", rule.last)
    if before is None or values is None:
        return None
    hits, cycle = [line.get("audit_hits") for line in lines[-rule.last - 1 :]], lines[-rule.last - 1]["cycle"]
    at_most = f"at most {100 * max(values):.1f} %, after {100 * before[0]:.1f} % in cycle {cycle}"
    if None in hits:
        return _within_interval(rule, lines, max(values))
    least = min(paired_gain(hits[0], later) for later in hits[1:])
    if least < _CHANCE:
        return None
    return f"no gain beyond chance on the audit in {rule.last} trainings: {at_most} (exact paired test: p {least:.2g})"


def _within_interval(rule: Plateau, lines: Sequence[Mapping[str, Any]], best: float) -> str | None:
    """Of runs that began when nothing was kept of single samples."""
    high = _last(lines[: -rule.last], "audit_high", 1)
    if high is None or best > high[0]:
        return None
    shown = f"{100 * best:.1f} %, within the interval of cycle {lines[-rule.last - 1]['cycle']} (up to {100 * high[0]:.1f} %)"
    return f"no gain beyond the audit's interval in {rule.last} trainings: at most {shown}"


def _target(rule: Target, lines: Sequence[Mapping[str, Any]]) -> str | None:
    line = lines[-1]
    if rule.of == "audit":
        value, what = line.get("audit_low"), "the lower bound of the audit's accuracy"
    else:
        value, what = line.get("accuracy") if line.get("evaluated_on") == "test" else None, "the test accuracy"
    if value is None or value < rule.at_least:
        return None
    return f"{what} is {100 * value:.1f} % (at least {100 * rule.at_least:g} %)"


def _last(lines: Sequence[Mapping[str, Any]], name: str, count: int) -> list[float] | None:
    """The last so many values; None where there are not so many, or one is not known."""
    values = [line.get(name) for line in lines[-count:]]
    return None if len(values) < count or None in values else values


_JUDGES: dict[type, Any] = {Kappa: _kappa, OverallUncertainty: _overall_uncertainty, Plateau: _plateau, Target: _target}
