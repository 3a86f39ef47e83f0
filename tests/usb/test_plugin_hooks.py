"""Who watches a training, and who adds to its loss, without a training."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from usb_active.contracts.observer import Contributor
from usb_active.errors import UsageError
from usb_active.usb.plugin_hooks import PluginHooks

SESSION = SimpleNamespace(seed=0)


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


def registered(plugins, fields=frozenset({"idx_lb", "logits_strong"})):
    """The hooks, as USB names them, and what was given to USB."""
    hooks, given = PluginHooks(plugins), []

    def register_hook(hook, name, priority):
        hook.name = name
        given.append((hook, name, priority))

    hooks.register(register_hook, "someone", fields)
    return hooks, given


def test_only_who_looks_at_steps_makes_batches_wanted():
    assert not PluginHooks({}).want_batches and not PluginHooks({"acquisition": Silent()}).want_batches
    assert PluginHooks({"acquisition": Silent(), "prior": Watching()}).want_batches
    assert PluginHooks({"acquisition": Adding(None)}).want_batches


def test_all_are_given_to_usb_in_order_and_a_field_that_is_not_there_is_refused():
    plugins = {"acquisition": Watching(), "prior": Silent()}
    hooks, given = registered(plugins)
    assert given == [
        (hooks.by_role["acquisition"], "active/acquisition", "VERY_HIGH"), (hooks.by_role["prior"], "active/prior", "VERY_HIGH"),
    ]  # fmt: skip
    with pytest.raises(UsageError, match="active.acquisition: 'watching': needs logits_strong of every step, but algorithm 'someone'"):
        registered(plugins, frozenset({"idx_lb"}))


def test_setup_is_told_by_role_and_draws_by_its_position():
    def draws(seed, cycle):
        plugin = Watching()
        registered({"acquisition": plugin, "prior": Silent()})[0].set_up(lambda role: f"info of {role}", seed, cycle)
        ((called, info, drawn),) = plugin.calls
        assert (called, info) == ("setup", "info of acquisition")
        return drawn

    assert draws(0, 1) == draws(0, 1) and len({draws(0, 1), draws(1, 1), draws(0, 2)}) == 3


def test_steps_are_shown_and_losses_come_by_the_name_of_the_hook():
    watching = Watching()
    plugins = {"acquisition": watching, "prior": Adding(torch.tensor(2.0)), "analysis": Adding(None)}
    hooks, _ = registered(plugins)
    hooks.observe(SESSION, "a batch")
    assert watching.calls == [("observe", "a batch")]
    assert list(hooks.extra_losses(SESSION, "a batch")) == [("active/prior", torch.tensor(2.0))]


@pytest.mark.parametrize(("extra", "got"), [(1.0, "float"), (torch.zeros(1), r"a tensor of shape \(1,\)"), ([torch.tensor(1.0)], "list")])
def test_a_loss_that_is_no_scalar_is_refused(extra, got):
    hooks, _ = registered({"acquisition": Adding(extra)})
    with pytest.raises(UsageError, match=f"^active.acquisition: extra_loss must return a scalar tensor, got {got}$"):
        list(hooks.extra_losses(SESSION, "a batch"))
