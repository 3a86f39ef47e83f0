"""Another kind of label than classes, from the data set to the report: nothing else in a run takes labels for classes."""

from __future__ import annotations

import csv
import json
import math
import re
import shutil
from pathlib import Path

import killer
import numpy as np
import pytest
import run_helpers
from run_helpers import config_of, labels_of, train

from usb_active import Metric, cli
from usb_active.contracts.registry import REGISTRY
from usb_active.errors import UsageError, WaitingForLabels
from usb_active.loop.setup import build_parts
from usb_active.records import SKIP
from usb_active.report import summary_table, write_report
from usb_active.storage.journal import read_journal
from usb_active.storage.run_dir import RunDir
from usb_active.storage.schemas import run_metrics
from usb_active.testing import DatasetContract

TOY = str(Path(__file__).with_name("toy_regression.py"))
USB = {"algorithm": "l1", "dataset": "brightness", "plugins": [TOY], "num_train_iter": 30, "num_eval_iter": 10, "lr": 0.02}
MAE = "mean_absolute_error"


def settings(tmp_path, name="run", /, active=None, **usb):
    block = {"acquisition": "curious", "initial": {"name": "random", "size": 12}, "cycles": 2, "budget": 6, **(active or {})}
    return run_helpers.settings(tmp_path, name, active=block, **{**USB, **usb})


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of three trainings, by its algorithm."""
    return train(settings(tmp_path_factory.mktemp("finished"), active={"validation": 0.25}))


@pytest.fixture
def task():
    return build_parts(config_of(settings(Path("runs"))))["dataset"].task


def path_of(algorithm):
    return algorithm.session.run_dir.path


# ---------------------------------------------------------------------------------------------- the contract
class TestBrightness(DatasetContract):
    name = "brightness"
    config = {"size": 40}

    @pytest.fixture(scope="class", autouse=True)
    def loaded(self):
        REGISTRY.load_modules([TOY])


# ---------------------------------------------------------------------------------------------- texts
def test_what_is_written_in_several_ways_is_one_label(task):
    label = task.read(" 0,3700")
    assert task.decode(label) == "0.37" and task.encode("0.37") == task.read("37e-2") == label
    assert task.read("Skip ") == SKIP and [task.read(text) for text in ("abc", "", "nan", "inf", "0.3.7")] == [None] * 5
    assert task.targets(np.array([label, -1])).tolist() == pytest.approx([0.37, np.nan], nan_ok=True)


# ---------------------------------------------------------------------------------------------- a simulated run
def test_the_journal_holds_numbers_and_the_model_learns_them(finished):
    dataset, rows = finished.session.dataset, read_journal(path_of(finished) / "labels.csv")
    assert len(rows) == 24 and {row.cycle for row in rows} == {0, 1, 2}
    for row in rows:
        assert float(row.label) == pytest.approx(dataset.load(row.index).mean() / 255, abs=6e-4)
    # Whoever says the mean of all labels is off by more.
    truth = dataset.task.targets(dataset.test.targets)
    line = RunDir.read(path_of(finished)).metrics()[-1]
    assert 0 < line[MAE] < np.abs(truth - truth.mean()).mean()


def test_methods_see_numbers_and_their_outputs(finished):
    plugin, dataset = finished.session.plugins["acquisition"], finished.session.dataset
    assert plugin.labels.dtype == np.float32 and len(plugin.labels) == 18
    labeled = finished.session.pool.labeled
    assert set(plugin.labels.tolist()) <= set(dataset.task.targets(dataset.targets[labeled]).tolist())
    assert [values["logits"].shape for _, values in plugin.outputs] == [(1, 3, 1)]


def test_metrics_are_those_of_the_task(finished):
    lines = RunDir.read(path_of(finished)).metrics()
    assert [line["num_labels"] for line in lines] == [12, 18, 24]
    for line in lines:
        assert {MAE, f"best_{MAE}", f"validation_{MAE}", f"selected_{MAE}", "root_mean_squared_error"} < line.keys()
        assert not [name for name in line if "accuracy" in name or "class" in name]
        # The best is the smallest.
        assert line[f"best_{MAE}"] <= line[MAE] <= line["root_mean_squared_error"]
    run = RunDir.read(path_of(finished))
    table = summary_table(lines, run_metrics(run)).splitlines()
    assert table[0].split("  ")[0] == "cycle" and "last error" in table[0] and "best error (optimistic)" in table[0] and "%" not in table[0]
    assert f"{lines[0][MAE]:.3f}" in table[1]


def test_the_checkpoint_kept_is_the_one_with_the_smallest_error(finished, tmp_path):
    from usb_active.usb.launcher import make_algorithm

    seen, note = [], type(finished).note_evaluation
    algorithm = make_algorithm(config_of(settings(tmp_path, active={"cycles": 0})))
    algorithm.note_evaluation = lambda scores: (seen.append((algorithm.it, scores["eval/mae"])), note(algorithm, scores))
    algorithm.train()
    errors = [error for _, error in seen]
    assert len(set(errors)) == 3 and algorithm.best_test_score == min(errors)
    assert algorithm.best_it == next(it for it, error in seen if error == min(errors))


def test_a_line_a_cycle(tmp_path, caplog):
    caplog.set_level("INFO", logger="usb_active")
    algorithm = train(settings(tmp_path, active={"cycles": 1}))
    lines = RunDir.read(path_of(algorithm)).metrics()
    said = [record.getMessage() for record in caplog.records if record.name == "usb_active"]
    for line in lines:
        start = f"cycle {line['cycle']}: {line['num_labels']} labels, mean absolute error {line[MAE]:.3f} (test), trained "
        assert any(text.startswith(start) for text in said), said
    assert any("90 samples, task 'number', img_size 8" in text for text in said)


def test_held_out_labels_are_a_share_of_every_round(finished):
    held = finished.session.ledger.held_out()
    # A quarter of 12, of 18 and of 24, rounded half up.
    rounds = finished.session.pool.first_cycle[held]
    assert [int((rounds <= cycle).sum()) for cycle in range(3)] == [3, 5, 6]


def test_the_report_draws_the_tasks_metric(finished, tmp_path, monkeypatch):
    from usb_active.report import curves

    seen = {}
    monkeypatch.setattr(curves, "save_figure", lambda figure, path: seen.update(axes=figure.axes[0]) or path)
    path = path_of(finished)
    out = write_report([path], tmp_path / "report", trusted=True)
    text = (tmp_path / "report" / "report.md").read_text()
    lines = RunDir.read(path).metrics()
    assert "## Mean absolute error by number of labels" in text and "Lower is better." in text
    assert "ccuracy" not in text and "by class" not in text and "%" not in text
    assert f"| {lines[-1][MAE]:.3f} |" in text and f"| {lines[-1]['root_mean_squared_error']:.4f} |" in text
    assert seen["axes"].get_ylabel() == "mean absolute error on test, last EMA model (lower is better)"
    drawn = seen["axes"].lines[0].get_ydata()
    assert drawn.tolist() == [line[MAE] for line in lines]
    assert [made.name for made in out if made.name.startswith("gallery")] == [f"gallery_cycle_{cycle:03d}.png" for cycle in range(3)]


def test_a_map_of_the_pool_has_no_classes(finished, tmp_path):
    out = write_report([path_of(finished)], tmp_path / "report", embed=True, trusted=True)
    assert tmp_path / "report" / "embed.png" in out


@pytest.mark.parametrize(("key", "value"), [(MAE, math.nan), (f"best_{MAE}", math.inf), ("root_mean_squared_error", math.nan)])
def test_metrics_that_are_no_numbers_are_neither_written_nor_read(finished, tmp_path, key, value):
    ledger, path = finished.session.ledger, path_of(finished)
    done = ledger.done(2)
    assert key in done["metrics"]
    with pytest.raises(UsageError, match=rf"metrics\.jsonl: the line of cycle 3 is not written \({key}: .* is {value}\); .*task 'number'"):
        ledger.finish(3, {**done, "metrics": {**done["metrics"], "cycle": 3, key: value}})
    assert not (path / "cycle_003").exists()
    copied = tmp_path / "run"
    shutil.copytree(path, copied)
    first, second, third = (copied / "metrics.jsonl").read_text().splitlines()
    (copied / "metrics.jsonl").write_text("\n".join([first, json.dumps({**json.loads(second), key: value}), third, ""]))
    with pytest.raises(UsageError, match=rf"metrics\.jsonl:2 is damaged \({key}: input should be a finite number, is {value}\)"):
        write_report([copied], tmp_path / "out")


def test_a_report_of_two_tasks_is_refused(finished, tmp_path):
    other = train(run_helpers.settings(tmp_path, "classes", active={"cycles": 0}))
    with pytest.raises(UsageError, match="measures mean absolute error, .*classes accuracy; write a report of each"):
        write_report([path_of(finished), path_of(other)], tmp_path / "report")


def test_the_smaller_error_wins():
    """Two methods over two seeds, the differences equal: every comparison is significant."""
    from usb_active.report.groups import group_runs
    from usb_active.report.pairwise import compare
    from usb_active.report.runs import RunRecord

    measures = (Metric("mae", "mean absolute error", higher_is_better=False),)

    def run(method, seed, error):
        lines = [{"num_labels": count, MAE: value, "evaluated_on": "test"} for count, value in ((10, 1.0), (20, error))]
        config = {"seed": seed, "active": {"acquisition": {"name": method}}}
        return RunRecord(Path(f"{method}{seed}"), None, config, lines, measures, has_classes=False)

    found = compare(group_runs([run(method, seed, error) for method, error in (("good", 0.1), ("poor", 0.3)) for seed in (0, 1)]))
    good, poor = found.methods.index("good"), found.methods.index("poor")
    assert found.wins[good, poor] == 1 and found.wins[poor, good] == 0


def test_predictions_are_numbers(finished, capsys):
    path = path_of(finished)
    assert cli.main(["predict", str(path), "--trust-plugins"]) == 0
    head, *rows = csv.reader(capsys.readouterr().out.splitlines())
    dataset, pool = finished.session.dataset, finished.session.pool
    assert head == ["key", "number"] and [key for key, _ in rows] == [dataset.keys[i] for i in pool.unlabeled]
    truth = dataset.task.targets(dataset.targets[pool.unlabeled])
    assert np.abs(np.array([float(value) for _, value in rows]) - truth).mean() < np.abs(truth - truth.mean()).mean()


def test_predictions_for_other_images_need_no_data_set(finished, tmp_path, capsys):
    from PIL import Image

    Image.fromarray(finished.session.dataset.load(3)).save(tmp_path / "a.png")
    assert cli.main(["predict", str(path_of(finished)), "--data", str(tmp_path), "--trust-plugins"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "key,number"


def test_labels_are_shown_without_a_table_of_classes(finished, capsys):
    assert cli.main(["labels", str(path_of(finished))]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"total +24 +24 +0 +0", shown) and "class" not in shown


# ---------------------------------------------------------------------------------------------- people
def people(tmp_path):
    return settings(tmp_path, active={"oracle": "csv", "cycles": 1})


def answer(path, cycle, *texts):
    """Write these into the first rows of a query's file, and the brightness that there is into the others."""
    file = path / "queries" / f"cycle_{cycle:03d}.csv"
    head, *rows = csv.reader(file.read_text(encoding="utf-8-sig").splitlines())
    assert head == ["index", "key", "file", "label"]
    for place, row in enumerate(rows):
        row[3] = texts[place] if place < len(texts) else "0.5"
    with file.open("w", newline="") as stream:
        csv.writer(stream).writerows([head, *rows])
    return [row[1] for row in rows]


