"""AS3L in arrays: every formula as a slow loop, in closed form where blobs make it plain, and what may not change it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from usb_active.plugins.as3l import clustering, functional
from usb_active.plugins.as3l.functional import class_coverage, expected_calibration_error, fine_tune, posterior, prior, select, typiclust

from usb_active.numerics.kmeans import as_points, assign_rows


def rng(seed=0):
    return np.random.default_rng(seed)


def cloud(size=60, dim=4, seed=0):
    """No clusters to speak of, uneven scales, away from the origin."""
    return (rng(seed).standard_normal((size, dim)) * np.arange(1, dim + 1) + 3).astype(np.float32)


def blobs(sizes, dim=5, seed=0, spread=0.01):
    """Tight blobs at the corners of a simplex, in order; their numbers (N,)."""
    blob = np.repeat(np.arange(len(sizes)), sizes)
    centres = 10 * np.eye(max(dim, len(sizes)))[: len(sizes)]
    return (centres[blob] + spread * rng(seed).standard_normal((len(blob), centres.shape[1]))).astype(np.float32), blob


def squared(a, b):
    return sum((float(x) - float(y)) ** 2 for x, y in zip(a, b, strict=True))


# ------------------------------------------------------------------------------------------ quick k-means
def inertia(points, assignment):
    groups = [points[assignment == k].astype(np.float64) for k in np.unique(assignment)]
    return sum(((group - group.mean(axis=0)) ** 2).sum() for group in groups)


@pytest.mark.parametrize("clusters", [50, 150, 450])
def test_quick_clusters_are_as_tight_as_kmeans(clusters):
    # 150 and 450 start on all digits, 50 on a sample. Measured ratios: 0.99 to 1.02.
    points = as_points(np.repeat(load_digits().data, 2, axis=0) + rng().normal(0, 0.5, (3594, 64)))
    ratios = [inertia(points, clustering.quick_kmeans(points, clusters, rng(seed))) for seed in range(3)]
    ratios = np.array(ratios) / [inertia(points, clustering.kmeans(points, clusters, rng(seed))) for seed in range(3)]
    assert ratios.max() < 1.05 and ratios.mean() < 1.03


def test_few_quick_clusters_are_those_of_kmeans():
    points = as_points(cloud(500))
    for clusters in (1, 12, 40):
        assert np.array_equal(clustering.quick_kmeans(points, clusters, rng(3)), clustering.kmeans(points, clusters, rng(3)))


def test_iterations_of_lloyd_end_where_nothing_changes():
    points = as_points(cloud(300))
    centres = clustering._lloyd(points, points[:45], 200, rng())
    nearest = ((points[:, None].astype(float) - centres) ** 2).sum(axis=2).argmin(axis=1)
    assert np.array_equal(assign_rows(points, centres)[0], nearest)
    for k in range(45):
        np.testing.assert_allclose(centres[k], points[nearest == k].mean(axis=0, dtype=np.float64), atol=1e-6)


def test_a_cluster_that_is_lost_goes_on_in_a_large_one():
    points = as_points(blobs([40, 50, 60])[0])
    # All three begin in the first blob; the third has no row.
    centres = clustering._lloyd(points, np.stack([points[0], points[1], points[0]]), 20, rng())
    assert np.bincount(assign_rows(points, centres)[0], minlength=3).min() >= 15


def test_clusters_that_are_lost_and_find_no_large_one_stay_where_they_are():
    points = as_points(blobs([8, 4], spread=0)[0])
    # All begin at the same place: the first has all rows, the second goes on from one of them, the others have none to go on from.
    for iterations in (1, 2, 5):
        centres = clustering._lloyd(points, points[:6], iterations, rng())[1:]
        assert ((centres[:, None] - points) ** 2).sum(axis=2).min(axis=1).max() < 1e-12


# ------------------------------------------------------------------------------------------ fine-tuning
def targets(features, clusters, clusterings, generator):
    """(N, D) the mean over the runs of each sample's cluster mean."""
    points, total = as_points(features), np.zeros(features.shape)
    for _ in range(clusterings):
        assignment = clustering.kmeans(points, clusters, generator)
        for i in range(len(features)):
            total[i] += features[assignment == assignment[i]].mean(axis=0, dtype=np.float64) / clusterings
    return total


