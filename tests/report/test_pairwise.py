"""Methods against each other: the test, the counting, what is one setting, and what is left out."""

from __future__ import annotations

import json
import math
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import stats

from usb_active.report.groups import group_runs
from usb_active.report.pairwise import compare, count_wins, winner
from usb_active.report.pairwise_page import pairwise_section
from usb_active.report.runs import RunRecord
from usb_active.storage.run_dir import RunDir


# ------------------------------------------------------------------------------------------ one test
@given(st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 1000)), min_size=2, max_size=8))
@settings(max_examples=80, deadline=None)
def test_the_winner_is_that_of_the_t_test(pairs):
    one, other = (np.array(scores) / 1000 for scores in zip(*pairs, strict=True))
    differences = [a - b for a, b in pairs]
    if len(set(differences)) == 1:
        expected = (differences[0] > 0) - (differences[0] < 0)
    else:
        found = stats.ttest_rel(one, other)
        expected = int(np.sign(found.statistic)) if found.pvalue < 0.05 else 0
    assert winner(one, other) == expected
    assert winner(other, one) == -expected


def test_scores_that_only_rounding_tells_apart_have_no_winner():
    assert 0.1 + 0.2 > 0.3 and winner([0.1 + 0.2] * 3, [0.3] * 3) == 0


def test_three_seeds_by_hand():
    # Differences 1, 2, 3: mean 2, deviation 1, t = 2 / (1 / √3) = 3.46 on two degrees of freedom; 95 % needs 4.30.
    assert winner([1, 2, 3], [0, 0, 0]) == 0
    # 3, 4, 5: t = 4 √3 = 6.93.
    assert winner([3, 4, 5], [0, 0, 0]) == 1 and winner([0, 0, 0], [3, 4, 5]) == -1
    # At 99 % it needs 9.92.
    assert winner([3, 4, 5], [0, 0, 0], level=0.01) == 0


def test_differences_without_variance():
    assert winner([0.5, 0.7], [0.5, 0.7]) == 0
    assert winner([0.75, 0.5], [0.5, 0.25]) == 1 and winner([0.5, 0.25], [0.75, 0.5]) == -1


def test_a_test_of_nothing_is_an_error():
    for one, other, message in (([1], [0], "at least 2"), ([1, 2], [1], "one length"), ([1, math.nan], [0, 0], "not finite")):
        with pytest.raises(ValueError, match=message):
            winner(one, other)


# ------------------------------------------------------------------------------------------ counting
def made_settings(rng, methods=4, count=3):
    """Settings in which every method has its own level, numbers of labels and seeds; not all are everywhere."""
    made = []
    for _ in range(count):
        chosen = sorted(rng.choice(methods, size=methods - 1, replace=False).tolist())
        made.append({
            method: {
                labels: {seed: 0.5 + 0.1 * method + 0.05 * rng.random() for seed in range(rng.integers(1, 5))}
                for labels in range(20, 20 + 10 * int(rng.integers(2, 6)), 10)
            }
            for method in chosen
        })  # fmt: skip
    return made


def test_counting_is_the_loop():
    made = made_settings(np.random.default_rng(0))
    wins, compared = count_wins(made, 4)
    for one, other in combinations(range(4), 2):
        sums, together = {1: 0.0, -1: 0.0}, 0
        for scores in made:
            if one not in scores or other not in scores:
                continue
            tests = []
            for labels in scores[one]:
                seeds = sorted(set(scores[one][labels]) & set(scores[other].get(labels, {})))
                if len(seeds) > 1:
                    tests.append(winner([scores[one][labels][s] for s in seeds], [scores[other][labels][s] for s in seeds]))
            together += bool(tests)
            for sign in sums:
                sums[sign] += tests.count(sign) / len(tests) if tests else 0
        assert wins[one, other] == pytest.approx(sums[1]) and wins[other, one] == pytest.approx(sums[-1])
        assert compared[one, other] == compared[other, one] == together
    assert wins.sum() > 1


def test_two_methods_by_hand():
    better, worse = ({labels: {0: level, 1: level + 0.1} for labels in (20, 30)} for level in (0.6, 0.5))
    # Everywhere better by the same: 2 · 1/2. In the second setting at one of two numbers of labels.
    wins, compared = count_wins([{0: better, 1: worse}, {0: {**worse, 30: better[30]}, 1: worse}], 2)
    assert wins.tolist() == [[0, pytest.approx(1.5)], [0, 0]]
    assert compared.tolist() == [[0, 2], [2, 0]]


