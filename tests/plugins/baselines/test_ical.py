"""Inconsistency under augmentation: the paper's sum as a loop, a closed form, invariants; and what is picked by it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from usb_active.plugins.baselines.ical import inconsistency

from usb_active.testing import AcquisitionContract
from usb_active.testing.pool import World, made_images


def made(views=5, batch=7, classes=4, seed=0):
    return np.random.default_rng(seed).dirichlet(np.ones(classes), size=(views, batch))


def test_the_papers_sum_as_a_loop():
    probs = made()
    for i, score in enumerate(inconsistency(probs)):
        total = 0.0
        for label in range(4):
            values = [probs[view, i, label] for view in range(5)]
            mean = sum(values) / 5
            total += sum((value - mean) ** 2 for value in values) / 5
        assert math.isclose(score, total, rel_tol=1e-12)


def test_two_views_that_contradict_each_other():
    # Of two classes, each is certain once: the values 1, 0 have mean 1/2 and variance 1/4, in two classes: 1/2. The third has none.
    assert np.allclose(inconsistency([[[1, 0, 0]], [[0, 1, 0]]]), [0.5])
    # 3 views of 3 classes, each certain of another: mean 1/3, variance (4 + 1 + 1) / 27 = 2/9 in each of 3 classes: 2/3.
    assert np.allclose(inconsistency(np.eye(3)[:, None, :]), [2 / 3])


def test_neither_the_order_of_views_nor_that_of_classes_matters_and_agreement_is_zero():
    probs = made(seed=1)
    assert np.allclose(inconsistency(probs), inconsistency(probs[::-1, :, [2, 0, 3, 1]]))
    assert np.allclose(inconsistency(np.repeat(probs[:1], 6, axis=0)), 0)
    # Every view counted twice has the same variance.
    assert np.allclose(inconsistency(np.concatenate([probs, probs])), inconsistency(probs))
    assert (inconsistency(probs) > 0).all() and (inconsistency(probs) < 1).all()


@pytest.mark.parametrize(
    ("probs", "message"),
    [
        (made()[:1], r"^probs: expected at least 2 views, \(V, B, C\), got shape \(1, 7, 4\)$"),
        (made()[0], r"^probs: expected at least 2 views, \(V, B, C\), got shape \(7, 4\)$"),
        (2 * made(), "^probs: rows must sum to 1"),
    ],
)
def test_bad_input_is_named(probs, message):
    with pytest.raises(ValueError, match=message):
        inconsistency(probs)


def test_a_view_that_is_not_finite_is_named():
    probs = made()
    probs[3, [2, 5], 1] = np.nan
    with pytest.raises(ValueError, match="^probs: must be finite, got .* first in rows 2, 5$"):
        inconsistency(probs)


def model_probs(world):
    """(N, C) in double precision, straight from the network."""
    with torch.no_grad():
        return world.net.eval()(torch.from_numpy(world.images)[:, None])["logits"].double().softmax(dim=1).numpy()


class TestIcal(AcquisitionContract):
    name = "ical"
    config = {"passes": 4}
    deterministic = False

    @pytest.mark.parametrize("passes", [1, 4])
    def test_the_largest_variance_over_the_original_and_its_versions_comes_first(self, world, passes):
        original = model_probs(world)
        plugin = self.make({"passes": passes, "transform": "strong"})
        view = self.view(world, plugin)
        shown = {}
        for idx, values in self.view(world, plugin).predict(["probs"], view.candidates, transform="strong", passes=passes):
            shown.update(zip(idx.tolist(), values["probs"].transpose(1, 0, 2), strict=True))
        assert {len(rows) for rows in shown.values()} == {passes}
        score = {i: np.var([original[i], *rows], axis=0).sum() for i, rows in shown.items()}
        picks = plugin.select(view, 9)
        assert picks.tolist() == sorted(score, key=lambda i: -score[i])[:9]
        assert view._source.metrics["ical/mean_inconsistency"] == pytest.approx(np.mean(list(score.values())), rel=1e-5)

    def test_a_sample_whose_class_augmentation_changes_is_picked_first(self, tmp_path):
        # Of 45 candidates 44 are far from any boundary; noise of 0.1 moves them less than the one in the middle of two classes.
        images = 5 * made_images()
        images[25] = (images[2] + images[25]) / 10
        world = World(tmp_path, images)
        probs = np.sort(model_probs(world), axis=1)
        unsure = int(np.argmin(np.where(np.isin(np.arange(60), world.pool.candidates), probs[:, -1] - probs[:, -2], np.inf)))
        assert unsure in self.pick(world, 5).tolist()

    @pytest.mark.parametrize("keys", [{"passes": 0}, {"passes": 2.5}, {"transform": "eval"}])
    def test_keys_out_of_their_range_are_refused(self, keys):
        with pytest.raises(ValueError, match=next(iter(keys))):
            self.make(keys)
