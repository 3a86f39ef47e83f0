"""Acquisition `assal` with `beside: true`: its contract, what it learns from, what it says, and a `select` that is broken off."""

from __future__ import annotations

import copy
import json
import logging
from dataclasses import replace

import numpy as np
import pytest
import run_helpers
import torch
from sampler_runs import checkpoints_of_one_broken_off
from usb_active.plugins.assal.acquisitions import AssalSampling
from usb_active.plugins.assal.adversaries import Pair
from usb_active.plugins.assal.beside import AssalPair, AssalTraining, BesideKeys
from usb_active.plugins.assal.functional import rank_average
from usb_active.plugins.assal.learning import Learners
from usb_active.plugins.assal.networks import ClassifyingVae, Discriminator

from usb_active import PoolView, UsageError
from usb_active.numerics.arrays import entropy
from usb_active.storage.checkpoint import read_checkpoint
from usb_active.testing import AcquisitionContract
from usb_active.testing.pool import World, made_images

SMALL = {"beside": True, "epochs": 2, "batch_size": 32, "latent": 3, "width": 2, "sampler_width": 8}


class OwnTraining(AcquisitionContract):
    """What holds with either score."""

    initial = False
    # The networks' first weights, the order and the views are drawn.
    deterministic = False

    def view(self, world, plugin, *, cycle=1, seed=0, role="acquisition"):
        """Of a run for each seed: a scratch folder keeps the training of one."""
        source = replace(world.source(seed), run_path=world.folder / f"seed_{seed}")
        return PoolView(source, cycle, role, frozenset(plugin.needs), self.source())

    def trained(self, world):
        plugin = self.plugin(world)
        view = self.view(world, plugin)
        training = AssalTraining("assal", plugin.config, view)
        training.train(view.scratch)
        return training, view

    def test_before_any_label_it_says_what_to_begin_with(self, tmp_path):
        world = World(tmp_path, fresh=True)
        view = world.view(set(), cycle=0, role="initial")
        with pytest.raises(UsageError, match="'assal': no sample is labelled, .*; begin with another acquisition in `initial`"):
            self.plugin().select(view, 6)

    def test_neither_the_task_model_nor_its_weights_matter(self, world, tmp_path):
        other = World(tmp_path / "other")
        with torch.no_grad():
            other.net.classifier.weight.mul_(-1)
        assert self.pick(other, 7).tolist() == self.pick(world, 7).tolist()

    def test_labels_matter(self, world, tmp_path):
        """To its classifier, and by the code to the sampler."""
        other = World(tmp_path / "other")
        other.pool.labels[other.pool.labeled] = (other.pool.labels[other.pool.labeled] + np.array([0, 1, 0, 1, 0, 1])) % 3
        one, two = self.trained(world)[0], self.trained(other)[0]
        assert one.log[0]["labeled_loss"] != two.log[0]["labeled_loss"]

    def test_every_cycle_starts_afresh(self, world):
        plugin = self.plugin(world)
        nets = [AssalTraining("assal", plugin.config, self.view(world, plugin, cycle=cycle)).pair for cycle in (1, 2, 1)]
        first = [net.vae.encoder.maps[0][0].weight for net in nets]
        assert torch.equal(first[0], first[2]) and not torch.equal(first[0], first[1])


