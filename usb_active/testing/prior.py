"""The suite of a prior: tables of probabilities, made of what is known, and nothing else changed."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from usb_active.contracts.acquisition import NEEDS
from usb_active.contracts.prior import Prior, PriorTable, When
from usb_active.errors import UsageError
from usb_active.pool.view import PoolView
from usb_active.storage.checkpoint import read_checkpoint, write_checkpoint
from usb_active.testing.contract import Contract, copies, generators_untouched, made, seed_generators, unchanged
from usb_active.testing.pool import CLASSES, World, made_images

WHEN: tuple[When, ...] = ("start", "step", "end")


class PriorContract(Contract):
    """What the core relies on in any prior.

    Attributes for a prior to set:
        features: the source of features, as in the YAML, where it needs them.
    """

    kind = "prior"
    features: ClassVar[Any] = "pixels"

    def observed(self, plugin: Prior, world: World) -> None:
        """For priors that learn from training: give `plugin` what it would have seen. Does nothing here."""

    # ------------------------------------------------------------------------------------------ helpers
    def plugin(self, world: World) -> Prior:
        """An instance that has seen what `observed` shows."""
        files = world.folder / "files"
        files.mkdir(parents=True, exist_ok=True)
        plugin = self.make(self.keys(files))
        self.observed(plugin, world)
        return plugin

    def view(self, world: World, plugin: Prior, when: str, seed: int = 0, cycle: int = 1) -> PoolView:
        """What the prior would be shown."""
        return world.view(plugin.needs, made("features", self.features), cycle=cycle, seed=seed, role=f"prior/{when}@0")

    def tables(self, world: World, plugin: Prior | None = None, seed: int = 0) -> dict[When, np.ndarray | None]:
        """What it says at each time; None where it keeps what there is."""
        plugin = plugin or self.plugin(world)
        fitted = {when: plugin.fit(self.view(world, plugin, when, seed), when) for when in WHEN}
        return {when: None if table is None else np.array(table.probs) for when, table in fitted.items()}

    @pytest.fixture
    def world(self, tmp_path: Path) -> World:
        return World(tmp_path / "world")

    # ------------------------------------------------------------------------------------------ tables
    def test_it_is_registered_and_asks_for_known_things_only(self, world: World) -> None:
        """A need that the core does not know is never computed."""
        plugin = self.plugin(world)
        assert isinstance(plugin, self.registered()) and plugin.name == self.shown_name
        assert plugin.needs <= NEEDS, f"unknown needs {set(plugin.needs - NEEDS)}; known: {sorted(NEEDS)}"

    def test_rows_are_probabilities_or_zero(self, world: World) -> None:
        """The trainer adds them to its own probabilities. A table is one for the whole pool, in its order."""
        plugin, given = self.plugin(world), 0
        for when in WHEN:
            table = plugin.fit(self.view(world, plugin, when), when)
            if table is None:
                continue
            given += 1
            assert isinstance(table, PriorTable), f"fit(view, {when!r}) must give a PriorTable or None, got {type(table).__name__}"
            probs = table.probs
            got = f"{probs.dtype} of shape {probs.shape}"
            assert probs.shape == (60, CLASSES) and probs.dtype == np.float32, f"must be float32 of shape (60, {CLASSES}), got {got}"
            total = probs.sum(axis=1)
            assert (probs >= 0).all() and ((np.abs(total - 1) < 1e-3) | (total == 0)).all(), "rows must sum to one, or be zero"
        assert given, "says nothing at the start, in the middle or at the end of a training"

    def test_before_the_first_label(self, tmp_path: Path) -> None:
        """The first training may begin with none; there is no model yet either."""
        world = World(tmp_path / "fresh", fresh=True)
        plugin = self.plugin(world)
        if plugin.needs & {"probs"} or plugin.needs & {"features"} and not plugin.features_at_start:
            pytest.skip("needs a model, or features that the start does not promise")
        try:
            table = plugin.fit(self.view(world, plugin, "start", cycle=0), "start")
        except UsageError as error:
            assert "\n" not in str(error), f"the error must be one line: {error}"
        else:
            assert table is None or len(table) == 60

    def test_labels_that_were_not_given_do_not_matter(self, world: World, tmp_path: Path) -> None:
        """A data set may know more labels than were asked for: a prior that sees them has learned the answers."""
        if "truth" in self.plugin(world).needs:
            pytest.skip("declares that it knows the truth, and so works with a simulated oracle alone")
        other = World(tmp_path / "other")
        hidden = other.pool.unlabeled
        other.dataset.targets[hidden] = (other.dataset.targets[hidden] + 1) % CLASSES
        assert not _differing(self.tables(world), self.tables(other)), "looks at labels that were not given"

    def test_samples_that_are_not_finite_are_named(self, world: World, tmp_path: Path) -> None:
        """A broken file, or a training that diverged, must not guide the next one."""
        images = made_images()
        images[[4, 9], 2, 2] = np.nan
        by_needs = bool(self.plugin(world).needs & {"features", "probs"})
        if not by_needs and type(self).observed is not PriorContract.observed:
            pytest.skip("looks at nothing but what a training showed it")
        try:
            tables = self.tables(World(tmp_path / "broken", images))
        except UsageError as error:
            found = str(error)
            assert re.search("not finite.* 4, 9", found) and "\n" not in found, f"one line must name samples 4 and 9, it is {found!r}"
            return
        assert not by_needs and not _differing(tables, self.tables(world)), "believes something of images that are not finite"

    # ------------------------------------------------------------------------------------------ again
    def test_the_same_seed_gives_the_same_table(self, world: World, tmp_path: Path) -> None:
        """A run that is repeated or resumed is guided by the same beliefs, bit for bit."""
        for seed in (0, 1):
            one, other = (self.tables(each, seed=seed) for each in (world, World(tmp_path / f"other{seed}")))
            assert not _differing(one, other), f"the tables at {_differing(one, other)} differ"

    def test_global_generators_are_neither_used_nor_changed(self, tmp_path: Path) -> None:
        """Whoever draws from a global generator depends on all that drew before, and changes the training that it guides."""
        found = []
        for number in (1, 2):
            world = World(tmp_path / str(number))
            seed_generators(number)
            plugin = self.plugin(world)
            views = {when: self.view(world, plugin, when) for when in WHEN}
            with generators_untouched("fit"):
                fitted = {when: plugin.fit(view, when) for when, view in views.items()}
            found.append({when: None if table is None else table.probs for when, table in fitted.items()})
        assert not _differing(*found), "what it says depends on a global generator; draw from view.rng"

    def test_its_state_goes_through_a_checkpoint(self, world: World, tmp_path: Path) -> None:
        """A process that resumes has a new instance, which knows what `state_dict` says and nothing else."""
        plugin = self.plugin(world)
        self.tables(world, plugin)
        write_checkpoint(tmp_path / "state.pth", {"plugin": plugin.state_dict()})
        restored = self.make(self.keys(world.folder / "files"))
        restored.load_state_dict(read_checkpoint(tmp_path / "state.pth")["plugin"])
        assert not _differing(self.tables(world, plugin), self.tables(world, restored)), "says something else in a process that resumes"

    # ------------------------------------------------------------------------------------------ what it leaves alone
    def test_labels_pool_and_model_are_unchanged(self, world: World) -> None:
        """A prior believes; it does not label. What it is shown is the run's own, not a copy."""
        plugin = self.plugin(world)
        arrays, weights = world.arrays(), copy.deepcopy(world.net.state_dict())
        before, modes = copies(arrays), [module.training for module in world.net.eval().modules()]
        self.tables(world, plugin)
        assert not unchanged(arrays, before), f"fit has changed {unchanged(arrays, before)}"
        assert all(torch.equal(value, weights[name]) for name, value in world.net.state_dict().items()), "fit has changed the model"
        assert [module.training for module in world.net.modules()] == modes, "fit has left the model in another mode"


def _differing(one: dict[When, np.ndarray | None], other: dict[When, np.ndarray | None]) -> list[When]:
    """The times at which two priors say something else."""

    def same(table: np.ndarray | None, then: np.ndarray | None) -> bool:
        return table is then if table is None or then is None else np.array_equal(table, then)

    return [when for when, table in one.items() if not same(table, other[when])]
