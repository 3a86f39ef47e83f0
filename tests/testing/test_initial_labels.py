"""Every check of the suite of what brings labels fails for a plugin that breaks its rule, and for that rule alone."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from broken_plugins import Broken, UnderAnotherName, assert_complete, assert_fails, checks_of, failing, suite_for

from usb_active.contracts.initial_labels import InitialLabels
from usb_active.contracts.plugin import PluginConfig
from usb_active.errors import UsageError
from usb_active.testing import InitialLabelsContract


class Sound(InitialLabels):
    """Samples and their classes, from a file of two columns of numbers; a label of the data set counts more."""

    class Config(PluginConfig):
        path: Path

    def known_labels(self, view):
        idx, labels = self.read().T
        known = view.dataset.targets[idx]
        return idx, np.where(known >= 0, known, labels)

    def read(self):
        return np.loadtxt(self.config.path, dtype=np.int64)


def keys(self, folder):
    np.savetxt(folder / "labels.txt", [(41, 2), (3, 0), (20, 1)], fmt="%d")
    return {"path": str(folder / "labels.txt")}


class Foreseeing(Sound):
    needs = frozenset({"probs"})


class Misnamed(UnderAnotherName, Sound):
    pass


class Twofold(Sound):
    def known_labels(self, view):
        idx, labels = super().known_labels(view)
        return np.append(idx, idx[0]), np.append(labels, labels[0])


class Texts(Sound):
    def known_labels(self, view):
        idx, labels = super().known_labels(view)
        return idx, [view.dataset.class_names[label] for label in labels]


class CountingFromOne(Sound):
    def known_labels(self, view):
        idx, labels = super().known_labels(view)
        return idx, labels + 1


class Silent(Sound):
    """Takes what the data set knows, also where that is nothing."""

    def known_labels(self, view):
        idx = np.flatnonzero(view.dataset.targets >= 0)
        return idx, view.dataset.targets[idx]


class Speechless(Sound):
    def known_labels(self, view):
        if (view.dataset.targets < 0).all():
            raise UsageError("")
        return super().known_labels(view)


class Unmarked(Sound):
    """Takes the mark of an unknown label for one."""

    def known_labels(self, view):
        idx, _ = super().known_labels(view)
        return idx, view.dataset.targets[idx]


class Dealing(Sound):
    """One label fewer each time."""

    times = 0

    def read(self):
        self.times += 1
        return super().read()[self.times - 1 :]


class Unseeded(Sound):
    def known_labels(self, view):
        idx = np.random.default_rng().permutation(len(view))[:20]
        return idx, np.maximum(view.dataset.targets[idx], 0)


class Continuing(Sound):
    """Leaves out what is labelled already, and so brings nothing else when a run is resumed."""

    def known_labels(self, view):
        idx = np.flatnonzero(view.dataset.targets >= 0) if len(view.labeled) else super().known_labels(view)[0]
        idx = np.setdiff1d(idx, view.labeled)
        return idx, np.maximum(view.dataset.targets[idx], 0)


class Disturbing(Sound):
    def read(self):
        torch.rand(1)
        return super().read()


class Chancy(Sound):
    """Draws from a global generator, and puts it back."""

    def read(self):
        state = np.random.get_state()
        order = np.random.permutation(3)
        np.random.set_state(state)
        return super().read()[order]


class Consuming(Sound):
    def read(self):
        found = super().read()
        self.config.path.unlink()
        return found


class Noting(Sound):
    def read(self):
        self.config.path.with_suffix(".log").write_text("read")
        return super().read()


class Labelling(Sound):
    def known_labels(self, view):
        idx, labels = super().known_labels(view)
        view._source.pool.set_labels(idx, labels, 0)
        return idx, labels


class Correcting(Sound):
    """Writes into the data set what it brings."""

    def known_labels(self, view):
        idx, labels = super().known_labels(view)
        view.dataset.targets[idx] = (labels + 1) % 3
        return idx, labels


class Renaming(Sound):
    def known_labels(self, view):
        view.dataset.keys = [Path(key).name for key in view.dataset.keys]
        return super().known_labels(view)


class Contradicting(Sound):
    """Refuses what it brings a label of."""

    def known_skips(self, view):
        return self.read()[:1, 0]


class Wavering(Sound):
    def known_skips(self, view):
        return np.random.default_rng().permutation(np.arange(4, 20))[:8]


class Foreign(Sound):
    """An audit of which nothing is brought."""

    def known_audit(self, view):
        return np.setdiff1d(np.arange(len(view)), self.read()[:, 0])[:2]


class Redrawing(Sound):
    turns = itertools.count()

    def known_audit(self, view):
        return self.read()[: 1 + next(self.turns) % 2, 0]


SAMPLES = "test_labels_are_of_samples_and_classes_that_there_are"
REFUSED = "test_refused_samples_are_there_and_have_no_label"
AUDITED = "test_an_audit_is_of_samples_that_it_brings"
AGAIN = "test_asked_again_it_brings_the_same"
UNDER_WAY = "test_in_a_run_under_way_it_brings_the_same"
GENERATORS = "test_global_generators_are_neither_used_nor_changed"
ALL = checks_of(InitialLabelsContract)
BROKEN = [
    Broken("test_it_is_registered_and_asks_for_known_things_only", Foreseeing, also=ALL),
    Broken("test_it_is_registered_and_asks_for_known_things_only", Misnamed),
    Broken(SAMPLES, Twofold, also=ALL),
    Broken(SAMPLES, Texts, also=ALL),
    Broken(SAMPLES, CountingFromOne, also=ALL),
    Broken(REFUSED, Contradicting),
    Broken(REFUSED, Wavering),
    Broken(AUDITED, Foreign),
    Broken(AUDITED, Redrawing),
    Broken("test_where_there_are_no_labels_it_says_so", Silent),
    Broken("test_where_there_are_no_labels_it_says_so", Speechless),
    Broken("test_where_there_are_no_labels_it_says_so", Unmarked),
    Broken(AGAIN, Dealing),
    Broken(AGAIN, Unseeded, also=["test_in_a_run_under_way_it_brings_the_same", GENERATORS]),
    Broken("test_in_a_run_under_way_it_brings_the_same", Continuing),
    Broken(GENERATORS, Disturbing),
    Broken(GENERATORS, Chancy, also=[AGAIN, UNDER_WAY]),
    Broken("test_its_files_are_unchanged", Consuming, also=[REFUSED, AUDITED, AGAIN, UNDER_WAY, GENERATORS]),
    Broken("test_its_files_are_unchanged", Noting),
    Broken("test_the_pool_is_unchanged", Labelling),
    Broken("test_the_pool_is_unchanged", Correcting, also=[AGAIN, GENERATORS]),
    Broken("test_the_pool_is_unchanged", Renaming),
]
BROKEN = [one._replace(given={"keys": keys}) for one in BROKEN]


def test_every_check_has_a_plugin_that_fails_it():
    assert_complete(InitialLabelsContract, BROKEN)


@pytest.mark.parametrize("one", BROKEN, ids=lambda one: one.id)
def test_a_broken_plugin_fails_its_check(one, tmp_path):
    assert_fails(InitialLabelsContract, one, tmp_path)


def test_a_sound_plugin_passes(tmp_path):
    assert not failing(suite_for(InitialLabelsContract, Sound, {"keys": keys}), tmp_path)
