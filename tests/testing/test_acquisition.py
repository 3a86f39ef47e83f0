"""Every check of an acquisition's suite fails for a plugin that breaks its rule, and for that rule alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from broken_plugins import Broken, assert_complete, assert_fails, failing, suite_for

from usb_active import Acquisition
from usb_active.numerics.ranking import top_k
from usb_active.testing import AcquisitionContract
from usb_active.testing.pool import World, made_images


class Sound(Acquisition):
    """The least certain samples, ties drawn."""

    needs = frozenset({"probs"})

    def scores(self, view):
        return -view.probs.max(axis=1)

    def select(self, view, budget):
        return top_k(self.scores(view)[view.candidates], view.candidates, budget, view.rng)


class Wishful(Sound):
    needs = frozenset({"probs", "wishes"})


class OneTooFew(Sound):
    def select(self, view, budget):
        return super().select(view, min(budget, 44))


class Ranker(Sound):
    """Wants a spread, of which one sample has none."""

    def scores(self, view):
        if len(view.candidates) == 1:
            raise ZeroDivisionError("no spread")
        return super().scores(view)


class Keeper(Sound):
    """Keeps its first nine picks."""

    kept = None

    def select(self, view, budget):
        if self.kept is None or budget != 9:
            self.kept = super().select(view, budget)
        return self.kept


class ByLabels(Sound):
    """Farthest from the labelled samples, of which it takes for granted that there are some."""

    needs = frozenset({"features"})

    def scores(self, view):
        return np.linalg.norm(view.features[:, None] - view.features[view.labeled], axis=2).min(axis=1)


class Multiline(ByLabels):
    """Cannot be initial, and says so at length."""

    def select(self, view, budget):
        if not len(view.labeled):
            raise ValueError("there are\nno labels")
        return super().select(view, budget)


class Peeking(Sound):
    def scores(self, view):
        return super().scores(view) - 0.5 * (view.dataset.targets == 1)


class Unseeded(Sound):
    def select(self, view, budget):
        return np.random.default_rng().permutation(view.candidates)[:budget]


class Drawing(Sound):
    needs = frozenset()

    def select(self, view, budget):
        return view.rng.permutation(view.candidates)[:budget]


class Disturbing(Sound):
    def select(self, view, budget):
        torch.rand(1)
        return super().select(view, budget)


class FirstOfEquals(Sound):
    def select(self, view, budget):
        return view.candidates[np.argsort(-self.scores(view)[view.candidates], kind="stable")][:budget]


class EvenFirst(Sound):
    """Prefers even numbers."""

    def scores(self, view):
        return super().scores(view) - 10 * (np.arange(len(view)) % 2)


class LeftTraining(Sound):
    def select(self, view, budget):
        view.model.train()
        return super().select(view, budget)


class Learning(Sound):
    def select(self, view, budget):
        view.model.classifier.weight.data.add_(1e-7)
        return super().select(view, budget)


class Normalizing(Sound):
    def select(self, view, budget):
        view.dataset.images[...] *= 1
        view.dataset.targets[view.labeled] = view.labels[::-1]
        return super().select(view, budget)


class ByBrightness(Sound):
    """Looks at the images itself, and does not mind what is in them."""

    needs = frozenset()

    def scores(self, view):
        images = np.concatenate([batch["x"][0].flatten(1).numpy() for batch in view.loader(np.arange(len(view)))])
        return np.nan_to_num(images.sum(axis=1), nan=1e6)


class Forgetful(Sound):
    """Every other round the other way round, counted in memory alone."""

    rounds = 0

    def scores(self, view):
        self.rounds += 1
        return super().scores(view) * (-1) ** self.rounds


BROKEN = [
    Broken(
        "test_it_is_registered_and_asks_for_known_things_only", Wishful,
        also=[name for name in dir(AcquisitionContract) if name.startswith("test_")],
    ),
    Broken("test_as_many_distinct_candidates_as_asked_for", OneTooFew),
    Broken("test_a_pool_almost_used_up", Ranker),
    Broken("test_a_later_round_continues_from_the_earlier", Keeper),
    Broken("test_before_the_first_training", ByLabels),
    Broken("test_before_the_first_training", Multiline, given={"initial": False}),
    Broken("test_labels_that_were_not_given_do_not_matter", Peeking, also=["test_ties_are_not_broken_by_position"]),
    Broken(
        "test_the_same_seed_gives_the_same_picks", Unseeded, given={"deterministic": False},
        also=[
            "test_global_generators_are_neither_used_nor_changed", "test_labels_that_were_not_given_do_not_matter",
            "test_its_state_goes_through_a_checkpoint",
        ],
    ),
    Broken("test_seeds_matter_if_and_only_if_it_draws", Sound, given={"deterministic": False}),
    Broken("test_seeds_matter_if_and_only_if_it_draws", Drawing, also=["test_the_order_of_the_pool_does_not_matter"]),
    Broken("test_global_generators_are_neither_used_nor_changed", Disturbing),
    Broken("test_ties_are_not_broken_by_position", FirstOfEquals),
    Broken("test_the_order_of_the_pool_does_not_matter", EvenFirst),
    Broken("test_inputs_and_model_are_unchanged", LeftTraining),
    Broken("test_inputs_and_model_are_unchanged", Learning),
    Broken("test_inputs_and_model_are_unchanged", Normalizing),
    Broken("test_samples_that_are_not_finite_are_named", ByBrightness),
    Broken("test_its_state_goes_through_a_checkpoint", Forgetful),
]  # fmt: skip


def test_every_check_has_a_plugin_that_fails_it():
    assert_complete(AcquisitionContract, BROKEN)


@pytest.mark.parametrize("one", BROKEN, ids=lambda one: one.id)
def test_a_broken_plugin_fails_its_check(one, tmp_path):
    assert_fails(AcquisitionContract, one, tmp_path)


@pytest.mark.parametrize(("plugin", "given"), [(Sound, {}), (Drawing, {"deterministic": False})])
def test_a_sound_plugin_passes(plugin, given, tmp_path):
    assert not failing(suite_for(AcquisitionContract, plugin, given), tmp_path)


def test_the_pool_has_samples_in_every_state(tmp_path):
    world = World(tmp_path)
    pool = world.pool
    counts = [len(pool.labeled), pool.skipped.sum(), pool.pending.sum(), (~pool.queryable).sum(), len(pool.candidates)]
    assert counts == [6, 3, 3, 3, 45]
    assert np.array_equal(made_images(), made_images(0)) and not np.array_equal(made_images(), made_images(1))
