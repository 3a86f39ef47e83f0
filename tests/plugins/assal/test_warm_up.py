"""Algorithm 2, the warm-up: its loss against the formulas, what it moves, what it keeps and says, and what it refuses."""

from __future__ import annotations

import json
import logging
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from run_helpers import config_of, labels_of, settings, train, write_yaml
from usb_active.plugins.assal.networks import ClassifyingVae
from usb_active.plugins.assal.warm_up import WarmUp, WarmUpTraining

from usb_active import UsageError, cli
from usb_active.builtin.array_datasets import Digits
from usb_active.contracts.dataset import DatasetOptions
from usb_active.testing import PretrainerContract
from usb_active.testing.pool import CLASSES, SIZE

CPU = torch.device("cpu")
SMALL = {"epochs": 2, "batch_size": 16, "lr": 0.005}
NET = {"name": "assal_vae", "latent": 4, "width": 4}
BLOCK = {"pretrain": {"name": "assal", "epochs": 1, "batch_size": 256}, "features": "pretrain", "cycles": 0}
# 40 images are three batches of 13 or 14.
STEPS = 3


def csv_of(path, keys, label="0"):
    path.write_text("key,label\n" + "".join(f"{key},{label}\n" for key in keys))
    return path


class TestWarmUp(PretrainerContract):
    name = "assal"
    config = {"epochs": 3, "batch_size": 16, "lr": 0.005}

    def build_net(self):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            return ClassifyingVae(CLASSES, SIZE, 1, latent=4, width=4)


class TestWarmUpOfBothPools(TestWarmUp):
    def keys(self, folder):
        path = csv_of(folder / "labels.csv", [f"pictures/{number:03d}" for number in (2, 13, 29)], label="class 1")
        return {**self.config, "labeled": str(path)}


class FewDigits(Digits):
    """The first forty digits; does `act()` before a given image is loaded."""

    def __init__(self, act=None, before=-1):
        super().__init__(Digits.Config(in_channels=1), DatasetOptions())
        self.keys, self.targets, self.queryable = self.keys[:40], self.targets[:40], self.queryable[:40]
        self.loaded, self.act, self.before = [], act, before

    def load(self, index):
        if len(self.loaded) == self.before:
            self.act()
        self.loaded.append(index)
        return super().load(index)


def tiny():
    torch.manual_seed(1)
    return ClassifyingVae(10, 8, 1, latent=4, width=4)


def training(labeled=(), net=None, dataset=None, seed=0, **keys):
    torch.set_num_threads(1)
    config = WarmUp.Config(**({**SMALL, **keys} if "iterations" not in keys else {"batch_size": 16, "lr": 0.005, **keys}))
    return WarmUpTraining(config, net or tiny(), dataset or FewDigits(), np.array(labeled, dtype=np.int64), seed, CPU)


def trained(scratch, labeled=(), **given):
    scratch.mkdir(exist_ok=True)
    made = training(labeled, **given)
    made.train(scratch)
    return made


def lines(scratch):
    return [json.loads(line) for line in (scratch / "assal.jsonl").read_text().splitlines()]


# ------------------------------------------------------------------------------------------------- the loss
def slow_kl(mu, log_var):
    return sum(0.5 * (m * m + math.exp(v) - v - 1) for m, v in zip(mu.tolist(), log_var.tolist(), strict=True))


def first_step(tmp_path, labeled=(), **keys):
    """What the first step saw: rows in X_L, images, their codes, reconstructions, logits of turns, and its line."""
    net, seen = tiny(), {}
    for name in ("encoder", "generator", "rotation"):
        getattr(net, name).register_forward_hook(lambda module, given, output, name=name: seen.update({name: (given[0], output)}))
    made = training(labeled, net=net, iterations=1, **keys)
    ((_, rows),) = made._batches()
    tmp_path.mkdir(exist_ok=True)
    made.train(tmp_path)
    return np.isin(rows, labeled), seen, made.log[0]