@pytest.mark.parametrize(("size", "epochs"), [(60, 1), (60, 7), (300, 3)])
def test_fine_tuning_is_gradient_descent_on_equation_1(size, epochs):
    features = cloud(size).astype(np.float64)
    wanted = targets(features, 5, 3, rng(1)) - features.mean(axis=0)
    centred, weight = features - features.mean(axis=0), np.eye(4)
    rate = size / np.linalg.norm(centred, 2) ** 2
    # 60 samples are one batch of 256, 300 are two.
    for _ in range(epochs * (1 if size == 60 else 2)):
        residual = centred @ weight - wanted
        gradient = np.zeros((4, 4))
        for x, r in zip(centred, residual, strict=True):
            gradient += np.outer(x, r) / size
        weight = weight - rate * gradient
    tuned = fine_tune(features, 5, clusterings=3, epochs=epochs, rng=rng(1))
    assert tuned.dtype == np.float32 and np.allclose(tuned, centred @ weight, atol=1e-4)


def test_many_epochs_end_at_least_squares():
    features = cloud()
    wanted = targets(features, 5, 6, rng(2)) - features.mean(axis=0)
    centred = (features - features.mean(axis=0)).astype(np.float64)
    solution = np.linalg.lstsq(centred, wanted, rcond=None)[0]
    assert np.allclose(fine_tune(features, 5, epochs=10**6, rng=rng(2)), centred @ solution, atol=1e-4)


def test_samples_that_lie_in_their_centres_stay_there():
    # Three places, three clusters: every centre is the sample itself, so the loss is 0 from the start.
    features = np.repeat(np.float32([[0, 0], [9, 0], [0, 6]]), 10, axis=0)
    assert np.allclose(fine_tune(features, 3, rng=rng()), features - [3, 2], atol=1e-5)


def test_more_epochs_never_raise_the_loss():
    features = cloud()
    wanted = targets(features, 4, 6, rng(3)) - features.mean(axis=0)
    losses = [((fine_tune(features, 4, epochs=epochs, rng=rng(3)) - wanted) ** 2).mean() for epochs in (1, 2, 5, 20, 100)]
    assert losses == sorted(losses, reverse=True) and losses[-1] < losses[0]


def test_rotated_features_give_rotated_results():
    features = cloud(dim=3).astype(np.float64)
    rotation = np.linalg.qr(rng(4).standard_normal((3, 3)))[0]
    tuned = fine_tune(features @ rotation, 5, rng=rng())
    assert np.allclose(tuned, fine_tune(features, 5, rng=rng()) @ rotation, atol=1e-4)


def test_directions_without_variance_do_no_harm():
    features = np.hstack([cloud(), np.ones((60, 2), np.float32), cloud()[:, :1]])
    tuned = fine_tune(features, 5, epochs=10**5, rng=rng())
    assert np.isfinite(tuned).all() and np.allclose(tuned[:, 4:6], 0, atol=1e-5)
    assert np.array_equal(fine_tune(np.full((9, 3), 7.0), 2, rng=rng()), np.zeros((9, 3)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_clusters": 0}, "num_clusters: 0, expected an integer, 1 to the 60 samples"),
        ({"num_clusters": 61}, "num_clusters: 61, expected an integer, 1 to the 60 samples"),
        ({"num_clusters": 2.5}, "num_clusters: 2.5, expected an integer"),
        ({"clusterings": 0}, "clusterings: 0, expected an integer, at least 1"),
        ({"epochs": 0}, "epochs: 0, expected an integer, at least 1"),
        ({"features": np.zeros(5)}, r"features: expected shape \(N, D\), got \(5,\)"),
        ({"features": np.zeros((0, 5))}, r"features: expected shape \(N, D\), got \(0, 5\)"),
        ({"features": np.where(np.arange(60)[:, None] % 40 == 7, np.nan, cloud())}, "features: not finite in rows 7, 47"),
    ],
)
def test_what_fine_tuning_refuses(change, message):
    with pytest.raises(ValueError, match=message) as caught:
        fine_tune(**{"features": cloud(), "num_clusters": 3, "rng": rng(), **change})
    assert "\n" not in str(caught.value)


