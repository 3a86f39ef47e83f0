"""Damaged files of a run, and files of other runs: one clear line each, with the remedy."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from types import SimpleNamespace

import fuzz_runs
import numpy as np
import pytest
import torch
from run_helpers import checkpoint, settings, train, weights_equal, write_yaml

from usb_active import cli
from usb_active.config.trust import FLAG
from usb_active.errors import UsageError
from usb_active.storage.checkpoint import Owner, read_checkpoint, read_cycle_checkpoint, read_weights
from usb_active.storage.run_dir import RunDir
from usb_active.storage.schemas import DoneRecord, StartRecord, check_record, finished_trainings, read_start

CASES, SEED = 40, 0


@pytest.fixture(scope="module")
def fuzz(tmp_path_factory):
    """Two finished runs, and damaged copies of the first."""
    return fuzz_runs.Fuzz(tmp_path_factory.mktemp("fuzz"))


@pytest.fixture
def run(fuzz):
    """A copy of the first of them."""
    with fuzz.copy() as path:
        yield path


def commands(run: Path, *names: str) -> list[list[str]]:
    yaml = str(run.parent / "copy.yaml")
    return [["run", yaml] if name == "run" else [name, str(run)] for name in names or ("run", "report", "labels", "predict")]


def refusal(capsys, arguments) -> str:
    capsys.readouterr()
    # The plugin of these runs is a file.
    trust = [FLAG] if arguments[0] in ("report", "predict") else []
    assert cli.main([*arguments, *trust]) == 2, arguments
    said = capsys.readouterr().err
    assert said.count("usb-active: error: ") == said.count("\n") == 1, said
    return said


@pytest.mark.parametrize("part", range(4))
def test_damaged_files_of_all_kinds(fuzz, part):
    tally = fuzz_runs.Tally()
    for number in range(part, CASES, 4):
        fuzz.case(number, SEED, tally)
    assert tally.cases == CASES // 4 and tally.is_good, str(tally)


@pytest.mark.parametrize("kind", ["traceback", "altered", "lines"])
def test_the_judge_can_find_something(kind):
    tally = fuzz_runs.Tally()
    line = "usb-active: error: x\n"
    given = {"traceback": (None, "Traceback", False), "altered": (0, "", True), "lines": (2, line + line, False)}
    fuzz_runs.judge("here", *given[kind], tally)
    assert not tally.is_good and [len(tally.tracebacks), len(tally.accepted), len(tally.several_lines)] == [
        kind == "traceback", kind == "altered", kind == "lines"
    ]  # fmt: skip


# ---------------------------------------------------------------------------------------------------------- small files
SMALL = {
    "dataset.json": ("restore it from a copy", ("run", "labels", "predict")),
    "queries/cycle_000.json": ("restore it from a copy", ("run", "report", "labels", "predict")),
    "queries/cycle_001.json": ("restore it from a copy", ("run", "report", "labels", "predict")),
    "cycle_000/start.json": ("restore it from a copy, or move its folder away", ("run", "report", "labels", "predict")),
    "cycle_001/done.json": ("restore it from a copy, or move its folder away", ("run",)),
    "keys.txt": ("restore", ("run", "labels", "predict")),
}


@pytest.mark.parametrize("content", ["{}", "[1]", "null", '"x"', "", "\x00\x01"])
@pytest.mark.parametrize("name", SMALL)
def test_other_content(run, capsys, name, content):
    remedy, names = SMALL[name]
    if name == "keys.txt" and content == "":
        pytest.skip("no keys at all: told from the pool of then")
    (run / name).write_text(content)
    for arguments in commands(run, *names):
        said = refusal(capsys, arguments)
        said_so = ["is damaged (", ":1: damaged ("] if name == "keys.txt" else ["is damaged ("]
        said_so += ["is gone; "] if (name, content) == ("dataset.json", "null") else []
        assert any(f"{run / name} {one}".replace(" :1", ":1") in said for one in said_so), said
        assert remedy in said


@pytest.mark.parametrize("name", [name for name in SMALL if "done" not in name and "start" not in name])
def test_files_that_are_gone(run, capsys, name):
    (run / name).unlink()
    for arguments in commands(run, *[one for one in SMALL[name][1] if (name, one) != ("dataset.json", "labels")]):
        assert f"{run / name} is gone; restore it from a copy" in refusal(capsys, arguments)


def test_no_keys_at_all(run, capsys):
    (run / "keys.txt").write_text("")
    assert "keys.txt is damaged (0 keys, and there were 1343 already)" in refusal(capsys, ["labels", str(run)])


def test_records_of_another_cycle(run, capsys):
    for name in ("start.json", "done.json"):
        shutil.copy(run / "cycle_000" / name, run / "cycle_001" / name)
        assert f"{run / 'cycle_001' / name} is damaged (it is of cycle 0, must be of cycle 1)" in refusal(capsys, commands(run, "run")[0])
        shutil.copy(run.parent / "base" / "cycle_001" / name, run / "cycle_001" / name)


def test_classes_of_a_query_that_are_in_another_order(run, capsys):
    """With them a person's answers would be read as other classes."""
    path = run / "queries" / "cycle_001.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "class_names": record["class_names"][::-1]}))
    assert f"{path} is damaged (class_names are not those of dataset.json)" in refusal(capsys, ["labels", str(run)])


