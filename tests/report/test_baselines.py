"""Baselines of real small runs: what they are fitted to, what is kept, what a report and the end of a run say of them."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from run_helpers import config_of, settings, train
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from usb_active.commands.run import finish
from usb_active.errors import UsageError
from usb_active.numerics.baselines import Baselines
from usb_active.report import baseline_data, curves, write_report
from usb_active.report.baseline_data import features_in_use, labellings
from usb_active.report.baselines import baseline_warning, group_baselines, run_baselines
from usb_active.report.galleries import load_dataset
from usb_active.report.groups import group_runs
from usb_active.report.runs import RunRecord, read_runs
from usb_active.storage.schemas import BASELINES_FILE

HELD = {"validation": 0.3}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two runs of two trainings, with 20 and 30 labels: one as it is, one that holds labels out."""
    folder = tmp_path_factory.mktemp("trained")
    train(settings(folder, "plain"))
    train(settings(folder, "held", active=HELD))
    return folder


@pytest.fixture
def runs(trained, tmp_path):
    """Copies of them, to work on."""
    shutil.copytree(trained, tmp_path / "runs")
    return tmp_path / "runs"


def read(path: Path) -> RunRecord:
    return read_runs([path])[0][0]


def unavailable(*_) -> None:
    raise UsageError("the disk is not mounted")


def digits(run: RunRecord):
    """The data set, its pool and its test set as rows of normalised pixels."""
    dataset = load_dataset(run.directory)
    rows = [np.stack([dataset.views.eval(load(i)).numpy().ravel() for i in range(size)]) for load, size in
            ((dataset.load, len(dataset)), (dataset.test.load, len(dataset.test)))]  # fmt: skip
    return dataset, *rows


