"""DeepCluster as a pretrainer: what an epoch is made of, that it learns, that it resumes bit for bit, what it refuses."""

from __future__ import annotations

import json
import logging
from collections import Counter
from math import log

import killer
import numpy as np
import pytest
import torch
from pydantic import ValidationError
from run_helpers import checkpoint, config_of, labels_of, settings, train, weights_equal
from torch import nn
from usb_active.plugins.jlp.clustering import agreement
from usb_active.plugins.jlp.deepcluster import DeepCluster

from usb_active.builtin.array_datasets import Digits
from usb_active.contracts.dataset import DatasetOptions
from usb_active.errors import UsageError
from usb_active.loop.initial_weights import classifier_keys, load_backbone
from usb_active.loop.setup import build_parts
from usb_active.usb.networks import SmallCNN, small_cnn, usb_network
from usb_active.usb.paper_networks import cnn13

CPU = torch.device("cpu")
SMALL = {"epochs": 3, "clusters": 6, "batch_size": 16, "lr": 0.1}


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


def plugin(**config):
    made = DeepCluster(DeepCluster.Config(**{**SMALL, **config}))
    made.name = "deepcluster"
    return made


def pretrain(scratch, dataset=None, build=tiny, seed=0, **config):
    scratch.mkdir(exist_ok=True)
    torch.set_num_threads(1)
    return plugin(**config).run(build, dataset or FewDigits(), scratch, np.random.default_rng(seed), CPU).backbone


def lines(scratch):
    return [json.loads(line) for line in (scratch / "deepcluster.jsonl").read_text().splitlines()]


def kept(scratch):
    return torch.load(scratch / "deepcluster.pth", weights_only=True)


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


# --------------------------------------------------------------------------------------------------- what an epoch is


def test_an_epoch_clusters_the_pool_in_order_and_trains_on_clusters_evenly(tmp_path):
    dataset = FewDigits(50)
    pretrain(tmp_path, dataset, epochs=1)
    assert dataset.loaded[:50] == list(range(50)) and len(dataset.loaded) == 100
    assignment = kept(tmp_path)["assignment"].numpy()
    assert assignment.shape == (50,) and len(np.unique(assignment)) == 6
    # 50 draws of 6 clusters: 8 or 9 of each, though the clusters are of different sizes.
    assert sorted(Counter(assignment[dataset.loaded[50:]].tolist()).values()) == [8, 8, 8, 8, 9, 9]
    assert len(set(np.bincount(assignment).tolist())) > 1


def test_features_are_clustered_in_the_eval_view_and_trained_on_in_the_weak_one(tmp_path):
    dataset, asked = FewDigits(50), []
    views = dataset.views

    class Listening:
        def weak(self, sample):
            asked.append("weak")
            return views.weak(sample)

        def eval(self, sample):
            asked.append("eval")
            return views.eval(sample)

    dataset.views = Listening()
    pretrain(tmp_path, dataset, epochs=2)
    assert asked == (["eval"] * 50 + ["weak"] * 50) * 2


@pytest.mark.parametrize("size, batches", [(50, [13, 13, 12, 12]), (33, [11, 11, 11]), (16, [16]), (17, [9, 8])])
def test_every_epoch_has_a_new_head_and_batches_of_equal_size(tmp_path, size, batches):
    heads, sizes, epochs = [], [], 2

    def look(module, args):
        if isinstance(module, nn.Linear) and module.out_features == 6:
            heads.append((id(module), module.weight.detach().clone(), module.bias.detach().clone()))
            sizes.append(len(args[0]))

    handle = nn.modules.module.register_module_forward_pre_hook(look)
    try:
        pretrain(tmp_path, FewDigits(size), epochs=epochs)
    finally:
        handle.remove()
    assert sizes == batches * epochs
    firsts = heads[:: len(batches)]
    for _, weight, bias in firsts:
        # 6 · 16 draws of N(0, 0.01²).
        assert weight.std() == pytest.approx(0.01, rel=0.3) and (bias == 0).all()
    assert not torch.equal(firsts[0][1], firsts[1][1])
    if len(batches) > 1:
        assert not torch.equal(heads[0][1], heads[1][1]) and (heads[1][2] != 0).any()


