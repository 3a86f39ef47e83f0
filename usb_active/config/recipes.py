"""Recipes: settings that were seen to work for a kind of data, as files that `usb-active init` ranks and fills in.

A recipe is data, `yaml_configs/recipes/NAME.yaml` or a file of one's own: a comment that says when it fits and what speaks for it, then
two keys. `recipe:` holds what init ranks by and prints, `config:` the keys of a run that are not taken from the images, the labels or the
time. Nothing here knows what an algorithm or a network is.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from usb_active.config.choices import Problems, validate
from usb_active.config.usb_keys import show
from usb_active.contracts.registry import CONTRACTS, REGISTRY
from usb_active.errors import UsageError, nearest
from usb_active.images.measuring import KINDS
from usb_active.storage.durable import no_os_error
from usb_active.storage.paths import user_path
from usb_active.storage.yaml_input import RECIPES, read_yaml

# What init finds out itself, so that a recipe cannot say it.
FOUND = ("dataset", "data_dir", "save_dir", "save_name")


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Needs(_Part):
    """What must be installed beside the package itself.

    Attributes:
        plugins: kind → name of a plugin.
        modules: that can be imported.
        install: the command that brings them.
    """

    plugins: dict[str, str] = {}
    modules: list[str] = []
    install: str = ""

    def missing(self) -> list[str]:
        """What is not there, in words."""
        plugins = [f"{kind} '{name}'" for kind, name in self.plugins.items() if name not in REGISTRY.names(kind)]
        return [*plugins, *(f"the package {name}" for name in self.modules if not _is_installed(name))]


class Condition(_Part):
    """What the images and labels must be like.

    Attributes:
        kinds: of images, "drawings" or "photos".
        channels: of them: 1, 3.
        least_images: in the pool.
        least_labels: in all.
        least_labels_per_class: on average.
        largest_side: of the images, in pixels.
        needs: what must be installed.
    """

    kinds: list[Literal[KINDS]] = Field(min_length=1)
    channels: list[Literal[1, 3]] = [1, 3]
    least_images: int = Field(0, ge=0)
    least_labels: int = Field(0, ge=0)
    least_labels_per_class: float = Field(0, ge=0)
    largest_side: int | None = Field(None, ge=1)
    needs: Needs = Needs()


class Length(_Part):
    """How long a training is: the value of `key` in `config`, or what the time allows between `least` and `most`.

    Attributes:
        key: of the configuration.
        least: below this it does not work.
        most: beyond this nothing is to be gained, or it was not tried.
        trial: how many are tried to see how long one takes.
    """

    key: Literal["epoch", "num_train_iter"]
    least: int = Field(ge=1)
    most: int = Field(ge=1)
    trial: int = Field(ge=1)


class RecipeKeys(_Part):
    """The block `recipe:`.

    Attributes:
        title: in a few words.
        condition: when it fits.
        preference: of several that fit, the one with the highest is taken.
        length: how long a training is; as `config` says, if there is none.
        halved_to: images are halved until their side is at most this; the data set's own size if there is none.
        labelled_batch: whether `batch_size` are labelled images, so that it should not be above their number.
        normalization: mean and standard deviation of the pool's images, or ImageNet's.
        cost: what a training takes, in words.
        evidence: what was measured, in words.
        why: key of `config`, dotted → the reason for its value.
    """

    title: str = Field(min_length=1)
    condition: Condition
    preference: int = 0
    length: Length | None = None
    halved_to: int | None = Field(None, ge=8)
    labelled_batch: bool = False
    normalization: Literal["pool", "imagenet"] = "pool"
    cost: str = ""
    evidence: str = Field(min_length=1)
    why: dict[str, str] = {}


@dataclass(frozen=True)
class Facts:
    """What init knows of a pool.

    Attributes:
        kind: "drawings" or "photos".
        channels: 1 or 3.
        side: the median shorter side, in pixels.
        images: in the pool.
        labels: in all, those that exist already too.
        classes: C.
    """

    kind: str
    channels: int
    side: int
    images: int
    labels: int
    classes: int


@dataclass(frozen=True)
class Recipe:
    """One recipe: `keys` are what it is ranked by, `config` the keys of a run."""

    name: str
    keys: RecipeKeys
    config: dict[str, Any]

    def against(self, facts: Facts) -> list[str]:
        """Why it does not fit a pool, a reason each, without what is not installed; empty where it fits."""
        wanted = self.keys.condition
        least = max(wanted.least_labels, int(wanted.least_labels_per_class * facts.classes + 0.999))
        reasons = [] if facts.kind in wanted.kinds else [f"it is for {' and '.join(wanted.kinds)}"]
        if facts.channels not in wanted.channels:
            reasons.append(f"it takes images of {' or '.join(map(str, wanted.channels))} channel(s), not {facts.channels}")
        if facts.images < wanted.least_images:
            reasons.append(f"it wants at least {wanted.least_images} images, there are {facts.images}")
        if facts.labels < least:
            reasons.append(f"it wants at least {least} labels, not {facts.labels}")
        if wanted.largest_side is not None and facts.side > wanted.largest_side:
            reasons.append(f"it is for images of at most {wanted.largest_side} pixels, these have {facts.side}")
        return reasons

    def condition(self) -> str:
        """When it fits, in a line."""
        wanted = self.keys.condition
        parts = [" and ".join(wanted.kinds)]
        if len(wanted.channels) == 1:
            parts.append("grey" if wanted.channels == [1] else "in colour")
        if wanted.largest_side is not None:
            parts.append(f"at most {wanted.largest_side} pixels")
        if wanted.least_images:
            parts.append(f"at least {wanted.least_images} images")
        if wanted.least_labels:
            parts.append(f"at least {wanted.least_labels} labels")
        if wanted.least_labels_per_class:
            parts.append(f"at least {wanted.least_labels_per_class:g} labels per class")
        return ", ".join(parts)

    def install_hint(self) -> str:
        """What it needs that is not installed, and how that is done; "" where nothing is missing."""
        needs = self.keys.condition.needs
        missing = needs.missing()
        if not missing:
            return ""
        way_out = f": {needs.install}" if needs.install else ""
        return f"it needs {' and '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed{way_out}"


def shipped_recipes() -> dict[str, Recipe]:
    """Those that come with the package, by name; the preferred ones first."""
    folder = Path(str(files("usb_active.yaml_configs"))) / RECIPES
    found = [read_recipe(path) for path in sorted(folder.glob("*.yaml"))]
    return {recipe.name: recipe for recipe in sorted(found, key=lambda recipe: -recipe.keys.preference)}


def find_recipe(name_or_file: str) -> Recipe:
    """A shipped recipe by its name, or a file.

    Raises:
        UsageError: there is neither, or it is no valid recipe.
    """
    shipped = shipped_recipes()
    if name_or_file in shipped:
        return shipped[name_or_file]
    path = user_path(name_or_file)
    with no_os_error("read", path):
        is_file = path.is_file()
    if is_file:
        return read_recipe(path)
    if path.suffix in (".yaml", ".yml"):
        raise UsageError(f"--recipe: there is no file {path}{nearest(path.stem, shipped)}")
    raise UsageError(f"--recipe: unknown recipe '{name_or_file}'{nearest(name_or_file, shipped)}; a file of one's own ends in .yaml")


def read_recipe(path: Path) -> Recipe:
    """A recipe's file. UsageError: what is wrong with it, a line each."""
    data, problems = read_yaml(path), Problems(str(path))
    for name in (name for name in data if name not in ("recipe", "config")):
        problems.add(name, "unknown key; a recipe has two: recipe, config")
    blocks = {name: data.get(name) for name in ("recipe", "config")}
    for name, block in blocks.items():
        if not isinstance(block, dict) or not block:
            problems.add(name, "missing; a mapping of keys to values" if block is None else f"must be a mapping of keys ({show(block)})")
    problems.raise_if_any()
    keys = validate(RecipeKeys, blocks["recipe"], "recipe", problems)
    _check_config(blocks["config"], keys, problems)
    problems.raise_if_any()
    return Recipe(path.stem, keys, blocks["config"])


