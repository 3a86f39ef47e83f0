"""The pure parts of benchmarks/results_table.py: what is stale, what is kept, what a page says; and the folders it is made on."""

from __future__ import annotations

import importlib
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from run_helpers import ROOT

from usb_active import cli
from usb_active.storage.run_dir import RunDir


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
    found = results.plans(list(results.SETS))
    waiting = results.to_train(found, [])
    assert len(waiting) == sum(plan.seeds for plan in found)
    cells = [pair for planned in results.write_studies(waiting, tmp_path, tmp_path / "data") for pair in planned.cells()]
    assert sorted((results.plan_key(plan), cell.seed) for plan, cell in cells) == sorted((results.plan_key(plan), n) for plan, n in waiting)
    assert len({cell.run_path for _, cell in cells}) == len(cells)
    for plan, cell in cells:
        active, folder = cell.config.active, results.SETS[plan.of].folder
        assert active.initial.size + active.cycles * active.budget == plan.labels[-1]
        if folder:
            assert cell.config.usb["data_dir"] == str(tmp_path / "data" / f"{folder}-{cell.seed}")


def test_what_trains_on_features_waits_for_the_run_that_makes_those_of_its_split(results, tmp_path):
    plan = next(plan for plan in results.goal_plans() if plan.of == "cifar5000_features" and plan.labels == (100,))
    first, other = results.write_studies([(plan, 3)], tmp_path, tmp_path)
    assert (first.plans, other.plans) == ((results.EXTRACTING,), (plan,))
    (source,), (cell,) = first.study.cells, other.study.cells
    assert source.config.active.features.name == results.ON_THEM["active.features"] and (source.seed, cell.seed) == (3, 3)
    features = cell.config.active.features
    assert features.name == "file" and Path(features.config.test_path).parent == source.run_path / "artifacts"
    # Of another set nobody waits for them.
    assert len(results.write_studies([(results.goal_plans()[0], 3)], tmp_path, tmp_path)) == 1


@pytest.fixture
def tiny(results, tmp_path, monkeypatch):
    """The folder of CSV files; what there is to train is a plan of one seed with a run of a second."""
    monkeypatch.setattr(results, "KEPT", tmp_path / "kept")
    monkeypatch.setattr(results, "goal_plans", lambda: [results.Plan("digits", "supervised", "random", (20,), 1)])
    monkeypatch.setattr(results, "other_plans", lambda: [])
    steps = {"num_train_iter": 2, "epoch": 1, "num_eval_iter": 2}
    monkeypatch.setattr(results, "WITHOUT_EVALUATIONS", {**results.WITHOUT_EVALUATIONS, **steps})
    return tmp_path / "kept"


def main(results, monkeypatch, tmp_path, *more: str) -> None:
    """The script on digits."""
    roots = ["--root", str(tmp_path / "root"), "--data", str(tmp_path)]
    monkeypatch.setattr("sys.argv", ["results_table.py", *roots, "--sets", "digits", *more])
    results.main()


def test_what_is_planned_is_trained_by_a_sweep_and_kept(results, tiny, tmp_path, monkeypatch, capfd):
    main(results, monkeypatch, tmp_path)
    (row,) = results.read_kept(tiny / "digits.csv")
    (run,) = (tmp_path / "root").glob("digits-supervised-0/*,seed=0")
    (line,) = RunDir.read(run).metrics()
    assert row.accuracy == round(100 * line["accuracy"], 2) and row.cpu_seconds == round(line["cpu_seconds"], 1) and row.labels == 20
    assert "1 cells: 1 done" in capfd.readouterr().out
    # Kept: its directory is not needed any more.
    shutil.rmtree(tmp_path / "root")
    main(results, monkeypatch, tmp_path)
    assert results.read_kept(tiny / "digits.csv") == [row] and not list((tmp_path / "root").glob("*"))


def test_a_study_that_fails_or_is_refused_is_said_and_nothing_is_kept(results, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(cli, "main", lambda arguments: 1)
    with pytest.raises(SystemExit, match="not all runs are done: digits-supervised-0; the same command goes on"):
        main(results, monkeypatch, tmp_path)
    assert results.read_kept(tiny / "digits.csv") == []
    monkeypatch.setattr(cli, "main", lambda arguments: 130)
    with pytest.raises(SystemExit) as ended:
        main(results, monkeypatch, tmp_path)
    assert ended.value.code == 130


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