def test_people_are_asked_for_numbers(tmp_path):
    data = people(tmp_path)
    with pytest.raises(WaitingForLabels) as waiting:
        train(data)
    assert "with a number, such as 0.37; 'skip' refuses a sample; then run" in str(waiting.value)
    path = tmp_path / "run"
    query = json.loads((path / "queries" / "cycle_000.json").read_text())
    assert query["class_names"] == [] and query["expects"] == "a number, such as 0.37"
    answer(path, 0, "0.37", "abc")
    with pytest.raises(UsageError) as refused:
        train(data)
    assert re.fullmatch(r".*cycle_000\.csv:3: not a number \('abc'\); valid: a number, such as 0\.37, or skip", str(refused.value))
    keys = answer(path, 0, "0.37", "0,25", "skip", "1e-1")
    with pytest.raises(WaitingForLabels):
        train(data)
    journal = {row.key: row.label for row in read_journal(path / "labels.csv")}
    assert [journal[key] for key in keys] == ["0.37", "0.25", "", "0.1", *["0.5"] * 8]
    answer(path, 1)
    # Another process, whose labels have other numbers: those of the journal come in its order.
    algorithm = train(data)
    pool, task = algorithm.session.pool, algorithm.session.dataset.task
    assert {algorithm.session.dataset.keys[i]: task.decode(pool.labels[i]) for i in pool.labeled} == {
        row.key: row.label for row in read_journal(path / "labels.csv") if row.label
    }


