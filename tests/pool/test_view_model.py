"""What a view lets a method do with the model: inner layers, functions, live weights, modules of its own, epochs of a loader."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from run_helpers import checkpoint, labels_of, settings, train, weights_equal

from usb_active.errors import UsageError
from usb_active.pool.inference import evaluating
from usb_active.pool.view import PoolView, Registered
from usb_active.randomness import seeded_globals

PLUGINS = [str(Path(__file__).parents[1] / "seam_plugins.py")]
SHORT = {"num_train_iter": 4, "num_eval_iter": 2, "epoch": 2, "plugins": PLUGINS}


def run(tmp_path, acquisition, name="run", active=None, **usb):
    return train(settings(tmp_path, name, active={"acquisition": acquisition, **(active or {})}, **{**SHORT, **usb}))


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """A finished run of the learning loss."""
    return run(tmp_path_factory.mktemp("model"), "loss_module", active={"keep": "all"})


@pytest.fixture(scope="module")
def session(learned):
    return learned.session


def view_of(session, cycle=2, role="acquisition", **changes):
    source = session.views.source()
    for name, value in changes.items():
        setattr(source, name, value)
    return PoolView(source, cycle, role, frozenset(), None)


SHOWN = np.arange(300)


def gathered(view, outputs, idx=SHOWN, **how):
    parts = [values for _, values in view.predict(outputs, idx, **how)]
    return {name: np.concatenate([part[name] for part in parts], axis=1) for name in parts[0]}


# ---------------------------------------------------------------------------------------------- inner layers
def by_hand(session, model, idx=SHOWN):
    """The first convolution, the second, the features and the logits, written out."""
    with torch.no_grad(), evaluating(model):
        x = torch.stack([session.dataset.views.eval(session.dataset.load(int(i))) for i in idx])
        first = model.stem.conv(x)
        second = model.blocks[0].conv(model.pool(model.stem.relu(model.stem.bn(first.clone()))))
        out = model(x)
    return first, second, out["feat"], out["logits"]


def test_outputs_of_named_modules_are_as_they_are(session):
    view = view_of(session)
    first, second, features, logits = by_hand(session, view.model)
    found = gathered(view, ["stem.conv", "blocks.0.conv", "features", "classifier"])
    assert {name: value.shape for name, value in found.items()} == {
        "stem.conv": (1, 300, 4, 8, 8), "blocks.0.conv": (1, 300, 8, 4, 4), "features": (1, 300, 16), "classifier": (1, 300, 10),
    }  # fmt: skip
    for name, expected in (("stem.conv", first), ("blocks.0.conv", second), ("features", features), ("classifier", logits)):
        assert found[name].dtype == np.float32 and np.allclose(found[name][0], expected, atol=1e-5), name
    several = gathered(view, ["stem.conv"], transform="weak", passes=2)["stem.conv"]
    assert several.shape == (2, 300, 4, 8, 8) and not np.array_equal(several[0], several[1])


def test_no_hook_is_left_on_the_model(session):
    view = view_of(session)
    gathered(view, ["stem.conv"])
    assert not any(module._forward_hooks for module in view.model.modules())


def test_a_function_sees_what_was_named_and_gives_what_it_likes(session):
    view, seen = view_of(session), []

    def pooled(tensors):
        seen.append((sorted(tensors), torch.is_grad_enabled()))
        return tensors["stem.conv"].mean(dim=(2, 3))

    found = gathered(view, [pooled, "probs"], modules=["stem.conv"])
    assert list(found) == ["pooled", "probs"]
    first, _, _, logits = by_hand(session, view.model)
    assert np.allclose(found["pooled"][0], first.mean(dim=(2, 3)), atol=1e-5)
    assert np.allclose(found["probs"][0], torch.softmax(logits, dim=1), atol=1e-5)
    assert set(map(str, seen)) == {str((["features", "logits", "probs", "stem.conv"], False))}
    named = gathered(view, {"a": lambda t: t["logits"] * 2, "b": lambda t: t["logits"].argmax(dim=1), "c": "stem.conv"})
    assert np.allclose(named["a"][0], 2 * logits, atol=1e-4) and named["b"].shape == (1, 300) and named["c"].shape[2:] == (4, 8, 8)


def test_a_batch_at_a_time(session):
    view = view_of(session)
    sizes = [values["stem.conv"].shape[1] for _, values in view.predict(["stem.conv"], np.arange(600))]
    assert sizes == [256, 256, 88]


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        (["stem.cnov"], "unknown outputs stem.cnov; known: features, logits, probs, functions, and the network's modules, e.g. stem"),
        (["pool"], "module 'pool': the network calls it 2 times in a forward pass, so it has no single output"),
        ([lambda t: t["logits"], lambda t: t["probs"]], "two outputs have one name; give a mapping"),
        ({"x": lambda t: t["logits"].sum()}, r"'x' must return a tensor with a row for each of the 3 samples, got a tensor of shape \(\)"),
        ({"x": lambda t: None}, "'x' must return a tensor with a row for each of the 3 samples, got NoneType"),
        ({"x": lambda t: t["logits"] / 0}, "x of the model are not finite for samples 0, 1, 2"),
        ("probs", r"outputs must be a list or a mapping, such as \['probs'\]"),
    ],
)
def test_what_cannot_be_predicted_is_one_line(session, outputs, message):
    with pytest.raises(UsageError, match=message) as caught:
        list(view_of(session).predict(outputs, np.arange(3)))
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------------------------------------- live weights
def test_live_weights_beside_the_ema_ones(session):
    view = view_of(session)
    saved = checkpoint(session.run_dir.path, 1)
    assert all(torch.equal(value, saved["model"][name]) for name, value in view.live_model.state_dict().items())
    assert all(torch.equal(value, saved["ema_model"][name]) for name, value in view.model.state_dict().items())
    live, ema = gathered(view, ["logits"], live=True)["logits"][0], gathered(view, ["logits"])["logits"][0]
    assert np.allclose(live, by_hand(session, view.live_model)[3], atol=1e-5) and not np.allclose(live, ema, atol=1e-3)


def test_looking_at_live_weights_leaves_their_mode_and_statistics(session):
    view = view_of(session)
    view.live_model.train()
    before = {name: value.clone() for name, value in view.live_model.state_dict().items()}
    gathered(view, ["probs", "stem.conv"], live=True, transform="weak", passes=2)
    assert view.live_model.training and all(torch.equal(value, before[name]) for name, value in view.live_model.state_dict().items())


def test_before_any_training_there_are_no_live_weights(session):
    view = view_of(session, live_model=lambda: None)
    with pytest.raises(UsageError, match="acquisition: there is no trained model yet"):
        list(view.predict(["probs"], np.arange(3), live=True))


# ---------------------------------------------------------------------------------------------- modules of one's own
@pytest.mark.parametrize("live", [False, True])
def test_a_module_that_learned_from_inner_layers_picks_by_them(tmp_path, live):
    algorithm = run(tmp_path, {"name": "loss_module", "live": live}, active={"keep": "all"})
    session, plugin = algorithm.session, algorithm.session.plugins["acquisition"]
    saved = checkpoint(session.run_dir.path, 0)
    # What select had in hand is the module at the end of the first training, on that training's weights.
    kept = saved["active"]["registered"]["acquisition"]["predictor"]
    assert all(torch.equal(value, plugin.picked_with[name]) for name, value in kept.items())
    net = session.weights.build()
    net.load_state_dict(saved["model" if live else "ema_model"])
    module = algorithm.registered()["acquisition"]["predictor"].module
    module.load_state_dict(plugin.picked_with)
    candidates = np.setdiff1d(np.arange(1343), session.run_dir.query(0).idx)
    first, second, *_ = by_hand(session, net, candidates)
    with torch.no_grad():
        assert np.allclose(plugin.scores, module([first, second]), atol=1e-4)


def test_a_process_that_resumes_finds_the_modules_again(tmp_path, learned):
    # The run of one query more: its second process has trained nothing itself.
    whole = run(tmp_path, "loss_module", "whole", active={"cycles": 2})
    run(tmp_path, "loss_module", "twice")
    twice = run(tmp_path, "loss_module", "twice", active={"cycles": 2})
    assert labels_of(whole.session.run_dir.path) == labels_of(twice.session.run_dir.path)
    assert weights_equal(*(checkpoint(a.session.run_dir.path, 2) for a in (whole, twice)))


def test_own_updates_come_after_usbs_and_are_resumed(tmp_path):
    whole = run(tmp_path, "critic", "whole", active={"cycles": 2})
    plugin = whole.session.plugins["acquisition"]
    assert plugin.order == [True] * 4
    run(tmp_path, "critic", "twice")
    twice = run(tmp_path, "critic", "twice", active={"cycles": 2})
    assert labels_of(whole.session.run_dir.path) == labels_of(twice.session.run_dir.path)
    one, other = (checkpoint(a.session.run_dir.path, 2)["active"]["registered"]["acquisition"] for a in (whole, twice))
    assert torch.equal(one["critic"]["weight"], other["critic"]["weight"]) and one["optimizer"]["state"][0]["step"] == 4


def test_registered_names_the_plugins_own_first_and_its_optimizer(session):
    own, shared, other = Registered("own"), Registered("shared", "optimizer"), Registered("other")
    states = {"acquisition": {"head": own}, "prior": {"table": other}, "algorithm": {"head": shared, "critic": shared}}
    for role in ("acquisition", "acquisition@4", "acquisition/pseudo_labels"):
        view = view_of(session, role=role, registered=lambda: states)
        assert view.registered("head") is own and view.registered("critic") is shared
        assert view.registered("algorithm/head") is shared and view.registered("critic").optimizer == "optimizer"
        with pytest.raises(UsageError, match="nothing is registered as 'table'; known: algorithm/critic, algorithm/head, critic, head"):
            view.registered("table")
    assert view_of(session, role="algorithm@3", registered=lambda: states).registered("head") is shared
    predictor = view_of(session).registered("predictor")
    assert isinstance(predictor.optimizer, torch.optim.Adam)
    assert predictor.optimizer.param_groups[0]["params"][0] is next(predictor.module.parameters())


# ---------------------------------------------------------------------------------------------- epochs of a loader
def shown(loader):
    return [(batch["idx"].tolist(), batch["x"]) for batch in loader]


def same(one, other):
    return len(one) == len(other) and all(a[0] == b[0] and torch.equal(a[1], b[1]) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("transform", ["weak", "strong"])
def test_every_epoch_has_its_own_augmentation_and_may_begin_anywhere(session, transform):
    idx = np.random.default_rng(0).permutation(1343)[:70]
    load = lambda **position: shown(view_of(session).loader(idx, transform, 16, **position))  # noqa: E731 — a shorthand
    epochs = [load(epoch=epoch) for epoch in range(3)]
    assert all([i for i, _ in epoch] == [i for i, _ in epochs[0]] for epoch in epochs)
    assert not any(torch.equal(a[1], b[1]) for one in (1, 2) for a, b in zip(epochs[0], epochs[one], strict=True))
    assert not same(epochs[1], epochs[2]) and same(load(epoch=2), epochs[2])
    for start in range(6):
        assert same(load(epoch=2, start=start), epochs[2][start:])
        assert len(view_of(session).loader(idx, transform, 16, start=start)) == 5 - start


def test_the_first_epoch_is_what_loaders_without_epochs_gave(session):
    idx, dataset = np.arange(40, 0, -1), session.dataset
    for number, (rows, x) in enumerate(shown(view_of(session).loader(idx, "weak", 16))):
        with seeded_globals(3, 2, "acquisition", "views", "weak", number):
            expected = torch.stack([dataset.views.weak(dataset.load(i)) for i in idx[number * 16 : (number + 1) * 16].tolist()])
        assert rows == idx[number * 16 : (number + 1) * 16].tolist() and torch.equal(x[0], expected)


def test_an_epoch_is_the_same_with_workers(session):
    load = lambda workers: shown(view_of(session, num_workers=workers).loader(np.arange(50), "weak", 16, epoch=3, start=1))  # noqa: E731
    assert same(load(0), load(2))


@pytest.mark.parametrize(
    ("position", "message"),
    [
        ({"epoch": -1}, "loader: epoch: -1, start: 0; epoch must be at least 0, start from 0 to 3"),
        ({"start": 4}, "loader: epoch: 0, start: 4; epoch must be"),
        ({"start": -1}, "start: -1"),
        ({"transform": "mild"}, "loader: unknown transform 'mild'; known: weak, strong, eval"),
    ],
)
def test_a_position_that_there_is_not_is_one_line(session, position, message):
    with pytest.raises(UsageError, match=message):
        view_of(session).loader(np.arange(40), batch_size=16, **position)
