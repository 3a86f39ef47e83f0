"""Experiments from Python: the same checks, the same results and the same trust as the commands."""

from __future__ import annotations

import csv
import io
import logging
import runpy
import shutil
import subprocess
import sys
from enum import Enum
from pathlib import Path

import numpy as np
import pytest
import torch
from data_makers import write_folder
from PIL import Image
from run_helpers import ROOT, checkpoint, labels_of, settings, weights_equal, write_yaml

# Before pandas is hidden from what semilearn brings along.
import usb_active.usb  # noqa: F401
from usb_active import Run, RunConfig, UsageError, WaitingForLabels, cli, load_config, open_run, run
from usb_active.storage.run_dir import RunDir

COUNTS = {"train/cat": 8, "train/guinea, pig": 8, "test/cat": 3, "test/guinea, pig": 3, "unlabeled": 4}
EVIL = "from pathlib import Path\nPath(__file__).with_name('executed').touch()\n"


class NoPandas:
    """Put before what finds modules: as where pandas is not installed."""

    def find_spec(self, name, path=None, target=None):
        if name == "pandas":
            raise ModuleNotFoundError(f"No module named '{name}'")


@pytest.fixture(autouse=True)
def lists_of_dicts(monkeypatch):
    """Tables are lists of dicts in these tests, but for the one of DataFrames."""
    monkeypatch.delitem(sys.modules, "pandas", raising=False)
    monkeypatch.setattr(sys, "meta_path", [NoPandas(), *sys.meta_path])


def folder_settings(folder: Path, name: str = "run", **usb):
    write_folder(folder / "data", COUNTS)
    active = {"initial": {"name": "random", "size": 4}, "budget": 4, "cycles": 1, "validation": 0.25}
    keys = {"num_train_iter": 6, "num_eval_iter": 2, "dataset": "image_folder", "data_dir": folder / "data"}
    return settings(folder, name, active=active, **{**keys, **usb})


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Run:
    """A run of two trainings on a folder of images, made by `run`."""
    return run(folder_settings(tmp_path_factory.mktemp("api")), quiet=True)


@pytest.fixture
def copy(finished, tmp_path) -> Path:
    """Its directory, to be spoilt."""
    return shutil.copytree(finished.path, tmp_path / "copy")


def printed(capsys, *arguments) -> list[dict[str, str]]:
    """The rows of a CSV that a command prints."""
    assert cli.main([*map(str, arguments)]) == 0
    return list(csv.DictReader(io.StringIO(capsys.readouterr().out)))


def as_texts(rows, floats=()):
    return [{name: f"{value:.6f}" if name in floats else str(value) for name, value in row.items()} for row in rows]


# ------------------------------------------------------------------------------------------------- runs
def test_a_run_is_that_of_the_command_to_the_bit(tmp_path, finished, capsys):
    write_folder(tmp_path / "data", COUNTS)
    other = {**folder_settings(finished.path.parent), "save_dir": str(tmp_path), "data_dir": str(finished.path.parent / "data")}
    assert cli.main(["run", str(write_yaml(tmp_path / "c.yaml", other))]) == 0
    assert "cycle 1: 8 labels" in capsys.readouterr().out
    assert labels_of(tmp_path / "run") == labels_of(finished.path)
    assert weights_equal(checkpoint(tmp_path / "run", 1), checkpoint(finished.path, 1))


def test_a_finished_run_is_only_looked_at_again(finished, caplog):
    before = {path: path.read_bytes() for path in finished.path.rglob("cycle_*/*") if path.is_file()}
    again = run(load_config(finished.path / "config.yaml"), quiet=True)
    assert again.path == finished.path and repr(again) == f"Run({str(finished.path)!r})"
    assert {path: path.read_bytes() for path in finished.path.rglob("cycle_*/*") if path.is_file()} == before


