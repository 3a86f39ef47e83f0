"""Rows of length one, and rows that are not finite. (Other checks of arrays are tested where they are used.)"""

from __future__ import annotations

from math import sqrt

import numpy as np
import pytest

from usb_active.numerics import arrays
from usb_active.numerics.arrays import nonfinite_rows, unit_rows


def made(size=60, dim=7):
    return np.random.default_rng(0).normal(size=(size, dim)).astype(np.float32)


def test_rows_are_divided_by_their_length():
    rows = made()
    looped = [[value / sqrt(sum(v * v for v in row)) for value in row] for row in rows.astype(float).tolist()]
    assert unit_rows(rows).dtype == np.float32
    np.testing.assert_allclose(unit_rows(rows), looped, rtol=1e-6)
    np.testing.assert_allclose(unit_rows(5 * rows), unit_rows(rows), rtol=1e-6)


def test_zeros_stay_and_no_square_leaves_the_range_of_floats():
    features = np.array([[3, 4], [0, 0], [-1e30, 0], [0, 1e-30], [3e38, 3e38]], np.float32)
    half = sqrt(0.5)
    np.testing.assert_allclose(unit_rows(features), [[0.6, 0.8], [0, 0], [-1, 0], [0, 1], [half, half]], rtol=1e-6)
    np.testing.assert_allclose(unit_rows(np.array([[3e200, 4e200], [3e-200, -4e-200]])), [[0.6, 0.8], [0.6, -0.8]], rtol=1e-6)


@pytest.mark.parametrize("rows", [1, 7, 100])
def test_rows_that_are_not_finite_are_found_in_every_block(monkeypatch, rows):
    features = made()
    features[[4, 5, 59], [0, 6, 3]] = np.nan, np.inf, -np.inf
    monkeypatch.setattr(arrays, "BLOCK", rows * features.shape[1])
    assert nonfinite_rows(features).tolist() == [4, 5, 59]
    assert nonfinite_rows(made()).tolist() == nonfinite_rows(np.empty((0, 3))).tolist() == nonfinite_rows(np.empty((3, 0))).tolist() == []


@pytest.mark.parametrize("rows", [1, 7, 60])
def test_blocks_make_no_difference_and_the_input_stays(monkeypatch, rows):
    features = made()
    before, whole = features.copy(), unit_rows(features)
    monkeypatch.setattr(arrays, "BLOCK", rows * features.shape[1])
    assert np.array_equal(unit_rows(features), whole) and np.array_equal(features, before)
