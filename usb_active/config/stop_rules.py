"""The stop rules of `active.stop`: their names and keys, and what each of them needs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from usb_active.config.choices import Number, Problems, Strict, validate
from usb_active.config.usb_keys import show
from usb_active.errors import UsageError, nearest

if TYPE_CHECKING:
    from usb_active.config.settings import RunConfig
    from usb_active.contracts.dataset import Dataset


class StopRule(Strict):
    """What every rule has."""

    name: ClassVar[str]
    needs_audit: ClassVar[bool] = False

    then: Literal["say", "end"] = Field("say", description="say: a line in the log, metrics and report; end: no further query is made")

    def resolved(self) -> dict[str, Any]:
        """The mapping that gives this rule again."""
        return {"name": self.name, **self.model_dump()}


class Kappa(StopRule):
    """Stabilizing predictions: successive models agree on a fixed random part of the pool.

    Bloodgood and Vijay-Shanker, "A Method for Stopping Active Learning Based on Stabilizing Predictions and the Need for User-Adjustable
    Stopping", CoNLL 2009: Cohen's kappa of each model with the one before it, its mean over the last three at least 0.99.
    """

    name: ClassVar[str] = "kappa"

    at_least: Number = Field(0.99, gt=0, le=1, description="the least mean kappa; lower stops earlier")
    last: int = Field(3, ge=1, description="the mean is over so many pairs of successive models")


class OverallUncertainty(StopRule):
    """The model is certain of nearly all that is left.

    Zhu, Wang and Hovy, "Multi-Criteria-based Strategy to Stop Active Learning for Data Annotation", COLING 2008: the mean entropy of the
    unlabelled samples is below a threshold, which depends on the data. Here of a random part of them.
    """

    name: ClassVar[str] = "overall_uncertainty"

    below: Number = Field(gt=0, description="mean entropy in nats; of C classes drawn evenly it is ln C")


class Plateau(StopRule):
    """No gain that the audit could show; ours.

    None of the last so many trainings is better on the audit than the one before them, beyond chance: all of them are measured on the same
    samples, so the test is the exact paired one (McNemar, Psychometrika 12, 1947; one-sided, p at least 0.025). With a small audit it says
    that no gain can be seen, not that there is none. Trainings of earlier versions, which kept nothing of single samples, are judged by the
    upper bound of the interval at the training before them.
    """

    name: ClassVar[str] = "plateau"
    needs_audit: ClassVar[bool] = True

    last: int = Field(3, ge=1, description="so many trainings, none better than the one before them beyond chance")


class Target(StopRule):
    """Good enough: the lower bound of the audit's interval, or the test accuracy, reaches a value; ours."""

    name: ClassVar[str] = "target"

    at_least: Number = Field(gt=0, le=1, description="the accuracy to be reached, as a share: 0.9")
    of: Literal["audit", "test"] = Field("audit", description="audit: the lower bound of its interval; test: the test accuracy")


STOP_RULES: dict[str, type[StopRule]] = {rule.name: rule for rule in (Kappa, OverallUncertainty, Plateau, Target)}


def choose_stop_rules(value: Any, audit: Any, problems: Problems) -> tuple[StopRule, ...]:
    """The rules that `active.stop` lists, each a name or a mapping with `name` and its keys; what is wrong goes to the problems.

    Args:
        value: as the YAML has it.
        audit: `active.audit`.
        problems: collects.
    """
    if not isinstance(value, list):
        problems.add("active.stop", f"must be a list of rules ({show(value)}){nearest('', STOP_RULES)}")
        return ()
    rules = [_choose(item, f"active.stop[{number}]", audit, problems) for number, item in enumerate(value)]
    return tuple(rule for rule in rules if rule is not None)


def _choose(item: Any, where: str, audit: Any, problems: Problems) -> StopRule | None:
    keys = {"name": item} if isinstance(item, str) else item
    name = keys.get("name") if isinstance(keys, dict) else None
    if not isinstance(name, str) or name not in STOP_RULES:
        what = f"unknown stop rule '{name}'" if isinstance(name, str) else f"must be a name, or a mapping with a name ({show(item)})"
        problems.add(where, f"{what}{nearest(name if isinstance(name, str) else '', STOP_RULES)}")
        return None
    cls = STOP_RULES[name]
    rule = validate(cls, {key: keys[key] for key in keys if key != "name"}, where, problems, also=("name",))
    needs_audit = cls.needs_audit or isinstance(rule, Target) and rule.of == "audit"
    if rule is not None and needs_audit and not audit:
        problems.add(where, f"'{name}' reads the audit, and there is none; give active.audit a number of samples, such as 100")
    return rule


def check_assessed(config: RunConfig, dataset: Dataset) -> None:
    """UsageError when an audit or a stop rule measures what the data set does not have."""
    active = config.active
    if (active.audit or active.stop) and not dataset.class_names:
        key = "audit" if active.audit else "stop"
        what = f"measures how often a class is right, and the labels of dataset '{dataset.name}' are of the task '{dataset.task.name}'"
        raise UsageError(f"{config.source}: active.{key}: {what}; leave it out")
    for number, rule in enumerate(active.stop):
        if isinstance(rule, Target) and rule.of == "test" and dataset.test is None:
            reason = f"of: test, and dataset '{dataset.name}' has no test set; of: audit, with active.audit"
            raise UsageError(f"{config.source}: active.stop[{number}]: {reason}")