def turns_of(seen):
    images = seen["encoder"][0]
    own, turned = images[: len(images) // 2], images[len(images) // 2 :]
    found = [
        [number for number in range(4) if torch.equal(torch.rot90(x, number, dims=(1, 2)), other)]
        for x, other in zip(own, turned, strict=True)
    ]
    # A digit may look the same after half a turn, if hardly ever.
    assert all(found) and len({numbers[0] for numbers in found}) > 1
    return own, [numbers[0] for numbers in found]


@pytest.mark.parametrize("labeled", [(), tuple(range(0, 40, 3)), tuple(range(40))])
def test_a_step_is_eq_8_of_both_pools_by_slow_loops(tmp_path, labeled):
    in_labeled, seen, line = first_step(tmp_path, labeled, lambda1=0.3, lambda2=2.0, beta=0.05, scale=0.7)
    own, turns = turns_of(seen)
    size, (mu, log_var), reconstruction = len(own), seen["encoder"][1], seen["generator"][1]
    # −(Eq. 1): a mean for each pool that has samples, on the images as they are.
    bounds: dict[bool, list[float]] = {True: [], False: []}
    for row in range(size):
        pairs = zip(own[row].flatten().tolist(), reconstruction[row].flatten().tolist(), strict=True)
        likelihood = sum(-0.5 * ((x - mean) / 0.7) ** 2 for x, mean in pairs)
        bounds[bool(in_labeled[row])].append(likelihood - slow_kl(mu[row], log_var[row]))
    assert len(bounds[True]) == in_labeled.sum() and (not labeled) == (not bounds[True])
    representation = sum(-sum(values) / len(values) for values in bounds.values() if values)
    # −(Eq. 7): one mean over both, of the codes of the images that were turned.
    rotation = 0.0
    for row, turn in enumerate(turns):
        exponentials = [math.exp(value) for value in seen["rotation"][1][row].tolist()]
        rotation -= math.log(exponentials[turn] / sum(exponentials))
        rotation += 0.05 * slow_kl(mu[size + row], log_var[size + row])
    rotation /= size
    assert line["representation_loss"] == pytest.approx(representation, rel=1e-4)
    assert line["rotation_loss"] == pytest.approx(rotation, rel=1e-4)
    assert line["loss"] == pytest.approx(0.3 * representation + 2 * rotation, rel=1e-4)


def test_which_samples_are_labelled_matters_and_not_for_the_rotations(tmp_path):
    alone, both = (first_step(tmp_path / name, labeled)[2] for name, labeled in (("alone", ()), ("both", range(6))))
    assert alone["rotation_loss"] == both["rotation_loss"] and alone["kl"] == both["kl"]
    assert alone["representation_loss"] < both["representation_loss"]


def test_the_code_that_tells_turns_is_sampled_anew(tmp_path):
    _, seen, _ = first_step(tmp_path)
    z = torch.cat([seen["generator"][0], seen["rotation"][0]])
    mu, log_var = seen["encoder"][1]
    noise = (z - mu) / (0.5 * log_var).exp()
    # 4 × 28 of a unit Gaussian: the error of the standard deviation is 1/√224 = .07.
    assert noise.std().item() == pytest.approx(1, abs=0.25) and not torch.allclose(noise[:13], noise[13:26])


@pytest.mark.parametrize(("keys", "moved"), [
    ({}, {"encoder", "generator", "rotation"}), ({"lambda2": 0}, {"encoder", "generator"}), ({"lambda1": 0}, {"encoder", "rotation"}),
])  # fmt: skip
def test_a_weight_of_zero_leaves_its_part_untouched_and_the_classifier_never_moves(tmp_path, keys, moved):
    fresh, net = tiny().state_dict(), trained(tmp_path, **keys).net.state_dict()
    assert {name.partition(".")[0] for name, value in net.items() if not torch.equal(value, fresh[name])} == moved
    (line, _) = lines(tmp_path)
    assert ("rotation_accuracy" in line) == ("rotation" in moved) and ("representation_loss" in line) == ("generator" in moved)


# ------------------------------------------------------------------------------------------------- epochs and steps
def test_every_sample_is_seen_once_an_epoch_in_a_new_order(tmp_path):
    dataset = FewDigits()
    trained(tmp_path, dataset=dataset)
    first, second = dataset.loaded[:40], dataset.loaded[40:]
    assert sorted(first) == sorted(second) == list(range(40)) and first != second


def test_t_iterations_end_where_they_are_told_and_begin_as_epochs_do(tmp_path):
    dataset = FewDigits()
    made = trained(tmp_path / "steps", dataset=dataset, iterations=2 * STEPS + 1)
    assert made.epoch == 3 and 13 <= len(dataset.loaded) - 80 <= 14
    assert {int(moments["step"]) for moments in made.optimizer.state_dict()["state"].values()} == {2 * STEPS + 1}
    trained(tmp_path / "epochs", epochs=2)
    assert lines(tmp_path / "steps")[:2] == lines(tmp_path / "epochs")


def test_it_learns_to_tell_rotations_and_to_reconstruct(tmp_path):
    trained(tmp_path, epochs=25, lr=0.01)
    first, *_, last = lines(tmp_path)
    assert last["rotation_accuracy"] > 0.5 > first["rotation_accuracy"]
    assert last["representation_loss"] < 0.8 * first["representation_loss"]
    assert last["active_dims"] >= 2 and last["kl"] > 0.1 and last["spread"] > 0.1 and not last["collapsed"]


def test_other_samples_labelled_are_another_training(tmp_path):
    with pytest.raises(RuntimeError, match="stopped"):
        trained(tmp_path, (1, 2), dataset=FewDigits(act=stop, before=50))
    with pytest.raises(UsageError, match=r"was begun with pools: 2 labelled \(\w{8}\), now 2 labelled \(\w{8}\); put it back"):
        trained(tmp_path, (1, 3))


def stop():
    raise RuntimeError("stopped")


# ------------------------------------------------------------------------------------------------- what it says
def test_a_code_that_collapses_is_warned_of_once_and_the_default_does_not(tmp_path, caplog):
    with caplog.at_level(logging.INFO, "usb_active"):
        trained(tmp_path / "default", epochs=10)
        assert "collapsed" not in caplog.text and "rotations told" in caplog.text
        trained(tmp_path / "printed", epochs=14, beta=1.0, lambda1=1.0, scale=30.0, lr=0.03)
    logged = lines(tmp_path / "printed")
    assert logged[-1]["active_dims"] == 0 and sum(line["collapsed"] for line in logged) > 1 and not logged[0]["collapsed"]
    warned = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warned) == 1 and warned[0].startswith("pretrain: 'assal': epoch 7 of 14: the code has collapsed (spread ")
    assert "a smaller beta or lambda1, or a smaller scale, may help" in warned[0]


