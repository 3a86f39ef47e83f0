"""Methods in pairs: the differences, their tests, and what is claimed of few seeds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from study_runs import ERROR, groups_of, seeds, study_run, table_below

from usb_active.numerics.statistics import holm
from usb_active.records import CLASS_METRICS
from usb_active.report.compared import Compared, ComparedSetting, find_compared
from usb_active.report.differences import differences_section, find_differences, p_text, signed
from usb_active.report.groups import Group
from usb_active.report.runs import RunRecord

ACCURACY = CLASS_METRICS[0]
# Two curves of counts of 360, whose areas are equal (1894, 1903, 1937 sixths), and as floats the first is larger.
EQUAL = (
    ([328, 303, 329, 302], [326, 316, 316, 304]),
    ([321, 305, 324, 324], [317, 316, 317, 320]),
    ([318, 318, 329, 325], [320, 324, 320, 329]),
)


def three_methods(tmp_path, count=4, is_one_data_set=False):
    """In two settings: two data sets, or two budgets."""
    rng = np.random.default_rng(0)
    paths = []
    for number, budget in enumerate((10, 20)):
        more = {"step": budget} if is_one_data_set else {"dataset": {"name": f"pictures{number}"}}
        for rule, level in (("margin", 0.08), ("random", 0.0), ("entropy", 0.07)):
            gaps = level + rng.normal(0, 0.01, count)
            paths += seeds(tmp_path, f"{rule}{budget}", [0.5, 0.6, 0.7], gaps, acquisition=rule, **more)
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
    assert "p of signed ranks and of signs is of the one test, not adjusted" in text
    beside = {row["difference"]: row for row in table_below(text, "Differences", 1)}
    # All 8 of one sign: 2 / 2^8.
    assert beside["margin – random"]["p (signed ranks)"] == beside["margin – random"]["p (signs)"] == "0.008"
    assert beside["margin – random"]["above : below"] == "8 : 0" and beside["margin – random"]["pairs"] == "8"


def test_a_seed_in_two_settings_of_the_same_data_is_one_pair(tmp_path):
    compared = three_methods(tmp_path, is_one_data_set=True)
    found = find_differences(compared)
    [each] = [each for each in found if (compared.methods[each.one], compared.methods[each.other]) == ("margin", "random")]
    by_seed = []
    for seed in range(4):
        runs = [[setting.groups[place].runs[seed] for place in (each.one, each.other)] for setting in compared.found]
        by_seed.append(np.mean([one.metrics[1]["accuracy"] - other.metrics[1]["accuracy"] for one, other in runs]))
    np.testing.assert_allclose(each.gaps, by_seed)
    assert (len(each.gaps), each.seeds, each.pairs) == (4, 4, 8)
    p_values = [stats.ttest_1samp(of.gaps, 0).pvalue for of in found]
    np.testing.assert_allclose([of.adjusted for of in found], holm(p_values), rtol=1e-6)
    text = "\n\n".join(differences_section(compared, found, ACCURACY))
    assert "(4 pairs for two methods; those of a seed in several settings of the same data are averaged first, 8 pairs" in text
    beside = {row["difference"]: row for row in table_below(text, "Differences", 1)}["margin – random"]
    # All 4 of one sign: 2 / 2^4.
    assert (beside["pairs"], beside["above : below"], beside["p (signs)"]) == ("4", "4 : 0", "0.125")


def dependent(rng, seeds, settings, share) -> Compared:
    """Two methods that differ in nothing, in settings of one data set; `share` of a difference's variance is the seed's in all of them."""
    methods = ("a", "b")
    of_seed, found = rng.normal(0, share**0.5, seeds), []
    for number in range(settings):
        gaps = of_seed + rng.normal(0, (1 - share) ** 0.5, seeds)
        runs = {
            place: tuple(
                RunRecord(Path(), None, {"seed": seed}, [{"num_labels": 10, "accuracy": value, "evaluated_on": "test"}])
                for seed, value in enumerate(10 + place * gaps)
            )
            for place in (0, 1)
        }
        groups = {place: Group(methods[place], of, {}) for place, of in runs.items()}
        found.append(ComparedSetting(f"budget {number}", groups, {}, 10, 10, runs, "digits"))
    return Compared(methods, tuple(found))


@pytest.mark.parametrize(("seeds", "settings"), [(3, 1), (3, 4), (3, 10), (5, 4)])
@pytest.mark.parametrize("share", [0, 0.5, 0.8])
def test_of_methods_that_are_alike_one_in_twenty_is_called_different(seeds, settings, share):
    rng = np.random.default_rng(seeds + settings)
    p_values = np.array([find_differences(dependent(rng, seeds, settings, share))[0].adjusted for _ in range(400)])
    # Of 400 at 5 %: 20, and 13 more three deviations above. Every setting a pair of its own makes it 90 to 230 where a share is the seed's.
    assert 7 <= (p_values < 0.05).sum() <= 33


def test_equal_areas_are_no_difference(tmp_path):
    paths = []
    for seed, (one, other) in enumerate(EQUAL):
        paths.append(study_run(tmp_path / f"m{seed}", [count / 360 for count in one], seed=seed, acquisition="margin"))
        paths.append(study_run(tmp_path / f"r{seed}", [count / 360 for count in other], seed=seed))
    compared = find_compared(groups_of(*paths))
    margin, random = (compared.found[0].areas(place) for place in (0, 1))
    assert all(margin[seed] > random[seed] for seed in range(3))
    text = "\n\n".join(differences_section(compared, find_differences(compared), ACCURACY))
    rows = table_below(text, "Differences")
    assert rows[0]["random"] == rows[1]["margin"] == "0.00 (1.000)"
    [beside] = table_below(text, "Differences", 1)
    assert [beside[key] for key in ("above : below", "p (t)", "p (signed ranks)", "p (signs)")] == ["0 : 0", "1.000", "1.000", "1.000"]


@pytest.mark.parametrize("budgets", [(10,), (10, 20, 30)])
def test_of_two_seeds_nothing_is_claimed_in_however_many_settings(tmp_path, budgets):
    paths = []
    for budget in budgets:
        paths += seeds(tmp_path, f"m{budget}", [0.6, 0.7], (0, 0.01), acquisition="margin", step=budget)
        paths += seeds(tmp_path, f"r{budget}", [0.5, 0.6], (0, 0.02), step=budget)
    compared = find_compared(groups_of(*paths))
    [each] = found = find_differences(compared)
    assert len(each.gaps) == 2 and each.pairs == 2 * len(budgets) and not each.is_tested and np.isnan(each.adjusted)
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
