"""The suite of an acquisition: what it picks, what it draws from, what it leaves alone."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from usb_active.contracts.acquisition import NEEDS, Acquisition, check_picks
from usb_active.errors import UsageError
from usb_active.loop.setup import check_needs
from usb_active.pool.view import PoolView
from usb_active.storage.checkpoint import read_checkpoint, write_checkpoint
from usb_active.testing.contract import Contract, copies, generators_untouched, made, refused, seed_generators, unchanged
from usb_active.testing.pool import CLASSES, PER_CLASS, World, made_images


class AcquisitionContract(Contract):
    """What the core relies on in any acquisition.

        class TestMargin(AcquisitionContract):
            name = "margin"

    Attributes for a method to set:
        name: as registered. config: its own keys in the YAML.
        features: the source of features, as in the YAML, where the method needs them and a model is there.
        deterministic: whether the picks follow from the data alone as long as no two samples are equally good.
        initial: whether it can be queried before anything is trained (with features of pixels).
    """

    kind = "acquisition"
    features: ClassVar[Any] = "model"
    deterministic: ClassVar[bool] = True
    initial: ClassVar[bool] = True

    def observed(self, plugin: Acquisition, world: World) -> None:
        """For methods that learn from training: give `plugin` what it would have seen. Does nothing here."""

    # ------------------------------------------------------------------------------------------ helpers
    def plugin(self, world: World | None = None) -> Acquisition:
        """An instance, its keys validated as those of a YAML."""
        plugin = self.make(self.config)
        if world is not None:
            self.observed(plugin, world)
        return plugin

    def source(self, features: Any = None) -> Any:
        """The source of features, or another one."""
        return made("features", features or self.features)

    def view(self, world: World, plugin: Acquisition, **position: Any) -> PoolView:
        """What the plugin would be shown."""
        return world.view(plugin.needs, self.source(), **position)

    def pick(self, world: World, budget: int, plugin: Acquisition | None = None, **position: Any) -> np.ndarray:
        """The checked picks of an instance (a new one unless given)."""
        plugin = plugin or self.plugin(world)
        view = self.view(world, plugin, **position)
        return check_picks(plugin.select(view, budget), view.candidates, budget, self.shown_name)

    @pytest.fixture
    def world(self, tmp_path: Path) -> World:
        return World(tmp_path)

    # ------------------------------------------------------------------------------------------ what is picked
    def test_it_is_registered_and_asks_for_known_things_only(self) -> None:
        """A need that the core does not know is never computed, and a plugin that is not registered is never found."""
        assert isinstance(self.plugin(), self.registered()), "the instance is of another class than the one that is registered"
        assert self.plugin().name == self.shown_name, "the instance does not know its name"
        assert self.plugin().needs <= NEEDS, f"unknown needs {set(self.plugin().needs - NEEDS)}; known: {sorted(NEEDS)}"

    @pytest.mark.parametrize("budget", [1, 2, 7, 45])
    def test_as_many_distinct_candidates_as_asked_for(self, world: World, budget: int) -> None:
        """A label that exists, a sample that was refused or one that is being asked must not be paid for again."""
        # 60 samples without 6 labelled, 3 skipped, 3 pending and 3 that cannot be queried.
        assert len(world.pool.candidates) == 45
        for seed in range(3):
            picks = self.pick(world, budget, seed=seed)
            assert picks.shape == (budget,) and len(set(picks.tolist())) == budget
            number = picks % PER_CLASS
            assert not np.isin(number, [0, 3, 7, 11, 15]).any()

    def test_a_pool_almost_used_up(self, world: World) -> None:
        """The last round of a run has no choice left: neighbours, clusters and quantiles of one sample must not fail."""
        used = world.pool.candidates[:-1]
        world.pool.set_labels(used, world.dataset.targets[used], 1)
        assert self.pick(world, 1, cycle=2).tolist() == world.pool.candidates.tolist()

    def test_a_later_round_continues_from_the_earlier(self, world: World) -> None:
        """One instance lives for the whole run: what it keeps of a round must not be taken for what is true in the next."""
        plugin = self.plugin(world)
        first = self.pick(world, 9, plugin)
        world.pool.set_labels(first, world.dataset.targets[first], 1)
        self.observed(plugin, world)
        second = self.pick(world, 9, plugin, cycle=2)
        assert not np.intersect1d(first, second).size

    def test_before_the_first_training(self, tmp_path: Path) -> None:
        """As `initial`, with no label and no model: it picks, or it says in one line why it cannot."""
        world, plugin = World(tmp_path, fresh=True), self.plugin()
        if not self.initial or plugin.needs & {"labels", "probs"}:
            with refused("an acquisition that cannot be initial"):
                check_needs({"initial": plugin}, {"initial": self.source("pixels")}, SimpleNamespace(simulated=True), False)
                plugin.select(world.view(plugin.needs, self.source("pixels"), cycle=0), 6)
            return
        view = world.view(plugin.needs, self.source("pixels"), cycle=0, role="initial")
        assert len(view.labeled) == 0
        check_picks(plugin.select(view, 6), view.candidates, 6, self.shown_name)

    def test_labels_that_were_not_given_do_not_matter(self, world: World, tmp_path: Path) -> None:
        """A data set may know more labels than were asked for. One that looks at them has results that cannot be had with people."""
        plugin = self.plugin(world)
        if "truth" in plugin.needs:
            pytest.skip("declares that it knows the truth, and so works with a simulated oracle alone")
        picks = self.pick(world, 7, plugin)
        other = World(tmp_path / "other")
        hidden = other.pool.unlabeled
        other.dataset.targets[hidden] = (other.dataset.targets[hidden] + 1) % CLASSES
        assert self.pick(other, 7, self.plugin(other)).tolist() == picks.tolist(), "looks at labels that were not given; declare `truth`"

    # ------------------------------------------------------------------------------------------ randomness
    def test_the_same_seed_gives_the_same_picks(self, world: World, tmp_path: Path) -> None:
        """A run that is repeated, here or on another machine, asks for the same samples."""
        other = World(tmp_path / "other")
        for seed in (0, 1):
            assert self.pick(world, 7, seed=seed).tolist() == self.pick(other, 7, seed=seed).tolist()

    def test_seeds_matter_if_and_only_if_it_draws(self, world: World) -> None:
        """Runs with several seeds must be several runs; what is said to follow from the data must follow from it."""
        sets = {tuple(sorted(self.pick(world, 7, seed=seed))) for seed in range(8)}
        assert (len(sets) == 1) == self.deterministic, f"8 seeds give {len(sets)} sets of picks, `deterministic` is {self.deterministic}"

    def test_global_generators_are_neither_used_nor_changed(self, world: World) -> None:
        """Whoever draws from a global generator depends on all that drew before, and changes the training that comes after."""
        picks = []
        for seed in (1, 2):
            seed_generators(seed)
            plugin = self.plugin(world)
            view = self.view(world, plugin)
            with generators_untouched("select"):
                picks.append(plugin.select(view, 7).tolist())
        assert picks[0] == picks[1], "what is picked depends on a global generator; draw from view.rng"

    def test_ties_are_not_broken_by_position(self, tmp_path: Path) -> None:
        """A pool may be sorted by class: the first of equals are of one class."""
        # All images are one and the same, so all scores are equal; the pool is sorted by class.
        world = World(tmp_path, np.repeat(made_images()[:1], CLASSES * PER_CLASS, axis=0))
        counts = np.zeros(len(world.dataset), dtype=int)
        for seed in range(60):
            counts[self.pick(world, 6, seed=seed)] += 1
        # 360 picks from 45 candidates, in order of position 8, 8, 8, 7, 7, 7 of them: 64 or 56 expected in each part. A fair
        # draw has a standard deviation of about 7, so half is far beyond chance; "the first six" would put 360 into one.
        parts = [counts[part].sum() for part in np.array_split(world.pool.candidates, 6)]
        assert min(parts) >= 28, parts

    def test_the_order_of_the_pool_does_not_matter(self, world: World, tmp_path: Path) -> None:
        """The same samples under other numbers are the same samples."""
        if not self.deterministic:
            pytest.skip("draws, and a draw follows the order")
        for seed in range(3):
            order = np.random.default_rng(seed).permutation(len(world.dataset))
            permuted = World(tmp_path / str(seed), order=order)
            assert sorted(order[self.pick(permuted, 7)]) == sorted(self.pick(world, 7))

    # ------------------------------------------------------------------------------------------ what it leaves alone
    def test_inputs_and_model_are_unchanged(self, world: World) -> None:
        """What a plugin is shown is the run's own, not a copy: the next training starts from it."""
        plugin = self.plugin(world)
        view = self.view(world, plugin)
        looked_at = [name for name in ("features", "probs") if name in plugin.needs]
        arrays = {name: getattr(view, name) for name in (*looked_at, "labeled", "unlabeled", "candidates", "labels")}
        arrays |= world.arrays()
        before, weights = copies(arrays), copy.deepcopy(world.net.state_dict())
        training = [module.training for module in world.net.modules()]
        plugin.select(view, 7)
        assert not unchanged(arrays, before), f"select has changed {unchanged(arrays, before)}"
        assert all(torch.equal(value, weights[name]) for name, value in world.net.state_dict().items()), "select has changed the model"
        assert [module.training for module in world.net.modules()] == training, "select has left the model in another mode"

    def test_samples_that_are_not_finite_are_named(self, tmp_path: Path) -> None:
        """A broken file, or a training that diverged, must not become a choice: comparisons with NaN are all false."""
        plugin = self.plugin()
        by_needs = bool(plugin.needs & {"features", "probs"})
        if not by_needs and type(self).observed is not AcquisitionContract.observed:
            pytest.skip("looks at nothing but what a training showed it")
        images = made_images()
        images[[4, 9], 2, 2] = np.nan
        try:
            picks = self.pick(World(tmp_path / "broken", images), 7)
        except UsageError as error:
            found = str(error)
            assert re.search("not finite.* 4, 9", found) and "\n" not in found, f"one line must name samples 4 and 9, it is {found!r}"
            return
        assert not by_needs, "has chosen although samples are not finite"
        same = picks.tolist() == self.pick(World(tmp_path / "whole"), 7).tolist()
        assert same, "has chosen by values that are not finite, without a word"

    def test_its_state_goes_through_a_checkpoint(self, world: World, tmp_path: Path) -> None:
        """A process that resumes has a new instance, which knows what `state_dict` says and nothing else."""
        plugin = self.plugin(world)
        first = self.pick(world, 7, plugin)
        path = tmp_path / "state.pth"
        write_checkpoint(path, {"plugin": plugin.state_dict()})
        restored = self.plugin()
        restored.load_state_dict(read_checkpoint(path)["plugin"])
        world.pool.set_labels(first, world.dataset.targets[first], 1)
        assert self.pick(world, 7, plugin, cycle=2).tolist() == self.pick(world, 7, restored, cycle=2).tolist()