# ------------------------------------------------------------------------------------------ clusters
def test_k_means_finds_blobs_whatever_their_scale_and_place():
    features, blob = blobs([5, 30, 200])
    for factor, shift in ((1, 0), (1e-25, 0), (1e25, 0), (1, 1e4)):
        found = clustering.kmeans(as_points(factor * features.astype(np.float64) + shift), 3, rng())
        assert len(set(zip(found.tolist(), blob.tolist(), strict=True))) == 3


def test_the_sample_for_the_starts_is_refined_on_all_rows():
    # The starts look at 2048 of these 3000 rows. At the end every row has its nearest mean.
    points = as_points(np.concatenate([cloud(1500), cloud(1500, seed=1) + 20]))
    found = clustering.kmeans(points, 2, rng())
    sums, counts = clustering.cluster_sums(points, found, 2)
    assert counts.tolist() == np.bincount(found).tolist()
    for k in range(2):
        assert np.allclose(sums[k] / counts[k], points[found == k].mean(axis=0), atol=1e-6)
    assert (found == [min((0, 1), key=lambda k: squared(x, sums[k] / counts[k])) for x in points]).all()


def test_groups_are_what_all_clusterings_agree_on():
    runs = [rng(seed).integers(0, 3, 50) for seed in range(4)]
    groups = clustering.together(runs)
    for i, j in itertools.combinations(range(50), 2):
        assert (groups[i] == groups[j]) == all(run[i] == run[j] for run in runs)
    assert set(groups) == set(range(groups.max() + 1))


# ------------------------------------------------------------------------------------------ selection
def check_greedy(picks, groups, score, labeled, candidates):
    """Every pick is the best of its group, which has the fewest labels and picks, and is the largest of those."""
    used, left = list(labeled), set(candidates)
    sizes = np.bincount(groups)
    for pick in picks:
        assert pick in left
        rank = {g: (sum(groups[i] == g for i in used), -sizes[g]) for g in {groups[i] for i in left}}
        assert rank[groups[pick]] == min(rank.values())
        best = max(score(i) for i in left if groups[i] == groups[pick])
        assert score(pick) == pytest.approx(best, rel=1e-5, abs=1e-9)
        used.append(pick)
        left.remove(pick)


POOLS = [
    {"budget": 5},
    {"budget": 9, "labeled": [3, 4, 50]},
    {"budget": 20, "labeled": [0], "candidates": list(range(10, 60, 2))},
    {"budget": 25, "labeled": [], "candidates": list(range(10, 60, 2))},
]


def filled(pool):
    labeled = pool.get("labeled", [])
    return labeled, pool.get("candidates", [i for i in range(60) if i not in labeled])


@pytest.mark.parametrize("clusterings", [1, 3])
@pytest.mark.parametrize("pool", POOLS)
def test_selection_as_slow_loops(pool, clusterings):
    features, generator = cloud(), rng(5)
    points = as_points(features)
    # As many clusters as labels and picks.
    clusters = len(pool.get("labeled", [])) + pool["budget"]
    runs = [clustering.kmeans(points, clusters, generator) for _ in range(clusterings)]
    codes = list(zip(*(run.tolist() for run in runs), strict=True))
    groups = np.array([sorted(set(codes)).index(code) for code in codes])

    def score(i):
        return -sum(squared(features[i], features[j]) for j in range(60) if groups[j] == groups[i])

    picks = select(features, **pool, clusterings=clusterings, rng=rng(5))
    assert len(picks) == pool["budget"]
    check_greedy(picks.tolist(), groups, score, *filled(pool))


@pytest.mark.parametrize("pool", POOLS)
def test_typiclust_as_slow_loops(pool):
    features, generator = cloud(), rng(6)
    labeled, candidates = filled(pool)
    clusters = min(len(labeled) + pool["budget"], 12)
    groups = clustering.quick_kmeans(as_points(features), clusters, generator)

    def score(i):
        others = sorted(np.sqrt(squared(features[i], features[j])) for j in range(60) if groups[j] == groups[i] and j != i)
        return -float(np.mean(others[:4])) if others else 0.0

    picks = typiclust(features, **pool, max_clusters=12, neighbors=4, min_size=1, rng=rng(6))
    check_greedy(picks.tolist(), groups, score, labeled, candidates)


