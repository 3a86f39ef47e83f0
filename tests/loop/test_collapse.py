"""The collapse of the EMA network in a short training: reproduced, warned of, and cured in two ways; the training stays as it is."""

from __future__ import annotations

import csv
import io
import logging

import numpy as np
import pytest
import torch
from run_helpers import checkpoint, config_of, labels_of, settings, train, weights_equal

from usb_active.commands.predict import write_predictions
from usb_active.config.averaging import remarks
from usb_active.errors import UsageError
from usb_active.pool.batch_norm import recompute, trained_layers
from usb_active.storage.run_dir import RunDir

pytestmark = pytest.mark.slow

STEPS = 120


def short(tmp_path, name, /, batch_norm="usb", **more):
    """200 labels of digits, a network with BatchNorm, 120 steps: about 80 % right."""
    active = {"cycles": 0, "initial": {"name": "random", "size": 200}, "batch_norm": batch_norm}
    keys = {"algorithm": "supervised", "num_train_iter": STEPS, "num_eval_iter": STEPS, "epoch": 1, "batch_size": 16, "lr": 0.1}
    return settings(tmp_path, name, active=active, **{**keys, "ema_m": 0.99, **more})


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Name → (settings, algorithm, metrics, what was warned of in the run)."""
    tmp_path, found = tmp_path_factory.mktemp("collapse"), {}
    runs = {"today": {}, "recomputed": {"batch_norm": "recomputed"}, "shorter": {"ema_m": 0.9}}
    log = logging.getLogger("usb_active")
    for name, more in runs.items():
        batch_norm = more.pop("batch_norm", "usb")
        data, said = short(tmp_path, name, batch_norm, **more), []
        handler = logging.Handler(logging.WARNING)
        handler.emit = lambda record, said=said: said.append(record.getMessage())
        log.addHandler(handler)
        try:
            algorithm = train(data)
        finally:
            log.removeHandler(handler)
        (line,) = RunDir.read(tmp_path / name).metrics()
        found[name] = (data, algorithm, line, said)
    return tmp_path, found


def test_the_collapse_is_said_before_and_after(trained):
    data, _, line, said = trained[1]["today"]
    assert line["live_accuracy"] > 0.7 and line["accuracy"] < 0.35
    (before,) = remarks(config_of(data))
    assert "ema_m: 0.99 is a half-life of 69 steps in a training of 120, " in before
    assert before.endswith("; at most 0.91 fits, and active.batch_norm: recomputed helps networks with BatchNorm")
    (after,) = [text for text in said if "more than noise" in text]
    assert f"accuracy {100 * line['accuracy']:.2f} %" in after and f"accuracy {100 * line['live_accuracy']:.2f} %" in after
    assert after.endswith("try an ema_m of at most 0.91 (it is 0.99) or active.batch_norm: recomputed, under another save_name")


@pytest.mark.parametrize("cure", ["recomputed", "shorter"])
def test_both_cures(trained, cure):
    data, _, line, said = trained[1][cure]
    assert line["accuracy"] > 0.7 and line["accuracy"] > trained[1]["today"][2]["accuracy"] + 0.35
    assert not [text for text in said if "more than noise" in text]
    assert cure == "recomputed" or remarks(config_of(data)) == []


def test_the_training_itself_is_untouched(trained):
    tmp_path, _ = trained
    today, recomputed = checkpoint(tmp_path / "today", 0), checkpoint(tmp_path / "recomputed", 0)
    assert all(torch.equal(value, recomputed["model"][name]) for name, value in today["model"].items())
    differing = {name for name, value in today["ema_model"].items() if not torch.equal(value, recomputed["ema_model"][name])}
    assert differing and all(name.rpartition(".")[2].startswith(("running_", "num_batches")) for name in differing)
    assert labels_of(tmp_path / "today") == labels_of(tmp_path / "recomputed")


def test_the_statistics_are_those_of_the_pool_in_its_eval_view(trained):
    """By another way: all at once, from the images that the class says."""
    from usb_active.pool.inference import PoolRows, pool_loader
    from usb_active.usb.loaders import STATISTICS_IMAGES

    _, algorithm, _, _ = trained[1]["recomputed"]
    seen = [x for x in algorithm._loaders.statistics(algorithm.args)]
    assert sum(map(len, seen)) == STATISTICS_IMAGES and max(map(len, seen)) <= algorithm.args.eval_batch_size
    dataset = algorithm.session.dataset
    (whole,) = pool_loader(PoolRows(dataset, np.arange(len(dataset)), "eval", 1, 0, ()), len(dataset), 0)
    # 1,024 different images of 1,343.
    rows = {image.numpy().tobytes() for image in whole["x"][0]}
    taken = {image.numpy().tobytes() for batch in seen for image in batch}
    assert taken < rows and len(taken) > STATISTICS_IMAGES - 10
    kept = checkpoint(trained[0] / "recomputed", 0)["ema_model"]
    recompute(algorithm.ema_model, trained_layers(algorithm.model), seen)
    assert all(torch.equal(value, kept[name]) for name, value in algorithm.ema_model.state_dict().items())


def test_predict_uses_them(trained):
    tmp_path, found = trained
    shares = {}
    for name in ("today", "recomputed"):
        out = io.StringIO()
        write_predictions(tmp_path / name, None, out)
        rows = list(csv.DictReader(io.StringIO(out.getvalue())))
        dataset = found[name][1].session.dataset
        truth = dict(zip(dataset.keys, (dataset.class_names[label] for label in dataset.targets), strict=True))
        shares[name] = np.mean([truth[row["key"]] == row["class"] for row in rows])
    assert shares["recomputed"] > 0.7 > 0.35 > shares["today"]


def test_selection_uses_them_and_a_resumed_run_is_the_uninterrupted_one(tmp_path, monkeypatch):
    def of(name, batch_norm):
        return settings(tmp_path, name, active={"batch_norm": batch_norm}, ema_m=0.99)

    train(of("usb", "usb"))
    train(of("whole", "recomputed"))
    assert labels_of(tmp_path / "usb") != labels_of(tmp_path / "whole")

    from usb_active.usb.hooks import ActiveCheckpointHook

    plain = ActiveCheckpointHook.after_train_step

    def dies(self, algorithm):
        plain(self, algorithm)
        if algorithm.session.cycle == 1 and algorithm.it == 7:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(ActiveCheckpointHook, "after_train_step", dies)
        train(of("cut", "recomputed"))
    train(of("cut", "recomputed"))
    assert labels_of(tmp_path / "cut") == labels_of(tmp_path / "whole")
    assert weights_equal(checkpoint(tmp_path / "cut", 1), checkpoint(tmp_path / "whole", 1))
    scores = [[line["accuracy"] for line in RunDir.read(tmp_path / name).metrics()] for name in ("cut", "whole")]
    assert scores[0] == scores[1]


@pytest.mark.parametrize("fast", [True, False])
def test_usbs_own_hooks_train_the_same(tmp_path, fast):
    one = settings(tmp_path, "one", active={"batch_norm": "recomputed", "cycles": 0, "fast_hooks": fast})
    other = settings(tmp_path, "other", active={"cycles": 0, "fast_hooks": fast})
    train(one)
    train(other)
    kept = [checkpoint(tmp_path / name, 0)["model"] for name in ("one", "other")]
    assert all(torch.equal(value, kept[1][name]) for name, value in kept[0].items())


def test_a_network_without_batch_norm_is_said_at_check(tmp_path, caplog):
    from usb_active.commands.run import check_all

    keys = {"net": {"name": "vit_small", "patch_size": 4}, "img_size": 8}
    data = settings(tmp_path, active={"batch_norm": "recomputed"}, **keys)
    with caplog.at_level(logging.WARNING):
        check_all(config_of(data))
    assert any("net: 'vit_small' has no BatchNorm with running statistics" in record.getMessage() for record in caplog.records)


def test_another_value_is_refused(tmp_path):
    with pytest.raises(UsageError, match="active.batch_norm: should be 'usb' or 'recomputed'"):
        config_of(settings(tmp_path, active={"batch_norm": "averaged"}))


def test_a_run_of_before_the_key_is_resumed_and_a_changed_one_is_not(tmp_path):
    plain = config_of(settings(tmp_path))
    assert "batch_norm" not in plain.resolved()["active"]
    changed = config_of(settings(tmp_path, active={"batch_norm": "recomputed"}))
    assert changed.resolved()["active"]["batch_norm"] == "recomputed"
    RunDir.open(tmp_path / "run", plain.resolved()).close()
    with pytest.raises(UsageError, match=r"active\.batch_norm: \(not set\) -> .recomputed"):
        RunDir.open(tmp_path / "run", changed.resolved())