def test_corrections_are_numbers(tmp_path, capsys):
    data = people(tmp_path)
    with pytest.raises(WaitingForLabels):
        train(data)
    path = tmp_path / "run"
    key = json.loads((path / "queries" / "cycle_000.json").read_text())["keys"][0]
    assert cli.main(["labels", str(path), "--set", f"{key}=0,5"]) == 2
    assert "toy_regression.py" in capsys.readouterr().err
    assert cli.main(["labels", str(path), "--set", f"{key}=much", "--trust-plugins"]) == 2
    assert capsys.readouterr().err.endswith(f"--set {key}=much: not a number 'much'; valid: a number, such as 0.37\n")
    assert cli.main(["labels", str(path), "--set", f"{key}=0,5", "--trust-plugins"]) == 0
    assert [row.label for row in read_journal(path / "labels.csv")] == ["0.5"]


def test_a_first_query_that_was_skipped_whole_is_told_in_words_of_any_task(tmp_path):
    data, path = people(tmp_path), tmp_path / "run"
    with pytest.raises(WaitingForLabels):
        train(data)
    keys = json.loads((path / "queries" / "cycle_000.json").read_text())["keys"]
    assert cli.main(["labels", str(path), *(f"--skip={key}" for key in keys), "--trust-plugins"]) == 0
    with pytest.raises(UsageError, match=r"^all samples that were asked for were skipped or taken back, .* --set KEY=LABEL$"):
        train(data)


