"""K-means: Lloyd's iterations in slow loops, groups that are far apart, and what faiss is asked for."""

from __future__ import annotations

import numpy as np
import pytest

from usb_active.numerics import kmeans
from usb_active.numerics.kmeans import as_points, assign_rows, kmeans_centres, nearest_centres


def made(size=200, dim=3):
    return np.random.default_rng(0).normal(size=(size, dim)).astype(np.float32)


def lloyd(rows, centres, iterations):
    """Slow; in double precision. No cluster may end up empty."""
    centres = [list(map(float, centre)) for centre in centres]
    for _ in range(iterations):
        members = [[] for _ in centres]
        for row in rows.astype(float).tolist():
            distances = [sum((a - b) ** 2 for a, b in zip(row, centre, strict=True)) for centre in centres]
            members[distances.index(min(distances))].append(row)
        centres = [[sum(values) / len(rows_in) for values in zip(*rows_in, strict=True)] for rows_in in members]
    return centres


@pytest.mark.parametrize("iterations", [1, 2, 5])
def test_the_iterations_are_lloyds(iterations):
    rows = made()
    found = kmeans_centres(rows, 4, 0, iterations=iterations, first=rows[:4])
    np.testing.assert_allclose(found, lloyd(rows, rows[:4], iterations), rtol=1e-4, atol=1e-5)


def test_all_rows_are_looked_at_however_many_there_are():
    """faiss would take 256 per cluster."""
    rows = made(2000)
    found = kmeans_centres(rows, 1, 0, iterations=1)
    np.testing.assert_allclose(found[0], rows.mean(axis=0), atol=1e-5)


def test_the_nearest_and_how_far_it_is():
    rows, centres = made(), made(5) + 1
    squared, found = nearest_centres(rows, centres)
    table = ((rows[:, None].astype(float) - centres[None]) ** 2).sum(axis=2)
    assert found.dtype == np.int64 and np.array_equal(found, table.argmin(axis=1))
    np.testing.assert_allclose(squared, table.min(axis=1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [1, 200, 3000])
def test_rows_are_assigned_as_slow_loops_would(size, monkeypatch):
    monkeypatch.setattr(kmeans, "_PRODUCTS", 1000)
    rows, centres = made(size), made(7).astype(np.float64) + 0.5
    table = ((rows[:, None].astype(float) - centres[None]) ** 2).sum(axis=2)
    found, gain = assign_rows(rows, centres)
    assert found.dtype == np.int64 and np.array_equal(found, table.argmin(axis=1))
    assert gain == pytest.approx(((rows.astype(float) ** 2).sum() - table.min(axis=1).sum()) / 2, rel=1e-4, abs=1e-4)


def test_more_starts_are_never_worse():
    rows = made(300, 2)

    def cost(seed, starts):
        return nearest_centres(rows, kmeans_centres(rows, 12, seed, iterations=10, starts=starts))[0].sum()

    gains = [cost(seed, 1) - cost(seed, 8) for seed in range(5)]
    assert min(gains) > -1e-3 and max(gains) > 1


def test_the_seed_decides_modulo_its_range():
    rows = made()
    first = kmeans_centres(rows, 20, 3, iterations=2)
    assert np.array_equal(first, kmeans_centres(rows, 20, 3 + 2**31, iterations=2))
    assert not np.array_equal(first, kmeans_centres(rows, 20, 4, iterations=2))


def test_points_are_the_features_about_their_mean_by_a_power_of_two():
    # Mean (2, 3), largest value 5, so the scale is 2^-3.
    points = as_points(np.array([[1.0, 5.0], [3.0, 1.0]]))
    assert points.dtype == np.float32 and points.tolist() == [[-1 / 8, 2 / 8], [1 / 8, -2 / 8]]


@pytest.mark.parametrize("scale", [1e-300, 1e300])
def test_points_neither_overflow_nor_vanish(scale):
    features = np.random.default_rng(0).standard_normal((50, 3))
    points = as_points(scale * features)
    assert 0.1 < np.abs(points).max() <= 2
    ratios = points / (features - features.mean(axis=0))
    np.testing.assert_allclose(ratios, ratios[0, 0], rtol=1e-4)


def test_points_are_refused_by_row():
    features = np.ones((9, 2))
    features[[3, 8], 1] = np.inf
    with pytest.raises(ValueError, match="^features: not finite in rows 3, 8$"):
        as_points(features)
    with pytest.raises(ValueError, match=r"^features: expected shape \(N, D\), got \(4,\)$"):
        as_points(np.ones(4))
