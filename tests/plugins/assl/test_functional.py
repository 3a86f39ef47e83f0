"""The formulas of ASSL: slow loops of what the paper prints, closed forms on simple input, and invariants."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from usb_active.plugins.assl import functional as F

TINY = 2.0**-126  # the smallest normal number of single precision


def made_probs(rows: int, classes: int, seed: int = 0, sharpness: float = 2.0) -> np.ndarray:
    """(rows, classes) in double precision."""
    logits = sharpness * np.random.default_rng(seed).standard_normal((rows, classes))
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


@st.composite
def distributions(draw, pairs: int = 1):
    """`pairs` distributions over the same classes, zeros included."""
    classes = draw(st.integers(2, 6))
    weights = st.lists(st.one_of(st.just(0.0), st.floats(1e-30, 1.0)), min_size=classes, max_size=classes)
    rows = [np.array(draw(weights.filter(any))) for _ in range(pairs)]
    return [row / row.sum() for row in rows]


# ------------------------------------------------------------------------------------------ pseudo-EL2N
def el2n_of_one(row) -> float:
    """Eq. 1 in words: subtract the one-hot vector of the label, take the norm."""
    label = max(range(len(row)), key=lambda k: row[k])
    return math.sqrt(sum((p - (1.0 if k == label else 0.0)) ** 2 for k, p in enumerate(row)))


def test_pseudo_el2n_is_the_loop():
    probs = made_probs(50, 7)
    expected = [el2n_of_one(row) for row in probs.tolist()]
    np.testing.assert_allclose(F.pseudo_el2n(probs), expected, rtol=1e-12)
    np.testing.assert_allclose(F.pseudo_el2n(torch.from_numpy(probs).float()), expected, rtol=1e-5)


def test_pseudo_el2n_of_certain_and_uniform_rows():
    assert F.pseudo_el2n(np.eye(4)).tolist() == [0, 0, 0, 0]
    # (1 - 1/C)² + (C-1)/C² = (C-1)/C
    for classes in (2, 3, 10):
        assert F.pseudo_el2n(np.full((1, classes), 1 / classes))[0] == pytest.approx(math.sqrt((classes - 1) / classes))
    # Two classes: both entries are off by 1 - p.
    assert F.pseudo_el2n(np.array([[0.7, 0.3]]))[0] == pytest.approx(0.3 * math.sqrt(2))


@given(distributions())
@settings(max_examples=60, deadline=None)
def test_pseudo_el2n_does_not_depend_on_the_names_of_the_classes(rows):
    score = F.pseudo_el2n(np.array(rows))[0]
    assert 0 <= score <= math.sqrt((len(rows[0]) - 1) / len(rows[0])) + 1e-12
    assert F.pseudo_el2n(rows[0][None, ::-1])[0] == pytest.approx(score, abs=1e-12)


def test_pseudo_el2n_follows_the_rows_and_does_not_depend_on_blocks(monkeypatch):
    probs = made_probs(23, 5, seed=1)
    whole, order = F.pseudo_el2n(probs), np.random.default_rng(0).permutation(23)
    assert F.pseudo_el2n(probs[order]).tolist() == whole[order].tolist()
    monkeypatch.setattr("usb_active.numerics.arrays.BLOCK", 20)
    assert F.pseudo_el2n(probs).tolist() == whole.tolist()


# ------------------------------------------------------------------------------------------ symmetric KL
def kl_of_one(p, q) -> float:
    """KL(p, q) in nats, logarithms of max(·, TINY)."""
    return sum(a * (math.log(max(a, TINY)) - math.log(max(b, TINY))) for a, b in zip(p, q, strict=True))


def symmetric_kl_of_one(p, q) -> float:
    """Eq. 4: the mean of both directions."""
    return (kl_of_one(p, q) + kl_of_one(q, p)) / 2


def test_symmetric_kl_is_the_loop():
    weak, strong = made_probs(50, 6, seed=1), made_probs(50, 6, seed=2, sharpness=4)
    expected = [symmetric_kl_of_one(p, q) for p, q in zip(weak.tolist(), strong.tolist(), strict=True)]
    np.testing.assert_allclose(F.symmetric_kl(weak, strong), expected, rtol=1e-10)
    single = torch.from_numpy(weak).float(), torch.from_numpy(strong).float()
    np.testing.assert_allclose(F.symmetric_kl(*single), expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(F.symmetric_kl_from_logits(single[0], single[1].log() + 3), expected, rtol=1e-4, atol=1e-6)


def test_symmetric_kl_of_two_classes():
    # (p, 1-p) against (1-p, p): both directions are (2p - 1) log(p / (1-p)).
    p = np.array([0.5, 0.6, 0.9, 0.999])
    pairs = np.stack([p, 1 - p], axis=1)
    np.testing.assert_allclose(F.symmetric_kl(pairs, pairs[:, ::-1]), (2 * p - 1) * np.log(p / (1 - p)), rtol=1e-12)


@pytest.mark.parametrize("make", [np.array, lambda rows: torch.tensor(rows, dtype=torch.float32)], ids=["array", "tensor"])
def test_symmetric_kl_of_one_hot_rows_is_finite(make):
    eye = np.eye(3).tolist()
    # Each direction is 1 · (log 1 - log TINY).
    assert F.symmetric_kl(make(eye), make(eye[1:] + eye[:1])).tolist() == pytest.approx([-math.log(TINY)] * 3, rel=1e-6)
    assert F.symmetric_kl(make(eye), make(eye)).tolist() == [0, 0, 0]


def test_a_tensor_and_an_array_may_be_mixed():
    weak, strong = [[0.7, 0.3]], [[0.2, 0.8]]
    expected = F.symmetric_kl(np.array(weak), np.array(strong)).tolist()
    assert F.symmetric_kl(torch.tensor(weak), np.array(strong)).tolist() == pytest.approx(expected, rel=1e-6)
    assert F.symmetric_kl(np.array(weak), torch.tensor(strong)).tolist() == pytest.approx(expected, rel=1e-6)


def test_symmetric_kl_of_extreme_logits_is_that_of_one_hot_rows():
    weak = torch.eye(3)
    for logits in (1e4 * torch.eye(3)[[1, 2, 0]], torch.full((3, 3), -math.inf).fill_diagonal_(0.0)[[1, 2, 0]]):
        assert F.symmetric_kl_from_logits(weak, logits).tolist() == pytest.approx([-math.log(TINY)] * 3, rel=1e-6)
    assert F.symmetric_kl_from_logits(weak, 1e4 * torch.eye(3)).tolist() == [0, 0, 0]


@given(distributions(pairs=2))
@settings(max_examples=60, deadline=None)
def test_symmetric_kl_is_symmetric_and_zero_for_equal_rows_only(rows):
    if len(rows[0]) != len(rows[1]):
        rows = [rows[0], rows[0][::-1]]
    p, q = rows[0][None], rows[1][None]
    score = F.symmetric_kl(p, q)[0]
    assert 0 <= score <= -math.log(TINY) + 1e-9
    assert F.symmetric_kl(q, p)[0] == pytest.approx(score, rel=1e-12)
    assert F.symmetric_kl(p, p)[0] == 0
    # Pinsker: KL >= ||p - q||_1² / 2.
    assert score >= np.abs(p - q).sum() ** 2 / 2 - 1e-9


# ------------------------------------------------------------------------------------------ EMA and UCB
def ema_of_one_at_a_time(num_samples, alpha, idx, values):
    """Eq. 3 as printed, one value after the other."""
    mean, variance, visits = [0.0] * num_samples, [0.0] * num_samples, [0] * num_samples
    for i, x in zip(idx, values, strict=True):
        mean[i] = alpha * x + (1 - alpha) * mean[i]
        variance[i] = alpha * (x - mean[i]) ** 2 + (1 - alpha) * variance[i]
        visits[i] += 1
    return np.array(mean), np.array(variance), np.array(visits)


@pytest.mark.parametrize("alpha", [0.1, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("c", [0.0, 0.5, 2.0])
def test_ema_ucb_is_the_loop_with_samples_that_repeat_within_a_batch(alpha, c):
    rng, tracker = np.random.default_rng(0), F.EmaUcb(12, alpha)
    # Batches of up to 9 from 11 samples: most repeat one or more; sample 11 is never seen.
    batches = [rng.integers(0, 11, size) for size in (9, 1, 7, 9, 0, 9, 8)]
    values = [3 * rng.random(len(batch)) for batch in batches]
    for batch, x in zip(batches, values, strict=True):
        tracker.update(torch.from_numpy(batch), torch.from_numpy(x))
    mean, variance, visits = ema_of_one_at_a_time(12, alpha, np.concatenate(batches), np.concatenate(values))
    assert max(np.bincount(batch).max() for batch in batches if len(batch)) >= 3
    np.testing.assert_allclose(tracker.mean, mean, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(tracker.variance, variance, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(tracker.ucb(c), mean + c * np.sqrt(variance), rtol=1e-4, atol=1e-3)
    assert tracker.visits.tolist() == visits.tolist() and visits[11] == 0 and tracker.ucb(c)[11] == 0


def test_first_visit():
    tracker = F.EmaUcb(3, 0.8)
    tracker.update([1], [5.0])
    # 0.8 · 5 = 4; 0.8 · (5 - 4)² = 0.8 = 0.032 · 5²
    assert tracker.mean.tolist() == [0, 4, 0]
    assert tracker.variance.tolist() == pytest.approx([0, 0.032 * 25, 0])
    assert tracker.ucb(2.0)[1] == pytest.approx(4 + 2 * math.sqrt(0.8))
    assert tracker.visits.tolist() == [0, 1, 0]


@pytest.mark.parametrize("alpha", [0.3, 0.8])
def test_constant_input_after_every_number_of_visits(alpha):
    # With β = 1 - α, the mean is short of x by xβⁿ, so the variance is α Σ β^(n-k) (xβᵏ)² = x² β^(n+1) (1 - βⁿ).
    tracker, x, beta = F.EmaUcb(1, alpha), 3.0, 1 - alpha
    for n in range(1, 12):
        tracker.update([0], [x])
        assert tracker.mean[0] == pytest.approx(x * (1 - beta**n), rel=1e-5)
        assert tracker.variance[0] == pytest.approx(x * x * beta ** (n + 1) * (1 - beta**n), rel=1e-3, abs=1e-9)
    for _ in range(100):
        tracker.update([0], [x])
    assert tracker.ucb(2.0)[0] == pytest.approx(x)


def test_alpha_one_is_the_last_value():
    tracker = F.EmaUcb(2, 1.0)
    tracker.update([0, 1, 0], [1.0, 2.0, 7.0])
    assert tracker.ucb(5.0).tolist() == [7, 2]


batches_of = st.lists(st.tuples(st.integers(0, 5), st.floats(0, 10)), min_size=1, max_size=12)


@given(batches_of, st.floats(0.05, 1.0), st.integers(0, 12))
@settings(max_examples=60, deadline=None)
def test_only_the_order_within_a_sample_matters(pairs, alpha, cut):
    idx, values = [i for i, _ in pairs], [x for _, x in pairs]
    whole, parts, grouped = (F.EmaUcb(6, alpha) for _ in range(3))
    whole.update(idx, values)
    parts.update(idx[:cut], values[:cut])
    parts.update(idx[cut:], values[cut:])
    order = np.argsort(idx, kind="stable")
    grouped.update(np.array(idx)[order], np.array(values)[order])
    for other in (parts, grouped):
        assert all(torch.equal(value, other.state_dict()[name]) for name, value in whole.state_dict().items())


def test_the_bound_scales_with_the_values_and_grows_with_c():
    rng = np.random.default_rng(3)
    one, four = F.EmaUcb(5, 0.8), F.EmaUcb(5, 0.8)
    for _ in range(6):
        idx, x = rng.integers(0, 5, 8), rng.random(8)
        one.update(idx, x)
        four.update(idx, 4 * x)
    assert torch.equal(four.ucb(0.5), 4 * one.ucb(0.5))
    assert (one.ucb(2.0) > one.ucb(0.5)).all() and (one.ucb(0.5) > one.ucb(0)).all()
    assert torch.equal(one.ucb(0), one.mean)


def test_state_resumes_where_it_was():
    one, other = F.EmaUcb(4, 0.8), F.EmaUcb(4, 0.8)
    one.update([0, 1, 1], [1.0, 2.0, 0.5])
    other.load_state_dict(one.state_dict())
    one.update([1, 3], [1.0, 2.0])
    # A copy: what the first saw since is not in it.
    assert other.visits.tolist() == [1, 2, 0, 0]
    other.update([1, 3], [1.0, 2.0])
    assert torch.equal(one.ucb(2.0), other.ucb(2.0))


def test_half_precision_and_gradients_are_taken_in():
    tracker = F.EmaUcb(2, 0.5)
    tracker.update(torch.tensor([0, 1], dtype=torch.int32), torch.tensor([1.0, 2.0], dtype=torch.float16, requires_grad=True))
    assert tracker.mean.tolist() == [0.5, 1.0] and not tracker.mean.requires_grad


# ------------------------------------------------------------------------------------------ other devices
def test_nothing_waits_for_another_device():
    """A meta tensor has no values: whatever looked at one would fail."""
    probs, logits = torch.empty(4, 3, device="meta"), torch.empty(4, 3, device="meta")
    tracker, idx = F.EmaUcb(9, 0.8, "meta"), torch.tensor([1, 5, 5, 0])
    for values in (F.pseudo_el2n(probs, idx), F.symmetric_kl(probs, probs, idx), F.symmetric_kl_from_logits(probs, logits, idx)):
        tracker.update(idx, values)
    with pytest.raises(ValueError, match="^idx: index 9 out of range"):
        tracker.update(torch.tensor([1, 9, 5, 0]), F.pseudo_el2n(probs))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_gives_the_numbers_of_the_cpu_and_names_bad_samples_at_the_end():
    weak, strong = torch.from_numpy(made_probs(8, 5)).float(), torch.from_numpy(made_probs(8, 5, seed=1)).float().log()
    idx, trackers = torch.tensor([3, 1, 3, 0, 7, 7, 7, 2]), {device: F.EmaUcb(8, 0.8, device) for device in ("cpu", "cuda")}
    for device, tracker in trackers.items():
        rows = weak.to(device), strong.to(device)
        torch.cuda.set_sync_debug_mode("error")
        try:
            tracker.update(idx, F.pseudo_el2n(rows[0], idx) * F.symmetric_kl_from_logits(*rows, idx))
        finally:
            torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(trackers["cuda"].ucb(2.0).cpu(), trackers["cpu"].ucb(2.0))
    weak[4] = 0.9
    trackers["cuda"].update(idx, F.pseudo_el2n(weak.cuda(), idx))
    with pytest.raises(ValueError, match="not finite for sample 7$"):
        trackers["cuda"].ucb(2.0)


# ------------------------------------------------------------------------------------------ score and temporal instability
def test_score_is_the_product():
    u, i = np.array([0.0, 0.5, 2.0]), np.array([3.0, 0.25, 1.5])
    assert F.acquisition_score(u, i).tolist() == [0, 0.125, 3]
    assert F.acquisition_score(torch.from_numpy(i), torch.from_numpy(u)).tolist() == [0, 0.125, 3]


def changes_of_one(labels) -> int:
    return sum(1 for t in range(1, len(labels)) if labels[t] != labels[t - 1])


def test_temporal_instability_is_the_loop():
    labels = np.random.default_rng(0).integers(0, 3, (9, 20))
    assert F.temporal_instability(labels).tolist() == [changes_of_one(column) for column in labels.T.tolist()]


def test_temporal_instability_of_constant_and_alternating_labels():
    # Seven observations: six changes at most.
    labels = np.array([[2, t % 2, t >= 4] for t in range(7)])
    assert F.temporal_instability(labels).tolist() == [0, 6, 1]
    assert F.temporal_instability(labels[:1]).tolist() == [0, 0, 0]


def test_temporal_instability_does_not_depend_on_the_names_of_the_labels_or_the_direction_of_time():
    labels = np.random.default_rng(1).integers(0, 4, (12, 15))
    expected = F.temporal_instability(labels).tolist()
    assert F.temporal_instability(np.array([2, 0, 3, 1])[labels]).tolist() == expected
    assert F.temporal_instability(labels[::-1]).tolist() == expected
    halves = F.temporal_instability(labels[:6]) + F.temporal_instability(labels[5:])
    assert halves.tolist() == expected


# ------------------------------------------------------------------------------------------ bad input
@pytest.mark.parametrize("alpha", [0.0, -0.1, 1.01, float("nan")])
def test_alpha_out_of_range(alpha):
    with pytest.raises(ValueError, match="^alpha: .*above 0 and at most 1$"):
        F.EmaUcb(3, alpha)


def test_no_samples():
    with pytest.raises(ValueError, match="^num_samples: 0"):
        F.EmaUcb(0, 0.8)


@pytest.mark.parametrize("c", [-0.5, float("nan"), float("inf")])
def test_c_out_of_range(c):
    with pytest.raises(ValueError, match="^c: .*not below 0$"):
        F.EmaUcb(3, 0.8).ucb(c)


@pytest.mark.parametrize(
    ("idx", "values", "message"),
    [
        ([0, 4, -1], [1.0, 1.0, 1.0], "^idx: indices 4, -1 out of range; valid: 0 to 3$"),
        ([0, 3, 3], [1.0, 2.0, float("nan")], "^values: not finite for sample 3$"),
        ([2, 1, 0], [float("inf"), 2.0, float("nan")], "^values: not finite for samples 2, 0$"),
        ([0, 1], [1.0], r"^values: expected one for each of the 2 indices, shape \(2,\), got \(1,\)$"),
        ([0.0, 1.0], [1.0, 1.0], "^idx: expected a list of integer indices, got float64"),
        ([[0], [1]], [1.0, 1.0], "^idx: expected a list of integer indices, .* shape"),
    ],
)
def test_bad_updates_are_refused_and_leave_no_trace(idx, values, message):
    tracker = F.EmaUcb(4, 0.8)
    with pytest.raises(ValueError, match=message):
        tracker.update(idx, values)
    assert not tracker.visits.any() and not tracker.mean.any()


def test_a_state_of_another_size_is_refused():
    with pytest.raises(ValueError, match="^state: expected 4 samples"):
        F.EmaUcb(4, 0.8).load_state_dict(F.EmaUcb(5, 0.8).state_dict())


BAD_ROWS = {
    "logits": ([2.0, -1.0, 0.5], "sum 1.5 and minimum -1"),
    "too much": ([0.5, 0.5, 0.5], "sum 1.5"),
    "negative": ([1.5, -0.5, 0.0], "minimum -0.5"),
    "nan": ([float("nan"), 0.5, 0.5], "sum nan"),
    "inf": ([float("inf"), 0.0, 0.0], "sum inf"),
}


@pytest.mark.parametrize("name", BAD_ROWS)
@pytest.mark.parametrize("as_tensor", [False, True])
def test_rows_that_are_no_distribution_are_named(name, as_tensor):
    row, said = BAD_ROWS[name]
    rows = np.full((6, 3), 1 / 3)
    good = rows.copy()
    rows[[2, 4]] = row
    if as_tensor:
        rows, good = torch.from_numpy(rows).float(), torch.from_numpy(good).float()
    idx = np.arange(30, 36)
    with pytest.raises(ValueError, match=f"^probs: rows must be finite, not negative and sum to 1, got .*{said}.* first in rows 2, 4$"):
        F.pseudo_el2n(rows)
    with pytest.raises(ValueError, match="^probs: .* first in samples 32, 34$"):
        F.pseudo_el2n(rows, idx)
    with pytest.raises(ValueError, match="^probs_weak: .* first in samples 32, 34$"):
        F.symmetric_kl(rows, good, idx)
    with pytest.raises(ValueError, match="^probs_strong: .* first in rows 2, 4$"):
        F.symmetric_kl(good, rows)
    if as_tensor:
        with pytest.raises(ValueError, match="^probs_weak: .* first in samples 32, 34$"):
            F.symmetric_kl_from_logits(rows, good, idx)


def test_logits_without_a_softmax_are_named():
    probs, logits = torch.full((4, 2), 0.5), torch.zeros(4, 2)
    logits[1, 0], logits[2, 1], logits[3] = math.nan, math.inf, -math.inf
    with pytest.raises(ValueError, match="^logits_strong: not finite in samples 11, 12, 13$"):
        F.symmetric_kl_from_logits(probs, logits, torch.arange(10, 14))


def test_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match=r"^probs: expected shape \(B, C\), got \(3,\)$"):
        F.pseudo_el2n(np.ones(3))
    with pytest.raises(ValueError, match=r"expected one shape, got \(2, 2\) and \(2, 4\)$"):
        F.symmetric_kl(np.full((2, 2), 0.5), np.full((2, 4), 0.25))
    with pytest.raises(ValueError, match="^u_ucb and i_ucb: expected one shape"):
        F.acquisition_score(np.ones(3), np.ones(4))
    with pytest.raises(ValueError, match="^score: not finite for samples 1, 2$"):
        F.acquisition_score(np.array([1.0, math.nan, 1.0]), np.array([1.0, 1.0, math.inf]))
    for labels in (np.zeros(3, int), np.zeros((0, 3), int), np.zeros((2, 3))):
        with pytest.raises(ValueError, match=r"^labels_over_time: expected integers of shape \(times, N\)"):
            F.temporal_instability(labels)