def test_a_journal_with_something_else_is_refused_by_line(tmp_path):
    data = people(tmp_path)
    with pytest.raises(WaitingForLabels):
        train(data)
    path = tmp_path / "run"
    index, key = (json.loads((path / "queries" / "cycle_000.json").read_text())[name][0] for name in ("idx", "keys"))
    head = "cycle,index,key,label,status,acquisition,time\n"
    (path / "labels.csv").write_text(f"{head}0,{index},{key},bright,labeled,random,2026-01-01T00:00:00+00:00\n")
    with pytest.raises(UsageError, match=r"labels\.csv:2: not a number 'bright'; valid: a number, such as 0\.37"):
        train(data)


def test_numbers_that_exist_already_start_a_run(tmp_path):
    (tmp_path / "known.csv").write_text('key,label\ngrey/003,0.25\ngrey/004,"0,5"\n')
    algorithm = train(settings(tmp_path, active={"initial": {"name": "file", "path": str(tmp_path / "known.csv")}, "cycles": 0}))
    assert [row[3] for row in labels_of(path_of(algorithm))[1:]] == ["0.25", "0.5"]
    known = train(settings(tmp_path, "known", active={"initial": "known", "cycles": 0}))
    assert len(known.session.pool.labeled) == 90


# ---------------------------------------------------------------------------------------------- resume
@pytest.mark.slow
@pytest.mark.parametrize("point", ["train", "labels"])
def test_killed_and_resumed_it_is_equal_to_the_bit(tmp_path, point):
    usb = {**USB, "plugins": [str(killer.PLUGIN), TOY], "num_train_iter": 13, "num_eval_iter": 5, "epoch": 3}
    data = killer.settings(tmp_path, "run", {"acquisition": "curious", "initial": {"name": "random", "size": 12}, "budget": 6}, **usb)
    reference = killer.finish({**data, "save_name": "reference"})
    ended = killer.run(data, point)
    assert ended.code == killer.KILLED, ended
    killer.assert_same_end(killer.finish(data), reference)


# ---------------------------------------------------------------------------------------------- what needs classes
@pytest.mark.parametrize(
    ("active", "usb", "message"),
    [
        ({"acquisition": "entropy"}, {}, "active.acquisition: 'entropy' needs probabilities of classes"),
        ({"initial": {"name": "balanced", "size": 10}}, {}, "active.initial: 'balanced' takes equally many of each class"),
        ({"prior": "guess"}, {}, "active.prior: 'guess' guides pseudo-labels by probabilities of classes"),
        ({"acquisition": "presumptuous"}, {}, "active.acquisition: 'presumptuous' gives pseudo-labels, which are classes"),
        ({}, {"algorithm": "fixmatch"}, "algorithm: 'fixmatch' learns classification"),
        ({}, {"algorithm": "supervised"}, "algorithm: 'supervised' learns classification"),
    ],
)
def test_what_needs_classes_is_refused_before_anything_runs(tmp_path, active, usb, message):
    with pytest.raises(UsageError) as refused:
        build_parts(config_of(settings(tmp_path, active=active, **usb)))
    text = str(refused.value)
    assert text.startswith(f"test.yaml: {message}") and "the labels of dataset 'brightness' are of the task 'number'" in text
    assert "\n" not in text and not (tmp_path / "run").exists()


def test_an_algorithm_that_learns_numbers_is_refused_for_classes(tmp_path):
    what = "algorithm: 'l1' learns number, and the labels of dataset 'digits' are of the task 'classification'"
    with pytest.raises(UsageError, match=what):
        build_parts(config_of(settings(tmp_path, dataset="digits")))


@pytest.mark.parametrize(("keys", "what"), [({"ask": "num_classes"}, "classes"), ({"outputs": ["logits", "probs"]}, "probs")])
def test_a_view_without_classes_says_so(tmp_path, keys, what):
    data = settings(tmp_path, active={"acquisition": {"name": "curious", **keys}, "cycles": 1})
    message = f"active.acquisition: there are no {what}: the labels of dataset 'brightness' are of the task 'number'"
    with pytest.raises(UsageError, match=message):
        train(data)


def test_usbs_key_for_classes_is_the_heads_size(tmp_path):
    with pytest.raises(UsageError, match="num_classes: 10 given, but dataset 'brightness' has no classes, and 1 outputs"):
        build_parts(config_of(settings(tmp_path, num_classes=10)))
