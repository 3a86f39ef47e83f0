"""`fast`, `channels_last`, `weak_no_grad`: that they reach the network, and that a resumed run ends as an uninterrupted one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from run_helpers import ALGORITHMS, checkpoint, config_of, labels_of, settings, train, train_and_cut, weights_equal

from usb_active.pool.compiled import is_compiled
from usb_active.pool.inference import evaluating
from usb_active.pool.memory_format import as_channels_last, images_at_once, is_channels_last, use_channels_last
from usb_active.usb.launcher import make_algorithm
from usb_active.usb.networks import small_cnn

LAST = torch.channels_last


def only_last(x: torch.Tensor) -> bool:
    return x.is_contiguous(memory_format=LAST) and not x.is_contiguous()


def train_watched(data, watch):
    """The run, with `watch(name of the network, its module blocks.1, input)` called in every forward pass of both networks."""
    algorithm = make_algorithm(config_of(data))
    for name in ("model", "ema_model"):
        inner = getattr(algorithm, name).blocks[1]
        inner.register_forward_pre_hook(lambda module, inputs, name=name: watch(name, module, inputs[0]))
    algorithm.train()
    return algorithm


def cut_and_finished(data, monkeypatch):
    """The run, ended at the seventh step of its second training, and then finished by another algorithm."""
    train_and_cut(data, monkeypatch)
    train(data)


def same_end(tmp_path, one, other) -> bool:
    one, other = tmp_path / one, tmp_path / other
    return weights_equal(checkpoint(one, 1), checkpoint(other, 1)) and labels_of(one) == labels_of(other)


# ---------------------------------------------------------------------------------------------- exact
def test_exact_changes_no_bit(tmp_path):
    watched = []
    train_watched(settings(tmp_path, "plain"), lambda name, module, x: watched.append(only_last(x) or is_channels_last(module)))
    assert len(watched) > 2 * 12 and not any(watched)
    train(settings(tmp_path, "exact", active={"fast": "exact"}))
    assert same_end(tmp_path, "plain", "exact")
    assert (tmp_path / "plain" / "config.yaml").read_text().replace("plain", "exact") == (tmp_path / "exact" / "config.yaml").read_text()


# ---------------------------------------------------------------------------------------------- channels_last
@pytest.mark.parametrize("active", [{"fast": "fast"}, {"channels_last": True}], ids=str)
def test_the_format_is_that_of_every_forward_pass(tmp_path, active):
    watched = {"model": [], "ema_model": []}
    watch = lambda name, module, x: watched[name].append((only_last(x), is_channels_last(module), torch.is_grad_enabled()))  # noqa: E731 — a hook
    algorithm = train_watched(settings(tmp_path, active=active), watch)
    for name, seen in watched.items():
        assert seen and all(format and weights for format, weights, _ in seen), name
    assert sum(gradients for *_, gradients in watched["model"]) == 2 * 12
    assert only_last(algorithm.to_device(torch.zeros(2, 3, 8, 8))) and algorithm.to_device(torch.zeros(2, 5)).is_contiguous()


def test_a_run_in_channels_last_resumes_and_is_the_exact_one_but_for_rounding(tmp_path, monkeypatch):
    of = lambda name, fast: settings(tmp_path, name, active={"fast": fast, "acquisition": {"name": "random"}})  # noqa: E731 — called often
    train(of("whole", "fast"))
    cut_and_finished(of("cut", "fast"), monkeypatch)
    assert same_end(tmp_path, "cut", "whole")
    train(of("exact", "exact"))
    exact, fast = (checkpoint(tmp_path / name, 1)["model"] for name in ("exact", "whole"))
    assert exact.keys() == fast.keys()
    assert all(torch.allclose(value.float(), fast[name].float(), rtol=1e-2, atol=1e-3) for name, value in exact.items())


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_trains_so(tmp_path, algorithm):
    train(settings(tmp_path, active={"fast": "fast", "cycles": 0}, algorithm=algorithm))
    assert all(torch.isfinite(value).all() for value in checkpoint(tmp_path / "run", 0)["model"].values())


def test_a_channels_last_run_predicts_in_its_format(tmp_path):
    from usb_active.api import open_run

    train(settings(tmp_path, active={"fast": "fast", "cycles": 0}))
    assert is_channels_last(open_run(tmp_path / "run").model().network)


# ---------------------------------------------------------------------------------------------- parts of a batch
@pytest.mark.parametrize(
    ("width", "side", "most", "expected"), [(32, 32, 256, 64), (8, 32, 1024, 256), (8, 32, 100, 100), (64, 96, 256, 8)]
)
def test_as_many_images_at_once_as_fit_the_cache(width, side, most, expected):
    network = small_cnn(10, side, 3, width).eval()
    assert images_at_once(network, torch.zeros(1, 3, side, side), most) == expected
    assert not any(module._forward_hooks for module in network.modules())


@pytest.mark.parametrize(("passes", "transform"), [(1, "eval"), (3, "weak")])
def test_a_pool_scored_in_parts_is_the_pool_scored_whole_but_for_rounding(tmp_path, monkeypatch, passes, transform):
    from usb_active.pool import memory_format
    from usb_active.pool.view import PoolView

    algorithm = train(settings(tmp_path, active={"fast": "fast", "cycles": 0}))
    sizes = []
    algorithm.ema_model.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))

    def scored():
        sizes.clear()
        view = PoolView(algorithm.session.views.source(), 1, "acquisition", frozenset(), None)
        parts = list(view.predict(["features", "logits", "probs"], np.arange(301), transform=transform, passes=passes))
        return {name: np.concatenate([values[name] for _, values in parts], axis=1) for name in ("features", "logits", "probs")}

    whole, of_whole = scored(), list(sizes)
    assert of_whole[0] == 1 and max(of_whole) > 200
    # One image's largest output: 4 channels of 8 × 8 pixels, 4 bytes each.
    monkeypatch.setattr(memory_format, "CACHE_BYTES", 16 * 4 * 64 * 4)
    parts = scored()
    assert max(sizes) == 16 // passes * passes and sum(sizes[1:]) == 301 * passes
    for name, values in whole.items():
        assert values.shape[:2] == parts[name].shape[:2] == (passes, 301) and np.allclose(values, parts[name], atol=1e-5), name


def test_functions_see_whole_batches(tmp_path):
    algorithm = train(settings(tmp_path, active={"fast": "fast", "cycles": 0}))
    from usb_active.pool.view import PoolView

    view, seen = PoolView(algorithm.session.views.source(), 1, "acquisition", frozenset(), None), []
    list(view.predict({"norm": lambda tensors: seen.append(len(tensors["logits"])) or tensors["features"]}, np.arange(300)))
    assert seen == [256, 44]


def test_a_format_is_of_images_alone():
    vectors = torch.zeros(4, 3)
    assert as_channels_last(vectors) is vectors
    network = small_cnn(10, 8, 3, 4)
    names = list(network.state_dict())
    use_channels_last(network)
    assert is_channels_last(network) and list(network.state_dict()) == names
    assert not is_channels_last(torch.nn.Linear(3, 2))


# ---------------------------------------------------------------------------------------------- weak views without gradients
@pytest.mark.parametrize("algorithm", ["flexmatch", "freematch"])
def test_weak_views_are_forwarded_apart_and_without_gradients(tmp_path, algorithm):
    data = settings(tmp_path, "apart", active={"weak_no_grad": True, "cycles": 0}, algorithm=algorithm)
    built, seen, weak = make_algorithm(config_of(data)), [], []
    built.model.register_forward_pre_hook(lambda module, inputs: seen.append((inputs[0], torch.is_grad_enabled(), module.training)))
    process = built.process_batch
    built.process_batch = lambda *given, **batch: weak.append(batch["x_ulb_w"]) or process(*given, **batch)
    built.train()
    steps = [(x, gradients) for x, gradients, training in seen if training]
    assert [gradients for _, gradients in steps] == [True, True, False] * 12
    assert all(torch.equal(x, views) for (x, _), views in zip(steps[2::3], weak, strict=True))
    train(settings(tmp_path, "usb", active={"cycles": 0}, algorithm=algorithm, use_cat=False))
    train(settings(tmp_path, "together", active={"cycles": 0}, algorithm=algorithm))
    ends = {name: checkpoint(tmp_path / name, 0) for name in ("apart", "usb", "together")}
    assert weights_equal(ends["apart"], ends["usb"]) and not weights_equal(ends["apart"], ends["together"])


@pytest.mark.parametrize(("algorithm", "views"), [("flexmatch", 3), ("defixmatch", 4)])
def test_batch_norm_sees_each_view_by_itself(tmp_path, algorithm, views):
    """What the option changes: so many updates of the running statistics in a step, the weak views' last."""
    counts = {}
    for name, apart in (("apart", True), ("together", False)):
        train(settings(tmp_path, name, active={"weak_no_grad": apart, "cycles": 0}, algorithm=algorithm))
        weights = checkpoint(tmp_path / name, 0)["model"]
        (counts[name],) = {int(value) for key, value in weights.items() if key.endswith("stem.bn.num_batches_tracked")}
    assert counts == {"apart": 12 * views, "together": 12}


def test_a_run_with_weak_views_apart_resumes(tmp_path, monkeypatch):
    of = lambda name: settings(tmp_path, name, active={"weak_no_grad": True})  # noqa: E731 — called twice
    train(of("whole"))
    cut_and_finished(of("cut"), monkeypatch)
    assert same_end(tmp_path, "cut", "whole")


def test_nothing_is_compiled_unless_it_is_asked_for(tmp_path):
    algorithm = train(settings(tmp_path, active={"fast": "fast", "cycles": 0}))
    with evaluating(algorithm.ema_model):
        assert not is_compiled(algorithm.model) and not is_compiled(algorithm.ema_model)
