"""The suite of what brings labels that exist already: labels of samples that there are, the same ones whenever it is asked for them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from usb_active.contracts.initial_labels import InitialLabels, check_initial_audit, check_initial_labels, check_initial_skips
from usb_active.errors import UsageError
from usb_active.testing.contract import Contract, copies, files_below, generators_untouched, made, seed_generators, unchanged
from usb_active.testing.pool import CLASSES, World

# What there is before the first training: neither predictions nor features of an earlier model.
NEEDS = frozenset({"features", "truth"})


class InitialLabelsContract(Contract):
    """What the core relies on in any plugin that brings labels.

        class TestMine(InitialLabelsContract):
            name = "mine"

            def keys(self, folder):
                (folder / "mine.txt").write_text("blobs/003 class 0")
                return {"path": str(folder / "mine.txt")}

    The pool has the keys `blobs/000` to `blobs/059` and the classes `class 0`, `class 1` and `class 2`.

    Attributes for a plugin to set:
        features: the source of features, as in the YAML, where it needs them.
    """

    kind = "initial_labels"
    features: ClassVar[Any] = "pixels"

    # ------------------------------------------------------------------------------------------ helpers
    def files(self, folder: Path) -> Mapping[str, Any]:
        """The keys, after the files that they name have been written."""
        files = folder / "files"
        files.mkdir(parents=True)
        return self.keys(files)

    def plugin(self, folder: Path) -> InitialLabels:
        """An instance, with files of its own."""
        return self.make(self.files(folder))

    def returned(self, plugin: InitialLabels, world: World) -> Any:
        """What it gives when it is asked, unchecked."""
        view = world.view(plugin.needs, made("features", self.features), cycle=0, role="initial")
        return plugin.known_labels(view)

    def brought(self, plugin: InitialLabels, world: World) -> list[tuple[int, int]]:
        """(dataset index, label) of the labels that it brings, in its order, checked."""
        checked = check_initial_labels(self.returned(plugin, world), len(world.dataset), CLASSES, self.shown_name)
        return list(zip(checked["idx"].tolist(), checked["labels"].tolist(), strict=True))

    def refused(self, plugin: InitialLabels, world: World) -> list[int]:
        """Dataset indices of the samples that are never to be asked for, checked; it is asked after it has brought its labels."""
        labeled = [index for index, _ in self.brought(plugin, world)]
        view = world.view(plugin.needs, made("features", self.features), cycle=0, role="initial")
        return check_initial_skips(plugin.known_skips(view), np.array(labeled), len(world.dataset), self.shown_name).tolist()

    def audited(self, plugin: InitialLabels, world: World) -> list[int]:
        """Dataset indices of the samples that were drawn to measure a model by, checked; it is asked after all else."""
        labeled = [index for index, _ in self.brought(plugin, world)]
        view = world.view(plugin.needs, made("features", self.features), cycle=0, role="initial")
        skipped = np.asarray(plugin.known_skips(view), dtype=np.int64)
        return check_initial_audit(plugin.known_audit(view), np.array([*labeled, *skipped.tolist()]), self.shown_name).tolist()

    @pytest.fixture
    def fresh(self, tmp_path: Path) -> World:
        """A pool as it is before a run: no label, no model."""
        return World(tmp_path / "world", fresh=True)

    # ------------------------------------------------------------------------------------------ what is brought
    def test_it_is_registered_and_asks_for_known_things_only(self, tmp_path: Path) -> None:
        """A run finds it by its name alone; before the first training there are no predictions to need."""
        plugin = self.plugin(tmp_path)
        assert isinstance(plugin, self.registered()) and plugin.name == self.shown_name
        assert plugin.needs <= NEEDS, f"needs {set(plugin.needs - NEEDS)}; it can have {sorted(NEEDS)}"

    def test_labels_are_of_samples_and_classes_that_there_are(self, fresh: World, tmp_path: Path) -> None:
        """They go into the journal as they are: integers, each sample once, at least one."""
        assert self.brought(self.plugin(tmp_path), fresh)

    def test_refused_samples_are_there_and_have_no_label(self, fresh: World, tmp_path: Path) -> None:
        """They go into the journal beside the labels: integers, each sample once; the same ones in a new process."""
        keys = self.files(tmp_path)
        assert self.refused(self.make(keys), fresh) == self.refused(self.make(keys), fresh), "refuses other samples the second time"

    def test_an_audit_is_of_samples_that_it_brings(self, fresh: World, tmp_path: Path) -> None:
        """A run may measure by them instead of training on them: integers, each sample once; the same ones in a new process."""
        keys = self.files(tmp_path)
        assert self.audited(self.make(keys), fresh) == self.audited(self.make(keys), fresh), "another audit the second time"

    def test_where_there_are_no_labels_it_says_so(self, tmp_path: Path) -> None:
        """Of a pool whose labels are not known it brings those that it has from elsewhere, or refuses: a training needs one."""
        world, plugin = World(tmp_path / "unknown", fresh=True), self.plugin(tmp_path)
        world.dataset.targets[:] = -1
        try:
            returned = self.returned(plugin, world)
        except UsageError as error:
            assert str(error), "the error must say what is missing"
            return
        assert len(returned[0]), "brings no label, without a word"
        check_initial_labels(returned, len(world.dataset), CLASSES, self.shown_name)

    # ------------------------------------------------------------------------------------------ again
    def test_asked_again_it_brings_the_same(self, fresh: World, tmp_path: Path) -> None:
        """`check` and every start of a run before its first query ask for them as well: what is checked must be what is journalled."""
        keys = self.files(tmp_path)
        plugin = self.make(keys)
        first = self.brought(plugin, fresh)
        assert self.brought(plugin, fresh) == first, "other labels the second time"
        assert self.brought(self.make(keys), fresh) == first, "other labels in a new process"

    def test_in_a_run_under_way_it_brings_the_same(self, fresh: World, tmp_path: Path) -> None:
        """A run that was stopped while it took them over asks once more, with some labels: what is brought must not depend on them."""
        keys, later = self.files(tmp_path), World(tmp_path / "later")
        same = self.brought(self.make(keys), later) == self.brought(self.make(keys), fresh)
        assert same, "other labels when some samples are labelled already"

    def test_global_generators_are_neither_used_nor_changed(self, fresh: World, tmp_path: Path) -> None:
        """Whoever draws from a global generator depends on all that drew before, and changes the training that comes after."""
        keys, found = self.files(tmp_path), []
        for seed in (1, 2):
            seed_generators(seed)
            plugin = self.make(keys)
            with generators_untouched("the plugin"):
                found.append(self.brought(plugin, fresh))
        assert found[0] == found[1], "what is brought depends on a global generator; draw from view.rng"

    # ------------------------------------------------------------------------------------------ what it leaves alone
    def test_its_files_are_unchanged(self, fresh: World, tmp_path: Path) -> None:
        """They are the user's work, and `check` only looks."""
        plugin = self.plugin(tmp_path)
        before = files_below(tmp_path)
        self.brought(plugin, fresh)
        now = files_below(tmp_path)
        assert now == before, f"has changed {sorted(path for path in {*now, *before} if now.get(path) != before.get(path))}"

    def test_the_pool_is_unchanged(self, fresh: World, tmp_path: Path) -> None:
        """The core labels, after it has written the journal. What a plugin is shown is the run's own, not a copy."""
        plugin, arrays, keys = self.plugin(tmp_path), fresh.arrays(), list(fresh.dataset.keys)
        before = copies(arrays)
        self.brought(plugin, fresh)
        assert not unchanged(arrays, before), f"has changed {unchanged(arrays, before)}"
        assert list(fresh.dataset.keys) == keys, "has changed the keys of the samples"
