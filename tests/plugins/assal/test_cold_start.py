"""`assal_kmeans`: samples nearest to the centres of k-means, against slow loops, on blobs, and where one is nearest to two."""

from __future__ import annotations

import numpy as np
import pytest
from usb_active.plugins.assal.centres import _one_each, nearest_to_centres

from usb_active.numerics.kmeans import kmeans_centres
from usb_active.numerics.spaces import EuclideanSpace
from usb_active.testing import AcquisitionContract


class TestAssalKMeans(AcquisitionContract):
    name = "assal_kmeans"
    deterministic = False


class TestAssalKMeansOfOneStart(AcquisitionContract):
    name = "assal_kmeans"
    config = {"iterations": 3, "starts": 1}
    deterministic = False


def blobs(sizes, seed=0, dim=3, scale=1.0):
    """Rows around as many far centres as there are sizes; and which blob each is of."""
    rng = np.random.default_rng(seed)
    centres = 50 * rng.standard_normal((len(sizes), dim))
    of = np.repeat(np.arange(len(sizes)), sizes)
    return (scale * (centres[of] + rng.standard_normal((len(of), dim)))).astype(np.float32), of


def rng(seed=0):
    return np.random.default_rng(seed)


# ------------------------------------------------------------------------------------------------- closed forms
@pytest.mark.parametrize("scale", [1.0, 1e-20, 1e25])
def test_of_blobs_the_samples_nearest_to_their_means_the_largest_blob_first(scale):
    sizes = [30, 12, 45, 20, 8]
    features, of = blobs(sizes, scale=scale)
    wide = features.astype(np.float64) / scale
    expected = [
        min(np.flatnonzero(of == blob), key=lambda i, blob=blob: np.linalg.norm(wide[i] - wide[of == blob].mean(axis=0)))
        for blob in np.argsort(sizes)[::-1]
    ]
    assert nearest_to_centres(features, 5, rng=rng()).tolist() == expected


def test_blobs_that_have_a_label_are_left_out():
    features, of = blobs([30, 12, 45, 20, 8])
    for blob in range(5):
        labeled = np.flatnonzero(of == blob)[:1]
        picks = nearest_to_centres(features, 4, labeled=labeled, rng=rng())
        assert sorted(of[picks]) == sorted(set(range(5)) - {blob})


def test_what_cannot_be_queried_counts_in_the_clusters_and_is_not_picked():
    features, of = blobs([30, 12, 45])
    candidates = np.flatnonzero(of != 2)
    picks = nearest_to_centres(features, 3, candidates=candidates, rng=rng())
    assert set(of[picks]) <= {0, 1} and len(set(picks)) == 3
    # The centre of the third blob comes first, as it is the largest, and takes what is nearest to it of the others.
    centre = features[of == 2].mean(axis=0)
    assert picks[0] == min(candidates, key=lambda i: np.linalg.norm(features[i] - centre))


# ------------------------------------------------------------------------------------------------- slow loops
def slow(features, budget, labeled, candidates, generator):
    """The same by Python's loops, given k-means' centres; and the distance of each pick to its own."""
    points = np.ascontiguousarray(EuclideanSpace(features).centred(np.arange(len(features)))[:, :-1])
    seed = int(generator.integers(2**31 - 1))
    centres = kmeans_centres(points, len(labeled) + budget, seed, iterations=25, starts=10).astype(np.float64)

    def squared(row, centre):
        return float(((points[row].astype(np.float64) - centres[centre]) ** 2).sum())

    nearest = [min(range(len(centres)), key=lambda c, row=row: squared(row, c)) for row in range(len(points))]
    done = {nearest[row] for row in labeled}
    sizes = [nearest.count(c) for c in range(len(centres))]
    order = generator.permutation([c for c in range(len(centres)) if c not in done]).tolist()
    chosen = sorted(order, key=lambda c: -sizes[c])[:budget]
    free, picks = list(candidates), {}
    while len(picks) < budget:
        wanted = {c: min(free, key=lambda row, c=c: squared(row, c)) for c in chosen if c not in picks}
        for row in set(wanted.values()):
            asking = [c for c in wanted if wanted[c] == row]
            picks[min(asking, key=lambda c, row=row: squared(row, c))] = row
            free.remove(row)
    return [picks[c] for c in chosen], lambda rows: [squared(row, c) for row, c in zip(rows, chosen, strict=True)]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("budget", [1, 7, 30])
def test_slow_loops_pick_the_same(seed, budget):
    features = rng(seed).standard_normal((80, 3)).astype(np.float32)
    labeled, candidates = np.arange(0, 80, 9), np.delete(np.arange(80), np.r_[np.arange(0, 80, 9), 1, 2])
    picks = nearest_to_centres(features, budget, labeled=labeled, candidates=candidates, rng=rng(seed))
    expected, distances = slow(features, budget, labeled, candidates, rng(seed))
    # The two samples of a cluster of two are equally near to its centre.
    differing = sum(one != other for one, other in zip(picks, expected, strict=True))
    assert distances(picks) == pytest.approx(distances(expected), abs=1e-5) and differing <= budget / 4


# ------------------------------------------------------------------------------------------------- one nearest to two
def test_one_that_is_nearest_to_two_goes_to_the_nearer_and_the_other_takes_the_next():
    points = np.array([[0.0], [1.0], [5.0]], dtype=np.float32)
    # 0 is at distance .2 of the first and .1 of the second, which has it; 1 is the first's next.
    assert _one_each(points, np.array([[0.2], [-0.1]], dtype=np.float32), np.arange(3)).tolist() == [1, 0]
    # All three want 0.
    centres = np.array([[-3.0], [-1.0], [-2.0]], dtype=np.float32)
    assert _one_each(points, centres, np.arange(3)).tolist() == [2, 0, 1]


@pytest.mark.parametrize("budget", [3, 19, 20])
def test_equal_rows_are_all_picked_once(budget):
    features = np.repeat(np.eye(2, dtype=np.float32), 10, axis=0)
    picks = nearest_to_centres(features, budget, rng=rng())
    assert len(set(picks.tolist())) == budget


# ------------------------------------------------------------------------------------------------- refused
@pytest.mark.parametrize(("given", "said"), [
    ({"budget": 0}, "budget"), ({"budget": 11}, "budget"), ({"labeled": [3], "candidates": [3, 4]}, "3"), ({"iterations": 0}, "iterations"),
    ({"starts": 1.5}, "starts"), ({"features": np.full((10, 2), np.nan)}, "features: not finite in rows 0"),
])  # fmt: skip
def test_what_cannot_be(given, said):
    keys = {"features": np.zeros((10, 2)), "budget": 1, "rng": rng(), **given}
    with pytest.raises(ValueError, match=said):
        nearest_to_centres(**keys)
