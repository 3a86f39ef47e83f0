"""Methods in pairs: the differences, their tests, and what is claimed of few seeds."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from study_runs import ERROR, groups_of, seeds, table_below

from usb_active.numerics.statistics import holm
from usb_active.records import CLASS_METRICS
from usb_active.report.compared import find_compared
from usb_active.report.differences import differences_section, find_differences, p_text, signed

ACCURACY = CLASS_METRICS[0]


def three_methods(tmp_path, count=4):
    rng = np.random.default_rng(0)
    paths = []
    for budget in (10, 20):
        for rule, level in (("margin", 0.08), ("random", 0.0), ("entropy", 0.07)):
            gaps = level + rng.normal(0, 0.01, count)
            paths += seeds(tmp_path, f"{rule}{budget}", [0.5, 0.6, 0.7], gaps, acquisition=rule, step=budget)
    return find_compared(groups_of(*paths))


def test_the_differences_are_the_loop_over_seeds_and_settings(tmp_path):
    compared = three_methods(tmp_path)
    found = {(compared.methods[each.one], compared.methods[each.other]): each for each in find_differences(compared)}
    assert set(found) == {("entropy", "margin"), ("entropy", "random"), ("margin", "random")}
    p_values = {}
    for (one, other), each in found.items():
        gaps = []
        for setting in compared.found:
            for seed in range(4):
                # A straight line rises from 0.5 to 0.7: the area is its middle.
                values = [group.runs[seed].metrics[1]["accuracy"] for group in setting.groups.values()]
                by_name = dict(zip(compared.methods, values, strict=True))
                gaps.append(by_name[one] - by_name[other])
        np.testing.assert_allclose(sorted(each.gaps), sorted(gaps))
        assert each.seeds == 4 and len(each.gaps) == 8
        p_values[one, other] = stats.ttest_1samp(gaps, 0).pvalue
    np.testing.assert_allclose([found[key].adjusted for key in p_values], holm(list(p_values.values())), rtol=1e-6)


def test_the_matrix_and_the_tests_beside(tmp_path):
    compared = three_methods(tmp_path)
    found = find_differences(compared)
    text = "\n\n".join(differences_section(compared, found, ACCURACY))
    rows = {row["row minus column"]: row for row in table_below(text, "Differences")}
    assert rows["margin"]["margin"] == "–"
    [each] = [each for each in found if (compared.methods[each.one], compared.methods[each.other]) == ("margin", "random")]
    mean = 100 * np.mean(each.gaps)
    assert rows["margin"]["random"] == f"**{mean:+.2f}** (&lt;0.001)" and rows["random"]["margin"] == f"**{-mean:+.2f}** (&lt;0.001)"
    assert "(8 pairs for two methods)" in text and "paired two-sided t-test" in text and "Holm's method for 3 tests" in text
    beside = {row["difference"]: row for row in table_below(text, "Differences", 1)}
    # All 8 of one sign: 2 / 2^8.
    assert beside["margin – random"]["p (signed ranks)"] == beside["margin – random"]["p (signs)"] == "0.008"
    assert beside["margin – random"]["above : below"] == "8 : 0" and beside["margin – random"]["pairs"] == "8"


@pytest.mark.parametrize("budgets", [(10,), (10, 20, 30)])
def test_of_two_seeds_nothing_is_claimed_in_however_many_settings(tmp_path, budgets):
    paths = []
    for budget in budgets:
        paths += seeds(tmp_path, f"m{budget}", [0.6, 0.7], (0, 0.01), acquisition="margin", step=budget)
        paths += seeds(tmp_path, f"r{budget}", [0.5, 0.6], (0, 0.02), step=budget)
    compared = find_compared(groups_of(*paths))
    [each] = found = find_differences(compared)
    assert len(each.gaps) == 2 * len(budgets) and not each.is_tested and np.isnan(each.adjusted)
    text = "\n\n".join(differences_section(compared, found, ACCURACY))
    # The seeds' gaps are 10 and 9 points.
    assert table_below(text, "Differences")[0]["random"] == "+9.50"
    assert "fewer than 3 seeds in common have no p: nothing is claimed" in text and "t-test" not in text and "p (t)" not in text


def test_methods_without_a_seed_in_common(tmp_path):
    margin = seeds(tmp_path, "m", [0.6, 0.7], (0, 0, 0), acquisition="margin")
    other = seeds(tmp_path, "r", [0.6, 0.7], (0, 0, 0, 0, 0))[3:]
    compared = find_compared(groups_of(*margin, *other))
    assert find_differences(compared) == [] == differences_section(compared, [], ACCURACY)


def test_lower_is_better(tmp_path):
    paths = seeds(tmp_path, "m", [0.4, 0.2], acquisition="margin", metric="absolute_error")
    paths += seeds(tmp_path, "r", [0.4, 0.3], (0, 0.02, 0.01), metric="absolute_error")
    compared = find_compared(groups_of(*paths, measures=ERROR))
    text = "\n\n".join(differences_section(compared, find_differences(compared), ERROR[0]))
    assert "a negative difference is in the row's favour" in text
    # Areas 0.3 and 0.35, seeds alike in the mean.
    assert table_below(text, "Differences")[0]["random"].strip("*").startswith("-0.050")


def test_numbers_as_text():
    assert [signed(value, ACCURACY) for value in (0.0123, -0.5, 0, -0.00001)] == ["+1.23", "-50.00", "0.00", "0.00"]
    assert [p_text(p) for p in (0, 0.0009, 0.001, 1)] == ["<0.001", "<0.001", "0.001", "1.000"]