def test_a_rate_of_next_to_nothing_changes_nothing_and_the_loss_is_that_of_guessing(tmp_path):
    backbone, fresh = pretrain(tmp_path, lr=1e-12, momentum=0, weight_decay=0), tiny().state_dict()
    for name, value in backbone.items():
        if "running" not in name and "num_batches" not in name:
            torch.testing.assert_close(value, fresh[name], rtol=0, atol=1e-7)
    # Six classes and logits of about 0.01: −log(1/6).
    assert all(line["loss"] == pytest.approx(log(6), abs=0.03) for line in lines(tmp_path))


def test_the_weight_decay_is_that_of_sgd(tmp_path):
    # One batch is one step, w − lr·(g + decay·w), with the same gradient g.
    plain, decayed = (pretrain(tmp_path / str(decay), epochs=1, batch_size=64, weight_decay=decay) for decay in (0, 0.5))
    fresh = tiny().state_dict()
    for name in ("stem.conv.weight", "blocks.1.bn.weight"):
        torch.testing.assert_close(decayed[name], plain[name] - 0.1 * 0.5 * fresh[name])


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


def test_the_log_says_what_became_of_the_clusters(tmp_path, caplog):
    with caplog.at_level(logging.INFO, "usb_active"):
        pretrain(tmp_path, epochs=12)
    found = lines(tmp_path)
    assert [line["epoch"] for line in found] == list(range(1, 13))
    assert (found[0]["nmi"], found[0]["kept"]) == (None, None)
    assert all(0 <= line["nmi"] <= 1 and 1 / 6 <= line["kept"] <= 1 and line["clusters"] + line["empty"] == 6 for line in found[1:])
    assert [record.message.partition(":")[2].split()[1] for record in caplog.records] == ["1", "10", "12"]


def test_nmi_and_kept_compare_with_the_clustering_before(tmp_path):
    assignments = []
    for epochs in (1, 2, 3):
        pretrain(tmp_path / str(epochs), epochs=epochs)
        assignments.append(kept(tmp_path / str(epochs))["assignment"].numpy())
    for before, after, line in zip(assignments, assignments[1:], lines(tmp_path / "3")[1:], strict=False):
        assert (line["nmi"], line["kept"]) == agreement(before, after)


@pytest.mark.parametrize(
    "config", [{"pca": False}, {"whiten": False}, {"pca": False, "whiten": False}, {"pca_dim": 3}, {"iterations": 1}, {"clusters": 4}]
)
def test_every_key_of_the_clustering_counts(tmp_path, config):
    pretrain(tmp_path / "usual", FewDigits(200), epochs=1)
    pretrain(tmp_path / "other", FewDigits(200), epochs=1, **config)
    one, other = (kept(tmp_path / name)["assignment"].numpy() for name in ("usual", "other"))
    # Without `pca`, whitening takes all 16 components; so does `pca` here, which has no more to take.
    same = config == {"pca": False}
    assert (agreement(one, other)[1] == 1) == same


def test_empty_clusters_are_counted_and_neither_drawn_nor_an_output(tmp_path):
    dataset = FewDigits(30)
    dataset._images = dataset._images[np.arange(1343) % 3]
    pretrain(tmp_path, dataset)
    assert [(line["clusters"], line["empty"]) for line in lines(tmp_path)] == [(3, 3)] * 3


