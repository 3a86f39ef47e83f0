"""The analysis of an autoencoder: what it computes, what it keeps of real runs, what its page shows, and what it refuses."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from run_helpers import checkpoint, command, labels_of, settings, train, weights_equal, write_yaml
from usb_active.plugins.assal import analysis_functional as F
from usb_active.plugins.assal.analysis import AutoencoderAnalysis, read_shown
from usb_active.plugins.assal.analysis_page import mosaic, page

from usb_active.errors import UsageError

KEYS = {
    "algorithm": "assal", "net": {"name": "assal_vae", "latent": 4, "width": 4}, "include_lb_to_ulb": False, "optim": "AdamW",
    "lr": 0.002, "uratio": 1, "assal_sampler_width": 16,
}  # fmt: skip
SMALL = {"name": "assal", "images": 6, "samples": 7, "steps": 3}


def assal(tmp_path, name="run", /, active=None, **usb):
    return settings(tmp_path, name, active={"acquisition": "assal", **(active or {})}, **{**KEYS, **usb})


# ------------------------------------------------------------------------------------------------- arithmetic
@given(st.lists(st.integers(1, 7), min_size=1, max_size=5), st.integers(0, 99))
@examples(max_examples=30, deadline=None)
def test_the_spread_of_codes_is_that_of_all_at_once(sizes, seed):
    codes = np.random.default_rng(seed).normal(1000, 3, size=(sum(sizes), 3)).astype(np.float32)
    spread = F.CodeSpread(3)
    for part in np.split(codes, np.cumsum(sizes)):
        spread.add(part)
    assert spread.count == len(codes)
    np.testing.assert_allclose(spread.mean, codes.mean(axis=0, dtype=np.float64))
    np.testing.assert_allclose(spread.variance, codes.var(axis=0, dtype=np.float64), atol=1e-9)


def test_the_widest_directions_are_the_largest_variances():
    assert F.widest_directions(np.array([1.0, 3.0, 2.0, 3.0])).tolist() == [1, 3]
    assert F.widest_directions(np.array([0.5])).tolist() == [0]


def test_a_traversal_changes_one_dimension_by_the_values():
    # Mean 1, standard deviation 3: −5, 1 and 7.
    values = F.traversal_values(1.0, 9.0, 3)
    assert values.tolist() == [-5, 1, 7]
    codes = F.traversal_codes(np.array([[1.0, 2.0], [3.0, 4.0]]), 1, values)
    assert codes.tolist() == [[[1, -5], [1, 1], [1, 7]], [[3, -5], [3, 1], [3, 7]]]


def test_pixels_are_those_before_the_normalisation_and_clipped():
    pixels = np.random.default_rng(0).integers(0, 256, size=(2, 5, 4, 3)).astype(np.uint8)
    mean, std = np.array([0.1, 0.5, 0.4]), np.array([0.2, 0.3, 0.6])
    views = np.moveaxis((pixels / 255 - mean) / std, -1, 1).astype(np.float32)
    assert np.array_equal(F.to_pixels(views, mean, std), pixels)
    assert F.to_pixels(np.array([[[-9.0, 9.0]]]), (0.5,), (1.0,)).ravel().tolist() == [0, 255]


def test_the_histogram_has_all_samples_and_extremes_do_not_overflow():
    counts = F.score_histogram(np.array([-1e30, -0.01, 0.0, 0.01, 1e30]))
    # Half of BINS is where ½ begins; 0 and 1 are in the first and the last.
    middle = F.BINS // 2
    assert counts.sum() == 5 and counts[[0, middle - 1, middle, -1]].tolist() == [1, 1, 2, 1]


def test_balanced_accuracy_weighs_both_pools_alike():
    # One of two labelled, three of four unlabelled; 0 counts as unlabelled.
    assert F.pools_told_apart([1, -1], [-1, -2, 0, 3]) == 0.625
    assert F.pools_told_apart([], [1.0]) is None and F.pools_told_apart([1.0], []) is None


def test_images_stay_as_long_as_they_are_in_their_pool():
    pool, rng = np.array([1, 3, 5, 7, 9]), np.random.default_rng(0)
    kept = F.kept_first(pool, np.array([7, 8, 3]), 4, rng)
    assert kept[:2].tolist() == [7, 3] and set(kept) <= set(pool.tolist()) and len(set(kept.tolist())) == 4
    assert F.kept_first(pool, np.array([7, 3, 1]), 2, rng).tolist() == [7, 3]
    assert sorted(F.kept_first(pool, np.zeros(0, int), 9, rng).tolist()) == pool.tolist()
    assert not len(F.kept_first(pool[:0], pool, 3, rng))


# ------------------------------------------------------------------------------------------------- real runs
@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A run with the analysis and one without, to their ends."""
    folder = tmp_path_factory.mktemp("pair")
    block = {"keep": "all", "cycles": 1}
    watched = train(assal(folder, "watched", {**block, "analysis": SMALL}))
    train(assal(folder, "plain", block))
    return SimpleNamespace(folder=folder, path=folder / "watched", plain=folder / "plain", algorithm=watched)


