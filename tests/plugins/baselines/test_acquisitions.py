"""The baselines as plugins: the contract of every acquisition, and what each one picks. Their arithmetic is in test_functional."""

from __future__ import annotations

import numpy as np
import pytest
from usb_active.plugins.baselines.acquisitions import Balanced, Stratified

from usb_active.errors import UsageError
from usb_active.testing import AcquisitionContract
from usb_active.testing.pool import CLASSES, World, made_images


def model_outputs(world: World):
    """(N, D) features and (N, C) probabilities in double precision, straight from the network."""
    import torch

    world.net.eval()
    with torch.no_grad():
        out = world.net(torch.from_numpy(world.images)[:, None])
    logits = out["logits"].double().numpy()
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return out["feat"].double().numpy(), exponentials / exponentials.sum(axis=1, keepdims=True)


class ScoreContract(AcquisitionContract):
    """A method that takes the highest of a score: checked against the score of one sample at a time."""

    @staticmethod
    def score(row: list[float]) -> float:
        raise NotImplementedError

    def test_the_highest_scores_come_first(self, world):
        probs = model_outputs(world)[1]
        expected = sorted(world.pool.candidates, key=lambda i: -self.score(probs[i].tolist()))[:9]
        assert self.pick(world, 9).tolist() == expected


class TestEntropy(ScoreContract):
    name = "entropy"

    @staticmethod
    def score(row):
        return -sum(p * np.log(p) for p in row)


class TestMargin(ScoreContract):
    name = "margin"

    @staticmethod
    def score(row):
        first, second, *_ = sorted(row, reverse=True)
        return second - first


class TestLeastConfidence(ScoreContract):
    name = "least_confidence"

    @staticmethod
    def score(row):
        return 1 - max(row)


class TestCoreset(AcquisitionContract):
    name = "coreset"

    def test_each_pick_is_farthest_from_all_centres(self, world):
        features, _ = model_outputs(world)
        centres = world.pool.labeled.tolist()
        for pick in self.pick(world, 9).tolist():
            others = [i for i in world.pool.candidates if i not in centres]
            assert pick == max(others, key=lambda i: min(np.linalg.norm(features[i] - features[c]) for c in centres))
            centres.append(pick)


class TestKMeansPlusPlus(AcquisitionContract):
    name = "kmeanspp"
    deterministic = False

    def test_a_copy_of_a_labelled_sample_is_not_drawn(self, tmp_path):
        # Every candidate of classes 0 and 1 is the image that is labelled there: only class 2 has any distance left.
        images = made_images()
        images[:20], images[20:40] = images[0], images[20]
        for seed in range(20):
            assert (self.pick(World(tmp_path, images), 12, seed=seed) >= 40).all()


class TestRandom(AcquisitionContract):
    name = "random"
    deterministic = False


class ByClassContract(AcquisitionContract):
    deterministic = False

    def counts(self, world: World, budget: int, seed: int = 0) -> list[int]:
        return np.bincount(world.dataset.targets[self.pick(world, budget, seed=seed)], minlength=CLASSES).tolist()

    def test_the_order_of_the_picks_tells_nothing_of_the_class(self, world):
        firsts = {int(world.dataset.targets[self.pick(world, 9, seed=seed)[0]]) for seed in range(20)}
        assert firsts == {0, 1, 2}

    def test_it_is_refused_without_a_simulated_oracle(self, world):
        source = world.source(0)
        source.simulated = False
        world.source = lambda seed: source
        with pytest.raises(UsageError, match="needs the true labels"):
            self.pick(world, 3)


class TestBalanced(ByClassContract):
    name = "balanced"

    def test_equally_many_of_every_class(self, world):
        assert self.counts(world, 9) == [3, 3, 3]
        # 10 = 3 · 3 + 1: the class that gets one more is drawn.
        extra = [self.counts(world, 10, seed) for seed in range(20)]
        assert all(sorted(counts) == [3, 3, 4] for counts in extra) and len({tuple(counts) for counts in extra}) == 3

    def test_one_more_comes_from_a_class_that_has_one(self):
        for seed in range(10):
            assert Balanced().quotas(np.array([0, 2, 0]), 1, np.random.default_rng(seed)).tolist() == [0, 1, 0]
            assert Balanced().quotas(np.array([1, 1, 5]), 4, np.random.default_rng(seed)).tolist() == [1, 1, 2]

    def test_a_class_that_runs_out_is_named(self, world):
        gone = world.pool.candidates[world.pool.candidates < 36]
        world.pool.set_labels(gone, world.dataset.targets[gone], 1)
        # Of 20 to 39 only 36 to 39 are left.
        with pytest.raises(UsageError, match="'balanced': too few candidates: class 0 has 0, 5 wanted, class 1 has 4, 5 wanted$"):
            self.pick(world, 15)


class TestStratified(ByClassContract):
    name = "stratified"

    def test_every_class_by_its_share(self, world):
        # 30 candidates of class 2 fewer by 10: shares 15 : 15 : 5 of 35, so 14 picks are 6, 6, 2.
        gone = world.pool.candidates[world.pool.candidates >= 40][:10]
        world.pool.set_labels(gone, world.dataset.targets[gone], 1)
        assert self.counts(world, 14) == [6, 6, 2]

    def test_largest_remainders_get_the_rest_and_equal_ones_are_drawn(self):
        # 10 of 70, 20, 10 in 100 are 7, 2, 1; 5 are 3.5, 1.0, 0.5: the fifth goes to the first or the last.
        drawn = {tuple(Stratified().quotas(np.array([70, 20, 10]), 5, np.random.default_rng(seed))) for seed in range(20)}
        assert drawn == {(4, 1, 0), (3, 1, 1)}
        assert Stratified().quotas(np.array([70, 20, 10]), 10, np.random.default_rng(0)).tolist() == [7, 2, 1]

    def test_never_more_than_there_are(self):
        rng = np.random.default_rng(0)
        for _ in range(200):
            counts = rng.integers(0, 6, 5)
            for budget in range(1, counts.sum() + 1):
                quotas = Stratified().quotas(counts, budget, rng)
                assert quotas.sum() == budget and (quotas <= counts).all()