class TestBeside(OwnTraining):
    name = "assal"
    config = SMALL

    def test_the_lowest_are_picked(self, world, tmp_path):
        training, view = self.trained(world)
        logits, _ = training.judged(view.candidates)
        assert self.pick(World(tmp_path / "again"), 9).tolist() == view.candidates[np.argsort(logits)[:9]].tolist()

    def test_what_is_judged_is_the_mean_of_the_code_in_the_eval_view(self, world):
        training, view = self.trained(world)
        logits, entropies = training.judged(view.candidates)
        with torch.no_grad():
            mu = training.pair.vae.encode(torch.from_numpy(world.images[view.candidates])[:, None])[0]
            assert logits == pytest.approx(training.pair.discriminator(mu).numpy(), abs=1e-5)
            assert entropies == pytest.approx(entropy(training.pair.vae.classifier(mu).softmax(dim=1).numpy()), abs=1e-5)

    # -------------------------------------------------------------------------------------------- what it learns from
    def seen(self, world, plugin, epochs=1):
        """Of each epoch: (idx, images, targets) of both pools, joined over its steps."""
        view = self.view(world, plugin)
        training = AssalTraining("assal", plugin.config, view)
        found, make_batch, rows = [], training.make_batch, []

        def watched(labeled, unlabeled):
            pair = make_batch(labeled, unlabeled)
            rows.append((labeled["idx"], pair.labeled, pair.targets, unlabeled["idx"], pair.unlabeled))
            return pair

        training.make_batch = watched
        for epoch in range(epochs):
            training.epoch, rows[:] = epoch, []
            training.train_epoch()
            found.append([torch.cat(parts) for parts in zip(*rows, strict=True)])
        return found, view

    def test_both_pools_in_weak_views_that_differ_by_epoch_and_no_labelled_image_among_the_unlabelled(self, world):
        (one, two), view = self.seen(world, self.plugin(world), epochs=2)
        images = torch.from_numpy(world.images)[:, None]
        for idx_l, x_l, targets, idx_u, x_u in (one, two):
            assert sorted(idx_u.tolist()) == view.unlabeled.tolist() and set(idx_l.tolist()) == set(view.labeled.tolist())
            assert targets.tolist() == world.dataset.targets[idx_l].tolist()
            # The pool's weak view adds noise of 0.1 to every pixel: the same in both.
            spread = [(x - images[idx]).std().item() for idx, x in ((idx_l, x_l), (idx_u, x_u))]
            assert spread == pytest.approx([0.1, 0.1], rel=0.15)
        noise = [
            {number: image - images[number] for number, image in zip(idx.tolist(), x, strict=True)}
            for run in (one, two) for idx, x in ((run[0], run[1]), (run[3], run[4]))
        ]  # fmt: skip
        assert all(not torch.equal(noise[1][number], noise[3][number]) for number in noise[1])
        assert all(not torch.equal(noise[0][number], noise[2][number]) for number in noise[0])
        # Nor are the draws of one pool those of the other.
        drawn = [torch.stack(list(part.values())).flatten(1) for part in noise[:2]]
        assert torch.cdist(*drawn).min() > 0.1

    def test_the_draws_depend_on_their_position_alone(self, world, tmp_path):
        whole, _ = self.seen(world, self.plugin(world), epochs=2)
        plugin = self.plugin(world)
        training = AssalTraining("assal", plugin.config, self.view(World(tmp_path / "again"), plugin))
        training.epoch = 1
        first, (_, labeled, _, _, unlabeled) = next(training._pairs(2)), whole[1]
        assert torch.equal(first.labeled, labeled[: len(first.labeled)])
        assert torch.equal(first.unlabeled, unlabeled[: len(first.unlabeled)])

    # -------------------------------------------------------------------------------------------- broken off
    def test_broken_off_it_goes_on_and_picks_the_same_with_both_optimizers(self, world, tmp_path):
        ends = checkpoints_of_one_broken_off(self, AssalTraining, SMALL, world, World(tmp_path / "whole"))
        for part in ("optimizer", "discriminator_optimizer"):
            assert ends[0][part]["state"].keys() == ends[1][part]["state"].keys() and ends[0][part]["state"]
            for number, state in ends[0][part]["state"].items():
                # Both step once in each of the two batches of an epoch.
                assert int(state["step"]) == 8
                assert all(torch.equal(value, ends[1][part]["state"][number][name]) for name, value in state.items())
        assert ends[0]["log"] == ends[1]["log"] and [line["epoch"] for line in ends[0]["log"]] == [1, 2, 3, 4]

    def test_other_keys_in_the_same_folder_are_refused(self, world):
        self.pick(world, 7)
        with pytest.raises(UsageError, match="acquisition 'assal': .*assal.pth was begun with lambda4: 0.1, now 0.3"):
            self.pick(world, 7, self.make({**SMALL, "lambda4": 0.3}))

    # -------------------------------------------------------------------------------------------- what it says
    def test_it_is_told_of(self, world):
        plugin = self.plugin(world)
        view = self.view(world, plugin)
        plugin.select(view, 7)
        found = {name.partition("/")[2]: value for name, value in view._source.metrics.items()}
        assert set(found) == {"sampler_accuracy", "spread", "active_dims", "labeled_probability", "labeled_probability_of_picks"}
        assert 0 <= found["sampler_accuracy"] <= 1 and found["labeled_probability_of_picks"] < found["labeled_probability"]

    @pytest.mark.parametrize(("line", "said"), [
        ({"balanced_accuracy": 0.54}, "the sampler's balanced accuracy is 0.540, near chance"), ({"balanced_accuracy": 0.56}, None),
        ({"active_dims": 0.0}, "the code has collapsed"), ({"active_dims": 0.5}, None),
    ])  # fmt: skip
    def test_chance_and_collapse_are_warned_of(self, world, caplog, monkeypatch, line, said):
        train = AssalTraining.train_epoch
        fine = {"balanced_accuracy": 0.9, "active_dims": 3.0}
        monkeypatch.setattr(AssalTraining, "train_epoch", lambda training: {**train(training), **fine, **line})
        with caplog.at_level(logging.WARNING, "usb_active"):
            self.pick(world, 7)
        found = [record.getMessage() for record in caplog.records]
        assert len(found) == (said is not None) and all(f"acquisition 'assal': {said}" in text for text in found)

    def test_images_that_are_not_finite_are_named(self, tmp_path):
        images = made_images()
        images[4, 2, 2] = np.nan
        with pytest.raises(UsageError, match="acquisition 'assal': images are not finite for samples.* 4"):
            self.pick(World(tmp_path, images), 7)

    @pytest.mark.parametrize(("kind", "said"), [
        ("terms", "the term 'adversarial_loss' of lambda4 is not finite (nan)"), ("step_sampler", "the term 'sampler' is not finite (nan)"),
    ])  # fmt: skip
    def test_a_term_that_is_not_finite_is_named_with_its_step_and_what_is_kept(self, world, monkeypatch, kind, said):
        original, steps = getattr(Learners, kind), []

        def failing(learners, *given):
            steps.append(kind)
            if len(steps) == 4:
                with torch.no_grad():
                    learners.sampler.layers[-1].bias.fill_(float("nan"))
            return original(learners, *given)

        monkeypatch.setattr(Learners, kind, failing)
        # 54 unlabelled in batches of 32: two steps an epoch.
        with pytest.raises(UsageError) as caught:
            self.pick(world, 7)
        text = str(caught.value)
        assert "\n" not in text and f"acquisition 'assal': {said} in step 2 of epoch 2; a smaller lr than 0.001" in text
        assert f"the last whole epoch is in {world.folder}" in text and text.endswith("assal.pth")


