"""Pretraining: made once per run, checked before it is kept, loaded at every cycle's start; and finding a network's classifier."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from run_comparison import compare
from run_helpers import checkpoint, labels_of, settings, train, weights_equal
from torch import nn

from usb_active import Acquisition, Pretrained, Pretrainer, UsageError, register_plugin
from usb_active.config.shared_pretraining import VARIABLE
from usb_active.loop.initial_weights import classifier_keys, load_backbone, run_once
from usb_active.randomness import seed_globals
from usb_active.report.groups import group_runs
from usb_active.report.runs import read_runs
from usb_active.testing.pool import World
from usb_active.usb.networks import small_cnn, usb_network

CLASSIFIERS = {"vit_tiny_patch2_32": ("head.weight", "head.bias")}
HEAD = {"classifier.weight", "classifier.bias"}


class Stopped(Exception):
    """What a test raises to end a run where it stands."""


# What the plugins below are told by a test, and what they tell it.
STAGE = SimpleNamespace()


@pytest.fixture(autouse=True)
def stage():
    STAGE.__dict__.update(starts={}, epochs=[], stop_epoch=None, stop_step=None, seen={})


@register_plugin("acquisition", "start_watcher")
class StartWatcher(Acquisition):
    """Picks at random; keeps the weights with which each cycle starts, and ends the process where it is told to."""

    def setup(self, info):
        STAGE.starts[info.cycle] = copy.deepcopy(info.net.state_dict())

    def after_train_step(self, algorithm):
        if (algorithm.session.cycle, algorithm.it) == STAGE.stop_step:
            raise Stopped

    def select(self, view, budget):
        STAGE.seen[view.cycle] = {name: sorted(state) for name, state in view.pretrained_modules.items()}
        return view.rng.permutation(view.candidates)[:budget]


@register_plugin("pretrainer", "brightness")
class Brightness(Pretrainer):
    """Learns how bright an image is, in four epochs, one file of scratch for each; leaves its head and features as well."""

    def run(self, build_net, dataset, scratch, rng, device):
        net, head = build_net(), nn.Linear(16, 1)
        seed = int(rng.integers(2**31))
        for epoch in range(4):
            path = scratch / f"{epoch}.pth"
            if not path.exists():
                # Augmentation draws from the global generators: what an epoch does must not depend on those before it.
                seed_globals(seed, epoch)
                self.train(net, head, dataset, np.random.default_rng([seed, epoch]), epoch)
                torch.save([net.state_dict(), head.state_dict()], path)
            for module, state in zip((net, head), torch.load(path, weights_only=True), strict=True):
                module.load_state_dict(state)
        body = {name: value for name, value in net.state_dict().items() if name not in HEAD}
        return Pretrained(body, {"head": head.state_dict()}, self.features(net, dataset))

    def train(self, net, head, dataset, rng, epoch):
        if epoch == STAGE.stop_epoch:
            raise Stopped
        STAGE.epochs.append(epoch)
        images = torch.stack([dataset.views.weak(dataset.load(int(i))) for i in rng.permutation(len(dataset))[:64]])
        optimizer = torch.optim.SGD([*net.train().parameters(), *head.parameters()], lr=0.01)
        loss = (head(net(images, only_feat=True))[:, 0] - images.mean(dim=(1, 2, 3))).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    @torch.no_grad()
    def features(self, net, dataset):
        images = torch.stack([dataset.views.eval(dataset.load(i)) for i in range(len(dataset))])
        return net.eval()(images, only_feat=True).numpy()


# ------------------------------------------------------------------------------------------------- once per run


class Given(Pretrainer):
    """Returns what it was made with, and counts how often it is asked."""

    name = "given"

    def __init__(self, result):
        super().__init__()
        self.result, self.calls = result, 0

    def run(self, build_net, dataset, scratch, rng, device):
        self.calls += 1
        np.random.rand(), torch.rand(1)
        return self.result


def net():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return small_cnn(3, 8, 1, width=2)


def made(tmp_path, result, pretrainer=None):
    dataset = World(tmp_path / "world").dataset
    return run_once(pretrainer or Given(result), net, lambda: tuple(HEAD), dataset, tmp_path / "pretrain", 0, torch.device("cpu"))


def body(**changes):
    return {**{name: value + 1 for name, value in net().state_dict().items() if name not in HEAD}, **changes}


def test_what_was_made_is_kept_and_never_made_again(tmp_path):
    result = Pretrained(body(), {"head": {"w": torch.ones(2), "step": 3}}, np.arange(120.0).reshape(60, 2))
    pretrainer = Given(result)
    python = torch.get_rng_state()
    for _ in range(2):
        found = made(tmp_path, result, pretrainer)
        assert all(torch.equal(found.backbone[name], value) for name, value in result.backbone.items())
        assert found.modules["head"]["step"] == 3 and torch.equal(found.modules["head"]["w"], torch.ones(2))
        assert found.features.dtype == np.float32 and np.array_equal(found.features, result.features)
    assert pretrainer.calls == 1
    assert torch.equal(torch.get_rng_state(), python)


def test_any_part_may_be_missing(tmp_path):
    assert made(tmp_path, Pretrained()) == Pretrained(None, {}, None)


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (None, "pretrain: 'given': run must return a Pretrained, got NoneType"),
        (Pretrained(features=np.zeros((59, 2))), r"pretrain: 'given': expected features of shape \(60, D\), got \(59, 2\)"),
        (Pretrained(features=np.zeros(60)), r"got \(60,\)"),
        (Pretrained(features=np.where(np.arange(60)[:, None] == 7, np.nan, 1.0)), "pretrain: 'given': features: not finite for samples 7$"),
        (Pretrained({"stem.conv.weight": torch.zeros(2, 1, 3, 3)}), "the backbone lacks blocks.*; it must fit the network"),
        (Pretrained(body(extra=torch.zeros(1))), "the backbone has, and the network not, extra"),
        (Pretrained({**body(), "stem.conv.weight": torch.zeros(9, 1, 3, 3)}), "the backbone has another shape of stem.conv.weight"),
        (Pretrained(modules={"head": {"module": nn.Linear(1, 1)}}), "checkpoint.modules.head.module is a torch.nn.modules.linear.Linear"),
    ],
)
def test_what_cannot_be_used_is_refused_and_not_kept(tmp_path, result, message):
    with pytest.raises(UsageError, match=message) as error:
        made(tmp_path, result)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "pretrain" / "pretrained.pth").exists()


def test_a_backbone_leaves_the_classifier_alone():
    fresh = net()
    before = copy.deepcopy(fresh.state_dict())
    load_backbone(fresh, body(**{"classifier.weight": torch.zeros(99, 8)}), HEAD)
    for name, value in fresh.state_dict().items():
        assert torch.equal(value, before[name] if name in HEAD else before[name] + 1), name


# ------------------------------------------------------------------------------------------------- in a run


def run(tmp_path, name, pretrain, **active):
    return train(settings(tmp_path, name, active={"acquisition": "start_watcher", "pretrain": pretrain, **active}))


def test_weights_of_a_checkpoint_start_every_cycle_with_a_fresh_classifier(tmp_path):
    train(settings(tmp_path, "source", active={"cycles": 0}))
    given = checkpoint(tmp_path / "source", 0)["ema_model"]
    plain = train(settings(tmp_path, "plain", active={"acquisition": "start_watcher"})).session.weights.build().state_dict()
    assert all(torch.equal(value, plain[name]) for name, value in STAGE.starts[1].items())
    path = tmp_path / "source" / "cycle_000" / "latest_model.pth"
    run(tmp_path, "run", {"name": "file", "path": str(path)})
    for cycle in (0, 1):
        for name, value in STAGE.starts[cycle].items():
            # The classifier is the one that a run without pretraining starts with.
            assert torch.equal(value, plain[name] if name in HEAD else given[name]), (cycle, name)
    assert not torch.equal(given["classifier.weight"], plain["classifier.weight"])


def test_what_one_run_has_pretrained_starts_another(tmp_path):
    torch.save(small_cnn(7, 8, 1, width=4).state_dict(), tmp_path / "weights.pth")
    first = run(tmp_path, "first", {"name": "file", "path": str(tmp_path / "weights.pth")}).session
    kept = tmp_path / "first" / "pretrain" / "pretrained.pth"
    second = run(tmp_path, "second", {"name": "file", "path": str(kept)}).session
    one, other = first.weights.build().state_dict(), second.weights.build().state_dict()
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_weights_of_another_network_are_refused_before_anyone_is_asked(tmp_path):
    torch.save(small_cnn(10, 8, 1, width=5).state_dict(), tmp_path / "other.pth")
    with pytest.raises(UsageError, match="the backbone has another shape of blocks.0.bn.bias, .*it must fit the network `net`"):
        run(tmp_path, "run", {"name": "file", "path": str(tmp_path / "other.pth")})
    assert not list((tmp_path / "run" / "queries").glob("*.json"))


def same_end(one, other, cycles=(1,)):
    return labels_of(one) == labels_of(other) and all(weights_equal(checkpoint(one, c), checkpoint(other, c)) for c in cycles)


def test_the_initial_query_may_use_pretrained_features_and_the_run_resumes(tmp_path):
    torch.save(small_cnn(7, 8, 1, width=4).state_dict(), tmp_path / "weights.pth")
    pretrain = {"name": "file", "path": str(tmp_path / "weights.pth")}
    active = {"initial": {"name": "kmeanspp", "size": 20, "features": "pretrain"}}
    whole = run(tmp_path, "whole", pretrain, **active).session
    labelled = labels_of(tmp_path / "whole")
    assert [row[5] for row in labelled[1:]] == ["kmeanspp"] * 20 + ["start_watcher"] * 10
    # The features are the backbone's, on the eval views of the pool.
    features = np.load(tmp_path / "whole" / "pretrain" / f"backbone_features_{len(whole.dataset)}.npy")
    images = torch.stack([whole.dataset.views.eval(whole.dataset.load(i)) for i in range(30)])
    with torch.no_grad():
        expected = whole.weights.build().eval()(images, only_feat=True).numpy()
    np.testing.assert_allclose(features[:30], expected, rtol=1e-4, atol=1e-5)
    for number, step in enumerate([(0, 7), (1, 2), (1, 9)]):
        name = f"stopped{number}"
        STAGE.stop_step = step
        with pytest.raises(Stopped):
            run(tmp_path, name, pretrain, **active)
        STAGE.stop_step = None
        run(tmp_path, name, pretrain, **active)
        assert same_end(tmp_path / name, tmp_path / "whole"), step


def test_pretraining_that_stops_halfway_resumes_where_it_was(tmp_path):
    active = {"initial": {"name": "kmeanspp", "size": 20, "features": "pretrain"}}
    whole = run(tmp_path, "whole", "brightness", **active).session
    assert STAGE.epochs == [0, 1, 2, 3]
    assert STAGE.seen[1] == {"head": ["bias", "weight"]}
    STAGE.epochs.clear()
    for STAGE.stop_epoch in (1, 3):
        with pytest.raises(Stopped):
            run(tmp_path, "stopped", "brightness", **active)
    STAGE.stop_epoch = None
    run(tmp_path, "stopped", "brightness", **active)
    assert STAGE.epochs == [0, 1, 2, 3]
    assert same_end(tmp_path / "stopped", tmp_path / "whole")
    # Once per run: given again, the finished run makes nothing.
    run(tmp_path, "stopped", "brightness", **active)
    assert STAGE.epochs == [0, 1, 2, 3]
    kept = torch.load(tmp_path / "whole" / "pretrain" / "pretrained.pth", weights_only=True)["backbone"]
    start = whole.weights.build().state_dict()
    assert all(torch.equal(start[name], value) for name, value in kept.items()) and set(start) - set(kept) == HEAD


def test_the_seed_decides_what_pretraining_gives(tmp_path):
    weights = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(settings(tmp_path, name, active={"pretrain": "brightness", "cycles": 0}, seed=seed))
        weights.append(torch.load(tmp_path / name / "pretrain" / "pretrained.pth", weights_only=True)["backbone"]["stem.conv.weight"])
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


# ------------------------------------------------------------------------------------------------- the classifier


@pytest.mark.parametrize("name, size", [("wrn_28_2", 32), ("vit_tiny_patch2_32", 32)])
def test_classifier_keys_of_usbs_networks(name, size):
    keys = classifier_keys(lambda num_classes: usb_network(name)(num_classes, size, 3))
    assert keys == CLASSIFIERS.get(name, ("classifier.weight", "classifier.bias"))


class NormedHead(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.body = nn.Linear(4, 4)
        self.head = nn.Linear(4, num_classes)
        self.head.register_buffer("scale", torch.ones(()))


class PerClassHeads(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.body = nn.Linear(4, 4)
        self.heads = nn.ModuleList(nn.Linear(4, 1) for _ in range(num_classes))


class BareWeight(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(num_classes, 4))
        self.other = nn.Parameter(torch.zeros(4))


def test_classifier_keys_include_siblings_of_the_same_module_only():
    assert classifier_keys(small_cnn) == ("classifier.weight", "classifier.bias")
    assert classifier_keys(NormedHead) == ("head.weight", "head.bias", "head.scale")
    assert classifier_keys(BareWeight) == ("weight",)


def test_classifier_keys_leave_the_global_generator_alone_and_need_a_classifier():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    classifier_keys(small_cnn)
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(UsageError, match="no classifier"):
        classifier_keys(lambda num_classes: nn.Linear(2, 2))
    with pytest.raises(UsageError, match="'heads.3.bias' is there for 3 or for 5 classes only"):
        classifier_keys(PerClassHeads)


# ------------------------------------------------------------------------------------------------- handed over


@pytest.mark.slow
def test_a_pretraining_that_is_handed_over_is_the_one_that_would_be_made(tmp_path, monkeypatch):
    def run(name, acquisition):
        active = {"pretrain": "brightness", "acquisition": acquisition, "features": "pretrain"}
        train(settings(tmp_path, name, active=active))
        return tmp_path / name

    donor, alone = run("donor", "random"), run("alone", "coreset")
    assert STAGE.epochs == [0, 1, 2, 3] * 2
    monkeypatch.setenv(VARIABLE, str(donor))
    handed = run("handed", "coreset")
    assert STAGE.epochs == [0, 1, 2, 3] * 2, "made by the donor alone"
    assert compare(handed, alone).differences == [f"pretrain/scratch/{epoch}.pth: missing" for epoch in range(4)]
    # For a report they are runs of one method.
    records, _ = read_runs([donor, alone, handed])
    assert [[run.path for run in group.runs] for group in group_runs(records)] == [[alone, handed], [donor]]
    # Of another pool it is not taken.
    (donor / "keys.txt").write_text('"other"\n')
    other = run("other", "coreset")
    assert STAGE.epochs == [0, 1, 2, 3] * 3 and compare(other, alone).differences == []