def test_a_setting_adds_at_most_one_and_names_do_not_matter():
    rng = np.random.default_rng(1)
    made = made_settings(rng, count=5)
    wins, compared = count_wins(made, 4)
    assert (wins + wins.T <= compared + 1e-12).all() and (np.diag(wins) == 0).all()
    order = rng.permutation(4).tolist()
    renamed = [{order[method]: scores[method] for method in scores} for scores in made]
    np.testing.assert_allclose(count_wins(renamed, 4)[0][np.ix_(order, order)], wins)


# ------------------------------------------------------------------------------------------ from runs
def make_run(path: Path, seed: int, accuracies, acquisition="margin", evaluated_on="test", start=10, **keys) -> Path:
    """A run directory as files: accuracies by cycle, ten labels per cycle."""
    path.mkdir(parents=True)
    active = {"initial": {"name": "random", "size": 10}, "budget": 10, **keys.pop("active", {})}
    active["acquisition"] = {"name": acquisition} if isinstance(acquisition, str) else acquisition
    config = {"algorithm": "fixmatch", "seed": seed, "dataset": {"name": "digits"}, "active": active, "plugins": [], **keys}
    (path / "config.yaml").write_text(yaml.safe_dump(config))
    lines = [
        {"cycle": i, "num_labels": start + 10 * i, "accuracy": accuracy, "validation_accuracy": None, "evaluated_on": evaluated_on}
        for i, accuracy in enumerate(accuracies)
    ]
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def comparison_of(*paths: Path):
    directories = [RunDir.read(path) for path in paths]
    return compare(group_runs([RunRecord(found.path, found, found.config, found.metrics()) for found in directories]))


def seeds_of(folder: Path, name: str, curve, seeds=(0, 1, 2), **more) -> list[Path]:
    return [make_run(folder / f"{name}{seed}", seed, [value + 0.01 * seed for value in curve], **more) for seed in seeds]


def test_methods_over_settings(tmp_path):
    runs = []
    for place, more in enumerate(({}, {"dataset": {"name": "svhn"}}, {"active": {"warm_start": True}})):
        # The first number of labels does not count, though the difference is large there.
        runs += seeds_of(tmp_path, f"margin{place}", [0.9, 0.7, 0.8], **more)
        runs += seeds_of(tmp_path, f"random{place}", [0.1, 0.6, 0.8], acquisition="random", plugins=["other.py"], **more)
    found = comparison_of(*runs)
    assert found.methods == ("margin", "random") and len(found.settings) == 3
    # At one of two numbers of labels, in three settings.
    np.testing.assert_allclose(found.wins, [[0, 1.5], [0, 0]])
    # Columns: (0 + 0) / 2 and (1.5 + 0) / 2.
    assert found.averages.tolist() == pytest.approx([0, 0.75])
    assert found.notes == ()


def test_methods_may_differ_in_a_key_of_the_acquisition(tmp_path):
    runs = seeds_of(tmp_path, "a", [0.5, 0.7], acquisition={"name": "assl", "c_u": 0})
    runs += seeds_of(tmp_path, "b", [0.5, 0.6], acquisition={"name": "assl", "c_u": 0.5})
    found = comparison_of(*runs)
    assert found.methods == ("c_u=0", "c_u=0.5")
    assert found.wins.tolist() == [[0, 1], [0, 0]]


def test_an_analysis_makes_no_setting_of_its_own(tmp_path):
    runs = seeds_of(tmp_path, "a", [0.5, 0.7], active={"analysis": {"name": "any", "interval": 3}})
    runs += seeds_of(tmp_path, "b", [0.5, 0.6], acquisition="random")
    assert len(comparison_of(*runs).settings) == 1


def test_where_a_plugin_comes_from_makes_no_method_and_no_setting(tmp_path):
    runs = seeds_of(tmp_path, "a", [0.5, 0.7], seeds=(0, 1), plugins=["here.py"])
    runs += seeds_of(tmp_path, "b", [0.5, 0.7], seeds=(2,), plugins=["there.py"])
    runs += seeds_of(tmp_path, "c", [0.5, 0.6], acquisition="random")
    found = comparison_of(*runs)
    assert found.methods == ("margin", "random") and len(found.settings) == 1
    assert found.settings[0].scores[0] == {20: {seed: pytest.approx(0.7 + 0.01 * seed) for seed in range(3)}}
    # One of the seeds twice, from both: which one to pair is open.
    runs += seeds_of(tmp_path, "d", [0.5, 0.7], seeds=(0,), plugins=["there.py"])
    found = comparison_of(*runs)
    assert set(found.settings[0].scores[0][20]) == {1, 2} and "several runs with seed 0" in found.notes[0]