def test_a_run_waits_for_people_and_is_resumed_by_the_same_call(tmp_path):
    data = folder_settings(tmp_path)
    data["active"] |= {"oracle": "csv", "validation": 0.0, "cycles": 0}
    with pytest.raises(WaitingForLabels, match=r"labels are wanted|label") as waiting:
        run(data, quiet=True)
    assert waiting.value.pending == 4
    seen = open_run(tmp_path / "run")
    assert [row["status"] for row in seen.labels()] == 4 * ["pending"] and seen.metrics() == []
    with pytest.raises(UsageError, match="no cycle has been finished yet"):
        seen.predictions()
    (sheet,) = (tmp_path / "run").rglob("*.csv")
    rows = list(csv.DictReader(sheet.open(encoding="utf-8-sig", newline="")))
    column = next(name for name in rows[0] if "label" in name)
    for row, label in zip(rows, ("cat", "guinea, pig", "skip", "cat"), strict=True):
        row[column] = label
    with sheet.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    labels = run(data, quiet=True).labels()
    assert sorted(row["label"] for row in labels) == ["", "cat", "cat", "guinea, pig"]
    assert [row["status"] for row in labels].count("skipped") == 1 and all(row["time"] for row in labels)


def test_progress_is_shown_unless_it_is_to_be_quiet(tmp_path, finished, capsys):
    capsys.readouterr()
    config = load_config(finished.path / "config.yaml")
    run(config)
    assert "cycle 1: 8 labels" in capsys.readouterr().out
    run(config, quiet=True)
    assert capsys.readouterr().out == ""


def test_the_process_is_as_before(tmp_path):
    root = logging.getLogger("usb_active")
    handler = logging.NullHandler()
    root.addHandler(handler)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    try:
        before = list(root.handlers), root.level, root.propagate
        done = run(settings(tmp_path, active={"cycles": 0, "threads": 1, "deterministic": True}), quiet=True)
        done.predictions()
        assert (list(root.handlers), root.level, root.propagate) == before
        assert torch.get_num_threads() == 2 and not torch.are_deterministic_algorithms_enabled()
        assert torch.equal(torch.rand(3), expected)
        with pytest.raises(UsageError, match="a different configuration|seed"):
            run({**settings(tmp_path, active={"cycles": 0, "threads": 1, "deterministic": True}), "seed": 99}, quiet=True)
        assert list(root.handlers) == before[0] and torch.get_num_threads() == 2
    finally:
        root.removeHandler(handler)
        torch.set_num_threads(threads)
    # The log is in the run, though nothing was shown.
    assert "cycle 0: 20 labels" in (tmp_path / "run" / "log.txt").read_text()


# ------------------------------------------------------------------------------------------------- what it has come to
def test_labels_are_those_of_the_command(finished, capsys):
    labels = finished.labels()
    assert len(labels) == 8 and {row["corrections"] for row in labels} == {0}
    commands = printed(capsys, "labels", finished.path, "--csv")
    assert [{name: str(row[name]) for name in commands[0]} for row in labels] == commands


def test_a_corrected_label_is_the_last_one(copy, capsys):
    first = open_run(copy).labels()[0]
    other = {"cat": "guinea, pig", "guinea, pig": "cat"}[first["label"]]
    assert cli.main(["labels", str(copy), "--set", f"{first['key']}={other}"]) == 0
    now = open_run(copy).labels()[0]
    assert (now["key"], now["label"], now["corrections"]) == (first["key"], other, 1)


def test_metrics_are_the_lines_of_the_file(finished):
    assert finished.metrics() == RunDir.read(finished.path).metrics()
    assert [row["num_labels"] for row in finished.metrics()] == [4, 8]
    assert finished.config["seed"] == 3 and finished.config["active"]["budget"] == 4


def test_predictions_of_the_pool_are_those_of_the_command(finished, capsys):
    rows = finished.predictions()
    assert len(rows) == 20 - 8 and as_texts(rows, ["probability"]) == printed(capsys, "predict", finished.path)


def test_predictions_of_a_folder_and_of_images_agree(finished, tmp_path):
    write_folder(tmp_path, {"new": 4})
    folder = finished.predictions(tmp_path)
    assert finished.predictions(str(tmp_path)) == folder and len(folder) == 4
    paths = [tmp_path / row["key"] for row in folder]
    by_path = finished.predictions(paths)
    assert [row["key"] for row in by_path] == list(map(str, paths))
    in_memory = finished.predictions(image for image in [Image.open(paths[0]), np.asarray(Image.open(paths[1])), *paths[2:]])
    assert [row["key"] for row in in_memory] == [0, 1, *map(str, paths[2:])]
    values = [[(row["class"], row["probability"]) for row in rows] for rows in (folder, by_path, in_memory)]
    assert values[0] == values[1] == values[2]
    assert finished.predictions([]) == []


