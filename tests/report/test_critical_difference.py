"""The critical-difference diagram: what is ranked, when it is drawn, and what stands in it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image
from study_runs import groups_of, seeds, study_run

from usb_active.numerics.statistics import friedman_test
from usb_active.report.compared import find_compared
from usb_active.report.critical_difference import Ranking, draw_ranking, find_ranking, ranking_section

LEVELS = {"margin": 0.2, "entropy": 0.1, "random": 0.0}


def compared_of(tmp_path, count=3, data=2, budgets=(10,), rules=("margin", "entropy", "random")):
    paths = []
    for name in (f"pictures{number}" for number in range(data)):
        for budget in budgets:
            for rule in rules:
                gaps = [LEVELS[rule] + 0.01 * seed for seed in range(count)]
                more = {"acquisition": rule, "step": budget, "dataset": {"name": name}}
                paths += seeds(tmp_path, f"{rule}{name}{budget}", [0.5, 0.6], gaps, **more)
    return find_compared(groups_of(*paths))


def test_methods_are_ranked_in_every_seed_of_every_data_set(tmp_path):
    compared = compared_of(tmp_path)
    found = find_ranking(compared, higher_is_better=True)
    assert found.methods == ("entropy", "margin", "random") and found.scores.shape == (6, 3)
    assert found.ranks.tolist() == [2, 1, 3] and found.unit == "seeds on data sets"
    assert find_ranking(compared, higher_is_better=False).ranks.tolist() == [2, 3, 1]
    # Demšar's Table 5: 2.343 for three methods.
    assert found.difference == pytest.approx(2.343 * math.sqrt(3 * 4 / (6 * 6)), abs=1e-3)


def test_data_sets_are_the_blocks_where_there_are_enough(tmp_path):
    found = find_ranking(compared_of(tmp_path, count=1, data=5), higher_is_better=True)
    assert found.scores.shape == (5, 3) and found.unit == "data sets"


def test_settings_of_the_same_data_are_one_block(tmp_path):
    said = find_ranking(compared_of(tmp_path / "one", count=1, data=1, budgets=(10, 20, 30, 40, 50)), higher_is_better=True)
    assert "all 3 methods met in 1 block (a seed on a data set, 1 seed)" in said and "Settings of the same data are one block" in said
    compared = compared_of(tmp_path / "six", count=6, data=1, budgets=(10, 20))
    found = find_ranking(compared, higher_is_better=True)
    assert found.unit == "seeds" and found.scores.shape == (6, 3)
    # Both settings' areas are those of a line from 0.5 to 0.6: entropy has 0.1 more, and the third seed 0.02.
    assert found.scores[2] == pytest.approx([0.67, 0.77, 0.57])
    assert "Seeds on one data set are counted as blocks here" in "".join(ranking_section(found, tmp_path)[0])


def test_methods_that_are_equal_share_their_ranks_however_the_sums_are_rounded(tmp_path):
    # Counts of 360 with equal areas: as floats two of three are larger, or one.
    curves = [
        ([313, 311, 302, 322], [304, 305, 321, 305], [302, 328, 300, 303]),
        ([310, 329, 315, 311], [326, 306, 324, 323], [319, 329, 313, 306]),
        ([319, 305, 321, 309], [325, 319, 301, 315], [312, 312, 308, 328]),
        ([328, 301, 320, 312], [314, 310, 315, 318], [324, 316, 309, 308]),
        ([327, 311, 308, 313], [326, 302, 311, 326], [329, 303, 313, 317]),
    ]
    paths = [
        study_run(tmp_path / f"{name}{seed}", [count / 360 for count in counts], seed=seed, acquisition=name)
        for seed, of_seed in enumerate(curves)
        for name, counts in zip("abc", of_seed, strict=True)
    ]
    found = find_ranking(find_compared(groups_of(*paths)), higher_is_better=True)
    assert all(len(set(row)) > 1 for row in found.scores.tolist())
    assert found.ranks.tolist() == [2, 2, 2] and friedman_test(found.scores) == (0.0, 1.0)


def test_too_few_blocks_are_said_and_two_methods_have_no_ranks(tmp_path):
    said = find_ranking(compared_of(tmp_path, data=1), higher_is_better=True)
    assert "all 3 methods met in 3 blocks (a seed on a data set, 3 seeds)" in said
    # Two seeds are too few, on three data sets.
    few = find_ranking(compared_of(tmp_path / "few", count=2, data=3), higher_is_better=True)
    assert "6 blocks (a seed on a data set, 2 seeds)" in few
    assert ranking_section(few, tmp_path) == ([few], []) and not (tmp_path / "critical_difference.png").exists()
    assert find_ranking(compared_of(tmp_path / "two", rules=("margin", "random")), higher_is_better=True) is None
    assert ranking_section(None, tmp_path) == ([], [])


def test_a_seed_that_a_method_lacks_is_no_block(tmp_path):
    paths = [path for rule in LEVELS for path in seeds(tmp_path, rule, [0.5, 0.6], [0.1] * 6, acquisition=rule)]
    paths += [study_run(tmp_path / "more", [0.5, 0.6], seed=9)]
    assert find_ranking(find_compared(groups_of(*paths)), higher_is_better=True).scores.shape == (6, 3)


def test_the_page_says_which_tests_and_shows_the_ranks(tmp_path):
    parts, [picture] = ranking_section(find_ranking(compared_of(tmp_path), higher_is_better=True), tmp_path)
    text = "\n\n".join(parts)
    assert "![Critical difference](critical_difference.png)" in text and "| margin | 1.00 |\n| entropy | 2.00 |" in text
    # The same order in 6 blocks of 3: B (K - 1) = 12; chi-squared with 2 degrees of freedom beyond is exp(-6) = 0.0025.
    assert "12.00, p 0.002." in text and "claim nothing" not in text
    assert len(np.unique(np.asarray(Image.open(picture).convert("L")))) > 6


def test_where_friedmans_test_finds_nothing_the_page_says_so(tmp_path):
    scores = np.array([[1, 2, 3], [3, 2, 1], [2, 3, 1], [1, 3, 2], [3, 1, 2], [2, 1, 3]], float)
    text = "\n\n".join(ranking_section(Ranking(("a", "b", "c"), scores, "data sets"), tmp_path)[0])
    assert "the bars claim nothing" in text


def test_the_bars_join_what_is_closer_than_the_difference(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    figures, save = [], Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *args, **more: (figures.append(self), save(self, *args, **more)))
    # In 30 blocks always one order: ranks 1, 2, 3 and 4 are 1 apart, the critical difference is 0.86; then two that are equal.
    order = np.tile([4.0, 3, 2, 1], (30, 1))
    found = Ranking(("$a$", "b", "c|d", "e"), order, "data sets")
    assert found.difference == pytest.approx(2.569 * math.sqrt(4 * 5 / (6 * 30)), abs=1e-3)
    draw_ranking(found, tmp_path / "one.png")
    order[:, 1] = order[:, 2]
    draw_ranking(Ranking(found.methods, order, "data sets"), tmp_path / "two.png")
    bars = [[line for line in figure.axes[0].get_lines() if line.get_linewidth() == 4] for figure in figures]
    assert [len(found) for found in bars] == [0, 1]
    # Around 2.5, which both have.
    np.testing.assert_allclose(bars[1][0].get_xdata(), [2.5, 2.5], atol=0.05)
    texts = {text.get_text().strip() for text in figures[1].axes[0].texts}
    assert {"$a$ (1.00)", "b (2.50)", "c|d (2.50)", "e (4.00)"} <= texts