class TestBesideWithEntropy(OwnTraining):
    name = "assal"
    config = {**SMALL, "score": "sampler_entropy", "entropy_weight": 0.7, "target": "pseudo_label", "threshold": 0.4}

    def test_the_mixture_is_picked_by(self, world, tmp_path):
        training, view = self.trained(world)
        scores = rank_average(*training.judged(view.candidates), 0.7)
        picks = self.pick(World(tmp_path / "again"), 9)
        others = np.setdiff1d(view.candidates, picks)
        of = dict(zip(view.candidates.tolist(), scores, strict=True))
        assert min(of[number] for number in picks) >= max(of[number] for number in others)

    def test_entropies_are_logged(self, world):
        plugin = self.plugin(world)
        view = self.view(world, plugin)
        plugin.select(view, 7)
        assert view._source.metrics["assal/entropy_of_picks"] > view._source.metrics["assal/entropy"]


# ------------------------------------------------------------------------------------------------- steps
def pair_of(**keys):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AssalPair(ClassifyingVae(3, 8, 1, 4, 4), Discriminator(4, 16), BesideKeys(lr=1e-2, sampler_lr=1e-2, **keys))


def batch():
    generator = torch.Generator().manual_seed(3)
    return Pair(torch.randn(2, 1, 8, 8, generator=generator), torch.randn(3, 1, 8, 8, generator=generator), torch.tensor([0, 2]))


def test_each_step_moves_its_own_network_alone():
    pair = pair_of()
    nets = {"vae": pair.vae, "sampler": pair.discriminator}

    def moved(step, *given):
        before = {name: copy.deepcopy(net.state_dict()) for name, net in nets.items()}
        step(batch(), *given)
        return {name for name, old in before.items() for key in old if not torch.equal(nets[name].state_dict()[key], old[key])}

    assert moved(pair.train_vae, torch.Generator().manual_seed(0)) == {"vae"}
    assert moved(pair.train_discriminator) == {"sampler"}


def test_the_step_is_that_of_the_algorithm():
    """Its terms on the same images, turns and noise, by the code that the algorithm calls."""
    found = pair_of(lambda1=0.5).train_vae(batch(), torch.Generator().manual_seed(5))
    other, given, noise = pair_of(lambda1=0.5), batch(), torch.Generator().manual_seed(5)
    turns = torch.randint(4, (3,), generator=noise)
    normal = lambda mu: torch.randn(mu.shape, generator=noise)  # noqa: E731 — closure
    terms, _, _ = other.learners.terms(given.labeled, given.targets, given.unlabeled, turns, normal)
    assert found["representation_loss"] == 0.5 * terms["lambda1"] and found["labeled_loss"] == terms["lambda2"]
    assert found["unlabeled_loss"] == terms["lambda3"] and found["adversarial_loss"] == 0.1 * terms["lambda4"]


def test_terms_without_weight_are_not_logged():
    found = pair_of(lambda1=0, lambda4=0).train_vae(batch(), torch.Generator())
    assert set(found) == {"labeled_loss", "unlabeled_loss", "kl", "spread", "active_dims"}