def test_weights_sampler_and_picks_are_those_of_a_run_without(pair):
    assert labels_of(pair.path) == labels_of(pair.plain)
    for cycle in (0, 1):
        one, other = (checkpoint(path, cycle) for path in (pair.path, pair.plain))
        assert weights_equal(one, other)
        samplers = [end["active"]["registered"]["algorithm"]["sampler"] for end in (one, other)]
        assert all(torch.equal(value, samplers[1][name]) for name, value in samplers[0].items())


def test_scores_are_the_samplers_of_the_live_codes_of_both_pools(pair):
    shown, algorithm = read_shown(pair.path / "analysis", 1), pair.algorithm
    dataset, split = algorithm.session.dataset, algorithm.split
    assert (shown.cycle, shown.labels) == (1, len(split.labeled))
    with torch.no_grad():
        for idx, logits in ((split.labeled, shown.labeled_logits), (split.unlabeled, shown.unlabeled_logits)):
            views = torch.stack([dataset.views.eval(dataset.load(int(i))) for i in np.sort(idx)])
            mu = algorithm.model.eval().encode(views)[0]
            np.testing.assert_allclose(logits, algorithm.sampler(mu), atol=1e-5)
    assert shown.labeled_counts.sum() == len(split.labeled) and shown.unlabeled_counts.sum() == len(split.unlabeled)


def test_pictures_are_of_the_images_and_of_their_codes(pair):
    shown, algorithm = read_shown(pair.path / "analysis", 1), pair.algorithm
    dataset = algorithm.session.dataset
    first = int(shown.unlabeled_idx[0])
    pixels = np.asarray(dataset.load(first))
    assert np.abs(shown.unlabeled_images[0, ..., 0].astype(int) - pixels).max() <= 1
    views = torch.stack([dataset.views.eval(dataset.load(int(i))) for i in range(len(dataset))])
    with torch.no_grad():
        mu = algorithm.model.eval().encode(views)[0]
        np.testing.assert_allclose(shown.variance, mu.var(dim=0, correction=0), rtol=1e-3, atol=1e-6)
        assert shown.directions.tolist() == mu.var(dim=0, correction=0).argsort(descending=True)[:2].tolist()
        code = mu[first].clone()
        code[shown.directions[1]] = shown.values[1, 2]
        images = algorithm.model.decode(torch.stack([mu[first], code])).numpy()
    decoded = F.to_pixels(images, dataset.mean, dataset.std).astype(int)
    assert np.abs(shown.unlabeled_reconstructions[0] - decoded[0]).max() <= 1
    assert np.abs(shown.starts[0, 1] - decoded[0]).max() <= 1 and np.array_equal(shown.starts[0, 0], shown.unlabeled_images[0])
    assert np.abs(shown.traversals[1, 0, 2] - decoded[1]).max() <= 1
    assert shown.samples.shape == (7, 8, 8, 1) and len(np.unique(shown.samples.reshape(7, -1), axis=0)) == 7


def test_the_same_images_are_shown_in_every_cycle(pair):
    one, other = (read_shown(pair.path / "analysis", cycle) for cycle in (0, 1))
    moved = np.isin(one.unlabeled_idx, pair.algorithm.split.labeled)
    assert other.labeled_idx.tolist() == one.labeled_idx.tolist() and len(one.labeled_idx) == 6
    assert other.unlabeled_idx[: (~moved).sum()].tolist() == one.unlabeled_idx[~moved].tolist()
    assert not set(other.unlabeled_idx) & set(pair.algorithm.split.labeled)


