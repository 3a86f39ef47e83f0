"""What a plugin may define: asked in one place, and a name that is nearly one of a contract's is refused when it is registered."""

from __future__ import annotations

import ast
import functools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usb_active import Acquisition, Analysis, Dataset, Observer, Oracle, OwnAlgorithm, Prior, UsageError
from usb_active.config.settings import load_yaml_config
from usb_active.contracts.algorithm import declared
from usb_active.contracts.misspelling import misspelt, one_edit
from usb_active.contracts.plugin import optional_methods, overrides
from usb_active.contracts.registry import CONTRACTS, Registry, resolve
from usb_active.loop.plugin_states import PluginStates

ROOT = Path(__file__).resolve().parents[2]
STAGES = {"before_run", "before_train_epoch", "before_train_step", "after_train_step", "after_train_epoch", "after_run"}
WATCHING = {"check", "choose_hidden_modules", "setup", "observe", "on_interval", "state_dict", "load_state_dict", *STAGES}
BASES = {"acquisition": Acquisition, "prior": Prior, "analysis": Analysis, "oracle": Oracle, "dataset": Dataset, "algorithm": object}
REQUIRED = {
    "acquisition": {"select": lambda self, view, budget: view.candidates[:budget]},
    "prior": {"fit": lambda self, view, when: None},
    "analysis": {"report": lambda self, run, out: None},
    "oracle": {"collect": lambda self, query: None},
    "dataset": {"prepare": lambda self: None, "load": lambda self, index: None},
    "algorithm": {"train_step": lambda self: None},
}


def nothing(self, *anything):
    """Stands for any method."""


def made(kind: str, *bases: type, **members) -> type:
    return type("Mine", (*bases, BASES[kind]) if BASES[kind] is not object else bases, {**REQUIRED[kind], **members})


# ---------------------------------------------------------------------------------------------- asked in one place
def test_what_each_kind_may_define():
    assert set(optional_methods(Acquisition)) == WATCHING | {"extra_loss", "pseudo_labels"}
    assert set(optional_methods(Prior)) == WATCHING | {"extra_loss"}
    assert set(optional_methods(Analysis)) == set(optional_methods(Observer)) == WATCHING
    assert set(optional_methods(Oracle)) == {"check", "setup", "ask", "accepts_partial", "instructions"}
    assert set(optional_methods(OwnAlgorithm)) == {"plan", "make_sampler"}


@pytest.mark.parametrize("kind", CONTRACTS)
def test_every_optional_method_says_what_it_is_for(kind):
    base = resolve(CONTRACTS[kind][0])
    silent = [name for name in optional_methods(base) if not (getattr(base, name).__doc__ or "").strip()]
    assert not silent


def test_a_method_of_ones_own_is_told_from_the_default():
    class Mine(Acquisition):
        observe = nothing

    class Further(Mine):
        """Inherits it."""

    assert overrides(Mine, "observe") and overrides(Further, "observe") and overrides(Further(), "observe")
    assert not any(overrides(owner, "setup") for owner in (Mine, Further, Further()))
    assert not overrides(Acquisition(), "observe") and not overrides(None, "observe") and not overrides(object, "observe")


def test_what_is_put_on_an_instance_or_wraps_the_default_is_its_own():
    plugin = Acquisition()
    plugin.observe = lambda batch: None
    assert overrides(plugin, "observe") and not overrides(Acquisition(), "observe")

    class Wrapped(Acquisition):
        @functools.wraps(Acquisition.observe)
        def observe(self, batch):
            """Copies name and attributes of the default."""

    assert overrides(Wrapped, "observe")


def test_a_class_without_the_base_defines_what_it_has():
    class Theirs:
        all_labels = True
        plan = nothing

    assert overrides(Theirs, "plan") and not overrides(Theirs, "make_sampler")
    assert declared(Theirs, "all_labels") is True and declared(Theirs, "include_labeled") is None
    assert declared(Theirs, "unused_fields") == () and declared(OwnAlgorithm, "all_labels") is False


