"""PoolView: what a method may look at, and what it may not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from run_helpers import settings, train

from usb_active.errors import UsageError
from usb_active.pool.view import PoolView, check_finite_rows
from usb_active.randomness import generator

PLUGINS = [str(Path(__file__).parents[1] / "contract_plugins.py")]
SHORT = {"num_train_iter": 4, "num_eval_iter": 4, "epoch": 2, "plugins": PLUGINS}
ALL = ["features", "probs", "truth"]


def explored(tmp_path, needs, /, name="run", **active):
    """A finished run whose acquisition looked at everything; the session and the plugin."""
    data = settings(tmp_path, name, active={"acquisition": {"name": "explorer", "needs": needs}, **active}, **SHORT)
    session = train(data).session
    return session, session.plugins["acquisition"]


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    """One finished run, whose pool and model the tests below look at."""
    return explored(tmp_path_factory.mktemp("view"), ALL)[0]


def view_of(session, needs=frozenset(), cycle=2, role="test", **changes):
    source = session.views.source()
    for name, value in changes.items():
        setattr(source, name, value)
    return PoolView(source, cycle, role, frozenset(needs), session.views.of("acquisition", cycle)._features_source)


# ---------------------------------------------------------------------------------------------- the pool
def test_the_pool_as_it_stands(session):
    view, pool = view_of(session), session.pool
    assert np.array_equal(view.labeled, pool.labeled) and len(view.labeled) == 30
    assert np.array_equal(view.labels, session.dataset.targets[view.labeled])
    assert np.array_equal(np.sort(np.concatenate([view.labeled, view.unlabeled])), np.arange(1343))
    assert np.array_equal(view.candidates, view.unlabeled)
    assert len(view) == 1343 and view.num_classes == 10 and view.device == session.trainer.device
    for array in (view.labeled, view.labels, view.unlabeled, view.candidates):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


def test_the_randomness_belongs_to_seed_cycle_and_role(session):
    draws = {(cycle, role): view_of(session, cycle=cycle, role=role).rng.random() for cycle in (1, 2) for role in ("a", "b")}
    assert len(set(draws.values())) == 4
    torch.manual_seed(5)
    np.random.seed(5)
    assert view_of(session, cycle=1, role="a").rng.random() == draws[1, "a"] == generator(3, 1, "a").random()


# ---------------------------------------------------------------------------------------------- declared needs
def test_probs_and_features_are_the_models_on_the_eval_view(session):
    view = view_of(session, {"features", "probs"})
    model = session.trainer.ema_model.eval()
    with torch.no_grad():
        x = torch.stack([session.dataset.views.eval(session.dataset.load(i)) for i in range(len(view))])
        expected = model(x)
    assert np.allclose(view.features, expected["feat"], atol=1e-5)
    assert np.allclose(view.probs, torch.softmax(expected["logits"], dim=1), atol=1e-5)
    for array, width in ((view.features, 16), (view.probs, 10)):
        assert array.shape == (1343, width) and array.dtype == np.float32
        with pytest.raises(ValueError, match="read-only"):
            array[0, 0] = 1


def test_large_arrays_are_mapped(session, monkeypatch):
    small = view_of(session, {"probs"}).probs
    monkeypatch.setattr("usb_active.pool.view.MEMORY_LIMIT", 1000)
    view = view_of(session, {"probs"})
    large = view.probs
    assert isinstance(large.base, np.memmap) or isinstance(large, np.memmap)
    assert np.array_equal(large, small) and list(view.scratch.glob("*probs.npy"))


@pytest.mark.parametrize("need", ALL)
def test_what_was_not_declared_is_not_given(session, need):
    others = set(ALL) - {need}
    with pytest.raises(UsageError, match=f"test: '{need}' was not declared in `needs` \\({', '.join(sorted(others))}\\)"):
        getattr(view_of(session, others), need)


def test_truth_is_the_datasets_and_only_under_a_simulated_oracle(session):
    truth = view_of(session, {"truth"}).truth
    assert np.array_equal(truth, session.dataset.targets)
    with pytest.raises(ValueError, match="read-only"):
        truth[0] = 1
    session.dataset.targets[0] += 0  # the dataset's own array is as it was
    with pytest.raises(UsageError, match="which only a simulated oracle knows; use oracle: dataset"):
        view_of(session, {"truth"}, simulated=False).truth  # noqa: B018 — a property that refuses


def test_truth_is_refused_before_anything_runs_when_people_label(tmp_path):
    with pytest.raises(UsageError, match="active.acquisition: 'explorer' needs the true labels"):
        explored(tmp_path, ["truth"], oracle="csv")
    with pytest.raises(UsageError, match="active.acquisition: 'explorer' declares unknown needs: logits"):
        explored(tmp_path, ["logits"])
    with pytest.raises(UsageError, match="'explorer' asks the model's classifier about features, .* 'pixels', .* give `features: model`"):
        explored(tmp_path, ["features", "head"], features="pixels")
    assert not (tmp_path / "run").exists()


def test_audit_sees_the_truth_where_it_is_known_and_is_silent_elsewhere(session):
    seen = []
    view_of(session).audit(lambda truth: seen.append(truth.sum()))
    view_of(session, simulated=False).audit(lambda truth: seen.append("never"))
    assert seen == [session.dataset.targets.sum()]


def test_values_that_are_not_finite_name_their_samples():
    array = np.zeros((9, 3), np.float32)
    check_finite_rows("x", array)
    array[[2, 7], 1] = np.nan, np.inf
    with pytest.raises(UsageError, match="x: not finite for samples 2, 7$"):
        check_finite_rows("x", array)


def test_a_model_that_diverged_is_named_with_its_samples(session):
    import copy

    model = copy.deepcopy(session.trainer.ema_model)
    with torch.no_grad():
        model.classifier.bias.fill_(float("nan"))
    with pytest.raises(
        UsageError, match="probs of the model are not finite for samples 0, 1, 2, 3, 4 and 251 more; did the training diverge"
    ):
        view_of(session, {"probs"}, model=lambda: model).probs  # noqa: B018 — a property that refuses


# ---------------------------------------------------------------------------------------------- predict
def predicted(view, idx, outputs=("probs",), **how):
    """What `predict` streams, put together: (idx (B,), {name: (passes, B, …)})."""
    parts = list(view.predict(list(outputs), np.asarray(idx), **how))
    return np.concatenate([part[0] for part in parts]), {
        name: np.concatenate([part[1][name] for part in parts], axis=1) for name in outputs
    }


def test_predict_keeps_the_order_and_gives_what_was_asked_for(session):
    view, idx = view_of(session), np.random.default_rng(0).permutation(1343)[:700]
    order, values = predicted(view, idx, ("features", "logits", "probs"))
    assert np.array_equal(order, idx)
    assert {name: value.shape for name, value in values.items()} == {
        "features": (1, 700, 16),
        "logits": (1, 700, 10),
        "probs": (1, 700, 10),
    }
    assert all(value.dtype == np.float32 for value in values.values())
    logits = values["logits"].astype(np.float64)
    softmax = np.exp(logits) / np.exp(logits).sum(axis=2, keepdims=True)
    assert np.allclose(values["probs"], softmax, atol=1e-6)
    _, one = predicted(view, idx[:1])
    assert np.allclose(one["probs"][0, 0], values["probs"][0, 0], atol=1e-6)


@pytest.mark.parametrize("transform", ["weak", "strong"])
def test_several_augmented_passes(session, transform):
    idx = np.arange(300, 0, -1)
    order, first = predicted(view_of(session), idx, transform=transform, passes=3)
    assert np.array_equal(order, idx) and first["probs"].shape == (3, 300, 10)
    assert all(not np.array_equal(first["probs"][a], first["probs"][b]) for a, b in ((0, 1), (1, 2), (0, 2)))
    # The same view, and whatever the global generators were at.
    torch.manual_seed(1)
    _, again = predicted(view_of(session), idx, transform=transform, passes=3)
    assert np.array_equal(first["probs"], again["probs"])
    _, other = predicted(view_of(session, cycle=3), idx, transform=transform, passes=3)
    assert not np.array_equal(first["probs"], other["probs"])
    _, plain = predicted(view_of(session), idx, passes=2)
    assert np.array_equal(plain["probs"][0], plain["probs"][1])


def test_predict_streams_batches_of_bounded_size(session):
    sizes = [len(idx) for idx, _ in view_of(session).predict(["probs"], np.arange(600))]
    assert sizes == [256, 256, 88]
    sizes = [len(idx) for idx, _ in view_of(session).predict(["probs"], np.arange(600), passes=4)]
    assert max(sizes) == 64 and sum(sizes) == 600
    assert list(view_of(session).predict(["probs"], np.arange(0))) == []


def test_predict_with_workers_is_predict(session):
    _, alone = predicted(view_of(session), np.arange(300), transform="strong", passes=2)
    _, together = predicted(view_of(session, num_workers=2), np.arange(300), transform="strong", passes=2)
    assert np.array_equal(alone["probs"], together["probs"])


@pytest.mark.parametrize(
    ("outputs", "transform", "message"),
    [
        (["prob"], "eval", "unknown outputs prob; known: features, logits, probs"),
        (["probs"], "mild", "unknown transform 'mild'; known: weak, strong, eval"),
    ],
)
def test_predict_says_what_it_knows(session, outputs, transform, message):
    with pytest.raises(UsageError, match=message):
        list(view_of(session).predict(outputs, np.arange(3), transform=transform))


def test_before_any_training_there_is_no_model(session):
    with pytest.raises(UsageError, match="there is no trained model yet; take features from"):
        list(view_of(session, model=lambda: None).predict(["probs"], np.arange(3)))


def test_looking_leaves_model_and_generators_alone(session):
    model, python = session.trainer.ema_model, __import__("random")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    states = python.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    predicted(view_of(session), np.arange(64), transform="strong", passes=2)
    list(view_of(session).loader(np.arange(64), "weak", 16))
    assert (
        python.getstate() == states[0]
        and np.array_equal(np.random.get_state()[1], states[1])
        and torch.equal(torch.get_rng_state(), states[2])
    )
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


# ---------------------------------------------------------------------------------------------- loader
def test_a_loader_for_modules_of_ones_own(session):
    view, idx = view_of(session), np.array([5, 3, 99, 1000, 7])
    batches = list(view.loader(idx, batch_size=2))
    assert [batch["idx"].tolist() for batch in batches] == [[5, 3], [99, 1000], [7]]
    assert batches[0]["x"].shape == (1, 2, 1, 8, 8)
    assert torch.equal(batches[1]["x"][0, 1], session.dataset.views.eval(session.dataset.load(1000)))
    weak = view.loader(idx, "weak", 5)
    # Epochs of one loader see the same augmentation; another cycle's are others.
    assert torch.equal(next(iter(weak))["x"], next(iter(weak))["x"])
    assert not torch.equal(next(iter(weak))["x"], next(iter(view_of(session, cycle=3).loader(idx, "weak", 5)))["x"])


# ---------------------------------------------------------------------------------------------- disk and logging
def test_an_artifact_is_made_once_and_outlives_the_process(tmp_path):
    session, plugin = explored(tmp_path, ALL)
    assert plugin.made == 1 and plugin.kept[0]["artifact"].tolist() == [0, 1, 4, 9]
    data = settings(tmp_path, "run", active={"acquisition": {"name": "explorer", "needs": ALL}, "cycles": 2}, **SHORT)
    later = train(data).session.plugins["acquisition"]
    assert later.made == 0 and later.kept[0]["artifact"].tolist() == [0, 1, 4, 9]
    assert (session.run_dir.path / "artifacts" / "squares.npy").is_file()


def test_artifacts_may_be_several_arrays(session):
    view, made = view_of(session), []

    def make():
        made.append(1)
        return {"a": np.arange(3), "b": np.eye(2)}

    for _ in range(2):
        found = view.artifact("several", make)
        assert found["a"].tolist() == [0, 1, 2] and found["b"].shape == (2, 2)
    assert made == [1]
    single = view.artifact("single", lambda: np.zeros(3))
    with pytest.raises(ValueError, match="read-only"):
        single[0] = 1


def test_scratch_is_a_folder_of_the_cycle(session):
    folder = view_of(session, cycle=7).scratch
    (folder / "note").write_text("x")
    assert folder == session.run_dir.path / "scratch" / "cycle_007"
    assert (view_of(session, cycle=7, role="other").scratch / "note").read_text() == "x"


def test_what_is_logged_is_a_number(session):
    view_of(session).log("share", np.float32(0.5))
    assert session.logged["share"] == 0.5 and type(session.logged["share"]) is float


# ---------------------------------------------------------------------------------------------- as a run gives it
def test_a_run_gives_its_acquisition_all_this(tmp_path):
    session, plugin = explored(tmp_path, ALL)
    kept, view = plugin.kept[0], plugin.view
    assert np.array_equal(kept["truth"], session.dataset.targets)
    assert kept["scratch"] == session.run_dir.path / "scratch" / "cycle_001"
    assert kept["draw"] == generator(3, 1, "acquisition").random()
    assert view.cycle == 1 and len(view.labeled) == 20 and view.probs.shape == (1343, 10)
    again, other = explored(tmp_path, ALL, name="again")
    assert other.kept[0]["draw"] == kept["draw"]
    assert np.array_equal(other.view.features, view.features)
