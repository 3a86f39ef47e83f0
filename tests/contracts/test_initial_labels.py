"""Labels that exist before a run begins: a kind of its own under `active.initial`, beside the acquisitions."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import numpy as np
import pytest
import run_helpers
import torch
from pydantic import Field
from run_helpers import ROOT, checkpoint, command, config_of, labels_of, settings, train, weights_equal

from usb_active import InitialLabels, PluginConfig, UsageError, cli, free_key, register_plugin
from usb_active.config.free_keys import free_keys
from usb_active.contracts.acquisition import check_pseudo_labels, label_arrays
from usb_active.contracts.initial_labels import check_initial_labels, check_initial_skips
from usb_active.contracts.registry import REGISTRY
from usb_active.errors import nearest
from usb_active.loop.plugin_states import PluginStates
from usb_active.loop.setup import build_parts

KNOWN = {"initial": "known", "cycles": 0}


@register_plugin("initial_labels", "every_so_many")
class EverySoMany(InitialLabels):
    """The data set's own labels of every so many samples, in the order in which they are drawn; shows what it was given."""

    seen: list = []

    class Config(PluginConfig):
        step: int = Field(100, ge=1)
        shown: int = free_key(0)
        sees: list[str] = []

    @property
    def needs(self):
        return frozenset(self.config.sees)

    def check(self, num_samples, num_classes, *, network):
        if self.config.step > num_samples:
            raise UsageError(f"step: {self.config.step} is beyond the pool of {num_samples}; {network.__name__} has nothing to learn from")

    def known_labels(self, view):
        self.seen.append((view.cycle, len(view.labeled), len(view), {need: getattr(view, need).shape for need in sorted(self.needs)}))
        idx = view.rng.permutation(np.arange(0, len(view), self.config.step))
        return idx, np.asarray(view.dataset.targets)[idx]


@pytest.fixture(autouse=True)
def nothing_seen():
    EverySoMany.seen.clear()


def refused(active, **usb) -> str:
    with pytest.raises(UsageError) as caught:
        build_parts(config_of(settings(Path("nowhere"), active=active, **usb)))
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---------------------------------------------------------------------------------------------- the contract
@pytest.mark.parametrize("pair", [(np.array([8, 0], np.uint8), [2, 1]), ([8, 0], torch.tensor([2, 1])), np.array([[8, 0], [2, 1]])])
def test_what_is_good_comes_back_in_its_order(pair):
    checked = check_initial_labels(pair, 9, 3, "x")
    assert checked["idx"].tolist() == [8, 0] and checked["labels"].tolist() == [2, 1]
    assert checked["idx"].dtype == checked["labels"].dtype == np.int64


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (None, "x: must return two arrays, idx and labels; got NoneType"),
        (3, "x: must return two arrays, idx and labels; got int"),
        ({1: 2}, "x: must return two arrays, idx and labels; got dict"),
        (([1], [2], [3]), "x: must return two arrays, idx and labels; got tuple"),
        (([1, 2], [[0], [0, 1]]), "x: must return two arrays, idx and labels; got tuple"),
        (([], []), "x: brings no label; a training needs at least one"),
        (([1, 2], [0]), r"x: must return idx and labels of one length, got \(2,\) and \(1,\)"),
        (([3, 1, 3, 1], [0, 0, 1, 0]), "x: a sample stands there twice: 1, 3$"),
        (([9], [0]), "x: samples out of range: 9; valid: 0 to 8"),
        (([-1], [0]), "x: samples out of range: -1; valid: 0 to 8"),
        (([1], [3]), "x: labels out of range: 3; valid: 0 to 2"),
        (([1], ["cat"]), "x: labels must be integers, got <U3"),
        (([1], [None]), "x: labels must be integers, got object"),
        (([True, False], [0, 0]), "x: samples must be integers, got bool"),
    ],
)
def test_what_is_bad_is_one_line(returned, message):
    with pytest.raises(UsageError, match=f"^{message}") as caught:
        check_initial_labels(returned, 9, 3, "x")
    assert "\n" not in str(caught.value)


def test_pseudo_labels_that_are_no_pair_are_one_line_too():
    with pytest.raises(UsageError, match="^x: must return two arrays, idx and labels; got NoneType"):
        check_pseudo_labels(*label_arrays(None, "x"), 9, 3, "x")


def test_the_base_class_brings_nothing_by_itself():
    with pytest.raises(NotImplementedError, match=r"InitialLabels\.known_labels"):
        InitialLabels().known_labels(None)
    assert InitialLabels().needs == frozenset()


# ---------------------------------------------------------------------------------------------- the YAML
def test_one_key_takes_both_kinds(tmp_path):
    chosen, brought = (config_of(settings(tmp_path, active=active)).active for active in ({}, KNOWN))
    assert chosen.initial.kind == "acquisition" and not chosen.initial.brings_labels
    assert brought.initial.kind == "initial_labels" and brought.initial.brings_labels
    assert list(chosen.contributors) == ["initial", "acquisition"] and list(brought.contributors) == ["acquisition"]


