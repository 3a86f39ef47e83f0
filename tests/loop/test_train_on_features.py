"""`active.train_on: features`: a run whose network sees the features of its images; killed, resumed, predicted with and reported."""

from __future__ import annotations

import json
import logging
import shutil

import numpy as np
import pytest
import run_helpers
import torch
from run_helpers import config_of, settings, train

from usb_active import open_run
from usb_active.builtin.array_datasets import Digits
from usb_active.commands.predict import predictions
from usb_active.errors import UsageError
from usb_active.pool import encoding

ON = {"train_on": "features", "features": "pixels", "acquisition": {"name": "coreset"}}


def on_features(tmp_path, name="run", active=None, **usb):
    """Twenty labels of digits, then ten more; a linear classifier of the pixels."""
    return settings(tmp_path, name, active={**ON, **(active or {})}, **{"net": "linear", "num_train_iter": 60, "num_eval_iter": 30, **usb})


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Features of digits on disk: a random projection of the pixels."""
    folder, data = tmp_path_factory.mktemp("files"), Digits()
    projection = np.random.default_rng(0).normal(size=(64, 40)).astype(np.float32)
    for name, samples in (("pool", data), ("test", data.test)):
        pixels = np.stack([np.asarray(samples.load(row), dtype=np.float32).ravel() for row in range(len(samples))])
        np.save(folder / f"{name}.npy", pixels @ projection)
    return {"name": "file", "path": str(folder / "pool.npy"), "test_path": str(folder / "test.npy")}


@pytest.fixture(scope="module")
def reference(tmp_path_factory, files):
    """A finished run on features from a file."""
    folder = tmp_path_factory.mktemp("reference")
    return train(on_features(folder, active={"features": files})).session.run_dir.path


def end_of(path):
    weights = torch.load(path / "cycle_001" / "latest_model.pth", weights_only=True)["ema_model"]
    return (path / "labels.csv").read_text().splitlines()[-1].split(",")[:4], weights


def test_it_learns(reference):
    lines = [json.loads(line) for line in (reference / "metrics.jsonl").read_text().splitlines()]
    assert [line["num_labels"] for line in lines] == [20, 30] and lines[-1]["accuracy"] > 0.6


@pytest.mark.parametrize("algorithm", ["fixmatch", "flexmatch", "freematch", "softmatch", "mixmatch", "supervised", "linear_evaluation"])
def test_other_algorithms_train_on_them(tmp_path, algorithm):
    run = train(on_features(tmp_path, algorithm=algorithm, net={"name": "mlp", "width": 8}, active={"cycles": 0}, num_train_iter=8))
    assert run.session.run_dir.path.joinpath("metrics.jsonl").is_file()


def test_label_propagation_trains_on_them(tmp_path):
    keys = {"lp_labeled": 4, "lp_supervised_epochs": 1, "lp_epoch": 0.1, "epoch": 3, "include_lb_to_ulb": False}
    run = train(on_features(tmp_path, algorithm="lp", active={"cycles": 0}, lr=0.03, batch_size=16, **keys))
    assert run.evaluation["eval/top-1-acc"] > 0.5


@pytest.mark.parametrize("workers", [0, 1])
def test_it_can_be_interrupted(tmp_path, files, reference, workers, monkeypatch):
    """In the second training; it goes on to the same end, bit for bit."""
    from usb_active.usb.algorithm import ActiveMixin

    step = ActiveMixin.train_step

    def stopping(self, **inputs):
        if self.cycle == 1 and self.it == 40:
            raise KeyboardInterrupt
        return step(self, **inputs)

    data = on_features(tmp_path, active={"features": files}, num_workers=workers)
    with monkeypatch.context() as patch:
        patch.setattr(ActiveMixin, "train_step", stopping)
        with pytest.raises(KeyboardInterrupt):
            train(data)
    path = train(data).session.run_dir.path
    rows, weights = end_of(path)
    expected_rows, expected = end_of(reference)
    assert rows == expected_rows and all(torch.equal(value, expected[name]) for name, value in weights.items())


# ---------------------------------------------------------------------------------------------- the bundled network
def photos(folder, per_class=12):
    """Made pictures of two kinds, of different sizes, as files."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for part, count in (("train", per_class), ("test", 6)):
        for name, colour in (("sky", (60, 120, 230)), ("grass", (40, 160, 40))):
            for number in range(count):
                pixels = np.clip(rng.normal(colour, 40, size=(40 + number, 48, 3)), 0, 255).astype(np.uint8)
                (folder / part / name).mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(folder / part / name / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def of_photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    data = settings(
        folder, "run", net="linear", dataset="image_folder", data_dir=str(photos(folder / "data")), num_train_iter=30,
        active={**ON, "features": {"name": "efficientnet_lite0", "size": 32}, "initial": {"name": "kmedoids", "size": 4}, "budget": 2},
    )  # fmt: skip
    train(data)
    return data, folder / "run"


def test_photos_are_told_apart(of_photos):
    lines = [json.loads(line) for line in (of_photos[1] / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["accuracy"] > 0.8


def test_features_are_made_once(of_photos, monkeypatch, tmp_path):
    """By a run that resumes, a report and a prediction of the pool too."""
    data, path = of_photos
    shutil.copytree(path, tmp_path / "run")
    shutil.copytree(data["data_dir"], tmp_path / "data")
    monkeypatch.setattr(encoding, "encode", lambda *_: pytest.fail("an image is encoded again"))
    again = {**data, "save_dir": str(tmp_path), "active": {**data["active"], "cycles": 2}}
    run = train(again)
    assert len((run.session.run_dir.path / "metrics.jsonl").read_text().splitlines()) == 3
    assert len(open_run(tmp_path / "run").predictions()) == 24 - 8


def test_new_images_get_the_same_predictions(of_photos, tmp_path):
    """The network is one of images, wherever they are: alone, in a list, in a folder, or in the pool."""
    data, path = of_photos
    run = open_run(path)
    of_pool = {row[0]: row[1:] for row in predictions(path)[1]}
    names = sorted(of_pool)
    files = [f"{data['data_dir']}/{name}" for name in names]
    of_list = {row[0]: row[1:] for row in predictions(path, files)[1]}
    for name, file in zip(names, files, strict=True):
        assert of_list[file][0] == of_pool[name][0] and of_list[file][1] == pytest.approx(of_pool[name][1], abs=1e-4)
    trained = run.model()
    with torch.no_grad():
        logits = trained.network(trained.transform(files[0])[None])["logits"]
    assert trained.class_names[int(logits.argmax())] == of_pool[names[0]][0]


def test_baselines_are_fitted_to_what_the_network_saw(of_photos, reference):
    for path, title in ((of_photos[1], "features of efficientnet_lite0 at 32 pixels"), (reference, "features in pool.npy")):
        run_helpers.command("report", path, "--out", path / "report")
        entries = json.loads((path / "artifacts" / "baselines.json").read_text())["cycles"]
        assert {entry["features"] for entry in entries} == {title} and entries[-1]["accuracies"]["logistic"] > 0.6


# ---------------------------------------------------------------------------------------------- what is refused
@pytest.mark.parametrize(
    ("active", "usb", "message"),
    [
        ({"features": "model"}, {}, r"train_on: features need a source that needs no training, and active\.features is 'model'; .*timm"),
        ({"features": "pretrain"}, {}, r"active\.features is 'pretrain'"),
        ({}, {"net": "resnet18"}, r"net: 'resnet18' takes images, and active\.train_on is features; one of linear, mlp"),
        ({"pretrain": {"name": "simsiam"}}, {}, r"pretrain: 'simsiam' trains on images, and active\.train_on is features; remove"),
        ({"train_on": "labels"}, {}, r"active\.train_on: must be 'images' or 'features'|active\.train_on"),
    ],
)
def test_what_does_not_go_with_it_is_refused(tmp_path, active, usb, message):
    with pytest.raises(UsageError, match=message):
        config_of(on_features(tmp_path, active=active, **usb))


def test_a_table_on_disk_says_nothing_of_other_images(reference, tmp_path):
    with pytest.raises(UsageError, match="its network was trained on features of 'file', which cannot be made of other images"):
        predictions(reference, [np.zeros((8, 8), np.uint8)])
    # Those of the pool are in the table.
    assert len(list(predictions(reference)[1])) == 1343 - 30


def test_a_table_of_the_pool_alone_is_refused_where_there_is_a_test_set(tmp_path, files):
    table = {name: value for name, value in files.items() if name != "test_path"}
    with pytest.raises(UsageError, match="features: file: test_path: missing"):
        train(on_features(tmp_path, active={"features": table}))


def test_runs_on_images_are_as_they_were(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    config = config_of(settings(tmp_path))
    assert "train_on" not in config.resolved()["active"]