def test_typiclust_of_more_than_40_clusters_as_slow_loops():
    features, labeled = cloud(400), [3, 4, 50]
    groups = clustering.quick_kmeans(as_points(features), 51, rng(6))
    assert not np.array_equal(groups, clustering.kmeans(as_points(features), 51, rng(6)))

    def score(i):
        others = sorted(np.sqrt(squared(features[i], features[j])) for j in np.flatnonzero(groups == groups[i]) if j != i)
        return -float(np.mean(others[:4])) if others else 0.0

    picks = typiclust(features, 48, labeled=labeled, neighbors=4, min_size=1, rng=rng(6))
    assert len(set(groups[picks])) == 48
    check_greedy(picks.tolist(), groups, score, labeled, [i for i in range(400) if i not in labeled])


@pytest.mark.parametrize("method", [select, typiclust])
def test_one_pick_of_every_blob_the_largest_first(method):
    sizes = [7, 30, 12, 21]
    features, blob = blobs(sizes)
    for seed in range(5):
        assert blob[method(features, 4, rng=rng(seed))].tolist() == [1, 3, 2, 0]


@pytest.mark.parametrize("method", [select, typiclust])
def test_blobs_with_a_label_come_last(method):
    features, blob = blobs([7, 30, 12, 21])
    assert blob[method(features, 2, labeled=[10, 60], rng=rng())].tolist() == [2, 0]


def test_rounds_of_a_few_labels_are_as_good_as_one_of_many():
    """Fewer clusters than labels could not keep the labels apart."""
    digits = load_digits()
    features, truth = digits.data.astype(np.float32) / 16, digits.target

    def accuracy(labeled, seed):
        probs = prior(features, labeled, truth[labeled], 10, rng=rng(seed))
        return (probs.argmax(axis=1) == truth).mean()

    in_rounds, at_random = [], []
    for seed in range(4):
        labeled = select(features, 10, rng=rng(seed))
        for _ in range(4):
            labeled = np.concatenate([labeled, select(features, 3, labeled=labeled, rng=rng(seed))])
        in_rounds.append(accuracy(labeled, seed))
        at_random.append(accuracy(rng(seed).permutation(len(truth))[: len(labeled)], seed))
    # Measured: 0.89 to 0.92 against 0.68 to 0.79.
    assert np.mean(in_rounds) > 0.86 and np.mean(in_rounds) > np.mean(at_random) + 0.05


def test_outliers_come_last_in_typiclust():
    features, blob = blobs([300, 300, 300, 300, 1, 1])
    assert {4, 5} & set(blob[typiclust(features, 6, min_size=1, rng=rng())].tolist())
    assert not {4, 5} & set(blob[typiclust(features, 6, rng=rng())].tolist())


@pytest.mark.parametrize("method", [select, typiclust])
def test_the_same_samples_whatever_their_order(method):
    features, _ = blobs([7, 30, 12, 21])
    order = rng(7).permutation(70)
    assert sorted(order[method(features[order], 4, rng=rng())]) == sorted(method(features, 4, rng=rng(1)))


@pytest.mark.parametrize("method", [select, typiclust])
def test_samples_that_may_not_be_asked_take_part(method):
    # The largest blob has one candidate, which is picked although it is no medoid.
    features, blob = blobs([7, 30, 12, 21])
    candidates = np.setdiff1d(np.arange(70), np.arange(7, 36))
    picks = method(features, 4, candidates=candidates, rng=rng())
    assert picks[0] == 36 and blob[picks].tolist() == [1, 3, 2, 0]


@pytest.mark.parametrize("method", [select, typiclust])
@given(size=st.integers(1, 30), copies=st.integers(1, 4), seed=st.integers(0, 10**6), data=st.data())
@settings(max_examples=40, deadline=None)
def test_as_many_distinct_candidates_as_asked_for(method, size, copies, seed, data):
    features = np.repeat(cloud(size, 3, seed), copies, axis=0)
    order = rng(seed).permutation(len(features))
    labeled, candidates = np.split(order, [data.draw(st.integers(0, len(order) - 1))])
    candidates = candidates[: data.draw(st.integers(1, len(candidates)))]
    budget = data.draw(st.integers(1, len(candidates)))
    picks = method(features, budget, labeled=labeled, candidates=candidates, rng=rng(seed))
    assert len(set(picks.tolist())) == budget and set(picks.tolist()) <= set(candidates.tolist())
    assert picks.tolist() == method(features, budget, labeled=labeled, candidates=candidates, rng=rng(seed)).tolist()


