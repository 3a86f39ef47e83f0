"""What `usb-active init` does: look at a folder of images, rank the recipes, write a YAML with reasons, and say what comes next."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import wrap
from typing import Any, TextIO

from usb_active.builtin.folder_config import FolderConfig
from usb_active.builtin.image_folder import ImageFolder
from usb_active.commands import init_plan as plan
from usb_active.commands.init_yaml import commented
from usb_active.config.recipes import Facts, Recipe, find_recipe, ranked, shipped_recipes
from usb_active.contracts.dataset import DatasetOptions
from usb_active.errors import UsageError, name_some, plain
from usb_active.images.files import ImageFiles
from usb_active.images.listing import is_system_folder, look_through
from usb_active.images.measuring import DRAWINGS, PLAIN, Look, look_at, mean_and_std, some_files, spread_positions
from usb_active.storage.durable import atomic_write, no_os_error
from usb_active.storage.paths import nfc
from usb_active.storage.yaml_input import yaml_on_one_line

SAVE_DIR = "./runs"


@dataclass(frozen=True)
class InitOptions:
    """What was asked for on the command line.

    Attributes:
        folder: of images.
        labels: to be asked for; None: init decides.
        minutes: of training in all; None: as the recipe has it.
        simulate: the classes of the folders answer, not a person.
        classes: names, as typed; None: those of the folders.
        kind: of images; None: init looks.
        recipe: name or file; None: init ranks.
        out: the YAML; None: named after the folder.
        force: whether a file that is there may be overwritten.
    """

    folder: Path
    labels: int | None = None
    minutes: float | None = None
    simulate: bool = False
    classes: str | None = None
    kind: str | None = None
    recipe: str | None = None
    out: Path | None = None
    force: bool = False


@dataclass
class _Draft:
    """The configuration as it grows, and the reason for each key."""

    data: dict[str, Any] = field(default_factory=dict)
    why: dict[str, str] = field(default_factory=dict)

    def put(self, key: str, value: Any, why: str = "") -> None:
        """A value at a dotted key."""
        *parents, last = key.split(".")
        block = self.data
        for parent in parents:
            block = block.setdefault(parent, {})
        block[last] = value
        if why:
            self.why[key] = why

    def put_image(self, key: str, value: Any, why: str = "") -> None:
        """A key of the folder of images."""
        self.put(f"dataset.{key}", value, why)

    def get(self, key: str) -> Any:
        """The value at a dotted key; None where there is none."""
        block: Any = self.data
        for part in key.split("."):
            block = block.get(part) if isinstance(block, dict) else None
        return block


def list_recipes(out: TextIO) -> None:
    """A paragraph for each recipe that comes with the package."""
    for name, recipe in shipped_recipes().items():
        keys = recipe.keys
        lines = [f"{name}: {keys.title}", f"  for       {recipe.condition()}", f"  cost      {keys.cost}", f"  evidence  {keys.evidence}"]
        hint = recipe.install_hint()
        lines += [f"  missing   {hint}"] if hint else []
        print("\n".join(map(plain, lines)), end="\n\n", file=out)
    print("usb-active init FOLDER takes the first that fits; --recipe NAME another, or a file like those of yaml_configs/recipes", file=out)


def init(options: InitOptions, out: TextIO = sys.stdout) -> Path:
    """Write a YAML for a folder; the path. What was found, chosen and why goes to `out`.

    Raises:
        UsageError: the folder, or what was asked for, cannot be used; nothing is written then.
    """
    target = _target(options)
    say = lambda text: print(plain(text), file=out)  # noqa: E731
    names = _class_names(options)
    dataset = ImageFolder(FolderConfig(class_names=names), DatasetOptions(data_dir=options.folder))
    paths = [dataset.path(index).relative_to(options.folder).as_posix() for index in spread_positions(len(dataset))]
    files = some_files(ImageFiles(str(options.folder), paths, 3))
    look = look_at(files)
    known, most = _known_and_most(dataset, options)
    labels = plan.labels_to_ask(options.labels, len(dataset.class_names), known, most)
    kind = options.kind or look.kind
    facts = Facts(kind, look.channels, look.sides[1], len(dataset), known + labels, len(dataset.class_names))
    for line in _found(dataset, look, options, known):
        say(line)
    recipe, others = _choose(options, facts)
    say(f"recipe: {recipe.name}, {recipe.keys.title}")
    say(f"  evidence: {recipe.keys.evidence}")
    for line in others:
        say(f"  {line}")
    draft = _draft(options, recipe, facts, dataset, files, look, labels, known, names)
    _fit_time(draft, options, recipe, facts, target, say)
    _check(draft, target)
    for line in _chosen(draft):
        say(line)
    text = commented(draft.data, draft.why, _head(options, recipe))
    atomic_write(target, lambda file: file.write(text.encode()))
    say(f"wrote {target}: every key has its reason in a comment. Next:")
    say("")
    # A name that begins with a dash would be an option.
    named = f"./{target}" if str(target).startswith("-") else str(target)
    say(f"  usb-active run {shlex.quote(named)}")
    if not options.simulate:
        say(f"  usb-active run {shlex.quote(named)} --label    (the same, with a page in the browser to answer on: usb-active[label])")
    return target


# --- what is there ---------------------------------------------------------------------------------------------------------


def _target(options: InitOptions) -> Path:
    """Where the YAML goes. UsageError where something stands there, before anything is looked at."""
    if not options.folder.is_dir():
        raise UsageError(f"{options.folder} is not a folder")
    target = options.out or Path(f"{plan.folder_name(options.folder)}.yaml")
    with no_os_error("write", target):
        is_there, is_folder, has_folder = target.exists(), target.is_dir(), target.parent.is_dir()
    if is_folder or not has_folder:
        raise UsageError(f"--out: {target} {'is a folder' if is_folder else 'is in a folder that is not there'}")
    if is_there and not options.force:
        raise UsageError(f"{target} is there already; --force overwrites it, --out writes another file")
    return target


def _class_names(options: InitOptions) -> tuple[str, ...] | None:
    """The classes that were typed, or that are tested; None where the folders of `train` are the classes."""
    folder = options.folder
    parts = [part for part in ("train", "unlabeled") if (folder / part).is_dir()]
    if not parts:
        raise UsageError(_no_parts(folder))
    if options.classes is None:
        if _class_folders(folder / "train"):
            return None
        # Those who measure accuracy have named the classes there.
        tested = _class_folders(folder / "test")
        if len(tested) < 2:
            raise UsageError(f"--classes: needed, because {folder / 'train'} has no class folders; as in --classes cat,dog")
        return tested
    names = tuple(name.strip() for name in options.classes.split(","))
    if "" in names or len(names) < 2:
        raise UsageError(f"--classes: at least two names, with commas between them, as in --classes cat,dog ({options.classes!r})")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UsageError(f"--classes: named twice: {name_some(twice)}")
    return names


def _class_folders(folder: Path) -> tuple[str, ...]:
    if not folder.is_dir():
        return ()
    return tuple(sorted(nfc(entry.name) for entry in folder.iterdir() if entry.is_dir() and not is_system_folder(entry.name)))


def _no_parts(folder: Path) -> str:
    """What to do where neither of the two folders is there."""
    listing = look_through(folder)
    if not listing.images:
        return "; ".join([f"{folder} has no image in it, nor a folder unlabeled/ or train/<class>/", *listing.remarks()])
    at_top = [name for name in listing.images if "/" not in name]
    if at_top:
        way_out = f"move them into {folder / 'unlabeled'}"
    else:
        way_out = f"move folders of classes into {folder / 'train'}, images of unknown class into {folder / 'unlabeled'}"
    return f"{folder} has {len(listing.images)} images, but neither unlabeled/ nor train/<class>/; {way_out}"


def _known_and_most(dataset: ImageFolder, options: InitOptions) -> tuple[int, int]:
    """Labels to begin with, and how many can be asked for at most."""
    known = int((dataset.targets >= 0).sum())
    if options.simulate:
        if not known:
            raise UsageError(f"--simulate: the classes in train/<class>/ answer, and {options.folder / 'train'} has no image")
        return 0, min(known, len(dataset) - 1)
    left = len(dataset) - known
    if not left:
        what = f"all {known} images lie in train/<class>/, so that no label is left to ask for"
        raise UsageError(f"{options.folder}: {what}; --simulate has the folders answer, images of unknown class go into unlabeled/")
    return known, min(left, len(dataset) - 1)


def _found(dataset: ImageFolder, look: Look, options: InitOptions, known: int) -> list[str]:
    low, middle, high = look.sides
    size = f"{middle} pixels" if low == high else f"{low} to {high} pixels, half of them below {middle}"
    shape = "" if look.square else " on their shorter side (training sees the middle square)"
    names, tests = dataset.class_names, 0 if dataset.test is None else len(dataset.test)
    colour = "in colour" if look.channels == 3 else "grey"
    answers = "the folders answer" if options.simulate else f"{known or 'none'} with a label"
    lines = [
        f"{options.folder}: {len(dataset)} images to train on, {answers}; {tests or 'none'} to test; {size}{shape}, {colour}",
        f"classes: {len(names)} ({name_some(names, 10)})",
    ]
    share = f"{look.plain:.0%} of an image is near its darkest or lightest grey"
    rule = f"photographs have up to {PLAIN[0]:.0%}, drawings from {PLAIN[1]:.0%} on"
    if options.kind is not None:
        lines.append(f"kind: {options.kind}, as --kind says")
    elif look.is_clear:
        lines.append(f"kind: {look.kind} ({share}; {rule})")
    else:
        other = "photos" if look.kind == DRAWINGS else DRAWINGS
        lines.append(f"kind: not clear, taken as {look.kind} ({share}; {rule}); --kind {other} if that is wrong")
    if not tests:
        lines.append("no test/<class>/: accuracy is not measured; active.audit: 100 has 100 images at random labelled to measure it by")
    return lines


def _choose(options: InitOptions, facts: Facts) -> tuple[Recipe, list[str]]:
    """The recipe, and what speaks against others."""
    if options.recipe is not None:
        recipe = find_recipe(options.recipe)
        hint = recipe.install_hint()
        if hint:
            raise UsageError(f"recipe '{recipe.name}': {hint}")
        return recipe, [f"asked for, though {reason}" for reason in recipe.against(facts)]
    order = ranked(shipped_recipes().values(), facts)
    recipe, against = order[0]
    of_kind = [(each, f"{each.name}: {'; '.join(reasons)}") for each, reasons in order if facts.kind in each.keys.condition.kinds]
    if against:
        what = "; ".join(text for _, text in of_kind) or f"there is none for {facts.kind}"
        raise UsageError(f"no recipe fits: {what}; --recipe NAME takes one all the same")
    return recipe, [f"not {text}" for each, text in of_kind if each.keys.preference > recipe.keys.preference]


# --- what it comes to ------------------------------------------------------------------------------------------------------


def _draft(
    options: InitOptions, recipe: Recipe, facts: Facts, dataset: ImageFolder, files: ImageFiles, look: Look, labels: int, known: int,
    names: tuple[str, ...] | None,
) -> _Draft:  # fmt: skip
    draft, config = _Draft(), recipe.config
    draft.put("algorithm", config["algorithm"], recipe.keys.why.get("algorithm", ""))
    _put_images(draft, options, recipe, facts, files, look, names)
    for key, value in config.items():
        if key not in ("algorithm", "active", "img_size"):
            draft.put(key, value, recipe.keys.why.get(key, ""))
        if recipe.keys.length is not None and key == recipe.keys.length.key:
            # Their place in the file; what they come to follows from the time.
            draft.data |= {"num_eval_iter": 1, "num_log_iter": 1}
    division = plan.divide(labels, facts.classes, known)
    if recipe.keys.labelled_batch and "batch_size" in config:
        batch = plan.batch_size(config["batch_size"], known or division.first)
        if batch != config["batch_size"]:
            draft.put("batch_size", batch, f"labelled images of a step: not more than the {known or division.first} of the first training")
    draft.put("save_dir", SAVE_DIR)
    draft.put("save_name", plan.run_name(options.folder, Path(SAVE_DIR)), "the run's folder is save_dir/save_name")
    _put_labels(draft, options, recipe, division, known)
    return draft


def _put_images(
    draft: _Draft, options: InitOptions, recipe: Recipe, facts: Facts, files: ImageFiles, look: Look, names: tuple[str, ...] | None
) -> None:
    draft.put_image("name", "image_folder")
    if names is not None:
        draft.put_image("class_names", list(names))
    draft.put_image("in_channels", facts.channels, "grey" if facts.channels == 1 else "colour")
    mirrors = facts.kind != DRAWINGS
    draft.put_image("flip", mirrors, "a mirror image keeps its class" if mirrors else "a mirror image of a drawing may be another class")
    if recipe.config.get("img_size"):
        size, why = recipe.config["img_size"], recipe.keys.why.get("img_size", "")
    else:
        size, why = plan.trained_side(facts.side, recipe.keys.halved_to)
    if recipe.keys.normalization == "pool":
        mean, std = mean_and_std(ImageFiles(files.root, files.keys, facts.channels), size)
        draft.put_image("mean", list(mean), f"of the images ({look.looked_at} of them), on the scale of 0 to 1")
        draft.put_image("std", list(std))
    draft.put("data_dir", str(options.folder))
    draft.put("img_size", size, why)


def _put_labels(draft: _Draft, options: InitOptions, recipe: Recipe, division: plan.Division, known: int) -> None:
    active, why = recipe.config["active"], recipe.keys.why
    if known:
        draft.put("active.initial", "known", f"the {known} labels that the folders in train/ give")
    else:
        chosen = active["initial"]
        own = {"name": chosen} if isinstance(chosen, str) else dict(chosen)
        reason = "; ".join(filter(None, [why.get("active.initial", ""), division.why]))
        draft.put("active.initial", {**own, "size": division.first}, reason)
    if division.cycles or "acquisition" in active:
        draft.put("active.acquisition", active["acquisition"], why.get("active.acquisition", ""))
    # What no cycle asks for is written as well: it must stay as it is once the run has begun, and the number of cycles need not.
    once = division.why if known else "one training on all labels"
    draft.put("active.cycles", division.cycles, division.why if division.cycles else f"{once}; a higher number, later too, asks for more")
    draft.put("active.budget", division.budget, "labels per cycle")
    oracle = ("dataset", "the classes of the folders answer") if options.simulate else ("csv", "you answer, in a CSV file")
    draft.put("active.oracle", *oracle)
    for key, value in active.items():
        if key not in ("initial", "acquisition", "cycles", "budget", "oracle"):
            draft.put(f"active.{key}", value, why.get(f"active.{key}", ""))


def _fit_time(draft: _Draft, options: InitOptions, recipe: Recipe, facts: Facts, target: Path, say: Any) -> None:
    """The length of a training, and what depends on it."""
    length = recipe.keys.length
    if length is None:
        if options.minutes is not None:
            say("--minutes is not used: a training of this recipe has one length")
        return
    from usb_active.usb.timing import time_training

    say("timing a few steps ...")
    base = target.resolve().parent
    timing = time_training(draft.data, base, length.key, length.trial, facts.labels)
    trainings = 1 + draft.data["active"]["cycles"]
    seconds = None if options.minutes is None else options.minutes * 60 / trainings - plan.EVALUATIONS * timing.end
    count = plan.units(length, recipe.config[length.key], seconds, timing.unit)
    steps = round(count * timing.steps)
    takes = timing.training(count, plan.EVALUATIONS)
    noun = "epochs" if length.key == "epoch" else "steps"
    why = f"about {_duration(takes)} here, seen of {length.trial} {noun}"
    if options.minutes is not None and takes * trainings > 60 * options.minutes * 1.1:
        why += f": longer than asked, because fewer than {length.least} do not work"
    elif options.minutes is not None and count >= length.most:
        why += f": {length.most} are the most that this recipe takes"
    draft.put(length.key, count, "; ".join(filter(None, [recipe.keys.why.get(length.key, ""), why])))
    draft.put("num_eval_iter", max(1, steps // plan.EVALUATIONS), f"of {steps} steps: {plan.EVALUATIONS} evaluations")
    draft.put("num_log_iter", max(1, steps // plan.EVALUATIONS))
    average = plan.fitting_average(draft.data, steps)
    if average is not None:
        draft.put("ema_m", *average)


def _check(draft: _Draft, target: Path) -> None:
    """As `usb-active check` does, before it is written. Warnings are shown."""
    from usb_active.commands.run import check_all, say_advice
    from usb_active.config.settings import config_from_dict

    config = config_from_dict(draft.data, base=target.resolve().parent, source=str(target))
    check_all(config)
    say_advice(config)


# --- what is said ----------------------------------------------------------------------------------------------------------


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} seconds"
    return f"{round(seconds / 60)} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


# Characters of a line on the screen.
_LINE = 110
# What people want to see of it; the rest is in the file.
_SHOWN = (
    "algorithm", "net", "img_size", *(f"dataset.{key}" for key in ("flip", "mean", "std")), "epoch", "num_train_iter", "batch_size",
    "ema_m", "active.initial", "active.acquisition", "active.cycles", "active.budget", "active.oracle",
)  # fmt: skip


def _chosen(draft: _Draft) -> list[str]:
    shown = [(key, draft.get(key)) for key in _SHOWN]
    rows = [(key.rpartition(".")[2], yaml_on_one_line(value), draft.why.get(key, "")) for key, value in shown if value is not None]
    first = max(len(key) for key, _, _ in rows)
    second = max(len(value) for _, value, _ in rows if len(value) <= 30)
    lines = ["chosen:"]
    for key, value, why in rows:
        line = f"  {key.ljust(first)}  {value.ljust(second)}  {why}".rstrip()
        if len(line) <= _LINE and len(value) <= second:
            lines.append(line)
        else:
            indent = " " * (first + 4)
            lines += [f"  {key.ljust(first)}  {value}", *wrap(why, _LINE, initial_indent=indent, subsequent_indent=indent)]
    return lines


def _head(options: InitOptions, recipe: Recipe) -> list[str]:
    made = ["usb-active init", shlex.quote(str(options.folder))]
    for flag, value in (
        ("--labels", options.labels), ("--minutes", options.minutes), ("--classes", options.classes), ("--kind", options.kind),
        ("--recipe", options.recipe),
    ):  # fmt: skip
        made += [] if value is None else [flag, shlex.quote(f"{value:g}" if isinstance(value, float) else str(value))]
    made += ["--simulate"] if options.simulate else []
    return [f"Made by {' '.join(made)}", f"with the recipe {recipe.name}: {recipe.keys.title}."]