def test_the_keys_of_the_loss_are_those_of_the_algorithm_with_its_defaults():
    from usb_active.plugins.assal.algorithm import Assal

    theirs = {argument.name.removeprefix("--assal_"): argument.default for argument in Assal.get_argument()}
    ours = {name: field.default for name, field in BesideKeys.model_fields.items()}
    assert theirs.items() <= ours.items()
    assert ours.keys() - theirs.keys() == {"epochs", "batch_size", "lr", "latent", "width"}


# ------------------------------------------------------------------------------------------------- keys
def config(**keys):
    return AssalSampling.Config(**keys)


@pytest.mark.parametrize(
    "keys", [{"lambda4": 0.2}, {"epochs": 3}, {"latent": 4}, {"sampler_width": 4}, {"target": "pseudo_label"}, {"lr": 0.1}]
)
def test_keys_of_the_training_need_beside(keys):
    (name,) = keys
    with pytest.raises(ValueError, match=f"{name}: no effect without `beside: true`; algorithm assal has keys of its own"):
        config(**keys)
    assert getattr(config(beside=True, **keys), name) == keys[name]


@pytest.mark.parametrize(("keys", "said"), [
    ({"entropy_weight": 0.2}, "entropy_weight: no effect without `score: sampler_entropy`"),
    ({"beside": True, "threshold": 0.5}, "threshold: no effect without `target: pseudo_label`"),
    ({"epochs": 3, "lr": 0.1, "entropy_weight": 0.2}, "entropy_weight: no effect"),
    ({"epochs": 3, "lr": 0.1}, "epochs, lr: no effect without `beside: true`"),
])  # fmt: skip
def test_keys_that_would_do_nothing_are_refused(keys, said):
    with pytest.raises(ValueError, match=said):
        config(**keys)


def test_what_a_run_keeps_gives_the_same_again_and_is_empty_by_default():
    assert config().model_dump() == {}
    for keys in ({}, {"beside": True}, {"score": "sampler_entropy"}, {"beside": True, "target": "pseudo_label", "threshold": 0.5}):
        kept = config(**keys)
        assert AssalSampling.Config(**kept.model_dump()) == kept and keys.items() <= kept.model_dump().items()
    assert "threshold" not in config(beside=True).model_dump() and config(beside=True).model_dump()["epochs"] == 50


# ------------------------------------------------------------------------------------------------- in a run
ON_FEATURES = {"train_on": "features", "features": "pixels"}
KEYS = {"beside": True, "epochs": 2, "batch_size": 256, "latent": 3, "width": 2, "sampler_width": 8}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("keys", "usb"),
    [
        ({}, {"algorithm": "fixmatch"}),
        # Labelled samples in its unlabelled stream, which is no matter of the sampler's.
        ({"score": "sampler_entropy"}, {"algorithm": "flexmatch", "include_lb_to_ulb": True}),
        # The network sees vectors, and the autoencoder images.
        ({"target": "pseudo_label"}, {"algorithm": "supervised", "net": "linear", "active": ON_FEATURES}),
    ],
)
def test_in_a_run(tmp_path, keys, usb):
    active = {"acquisition": {"name": "assal", **KEYS, **keys}, **usb.get("active", {})}
    rest = {key: value for key, value in usb.items() if key != "active"}
    algorithm = run_helpers.train(run_helpers.settings(tmp_path, active=active, **rest))
    assert len(algorithm.session.run_dir.query(1).idx) == 10
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert any("assal/sampler_accuracy" in line.get("log", {}) for line in lines)


@pytest.mark.slow
def test_a_process_that_was_killed_in_select_goes_on_after_the_last_whole_epoch(tmp_path):
    from killer import KILLED, assert_same_end, finish, run

    plugin = tmp_path / "dies.py"
    plugin.write_text(
        "import os, signal\n"
        "from usb_active.plugins.assal.beside import AssalTraining\n"
        "train = AssalTraining.train_epoch\n"
        "def train_epoch(training):\n"
        "    if os.environ.get('USB_ACTIVE_TEST_POINT') and (training.view.cycle, training.epoch) == (1, 2):\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return train(training)\n"
        "AssalTraining.train_epoch = train_epoch\n"
    )
    data = run_helpers.settings(
        tmp_path, algorithm="supervised", plugins=[str(plugin)], active={"cycles": 2, "acquisition": {"name": "assal", **KEYS, "epochs": 3}}
    )
    uninterrupted = finish({**data, "save_name": "uninterrupted"})
    assert run(data, "here").code == KILLED
    kept = tmp_path / "run" / "scratch" / "cycle_001" / "assal.pth"
    assert read_checkpoint(kept)["epoch"] == 2
    assert_same_end(finish(data), uninterrupted)