def test_copies_are_drawn_evenly():
    features = np.ones((12, 3), np.float32)
    for method in (select, typiclust):
        counts = np.bincount(np.concatenate([method(features, 3, rng=rng(seed)) for seed in range(200)]), minlength=12)
        # 600 picks of 12: 50 each, standard deviation about 6.
        assert counts.min() > 25 and counts.max() < 75


@pytest.mark.parametrize("method", [select, typiclust])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"budget": 0}, "budget: 0, expected an integer from 1 to the 60 candidates"),
        ({"budget": 60, "labeled": [3]}, "budget: 60, expected an integer from 1 to the 59 candidates"),
        ({"candidates": [1, 2]}, "budget: 5, expected an integer from 1 to the 2 candidates"),
        ({"labeled": [60]}, "labeled: index 60 outside the 60 rows of features"),
        ({"labeled": [-1]}, "labeled: index -1 outside the 60 rows of features"),
        ({"labeled": [4, 4]}, "labeled: more than once: index 4"),
        ({"candidates": list(range(30)), "labeled": [7]}, "candidates: labelled already: index 7"),
        ({"features": np.where(np.arange(60)[:, None] == 7, np.inf, cloud())}, "features: not finite in row 7"),
        ({"features": np.zeros((60, 0))}, r"features: expected shape \(N, D\), got \(60, 0\)"),
    ],
)
def test_what_a_selection_refuses(method, change, message):
    with pytest.raises(ValueError, match=message) as caught:
        method(**{"features": cloud(), "budget": 5, "rng": rng(), **change})
    assert "\n" not in str(caught.value)


# ------------------------------------------------------------------------------------------ prior
def slow_constrained(features, clusters, labeled, generator):
    """Constrained-KMeans by loops, from the same draws."""
    seeds = list(generator.permutation(labeled))[:clusters]
    others = [i for i in range(len(features)) if i not in labeled]
    starts = seeds + list(generator.choice(np.array(others), clusters - len(seeds), replace=False))
    centres = [features[i].astype(np.float64) for i in starts]
    for _ in range(clustering.ITERATIONS):
        assignment = [min(range(clusters), key=lambda k: squared(x, centres[k])) for x in features]
        for k, seed in enumerate(seeds):
            assignment[seed] = k
        for k in range(clusters):
            members = [features[i] for i in range(len(features)) if assignment[i] == k]
            if members:
                centres[k] = np.mean(members, axis=0, dtype=np.float64)
    return assignment


@pytest.mark.parametrize("ks", [[2], [6], [9], [3, 6, 12], None])
def test_prior_as_slow_loops(ks):
    features = cloud()
    labeled, labels = np.array([5, 17, 2, 40, 41, 33]), np.array([0, 1, 2, 0, 1, 2])
    expected, generator = np.zeros((60, 3)), rng(8)
    for clusters in ks or [3, 6, 9, 12, 15, 18]:
        assignment = slow_constrained(features, clusters, labeled.tolist(), generator)
        for i in range(60):
            mates = [label for j, label in zip(labeled, labels, strict=True) if assignment[j] == assignment[i]]
            for label in mates:
                expected[i, label] += 1 / len(mates)
    for i in range(60):
        if expected[i].sum():
            expected[i] /= expected[i].sum()
    expected[labeled] = np.eye(3)[labels]
    assert np.allclose(prior(features, labeled, labels, 3, ks=ks, rng=rng(8)), expected, atol=1e-6)


def test_copies_of_several_labelled_samples_are_shared_by_lot():
    """All rows equal: each clustering gives them to one of the three labels; over the sizes and the seeds to each as often."""
    features, labeled, labels = np.ones((50, 3)), [10, 20, 30], [2, 1, 0]
    rest = np.delete(np.arange(50), labeled)
    total = np.zeros(3)
    for seed in range(60):
        probs = prior(features, labeled, labels, 3, rng=rng(seed))[rest]
        assert (probs == probs[0]).all()
        total += probs[0]
    # 360 clusterings, a third each: 60 ± 2.6 of 60 … in units of seeds 20 ± 1.5.
    assert np.allclose(total / 60, 1 / 3, atol=0.1)


