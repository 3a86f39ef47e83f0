"""`usb-active predict`: what the final model thinks of the rest of the pool, or of a folder."""

from __future__ import annotations

import csv
import io
import shutil

import numpy as np
import pytest
import torch
import yaml
from data_makers import write_folder, write_image
from run_helpers import checkpoint, settings, train

from usb_active import cli
from usb_active.commands.predict import final_checkpoint
from usb_active.storage.run_dir import RunDir

CLASSES = ("cat", "guinea, pig")
COUNTS = {"train/cat": 8, "train/guinea, pig": 8, "test/cat": 3, "test/guinea, pig": 3, "unlabeled": 4}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of three trainings on a folder; every cycle's checkpoints, a quarter of the labels held out."""
    folder = tmp_path_factory.mktemp("predict")
    write_folder(folder / "data", COUNTS)
    active = {"initial": {"name": "random", "size": 4}, "budget": 4, "cycles": 2, "keep": "all", "validation": 0.25}
    dataset = {"dataset": "image_folder", "data_dir": str(folder / "data")}
    train(settings(folder, active=active, num_train_iter=6, num_eval_iter=2, **dataset))
    return folder / "run"


@pytest.fixture
def copy(run, tmp_path):
    """The run, to be spoilt."""
    return shutil.copytree(run, tmp_path / "copy")


def predict(capsys, *arguments) -> list[tuple[str, str, float]]:
    """The rows that the command prints."""
    code = cli.main(["predict", *map(str, arguments)])
    out, err = capsys.readouterr()
    assert (code, err) == (0, "")
    header, *rows = csv.reader(io.StringIO(out))
    assert header == ["key", "class", "probability"]
    return [(key, name, float(probability)) for key, name, probability in rows]


def by_hand(weights, folder, keys) -> tuple[np.ndarray, np.ndarray]:
    """(K,) classes and (K,) probabilities, one image after the other: normalised as ImageNet, no augmentation."""
    from PIL import Image

    from usb_active.usb.networks import small_cnn

    net = small_cnn(2, 8, 3, 4)
    net.load_state_dict(weights)
    net.eval()
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    probs = []
    for key in keys:
        pixels = torch.from_numpy(np.asarray(Image.open(folder / key).convert("RGB")).astype(np.float32))
        with torch.no_grad():
            logits = net(((pixels / 255 - mean) / std).permute(2, 0, 1)[None])["logits"][0]
        probs.append(torch.softmax(logits, 0).numpy())
    return np.argmax(probs, axis=1), np.max(probs, axis=1)


def test_the_rest_of_the_pool_in_its_order(run, capsys):
    rows = predict(capsys, run)
    labeled = {row.key for row in RunDir.read(run).rows()}
    keys = [key for key in RunDir.read(run).keys() if key not in labeled]
    assert [row[0] for row in rows] == keys and len(keys) == 20 - 12
    # 12 labels, of which three rounds held one out each: the checkpoint is the one that these chose.
    best = torch.load(run / "cycle_002" / "model_best.pth", weights_only=True)["ema_model"]
    labels, probs = by_hand(best, run.parent / "data", keys)
    assert [row[1] for row in rows] == [CLASSES[label] for label in labels]
    np.testing.assert_allclose([row[2] for row in rows], probs, atol=2e-6)


def test_another_folder_in_the_order_of_its_paths(run, tmp_path, capsys):
    names = ["b/2.png", "a.jpg", 'b/quoted "1", and more.png', "c/d/Ä.png"]
    for number, name in enumerate(names):
        write_image(tmp_path / name, np.full((8, 8, 3), 60 * number, dtype=np.uint8))
    (tmp_path / "notes.txt").write_text("no image")
    rows = predict(capsys, run, "--data", tmp_path)
    assert [row[0] for row in rows] == sorted(names)
    best = torch.load(run / "cycle_002" / "model_best.pth", weights_only=True)["ema_model"]
    labels, probs = by_hand(best, tmp_path, sorted(names))
    assert [row[1] for row in rows] == [CLASSES[label] for label in labels]
    np.testing.assert_allclose([row[2] for row in rows], probs, atol=2e-6)


