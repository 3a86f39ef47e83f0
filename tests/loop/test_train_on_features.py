"""`active.train_on: features`: a run whose network sees the features of its images; killed, resumed, predicted with and reported."""

from __future__ import annotations

import json
import logging
import shutil

import numpy as np
import pytest
import run_helpers
import torch
import yaml
from run_helpers import config_of, settings, train

from usb_active import open_run
from usb_active.builtin.array_datasets import Digits
from usb_active.commands.predict import predictions
from usb_active.errors import UsageError
from usb_active.loop.setup import build_parts
from usb_active.pool import encoding
from usb_active.usb import support

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
    """By a run that resumes, and a prediction of the pool too."""
    data, path = of_photos
    shutil.copytree(path, tmp_path / "run")
    monkeypatch.setattr(encoding, "encode", lambda *_: pytest.fail("an image is encoded again"))
    run = train({**data, "save_dir": str(tmp_path), "active": {**data["active"], "cycles": 2}})
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


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (None, r"active\.features: 'file': features: file: test_path: missing; features \(454, 40\) of the test samples"),
        (np.zeros((453, 40), np.float32), r"expected \(454, D\), got \(453, 40\)"),
        (np.zeros((454, 39), np.float32), r"expected \(454, 40\) as in .*pool\.npy, got \(454, 39\)"),
        (np.full((454, 40), np.nan, np.float32), "not finite for test samples 0, 1"),
    ],
    ids=["none", "rows", "width", "not finite"],
)
def test_a_table_of_other_test_samples_is_refused_before_anybody_is_asked(tmp_path, files, table, message):
    keys = {name: value for name, value in files.items() if name != "test_path"}
    if table is not None:
        np.save(tmp_path / "test.npy", table)
        keys["test_path"] = str(tmp_path / "test.npy")
    config = config_of(on_features(tmp_path, active={"features": keys, "oracle": "csv"}))
    with pytest.raises(UsageError, match=message):
        build_parts(config)


def test_an_algorithm_that_rotates_images_is_refused(tmp_path):
    with pytest.raises(UsageError, match="features cannot be rotated, as 'remixmatch' does with images"):
        support.check_training(build_parts(config_of(on_features(tmp_path, algorithm="remixmatch", net="mlp"))))


# ---------------------------------------------------------------------------------------------- what changes under a run
@pytest.fixture
def copied(of_photos, tmp_path):
    """The finished run on photos with its images, to go on with."""
    data, path = of_photos
    shutil.copytree(path, tmp_path / "run")
    shutil.copytree(data["data_dir"], tmp_path / "data")
    return {**data, "data_dir": str(tmp_path / "data"), "save_dir": str(tmp_path), "active": {**data["active"], "cycles": 2}}, tmp_path


def test_test_images_that_come_later_are_told_from_those_before_them(copied):
    """They sort between the others."""
    data, folder = copied
    moved = {**data, "data_dir": str(folder / "data")}
    for number in range(6):
        shutil.copy(folder / "data" / "test" / "grass" / f"{number}.png", folder / "data" / "test" / "grass" / f"0_{number}.png")
    run = train(without_place(moved, folder))
    path, source = run.session.run_dir.path, run.session.inputs
    test = np.load(next((path / "artifacts").glob("*_test_*.npy")))
    names = source.images.test.keys
    of = {name: test[row] for row, name in enumerate(names)}
    assert len(test) == 18 and all(
        np.allclose(of[f"test/grass/0_{number}.png"], of[f"test/grass/{number}.png"], atol=1e-4) for number in range(6)
    )


def without_place(data, folder):
    """The run may go on with its images elsewhere."""
    path = folder / "run" / "config.yaml"
    kept = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({**kept, "data_dir": data["data_dir"], "save_dir": data["save_dir"]}))
    return data


def test_an_image_that_was_replaced_is_encoded_again(copied):
    data, folder = copied
    before = np.array(np.load(folder / "run" / "artifacts" / "efficientnet_lite0_32_24.npy"))
    shutil.copy(folder / "data" / "train" / "sky" / "1.png", folder / "data" / "train" / "grass" / "2.png")
    run = train(without_place(data, folder))
    after = np.load(folder / "run" / "artifacts" / "efficientnet_lite0_32_24.npy")
    row = {key: number for number, key in enumerate(run.session.dataset.keys)}
    changed = np.flatnonzero((before != after).any(axis=1))
    assert changed.tolist() == [row["train/grass/2.png"]]
    np.testing.assert_allclose(after[row["train/grass/2.png"]], after[row["train/sky/1.png"]], atol=1e-4)


def test_a_mean_that_is_gone_is_not_made_of_another_pool(copied):
    data, folder = copied
    (folder / "run" / "artifacts" / "inputs_mean.npy").unlink()
    with pytest.raises(UsageError, match=r"inputs_mean\.npy is gone, which the networks of this run were trained with; restore it"):
        train(without_place(data, folder))


@pytest.mark.parametrize("shape", [(1350, 40), (1343,), (1343, 3)])
def test_a_table_that_no_longer_fits_has_no_baselines_and_no_traceback(reference, files, tmp_path, shape):
    shutil.copytree(reference, tmp_path / "run")
    (tmp_path / "run" / "artifacts" / "baselines.json").unlink(missing_ok=True)
    np.save(tmp_path / "pool.npy", np.zeros(shape, np.float32))
    config = (tmp_path / "run" / "config.yaml").read_text().replace(files["path"], str(tmp_path / "pool.npy"))
    (tmp_path / "run" / "config.yaml").write_text(config)
    result = run_helpers.command("report", tmp_path / "run", "--out", tmp_path / "report")
    assert result.returncode == 0 and "Traceback" not in result.stderr
    report = (tmp_path / "report" / "report.md").read_text()
    assert "baselines are left out" in report.lower()
    with pytest.raises(UsageError, match=r"pool\.npy|weights"):
        list(predictions(tmp_path / "run")[1])


def test_runs_on_images_keep_the_configuration_that_they_had(tmp_path):
    """A run that began before there were these keys goes on: its config.yaml has neither."""
    np.save(tmp_path / "pool.npy", np.zeros((1343, 2), np.float32))
    block = {"acquisition": {"name": "coreset", "features": {"name": "file", "path": str(tmp_path / "pool.npy")}}}
    active = config_of(settings(tmp_path, active=block)).resolved()["active"]
    assert "train_on" not in active and active["acquisition"]["features"] == block["acquisition"]["features"]


@pytest.mark.parametrize(("net", "warned"), [("linear", False), ({"name": "mlp", "width": 8}, True)])
def test_linear_evaluation_warns_of_random_weights_alone(tmp_path, caplog, net, warned):
    caplog.set_level(logging.WARNING)
    train(on_features(tmp_path, algorithm="linear_evaluation", net=net, active={"cycles": 0}, num_train_iter=4, num_eval_iter=4))
    assert ("the features are those of random weights" in caplog.text) == warned