def test_one_label_in_every_blob_says_it_all():
    features, blob = blobs([7, 30, 12, 21])
    labeled = np.array([0, 20, 40, 60])
    names = np.array([2, 0, 3, 1])
    assert np.array_equal(prior(features, labeled, names, 5, ks=[4], rng=rng()), np.eye(5, dtype=np.float32)[names[blob]])


def test_one_cluster_gives_every_sample_the_histogram_and_as_many_as_samples_none():
    features, labeled, labels = cloud(), [4, 9, 30], [1, 1, 0]
    probs = prior(features, labeled, labels, 2, ks=[1], rng=rng())
    assert np.allclose(np.delete(probs, labeled, axis=0), [1 / 3, 2 / 3])
    assert probs[labeled].tolist() == [[0, 1], [0, 1], [1, 0]]
    probs = prior(features, labeled, labels, 2, ks=[60], rng=rng())
    assert probs[labeled].tolist() == [[0, 1], [0, 1], [1, 0]] and probs.sum() == 3
    # Together: those that a label reached once are as sure as it is.
    assert np.allclose(np.delete(prior(features, labeled, labels, 2, ks=[60, 1], rng=rng()), labeled, axis=0), [1 / 3, 2 / 3])


def test_names_of_classes_are_only_names():
    features, labeled, labels = cloud(), np.array([5, 17, 2, 40, 41]), np.array([0, 1, 2, 0, 1])
    swap = np.array([2, 0, 1])
    probs = prior(features, labeled, labels, 3, rng=rng(9))
    assert np.allclose(prior(features, labeled, swap[labels], 3, rng=rng(9))[:, swap], probs, atol=1e-6)


@given(size=st.integers(2, 40), classes=st.integers(1, 5), seed=st.integers(0, 10**6), data=st.data())
@settings(max_examples=40, deadline=None)
def test_rows_of_a_prior_sum_to_one_or_nothing(size, classes, seed, data):
    features = cloud(size, 3, seed)
    labeled = rng(seed).permutation(size)[: data.draw(st.integers(0, size))]
    labels = rng(seed).integers(0, classes, len(labeled))
    probs = prior(features, labeled, labels, classes, rng=rng(seed))
    total = probs.sum(axis=1, dtype=np.float64)
    assert (probs >= 0).all() and (np.isclose(total, 1, atol=1e-6) | (total == 0)).all()
    assert functional.is_correct(probs[labeled], labels).all() and probs.shape == (size, classes)
    assert not probs[:, np.setdiff1d(np.arange(classes), labels)].any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labeled": [1, 60, 3]}, "labeled: index 60 outside the 60 rows of features"),
        ({"labeled": [1, 1, 3]}, "labeled: more than once: index 1"),
        ({"labeled": [1.5, 2, 3]}, "labeled: expected a list of integer indices"),
        ({"labels": [0, 1]}, r"labels: expected 3 integers, got int64 of shape \(2,\)"),
        ({"labels": [0, 1, 2]}, "labels: 2 is no class, valid: 0 to 1"),
        ({"labels": [0, -1, 1]}, "labels: -1 is no class, valid: 0 to 1"),
        ({"labels": [0.0, 1.0, 1.0]}, "labels: expected 3 integers, got float64"),
        ({"num_classes": 0}, "num_classes: 0, expected an integer, at least 1"),
        ({"ks": [3, 61]}, "ks: 61, expected an integer, 1 to the 60 samples"),
        ({"ks": [0]}, "ks: 0, expected an integer, 1 to the 60 samples"),
        ({"ks": []}, "ks: empty"),
        ({"features": np.where(np.arange(60)[:, None] == 7, np.nan, cloud())}, "features: not finite in row 7"),
    ],
)
def test_what_a_prior_refuses(change, message):
    arguments = {"features": cloud(), "labeled": [1, 2, 3], "labels": [0, 1, 1], "num_classes": 2, "rng": rng(), **change}
    with pytest.raises(ValueError, match=message) as caught:
        prior(**arguments)
    assert "\n" not in str(caught.value)