def test_a_start_that_a_finished_cycle_has_lost(run, capsys):
    """The next cycle would need it to train that one again."""
    (run / "cycle_001" / "start.json").unlink()
    write_yaml(run.parent / "copy.yaml", {**_more_cycles(run), "save_name": "copy"})
    (run / "cycle_001" / "latest_model.pth").unlink()
    assert f"{run / 'cycle_001' / 'start.json'} is gone; restore it from a copy, or move its folder away" in refusal(
        capsys, commands(run, "run")[0]
    )


def _more_cycles(run: Path) -> dict:
    import yaml

    data = yaml.safe_load((run.parent / "copy.yaml").read_text())
    return {**data, "active": {**data["active"], "cycles": 2}}


def test_metrics_that_are_gone_are_written_again_and_until_then_missed(run, capsys):
    (run / "metrics.jsonl").unlink()
    assert "metrics.jsonl is gone or empty; usb-active run with the run's YAML writes it again" in refusal(capsys, ["predict", str(run)])
    assert cli.main(commands(run, "run")[0]) == 0
    assert (run / "metrics.jsonl").read_bytes() == (run.parent / "base" / "metrics.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"num_labels": "20"}, "num_labels: input should be a valid integer"),
        ({"evaluated_on": 3}, "evaluated_on: input should be 'test', 'validation' or 'none'"),
        ({"accuracy": "high"}, "accuracy: input should be a valid number"),
        ({"accuracy": math.nan}, "accuracy: input should be a finite number"),
        ({"best_accuracy": math.inf}, "best_accuracy: input should be a finite number"),
        ({"train_seconds": -math.inf}, "train_seconds: input should be a finite number"),
        ({"accuracy": 10**400}, "accuracy: input should be a valid number"),
        ({"log": [1]}, "log: input should be a valid dictionary"),
    ],
)
def test_metrics_of_another_type(run, capsys, change, said):
    path = run / "metrics.jsonl"
    first, second = path.read_text().splitlines()
    path.write_text(first + "\n" + json.dumps({**json.loads(second), **change}) + "\n")
    for arguments in commands(run, "report", "predict"):
        message = refusal(capsys, arguments)
        assert f"{path}:2 is damaged ({said}" in message and "done.json of its cycle holds the same line" in message


def test_metrics_without_what_a_report_needs(run):
    path = run / "metrics.jsonl"
    path.write_text('{"cycle": 0}\n')
    with pytest.raises(UsageError, match="metrics.jsonl:1 is damaged \\(num_labels: field required\\)"):
        finished_trainings(RunDir.read(run))


def test_the_line_of_metrics_is_that_of_the_file(run):
    """They need not be in order."""
    path = run / "metrics.jsonl"
    first, second = path.read_text().splitlines()
    path.write_text(second + "\n" + json.dumps({**json.loads(first), "num_labels": None}) + "\n")
    with pytest.raises(UsageError, match=r"metrics\.jsonl:2 is damaged \(num_labels: "):
        finished_trainings(RunDir.read(run))


# What torch's safe reader answers with an IndexError, a KeyError and a struct.error; and what is no pickle at all.
@pytest.mark.parametrize("data", [b"\x80\x02.", b"\x80\x02]q\x00K\x01s.", b"\x80\x02h\x05.", b"\x80\x02J.", b"", b"PK\x03\x04"])
def test_whatever_a_damaged_pickle_provokes_is_one_line(tmp_path, data):
    path = tmp_path / "x.pth"
    path.write_bytes(data)
    with pytest.raises(UsageError) as caught:
        read_checkpoint(path, "mend it")
    assert str(caught.value).startswith(f"{path} is damaged (") and str(caught.value).endswith("; mend it. Labels are intact")
    assert "()" not in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(UsageError, match=f"^net: {path}: cannot be read in torch's safe mode"):
        read_weights(path, "net")


