"""`batch.hidden[view][module]`: what inner layers gave for a view, whatever forward passes an algorithm makes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from run_helpers import config_of, settings, train

from usb_active.errors import UsageError
from usb_active.usb.forward_passes import ForwardPasses, HiddenViews
from usb_active.usb.networks import small_cnn

PLUGINS = [str(Path(__file__).resolve().parents[1] / name) for name in ("seam_plugins.py", "contract_plugins.py")]
SHORT = {"num_train_iter": 2, "num_eval_iter": 2, "epoch": 1, "plugins": PLUGINS}
PAIRED = ("fixmatch", "flexmatch", "freematch", "softmatch", "uda", "adamatch")
CASES = [(name, use_cat) for name in PAIRED for use_cat in (True, False)] + [("pseudolabel", False), ("supervised", False)]


def run(tmp_path, acquisition, name="run", **usb):
    algorithm = train(settings(tmp_path, name, active={"cycles": 0, "acquisition": acquisition}, **{**SHORT, **usb}))
    return algorithm, algorithm.session.plugins["acquisition"]


@pytest.mark.parametrize(("algorithm", "use_cat"), CASES)
def test_every_view_has_the_outputs_of_its_own_samples(tmp_path, algorithm, use_cat):
    # The first convolution does not look at other samples, so that it can be made again view by view.
    hidden = ["stem.conv", "classifier"]
    _, watcher = run(tmp_path, {"name": "watcher", "hidden": hidden, "recompute": True}, algorithm=algorithm, use_cat=use_cat, lr=1e-30)
    conv = watcher._net.stem.conv
    views = {"supervised": ["x_lb"], "pseudolabel": ["x_lb", "x_ulb_w"]}.get(algorithm, ["x_lb", "x_ulb_s", "x_ulb_w"])
    for batch in watcher.batches:
        assert sorted(batch.hidden) == views
        for view in views:
            x = getattr(batch, view)
            assert torch.allclose(batch.hidden[view]["stem.conv"], conv(x), atol=1e-5), view
            assert batch.hidden[view]["classifier"].shape == (len(x), 10)
        # Where the algorithm learns from a view, gradients flow through it.
        assert batch.hidden["x_lb"]["stem.conv"].requires_grad


@pytest.mark.parametrize("use_cat", [True, False])
def test_a_loss_on_inner_layers_trains_them(tmp_path, use_cat):
    with_loss, plugin = run(tmp_path, "loss_module", "with", algorithm="fixmatch", use_cat=use_cat)
    without, _ = run(tmp_path, "quiet", "without", algorithm="fixmatch", use_cat=use_cat)
    assert plugin.grads == [[True, True]] * 2
    assert not torch.equal(with_loss.model.stem.conv.weight, without.model.stem.conv.weight)
    assert with_loss.registered()["acquisition"]["predictor"].optimizer.state_dict()["state"][0]["step"] == 2


@pytest.mark.parametrize("algorithm", ["mixmatch", "remixmatch", "my_mixmatch", "my_remixmatch"])
@pytest.mark.parametrize("acquisition", ["loss_module", {"name": "watcher", "hidden": ["stem.conv"]}])
def test_a_mixture_has_no_view_and_is_refused_before_the_run(tmp_path, algorithm, acquisition):
    from usb_active.usb.launcher import make_algorithm

    data = settings(tmp_path, active={"cycles": 1, "acquisition": acquisition}, algorithm=algorithm, **SHORT)
    said = f"needs .*hidden.* of every step, but algorithm '{algorithm}' cannot give it: .*mixture"
    with pytest.raises(UsageError, match=said) as caught:
        make_algorithm(config_of(data))
    assert "\n" not in str(caught.value) and not (tmp_path / "run" / "config.yaml").exists()


def test_a_module_that_is_called_twice_is_one_line(tmp_path):
    with pytest.raises(UsageError, match="hidden_modules: module 'pool': the network calls it 2 times in a forward pass") as caught:
        run(tmp_path, {"name": "watcher", "hidden": ["pool"]})
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------------------------------------- passes, one by one
@pytest.fixture
def net():
    torch.manual_seed(0)
    return small_cnn(3, 8, 1, width=4)


@pytest.fixture
def views():
    torch.manual_seed(1)
    return {name: torch.randn(size, 1, 8, 8) for name, size in (("x_lb", 3), ("x_ulb_w", 4), ("x_ulb_s", 4))}


def watched(net, names=("stem.conv",)):
    passes = ForwardPasses(names)
    passes.watch(net)
    return passes


def test_any_order_and_any_grouping(net, views):
    passes = watched(net)
    for grouping in ([("x_ulb_s", "x_lb"), ("x_ulb_w",)], [("x_ulb_w", "x_ulb_s", "x_lb")], [("x_lb",), ("x_ulb_w", "x_ulb_s")]):
        passes.open({**views, "y_lb": torch.zeros(3)})
        for group in grouping:
            net(torch.cat([views[name] for name in group]))
        found = passes.hidden()
        passes.close()
        assert sorted(found) == sorted(views)
        assert all(torch.allclose(found[name]["stem.conv"], net.stem.conv(x), atol=1e-5) for name, x in views.items())


def test_what_is_of_no_view_has_none(net, views):
    passes = watched(net)
    passes.open(views)
    net(0.5 * views["x_ulb_w"] + 0.5 * views["x_ulb_s"])
    net(torch.cat([views["x_lb"], 0.9 * views["x_ulb_w"]]))
    assert passes.hidden() == {}
    with pytest.raises(UsageError, match="batch.hidden: 'x_lb': the network saw no such view in this step.*seen: none"):
        HiddenViews(passes.hidden())["x_lb"]


def test_of_several_passes_the_first_with_gradients_counts(net, views):
    passes = watched(net, ("classifier",))
    passes.open(views)
    with torch.no_grad():
        net.eval()(views["x_lb"])
    first = net.train()(views["x_lb"])["logits"]
    with torch.no_grad():
        net.classifier.bias.add_(1)
    net(views["x_lb"])
    found = passes.hidden()["x_lb"]["classifier"]
    assert torch.equal(found, first) and found.requires_grad


def test_features_that_go_into_the_classifier_keep_their_view(net, views):
    passes = watched(net, ("stem.conv", "classifier"))
    passes.open(views)
    logits = net(net(views["x_ulb_w"], only_feat=True), only_fc=True)
    found = passes.hidden()["x_ulb_w"]
    assert sorted(found) == ["classifier", "stem.conv"] and torch.equal(found["classifier"], logits)


def test_outside_a_step_nothing_is_kept(net, views):
    passes = watched(net)
    net(views["x_lb"])
    assert passes.hidden() == {}
    passes.open(views)
    net(views["x_lb"])
    passes.close()
    assert passes.hidden() == {}
    passes.watch(net)
    assert len(net.stem.conv._forward_hooks) == 1 and len(net._forward_pre_hooks) == 1


def test_without_names_the_network_has_no_hooks(net):
    watched(net, ())
    assert not net._forward_hooks and not net._forward_pre_hooks