def test_images_in_memory_are_treated_as_files(finished, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 4), dtype=np.uint8)
    turned = Image.fromarray(pixels).convert("RGB")
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.png", exif=exif)
    Image.fromarray(pixels).save(tmp_path / "transparent.png")
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 257).save(tmp_path / "deep.png")
    paths = [tmp_path / f"{name}.png" for name in ("turned", "transparent", "deep")]
    by_path, in_memory = finished.predictions(paths), finished.predictions(map(Image.open, paths))
    assert [row["probability"] for row in by_path] == [row["probability"] for row in in_memory]
    _, transform, _ = finished.model()
    for path in paths:
        assert torch.equal(transform(path), transform(Image.open(path)))
    assert not torch.equal(transform(paths[0]), transform(np.asarray(turned)))


def test_the_model_is_what_predicts(finished):
    rows = finished.predictions()
    network, transform, class_names = finished.model()
    assert class_names == ("cat", "guinea, pig") and not any(module.training for module in network.modules())
    data = finished.path.parent / "data"
    with torch.no_grad():
        probs = torch.stack([torch.softmax(network(transform(data / row["key"])[None])["logits"][0], 0) for row in rows])
    best = probs.max(dim=1)
    assert [class_names[label] for label in best.indices] == [row["class"] for row in rows]
    np.testing.assert_allclose(best.values.numpy(), [row["probability"] for row in rows], atol=1e-6)


def test_a_report_is_written(copy, tmp_path):
    assert (copy / "report" / "report.md") in open_run(copy).report()
    assert (tmp_path / "out" / "report.md") in open_run(str(copy)).report(tmp_path / "out")


def test_tables_are_data_frames_where_pandas_is_installed(finished, monkeypatch):
    monkeypatch.setattr(sys, "meta_path", [finder for finder in sys.meta_path if not isinstance(finder, NoPandas)])
    pandas = pytest.importorskip("pandas")
    labels, metrics, predictions = finished.labels(), finished.metrics(), finished.predictions()
    assert all(isinstance(table, pandas.DataFrame) for table in (labels, metrics, predictions))
    assert list(labels["status"].unique()) == ["labeled"] and metrics["num_labels"].tolist() == [4, 8]
    assert list(predictions.columns) == ["key", "class", "probability"] and predictions["probability"].between(0.5, 1).all()
    assert list(finished.predictions([]).columns) == ["key", "class", "probability"]