@pytest.mark.parametrize("error", [AssertionError(), TypeError("two\nlines"), MemoryError()])
def test_errors_without_a_text_have_their_names(tmp_path, monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(torch, "load", fail)
    with pytest.raises(UsageError, match=rf"is damaged \({type(error).__name__} when read\); mend it\. Labels are intact$"):
        read_checkpoint(tmp_path / "x.pth", "mend it")


def test_keys_of_later_versions_do_no_harm(run):
    path = run / "cycle_001" / "start.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "of a later version": [1]}))
    assert read_start(RunDir.read(run), 1)["of a later version"] == [1]


@pytest.mark.parametrize("value", [{}, [1], None, 3, {"cycle": True, "journal_rows": 1}, {"cycle": 0, "journal_rows": -1}])
def test_a_record_is_what_its_model_says(value):
    with pytest.raises(UsageError, match=r"^there is damaged \(.+\); mend it$"):
        check_record(StartRecord, "there", value, "mend it")
    with pytest.raises(UsageError, match=r"^there is damaged \(.+\); mend it$"):
        check_record(DoneRecord, "there", value, "mend it")


# ---------------------------------------------------------------------------------------------------------- checkpoints
def unfinished(run: Path) -> Path:
    """As if killed before the last cycle was over; the path of its checkpoint."""
    (run / "cycle_001" / "done.json").unlink()
    return run / "cycle_001" / "latest_model.pth"


@pytest.mark.parametrize("value", [{}, [1], None, 3, {"model": {}}])
def test_a_file_that_is_no_checkpoint(run, capsys, value):
    path = unfinished(run)
    torch.save(value, path)
    said = refusal(capsys, commands(run, "run")[0])
    assert str(path) in said and "remove it to repeat this cycle's training" in said
    path.unlink()
    assert cli.main(commands(run, "run")[0]) == 0
    assert weights_equal(checkpoint(run, 1), checkpoint(run.parent / "base", 1))


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("other/cycle_001/latest_model.pth", "is of another run ("),
        ("base/cycle_000/latest_model.pth", "is of another cycle (0, and here it must be 1)"),
    ],
)
def test_checkpoints_of_others(run, capsys, source, said):
    path = unfinished(run)
    shutil.copy(run.parent / source, path)
    message = refusal(capsys, commands(run, "run")[0])
    assert f"{path} {said}" in message and "remove it to repeat this cycle's training" in message
    shutil.copy(run.parent / "base" / "cycle_001" / "done.json", run / "cycle_001")
    shutil.copy(run.parent / source.replace("latest_model", "model_best"), run / "cycle_001" / "model_best.pth")
    assert f"model_best.pth {said}" in refusal(capsys, ["predict", str(run)])


def test_a_checkpoint_of_another_algorithm(run, capsys):
    path = unfinished(run)
    kept = torch.load(path, weights_only=True)
    kept["belongs_to"]["algorithm"] = "fixmatch"
    torch.save(kept, path)
    assert f"{path} is of another algorithm (fixmatch, and here it must be flexmatch)" in refusal(capsys, commands(run, "run")[0])


@pytest.mark.parametrize("name", ["query", "answers"])
def test_states_of_plugins_of_another_run_or_step(run, capsys, name):
    path = unfinished(run).parent.parent / "queries" / f"cycle_001.{name}.pth"
    (run / "cycle_001" / "latest_model.pth").unlink()
    if name == "query":
        (run / "cycle_001" / "start.json").unlink()
    other = {"query": "answers", "answers": "query"}[name]
    for source, said in ((f"other/queries/{path.name}", "another run"), (f"base/queries/cycle_001.{other}.pth", "another step")):
        shutil.copy(run.parent / source, path)
        message = refusal(capsys, commands(run, "run")[0])
        assert f"{path} is of {said}" in message and "restore it from a copy" in message


def test_weights_of_another_network(run, capsys):
    path = unfinished(run)
    kept = torch.load(path, weights_only=True)
    kept["model"].popitem()
    torch.save(kept, path)
    said = refusal(capsys, commands(run, "run")[0])
    assert f"{path}: weights in it do not fit this run" in said and "Missing key(s)" in said