def test_the_defaults_do_nothing():
    plugin = Prior()
    assert [plugin.setup(None), plugin.observe(None), plugin.extra_loss(None), plugin.on_interval(None)] == [None] * 4
    assert plugin.state_dict() == {} and plugin.load_state_dict({}) is None and plugin.needs == frozenset()
    assert tuple(map(len, Acquisition().pseudo_labels(None))) == (0, 0)


def test_only_plugins_with_a_state_are_in_a_checkpoint(tmp_path):
    class Remembers(Prior):
        def state_dict(self):
            return {"n": 1}

    states = PluginStates({"initial": Acquisition(), "prior": Remembers()}, tmp_path)
    assert states.collect() == {"prior": {"n": 1}}
    # Checkpoints from before have an empty one of every acquisition.
    states.give({"initial": {}, "prior": {"n": 2}})


def test_nothing_asks_for_an_optional_method_by_itself():
    names = {name for kind in CONTRACTS for name in optional_methods(resolve(CONTRACTS[kind][0]))}
    attributes = {"batch_fields", "hidden_modules", "interval", "include_labeled", "per_class", "features_at_start"}
    attributes |= {"all_labels", "unused_fields"}
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for folder in ("usb_active", "plugins") for path in sorted((ROOT / folder).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("hasattr", "getattr") and len(node.args) > 1
        and isinstance(node.args[1], ast.Constant) and node.args[1].value in names | attributes
    ]  # fmt: skip
    assert not found


# ---------------------------------------------------------------------------------------------- signatures
@pytest.mark.parametrize(
    ("kind", "name", "parameters"),
    [
        ("prior", "on_interval", "self, view"),
        ("analysis", "before_train_step", "self, algorithm"),
        ("acquisition", "load_state_dict", "self, state"),
        ("acquisition", "check", "self, num_samples, num_classes"),
        ("oracle", "instructions", "self, query, pending"),
        ("algorithm", "make_sampler", "self, split, epoch, start"),
    ],
)
def test_an_optional_method_is_called_as_its_default(kind, name, parameters):
    with pytest.raises(UsageError, match=rf"^{kind} 'mine' .*{name}\(self\) cannot be called as {name}\({parameters}\)"):
        Registry().add(kind, "mine", made(kind, **{name: lambda self: None}))
    Registry().add(kind, "mine", made(kind, **{name: nothing}))


# ---------------------------------------------------------------------------------------------- misspelt names
@pytest.mark.parametrize(
    ("kind", "name", "meant"),
    [
        ("acquisition", "obsreve", "observe"),
        ("acquisition", "batch_feilds", "batch_fields"),
        ("acquisition", "hiden_modules", "hidden_modules"),
        ("acquisition", "set_up", "setup"),
        ("acquisition", "extraloss", "extra_loss"),
        ("acquisition", "peer_class", "per_class"),
        ("acquisition", "pseudo_label", "pseudo_labels"),
        ("acquisition", "Confg", "Config"),
        ("acquisition", "load_state_dcit", "load_state_dict"),
        ("prior", "before_trian_step", "before_train_step"),
        ("prior", "feature_at_start", "features_at_start"),
        ("prior", "inteval", "interval"),
        ("analysis", "on_intervals", "on_interval"),
        ("analysis", "leest_intervals", "least_intervals"),
        ("oracle", "accept_partial", "accepts_partial"),
        ("oracle", "simulatde", "simulated"),
        ("oracle", "aks", "ask"),
        ("dataset", "verfiy", "verify"),
        ("algorithm", "plna", "plan"),
        ("algorithm", "make_samplers", "make_sampler"),
        ("algorithm", "train_steps", "train_step"),
        ("algorithm", "unused_field", "unused_fields"),
        ("algorithm", "all_label", "all_labels"),
        ("acquisition", "setip", "setup"),
        ("prior", "chack", "check"),
    ],
)
def test_a_misspelt_name_is_refused(kind, name, meant):
    registry = Registry()
    with pytest.raises(UsageError, match=rf"^{kind} 'mine' \(.*:Mine\): {name}: did you mean '{meant}'\? \(") as caught:
        registry.add(kind, "mine", made(kind, **{name: nothing}))
    assert "\n" not in str(caught.value) and "mine" not in registry.names(kind)