# ------------------------------------------------------------------------------------------ posterior
def test_the_posterior_as_slow_loops():
    table, probs = rng().dirichlet(np.ones(4), 30), rng(1).dirichlet(np.ones(4), 30)
    table[::3] = 0
    result = posterior(table, probs)
    for p, q, r in zip(table, probs, result, strict=True):
        total = sum(a + b for a, b in zip(p, q, strict=True))
        assert r.tolist() == pytest.approx([(a + b) / total for a, b in zip(p, q, strict=True)])
    assert np.array_equal(result[::3], probs[::3])


def test_a_sure_prior_halves_what_the_model_says():
    # (1 + 0.2) / 2, 0.7 / 2, 0.1 / 2.
    assert posterior([[1, 0, 0]], [[0.2, 0.7, 0.1]])[0].tolist() == pytest.approx([0.6, 0.35, 0.05])
    same = rng().dirichlet(np.ones(3), 5)
    assert np.allclose(posterior(same, same), same)


@pytest.mark.parametrize(
    ("table", "probs", "message"),
    [
        (np.zeros((2, 3)), np.full((2, 2), 0.5), r"prior: expected the shape of probs, \(2, 2\), got \(2, 3\)"),
        (np.full((2, 2), 0.4), np.full((2, 2), 0.5), "prior: must not be negative and sum to 1, or be zero, and does not in rows 0, 1"),
        (np.zeros((2, 2)), [[0.5, 0.5], [np.nan, 1]], "probs: .* does not in row 1"),
        (np.zeros((2, 2)), [[1.5, -0.5], [0, 1]], "probs: .* does not in row 0"),
        (np.zeros(2), np.zeros(2), r"prior: expected shape \(N, C\), got \(2,\)"),
    ],
)
def test_what_a_posterior_refuses(table, probs, message):
    with pytest.raises(ValueError, match=message):
        posterior(table, probs)


# ------------------------------------------------------------------------------------------ measures
def test_calibration_as_slow_loops():
    probs, labels = rng().dirichlet(np.full(3, 0.4), 200), rng(1).integers(0, 3, 200)
    probs[::10] = 0
    for bins in (1, 4, 15):
        error = 0.0
        for b in range(bins):
            members = [i for i in range(200) if (b == 0 and not probs[i].any()) or b / bins < probs[i].max() <= (b + 1) / bins]
            if members:
                confidence = sum(probs[i].max() for i in members) / len(members)
                right = sum(bool(probs[i].any()) and probs[i].argmax() == labels[i] for i in members) / len(members)
                error += len(members) / 200 * abs(confidence - right)
        assert expected_calibration_error(probs, labels, bins) == pytest.approx(error)


def test_calibration_by_hand():
    # Bins of 0.25. (0.5, 0.75]: 0.6 right and 0.7 wrong, mean confidence 0.65, accuracy 0.5. (0.75, 1]: 0.9 right. Zero row: gap 0.
    probs = np.array([[0.6, 0.4], [0.3, 0.7], [0.9, 0.1], [0, 0]])
    expected = 2 / 4 * 0.15 + 1 / 4 * 0.1 + 1 / 4 * 0
    assert expected_calibration_error(probs, [0, 0, 0, 0], bins=4) == pytest.approx(expected)


def test_the_upper_end_of_a_bin_belongs_to_it():
    # Confidence 0.5, right, is in (0.25, 0.5]; 0.6, wrong, is in (0.5, 0.75].
    assert expected_calibration_error([[0.5, 0.5], [0.6, 0.4]], [0, 1], bins=4) == pytest.approx((0.5 + 0.6) / 2)


def test_a_row_of_zeros_is_wrong_and_not_class_0():
    assert functional.is_correct(np.array([[0, 0], [1, 0]]), np.array([0, 0])).tolist() == [False, True]
    # Beside a right row of confidence 1/15 or less, it is half of what is wrong in the first bin.
    probs = np.full((2, 20), 1 / 20)
    probs[0] = 0
    assert expected_calibration_error(probs, [0, 0]) == pytest.approx(abs(0 + 0.05 - 0 - 1) / 2)


