"""Every check of a pretrainer's suite fails for a pretrainer that breaks its rule, and for that rule alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from broken_plugins import Broken, UnderAnotherName, assert_complete, assert_fails, failing, suite_for

from usb_active.contracts.pretrainer import Pretrained, Pretrainer
from usb_active.storage.checkpoint import read_checkpoint, write_checkpoint
from usb_active.testing import PretrainerContract


class Sound(Pretrainer):
    """Three epochs, each of which adds an image's mean to the first weights; a checkpoint after each."""

    def run(self, build_net, dataset, scratch, rng, device):
        kept = scratch / "kept.pth"
        state = read_checkpoint(kept) if kept.exists() else {"epoch": 0, "sum": self.start(rng)}
        while state["epoch"] < 3:
            means = [self.mean(dataset, index) for index in range(len(dataset))]
            state = {"epoch": state["epoch"] + 1, "sum": state["sum"] + sum(means)}
            self.keep(kept, state)
        return self.result(build_net(), dataset, state["sum"])

    def start(self, rng):
        return float(rng.normal())

    def mean(self, dataset, index):
        return float(dataset.load(index).mean()) / 1000

    def keep(self, path, state):
        write_checkpoint(path, state)

    def result(self, net, dataset, total):
        weights = net.state_dict()
        name = next(iter(weights))
        return Pretrained({**weights, name: weights[name] + total}, features=np.full((len(dataset), 2), total, np.float32))


class Misnamed(UnderAnotherName, Sound):
    pass


class Nothing(Sound):
    def result(self, net, dataset, total):
        return Pretrained()


class Foreign(Sound):
    def result(self, net, dataset, total):
        return Pretrained({"unheard_of.weight": torch.zeros(2)})


class Diverged(Sound):
    def result(self, net, dataset, total):
        return Pretrained({name: value * float("nan") for name, value in net.state_dict().items()})


class Halves(Sound):
    def result(self, net, dataset, total):
        return Pretrained(features=super().result(net, dataset, total).features[::2])


class Unseeded(Sound):
    def start(self, rng):
        return float(np.random.default_rng().normal())


class Forgetful(Sound):
    """Keeps nothing, and so begins from the start."""

    def keep(self, path, state):
        pass


class Historical(Sound):
    """Draws from a generator whose state is not kept."""

    def mean(self, dataset, index):
        return super().mean(dataset, index) + float(torch.rand(1))


class Peeking(Sound):
    def mean(self, dataset, index):
        return super().mean(dataset, index) * float(1 + index * dataset.targets[index])


class Centring(Sound):
    def result(self, net, dataset, total):
        dataset.images[...] //= 2
        return super().result(net, dataset, total)


class Writing(Sound):
    def keep(self, path, state):
        super().keep(path, state)
        Path("log.txt").write_text(str(state["epoch"]))


class Unkept(Sound):
    """A result of another type."""

    def result(self, net, dataset, total):
        return super().result(net, dataset, total).__dict__


KILLED = "test_killed_in_the_middle_it_resumes"
BROKEN = [
    Broken("test_it_is_registered", Misnamed),
    Broken("test_it_leaves_something", Nothing),
    Broken("test_it_leaves_something", Unkept, also=[name for name in dir(PretrainerContract) if name.startswith("test_")]),
    Broken("test_weights_fit_the_network", Foreign),
    Broken(
        "test_weights_fit_the_network", Diverged,
        also=[KILLED, "test_the_same_seed_gives_the_same_result", "test_labels_do_not_matter"],
    ),
    Broken("test_features_are_finite_rows", Halves),
    Broken("test_the_same_seed_gives_the_same_result", Unseeded, also=[KILLED, "test_labels_do_not_matter"]),
    Broken("test_killed_in_the_middle_it_resumes", Forgetful),
    Broken("test_killed_in_the_middle_it_resumes", Historical),
    Broken("test_labels_do_not_matter", Peeking),
    Broken("test_the_pool_is_unchanged", Centring),
    Broken("test_it_writes_into_its_folder_alone", Writing),
]  # fmt: skip


@pytest.fixture(autouse=True)
def somewhere(tmp_path_factory, monkeypatch):
    """What a broken one writes into the working directory stays there."""
    monkeypatch.chdir(tmp_path_factory.mktemp("cwd"))


def test_every_check_has_a_pretrainer_that_fails_it():
    assert_complete(PretrainerContract, BROKEN)


@pytest.mark.parametrize("one", BROKEN, ids=lambda one: one.id)
def test_a_broken_pretrainer_fails_its_check(one, tmp_path):
    assert_fails(PretrainerContract, one, tmp_path)


def test_a_sound_pretrainer_passes(tmp_path):
    assert not failing(suite_for(PretrainerContract, Sound, {}), tmp_path)