def test_a_run_of_before_has_checkpoints_that_say_nothing(run):
    """Neither the run nor its checkpoints have a number: they load; those of a run with a number do not, nor the other way round."""
    path = run / "cycle_001" / "latest_model.pth"
    assert read_cycle_checkpoint(path, Owner(RunDir.read(run).run_id, 1, "flexmatch"))["it"] == 2
    with pytest.raises(UsageError, match="is of another run"):
        read_cycle_checkpoint(path, Owner(None, 1, "flexmatch"))
    kept = torch.load(path, weights_only=True)
    del kept["belongs_to"]
    torch.save(kept, path)
    assert read_cycle_checkpoint(path, Owner(None, 1, "flexmatch"))["it"] == 2
    with pytest.raises(UsageError, match="does not say which run it is of"):
        read_cycle_checkpoint(path, Owner("0123", 1, "flexmatch"))
    with pytest.raises(UsageError, match=r"is of another cycle \(1, and here it must be 0\)"):
        read_cycle_checkpoint(path, Owner(None, 0, "flexmatch"))


def test_two_runs_have_different_numbers_and_a_copy_has_the_same(run):
    numbers = [json.loads((run.parent / name / "dataset.json").read_text())["run"] for name in ("base", "other", "copy")]
    assert numbers[0] == numbers[2] != numbers[1] and len(numbers[0]) == 16


def test_pretraining_of_another_run_and_damaged(tmp_path, capsys):
    active = {"cycles": 0, "pretrain": {"name": "simsiam", "epochs": 1, "batch_size": 64}}
    steps = {"num_train_iter": 2, "num_eval_iter": 2, "epoch": 1, "dataset": {"name": "digits"}}
    datas = {name: settings(tmp_path, name, active, seed=seed, **steps) for name, seed in (("one", 1), ("two", 2))}
    for data in datas.values():
        train(data)
    yaml = write_yaml(tmp_path / "one.yaml", {**datas["one"], "active": {**datas["one"]["active"], "cycles": 1}})
    path = tmp_path / "one" / "pretrain" / "pretrained.pth"
    whole = path.read_bytes()
    shutil.copy(tmp_path / "two" / "pretrain" / "pretrained.pth", path)
    assert f"{path} is of another run" in refusal(capsys, ["run", str(yaml)])
    for value in ({}, [1], {"backbone": 3, "modules": {}}):
        torch.save(value, path)
        said = refusal(capsys, ["run", str(yaml)])
        assert str(path) in said and "remove it to repeat the pretraining" in said
    path.write_bytes(whole)
    assert cli.main(["run", str(yaml)]) == 0


# ---------------------------------------------------------------------------------------------------------- arrays
@pytest.mark.parametrize("array", [np.zeros(3), np.zeros((2, 2), dtype="U3"), np.array(1)])
def test_a_prior_of_another_shape(run, capsys, array):
    path = run / "artifacts" / "prior_001_start_00000000.npy"
    np.save(path, array)
    unfinished(run)
    assert f"{path} is damaged (" in refusal(capsys, commands(run, "run")[0])


def test_pseudo_labels_that_are_damaged(tmp_path):
    from usb_active.contracts.task import Classification
    from usb_active.loop.selection import Selection
    from usb_active.storage.artifacts import save_artifact

    good = {"idx": np.array([1, 2]), "labels": np.array([0, 1])}
    dataset = type("Three", (), {"task": Classification(("a", "b")), "__len__": lambda self: 3})()
    config = SimpleNamespace(active=None, usb={"seed": 0})
    run_dir = SimpleNamespace(path=tmp_path)
    parts = SimpleNamespace(config=config, dataset=dataset, plugins={}, initial_labels=None, run_dir=run_dir)
    selection = Selection(parts, None, None)
    assert selection.load_pseudo_labels(0) is None
    save_artifact(selection._pseudo_path(0), good)
    assert selection.load_pseudo_labels(0)["labels"].tolist() == [0, 1]
    changes = [{"idx": [1, 3]}, {"idx": [0.5, 1]}, {"labels": [0, 2]}, {"labels": [-1, 0]}, {"labels": [0]}, {"more": [1, 2]}]
    for change in ({name: np.array(value) for name, value in one.items()} for one in changes):
        save_artifact(selection._pseudo_path(0), {**good, **change})
        with pytest.raises(UsageError, match=r"pseudo_labels_000\.npz is damaged \(.*restore it from a copy"):
            selection.load_pseudo_labels(0)