def test_sure_and_right_is_calibrated_and_sure_and_wrong_is_not():
    assert expected_calibration_error(np.eye(4), np.arange(4)) == 0
    assert expected_calibration_error(np.eye(4), [1, 2, 3, 0]) == 1


@pytest.mark.parametrize(
    ("probs", "labels", "bins", "message"),
    [
        (np.eye(2), [0], 15, "labels: expected 2 integers"),
        (np.eye(2), [0, 2], 15, "labels: 2 is no class"),
        (np.eye(2), [0, 1], 0, "bins: 0, expected an integer, at least 1"),
        (np.eye(2) * 2, [0, 1], 15, "probs: .* rows 0, 1"),
        (np.zeros((0, 2)), np.zeros(0, int), 15, "probs: no row to judge"),
    ],
)
def test_what_calibration_refuses(probs, labels, bins, message):
    with pytest.raises(ValueError, match=message):
        expected_calibration_error(probs, labels, bins)


@pytest.mark.parametrize("bins", [2, 10, 15])
def test_single_and_double_precision_have_the_same_calibration_error(bins):
    """Confidences on the edges of bins, where k / bins rounds up in one precision and down in the other."""
    confidence = np.arange(1, bins + 1) / bins
    confidence = confidence[confidence >= 0.5]
    probs = np.stack([confidence, 1 - confidence], axis=1)
    labels = np.arange(len(probs)) % 2
    expected = np.abs(confidence - (labels == 0)).mean()
    # Every confidence has a bin to itself, of which it is the upper edge.
    assert expected_calibration_error(probs, labels, bins) == pytest.approx(expected)
    assert expected_calibration_error(probs.astype(np.float32), labels, bins) == pytest.approx(expected, abs=1e-6)


def test_class_coverage_counts_classes():
    assert class_coverage([3, 3, 0, 7], 10) == 3 and class_coverage([], 10) == 0
    assert class_coverage(np.arange(10), 10) == 10
    for labels, message in (([10], "10 is no class"), ([[1]], "expected 1 integers"), ([0.5], "expected 1 integers")):
        with pytest.raises(ValueError, match=message):
            class_coverage(labels, 10)


# ------------------------------------------------------------------------------------------ on real images
@pytest.fixture(scope="module")
def digits():
    """Pixels of the pool's 1,343 handwritten digits, and what they are."""
    from usb_active.builtin.array_datasets import Digits

    dataset = Digits()
    pixels = np.stack([dataset.load(i).reshape(-1) for i in range(len(dataset))]).astype(np.float32) / 255
    return pixels, dataset.targets


def table_of(pixels, truth, picks, seed, ks=None):
    return prior(pixels, picks, truth[picks], 10, ks=ks, rng=rng(seed))


def test_ten_labels_cover_the_digits_and_name_three_of_four(digits):
    # Measured over these seeds: 9.05 classes and 0.78, and 6.5 and 0.53 for labels drawn at random.
    pixels, truth = digits
    coverage, accuracy = np.zeros((20, 2)), np.zeros((20, 2))
    for seed in range(20):
        pair = select(pixels, 10, rng=rng(seed)), rng(seed).choice(len(pixels), 10, replace=False)
        for column, picks in enumerate(pair):
            coverage[seed, column] = class_coverage(truth[picks], 10)
            accuracy[seed, column] = functional.is_correct(table_of(pixels, truth, picks, seed), truth).mean()
    assert coverage[:, 0].mean() >= 8.7 and accuracy[:, 0].mean() >= 0.75
    assert (coverage[:, 0] > coverage[:, 1]).mean() > 0.8 and (accuracy[:, 0] > accuracy[:, 1]).mean() > 0.9


@pytest.mark.parametrize("budget", [10, 20, 40])
def test_several_sizes_are_better_calibrated_than_one(digits, budget):
    # As in Table 6. Measured over 20 seeds: 0.24 to 0.21, 0.12 to 0.07, 0.14 to 0.05.
    pixels, truth = digits
    errors = np.zeros((8, 2))
    for seed in range(8):
        picks = select(pixels, budget, rng=rng(seed))
        for column, ks in enumerate((None, [10] * 6)):
            errors[seed, column] = expected_calibration_error(table_of(pixels, truth, picks, seed, ks), truth)
    assert errors[:, 0].mean() < errors[:, 1].mean()