def test_the_report_of_a_run_shows_every_cycle(pair):
    found = command("report", pair.path, "--analysis")
    assert found.returncode == 0, found.stderr
    text = (pair.path / "report/analysis.md").read_text(encoding="utf-8")
    shown = read_shown(pair.path / "analysis", 1)
    assert f"### Cycle 1, {shown.labels} labels" in text and "<summary>Cycle 0, 20 labels</summary>" in text
    assert f"{100 * shown.balanced_accuracy:.1f}" in text
    names = sorted(path.name for path in (pair.path / "report/analysis_watched").iterdir())
    kinds = ("reconstructions", "samples", "scores", "traversals")
    assert names == [f"cycle_{cycle:03d}_{kind}.png" for cycle in (0, 1) for kind in kinds]
    assert all(f"(analysis_watched/{name})" in text for name in names)


# ------------------------------------------------------------------------------------------------- pages of other runs
def kept(shown, **changes):
    return F.Shown(**{**vars(shown), **changes})


def test_what_a_run_does_not_have_is_left_out(pair, tmp_path):
    shown, none = read_shown(pair.path / "analysis", 1), np.zeros(0)
    text = page([kept(shown, labeled_logits=none, unlabeled_logits=none)], tmp_path)
    assert "registered no sampler" in text and "balanced" not in text.lower() and "scores.png" not in text
    # All is labelled: there is one pool, and no sampler's accuracy.
    names = ("unlabeled_idx", "unlabeled_images", "unlabeled_reconstructions", "unlabeled_logits")
    empty = {name: getattr(shown, name)[:0] for name in names}
    text = page([kept(shown, **empty, unlabeled_counts=0 * shown.unlabeled_counts)], tmp_path)
    assert "| – | – |" in text and (tmp_path / "cycle_001_scores.png").is_file()
    # A code of one dimension has one direction.
    one = {name: getattr(shown, name)[:1] for name in ("directions", "values", "traversals")}
    assert "The code's only dimension" in page([kept(shown, **one)], tmp_path)


def test_a_mosaic_has_cells_in_their_order_and_white_between():
    grid = np.arange(6, dtype=np.uint8).reshape(2, 3, 1, 1, 1)
    assert mosaic(grid, 1)[..., 0].tolist() == [[0, 255, 1, 255, 2], [255] * 5, [3, 255, 4, 255, 5]]
    colored = np.zeros((1, 1, 2, 2, 3), dtype=np.uint8)
    colored[..., 1] = 7
    assert np.array_equal(mosaic(colored, 3), colored[0, 0])


@pytest.mark.parametrize("latent", [1, 3])
def test_a_short_code_is_shown_too(tmp_path, latent):
    train(assal(tmp_path, active={"cycles": 0, "analysis": SMALL}, net={"name": "assal_vae", "latent": latent, "width": 4}))
    shown = read_shown(tmp_path / "run/analysis", 0)
    assert len(shown.directions) == min(2, latent) and shown.traversals.shape[:3] == (min(2, latent), 4, 3)
    assert page([shown], tmp_path)


# ------------------------------------------------------------------------------------------------- refused
def test_an_algorithm_without_an_autoencoder_is_refused_before_the_run(tmp_path):
    data = settings(tmp_path, active={"analysis": "assal"}, algorithm="supervised")
    found = command("check", write_yaml(tmp_path / "a.yaml", data))
    assert found.returncode == 2 and "this algorithm trains none: it has no encoder, no decoder and no sampler" in found.stderr
    assert "Traceback" not in found.stderr and not (tmp_path / "run").exists()


def test_any_algorithm_that_needs_both_halves_is_watched():
    AutoencoderAnalysis().check(60, 3, algorithm=type("Mine", (), {"needs_network": ("decode", "encode", "more")}))
    with pytest.raises(UsageError, match="use algorithm: assal"):
        AutoencoderAnalysis().check(60, 3, algorithm=type("Mine", (), {"needs_network": ("encode",)}))


def test_a_file_of_something_else_is_named(tmp_path):
    np.savez(tmp_path / "cycle_000.npz", x=np.zeros(2))
    with pytest.raises(UsageError, match=r"cycle_000\.npz: not what the analysis keeps"):
        read_shown(tmp_path, 0)


def test_a_report_of_it_brings_no_torch():
    heavy = {"torch", "numba", "sklearn", "faiss", "semilearn"}
    code = f"import sys, usb_active.plugins.assal.analysis as a; a.page; print(sorted({heavy} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert found.stdout.strip() == "[]", found.stdout + found.stderr