@pytest.mark.slow
def test_clusters_are_learned_and_approach_the_classes(tmp_path):
    def wide():
        torch.manual_seed(1)
        return small_cnn(10, 8, 1, width=12)

    dataset = FewDigits(500)
    pretrain(tmp_path / "one", FewDigits(500), wide, epochs=1, clusters=30)
    pretrain(tmp_path / "many", dataset, wide, epochs=10, clusters=30)
    before, after = (agreement(kept(tmp_path / name)["assignment"].numpy(), dataset.targets)[0] for name in ("one", "many"))
    losses = [line["loss"] for line in lines(tmp_path / "many")]
    # Of three seeds: 0.50 to 0.56 before, 0.64 to 0.69 after, and a last loss of 2.3 to 2.5; log(30) = 3.4 is guessing.
    assert after > before + 0.05
    assert losses[-1] < 2.9


# ------------------------------------------------------------------------------------------------------------ resume


def grey13():
    torch.manual_seed(1)
    return cnn13(10, 12, 1, width=4)


CASES = {"small_cnn": (tiny, {}), "cnn13": (grey13, {"img_size": 12})}


@pytest.mark.parametrize("case", CASES)
def test_stopped_anywhere_it_ends_with_the_same_bits(tmp_path, case):
    build, options = CASES[case]
    whole = pretrain(tmp_path / "whole", FewDigits(**options), build)
    # An epoch loads each of the 50 images twice: 20 and 150 are in a clustering and a training, 50 between the two, and
    # 100, 200 between one epoch's checkpoint and the next epoch; 299 is the last image of all.
    for before in (20, 50, 100, 150, 200, 299):
        scratch = tmp_path / f"stopped {before}"
        with pytest.raises(Stopped):
            pretrain(scratch, FewDigits(act=stop, before=before, **options), build)
        torch.rand(before), np.random.rand(before)
        rest = FewDigits(**options)
        assert equal(pretrain(scratch, rest, build), whole), before
        assert (scratch / "deepcluster.jsonl").read_bytes() == (tmp_path / "whole" / "deepcluster.jsonl").read_bytes()
        # Whole epochs are not repeated.
        assert len(rest.loaded) == 300 - 100 * (before // 100)


def test_stopped_at_every_epoch_of_several_runs(tmp_path):
    whole = pretrain(tmp_path / "whole")
    for _ in range(2):
        with pytest.raises(Stopped):
            pretrain(tmp_path / "stopped", FewDigits(act=stop, before=100))
    last = FewDigits()
    assert equal(pretrain(tmp_path / "stopped", last), whole) and len(last.loaded) == 100
    again = FewDigits()
    assert equal(pretrain(tmp_path / "stopped", again), whole) and again.loaded == []


def test_an_epoch_whose_checkpoint_was_not_written_is_repeated(tmp_path):
    whole = pretrain(tmp_path / "whole")
    path = tmp_path / "stopped" / "deepcluster.pth"

    def block():
        path.rename(tmp_path / "first.pth")
        (path / "full").mkdir(parents=True)

    # In the second epoch something takes the checkpoint's place: its line is written, its state is not.
    with pytest.raises(UsageError, match=f"cannot write {path}"):
        pretrain(tmp_path / "stopped", FewDigits(act=block, before=120))
    assert len(lines(tmp_path / "stopped")) == 2
    (path / "full").rmdir()
    path.rmdir()
    (tmp_path / "first.pth").rename(path)
    assert equal(pretrain(tmp_path / "stopped"), whole)
    assert lines(tmp_path / "stopped") == lines(tmp_path / "whole")


def test_processes_that_load_images_change_nothing(tmp_path):
    one = pretrain(tmp_path / "one", epochs=1)
    assert equal(one, pretrain(tmp_path / "two", epochs=1, num_workers=2))


def test_a_run_may_resume_with_another_number_of_processes(tmp_path):
    one = pretrain(tmp_path)
    assert equal(pretrain(tmp_path, num_workers=1), one)


def test_what_was_begun_otherwise_is_refused(tmp_path):
    pretrain(tmp_path)
    path = tmp_path / "deepcluster.pth"
    for change, said in (({"lr": 0.2}, "lr: 0.1, now 0.2"), ({"epochs": 4}, "epochs: 3, now 4"), ({"seed": 1}, "seed: ")):
        with pytest.raises(UsageError, match=f"was begun with {said}") as error:
            pretrain(tmp_path, **change)
        assert str(path) in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(UsageError, match="number of samples: 50, now 49"):
        pretrain(tmp_path, FewDigits(49))
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UsageError, match="is damaged .*remove it to repeat the pretraining"):
        pretrain(tmp_path)


