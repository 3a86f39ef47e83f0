"""AS3L's priors as plugins: tables, what selection and prior share, and runs they guide, that are interrupted and resume."""

from __future__ import annotations

from pathlib import Path

import killer
import numpy as np
import pytest
import torch
from run_helpers import checkpoint, config_of, settings, train, weights_equal
from usb_active.plugins.as3l import functional
from usb_active.plugins.as3l.acquisitions import AS3L
from usb_active.plugins.as3l.priors import AS3LPrior

from usb_active.config.choices import Problems, choose
from usb_active.errors import UsageError
from usb_active.loop.setup import make
from usb_active.testing.pool import CLASSES, PER_CLASS, World, made_images

SHORT = {"num_train_iter": 4, "num_eval_iter": 4, "epoch": 2}
SINGLE_SHOT = {"initial": {"name": "as3l", "size": 10}, "acquisition": "random", "cycles": 0, "features": "pixels"}


def plugin(kind, name, **keys):
    problems = Problems("test")
    choice = choose(kind, {"name": name, **keys}, f"active.{kind}", Path(), problems)
    problems.raise_if_any()
    return make(choice)


def pixels_view(world, role="prior/start@0", cycle=0, seed=0):
    return world.view({"features"}, plugin("features", "pixels"), cycle=cycle, seed=seed, role=role)


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


def kept(world):
    return sorted(path.stem for path in (world.folder / "artifacts").glob("as3l_*"))


# ------------------------------------------------------------------------------------------ tables
def test_the_table_is_the_prior_on_the_fine_tuned_features(world):
    table = plugin("prior", "as3l").fit(pixels_view(world), "start").probs
    fresh = pixels_view(world)
    # Six labels: six clusters.
    tuned = functional.fine_tune(fresh.features, 6, rng=fresh.rng.spawn(1)[0])
    assert np.array_equal(table, functional.prior(tuned, fresh.labeled, fresh.labels, CLASSES, rng=fresh.rng))
    plain = plugin("prior", "as3l", fine_tune=False, ks=[4, 9]).fit(pixels_view(world), "start").probs
    fresh = pixels_view(world)
    assert np.array_equal(plain, functional.prior(fresh.features, fresh.labeled, fresh.labels, CLASSES, ks=[4, 9], rng=fresh.rng))


def test_classes_apart_are_told_from_two_labels_each(tmp_path):
    means = made_images().reshape(CLASSES, PER_CLASS, 8, 8).mean(axis=1)
    world = World(tmp_path, np.float32(0.2) * made_images() + 4 * means.repeat(PER_CLASS, axis=0))
    view = pixels_view(world)
    table = plugin("prior", "as3l", ks=[3, 6]).fit(view, "start").probs
    assert functional.is_correct(table, world.dataset.targets).all()
    metrics = view._source.metrics
    assert metrics["prior_accuracy"] == 1 and metrics["prior_coverage"] == 1
    assert metrics["prior_ece"] == pytest.approx(1 - table[view.unlabeled].max(axis=1).mean(), abs=1e-5)


def test_what_is_logged_is_of_samples_without_a_label(world):
    view = pixels_view(world)
    # As many clusters as samples: only the labelled have a prior.
    plugin("prior", "as3l", ks=[60]).fit(view, "start")
    assert view._source.metrics == {"prior_coverage": 0.1, "prior_accuracy": 0, "prior_ece": 0}


def test_nothing_but_the_log_sees_the_truth(world):
    before = plugin("prior", "as3l").fit(pixels_view(world), "start").probs
    world.dataset.targets = np.roll(world.dataset.targets, 20)
    view = pixels_view(world)
    view._source.simulated = False
    assert np.array_equal(plugin("prior", "as3l").fit(view, "start").probs, before)
    assert set(view._source.metrics) == {"prior_coverage"}


def test_the_end_keeps_the_table_there_is(world):
    assert plugin("prior", "as3l").fit(pixels_view(world), "end") is None


def test_without_a_label_there_is_no_prior(tmp_path):
    table = plugin("prior", "as3l").fit(pixels_view(World(tmp_path, fresh=True)), "start").probs
    assert table.shape == (60, CLASSES) and not table.any()


def test_an_update_clusters_the_features_of_the_model_in_training(world):
    view = world.view({"features"}, plugin("features", "pixels"), role="prior/step@4")
    table = plugin("prior", "as3l").fit(view, "step").probs
    fresh = world.view({"features"}, plugin("features", "model"), role="prior/step@4")
    assert np.array_equal(table, functional.prior(fresh.features, fresh.labeled, fresh.labels, CLASSES, rng=fresh.rng))
    assert not kept(world) and "updated_prior_accuracy" in view._source.metrics