# ------------------------------------------------------------------------------------------------- mistakes
@pytest.mark.parametrize(
    ("images", "line"),
    [
        (["no.png"], "image no.png: not readable: FileNotFoundError: No such file or directory"),
        ([np.zeros((8, 8))], "image 0: must be a path, a PIL image, or an array of uint8 with shape"),
        ([np.zeros((8, 8, 3), np.uint8), 5], "image 1: must be a path, a PIL image, or an array of uint8"),
        ([Image.new("I", (8, 8), -5)], "image 0: not readable: ValueError: pixels of mode I have no known range"),
        (np.zeros((8, 8), np.uint8), "images: must be a folder, or a list of paths, PIL images and arrays, not ndarray"),
        (Image.new("L", (8, 8)), "images: must be a folder, or a list of paths, PIL images and arrays, not Image"),
        ("no_folder", "no_folder is not a folder"),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else "",
)
def test_images_that_are_none(finished, images, line):
    with pytest.raises(UsageError) as problem:
        finished.predictions(images)
    assert str(problem.value).startswith(line)


def test_what_is_no_run(tmp_path):
    with pytest.raises(UsageError, match="is not a run directory"):
        open_run(tmp_path)


class Colour(str, Enum):
    RED = "red"


@pytest.mark.parametrize(
    ("config", "overrides", "line"),
    [
        ({"seed": "x"}, [], "config: seed: must be an integer"),
        ({1: 2}, [], "config: 1: keys must be texts"),
        ({"active": {"budget": {3}}}, [], "config: active: budget: {3}: a set is no value of a YAML"),
        ({"save_name": Colour.RED}, [], "config: save_name: Colour.RED: a Colour is no value of a YAML"),
        ({"seed": np.zeros(2)}, [], "config: seed: [0. 0.]: a ndarray is no value of a YAML"),
        ({}, "seed=3", "overrides: must be a list of texts, as in ['seed=3']"),
        ({}, ["seed"], "--set seed: must be key=value"),
        ({}, ["sede=3"], "--set: sede: unknown key; did you mean 'seed'?"),
        (5, [], "config: must be a path, the name of a packaged YAML, or a dict, not int"),
        ("quickstrat", [], "quickstrat: no such file, and no packaged configuration has this name"),
    ],
)
def test_configurations_that_are_none(tmp_path, config, overrides, line):
    data = {**settings(tmp_path), **config} if isinstance(config, dict) else config
    with pytest.raises(UsageError) as problem:
        load_config(data, overrides)
    assert str(problem.value).startswith(line)


def test_a_run_to_begin_from_is_a_path(tmp_path):
    with pytest.raises(UsageError, match=r"^labels_from: must be the path of a run, not int$"):
        load_config(settings(tmp_path), labels_from=3)


def test_a_dict_is_a_yaml(tmp_path, caplog):
    data = settings(tmp_path, lr=np.float32(0.5), seed=np.int64(4), clip=0.0)
    before = {**data, "active": dict(data["active"])}
    loaded = load_config({**data, "save_dir": tmp_path}, ["active.budget=7"])
    file = load_config(write_yaml(tmp_path / "c.yaml", {**data, "lr": 0.5, "seed": 4}), ["active.budget=7"])
    assert isinstance(loaded, RunConfig) and loaded.resolved() == file.resolved() and loaded.active.budget == 7
    assert data == before, "what the caller has is not changed"
    assert "config: clip: is read by nothing in USB 0.3.2; dropped" in caplog.messages


# ------------------------------------------------------------------------------------------------- trust
def test_nothing_of_a_received_run_is_executed_unasked(copy, tmp_path):
    (copy / "evil.py").write_text(EVIL)
    config = {**RunDir.read(copy).config, "plugins": [str(copy / "evil.py")]}
    write_yaml(copy / "config.yaml", config)
    seen = open_run(copy)
    assert len(seen.labels()) == 8 and len(seen.metrics()) == 2 and seen.config["plugins"] == [str(copy / "evil.py")]
    seen.report(tmp_path / "out")
    for call in (seen.predictions, seen.model, lambda: seen.predictions([])):
        with pytest.raises(UsageError, match=r"config\.yaml: plugins: .*: of no package .*trust_plugins=True"):
            call()
    assert not (copy / "executed").exists()
    assert len(open_run(copy, trust_plugins=True).predictions()) == 12
    assert (copy / "executed").exists()


# ------------------------------------------------------------------------------------------------- imports, and the notebook
def test_torch_is_imported_when_something_is_run():
    code = (
        "import sys\nfrom usb_active import RunConfig, TrainedModel, UsageError, load_config, open_run, run\n"
        "print(sorted(set(sys.modules) & {'torch', 'semilearn', 'matplotlib', 'sklearn', 'pandas'}))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_the_names_alone_bring_nothing():
    code = "import sys, usb_active; print(sorted(set(sys.modules) & {'torch', 'semilearn', 'numpy', 'pydantic', 'yaml'}))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_the_notebook_runs_from_the_first_cell_to_the_last(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = runpy.run_path(str(ROOT / "docs" / "notebook.py"))
    cells = (ROOT / "docs" / "notebook.py").read_text(encoding="utf-8").count("# %%")
    assert cells > 10 and [line["num_labels"] for line in names["metrics"]] == [10, 20]
    assert len(names["labels"]) == 20 and len(names["predictions"]) == 1343 - 20
    assert names["image"].size == (8, 8) and float(names["probs"].sum()) == pytest.approx(1)
    out = capsys.readouterr().out
    assert "cycle 1: 20 labels" in out and "report.md" in out and (tmp_path / "runs/quickstart/notebook/report/report.md").is_file()
