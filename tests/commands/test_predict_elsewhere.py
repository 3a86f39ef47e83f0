"""A finished run is used from anywhere, without the images it was trained on, and when others have joined them."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from data_makers import write_folder, write_image
from PIL import Image
from run_helpers import command, settings, train, write_yaml

from usb_active import cli
from usb_active.storage.run_dir import RunDir

COUNTS = {"train/cat": 6, "train/dog": 6, "test/cat": 2, "test/dog": 2, "unlabeled": 3}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run with relative paths in its YAML, and another folder of images of which one is turned and one see-through."""
    home = tmp_path_factory.mktemp("elsewhere")
    write_folder(home / "photos", COUNTS)
    active = {"initial": {"name": "random", "size": 4}, "cycles": 0}
    paths = {"save_dir": "runs", "data_dir": "./photos"}
    dataset = {"name": "image_folder", "mean": [0.4, 0.5, 0.6], "background": "black"}
    before = Path.cwd()
    os.chdir(home)
    try:
        write_yaml(home / "c.yaml", settings(home, active=active, num_train_iter=4, num_eval_iter=4, dataset=dataset, **paths))
        train(yaml.safe_load((home / "c.yaml").read_text()))
    finally:
        os.chdir(before)
    write_folder(home / "more", {"": 3})
    exif = Image.Exif()
    exif[0x0112] = 6
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(home / "more/turned.png", exif=exif)
    Image.fromarray(rng.integers(0, 256, (8, 8, 4), dtype=np.uint8)).save(home / "more/see-through.png")
    return home


@pytest.fixture
def home(finished, tmp_path, monkeypatch):
    """A copy in another place than where it was made; the commands are given from a third one."""
    shutil.copytree(finished, tmp_path / "home")
    config = tmp_path / "home/runs/run/config.yaml"
    config.write_text(config.read_text().replace(str(finished), str(tmp_path / "home")))
    (tmp_path / "third").mkdir()
    monkeypatch.chdir(tmp_path / "third")
    return tmp_path / "home"


def do(capsys, code: int, *arguments) -> tuple[str, str]:
    assert cli.main(list(map(str, arguments))) == code
    return capsys.readouterr()


def predicted(capsys, *arguments) -> list[list[str]]:
    out, _ = do(capsys, 0, "predict", *arguments)
    return list(csv.reader(io.StringIO(out)))[1:]


def test_the_paths_of_a_run_are_absolute(finished):
    config = RunDir.read(finished / "runs/run").config
    assert (config["save_dir"], config["data_dir"]) == (str(finished / "runs"), str(finished / "photos"))


def test_a_folder_is_labelled_with_the_training_images_gone(home, capsys):
    run = home / "runs/run"
    before = predicted(capsys, run, "--data", home / "more")
    assert [row[0] for row in before] == ["000.png", "001.png", "002.png", "see-through.png", "turned.png"]
    shutil.rmtree(home / "photos")
    assert predicted(capsys, run, "--data", home / "more") == before
    (line,) = do(capsys, 2, "predict", run)[1].splitlines()
    assert line.startswith(f"usb-active: error: {run}: the rest of its pool cannot be labelled without its images: data_dir: ")
    assert line.endswith("is not a folder; others: --data DIR")


def test_another_folder_is_read_as_the_training_was(home, capsys):
    """Upright and on black: as the same pixels, saved plainly."""
    from usb_active.images.reading import Reading, read_image

    plain = home / "plain"
    for path in sorted((home / "more").iterdir()):
        write_image(plain / path.name, np.asarray(read_image(str(path), "RGB", Reading(background=(0, 0, 0)))))
    rows = predicted(capsys, home / "runs/run", "--data", home / "more")
    assert rows == predicted(capsys, home / "runs/run", "--data", plain)
    record = json.loads((home / "runs/run/dataset.json").read_text())
    del record["format"]
    (home / "runs/run/dataset.json").write_text(json.dumps(record))
    assert predicted(capsys, home / "runs/run", "--data", home / "more")[3:] != rows[3:]


