"""Who watches a training, and who adds to its loss, without a training."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from usb_active.contracts.observer import Contributor
from usb_active.errors import UsageError
from usb_active.usb.plugin_hooks import PluginHooks
from usb_active.usb.seams import wanted_fields


class Watching(Contributor):
    name = "watching"
    batch_fields = frozenset({"idx_lb", "logits_strong"})

    def __init__(self):
        self.calls = []

    def observe(self, batch):
        self.calls.append(("observe", batch))

    def setup(self, info):
        self.calls.append(("setup", info, torch.rand(1).item()))


class Adding(Contributor):
    name = "adding"

    def __init__(self, extra):
        self.extra = extra

    def extra_loss(self, batch):
        return self.extra


class Silent(Contributor):
    name = "silent"

    def __init__(self):
        pass


class FiveSamples:
    class_names, img_size, in_channels = ("a", "b"), 8, 3

    def __len__(self):
        return 5


def named(plugins) -> PluginHooks:
    """The hooks, under the names that USB gives them."""
    hooks = PluginHooks(plugins)
    for role, hook in hooks.by_role.items():
        hook.name = f"active/{role}"
    return hooks


def training(seed: int, cycle: int):
    session, model = SimpleNamespace(seed=seed, inputs=FiveSamples()), SimpleNamespace(num_features=16)
    return SimpleNamespace(session=session, device=torch.device("cpu"), model=model, cycle=cycle, num_train_iter=12)


def test_only_who_looks_at_steps_makes_batches_wanted():
    assert not PluginHooks({}).want_batches and not PluginHooks({"acquisition": Silent()}).want_batches
    assert PluginHooks({"acquisition": Silent(), "prior": Watching()}).want_batches
    assert PluginHooks({"acquisition": Adding(None)}).want_batches


def test_modules_that_several_look_at_are_captured_once():
    first, second = Watching(), Watching()
    first.hidden_modules, second.hidden_modules = ("a", "b"), ("b", "c")
    assert PluginHooks({"acquisition": first, "prior": second}).hidden_modules == ["a", "b", "c"]


def test_modules_may_be_chosen_by_the_network():
    class Choosing(Watching):
        def choose_hidden_modules(self, info):
            self.seen = info.net, info.img_size, info.in_channels, torch.rand(1).item()
            with pytest.raises(UsageError, match="register_state: 'head': only `setup` can register"):
                info.register_state("head", None)
            return ["b", "c"]

    chooser, first = Choosing(), Watching()
    first.hidden_modules = ("a", "b")
    hooks, at = PluginHooks({"prior": chooser, "acquisition": first}), training(0, 1)
    torch.manual_seed(5)
    assert hooks.modules_to_capture(at) == ["a", "b", "c"]
    # The global generators are as they were, and what it drew depends on its position.
    after = torch.rand(1).item()
    torch.manual_seed(5)
    assert after == torch.rand(1).item() and chooser.seen[:3] == (at.model, 8, 3)
    drawn = chooser.seen[3]
    hooks.modules_to_capture(training(0, 1))
    assert chooser.seen[3] == drawn
    assert PluginHooks({"acquisition": first}).modules_to_capture(at) == ["a", "b"]
    # It wants what inner layers gave of every step, though it names none yet.
    assert "hidden" in wanted_fields(chooser) and "hidden" not in wanted_fields(Watching())


def test_a_field_that_the_algorithm_does_not_have_is_refused():
    hooks = named({"acquisition": Watching(), "prior": Silent()})
    hooks.check_fields("someone", frozenset({"idx_lb", "logits_strong"}))
    with pytest.raises(UsageError, match="active.acquisition: 'watching': needs logits_strong of every step, but algorithm 'someone'"):
        hooks.check_fields("someone", frozenset({"idx_lb"}))


def test_setup_is_told_of_the_training_and_draws_by_its_position():
    def draws(seed, cycle):
        plugin = Watching()
        named({"acquisition": plugin, "prior": Silent()}).set_up(training(seed, cycle), lambda role: f"registrar of {role}")
        ((called, info, drawn),) = plugin.calls
        assert called == "setup" and info.register_state == "registrar of acquisition"
        assert (info.num_samples, info.num_classes, info.feature_dim, info.cycle, info.num_train_iter) == (5, 2, 16, cycle, 12)
        return drawn

    assert draws(0, 1) == draws(0, 1) and len({draws(0, 1), draws(1, 1), draws(0, 2)}) == 3


def test_steps_are_shown_and_losses_added_and_logged_by_the_name_of_the_hook():
    watching = Watching()
    adders = {"prior": Adding(torch.tensor(2.0)), "analysis": Adding(None), "acquisition": Adding(torch.tensor(0.5))}
    out, log = {"loss": torch.tensor(1.0)}, {}
    assert named({"watcher": watching, **adders}).show(None, "a batch", out, log)
    assert watching.calls == [("observe", "a batch")]
    # 1 + 2 + 0.5
    assert out == {"loss": torch.tensor(3.5)} and log == {"train/active/prior_loss": 2.0, "train/active/acquisition_loss": 0.5}


def test_a_loss_that_no_plugin_adds_to_is_the_same_object():
    loss = torch.tensor(1.0)
    out, log = {"loss": loss}, {}
    assert not named({"acquisition": Watching(), "prior": Adding(None)}).show(None, "a batch", out, log)
    assert out["loss"] is loss and log == {}


@pytest.mark.parametrize(("extra", "got"), [(1.0, "float"), (torch.zeros(1), r"a tensor of shape \(1,\)"), ([torch.tensor(1.0)], "list")])
def test_a_loss_that_is_no_scalar_is_refused(extra, got):
    with pytest.raises(UsageError, match=f"^active.acquisition: extra_loss must return a scalar tensor, got {got}$"):
        named({"acquisition": Adding(extra)}).show(None, "a batch", {"loss": torch.tensor(1.0)}, {})
