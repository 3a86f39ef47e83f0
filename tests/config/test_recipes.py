"""Recipes are data: those that ship are found and say what they rest on, ranking follows their conditions, bad files get one line."""

from __future__ import annotations

import ast
import re
from dataclasses import replace

import pytest
import yaml
from run_helpers import ROOT, write_yaml

from usb_active.config.recipes import FOUND, Facts, find_recipe, ranked, read_recipe, shipped_recipes
from usb_active.contracts.registry import REGISTRY
from usb_active.errors import UsageError
from usb_active.storage.yaml_input import find_yaml, packaged_names

SHIPPED = sorted((ROOT / "yaml_configs/recipes").glob("*.yaml"))
PAGES = Facts(kind="drawings", channels=1, side=28, images=5000, labels=40, classes=10)
RECIPE = {
    "recipe": {"title": "one", "condition": {"kinds": ["drawings"]}, "evidence": "none"},
    "config": {"algorithm": "supervised", "active": {"initial": "random", "acquisition": "random"}},
}


def other(recipe=None, condition=None, config=None):
    """RECIPE with other values."""
    block = {**RECIPE["recipe"], **(recipe or {})}
    return {"recipe": {**block, "condition": {**block["condition"], **(condition or {})}}, "config": {**RECIPE["config"], **(config or {})}}


def made(tmp_path, name="own", **parts):
    return read_recipe(write_yaml(tmp_path / f"{name}.yaml", other(**parts)))


# ------------------------------------------------------------------------------------------------- those that ship


def test_all_files_are_found_and_the_preferred_come_first():
    found = shipped_recipes()
    assert sorted(found) == [path.stem for path in SHIPPED] and {"drawings", "drawings_flexmatch", "photos_pixels"} <= set(found)
    preferences = [recipe.keys.preference for recipe in found.values()]
    assert preferences == sorted(preferences, reverse=True)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_each_is_headed_by_its_condition_and_its_evidence(path):
    head = "".join(line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.startswith("#"))
    assert re.match(r"# \S.{20,}\n", head) and "\n# When: " in head and "\n# Evidence: " in head
    assert path.read_text(encoding="utf-8").startswith(head), "the comment comes first"
    assert read_recipe(path).keys.cost


def test_recipes_are_no_packaged_configurations():
    assert not [name for name in packaged_names() if name.startswith("recipes")]
    with pytest.raises(UsageError, match="no packaged configuration has this name"):
        find_yaml("recipes/drawings")


@pytest.mark.parametrize("kind", ["drawings", "photos"])
@pytest.mark.parametrize("channels", [1, 3])
def test_there_is_one_for_every_kind_of_usual_folder(kind, channels):
    facts = Facts(kind, channels, 32, 200, 10, 5)
    recipe, against = ranked(shipped_recipes().values(), facts)[0]
    assert not against and kind in recipe.keys.condition.kinds


def test_drawings_with_few_images_or_labels_are_for_flexmatch():
    for facts in (PAGES, replace(PAGES, channels=3)):
        assert ranked(shipped_recipes().values(), facts)[0][0].name == "drawings"
    for facts in (replace(PAGES, images=100), replace(PAGES, labels=10)):
        assert ranked(shipped_recipes().values(), facts)[0][0].name == "drawings_flexmatch"


def test_tiny_drawings_have_a_recipe_of_their_own():
    for side, name in ((8, "drawings_tiny"), (10, "drawings_tiny"), (11, "drawings")):
        assert ranked(shipped_recipes().values(), replace(PAGES, side=side))[0][0].name == name


def test_init_names_no_plugin():
    """What init does with recipes is the same for any plugin."""
    files = [ROOT / "usb_active" / name for name in ("config/recipes.py", "images/measuring.py", "usb/timing.py")]
    files += sorted((ROOT / "usb_active/commands").glob("init*.py"))
    assert len(files) >= 6
    names = {item.name for item in REGISTRY.declarations() if ".plugins." in item.target or item.kind in ("algorithm", "network")}
    assert {"lp", "typiclust", "flexmatch", "small_cnn"} <= names
    # Words that are more than a plugin, in sentences.
    names -= {"random"}
    keys = {"lp_k", "lp_labeled", "width", "uratio"}
    for path in files:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        texts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
        words = {word for text in texts for word in re.findall(r"\w+", text)}
        assert not words & (names | keys), path.name


# ------------------------------------------------------------------------------------------------- ranking


@pytest.mark.parametrize(
    ("condition", "facts", "reason"),
    [
        ({"kinds": ["photos"]}, {}, "it is for photos"),
        ({"channels": [3]}, {}, "it takes images of 3 channel(s), not 1"),
        ({"least_images": 6000}, {}, "it wants at least 6000 images, there are 5000"),
        ({"least_labels": 41}, {}, "it wants at least 41 labels, not 40"),
        ({"least_labels_per_class": 4.05}, {}, "it wants at least 41 labels, not 40"),
        ({"largest_side": 27}, {}, "it is for images of at most 27 pixels, these have 28"),
    ],
)
def test_a_condition_that_does_not_hold_is_told(tmp_path, condition, facts, reason):
    assert made(tmp_path, condition=condition).against(replace(PAGES, **facts)) == [reason]