def test_the_model_of_a_run_without_validation_is_its_last(tmp_path, capsys):
    train(settings(tmp_path, active={"cycles": 0, "initial": {"name": "random", "size": 10}}))
    run = tmp_path / "run"
    assert final_checkpoint(RunDir.read(run)) == run / "cycle_000" / "latest_model.pth"
    before = predict(capsys, run)
    assert len(before) == len(RunDir.read(run).keys()) - 10
    # Nothing but the EMA weights of that file counts.
    kept = checkpoint(run, 0)
    zeros = {name: torch.zeros_like(value) for name, value in kept["ema_model"].items()}
    torch.save({**kept, "model": {}, "ema_model": zeros}, run / "cycle_000" / "latest_model.pth")
    assert {row[2] for row in predict(capsys, run)} == {0.1}


def test_a_run_that_resumes_has_the_model_of_its_last_finished_cycle(copy, capsys):
    for name in ("cycle_002", "cycle_001"):
        shutil.rmtree(copy / name)
    assert final_checkpoint(RunDir.read(copy)) == copy / "cycle_000" / "model_best.pth"
    # Its own process holds the lock, which a reader has no need of.
    with RunDir.open(copy, RunDir.read(copy).config):
        assert len(predict(capsys, copy)) == 20 - 12


def test_networks_and_data_are_left_as_they_are(copy, capsys):
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    predict(capsys, copy)
    assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before


def refused(capsys, *arguments) -> str:
    assert cli.main(["predict", *map(str, arguments)]) == 2
    out, err = capsys.readouterr()
    (line,) = err.splitlines()
    assert out == ""
    return line.removeprefix("usb-active: error: ")


def test_what_is_missing_is_said_in_a_line(copy, tmp_path, capsys):
    assert refused(capsys, tmp_path / "nowhere") == f"{tmp_path / 'nowhere'} is not a run directory: it has no config.yaml"
    assert refused(capsys, copy, "--data", tmp_path / "nowhere") == f"{tmp_path / 'nowhere'} is not a folder"
    (tmp_path / "empty").mkdir()
    assert refused(capsys, copy, "--data", tmp_path / "empty") == f"no image below {tmp_path / 'empty'}"
    write_image(tmp_path / "bad" / "good.png")
    (tmp_path / "bad" / "torn.png").write_bytes((tmp_path / "bad" / "good.png").read_bytes()[:40])
    assert refused(capsys, copy, "--data", tmp_path / "bad").startswith(f"1 of 2 images below {tmp_path / 'bad'} cannot be read")
    for path in copy.glob("cycle_*/*.pth"):
        path.unlink()
    path = copy / "cycle_002" / "model_best.pth"
    assert refused(capsys, copy) == f"{path} is gone, and with it the model to predict with; restore it from a copy"
    (copy / "metrics.jsonl").unlink()
    missed = f"{copy / 'metrics.jsonl'} is gone or empty; usb-active run with the run's YAML writes it again"
    assert refused(capsys, copy) == missed
    for path in copy.glob("cycle_*/done.json"):
        path.unlink()
    assert refused(capsys, copy) == f"{copy}: no cycle has been finished yet, so there is no model to predict with"


def test_an_image_that_breaks_later_is_named_from_a_worker_too(run, copy, tmp_path, capsys):
    data = shutil.copytree(run.parent / "data", tmp_path / "data")
    config = yaml.safe_load((copy / "config.yaml").read_text())
    (copy / "config.yaml").write_text(yaml.safe_dump({**config, "data_dir": str(data), "num_workers": 1}))
    key = predict(capsys, copy)[1][0]
    (data / key).write_bytes((data / key).read_bytes()[:60])
    assert cli.main(["predict", str(copy)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"usb-active: error: image {data / key}: not readable: ")


def test_a_damaged_checkpoint_is_named(copy, capsys):
    path = copy / "cycle_002" / "model_best.pth"
    path.write_bytes(path.read_bytes()[:1000])
    assert refused(capsys, copy).startswith(f"{path} is damaged")