def labels_up_to(run: Path, cycle: int) -> tuple[list[int], list[int]]:
    """Indices and classes, read from the CSV alone."""
    with (run / "labels.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if int(row["cycle"]) <= cycle]
    return [int(row["index"]) for row in rows], [int(row["label"]) for row in rows]


def test_they_are_fitted_to_the_labels_of_each_cycle_and_tried_on_the_test_set(runs):
    run = read(runs / "plain")
    entries, notes = run_baselines(run, load_dataset_of)
    assert notes == [] and list(entries) == [0, 1]
    dataset, pool, test = digits(run)
    for cycle, size in ((0, 20), (1, 30)):
        idx, labels = labels_up_to(run.path, cycle)
        assert len(idx) == size
        counts = np.bincount(labels)
        majority = np.mean([(dataset.test.targets == one).mean() for one in np.flatnonzero(counts == counts.max())])
        # In the order of the pool, as a training has them.
        order = np.argsort(idx)
        idx, labels = np.array(idx)[order], np.array(labels)[order]
        nearest = KNeighborsClassifier(1).fit(pool[idx], labels).score(test, dataset.test.targets)
        logistic = LogisticRegression(max_iter=1000).fit(pool[idx], labels).score(test, dataset.test.targets)
        found = entries[cycle]["accuracies"]
        assert (found["majority"], found["nearest"], found["logistic"]) == pytest.approx((majority, nearest, logistic))
        assert found["spreading"] > found["majority"] + 0.2
        assert (entries[cycle]["evaluated"], entries[cycle]["available"], entries[cycle]["features"]) == (454, 454, "the pixels")


def load_dataset_of(directory):
    return load_dataset(directory)


def test_without_a_test_set_the_held_out_labels_are_predicted_and_train_nothing(runs):
    run = read(runs / "held")
    run = replace(run, metrics=[{**line, "evaluated_on": "validation"} for line in run.metrics])
    dataset = load_dataset(run.directory)
    made = labellings(run, dataset, [0, 1])
    for cycle, size, held in ((0, 20, 6), (1, 30, 9)):
        idx, _ = labels_up_to(run.path, cycle)
        assert len(made[cycle].held) == held and len(made[cycle].labeled) == size - held
        assert sorted([*made[cycle].held, *made[cycle].labeled]) == sorted(idx)
        assert np.array_equal(made[cycle].labels, dataset.targets[made[cycle].labeled])
        assert np.array_equal(made[cycle].held_labels, dataset.targets[made[cycle].held])
    # Once held out, for ever.
    assert set(made[0].held) <= set(made[1].held)
    entries, _ = run_baselines(run, load_dataset_of)
    assert [(entry["evaluated"], entry["available"]) for entry in entries.values()] == [(6, 6), (9, 9)]
    _, pool, _ = digits(run)
    nearest = KNeighborsClassifier(1).fit(pool[made[1].labeled], made[1].labels).score(pool[made[1].held], made[1].held_labels)
    assert entries[1]["accuracies"]["nearest"] == pytest.approx(nearest)


def test_there_the_features_of_the_run_are_used_where_they_need_no_model(runs):
    run = read(runs / "held")
    dataset = load_dataset(run.directory)
    path = run.path / "own.npy"
    np.save(path, np.eye(10, dtype=np.float32)[dataset.targets])
    run.config["active"]["acquisition"]["features"] = {"name": "file", "path": str(path)}
    run = replace(run, metrics=[{**line, "evaluated_on": "validation"} for line in run.metrics])
    title, kept, test = features_in_use(run, "validation")
    assert np.array_equal(kept, np.load(path)) and test is None and title == "features in own.npy"
    made, (entries, _) = labellings(run, dataset, [1])[1], run_baselines(run, load_dataset_of)
    # They give the class away, where it has a label; a class without one is equally far from all that have.
    known = np.isin(made.held_labels, made.labels).mean()
    assert known <= entries[1]["accuracies"]["nearest"] <= 1
    assert features_in_use(run, "test") == ("the pixels", None, None)


def test_a_training_on_all_labels_is_compared_with_baselines_on_all(runs):
    run = read(runs / "plain")
    path = run.path / "cycle_000" / "start.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "all_labels": True}), encoding="utf-8")
    dataset = load_dataset(run.directory)
    found = labellings(run, dataset, [0, 1])
    assert len(found[0].labeled) == len(dataset) and len(found[1].labeled) == 30
    assert np.array_equal(found[0].labels, dataset.targets)


# ---------------------------------------------------------------------------------------------- what is kept
def test_they_are_computed_once(runs, monkeypatch):
    first, _ = run_baselines(read(runs / "plain"), load_dataset_of)
    data = (runs / "plain" / BASELINES_FILE).read_bytes()
    assert run_baselines(read(runs / "plain"), unavailable) == (first, [])
    assert run_baselines(read(runs / "plain")) == (first, [])
    assert (runs / "plain" / BASELINES_FILE).read_bytes() == data
    (runs / "plain" / BASELINES_FILE).unlink()
    run_baselines(read(runs / "plain"), load_dataset_of)
    assert (runs / "plain" / BASELINES_FILE).read_bytes() == data


def test_only_those_of_new_trainings_are_computed(runs, monkeypatch):
    run = read(runs / "plain")
    run_baselines(replace(run, metrics=run.metrics[:1]), load_dataset_of)
    predict, calls = Baselines.predict, []
    monkeypatch.setattr(Baselines, "predict", lambda self, labeled, *more: calls.append(len(labeled)) or predict(self, labeled, *more))
    entries, _ = run_baselines(run, load_dataset_of)
    assert calls == [30] and list(entries) == [0, 1]


@pytest.mark.parametrize("change", [{"features": "others"}, {"versions": {"numpy": "1"}}])
def test_those_of_other_versions_or_features_are_computed_again_where_the_data_are_at_hand(runs, change):
    run = read(runs / "plain")
    fresh, _ = run_baselines(run, load_dataset_of)
    rewrite(run, lambda entry: {**entry, **change, "accuracies": {"nearest": 0.25}})
    assert run_baselines(run)[0][0]["accuracies"] == {"nearest": 0.25}
    kept, notes = run_baselines(run, unavailable)
    assert kept[1]["accuracies"] == {"nearest": 0.25} and notes == []
    assert run_baselines(run, load_dataset_of) == (fresh, [])


@pytest.mark.parametrize("change", [{"labels": "0" * 64}, {"evaluated_on": "validation"}, {"cycle": 7}])
def test_those_of_other_labels_or_of_another_evaluation_are_never_used(runs, change):
    run = read(runs / "plain")
    run_baselines(run, load_dataset_of)
    rewrite(run, lambda entry: {**entry, **change} if entry["cycle"] == 1 else entry)
    assert list(run_baselines(run)[0]) == [0]
    entries, (note,) = run_baselines(run, unavailable)
    assert list(entries) == [0] and note == "The baselines of cycle 1 are left out: the disk is not mounted"


def rewrite(run: RunRecord, change) -> None:
    path = run.path / BASELINES_FILE
    record = json.loads(path.read_text())
    path.write_text(json.dumps({"cycles": [change(entry) for entry in record["cycles"]]}), encoding="utf-8")


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"cycles": {}}', '{"cycles": [{"cycle": 0}]}', '{"cycles": [1]}', '{"cycles": NaN}', "\x00"]
)
def test_a_damaged_file_is_one_line_and_made_again(runs, text):
    run = read(runs / "plain")
    path = run.path / BASELINES_FILE
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")
    entries, (note,) = run_baselines(run)
    assert entries == {} and note.startswith(f"{path} is damaged") and "\n" not in note and "a report computes it again" in note
    entries, (note,) = run_baselines(run, load_dataset_of)
    assert list(entries) == [0, 1] and note.startswith(f"{path} is damaged")
    assert run_baselines(run) == (entries, [])