def test_a_configuration_is_kept_as_it_was_before_there_was_this_kind(tmp_path):
    block = {"name": "file", "path": "/data/known.csv", "features": "pixels"}
    kept = config_of(settings(tmp_path, active={**KNOWN, "initial": block})).stored()["active"]["initial"]
    assert kept == {"name": "file", "path": "/data/known.csv", "features": {"name": "pixels"}, "size": None}
    assert config_of(settings(tmp_path, active=KNOWN)).stored()["active"]["initial"] == {"name": "known", "size": None}


@pytest.mark.parametrize(("wrong", "meant"), [("knwon", "known"), ("fiel", "file"), ("randm", "random"), ("balancd", "balanced")])
def test_a_misspelt_name_is_looked_for_in_both_kinds(wrong, meant):
    said = "active.initial{}: unknown acquisition or initial_labels '{}'; did you mean '{}'?"
    assert refused({"initial": wrong}).endswith(said.format("", wrong, meant))
    assert refused({"initial": {"name": wrong, "size": 10}}).endswith(said.format(".name", wrong, meant))


def test_no_name_at_all_lists_both_kinds():
    names = [*REGISTRY.names("acquisition"), *REGISTRY.names("initial_labels")]
    assert refused({"initial": None}) == f"test.yaml: active.initial: missing{nearest('', names)}"
    assert {"random", "known", "file"} <= set(names)


@pytest.mark.parametrize(("block", "where"), [("known", ""), ({"name": "file", "path": "x.csv"}, ".name"), ("every_so_many", "")])
def test_what_brings_labels_cannot_choose(block, where):
    name = block if isinstance(block, str) else block["name"]
    assert refused({"acquisition": block}) == (
        f"test.yaml: active.acquisition{where}: '{name}' brings labels that exist already and chooses none; it is for active.initial"
    )


@pytest.mark.parametrize(
    ("initial", "said"),
    [
        ({"name": "every_so_many", "size": 10}, "active.initial.size: 'every_so_many' brings its own labels (10); remove size"),
        ({"name": "every_so_many", "steps": 10}, "active.initial.steps: unknown key; did you mean 'step'?"),
        ({"name": "every_so_many", "step": 9999}, "active.initial: 'every_so_many': step: 9999 is beyond the pool of 1343; SmallCnn has"),
        ({"name": "every_so_many", "sees": ["probs"]}, "active.initial: 'every_so_many' needs a trained model's predictions"),
        ({"name": "every_so_many", "sees": ["features"]}, "active.initial: 'every_so_many' needs features before a training; give"),
        ({"name": "every_so_many", "sees": ["previous_features"]}, "which only a prior is given"),
        ({"name": "every_so_many", "sees": ["feature"]}, "active.initial: 'every_so_many' declares unknown needs: feature"),
        ({"name": "file", "path": "/no/such.csv"}, "active.initial.path: there is no file /no/such.csv"),
    ],
)
def test_its_keys_and_needs_are_checked_as_those_of_others(initial, said):
    assert said in refused({"initial": initial})


def test_true_labels_need_a_simulated_oracle():
    said = refused({"initial": {"name": "every_so_many", "sees": ["truth"]}, "oracle": "csv"})
    assert "active.initial: 'every_so_many' needs the true labels, which only a simulated oracle knows" in said


def test_its_free_keys_are_free(tmp_path):
    config = config_of(settings(tmp_path, active={**KNOWN, "initial": {"name": "every_so_many", "shown": 3}}))
    assert "active.initial.shown" in config.free_keys and "active.initial.step" not in config.free_keys
    assert "active.initial.shown" not in free_keys({"active": {"initial": {"name": "random", "shown": 3}}})


def test_an_acquisition_that_brings_labels_is_told_where_to_go(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from usb_active import Acquisition, register_plugin\n"
        "@register_plugin('acquisition', 'brings_as_before')\n"
        "class Mine(Acquisition):\n"
        "    def known_labels(self, view):\n        return [0], [0]\n"
    )
    said = refused({"initial": "brings_as_before"}, plugins=[str(tmp_path / "mine.py")])
    assert "acquisition 'brings_as_before'" in said and said.endswith(
        "must not define known_labels: an acquisition chooses; a plugin that brings labels is of kind initial_labels, "
        "derived from usb_active.InitialLabels"
    )


def test_a_file_whose_names_are_taken_says_by_which(tmp_path):
    for kind, base, method, name in (
        ("initial_labels", "InitialLabels", "known_labels(self, view)", "random"),
        ("acquisition", "Acquisition", "select(self, view, budget)", "known"),
    ):
        path = tmp_path / f"{kind}.py"
        path.write_text(
            f"from usb_active import {base}, register_plugin\n"
            f"@register_plugin('{kind}', '{name}')\nclass Mine({base}):\n    def {method}:\n        return None\n"
        )
        said = refused({}, plugins=[str(path)])
        assert f"{kind} '{name}' is already registered by usb-active (" in said and "which share their names" in said


