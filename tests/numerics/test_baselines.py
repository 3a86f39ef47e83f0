"""Cheap classifiers on fixed features: slow loops, closed forms, scikit-learn's own, and what must not matter."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.semi_supervised import LabelSpreading

from usb_active.numerics import baselines
from usb_active.numerics.baselines import Baselines, logistic_regression, majority_accuracy, nearest_label, noise


def blobs(size=120, classes=3, dim=4, spread=1.0, seed=0):
    """Points around one centre per class, 6 apart, and their classes."""
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, classes, size)
    centres = 6 * np.eye(classes, dim)
    return (centres[targets] + spread * rng.normal(size=(size, dim))).astype(np.float32), targets


def test_the_nearest_label_is_that_of_a_slow_loop():
    rows, labels = blobs(40, spread=4)
    queries, _ = blobs(30, spread=4, seed=1)
    expected = []
    for query in queries.tolist():
        distances = [math.dist(query, row) for row in rows.tolist()]
        expected.append(labels[distances.index(min(distances))])
    assert nearest_label(rows, labels, queries).tolist() == expected


def test_of_equally_near_labels_the_first_counts():
    assert nearest_label([[1.0], [-1.0]], [2, 0], [[0.0]]).tolist() == [2]


def test_two_points_are_told_apart_half_way_between_them():
    # By symmetry the boundary of logistic regression between -1 and 3 is at 1.
    assert logistic_regression([[-1.0], [3.0]], [0, 5], [[0.98], [1.02]]).tolist() == [0, 5]


def test_logistic_regression_minimises_the_penalised_loss():
    """The gradient of sum of -log softmax(Wx + b)[y] + |W|^2 / 2, written as a loop, vanishes at what was found."""
    rows, labels = blobs(60, spread=4)
    rows = rows.astype(np.float64)
    model = LogisticRegression(max_iter=1000, tol=1e-8).fit(rows, labels)
    gradient = model.coef_.copy()
    for row, label in zip(rows, labels, strict=True):
        scores = np.exp(model.coef_ @ row + model.intercept_)
        probs = scores / scores.sum()
        probs[label] -= 1
        gradient += np.outer(probs, row)
    assert np.abs(gradient).max() < 1e-3
    assert np.array_equal(logistic_regression(rows, labels, rows), model.predict(rows))


def test_a_single_class_is_all_that_is_predicted():
    pool, _ = blobs(20)
    found = Baselines(pool, pool).predict([3, 5], [2, 2], 3)
    assert {name: set(predicted.tolist()) for name, predicted in found.items()} == dict.fromkeys(("nearest", "logistic", "spreading"), {2})


@pytest.mark.parametrize(
    ("labels", "accuracy"),
    [
        ([1, 1, 0], 0.5),
        # Of a tie, the mean: (1/4 + 2/4) / 2.
        ([1, 0], 0.375),
        # (1/4 + 2/4 + 1/4) / 3
        ([0, 1, 2], 1 / 3),
        # No target is of class 7.
        ([7, 7, 0], 0.0),
    ],
)
def test_the_majority(labels, accuracy):
    assert majority_accuracy(labels, [0, 1, 1, 2]) == pytest.approx(accuracy)


def test_noise_is_two_standard_errors_of_the_difference():
    # sqrt((0.25 + 0.25) / 200) = sqrt(0.0025) = 0.05
    assert noise(0.5, 0.5, 200) == pytest.approx(1.96 * 0.05)
    assert noise(1.0, 1.0, 50) == 0
    # Simulated: the difference of two means of 400 draws.
    draws = np.random.default_rng(0).binomial(400, [[0.8], [0.7]], size=(2, 20_000)) / 400
    assert noise(0.8, 0.7, 400) == pytest.approx(1.96 * (draws[0] - draws[1]).std(), rel=0.02)


def test_spreading_is_scikit_learns():
    pool, targets = blobs(150, spread=2.5)
    queries, _ = blobs(60, spread=2.5, seed=1)
    labeled = np.array([0, 7, 31, 44, 90, 101])
    labels = np.full(150, -1)
    labels[labeled] = targets[labeled]
    theirs = LabelSpreading(kernel="knn", n_neighbors=7, alpha=0.2).fit(pool, labels)
    reached = (theirs.label_distributions_[theirs.nn_fit.kneighbors(queries, return_distance=False)]).any(axis=(1, 2))
    found = Baselines(pool, queries).predict(labeled, targets[labeled], 3)
    assert reached.sum() > 40
    assert np.array_equal(found["spreading"][reached], theirs.predict(queries)[reached])
    assert np.array_equal(found["spreading"][~reached], found["nearest"][~reached])


def test_spreading_follows_a_row_of_points_that_nearest_labels_do_not():
    """Two rows of 12 points, 1 apart, the rows 7 apart, labelled at opposite ends: each row is one class."""
    pool = np.array([(x, height) for height in (0, 7) for x in range(12)], np.float32)
    targets = np.repeat([0, 1], 12)
    found = Baselines(pool, pool).predict([0, 23], [0, 1], 2)
    # x^2 > (11 - x)^2 + 49, so x > 7.7: of each row the points 8 to 11 are nearer to the other label.
    assert (found["nearest"] == targets).mean() == 16 / 24
    assert (found["spreading"] == targets).all()


def test_beyond_the_limit_the_sparse_propagation_takes_over(monkeypatch):
    pool, targets = blobs(400)
    queries, expected = blobs(80, seed=1)
    labeled = np.array([int(np.flatnonzero(targets == one)[0]) for one in range(3)])
    exact = Baselines(pool, queries).predict(labeled, targets[labeled], 3)["spreading"]
    monkeypatch.setattr(baselines, "EXACT_UP_TO", 300)
    monkeypatch.setattr("sklearn.semi_supervised.LabelSpreading.fit", None)
    sparse = Baselines(pool, queries).predict(labeled, targets[labeled], 3)["spreading"]
    assert (sparse == expected).mean() > 0.97
    assert (sparse == exact).mean() > 0.9


def test_queries_train_nothing(monkeypatch):
    """What else is predicted does not change a prediction."""
    pool, targets = blobs(100, spread=3)
    queries, _ = blobs(40, spread=3, seed=1)
    labeled = np.arange(9)
    whole = Baselines(pool, queries).predict(labeled, targets[labeled], 3)
    part = Baselines(pool, queries[:5]).predict(labeled, targets[labeled], 3)
    assert all(np.array_equal(whole[name][:5], part[name]) for name in whole)


@pytest.mark.parametrize("limit", [20_000, 50])
def test_the_order_of_the_pool_does_not_matter(monkeypatch, limit):
    monkeypatch.setattr(baselines, "EXACT_UP_TO", limit)
    pool, targets = blobs(100)
    queries, _ = blobs(40, seed=1)
    order = np.random.default_rng(2).permutation(100)
    place = np.argsort(order)
    labeled = np.arange(6)
    one = Baselines(pool, queries).predict(labeled, targets[labeled], 3)
    other = Baselines(pool[order], queries).predict(place[labeled], targets[labeled], 3)
    # The inverted file's lists are trained on rows in their order, so that the approximate search may differ for a few.
    assert all((one[name] == other[name]).mean() >= (1 if limit > 100 or name != "spreading" else 0.95) for name in one)


def test_labels_beyond_the_limit_are_a_subset_that_is_always_the_same(monkeypatch):
    pool, targets = blobs(100, spread=4)
    monkeypatch.setattr(baselines, "LABELS_UP_TO", 10)
    seen = []
    monkeypatch.setattr(baselines, "logistic_regression", lambda rows, labels, queries: seen.append(rows) or np.zeros(len(queries)))
    for _ in range(2):
        Baselines(pool, pool[:5]).predict(np.arange(60), targets[:60], 3)
    assert len(seen[0]) == 10 and np.array_equal(seen[0], seen[1])
    assert all((row == pool[:60]).all(axis=1).any() for row in seen[0])


@pytest.mark.parametrize(
    ("pool", "queries", "message"),
    [
        ([[0.0], [np.nan]], [[1.0]], "pool: not finite in row 1"),
        ([[0.0]], [[np.inf]], "queries: not finite in row 0"),
        ([[0.0]], [[1.0, 2.0]], "queries: 2 features, and pool has 1"),
        ([0.0], [[1.0]], r"pool: expected shape \(N, D\), got \(1,\)"),
        ([[0.0]], np.empty((0, 1)), "queries: expected shape"),
    ],
)
def test_bad_features_are_named(pool, queries, message):
    with pytest.raises(ValueError, match=message):
        Baselines(pool, queries)


@pytest.mark.parametrize(("labeled", "labels"), [([], []), ([0, 1], [0]), ([0], [3]), ([0], [-1])])
def test_bad_labels_are_refused(labeled, labels):
    pool, _ = blobs(10)
    with pytest.raises(ValueError, match="labels: "):
        Baselines(pool, pool).predict(labeled, labels, 3)