def test_one_method_is_no_comparison(tmp_path):
    assert comparison_of(*seeds_of(tmp_path, "a", [0.5, 0.7])) is None
    single = make_run(tmp_path / "single", 0, [0.5], acquisition=None)
    assert comparison_of(single, *seeds_of(tmp_path, "b", [0.5, 0.7])) is None


def test_what_is_left_out_is_said(tmp_path):
    runs = seeds_of(tmp_path, "margin", [0.5, 0.7])
    runs += seeds_of(tmp_path, "random", [0.5, 0.6], acquisition="random")
    # One seed in common with the others.
    runs += seeds_of(tmp_path, "entropy", [0.5, 0.9], acquisition="entropy", seeds=(2, 3))
    # A second run of seed 0; a setting of its own; never evaluated; no acquisition.
    runs += seeds_of(tmp_path, "again", [0.5, 0.8], seeds=(0,))
    runs += seeds_of(tmp_path, "alone", [0.5, 0.8], lr=0.1)
    runs += seeds_of(tmp_path, "blind", [0.5, 0.8], acquisition="random", evaluated_on="none", seeds=(0,))
    runs += [make_run(tmp_path / "single", 0, [0.5], acquisition=None)]
    found = comparison_of(*runs)
    assert found.methods == ("entropy", "margin", "random")
    margin, random = 1, 2
    assert found.wins[margin, random] == 1 and found.wins.sum() == 1
    assert found.compared.tolist() == [[0, 0, 0], [0, 0, 1], [0, 1, 0]]
    text = "\n".join(found.notes)
    for said in (
        "several runs with seed 0: which one to pair is open; left out.",
        "margin: alone in its setting; left out there.",
        "entropy and margin: no number of labels, after the first, with at least 2 seeds in common; not compared in one setting.",
        "not evaluated; left out.",
        "no acquisition; left out.",
    ):
        assert said in text
    assert len(found.notes) == 6


def test_the_page_says_which_test_and_shows_the_numbers(tmp_path):
    runs = [*seeds_of(tmp_path, "m", [0.5, 0.7]), *seeds_of(tmp_path, "s", [0.5, 0.7], lr=0.1)]
    runs += seeds_of(tmp_path, "r", [0.5, 0.6], acquisition="random")
    runs += seeds_of(tmp_path, "q", [0.5, 0.6], acquisition="random", lr=0.1)
    runs += seeds_of(tmp_path, "e", [0.5, 0.9], acquisition="$x$", lr=0.1)
    text, [picture] = pairwise_section(comparison_of(*runs), tmp_path)
    assert "![Pairwise matrix](pairwise.png)" in text and picture == tmp_path / "pairwise.png"
    assert "paired two-sided t-test" in text and "level 0.05" in text and "Ash et al. (2020)" in text
    assert "| beats → | $x$ | margin | random |" in text
    assert "| margin | 0.00 | 0.00 | 2.00 |" in text
    # ($x$ beats margin) 1 + 0 + 0 over three rows; random loses 1 + 2.
    assert "| average (lower is better) | 0.00 | 0.33 | 1.00 |" in text
    assert "Not every pair met in every setting" in text
    assert "| setting | `lr` | methods | seeds | numbers of labels |" in text
    assert "| 2 | none | margin, random | 0, 1, 2 | 20 |" in text or "| 1 | none | margin, random | 0, 1, 2 | 20 |" in text
    assert len(np.unique(np.asarray(Image.open(picture).convert("L")))) > 6


def test_where_nothing_can_be_compared_the_page_says_why(tmp_path):
    runs = [*seeds_of(tmp_path, "m", [0.5, 0.7], seeds=(0,)), *seeds_of(tmp_path, "r", [0.5, 0.6], acquisition="random", seeds=(0,))]
    text, pictures = pairwise_section(comparison_of(*runs), tmp_path)
    assert "No two methods could be compared." in text and "at least 2 seeds in common" in text and pictures == []
