"""Every check of a prior's suite fails for a prior that breaks its rule, and for that rule alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from broken_plugins import Broken, assert_complete, assert_fails, failing, suite_for

from usb_active.contracts.prior import Prior, PriorTable
from usb_active.testing import PriorContract


class Sound(Prior):
    """Each sample has the class of the nearest label, by pixels; nothing without a label."""

    needs = frozenset({"features"})
    features_at_start = True

    def fit(self, view, when):
        return PriorTable(self.table(view)) if when == "start" else None

    def table(self, view):
        table = np.zeros((len(view), view.num_classes), np.float32)
        if len(view.labeled):
            distances = np.linalg.norm(view.features[:, None] - view.features[view.labeled], axis=2)
            table[np.arange(len(view)), view.labels[distances.argmin(axis=1)]] = 1
        return table


class Wishful(Sound):
    needs = frozenset({"features", "wishes"})


class Bare(Sound):
    def fit(self, view, when):
        found = super().fit(view, when)
        if found is not None:
            found.probs = found.probs * 2
        return found


class Silent(Sound):
    def fit(self, view, when):
        return None


class Expecting(Sound):
    """Takes for granted that there is a label."""

    def table(self, view):
        assert len(view.labeled) > 0, "no label"
        return super().table(view)


class Peeking(Sound):
    def table(self, view):
        return np.eye(view.num_classes, dtype=np.float32)[view.dataset.targets]


class ByBrightness(Sound):
    """Looks at the images itself, and does not mind what is in them."""

    needs = frozenset()

    def table(self, view):
        images = np.concatenate([batch["x"][0].flatten(1).numpy() for batch in view.loader(np.arange(len(view)))])
        bright = np.nan_to_num(images.sum(axis=1), nan=-1e6) > 0
        return np.eye(view.num_classes, dtype=np.float32)[bright.astype(int)]


class Unseeded(Sound):
    def table(self, view):
        return np.random.default_rng().dirichlet(np.ones(view.num_classes), len(view)).astype(np.float32)


class Disturbing(Sound):
    def table(self, view):
        torch.rand(1)
        return super().table(view)


class Forgetful(Sound):
    """Another class each time, counted in memory alone."""

    times = 0

    def table(self, view):
        self.times += 1
        return np.roll(super().table(view), self.times, axis=1)


class Labelling(Sound):
    def table(self, view):
        view._source.pool.labels[0] = 2 - view._source.pool.labels[0]
        return np.zeros((len(view), view.num_classes), np.float32)


class LeftTraining(Sound):
    def table(self, view):
        if view._source.model() is not None:
            view.model.train()
        return super().table(view)


class Learning(Sound):
    def table(self, view):
        if view._source.model() is not None:
            view.model.classifier.weight.data.add_(1e-3)
        return super().table(view)


ALL = [name for name in dir(PriorContract) if name.startswith("test_")]
BROKEN = [
    Broken("test_it_is_registered_and_asks_for_known_things_only", Wishful, also=ALL),
    Broken("test_rows_are_probabilities_or_zero", Bare),
    Broken("test_rows_are_probabilities_or_zero", Silent),
    Broken("test_before_the_first_label", Expecting),
    Broken("test_labels_that_were_not_given_do_not_matter", Peeking),
    Broken("test_samples_that_are_not_finite_are_named", ByBrightness),
    Broken(
        "test_the_same_seed_gives_the_same_table", Unseeded,
        also=[
            "test_labels_that_were_not_given_do_not_matter", "test_global_generators_are_neither_used_nor_changed",
            "test_its_state_goes_through_a_checkpoint",
        ],
    ),
    Broken("test_global_generators_are_neither_used_nor_changed", Disturbing),
    Broken("test_its_state_goes_through_a_checkpoint", Forgetful),
    Broken("test_labels_pool_and_model_are_unchanged", Labelling),
    Broken("test_labels_pool_and_model_are_unchanged", LeftTraining),
    Broken("test_labels_pool_and_model_are_unchanged", Learning),
]  # fmt: skip


def test_every_check_has_a_prior_that_fails_it():
    assert_complete(PriorContract, BROKEN)


@pytest.mark.parametrize("one", BROKEN, ids=lambda one: one.id)
def test_a_broken_prior_fails_its_check(one, tmp_path):
    assert_fails(PriorContract, one, tmp_path)


def test_a_sound_prior_passes(tmp_path):
    assert not failing(suite_for(PriorContract, Sound, {}), tmp_path)