@pytest.mark.parametrize(("broken", "term"), [("generator", "representation_loss"), ("rotation", "rotation_loss")])
@pytest.mark.parametrize("epochs_done", [0, 1])
def test_a_term_that_is_not_finite_stops_with_the_step_the_term_and_the_checkpoint(tmp_path, broken, term, epochs_done):
    net = tiny()

    def spoil():
        with torch.no_grad():
            for parameter in getattr(net, broken).parameters():
                parameter.fill_(math.nan)

    # Before the second batch of an epoch.
    dataset = FewDigits(act=spoil, before=40 * epochs_done + 20)
    with pytest.raises(UsageError) as error:
        trained(tmp_path, net=net, dataset=dataset)
    kept = f"the last checkpoint is {tmp_path / 'assal.pth'}" if epochs_done else "there is no checkpoint of it yet"
    step = f"pretrain: 'assal': step {STEPS * epochs_done + 2} of 6: the term '{term}' is not finite (nan); {kept}; a smaller lr than 0.005"
    assert str(error.value).startswith(step) and "\n" not in str(error.value)


def test_images_that_are_not_finite_are_named(tmp_path):
    dataset = FewDigits()
    views, broken = dataset.views, np.asarray(dataset.load(7))

    def weak(image):
        return views.weak(image) * (math.nan if np.array_equal(image, broken) else 1.0)

    dataset.views = SimpleNamespace(weak=weak, eval=views.eval)
    with pytest.raises(UsageError, match="^pretrain: 'assal': images are not finite for samples 7$"):
        trained(tmp_path, dataset=dataset)


# ------------------------------------------------------------------------------------------------- refused
@pytest.mark.parametrize(("keys", "said"), [
    ({"target": "pseudo_label"}, "the warm-up's target is rotation .before any label the classifier has learned nothing"),
    ({"target": "rotations"}, "'rotations'; the warm-up's target is rotation"),
    ({"lambda1": 0, "lambda2": 0}, "lambda1, lambda2: all are 0, so that there is nothing to learn"),
    ({"lambda1": -0.1}, "lambda1"), ({"lambda2": math.inf}, "lambda2"), ({"beta": -1}, "beta"), ({"scale": 0}, "scale"),
    ({"iterations": 0}, "iterations"), ({"epochs": 2, "iterations": 5}, "epochs and iterations: give one of them"),
    ({"batch_size": 1}, "batch_size"), ({"lr": 0}, "lr"),
])  # fmt: skip
def test_keys_that_cannot_be(tmp_path, keys, said):
    with pytest.raises(UsageError, match=said) as error:
        config_of(settings(tmp_path, net=NET, active={**BLOCK, "pretrain": {"name": "assal", **keys}}))
    assert "\n" not in str(error.value) and "active.pretrain" in str(error.value)


@pytest.mark.parametrize("command", ["check", "run"])
def test_a_network_without_encoder_is_refused_before_the_run(tmp_path, capsys, command):
    data = settings(tmp_path, net={"name": "small_cnn", "width": 4}, active=BLOCK)
    path = write_yaml(tmp_path / "run.yaml", data)
    assert cli.main([command, str(path)]) == 2
    reason = "net: 'small_cnn' has no 'encode', 'decode', 'rotation', which pretrainer 'assal' calls; choose another net or pretrain"
    assert capsys.readouterr().err == f"usb-active: error: {path}: {reason}\n"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("text", ["key,label\ndigits/9999,3\n", "key,label\n"])