# ----------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    "config",
    [
        {"epochs": 0}, {"clusters": 1}, {"clusters_per_class": 0}, {"lr": 0}, {"lr": float("inf")}, {"momentum": 1.0}, {"weight_decay": -1},
        {"batch_size": 1}, {"pca_dim": 0}, {"iterations": 0}, {"num_workers": -1}, {"cluster": 5}, {"pca": "maybe"},
        {"pca": False, "pca_dim": 4}, {"clusters": 5, "clusters_per_class": 5},
    ],
)  # fmt: skip
def test_bad_keys_are_refused(config):
    with pytest.raises(ValidationError):
        DeepCluster.Config(**config)


def test_a_bad_key_is_named_before_anything_runs(tmp_path):
    with pytest.raises(UsageError, match="momentum") as error:
        build_parts(config_of(settings(tmp_path, active={"pretrain": {"name": "deepcluster", "momentum": 2}})))
    assert "\n" not in str(error.value)


def test_the_defaults_are_those_of_the_sources():
    config = DeepCluster.Config()
    assert (config.epochs, config.clusters_per_class, config.lr, config.batch_size) == (250, 5, 0.02, 128)
    assert (config.momentum, config.weight_decay, config.pca, config.whiten, config.iterations) == (0.9, 1e-5, True, True, 20)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"clusters": 51}, "51 clusters; must be 2 to the 50 samples of the pool"),
        ({"clusters": None, "clusters_per_class": 6}, r"60 clusters \(clusters_per_class: 6, 10 classes\); must be 2 to the 50 samples"),
        ({"pca_dim": 17}, "epoch 1: pca_dim: 17; the network has 16 features"),
        ({"lr": 1e30}, "epoch 1: the loss is (nan|inf); a smaller lr than 1e[+]30 may help|not finite for samples"),
    ],
)
def test_what_does_not_fit_the_pool_or_the_network_is_refused_in_one_line(tmp_path, config, message):
    with pytest.raises(UsageError, match=message) as error:
        pretrain(tmp_path, **config)
    assert "\n" not in str(error.value)


def test_as_many_clusters_as_samples_is_possible(tmp_path):
    pretrain(tmp_path, FewDigits(20), epochs=1, clusters=20)
    assert lines(tmp_path)[0]["clusters"] == 20


class Poisoned(SmallCNN):
    """Its features of bright images are not finite."""

    def forward(self, x, only_fc=False, only_feat=False):
        out = super().forward(x, only_fc, only_feat)
        if isinstance(out, dict):
            out["feat"][x.mean(dim=(1, 2, 3)) > 0.12] = torch.nan
        return out


def test_features_that_are_not_finite_name_their_samples(tmp_path):
    dataset = FewDigits()
    bright = [i for i in range(50) if dataset.views.eval(dataset.load(i)).mean() > 0.12]
    assert 0 < len(bright) <= 5
    said = f"pretrain: 'deepcluster': epoch 1: features of the model are not finite for samples {', '.join(map(str, bright))};"
    with pytest.raises(UsageError, match=said):
        pretrain(tmp_path, dataset, lambda: Poisoned(10, 1, 4), batch_size=64)


