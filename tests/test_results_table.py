"""The pure parts of benchmarks/results_table.py: what is stale, what is kept, what a page says; and the folders it is made on."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from run_helpers import ROOT

from usb_active.config.settings import load_yaml_config


@pytest.fixture(scope="module")
def results():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        yield importlib.import_module("results_table")


@pytest.fixture
def row(results):
    """A training of the first goal."""
    plan = results.goal_plans()[0]
    scores = {"majority": 10.0, "nearest": 80.5, "logistic": 81.25, "spreading": 90.0}
    return results.Row(
        plan.of, plan.trainer, "", plan.rule, str(plan.labels[0]), plan.labels[0], 0, 0, 91.5, **scores, cpu_seconds=4.5,
        digest=results.digest(plan), made_with="torch 2; 1 thread, 2 cores",
    )  # fmt: skip


def test_every_cell_is_a_valid_configuration_with_a_run_of_its_own(results, tmp_path):
    from evidence import overrides

    results.write_recipes(tmp_path)
    cells = [cell for plan in results.plans(list(results.SETS)) for cell in results.cells_of(plan, tmp_path, tmp_path)]
    assert len({cell.name for cell in cells}) == len(cells)
    for cell in {cell.place: cell for cell in cells}.values():
        config = load_yaml_config(cell.config, overrides(cell, tmp_path))
        assert config.active.initial.size + config.active.cycles * config.active.budget == int(cell.place[-1].rpartition("to")[2])


def test_steps_of_cycles_are_equal(results):
    # A run has one budget: what a plan says beyond the first step is what its cycles come to.
    for plan in results.plans(list(results.SETS)):
        assert len(set(np.diff(plan.labels))) <= 1 and (plan.start != "") == (len(plan.labels) > 1)


def test_a_digest_says_what_is_trained_and_not_where(results, monkeypatch):
    plan = next(plan for plan in results.plans(["mnist5000"]) if plan.start)
    before = results.digest(plan)
    assert before == results.digest(replace(plan, seeds=1)) != results.digest(replace(plan, rule="entropy"))
    recipe = {**results.recipe("drawings"), "lr": 0.2}
    monkeypatch.setattr(results, "recipe", lambda name: recipe)
    assert results.digest(plan) != before


def test_rows_are_kept_as_they_are(results, row, tmp_path):
    path = tmp_path / "kept" / "digits.csv"
    rows = [row, replace(row, seed=1, split=1, accuracy=92.25)]
    results.write_kept(path, reversed(rows))
    assert results.read_kept(path) == rows
    assert results.read_kept(tmp_path / "none.csv") == []


def test_what_is_stale_or_no_longer_planned_is_trained_again(results, row):
    plan = results.goal_plans()[0]
    digests = {results.plan_key(plan): results.digest(plan)}
    assert results.fresh([row], digests) == [row]
    assert results.fresh([replace(row, digest="0"), replace(row, rule="margin")], digests) == []
    assert results.is_kept(plan, 0, [row]) and not results.is_kept(plan, 1, [row])
    cycled = replace(plan, labels=(20, 60, 100), start="kmedoids")
    some = [replace(row, start="kmedoids", steps="20-60-100", labels=count) for count in (20, 60)]
    assert not results.is_kept(cycled, 0, some) and results.is_kept(cycled, 0, [*some, replace(some[0], labels=100)])


def test_what_is_committed_is_planned_and_up_to_date(results):
    found = results.plans(list(results.SETS))
    digests = {results.plan_key(plan): results.digest(plan) for plan in found}
    rows = [row for of in results.SETS for row in results.read_kept(results.KEPT / f"{of}.csv")]
    assert rows and results.fresh(rows, digests) == rows
    assert len({row.key for row in rows}) == len(rows)
    assert all(0 <= row.accuracy <= 100 and 0 <= row.best_baseline <= 100 and row.seed == row.split for row in rows)


def test_the_page_has_what_is_committed(results):
    found = results.plans(list(results.SETS))
    rows = [row for of in results.SETS for row in results.read_kept(results.KEPT / f"{of}.csv")]
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    assert results.fill(page, results.parts(rows, found)) == page


@pytest.mark.parametrize(
    ("values", "target", "words"),
    [([95.0, 96.0, 97.0], 96, "reached"), ([95.0, 96.0, 97.0], 97, "missed, within the interval"), ([95.0, 95.1, 95.2], 97, "missed"),
     ([90.0, 96.0], 95, "missed"), ([95.0], 95, "reached")],
)  # fmt: skip
def test_a_miss_is_called_one(results, values, target, words):
    assert results.verdict(values, target) == words


def test_the_best_classifier_is_taken_seed_by_seed(results, row):
    rows = [replace(row, seed=seed, accuracy=90.0 + seed, nearest=88.0 + 2 * seed) for seed in range(3)]
    # 90, 91 and 92 against 90 (spreading), 90 (both), 92 (1-NN).
    assert [one.accuracy - one.best_baseline for one in rows] == [0, 1, 0]
    assert "| +0.3 ± 1.4 |" in results.goal_table(rows)


def test_only_what_stands_between_marks_is_made_anew(results):
    page = "# A\n\n<!-- one -->\nold\n<!-- end -->\n\ntext <!-- two --><!-- end -->."
    done = results.fill(page, {"one": "1", "two": "2"})
    assert done == "# A\n\n<!-- one -->\n\n1\n\n<!-- end -->\n\ntext <!-- two -->\n\n2\n\n<!-- end -->."
    assert results.fill(done, {"one": "1", "two": "2"}) == done
    for wrong in ("<!-- three --><!-- end -->", "<!-- one -->"):
        with pytest.raises(SystemExit, match="mark"):
            results.fill(wrong, {"one": "1"})


def test_a_split_is_drawn_by_class_and_always_the_same(tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        data = importlib.import_module("results_data")
        patch.setattr(data, "TRAIN", {"cifar5000": 3})
        patch.setattr(data, "TEST", 2)
        for path in [tmp_path / part / name / f"{i}.jpg" for part in ("train", "test") for name in "ab" for i in range(6)]:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(str(path.relative_to(tmp_path)))
        made = {out: data.make("cifar5000", tmp_path / out, split, tmp_path) for out, split in (("x", 0), ("y", 0), ("z", 1))}
        with pytest.raises(SystemExit, match="--source"):
            data.make("cifar5000", tmp_path / "x", 2, None)

    def files(root: Path) -> list[str]:
        return sorted(path.read_text() for path in root.rglob("*.jpg"))

    assert files(made["x"]) == files(made["y"]) != files(made["z"])
    assert [len(list((made["x"] / part / name).iterdir())) for part in ("train", "test") for name in "ab"] == [3, 3, 2, 2]
    assert not list((tmp_path / "x").glob("*.partly"))