def test_a_file_of_labels_that_is_wrong_is_named(tmp_path, text):
    path = tmp_path / "labels.csv"
    path.write_text(text)
    config = WarmUp.Config(**SMALL, labeled=path)
    with pytest.raises(UsageError, match="labels.csv"):
        WarmUp(config).run(tiny, FewDigits(), tmp_path, np.random.default_rng(0), CPU)


# ------------------------------------------------------------------------------------------------- in a run
@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Warm-up, the first labels by its code, a training of Algorithm 1, and a round by its sampler."""
    folder = tmp_path_factory.mktemp("run")
    keys = {"algorithm": "assal", "net": NET, "include_lb_to_ulb": False, "optim": "AdamW", "lr": 0.002, "uratio": 1}
    block = {**BLOCK, "initial": {"name": "assal_kmeans", "size": 12}, "acquisition": "assal", "cycles": 1}
    return train(settings(folder, active=block, assal_sampler_width=16, **keys))


def test_every_cycle_begins_with_the_warmed_up_weights_and_a_classifier_of_its_own(run):
    left = torch.load(run.session.run_dir.path / "pretrain" / "pretrained.pth", weights_only=True)["backbone"]
    begun, fresh = run.session.weights.build().state_dict(), run.session.weights._fresh().state_dict()
    for name, value in begun.items():
        assert torch.equal(value, fresh[name] if name.startswith("classifier.") else left[name])
    changed = {name.partition(".")[0] for name, value in left.items() if not torch.equal(value, fresh[name])}
    assert changed == {"encoder", "generator", "rotation"}


def test_the_first_labels_are_chosen_on_mu_of_the_warmed_up_network(run):
    path = run.session.run_dir.path
    features = np.load(next((path / "pretrain").glob("backbone_features_*.npy")))
    images = torch.stack([run.session.dataset.views.eval(run.session.dataset.load(i)) for i in range(64)])
    with torch.no_grad():
        mu, _ = run.session.weights.build().eval().encode(images)
    assert features.shape == (1343, 4) and np.allclose(features[:64], mu.numpy(), atol=1e-5)
    assert len(labels_of(path)) == 1 + 12 + 10


@pytest.mark.parametrize("initial", ["random", "coreset", "typiclust", "as3l", "kmedoids", "kmeanspp"])
def test_other_cold_starts_run_on_the_code(tmp_path, monkeypatch, run, initial):
    monkeypatch.setenv("USB_ACTIVE_PRETRAINING_OF", str(run.session.run_dir.path))
    begun = train(settings(tmp_path, net=NET, algorithm="supervised", active={**BLOCK, "initial": {"name": initial, "size": 12}}))
    path = begun.session.run_dir.path
    assert len(labels_of(path)) == 1 + 12
    ours, theirs = (torch.load(one / "pretrain" / "pretrained.pth", weights_only=True)["backbone"]
                    for one in (path, run.session.run_dir.path))  # fmt: skip
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


FATAL = '''
"""Ends its process in the warm-up, where the environment says."""

import os
import signal

from usb_active.plugins.assal import warm_up

POINT = os.environ.get("USB_ACTIVE_TEST_POINT")
if POINT:
    step, calls = warm_up.WarmUpTraining._step, []

    def wrapped(*given):
        calls.append(1)
        if len(calls) == int(POINT):
            os.kill(os.getpid(), signal.SIGKILL)
        return step(*given)

    warm_up.WarmUpTraining._step = wrapped
'''


@pytest.mark.slow
def test_killed_in_the_warm_up_a_run_ends_like_an_uninterrupted_one(tmp_path):
    import killer

    (tmp_path / "fatal.py").write_text(FATAL)
    pretrain = {"name": "assal", "epochs": 3, "batch_size": 256}
    data = settings(
        tmp_path, net=NET, algorithm="assal", include_lb_to_ulb=False, uratio=1, plugins=[str(tmp_path / "fatal.py")],
        active={"pretrain": pretrain, "features": "pretrain", "initial": {"name": "assal_kmeans", "size": 20}, "cycles": 1,
                "acquisition": "assal_kmeans"},
    )  # fmt: skip
    whole = killer.finish({**data, "save_name": "whole"})
    # Six steps an epoch: in the first epoch; in the second, which begins from the first's checkpoint the next time; then in the third.
    for point in ("3", "9", "11"):
        assert killer.run(data, point).code == killer.KILLED
    resumed = killer.finish(data)
    killer.assert_same_end(resumed, whole, cycle=1)
    scratch = "pretrain/scratch/assal.jsonl"
    assert (resumed / scratch).read_bytes() == (whole / scratch).read_bytes()
    one, other = (torch.load(path / "pretrain" / "pretrained.pth", weights_only=True)["backbone"] for path in (resumed, whole))
    assert all(torch.equal(value, other[name]) for name, value in one.items())