@pytest.mark.parametrize(
    ("config", "message"), [({}, "all rows are the same"), ({"pca": False, "whiten": False}, "all samples are in one cluster")]
)
def test_samples_that_do_not_differ_are_an_error(tmp_path, config, message):
    dataset = FewDigits(30)
    dataset._images = dataset._images[[0] * 30]
    with pytest.raises(UsageError, match=f"pretrain: 'deepcluster': epoch 1: .*{message}"):
        pretrain(tmp_path, dataset, **config)


# ------------------------------------------------------------------------------------------------------------ networks


@pytest.mark.parametrize("name, size", [("wrn_28_2", 8), pytest.param("vit_tiny_patch2_32", 32, marks=pytest.mark.slow)])
def test_the_backbone_of_usbs_networks_starts_another(tmp_path, name, size):
    def build(classes=10):
        torch.manual_seed(classes)
        return usb_network(name)(classes, size, 3)

    backbone = pretrain(tmp_path, FewDigits(12, in_channels=3, img_size=size), build, epochs=1, clusters=3, batch_size=6, lr=0.01)
    keys = classifier_keys(build)
    net = build(7)
    load_backbone(net, backbone, keys)
    trained = [key for key, value in build().named_parameters() if key not in keys and not torch.equal(value, backbone[key])]
    assert len(trained) > len(backbone) / 4
    assert all(torch.equal(value, backbone[key]) for key, value in net.state_dict().items() if key not in keys)


# --------------------------------------------------------------------------------------------------------------- runs

PRETRAIN = {"name": "deepcluster", "epochs": 2, "clusters": 20, "batch_size": 256}


def test_every_cycle_starts_from_it_and_its_features_serve_the_initial_query(tmp_path):
    active = {"pretrain": PRETRAIN, "initial": {"name": "kmeanspp", "size": 20, "features": "pretrain"}}
    session = train(settings(tmp_path, active=active)).session
    scratch = tmp_path / "run" / "pretrain" / "scratch"
    start = session.weights.build().state_dict()
    made = kept(scratch)["net"]
    assert all(torch.equal(value, made[name]) for name, value in start.items())
    assert len(lines(scratch)) == 2 and len(labels_of(tmp_path / "run")) == 31
    assert np.load(tmp_path / "run" / "pretrain" / "backbone_features_1343.npy").shape == (1343, 16)


FATAL = '''
"""Digits that kill their process before a certain image is loaded, once: while a file is there."""

import os
import signal
from pathlib import Path

from usb_active import register_plugin
from usb_active.builtin.array_datasets import ArrayConfig, ArrayDataset, Digits


@register_plugin("dataset", "fatal_digits")
class FatalDigits(Digits):
    class Config(Digits.Config):
        marker: Path
        before: int

    loaded = 0

    def load(self, index):
        if self.loaded == self.config.before and self.config.marker.exists():
            self.config.marker.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        self.loaded += 1
        return super().load(index)
'''


@pytest.mark.slow
def test_a_killed_run_ends_as_one_that_was_not(tmp_path):
    (tmp_path / "fatal.py").write_text(FATAL)
    marker = tmp_path / "marker"
    # 1,343 images, twice an epoch: 4,000 is in the training of the second.
    dataset = {"name": "fatal_digits", "marker": str(marker), "before": 4000}
    runs = {name: settings(tmp_path, name, active={"pretrain": PRETRAIN}, dataset=dataset, plugins=[str(tmp_path / "fatal.py")])
            for name in ("whole", "killed")}  # fmt: skip
    assert killer.run(runs["whole"]).code == 0
    marker.touch()
    assert killer.run(runs["killed"]).code == killer.KILLED
    assert len(lines(tmp_path / "killed" / "pretrain" / "scratch")) == 1
    assert killer.run(runs["killed"]).code == 0
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert labels_of(whole) == labels_of(killed)
    assert weights_equal(checkpoint(whole, 1), checkpoint(killed, 1))
    assert lines(whole / "pretrain" / "scratch") == lines(killed / "pretrain" / "scratch")
