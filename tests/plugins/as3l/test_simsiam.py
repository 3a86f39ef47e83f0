"""SimSiam as a pretrainer: the views, the loss, what an epoch is made of, collapse, resume bit for bit, what it refuses."""

from __future__ import annotations

import json
import logging
from math import cos, pi, sqrt

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from run_helpers import labels_of, settings, train
from usb_active.plugins.as3l.simsiam import SimSiam, negative_cosine, prediction_head, projection_head, spread
from usb_active.plugins.as3l.views import SimSiamView

from usb_active.builtin.array_datasets import Digits
from usb_active.contracts.dataset import DatasetOptions
from usb_active.errors import UsageError
from usb_active.loop.initial_weights import classifier_keys, load_backbone
from usb_active.usb.networks import small_cnn, usb_network
from usb_active.usb.paper_networks import cnn13

CPU = torch.device("cpu")
SMALL = {"epochs": 3, "batch_size": 16, "lr": 0.5, "crop": 0.6, "projection_dim": 12, "prediction_dim": 3}
# 50 images make three batches of 16, two views each.
STEPS, PER_EPOCH = 3, 48


class Stopped(Exception):
    """What a test raises to end a pretraining where it stands."""


class FewDigits(Digits):
    """The first so many digits; remembers every image that is asked for, and does `act()` before a given one."""

    def __init__(self, size=50, act=None, before=-1, **options):
        super().__init__(Digits.Config(in_channels=options.pop("in_channels", 1)), DatasetOptions(**options))
        self.keys, self.targets, self.queryable = self.keys[:size], self.targets[:size], self.queryable[:size]
        self.loaded, self.act, self.before = [], act, before

    def load(self, index):
        if len(self.loaded) == self.before:
            self.act()
        self.loaded.append(index)
        return super().load(index)


def stop():
    raise Stopped


def tiny():
    torch.manual_seed(1)
    return small_cnn(10, 8, 1, width=4)


def pretrain(scratch, dataset=None, build=tiny, seed=0, **config):
    scratch.mkdir(exist_ok=True)
    torch.set_num_threads(1)
    plugin = SimSiam(SimSiam.Config(**{**SMALL, **config}))
    plugin.name = "simsiam"
    return plugin.run(build, dataset or FewDigits(), scratch, np.random.default_rng(seed), CPU).backbone


def lines(scratch):
    return [json.loads(line) for line in (scratch / "simsiam.jsonl").read_text().splitlines()]


def kept(scratch):
    return torch.load(scratch / "simsiam.pth", weights_only=True)


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


# --------------------------------------------------------------------------------------------------------------- views


