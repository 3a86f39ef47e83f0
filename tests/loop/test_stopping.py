"""Stop rules, each by lines of metrics.jsonl written out by hand."""

from __future__ import annotations

import pytest

from usb_active.config.stop_rules import Kappa, OverallUncertainty, Plateau, Target
from usb_active.loop.stopping import all_reached, reached


def lines(name: str, *values: float | None, **others) -> list[dict]:
    return [{"cycle": cycle, name: value, **others} for cycle, value in enumerate(values)]


def test_kappa_is_the_mean_of_the_last():
    rule = Kappa(at_least=0.75)
    # (0.5 + 0.75 + 1) / 3 = 0.75; a first model has none before it.
    assert reached(rule, lines("kappa", None, 0.2, 0.5, 0.75, 1.0)).startswith("kappa: ")
    assert reached(rule, lines("kappa", None, 0.5, 0.5, 1.0)) is None
    assert reached(rule, lines("kappa", None, 1.0, 1.0)) is None
    assert reached(Kappa(), lines("kappa", None, 0.98, 0.98, 1.0)) is None
    assert reached(Kappa(), lines("kappa", None, 0.5, 0.995, 0.995, 0.995)) is not None
    assert reached(Kappa(last=1, at_least=0.5), lines("kappa", None, 0.5)) is not None


def test_overall_uncertainty_is_of_the_last_model():
    rule = OverallUncertainty(below=0.1)
    assert reached(rule, lines("uncertainty", 0.5, 0.09)).startswith("overall_uncertainty: ")
    assert reached(rule, lines("uncertainty", 0.05, 0.1)) is None
    assert reached(rule, lines("uncertainty", 0.05, None)) is None
    assert reached(rule, [{"cycle": 0}]) is None


def test_plateau_is_within_the_interval_of_the_training_before():
    def audits(*accuracies):
        return [{"cycle": cycle, "audit_accuracy": value, "audit_high": value + 0.1} for cycle, value in enumerate(accuracies)]

    rule = Plateau(last=2)
    # The interval of 0.5 goes up to 0.6.
    assert reached(rule, audits(0.2, 0.5, 0.6, 0.55)).startswith("plateau: ")
    assert reached(rule, audits(0.2, 0.5, 0.61, 0.55)) is None
    assert reached(rule, audits(0.5, 0.5)) is None
    assert reached(rule, audits(0.5, 0.5, 0.5)) is not None


def test_plateau_compares_the_same_samples():
    def audits(*hits):
        # The interval is as wide as can be: it is not looked at.
        each = [(text.count("1") / max(len(text.replace("-", "")), 1), text) for text in hits]
        return [{"cycle": n, "audit_accuracy": share, "audit_high": 1.0, "audit_hits": text} for n, (share, text) in enumerate(each)]

    rule = Plateau(last=1)
    before = "1" * 70 + "0" * 30
    # 70 to 78 of 100, none lost: p = 0.5 ** 8 = 0.004.
    assert reached(rule, audits(before, "1" * 78 + "0" * 22)) is None
    # The same, 8 lost and 16 won: p = P(X >= 16 of 24) = 0.0758.
    said = reached(rule, audits(before, "0" * 8 + "1" * 78 + "0" * 14))
    shown = "at most 78.0 %, after 70.0 % in cycle 0 (exact paired test: p 0.076)"
    assert said == f"plateau: no gain beyond chance on the audit in 1 trainings: {shown}"
    # 0.5 ** 5 = 0.031 and 0.5 ** 6 = 0.016, of those that are known in both.
    assert reached(rule, audits("0" * 9, "11111-000")) is not None
    assert reached(rule, audits("0" * 9, "111111-00")) is None
    assert reached(rule, audits("-00000000", "111111000")) is not None
    # A loss is no gain, and nothing is compared but with the training before the last ones.
    assert reached(rule, audits("1" * 9, "0" * 9)) is not None
    assert reached(Plateau(last=2), audits("0" * 9, "1" * 9, "1" * 9, "1" * 9)) is not None
    assert reached(Plateau(last=2), audits("0" * 9, "1" * 9, "0" * 9)) is None
    # From a version that kept no single samples.
    old = audits("0" * 9, "1" * 9)
    del old[0]["audit_hits"]
    assert "within the interval of cycle 0" in reached(rule, old)


def test_target_is_the_lower_bound_or_the_test_accuracy():
    rule = Target(at_least=0.9)
    assert reached(rule, lines("audit_low", 0.95, 0.9)).startswith("target: ")
    assert reached(rule, lines("audit_low", 0.95, 0.89)) is None
    rule = Target(at_least=0.9, of="test")
    assert reached(rule, lines("accuracy", 0.9, evaluated_on="test")) is not None
    assert reached(rule, lines("accuracy", 0.89, evaluated_on="test", audit_low=1.0)) is None
    # Held-out labels are no test set.
    assert reached(rule, lines("accuracy", 0.99, evaluated_on="validation")) is None


def test_all_that_are_reached():
    rules = [Target(at_least=0.9), Kappa(last=1), OverallUncertainty(below=1)]
    found = all_reached(rules, [{"cycle": 0, "audit_low": 0.95, "kappa": None, "uncertainty": 0.5}])
    assert [rule for rule, _ in found] == [rules[0], rules[2]]
    assert all(why.startswith(f"{rule.name}: ") for rule, why in found)


@pytest.mark.parametrize("rule", [Kappa(), OverallUncertainty(below=1), Plateau(), Target(at_least=0.5), Target(at_least=0.5, of="test")])
def test_lines_of_a_run_that_measured_none_of_it(rule):
    assert reached(rule, [{"cycle": cycle} for cycle in range(9)]) is None