@pytest.mark.parametrize("share", ["1.5", "-0.1", "NaN", '"0.5"', "null", "true"])
def test_a_share_that_is_none_is_damage(runs, share):
    run = read(runs / "plain")
    run_baselines(run, load_dataset_of)
    path = run.path / BASELINES_FILE
    record = json.loads(path.read_text())
    record["cycles"][1]["accuracies"]["nearest"] = "HERE"
    path.write_text(json.dumps(record).replace('"HERE"', share), encoding="utf-8")
    entries, (note,) = run_baselines(run)
    assert entries == {} and note.startswith(f"{path} is damaged")


def test_where_they_cannot_be_kept_they_are_shown(runs, monkeypatch):
    def full(path, writer):
        raise UsageError(f"cannot write {path}: no space left on the device")

    monkeypatch.setattr("usb_active.report.baselines.atomic_write", full)
    run = read(runs / "plain")
    entries, (note,) = run_baselines(run, load_dataset_of)
    assert list(entries) == [0, 1]
    assert note == f"The baselines are not kept: cannot write {run.path / BASELINES_FILE}: no space left on the device"


# ---------------------------------------------------------------------------------------------- what is left out
def test_without_the_data_set_the_report_says_so(runs):
    write_report([runs / "plain"], dataset_of=unavailable)
    text = (runs / "plain" / "report" / "report.md").read_text()
    assert "- The baselines are left out: the disk is not mounted" in text and "## Baselines" not in text
    assert not (runs / "plain" / BASELINES_FILE).exists()


def test_a_run_of_plugins_that_are_not_installed_executes_nothing(runs):
    """And shows what was computed where they were."""
    run = read(runs / "plain")
    run_baselines(run, load_dataset_of)
    path = run.path / "config.yaml"
    (run.path / "evil.py").write_text("raise SystemExit('executed')", encoding="utf-8")
    path.write_text(path.read_text().replace("plugins: []", f"plugins: [{run.path / 'evil.py'}]"), encoding="utf-8")
    write_report([run.path])
    text = (run.path / "report" / "report.md").read_text()
    assert "## Baselines" in text
    (run.path / BASELINES_FILE).unlink()
    write_report([run.path])
    text = (run.path / "report" / "report.md").read_text()
    assert "## Baselines" not in text and "- The baselines are left out: " in text


@pytest.mark.parametrize("classes", [True, False])
def test_they_can_be_switched_off_and_tasks_without_classes_have_none(runs, classes):
    run = read(runs / "plain")
    run.config["active"]["baselines"] = not classes
    assert run_baselines(replace(run, has_classes=classes), unavailable) == ({}, [])


def test_the_key_is_on_by_default_and_may_change_when_a_run_is_resumed(tmp_path):
    config = config_of(settings(tmp_path))
    assert config.active.baselines and "active.baselines" in config.free_keys
    assert not config_of(settings(tmp_path, active={"baselines": False})).active.baselines