def picture(channels):
    """8 × 8 uint8, dark on the left and bright on the right, of equal channels or not."""
    grey = np.tile(np.linspace(0, 255, 8).astype(np.uint8), (8, 1))
    return grey if channels == 1 else np.stack([grey, grey // 2, 255 - grey], axis=2)


def views_of(view, sample, count=200):
    torch.manual_seed(0)
    return torch.stack([view(sample) for _ in range(count)])


def test_digits_are_never_mirrored_unless_asked():
    rise = lambda view: (view[..., -1] - view[..., 0]).mean(dim=(1, 2))  # noqa: E731 — one line
    plain = rise(views_of(SimSiamView(FewDigits(), 0.5), picture(1)))
    asked = rise(views_of(SimSiamView(FewDigits(), 0.5, flip=True), picture(1)))
    assert (plain > 0).all()
    # Half of 200: a standard deviation of 7.
    assert 70 < (asked < 0).sum() < 130


def test_the_data_sets_own_flip_decides():
    dataset = FewDigits()
    dataset.flip = True
    assert (views_of(SimSiamView(dataset, 0.5), picture(1))[..., -1].mean(dim=(1, 2)) < 0).sum() > 50
    assert (views_of(SimSiamView(dataset, 0.5, flip=False), picture(1))[..., -1].mean(dim=(1, 2)) < 0).sum() < 50


def test_a_crop_of_all_without_jitter_is_the_evaluation_view():
    dataset = FewDigits()
    plain = dataset.views.eval(picture(1))
    # 0.2 of the views are neither brighter nor darker; a ratio other than 1 crops all the same, but rows are equal here.
    views = views_of(SimSiamView(dataset, 1.0), picture(1))
    assert views.shape == (200, 1, 8, 8) and views.dtype == torch.float32
    untouched = sum(torch.equal(view, plain) for view in views)
    assert untouched > 0 and not all(torch.equal(view, views[0]) for view in views)


def test_a_fifth_of_coloured_views_is_grey():
    dataset = FewDigits(in_channels=3)
    views = views_of(SimSiamView(dataset, 1.0), picture(3), 400)
    grey = [torch.equal(view[0], view[1]) and torch.equal(view[1], view[2]) for view in views]
    # 400 draws of 0.2: a standard deviation of 8.
    assert 50 < sum(grey) < 110


def test_a_small_crop_shows_less():
    """Crops of a picture that rises from 0 to 1 over 8 pixels: the range that a view shows."""
    shown = {crop: (lambda v: (v.amax(dim=(1, 2, 3)) - v.amin(dim=(1, 2, 3))).mean())(views_of(SimSiamView(FewDigits(), crop), picture(1)))
             for crop in (0.1, 0.5, 1.0)}  # fmt: skip
    assert shown[0.1] < shown[0.5] < shown[1.0]


SAMPLES = {"2d": picture(1), "1": picture(1)[:, :, None], "3": picture(3), "pil": Image.fromarray(picture(3))}


@pytest.mark.parametrize("sample", SAMPLES.values(), ids=SAMPLES)
@pytest.mark.parametrize("channels", [1, 3])
def test_samples_of_every_kind(sample, channels):
    assert SimSiamView(FewDigits(in_channels=channels), 0.5)(sample).shape == (channels, 8, 8)


def test_another_sample_is_refused_in_one_line():
    with pytest.raises(UsageError, match=r"dataset 'digits': a sample is float32 with shape \(8, 8\); it must be") as error:
        SimSiamView(FewDigits(), 0.5)(np.zeros((8, 8), dtype=np.float32))
    assert "\n" not in str(error.value)


# ------------------------------------------------------------------------------------------------------ loss and heads


def test_the_loss_as_loops():
    rng = np.random.default_rng(0)
    p, z = rng.normal(size=(5, 3)), rng.normal(size=(5, 3))
    total = 0.0
    for row in range(5):
        product = sum(p[row, d] * z[row, d] for d in range(3))
        total -= product / (sqrt(sum(v * v for v in p[row])) * sqrt(sum(v * v for v in z[row])))
    assert negative_cosine(torch.from_numpy(p), torch.from_numpy(z)).item() == pytest.approx(total / 5)


def test_the_loss_at_its_ends_and_whatever_the_length():
    z = torch.eye(3)
    assert negative_cosine(z, 5 * z).item() == pytest.approx(-1) and negative_cosine(z, -z).item() == pytest.approx(1)
    assert negative_cosine(z, z.roll(1, 0)).item() == pytest.approx(0)


def test_heads_are_those_of_the_paper():
    cifar, imagenet = projection_head(128, 2048, 2), projection_head(512, 2048, 3)
    kinds = ["Linear", "BatchNorm1d", "ReLU"]
    assert [type(module).__name__ for module in cifar] == [*kinds, "Linear", "BatchNorm1d"]
    assert [type(module).__name__ for module in imagenet] == [*kinds, *kinds, "Linear", "BatchNorm1d"]
    assert [tuple(module.weight.shape) for module in cifar if isinstance(module, torch.nn.Linear)] == [(2048, 128), (2048, 2048)]
    assert [module.affine for module in imagenet if isinstance(module, torch.nn.BatchNorm1d)] == [True, True, False]
    prediction = prediction_head(2048, 512)
    assert [type(module).__name__ for module in prediction] == [*kinds, "Linear"]
    # No batch norm at the output, and a bias there alone.
    assert [module.bias is None for module in prediction if isinstance(module, torch.nn.Linear)] == [True, False]


def test_one_step_is_the_gradient_of_the_symmetric_loss_with_one_side_held(tmp_path):
    """A whole epoch of one batch, made again by hand with the views and weights that it began with."""
    dataset, seen = FewDigits(16), []

    def watched():
        net = tiny()
        net.register_forward_pre_hook(lambda module, args: seen.append(args[0].clone()))
        return net

    keys = {"epochs": 1, "momentum": 0.0, "weight_decay": 0.01}
    after = pretrain(tmp_path / "one", dataset, watched, **keys)
    # The first image in eval mode tells the number of features.
    views, net = seen[1:], tiny().train()
    assert len(views) == 2 and all(view.shape == (16, 1, 8, 8) for view in views)
    # A rate of next to nothing leaves the heads as they were made.
    pretrain(tmp_path / "none", FewDigits(16), **{**keys, "lr": 1e-30})
    state, (projection, prediction) = kept(tmp_path / "none"), (projection_head(16, 12, 2), prediction_head(12, 3))
    projection.load_state_dict(state["projection"])
    prediction.load_state_dict(state["prediction"])
    z = [projection(net(view, only_feat=True)) for view in views]
    p = [prediction(each) for each in z]
    cosine = torch.nn.functional.cosine_similarity
    loss = -(cosine(p[0], z[1].detach()).mean() / 2 + cosine(p[1], z[0].detach()).mean() / 2)
    loss.backward()
    assert lines(tmp_path / "one")[0]["loss"] == pytest.approx(loss.item(), abs=1e-5)
    # lr 0.5 · 16/256; one step, not decayed yet.
    for name, value in net.named_parameters():
        if "classifier" not in name:
            torch.testing.assert_close(after[name], value.detach() - 0.5 / 16 * (value.grad + 0.01 * value.detach()), rtol=1e-4, atol=1e-6)
    made = kept(tmp_path / "one")["prediction"]
    for name, value in prediction.named_parameters():
        torch.testing.assert_close(made[name], value.detach() - 0.5 / 16 * (value.grad + 0.01 * value.detach()), rtol=1e-4, atol=1e-6)


def test_without_a_held_side_the_gradient_is_another(tmp_path):
    held, free = (pretrain(tmp_path / str(stop), FewDigits(16), epochs=1, stop_gradient=stop) for stop in (True, False))
    assert not torch.equal(held["stem.conv.weight"], free["stem.conv.weight"])


# ------------------------------------------------------------------------------------------------------------ an epoch


def test_every_sample_is_there_once_an_epoch_in_a_new_order_and_the_rest_is_dropped(tmp_path):
    dataset = FewDigits()
    pretrain(tmp_path, dataset, epochs=2)
    # One image first, to know the number of features.
    first, second = dataset.loaded[1 : 1 + PER_EPOCH], dataset.loaded[1 + PER_EPOCH :]
    assert len(first) == len(second) == PER_EPOCH and len(set(first)) == len(set(second)) == PER_EPOCH
    assert first != second and set(first) != set(second)


def test_the_rate_is_half_a_cosine_but_for_the_prediction_head(tmp_path):
    rates = []
    for epochs_done in range(1, 5):
        scratch = tmp_path / str(epochs_done)
        with pytest.raises(Stopped):
            # Stopped in the epoch after: the checkpoint holds the rates of the last whole one.
            pretrain(scratch, FewDigits(act=stop, before=1 + epochs_done * PER_EPOCH), epochs=5)
        rates.append([group["lr"] for group in kept(scratch)["optimizer"]["param_groups"]])
    start = 0.5 * 16 / 256
    assert np.allclose([rate for rate, _ in rates], [start * (1 + cos(pi * epoch / 5)) / 2 for epoch in range(4)])
    assert np.allclose([rate for _, rate in rates], start)
    pretrain(tmp_path / "decayed", epochs=5, fixed_predictor_lr=False)
    groups = kept(tmp_path / "decayed")["optimizer"]["param_groups"]
    assert groups[0]["lr"] == groups[1]["lr"] == pytest.approx(start * (1 + cos(pi * 4 / 5)) / 2)


def test_the_networks_own_classifier_is_not_touched(tmp_path):
    backbone, fresh = pretrain(tmp_path), tiny().state_dict()
    for name in ("classifier.weight", "classifier.bias"):
        assert torch.equal(backbone[name], fresh[name])
    assert not torch.equal(backbone["stem.conv.weight"], fresh["stem.conv.weight"])


def test_labels_are_not_looked_at_and_the_seed_decides(tmp_path):
    blind = FewDigits()
    blind.targets = np.full(50, -1)
    first = pretrain(tmp_path / "a")
    assert equal(first, pretrain(tmp_path / "b", blind))
    assert not torch.equal(first["stem.conv.weight"], pretrain(tmp_path / "c", seed=1)["stem.conv.weight"])


# ------------------------------------------------------------------------------------------------------------ collapse


def test_spread_of_a_filled_sphere_of_a_line_and_of_a_point():
    torch.manual_seed(0)
    filled = spread(torch.randn(4000, 16))
    assert filled["uniform_std"] == 0.25 and filled["std"] == pytest.approx(0.25, rel=0.02)
    assert filled["directions"] == pytest.approx(16, rel=0.05) and not filled["collapsed"]
    # ± one vector: as wide in every dimension as the sphere, and yet one direction.
    line = spread(torch.tensor([1.0, -1.0]).repeat(50)[:, None] * torch.ones(16))
    assert line["std"] == pytest.approx(0.25) and line["directions"] == pytest.approx(1) and line["collapsed"]
    point = spread(torch.ones(20, 16))
    assert (point["std"], point["directions"]) == pytest.approx((0, 0)) and point["collapsed"]


def test_spread_counts_directions_as_eigenvalues_do():
    z = torch.from_numpy(np.random.default_rng(0).normal(size=(30, 7)) * np.arange(1, 8))
    unit = (z / z.norm(dim=1, keepdim=True)).numpy()
    values = np.linalg.eigvalsh(np.cov(unit.T, bias=True))
    found = spread(z)
    assert found["directions"] == pytest.approx(values.sum() ** 2 / (values**2).sum())
    assert found["std"] == pytest.approx(unit.std(axis=0).mean())
    # Whatever the length of the outputs.
    assert spread(z * torch.arange(1, 31)[:, None])["std"] == pytest.approx(found["std"])


def test_each_epoch_is_logged_and_some_are_reported(tmp_path, caplog):
    with caplog.at_level(logging.INFO, "usb_active"):
        pretrain(tmp_path, epochs=12)
    found = lines(tmp_path)
    assert [line["epoch"] for line in found] == list(range(1, 13))
    assert all(line.keys() == {"epoch", "loss", "lr", "std", "uniform_std", "directions", "collapsed"} for line in found)
    assert all(-1 <= line["loss"] <= 1 and line["uniform_std"] == pytest.approx(12**-0.5) for line in found)
    infos = [record.message for record in caplog.records if record.levelno == logging.INFO]
    assert [message.split()[2] for message in infos] == ["1", "10", "12"]


def test_a_collapse_is_a_warning(tmp_path, caplog):
    dataset = FewDigits(32)
    # Black: no crop and no jitter makes a difference.
    dataset._images = np.zeros_like(dataset._images)
    pretrain(tmp_path, dataset, epochs=1)
    (line,) = lines(tmp_path)
    assert line["collapsed"] and line["std"] < 0.01
    assert "epoch 1 of 1: the outputs have collapsed" in caplog.records[-1].message and caplog.records[-1].levelno == logging.WARNING


@pytest.mark.slow
def test_the_gradient_that_is_stopped_is_what_prevents_it(tmp_path):
    """Fig. 2. The authors' batch norm keeps std up; the directions tell."""
    keys = {"epochs": 25, "batch_size": 64, "projection_dim": 64, "prediction_dim": 16}
    held, free = ((pretrain(tmp_path / str(stop), FewDigits(400), stop_gradient=stop, **keys), lines(tmp_path / str(stop)))[1][-1]
                  for stop in (True, False))  # fmt: skip
    assert not held["collapsed"] and free["collapsed"] and free["loss"] < held["loss"]


@pytest.mark.slow
def test_features_get_better(tmp_path):
    """Nearest other digit of the same class: 0.95 of the untrained network, 0.98 after 40 epochs of the whole pool."""
    from usb_active.pool.inference import PoolRows, collect, predict

    def wide():
        torch.manual_seed(1)
        return small_cnn(10, 8, 1, width=12)

    dataset = FewDigits(800)

    def agreement(net):
        rows = PoolRows(dataset, np.arange(800), "eval", 1, 0, ("test",))
        x = collect(predict(net, rows, ["features"], 256, 0, CPU), 800, lambda _, shape: np.empty(shape, np.float32))["features"]
        x /= np.linalg.norm(x, axis=1, keepdims=True)
        products = x @ x.T
        np.fill_diagonal(products, -2)
        return (dataset.targets[products.argmax(axis=1)] == dataset.targets).mean()

    before, net = agreement(wide()), wide()
    net.load_state_dict(pretrain(tmp_path, dataset, wide, epochs=25, batch_size=64, projection_dim=128, prediction_dim=32))
    after = agreement(net)
    assert after > before + 0.02
    assert lines(tmp_path)[-1]["loss"] < -0.6


# -------------------------------------------------------------------------------------------------------------- resume


def grey13():
    torch.manual_seed(1)
    return cnn13(10, 12, 1, width=4)


CASES = {"small_cnn": (tiny, {}), "cnn13": (grey13, {"img_size": 12})}


@pytest.mark.parametrize("case", CASES)
def test_stopped_anywhere_it_ends_with_the_same_bits(tmp_path, case):
    build, options = CASES[case]
    whole = pretrain(tmp_path / "whole", FewDigits(**options), build)
    # One image and then 48 per epoch: before the first, in the first, at the end of it, in the second, before the last image.
    for before in (0, 20, 49, 60, 144):
        scratch = tmp_path / f"stopped {before}"
        with pytest.raises(Stopped):
            pretrain(scratch, FewDigits(act=stop, before=before, **options), build)
        torch.rand(before), np.random.rand(before)
        rest = FewDigits(**options)
        assert equal(pretrain(scratch, rest, build), whole), before
        assert (scratch / "simsiam.jsonl").read_bytes() == (tmp_path / "whole" / "simsiam.jsonl").read_bytes()
        # Whole epochs are not repeated.
        assert len(rest.loaded) == 1 + 3 * PER_EPOCH - PER_EPOCH * ((max(before, 1) - 1) // PER_EPOCH)


def test_a_finished_one_is_only_read(tmp_path):
    whole, again = pretrain(tmp_path), FewDigits()
    assert equal(pretrain(tmp_path, again), whole) and len(again.loaded) == 1


def test_processes_that_load_images_change_nothing(tmp_path):
    one = pretrain(tmp_path / "one", epochs=1)
    assert equal(one, pretrain(tmp_path / "two", epochs=1, num_workers=2))


def test_the_callers_generators_are_left_alone(tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    pretrain(tmp_path, build=lambda: small_cnn_kept())
    assert torch.equal(torch.rand(3), expected)


def small_cnn_kept():
    from usb_active.randomness import seeded_globals

    with seeded_globals(1, "net"):
        return small_cnn(10, 8, 1, width=4)


def test_a_run_may_resume_with_another_number_of_processes(tmp_path):
    one = pretrain(tmp_path)
    assert equal(pretrain(tmp_path, num_workers=1), one)


def test_what_was_begun_otherwise_is_refused(tmp_path):
    pretrain(tmp_path)
    path = tmp_path / "simsiam.pth"
    for change, said in (({"lr": 0.2}, "lr: 0.5, now 0.2"), ({"epochs": 4}, "epochs: 3, now 4"), ({"seed": 1}, "seed: ")):
        with pytest.raises(UsageError, match=f"pretrain: 'simsiam': .* was begun with {said}") as error:
            pretrain(tmp_path, **change)
        assert str(path) in str(error.value) and "\n" not in str(error.value)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UsageError, match="is damaged .*remove it to repeat the pretraining"):
        pretrain(tmp_path)


# ----------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    "config",
    [
        {"epochs": 0}, {"batch_size": 1}, {"lr": 0}, {"lr": float("inf")}, {"momentum": 1.0}, {"weight_decay": -1},
        {"projection_layers": 0}, {"projection_dim": 1}, {"prediction_dim": 0}, {"crop": 0}, {"crop": 1.5}, {"flip": "maybe"},
        {"num_workers": -1}, {"blur": True},
    ],
)  # fmt: skip
def test_bad_keys_are_refused(config):
    with pytest.raises(ValidationError):
        SimSiam.Config(**config)


def test_the_defaults_are_those_of_the_paper():
    config = SimSiam.Config()
    assert (config.epochs, config.batch_size, config.lr, config.momentum, config.weight_decay) == (800, 512, 0.03, 0.9, 5e-4)
    assert (config.projection_layers, config.projection_dim, config.prediction_dim, config.crop) == (2, 2048, 512, 0.2)
    assert config.fixed_predictor_lr and config.stop_gradient and config.flip is None


def test_a_pool_that_fills_no_batch_is_refused(tmp_path):
    with pytest.raises(UsageError, match="simsiam': batch_size: 51; the pool has 50 samples, which fill no batch") as error:
        pretrain(tmp_path, batch_size=51)
    assert "\n" not in str(error.value)
    pretrain(tmp_path, batch_size=50, epochs=1)


def test_a_loss_that_is_no_number_is_an_error(tmp_path):
    with pytest.raises(UsageError, match="epoch [12]: the loss is nan; a smaller lr than 1e[+]30 may help"):
        pretrain(tmp_path, lr=1e30)


# ------------------------------------------------------------------------------------------------------------ networks


@pytest.mark.parametrize("name, size", [("wrn_28_2", 8), pytest.param("vit_tiny_patch2_32", 32, marks=pytest.mark.slow)])
def test_the_backbone_of_usbs_networks_starts_another(tmp_path, name, size):
    def build(classes=10):
        torch.manual_seed(classes)
        return usb_network(name)(classes, size, 3)

    backbone = pretrain(tmp_path, FewDigits(12, in_channels=3, img_size=size), build, epochs=1, batch_size=6)
    keys, net = classifier_keys(build), build(7)
    load_backbone(net, backbone, keys)
    trained = [key for key, value in build().named_parameters() if key not in keys and not torch.equal(value, backbone[key])]
    assert len(trained) > len(backbone) / 4
    assert all(torch.equal(value, backbone[key]) for key, value in net.state_dict().items() if key not in keys)


def test_it_starts_a_run_and_its_features_serve_the_selection(tmp_path):
    pretrain_keys = {"name": "simsiam", **SMALL, "epochs": 1, "batch_size": 256}
    active = {"pretrain": pretrain_keys, "features": "pretrain", "initial": {"name": "as3l", "size": 10}}
    session = train(settings(tmp_path, active={**active, "cycles": 0})).session
    made = kept(tmp_path / "run" / "pretrain" / "scratch")["net"]
    assert all(torch.equal(value, made[name]) for name, value in session.weights.build().state_dict().items())
    assert len(labels_of(tmp_path / "run")) == 11
    assert np.load(tmp_path / "run" / "pretrain" / "backbone_features_1343.npy").shape == (1343, 16)