def test_a_required_name_misspelt_is_not_just_missing():
    with pytest.raises(UsageError, match="slect: did you mean 'select'"):
        Registry().add("acquisition", "mine", type("Mine", (Acquisition,), {"slect": nothing}))


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("acquisition", "_obsreve"),
        ("acquisition", "seeds"),
        ("acquisition", "find"),
        ("acquisition", "names"),
        ("acquisition", "scores"),
        ("oracle", "task"),
        ("oracle", "asked"),
        ("dataset", "loads"),
        ("dataset", "key"),
        ("algorithm", "planes"),
        ("algorithm", "plane"),
    ],
)
def test_other_words_are_no_misspellings(kind, name):
    Registry().add(kind, "mine", made(kind, **{name: nothing}))


def test_names_from_elsewhere_are_not_a_plugins_own():
    # As of another library.
    theirs = type("Theirs", (), {"__module__": "somewhere.else", "observes": nothing, "steup": nothing})
    Registry().add("acquisition", "mine", made("acquisition", theirs))
    Registry().add("acquisition", "mine", made("acquisition", theirs, observes=nothing))
    with pytest.raises(UsageError, match="obsreve: did you mean 'observe'"):
        Registry().add("acquisition", "mine", made("acquisition", theirs, obsreve=nothing))


def test_a_base_or_mixin_of_the_plugins_own_is_looked_at_too():
    base = type("Base", (Acquisition,), {"obsreve": nothing, "__module__": "their_helpers"})
    with pytest.raises(UsageError, match="obsreve: did you mean 'observe'"):
        Registry().add("acquisition", "mine", type("Mine", (base,), REQUIRED["acquisition"]))
    mixin = type("Mixin", (), {"batch_feilds": frozenset({"idx_ulb"})})
    with pytest.raises(UsageError, match="batch_feilds: did you mean 'batch_fields'"):
        Registry().add("acquisition", "mine", made("acquisition", mixin))


def test_a_yaml_with_such_a_plugin_is_refused_before_anything_runs(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from usb_active import Acquisition, register_plugin\n"
        "@register_plugin('acquisition', 'sees_nothing')\n"
        "class SeesNothing(Acquisition):\n"
        "    batch_feilds = frozenset({'idx_ulb'})\n"
        "    def obsreve(self, batch):\n        pass\n"
        "    def select(self, view, budget):\n        return view.candidates[:budget]\n"
    )
    path = tmp_path / "run.yaml"
    path.write_text("plugins: [mine.py]\nactive: {initial: {name: random, size: 10}, acquisition: sees_nothing, cycles: 1, budget: 5}\n")
    message = r"sees_nothing.*: batch_feilds: did you mean 'batch_fields'\? obsreve: did you mean 'observe'\? \("
    with pytest.raises(UsageError, match=message) as caught:
        load_yaml_config(path)
    assert "\n" not in str(caught.value)


def slow_distance(one: str, other: str) -> int:
    """Damerau and Levenshtein's, by its recurrence: a swap of neighbours counts once."""
    if not one or not other:
        return len(one) + len(other)
    costs = [slow_distance(one[1:], other) + 1, slow_distance(one, other[1:]) + 1, slow_distance(one[1:], other[1:]) + (one[0] != other[0])]
    if len(one) > 1 and len(other) > 1 and one[:2] == other[1::-1]:
        costs.append(slow_distance(one[2:], other[2:]) + 1)
    return min(costs)


@given(st.text("ab_", max_size=6), st.text("ab_", max_size=6))
def test_one_edit_is_a_distance_of_one(one, other):
    assert bool(one_edit(one, other)) == (slow_distance(one, other) == 1)


def test_kinds_of_edits():
    # Written out: obs(re)ve and obs(er)ve; hid(d)en; one letter for another; and two edits.
    assert one_edit("obsreve", "observe") == "swap"
    assert one_edit("hiden", "hidden") == "insertion" and one_edit("hiddden", "hidden") == "deletion"
    assert one_edit("obsetve", "observe") == "substitution"
    assert one_edit("obserev", "observes") == one_edit("observe", "observe") == ""
    assert misspelt("obsreve", {"setup", "observe"}) == "observe" and misspelt("anything", {"setup", "observe"}) is None