def test_a_test_set_that_is_gone_is_said(runs):
    dataset = load_dataset(read(runs / "plain").directory)
    dataset.test = None
    entries, (note,) = run_baselines(read(runs / "plain"), lambda _: dataset)
    assert entries == {} and note == "The baselines are left out: dataset 'digits' has no test samples, on which the model was evaluated"


# ---------------------------------------------------------------------------------------------- large sets
def test_large_images_are_averaged():
    images = [np.random.default_rng(i).normal(size=(3, 65, 65)).astype(np.float32) for i in range(3)]
    dataset = SimpleNamespace(name="large", collate=None, views=SimpleNamespace(eval=torch.from_numpy))
    rows = baseline_data._pixels(dataset, images.__getitem__, np.array([2, 0]))
    # 65 pixels in blocks of 3: 22 a side.
    assert rows.shape == (2, 3 * 22 * 22)
    assert rows[0, 0] == pytest.approx(images[2][0, :3, :3].mean(), abs=1e-6)
    assert rows[1, -1] == pytest.approx(images[0][2, 63:, 63:].mean(), abs=1e-6)


def test_of_a_large_pool_and_test_set_a_subset_stands_for_all(runs, monkeypatch):
    monkeypatch.setattr(baseline_data, "POOL_UP_TO", 100)
    monkeypatch.setattr(baseline_data, "TEST_UP_TO", 50)
    run = read(runs / "plain")
    dataset = load_dataset(run.directory)
    idx, rows = baseline_data.pool_rows(dataset, features_in_use(run, "test"), labellings(run, dataset, [0, 1]).values())
    assert len(idx) == len(rows) == 100 == len(np.unique(idx)) and set(labels_up_to(run.path, 1)[0]) <= set(idx.tolist())
    entries, _ = run_baselines(run, load_dataset_of)
    assert entries[1]["evaluated"] == 50 and entries[1]["available"] == 454
    write_report([run.path])
    assert "on test, 50 of 454 samples drawn at random" in (run.path / "report" / "report.md").read_text()


# ---------------------------------------------------------------------------------------------- what is shown
def test_the_report_has_a_row_for_each_cycle(runs):
    write_report([runs / "plain"])
    text = (runs / "plain" / "report" / "report.md").read_text()
    section = text.partition("## Baselines\n\n")[2].partition("\n## ")[0]
    entries, _ = run_baselines(read(runs / "plain"))
    lines = [json.loads(line) for line in (runs / "plain" / "metrics.jsonl").read_text().splitlines()]
    assert "| cycle | labels | trained model | majority class | 1-NN | logistic regression | label spreading |" in section
    for line in lines:
        accuracies = entries[line["cycle"]]["accuracies"]
        shown = [line["accuracy"], *(accuracies[name] for name in ("majority", "nearest", "logistic", "spreading"))]
        assert f"| {line['cycle']} | {line['num_labels']} | {' | '.join(f'{100 * value:.2f}' for value in shown)} |" in section


def test_what_a_received_file_says_is_text(runs):
    run = read(runs / "plain")
    run_baselines(run, load_dataset_of)
    rewrite(run, lambda entry: {**entry, "features": "![x](http://example.com/x.png) <b>"})
    write_report([run.path], dataset_of=unavailable)
    text = (run.path / "report" / "report.md").read_text()
    assert r"!\[x\]" in text and "<b>" not in text


def drawn(monkeypatch, *runs: Path):
    """The axes of the learning curve."""
    figures = []
    monkeypatch.setattr(curves, "save_figure", lambda figure, path: figures.append(figure) or path)
    records = read_runs(runs)[0]
    groups = group_runs(records)
    curves.learning_curve(groups, Path("x.png"), group_baselines(groups, {run.path: run_baselines(run)[0] for run in records}))
    return figures[0].axes[0]


def test_the_curve_has_a_thin_line_for_each(runs, monkeypatch):
    entries, _ = run_baselines(read(runs / "plain"), load_dataset_of)
    axes = drawn(monkeypatch, runs / "plain")
    lines = {line.get_label(): line for line in axes.lines}
    titles = {"majority": "majority class", "nearest": "1-NN", "logistic": "logistic regression", "spreading": "label spreading"}
    for name, title in titles.items():
        line = lines[title]
        assert list(line.get_xdata()) == [20, 30] and line.get_linewidth() == 1
        assert list(line.get_ydata()) == pytest.approx([100 * entries[cycle]["accuracies"][name] for cycle in (0, 1)])
    assert len({line.get_color() for line in axes.lines}) == 5 == len(axes.get_legend().get_texts())