# ---------------------------------------------------------------------------------------------- through the trainer
def test_a_run_that_begins_with_labels_and_asks_for_more(tmp_path):
    active = {"initial": {"name": "every_so_many", "step": 50, "sees": ["features", "truth"], "features": "pixels"}, "validation": 0.2}
    algorithm = train(settings(tmp_path, active=active))
    session, expected = algorithm.session, set(range(0, 1343, 50))
    assert EverySoMany.seen == [(0, 0, 1343, {"features": (1343, 64), "truth": (1343,)})]
    rows = [row for row in labels_of(tmp_path / "run")[1:]]
    brought, asked = rows[: len(expected)], rows[len(expected) :]
    assert [int(row[1]) for row in brought] == session.run_dir.query(0).idx.tolist() and {int(row[1]) for row in brought} == expected
    assert {(row[0], row[5]) for row in brought} == {("0", "every_so_many")} and {(row[0], row[5]) for row in asked} == {("1", "margin")}
    assert all(row[3] == str(session.dataset.targets[int(row[1])]) for row in rows) and len(asked) == 10
    assert not {int(row[1]) for row in asked} & expected
    assert [line["num_labels"] for line in session.run_dir.metrics()] == [27, 37]
    # It has no part in the training: neither a state nor a hook.
    assert "initial" not in session.plugins and "initial" not in checkpoint(tmp_path / "run", 1)["active"]["plugins"]
    assert json.loads((tmp_path / "run/queries/cycle_000.json").read_text())["acquisition"] == "every_so_many"


def test_check_and_run_ask_it_and_say_what_is_wrong_before_there_is_a_directory(tmp_path, capsys):
    active = {"initial": {"name": "every_so_many", "step": 2}, "cycles": 1, "budget": 700}
    path = run_helpers.write_yaml(tmp_path / "c.yaml", settings(tmp_path, active=active))
    for name in ("check", "run"):
        assert cli.main([name, str(path)]) == 2
        (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
        # 672 of the 1,343 have an even index.
        assert "beside the 672 that 'every_so_many' brings only 671 samples can be queried" in line
    assert EverySoMany.seen and not (tmp_path / "run").exists()


def test_a_checkpoint_of_before_with_an_empty_state_resumes(tmp_path):
    """Version 0.1.0 kept one of every acquisition, and `known` and `file` were acquisitions."""
    active = {"initial": {"name": "every_so_many", "step": 50}, "keep": "all"}
    train(settings(tmp_path, "whole", active=active))
    data = settings(tmp_path, "run", active=active)
    train(data)
    last = tmp_path / "run" / "cycle_001"
    kept = checkpoint(tmp_path / "run", 1)
    kept["active"]["plugins"]["initial"] = {}
    torch.save(kept, last / "latest_model.pth")
    (last / "done.json").unlink()
    train(data)
    assert weights_equal(checkpoint(tmp_path / "whole", 1), checkpoint(tmp_path / "run", 1))
    assert labels_of(tmp_path / "whole") == labels_of(tmp_path / "run")


def test_a_state_that_is_not_empty_needs_its_plugin(tmp_path):
    states = PluginStates({}, tmp_path)
    states.give({"initial": {}})
    with pytest.raises(UsageError, match=r"^a checkpoint has a state of active\.initial, whose plugin keeps none; "):
        states.give({"initial": {"n": 1}})


# ---------------------------------------------------------------------------------------------- in one place
def test_the_list_shows_the_kind():
    shown = command("list", "initial_labels").stdout.splitlines()
    assert [line.split()[:2] for line in shown] == [["initial_labels", name] for name in ("file", "known", "other_run")]
    assert {"file", "known"} <= set(REGISTRY.names("initial_labels")) and not {"file", "known"} & set(REGISTRY.names("acquisition"))


def test_the_kind_is_asked_for_and_not_guessed_from_methods():
    asked = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in sorted((ROOT / "usb_active").rglob("*.py")) for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and any(isinstance(part, ast.Constant) and part.value == "known_labels" for part in node.args)
    ]  # fmt: skip
    compared = [
        path.name
        for path in sorted((ROOT / "usb_active").rglob("*.py")) for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Compare) and any(getattr(side, "value", None) == "initial_labels" for side in node.comparators)
    ]  # fmt: skip
    assert not asked and compared == ["settings.py"]


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (None, r"x: must return the skipped samples as idx \(S,\), got NoneType"),
        ({1, 2}, r"x: must return the skipped samples as idx \(S,\), got set"),
        ([[1, 2]], r"x: must return the skipped samples as idx \(S,\), got shape \(1, 2\)"),
        (np.empty((0, 3)), r"x: must return the skipped samples as idx \(S,\), got shape \(0, 3\)"),
        ([1, 1], "x: .*1"),
        ([9], "x: .*9"),
        ([0.5], "x: "),
        ([3, 4], "x: both labelled and skipped: 4"),
    ],
)
def test_skips_that_are_none_are_refused_in_one_line(returned, message):
    with pytest.raises(UsageError, match=f"^{message}") as caught:
        check_initial_skips(returned, np.array([4, 5]), 9, "x")
    assert "\n" not in str(caught.value)


def test_skips_may_be_a_list_or_none_at_all():
    assert check_initial_skips([3, 1], np.array([4]), 9, "x").tolist() == [3, 1]
    assert check_initial_skips([], np.array([4]), 9, "x").dtype == np.int64