# ------------------------------------------------------------------------------------------ the neighbour graph
def test_llgc_solves_the_system_of_label_spreading(world):
    view = pixels_view(world)
    rows = view.features.astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    cosine = rows @ rows.T
    np.fill_diagonal(cosine, -1)
    directed = np.zeros((60, 60))
    for i in range(60):
        for j in np.argsort(-cosine[i])[:9]:
            directed[i, j] = max(cosine[i, j], 0) ** 3
    weights = directed + directed.T
    scale = 1 / np.sqrt(weights.sum(axis=1))
    sources = np.zeros((60, CLASSES))
    sources[view.labeled, view.labels] = 1
    spread = np.linalg.solve(np.eye(60) - 0.9 * scale[:, None] * weights * scale, sources)
    table = plugin("prior", "llgc", k=9, alpha=0.9).fit(view, "start").probs
    assert np.allclose(table, spread / spread.sum(axis=1, keepdims=True), atol=1e-3)


def test_llgc_tells_classes_apart_and_says_nothing_where_no_label_reaches(tmp_path):
    # Three classes in directions of their own: three components.
    images = np.zeros((60, 8, 8), np.float32)
    images.reshape(60, 64)[np.arange(60), 20 * (np.arange(60) // PER_CLASS)] = 1 + np.arange(60) % PER_CLASS
    world = World(tmp_path, images)
    table = plugin("prior", "llgc", k=5).fit(pixels_view(world), "start").probs
    assert functional.is_correct(table, world.dataset.targets).all()
    world = World(tmp_path, images, fresh=True)
    world.pool.set_labels(np.array([3, 25]), np.array([0, 1]), 0)
    table = plugin("prior", "llgc").fit(pixels_view(world), "start").probs
    assert not table[40:].any() and np.allclose(table[:40].sum(axis=1), 1)


def test_llgc_keeps_no_layer_and_draws_nothing(world):
    tables = [plugin("prior", "llgc").fit(pixels_view(world, seed=seed), "start").probs for seed in (0, 1)]
    assert np.array_equal(*tables) and not kept(world)
    fresh = World(world.folder / "fresh", fresh=True)
    assert not plugin("prior", "llgc").fit(pixels_view(fresh), "start").probs.any()


# ------------------------------------------------------------------------------------------ what selection and prior share
def test_the_prior_takes_the_layer_of_the_selection(tmp_path):
    world = World(tmp_path, fresh=True)
    picks = plugin("acquisition", "as3l").select(pixels_view(world, "initial"), 9)
    layer = kept(world)
    assert layer[0].startswith("as3l_clusters_000_") and layer[1].endswith("_9_6_40") and len(layer) == 2
    # Two of the nine were skipped, and a person took her time: another process, fewer labels, the same layer.
    world.pool.set_labels(picks[:7], world.dataset.targets[picks[:7]], 0)
    world.pool.skip(picks[7:])
    table = plugin("prior", "as3l").fit(pixels_view(world), "start").probs
    assert kept(world) == layer
    view = pixels_view(world)
    tuned = functional.fine_tune(view.features, 9, rng=pixels_view(world, "initial").rng.spawn(1)[0])
    assert np.array_equal(table, functional.prior(tuned, view.labeled, view.labels, CLASSES, rng=view.rng))


def test_a_layer_made_otherwise_is_another_one(tmp_path):
    world = World(tmp_path)
    plugin("acquisition", "as3l").select(pixels_view(world, "initial"), 9)
    plugin("prior", "as3l", epochs=3).fit(pixels_view(world), "start")
    plugin("prior", "as3l", clusterings=2).fit(pixels_view(world), "start")
    # The next cycle's selection asks for 5, where 6 have a label; and its prior shares that one.
    plugin("acquisition", "as3l").select(pixels_view(world, "acquisition", 1), 5)
    plugin("prior", "as3l").fit(pixels_view(world, cycle=1), "start")
    assert [name.split("_", 3)[3] for name in kept(world) if "layer" in name] == ["11_6_40", "15_2_40", "15_6_3", "15_6_40"]


def test_a_prior_made_again_is_the_same(world):
    tables = [plugin("prior", "as3l").fit(pixels_view(world), "start").probs for _ in range(2)]
    assert np.array_equal(*tables)
    assert not np.array_equal(tables[0], plugin("prior", "as3l").fit(pixels_view(world, seed=1), "start").probs)


# ------------------------------------------------------------------------------------------ what is refused
@pytest.mark.parametrize("keys", [{"ks": []}, {"ks": [0]}, {"epochs": 0}, {"clusterings": 0}, {"alpha": 1}])
def test_keys_out_of_range_are_refused(keys):
    with pytest.raises(UsageError):
        plugin("prior", "as3l", **keys)


def test_errors_of_the_arithmetic_name_the_plugin(world):
    with pytest.raises(UsageError, match="prior 'as3l': ks: 61, expected an integer, 1 to the 60 samples"):
        plugin("prior", "as3l", ks=[61]).fit(pixels_view(world), "start")


@pytest.mark.parametrize(
    ("active", "message"),
    [
        ({"prior": {"name": "as3l", "ks": [10, 5000]}}, "active.prior: 'as3l': ks: 5000 clusters, but the pool has 1343 samples"),
        ({"prior": {"name": "as3l", "features": "model"}}, "active.prior: 'as3l' needs features before a training; give `features:`"),
        ({"prior": {"name": "llgc", "features": "model"}}, "active.prior: 'llgc' needs features before a training"),
        ({"features": "model"}, "active.initial: 'as3l' needs features before a training; give `features:` .*file, pixels, .* timm"),
        ({"prior": {"name": "as3l", "until_iter": 5}}, r"until_iter: 5 is beyond the training \(num_train_iter: 4\)"),
        ({"prior": {"name": "as3l", "until_iter": 4, "then": "update", "update_every": 1}}, "so `then: update` never comes"),
    ],
)
def test_what_cannot_work_is_refused_before_anyone_is_asked(tmp_path, active, message):
    with pytest.raises(UsageError, match=message):
        train(prepared(tmp_path, "run", active=active))
    assert not (tmp_path / "run").exists()


def test_until_iter_may_be_the_whole_training(tmp_path):
    run(prepared(tmp_path, "run", {"name": "as3l", "until_iter": 4}))


def test_samples_that_are_not_finite_are_named(tmp_path):
    images = made_images()
    images[[4, 9], 2, 2] = np.nan
    with pytest.raises(UsageError, match="not finite.* 4, 9"):
        plugin("prior", "as3l").fit(pixels_view(World(tmp_path, images)), "start")


def test_features_of_a_model_that_is_not_trained_yet_are_refused(tmp_path):
    view = World(tmp_path, fresh=True).view((), plugin("features", "model"), role="prior/start@0")
    view._needs = AS3LPrior.needs
    with pytest.raises(UsageError, match="there is no trained model yet; take features from .*file, pixels, pretrain.* timm"):
        plugin("prior", "as3l", fine_tune=False).fit(view, "start")


# ------------------------------------------------------------------------------------------ runs
def prepared(tmp_path, name, /, prior="as3l", active=None, **usb):
    block = {**SINGLE_SHOT, "prior": prior, **(active or {})}
    return settings(tmp_path, name, active=block, **{**SHORT, **usb})


def run(data, table=None):
    """A run to its end; its algorithm, its targets (idx, result) in order, and the table it was guided by. `table(probs)` may
    put another one in its place."""
    from usb_active.usb.launcher import make_algorithm

    torch.set_num_threads(1)
    algorithm, seen = make_algorithm(config_of(data)), []
    plain = algorithm.call_hook
    fit = AS3LPrior.spread

    def call_hook(stage, hook=None, *values, **named):
        result = plain(stage, hook, *values, **named)
        if stage == "gen_ulb_targets":
            seen.append((algorithm._loaded["idx_ulb"].numpy(), result.clone()))
        return result

    algorithm.call_hook = call_hook
    with pytest.MonkeyPatch.context() as patch:
        if table is not None:
            patch.setattr(AS3LPrior, "spread", lambda self, view, features: table(fit(self, view, features)))
        algorithm.train()
    return algorithm, seen, algorithm.session.guidance.table.probs


GUIDED = ("fixmatch", "flexmatch", "freematch", "softmatch")


@pytest.mark.parametrize("algorithm", GUIDED)
def test_a_one_hot_prior_is_the_pseudo_label(tmp_path, algorithm):
    def hardened(probs):
        assert (probs.sum(axis=1) > 0).all()
        return np.eye(10, dtype=np.float32)[probs.argmax(axis=1)]

    data = prepared(tmp_path, "run", {"name": "as3l", "ks": [10]}, algorithm=algorithm)
    _, seen, table = run(data, hardened)
    assert len(seen) == 4
    for idx, targets in seen:
        classes = targets if targets.ndim == 1 else targets.argmax(dim=1)
        assert (classes.numpy() == table[idx].argmax(axis=1)).all()


@pytest.mark.parametrize("algorithm", GUIDED)
def test_a_prior_without_any_label_arriving_is_the_plain_training_to_the_bit(tmp_path, algorithm):
    plain = train(prepared(tmp_path, "plain", None, algorithm=algorithm))
    guided, _, table = run(prepared(tmp_path, "zero", "as3l", algorithm=algorithm), np.zeros_like)
    assert not table.any() and guided.session.guidance.file
    assert weights_equal(*(checkpoint(each.session.run_dir.path, 0) for each in (plain, guided)))


def test_a_single_shot_run_logs_how_good_its_prior_is(tmp_path):
    algorithm, _, table = run(prepared(tmp_path, "run"))
    session = algorithm.session
    truth, unlabeled = session.dataset.targets, session.pool.unlabeled
    logged = session.run_dir.metrics()[-1]["log"]
    assert logged["prior_accuracy"] == pytest.approx((table.argmax(axis=1) == truth)[unlabeled].mean())
    assert logged["prior_accuracy"] > 0.5 and logged["prior_coverage"] > 0.9
    assert logged["prior_ece"] == pytest.approx(functional.expected_calibration_error(table[unlabeled], truth[unlabeled]))
    names = sorted(path.name for path in (session.run_dir.path / "artifacts").glob("as3l_*"))
    assert len(names) == 2 and names[1].endswith("_10_6_40.npz")


def test_an_updated_prior_changes_in_training(tmp_path):
    prior = {"name": "as3l", "until_iter": 2, "then": "update", "update_every": 1}
    algorithm, _, table = run(prepared(tmp_path, "run", prior))
    assert algorithm.session.guidance.file.endswith("step_00000003")
    assert (np.isclose(table.sum(axis=1), 1, atol=1e-5) | ~table.any(axis=1)).all()
    assert "updated_prior_accuracy" in algorithm.session.run_dir.metrics()[-1]["log"]


@pytest.mark.slow
@pytest.mark.parametrize("points", [("first_labels", "train"), ("done", "query", "train_early", "train", "last_done")])
def test_killed_again_and_again_a_run_ends_the_same(tmp_path, points):
    prior = {"name": "as3l", "until_iter": 3, "then": "update", "update_every": 4}
    active = {"initial": {"name": "as3l", "size": 10}, "acquisition": {"name": "as3l"}, "budget": 6, "features": "pixels", "prior": prior}
    data = killer.settings(tmp_path, "run", {**active, "cycles": 1})
    uninterrupted = killer.finish({**data, "save_name": "uninterrupted"})
    for point in points:
        assert killer.run(data, point).code == killer.KILLED
    killer.assert_same_end(killer.finish(data), uninterrupted, cycle=1)


def test_samples_whose_class_is_not_known_take_part_and_are_not_judged(tmp_path):
    """As in STL-10: two thirds of the pool can only be looked at."""
    world = World(tmp_path, fresh=True)
    known = np.arange(60) % 3 == 0
    truth = world.dataset.targets.copy()
    world.dataset.targets = np.where(known, truth, -1)
    world.pool.queryable[~known] = False
    picks = plugin("acquisition", "as3l").select(pixels_view(world, "initial"), 6)
    assert known[picks].all()
    world.pool.set_labels(picks, truth[picks], 0)
    view = pixels_view(world)
    table = plugin("prior", "as3l", ks=[3, 6]).fit(view, "start").probs
    judged = np.setdiff1d(np.flatnonzero(known), picks)
    assert table[~known].any() and view._source.metrics["prior_accuracy"] == pytest.approx((table.argmax(axis=1) == truth)[judged].mean())


def test_tables_that_no_checkpoint_names_go_when_one_is_written(tmp_path):
    prior = {"name": "as3l", "fine_tune": False, "until_iter": 1, "then": "update", "update_every": 1}
    for keep, left in (("last", 1), ("all", 8)):
        algorithm, *_ = run(prepared(tmp_path, keep, prior, active={"keep": keep}, num_train_iter=8, num_eval_iter=8))
        names = sorted(path.stem for path in (algorithm.session.run_dir.path / "artifacts").glob("prior_*"))
        assert len(names) == left and names[-1] == algorithm.session.guidance.file == "prior_000_step_00000007"


def test_the_two_share_their_defaults():
    # Or the prior would never find the selection's layer.
    shared = ("fine_tune", "clusterings", "epochs")
    assert {key: getattr(AS3L.Config(), key) for key in shared} == {key: getattr(AS3LPrior.Config(), key) for key in shared}