def test_a_run_of_0_1_0_predicts_without_its_images_too(home, capsys):
    run = home / "runs/run"
    record = json.loads((run / "dataset.json").read_text())
    assert record["mean"] == [0.4, 0.5, 0.6] and len(record["std"]) == 3
    (run / "dataset.json").write_text(json.dumps({name: record[name] for name in ("img_size", "in_channels", "class_names")}))
    # Nor did its checkpoints say whose they are.
    path = run / "cycle_000" / "latest_model.pth"
    torch.save({key: value for key, value in torch.load(path, weights_only=True).items() if key != "belongs_to"}, path)
    before = predicted(capsys, run, "--data", home / "more")
    shutil.rmtree(home / "photos")
    assert predicted(capsys, run, "--data", home / "more") == before


def test_an_image_of_another_size_changes_nothing_and_stops_nothing(home, capsys):
    run = home / "runs/run"
    before, rest = predicted(capsys, run, "--data", home / "more"), predicted(capsys, run)
    write_image(home / "photos/unlabeled/aaa.png", np.zeros((40, 30, 3), np.uint8))
    assert predicted(capsys, run, "--data", home / "more") == before
    assert predicted(capsys, run) == rest
    os.chdir(home)
    do(capsys, 0, "check", "c.yaml", "--set", "active.cycles=0")
    do(capsys, 0, "run", "c.yaml")
    assert json.loads((run / "dataset.json").read_text())["img_size"] == 8
    # What the YAML says counts, and is refused where the run began otherwise.
    assert "the run began with img_size: 8, and now it is 16" in do(capsys, 2, "check", "c.yaml", "--set", "img_size=16")[1]


def test_labels_and_reports_from_elsewhere(home, capsys):
    run = home / "runs/run"
    assert "total" in do(capsys, 0, "labels", run)[0]
    out, _ = do(capsys, 0, "report", run)
    assert str(run / "report" / "gallery_cycle_000.png") in out.splitlines()


def test_a_run_with_relative_paths_of_0_1_0_resumes(home, capsys):
    config = RunDir.read(home / "runs/run").config
    weights = home / "w.pth"
    weights.write_bytes(b"")
    relative = {**config, "save_dir": "runs", "data_dir": "photos", "pretrain_path": "w.pth"}
    (home / "runs/run/config.yaml").write_text(yaml.safe_dump(relative, sort_keys=False))
    os.chdir(home)
    do(capsys, 0, "run", "c.yaml", "--set", "pretrain_path=w.pth")
    now = RunDir.read(home / "runs/run").config
    assert (now["save_dir"], now["data_dir"], now["pretrain_path"]) == (str(home / "runs"), str(home / "photos"), str(weights))
    # Another file is another configuration.
    message = do(capsys, 2, "run", "c.yaml", "--set", "pretrain_path=v.pth")[1]
    # Of a long path, the beginning.
    assert "holds a run of another configuration" in message and f'pretrain_path: "{str(weights)[:60]}' in message


def test_what_is_left_out_of_a_folder_to_predict_is_said(finished, tmp_path):
    write_folder(tmp_path, {"": 1, "@eaDir": 1})
    (tmp_path / "a.nef").write_bytes(b"")
    os.mkfifo(tmp_path / "x.png")
    Image.fromarray(np.full((8, 8), 4000, np.uint16)).save(tmp_path / "y.png")
    result = command("predict", finished / "runs/run", "--data", tmp_path)
    assert result.returncode == 0 and len(result.stdout.splitlines()) == 3
    said = [line.removeprefix(f"usb-active: warning: {tmp_path}: ") for line in result.stderr.splitlines()]
    assert said == [
        "1 file is no image that Pillow can read: 1 .nef; left out",
        "left out: folders that are hidden, or that archivers and file servers make: @eaDir",
        "named like images, but no files, and left out: x.png (a FIFO)",
        "1 image ends at 4,000 of 65,535, nearly black: y.png; if white is 4,095, write value_range: [0, 4095] below `dataset:`",
    ]