def _check_config(config: Mapping[str, Any], keys: RecipeKeys | None, problems: Problems) -> None:
    for name in (name for name in FOUND if name in config):
        problems.add(f"config.{name}", "is not for a recipe to say: init finds it out")
    for name in ("algorithm", "active.initial", "active.acquisition"):
        if not _has(config, name):
            problems.add(f"config.{name}", "missing; a recipe says what trains, and what chooses the first labels and later ones")
    if keys is None:
        return
    for name in keys.why:
        if not _has(config, name):
            problems.add(f"recipe.why.{name}", f"config has no such key{nearest(name, config)}")
    for kind in keys.condition.needs.plugins:
        if kind not in CONTRACTS:
            problems.add(f"recipe.condition.needs.plugins.{kind}", f"no kind of plugin{nearest(kind, CONTRACTS)}")
    length = keys.length
    if length is not None and not length.trial <= length.most >= length.least:
        problems.add("recipe.length", f"least and trial must be at most most ({length.least}, {length.trial}, {length.most})")
    elif length is not None and not isinstance(config.get(length.key), int):
        problems.add(f"config.{length.key}", "missing; the length where no time is given, as recipe.length.key says")
    elif length is not None and not length.least <= config[length.key] <= length.most:
        problems.add(f"config.{length.key}", f"must be within recipe.length, {length.least} to {length.most} ({config[length.key]})")


def _has(config: Any, dotted: str) -> bool:
    for part in dotted.split("."):
        if not isinstance(config, Mapping) or part not in config:
            return False
        config = config[part]
    return True


def ranked(recipes: Iterable[Recipe], facts: Facts) -> list[tuple[Recipe, list[str]]]:
    """The recipes with what speaks against each, those that fit and are installed first, then by preference."""
    found = [(recipe, [*recipe.against(facts), *filter(None, [recipe.install_hint()])]) for recipe in recipes]
    return sorted(found, key=lambda item: (len(item[1]) > 0, -item[0].keys.preference))


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False