def test_several_runs_show_the_better_ones_by_group_from_what_is_kept(runs, monkeypatch):
    shutil.copytree(runs / "plain", runs / "again")
    path = runs / "again" / "config.yaml"
    path.write_text(path.read_text().replace("seed: 3", "seed: 4"), encoding="utf-8")
    write_report([runs / "again", runs / "plain", runs / "held"], runs / "out", dataset_of=unavailable)
    assert "aseline" not in (runs / "out" / "report.md").read_text()
    entries = {name: run_baselines(read(runs / name), load_dataset_of)[0] for name in ("plain", "again")}
    rewrite(read(runs / "again"), lambda entry: {**entry, "accuracies": {**entry["accuracies"], "logistic": 0.5}})
    write_report([runs / "again", runs / "plain", runs / "held"], runs / "out", dataset_of=unavailable)
    text = (runs / "out" / "report.md").read_text()
    assert f"- No baselines of {runs / 'held'}: a report of a run alone computes them." in text
    mean = (0.5 + entries["plain"][1]["accuracies"]["logistic"]) / 2
    (row,) = [line for line in text.splitlines() if "| logistic regression |" in line]
    assert f"{100 * mean:.2f} ±" in row and "label spreading" in text and "1-NN" not in text
    axes = drawn(monkeypatch, runs / "again", runs / "plain", runs / "held")
    thin = [line for line in axes.lines if line.get_linewidth() == 1 and len(line.get_xdata())]
    assert [line.get_ydata()[1] for line in thin][0] == pytest.approx(100 * mean) and len(thin) == 2
    assert {line.get_color() for line in thin} < {line.get_color() for line in axes.lines if line.get_linewidth() == 1.8}


@pytest.mark.parametrize(
    ("model", "best", "size", "says"),
    [
        (0.45, 0.816, 1000, "above the trained model's 45.0 %"),
        # 1.96 * sqrt((0.8 * 0.2 + 0.78 * 0.22) / 1000) = 0.0357
        (0.80, 0.78, 1000, "within noise (± 3.6) of the trained model's 80.0 %"),
        (0.80, 0.81, 1000, "within noise (± 3.5) of the trained model's 80.0 %"),
        (0.80, 0.76, 1000, None),
        (0.80, 0.76, 100, "within noise (± 11.5) of"),
        # No noise left: equal is not better, lower is worse.
        (1.0, 1.0, 50, "within noise (± 0.0) of"),
        (1.0, 0.0, 50, None),
    ],
)
def test_a_baseline_that_is_as_good_as_the_model_is_named(runs, model, best, size, says):
    run = read(runs / "plain")
    run = replace(run, metrics=[*run.metrics[:-1], {**run.metrics[-1], "accuracy": model}])
    entry = {"evaluated_on": "test", "evaluated": size, "accuracies": {"majority": 0.0, "logistic": best, "nearest": best / 2}}
    warning = baseline_warning(run, {1: entry})
    if says is None:
        assert warning is None
    else:
        assert warning.startswith(f"logistic regression on the same labels has {100 * best:.1f} %, ") and says in warning
        assert "\n" not in warning and "num_train_iter" in warning and "ema_m" in warning and "net" in warning
        # There is no shorter EMA than none.
        none = baseline_warning(replace(run, config={**run.config, "ema_m": 0.0}), {1: entry})
        assert "num_train_iter" in none and "ema_m" not in none
    assert baseline_warning(run, {0: entry}) is None


def test_the_end_of_a_run_says_it(runs, capsys):
    """Twelve steps learn nothing."""
    config = config_of(settings(runs, "plain"))
    finish(config)
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith(("label spreading on the same labels has ", "logistic regression on the same labels has ", "1-NN on "))
    finish(config_of(settings(runs, "plain", active={"baselines": False})))


def test_their_libraries_are_imported_when_they_are_computed():
    # numba starts threads when its loops are loaded; a process that forks after that ends when a child computes.
    code = "import sys, usb_active.commands.run, usb_active.report; print({'numba', 'sklearn', 'faiss'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