def test_conditions_hold_at_their_bounds(tmp_path):
    condition = {"least_images": 5000, "least_labels": 40, "least_labels_per_class": 4, "largest_side": 28, "channels": [1]}
    recipe = made(tmp_path, condition=condition)
    assert recipe.against(PAGES) == []
    assert recipe.condition() == (
        "drawings, grey, at most 28 pixels, at least 5000 images, at least 40 labels, at least 4 labels per class"
    )  # fmt: skip


def test_what_fits_comes_before_what_is_preferred(tmp_path):
    fits, better, unfit = (
        made(tmp_path, name, recipe={"preference": preference}, condition={"least_images": images})
        for name, preference, images in (("fits", 1, 0), ("better", 2, 0), ("unfit", 3, 10_000))
    )
    assert [recipe.name for recipe, _ in ranked([fits, unfit, better], PAGES)] == ["better", "fits", "unfit"]


def test_what_is_not_installed_is_told_with_the_way_to_it(tmp_path):
    needs = {"plugins": {"features": "far_away"}, "modules": ["no_such_package_x"], "install": "pip install 'usb-active[far]'"}
    recipe = made(tmp_path, recipe={"preference": 9}, condition={"needs": needs})
    said = "it needs features 'far_away' and the package no_such_package_x, which are not installed: pip install 'usb-active[far]'"
    assert recipe.install_hint() == said
    plain = made(tmp_path, "plain")
    assert [(each.name, reasons) for each, reasons in ranked([recipe, plain], PAGES)] == [("plain", []), ("own", [said])]
    there = made(tmp_path, condition={"needs": {"plugins": {"features": "pixels"}, "modules": ["numpy"]}})
    assert there.install_hint() == ""


# ------------------------------------------------------------------------------------------------- files that are wrong


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ([1], "must be a mapping of keys to values, not list"),
        ({}, "recipe: missing; a mapping of keys to values"),
        ({**RECIPE, "extra": 1}, "extra: unknown key; a recipe has two: recipe, config"),
        ({**RECIPE, "config": 3}, "config: must be a mapping of keys (3)"),
        (other(recipe={"titel": "x"}), "recipe.titel: unknown key; did you mean 'title'?"),
        (other(recipe={"preference": "high"}), "recipe.preference: should be a valid integer"),
        (other(condition={"kinds": ["cats"]}), "recipe.condition.kinds.0: should be 'drawings' or 'photos' ('cats')"),
        (other(condition={"kinds": []}), "recipe.condition.kinds: list should have at least 1 item"),
        (other(condition={"needs": {"plugins": {"feature": "x"}}}), "recipe.condition.needs.plugins.feature: no kind of plugin"),
        (other(recipe={"why": {"lr": "small"}}), "recipe.why.lr: config has no such key"),
        (other(config={"active": {"initial": "random"}}), "config.active.acquisition: missing"),
        (other(config={"save_name": "mine"}), "config.save_name: is not for a recipe to say: init finds it out"),
        (other(recipe={"length": {"key": "epoch", "least": 1, "most": 9, "trial": 2}}), "config.epoch: missing; the length"),
        (
            other(recipe={"length": {"key": "epoch", "least": 1, "most": 9, "trial": 2}}, config={"epoch": 10}),
            "config.epoch: must be within recipe.length, 1 to 9 (10)",
        ),
        (other(recipe={"length": {"key": "epoch", "least": 9, "most": 3, "trial": 2}}), "recipe.length: least and trial must be at most"),
        (other(recipe={"length": {"key": "steps", "least": 1, "most": 9, "trial": 2}}), "recipe.length.key: should be 'epoch' or"),
    ],
)
def test_a_wrong_file_is_told_in_lines_that_name_it(tmp_path, data, said):
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(data))
    with pytest.raises(UsageError) as caught:
        read_recipe(path)
    lines = str(caught.value).split("\n")
    assert lines[0].startswith(f"{path}: {said}") and all(line.startswith(f"{path}: ") for line in lines)


@pytest.mark.parametrize("name", FOUND)
def test_what_init_finds_out_is_not_for_a_recipe_to_say(tmp_path, name):
    with pytest.raises(UsageError, match=rf"config\.{name}: is not for a recipe"):
        made(tmp_path, config={name: "x"})


def test_a_recipe_is_found_by_name_or_file(tmp_path):
    assert find_recipe("drawings").name == "drawings"
    path = write_yaml(tmp_path / "mine.yaml", RECIPE)
    assert find_recipe(str(path)).name == "mine"
    for name, said in (
        ("drawing", "unknown recipe 'drawing'; did you mean 'drawings'?"),
        (str(tmp_path / "no.yaml"), "there is no file"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=re.escape(said)):
            find_recipe(name)
    with pytest.raises(UsageError):
        find_recipe("x" * 5000)
