"""The configuration: USB's keys as they are, plus the validated `active:` block. Imports neither torch nor semilearn.

All that is wrong with a YAML is found before anything runs, and reported at once, a line each: file, key, value, what is valid.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, InstanceOf

from usb_active.config.choices import Number, PluginChoice, Problems, Strict, choose, choose_with, validate
from usb_active.config.former_defaults import keep_former_defaults
from usb_active.config.free_keys import free_keys
from usb_active.config.labels_from import with_labels_of
from usb_active.config.speed import check_speed
from usb_active.config.stop_rules import StopRule, choose_stop_rules
from usb_active.config.train_on import check_train_on
from usb_active.config.upper_bound import wants_all_labels
from usb_active.config.usb_keys import ALGORITHMS, algorithm_keys, algorithm_names, check_usb_keys, imbalance, show
from usb_active.contracts.algorithm import declared
from usb_active.contracts.plugin import overrides
from usb_active.contracts.registry import INITIAL_KINDS, REGISTRY
from usb_active.environment.usb_names import other_modality
from usb_active.errors import UsageError, nearest
from usb_active.storage.path_texts import name_problem, old_name_problem, path_problem
from usb_active.storage.paths import absolute, is_url, user_path
from usb_active.storage.run_format import PINNED_FILE
from usb_active.storage.yaml_input import apply_overrides, find_yaml, read_yaml

# USB's keys that are paths. They count from where the command is given, and are absolute in a run's config.yaml.
PATH_KEYS = ("save_dir", "data_dir", "pretrain_path")
# Used where a YAML names none; the same as USB's.
DEFAULTS = {"algorithm": "fixmatch", "dataset": "cifar10", "net": "wrn_28_2"}
# Keys without an effect on results that must stay as they are all the same: what an observer has not seen of the first cycles cannot
# be made up for.
OBSERVING_KEYS = ("active.analysis",)


@dataclass(frozen=True)
class InitialSettings(PluginChoice):
    """The plugin that chooses what is labelled first, and how much of it; or that brings labels, and then `size` is None."""

    size: int | None = None

    @property
    def brings_labels(self) -> bool:
        """Whether the labels exist already, so that nothing is selected or queried."""
        return self.kind == "initial_labels"

    def resolved(self) -> dict[str, Any]:
        """The mapping that gives these settings again."""
        return {**super().resolved(), "size": self.size}


@dataclass(frozen=True)
class PriorSettings:
    """The prior, and when it holds: below iteration `until_iter` of each cycle (None: always), then removed or updated."""

    choice: PluginChoice
    until_iter: int | None = None
    then: Literal["remove", "update"] = "remove"
    update_every: int | None = None

    def resolved(self) -> dict[str, Any]:
        """The mapping that gives these settings again."""
        return {**self.choice.resolved(), "until_iter": self.until_iter, "then": self.then, "update_every": self.update_every}


# The `description`s below are what the documentation says of the keys (docs/generate.py).
class InitialKeys(Strict):
    """The core's keys in `initial:`, beside those of the plugin."""

    size: int | None = Field(
        None, ge=1, description="samples labelled before the first training; left out for plugins that bring labels of their own"
    )


class PriorKeys(Strict):
    """The core's keys in `prior:`, beside those of the plugin."""

    until_iter: int | None = Field(None, ge=0, description="the prior holds below this iteration of each cycle; null: always")
    then: Literal["remove", "update"] = Field(
        "remove", description="at `until_iter`: take the prior away, or re-make it every `update_every` iterations"
    )
    update_every: int | None = Field(
        None, ge=1, description="iterations between two updates; required with `then: update`, and read only then"
    )


class ActiveKeys(Strict):
    """The keys of the `active:` block that are not plugins."""

    cycles: int = Field(ge=0, description="how often labels are added; trainings = cycles + 1; 0: train once on the initial labels")
    budget: int = Field(0, ge=0, description="labels per cycle; required unless `cycles: 0`")
    warm_start: bool = Field(False, description="false: every cycle starts from the same initial weights; true: from the last cycle's")
    schedule: Literal["cosine", "constant"] = Field("cosine", description="of the learning rate: USB's cosine, or constant")
    validation: Number = Field(
        0.0, ge=0, le=0.5,
        description="share of the labelled samples, by class, that is held out to choose a checkpoint (at most 0.5); part of the budget",
    )  # fmt: skip
    batch_norm: Literal["usb", "recomputed"] = Field(
        "usb", description="statistics of the EMA network: USB's, copied from the live one; or recomputed from the pool at every evaluation"
    )
    train_on: Literal["images", "features"] = Field(
        "images", description="what the network sees: the images, or the features of `features:`, made once (networks linear and mlp)"
    )
    keep: Literal["last", "all"] = Field("last", description="checkpoints: of the last cycle only, or of all")
    deterministic: bool = Field(False, description="true: torch's deterministic algorithms, for bit-identical runs on CUDA")
    threads: int | None = Field(None, ge=1, description="torch's CPU threads; null: torch's choice, which depends on the machine")
    cache_images: bool = Field(
        False, description="true: every image is decoded once per process, to a file on the run's disk, and all views are made from it"
    )
    views: Literal["exact", "vectorized"] = Field(
        "exact", description="how the views of training batches are drawn: exact: USB's numbers; vectorized: by the same law, all at once"
    )
    views_on: Literal["cpu", "device"] = Field(
        "cpu", description="where views of training batches are made: on the CPU, or of uint8 images on the training's device; same bits"
    )
    fast_hooks: bool = Field(True, description="faster, exact replacements of USB's slow hooks")
    fast: Literal["exact", "fast"] = Field("exact", description="exact: no bit changes; fast: what changes rounding only (channels_last)")
    channels_last: bool = Field(False, description="true: network and images in torch's channels_last format; changes rounding")
    weak_no_grad: bool = Field(
        False, description="true: weak views are forwarded apart, without gradients (USB's use_cat: false); changes what BatchNorm sees"
    )
    compile: bool = Field(False, description="true: torch.compile for steps and for scoring the pool; changes rounding, needs a compiler")
    charge_volunteered: bool = Field(
        False,
        description="true: a query asks for as many labels less as were given unasked before it; what exceeds its budget, later ones do",
    )
    audit: int = Field(
        0, ge=0,
        description="samples drawn at random, labelled with the first query, never trained on: accuracy with an interval; 0: none",
    )  # fmt: skip
    baselines: bool = Field(True, description="the report compares with cheap classifiers on the same labels; off: it does not")


# Keys that there were not from the start.
LATER_KEYS = (
    "batch_norm", "train_on", "cache_images", "views", "views_on", "fast", "channels_last", "weak_no_grad", "compile", "charge_volunteered",
    "audit",
)  # fmt: skip
# The roles that always have a plugin, and which one they have unless the YAML says otherwise.
DEFAULT_PLUGINS = {"oracle": "dataset", "features": "model"}


class ActiveConfig(ActiveKeys):
    """The `active:` block."""

    initial: InstanceOf[InitialSettings] = Field(
        description="an acquisition that needs no trained model, and how many labels it gets; or labels that exist already"
    )
    acquisition: InstanceOf[PluginChoice] | None = Field(
        description="what to label next: a name, or a mapping with `name` and the plugin's own keys; required unless `cycles: 0`"
    )
    oracle: InstanceOf[PluginChoice] = Field(description="who answers: `dataset` (simulated), or `csv` (people)")
    features: InstanceOf[PluginChoice] = Field(
        description="default source of features; `initial`, `acquisition` and `prior` may override it with their own `features:`"
    )
    pretrain: InstanceOf[PluginChoice] | None = Field(description="optional: weights that every cycle starts from")
    prior: InstanceOf[PriorSettings] | None = Field(description="optional: class probabilities that guide the pseudo-labels")
    # One, or several; `analyses` has them all.
    analysis: InstanceOf[PluginChoice] | tuple[InstanceOf[PluginChoice], ...] | None = Field(
        None, description="optional, or a list of several: watches the trainings for `report --analysis`; changes nothing in them"
    )

    stop: tuple[InstanceOf[StopRule], ...] = Field(
        (), description="optional, a list of rules that say when to stop: kappa, overall_uncertainty, plateau, target"
    )

    @property
    def uses_channels_last(self) -> bool:
        """Whether network and images are in the channels_last format, by a key of its own or as a part of `fast`."""
        return self.channels_last or self.fast == "fast"

    @property
    def contributors(self) -> dict[str, PluginChoice]:
        """Role → plugin that chooses or guides, as far as there are any; what brings labels does neither."""
        choices = {
            "initial": None if self.initial.brings_labels else self.initial,
            "acquisition": self.acquisition,
            "prior": self.prior and self.prior.choice,
        }
        return {role: choice for role, choice in choices.items() if choice is not None}

    @property
    def analyses(self) -> dict[str, PluginChoice]:
        """Role → analysis: `analysis` for one alone, `analysis[0]`, `analysis[1]`, … in the order of a list."""
        if isinstance(self.analysis, tuple):
            return {f"analysis[{number}]": choice for number, choice in enumerate(self.analysis)}
        return {} if self.analysis is None else {"analysis": self.analysis}

    def resolved(self) -> dict[str, Any]:
        """The block as a plain mapping, defaults filled in."""
        block = {name: getattr(self, name) for name in ActiveKeys.model_fields}
        for name in LATER_KEYS:
            if block[name] == ActiveKeys.model_fields[name].default:
                # Runs that began before there was a choice resume as they are.
                del block[name]
        for name in ("initial", "acquisition", "oracle", "features", "pretrain", "prior"):
            value = getattr(self, name)
            block[name] = None if value is None else value.resolved()
        # Only where there is one: a run that began before there were analyses is a run without.
        found = [choice.resolved() for choice in self.analyses.values()]
        block |= {"analysis": found if len(found) > 1 else found[0]} if found else {}
        return {**block, "stop": [rule.resolved() for rule in self.stop]} if self.stop else block


@dataclass(frozen=True)
class RunConfig:
    """A whole configuration, checked.

    Attributes:
        usb: USB's keys, `algorithm` (without `active_`), `dataset` and `net` (names) included, defaults filled in.
            `num_classes` and `img_size` are None where the data set decides.
        dataset: the data set's plugin.
        net: the network's plugin.
        active: the `active:` block.
        plugins: modules and absolute paths of files to import.
        base: the YAML's folder, from which relative paths in plugins' keys are counted.
        source: the YAML's name, for messages.
        warnings: what was dropped, a line each.
        unknown: keys that the run, which began before there were any, does not know.
        left_out: USB's keys whose value is not the YAML's.
    """

    usb: dict[str, Any]
    dataset: PluginChoice
    net: PluginChoice
    active: ActiveConfig
    plugins: tuple[str, ...] = ()
    base: Path = field(default=Path(), compare=False)
    source: str = field(default="", compare=False)
    warnings: tuple[str, ...] = field(default=(), compare=False)
    unknown: tuple[str, ...] = field(default=(), compare=False)
    left_out: frozenset[str] = field(default=frozenset(), compare=False)

    @property
    def algorithm(self) -> str:
        """The name in USB's registry."""
        return f"active_{self.usb['algorithm']}"

    @property
    def run_path(self) -> Path:
        """The run directory."""
        return Path(self.usb["save_dir"]) / self.usb["save_name"]

    @property
    def free_keys(self) -> tuple[str, ...]:
        """Dotted keys that may differ when the run is resumed."""
        return (*free_keys(self.resolved()), *self.unknown)

    def resolved(self) -> dict[str, Any]:
        """Everything as plain data, defaults filled in; `config_from_dict` gives the same configuration again."""
        block = {"dataset": self.dataset.resolved(), "net": self.net.resolved()}
        return {**self.usb, **block, "active": self.active.resolved(), "plugins": list(self.plugins)}

    def stored(self) -> dict[str, Any]:
        """What a run's config.yaml holds: `resolved`, with paths that mean the same from any working directory."""
        return {**self.resolved(), **{name: absolute(self.usb[name]) for name in PATH_KEYS}}


def load_yaml_config(path_or_name: str | Path, overrides: Sequence[str] = (), labels_from: Path | None = None) -> RunConfig:
    """The configuration of a file, or of a packaged YAML by its name.

    Args:
        overrides: `key=value` texts with dotted keys, put over the file; values are YAML.
        labels_from: a run directory whose labels stand in place of `active.initial`: see `usb_active.config.labels_from`.

    Raises:
        UsageError: what is wrong, a line each.
    """
    path = find_yaml(path_or_name)
    data = read_yaml(path)
    changed = apply_overrides(data, overrides)
    read = partial(config_from_dict, base=path.resolve().parent, source=str(path_or_name), overridden=changed)
    return read(data) if labels_from is None else with_labels_of(read, data, labels_from)


def config_from_dict(data: Mapping[str, Any], *, base: Path, source: str, overridden: Iterable[str] = ()) -> RunConfig:
    """As `load_yaml_config`, of data that has been read already."""
    problems = Problems(source, overridden)
    rest = dict(data)
    plugins = _load_plugins(rest.pop("plugins", None), base, problems)
    block = rest.pop("active", None)
    _refuse_whole(rest, problems)
    dataset = choose("dataset", rest.pop("dataset", DEFAULTS["dataset"]), "dataset", base, problems)
    net = choose("network", rest.pop("net", DEFAULTS["net"]), "net", base, problems)
    usb = _usb(rest, problems)
    active = _active(block, base, problems)
    # What follows compares values with each other: they must be valid by themselves.
    problems.raise_if_any()
    active = _settle_initial(active, data.get("num_labels"), problems)
    active = _settle_cycles(usb["algorithm"], active, problems)
    _cross_check(usb, active, problems)
    _settle_stream(usb, active, "include_lb_to_ulb" in rest, problems)
    check_train_on(active, net, problems)
    check_speed(usb, active, data, problems)
    problems.raise_if_any()
    usb |= {"dataset": dataset.name, "net": net.name, "num_labels": active.initial.size}
    usb["save_name"] = _save_name(usb, active) if usb["save_name"] is None else usb["save_name"]
    _check_paths(usb, base, problems)
    problems.raise_if_any()
    unknown = keep_former_defaults(usb, data, problems)
    left_out = frozenset(usb) - set(data)
    return RunConfig(usb, dataset, net, active, plugins, base, source, tuple(problems.warnings), unknown, left_out)


def check_against_pool(config: RunConfig, num_queryable: int, num_classes: int, class_counts: Sequence[int] | None = None) -> None:
    """What can only be checked with the pool at hand.

    Args:
        num_queryable: samples that can be queried.
        class_counts: (C,) how many of these each class has, those that the audit will take left out, where truth is known.

    Raises:
        UsageError: more labels are wanted than there are samples, or more of a class than it has.
    """
    active = config.active
    size = active.initial.size or 0
    total = size + active.cycles * active.budget
    if active.audit and active.audit + total > num_queryable:
        counts = f"{active.audit} + {size} initial + {active.cycles} cycles of {active.budget} = {active.audit + total} labels"
        raise UsageError(f"{config.source}: active.audit: {counts}, but only {num_queryable} samples can be queried")
    if size > num_queryable:
        raise UsageError(f"{config.source}: active.initial.size: {size} labels wanted, but only {num_queryable} samples can be queried")
    if total > num_queryable:
        most = (num_queryable - size) // active.cycles
        raise UsageError(
            f"{config.source}: active.budget: {size} initial + {active.cycles} cycles of {active.budget} = {total} labels, but only "
            f"{num_queryable} samples can be queried; at most {most} per cycle"
        )
    if not active.initial.brings_labels and active.initial.cls.per_class:
        _check_per_class(config, size, num_classes, class_counts)


def _check_per_class(config: RunConfig, size: int, num_classes: int, class_counts: Sequence[int] | None) -> None:
    where = f"{config.source}: active.initial.size"
    if size % num_classes:
        lower = size // num_classes * num_classes
        valid = f"{lower} or {lower + num_classes}" if lower else str(num_classes)
        said = f"'{config.active.initial.name}' takes equally many of each class ({size} for {num_classes})"
        raise UsageError(f"{where}: {said}; it could be {valid}")
    each, beside = size // num_classes, " beside the audit" if config.active.audit else ""
    counts = enumerate(() if class_counts is None else class_counts)
    short = [f"class {index} has {count}{beside}" for index, count in counts if count < each]
    if short:
        raise UsageError(f"{where}: {size} is {each} of each class, but {', '.join(short[:5])}; at most {min(class_counts) * num_classes}")


# --- the parts -------------------------------------------------------------------------------------------------------------


def _load_plugins(value: Any, base: Path, problems: Problems) -> tuple[str, ...]:
    names = [] if value is None else value
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        problems.add("plugins", f"must be a list of module names and .py files ({show(value)})")
        problems.raise_if_any()
    for name in names:
        if what := path_problem(name):
            problems.add("plugins", what)
    problems.raise_if_any()
    try:
        plugins = tuple(str((base / user_path(name)).resolve()) if name.endswith(".py") else name for name in names)
        REGISTRY.load_modules(plugins, base)
    except UsageError as error:
        raise UsageError(f"{problems.source}: {error}") from error
    return plugins


def _refuse_whole(rest: dict[str, Any], problems: Problems) -> None:
    """USB's YAMLs for text, audio and imbalanced data: one line, since nothing else in them matters then."""
    if modality := other_modality(rest, REGISTRY.names("dataset")):
        problems.add("dataset", modality)
    elif imbalanced := imbalance(rest):
        problems.add(*imbalanced)
    problems.raise_if_any()


def _usb(rest: dict[str, Any], problems: Problems) -> dict[str, Any]:
    given = {name: value for name, value in rest.items() if name != "algorithm"}
    name = rest.get("algorithm", DEFAULTS["algorithm"])
    try:
        if not isinstance(name, str):
            raise UsageError(f"must be the name of an algorithm ({show(name)}){nearest('', algorithm_names())}")
        # A YAML may use the name that the algorithm has in USB's registry.
        if name not in algorithm_names():
            name = name.removeprefix("active_")
        algorithm_keys(name)
    except UsageError as error:
        problems.add("algorithm", str(error))
        return {}
    usb = check_usb_keys(given, name, problems.add, problems.warn)
    for key in PATH_KEYS:
        if isinstance(usb[key], str) and usb[key].startswith("~"):
            try:
                usb[key] = str(user_path(usb[key]))
            except UsageError as error:
                problems.add(key, str(error))
    return {"algorithm": name, **usb}


def _active(block: Any, base: Path, problems: Problems) -> ActiveConfig | None:
    if not isinstance(block, dict):
        problems.add("active", f"missing; the block that says what to label: initial, acquisition, cycles, budget ({show(block)})")
        return None
    block = {name: value for name, value in block.items() if value is not None}
    plugins = {
        "oracle": choose("oracle", block.pop("oracle", DEFAULT_PLUGINS["oracle"]), "active.oracle", base, problems),
        "features": choose("features", block.pop("features", DEFAULT_PLUGINS["features"]), "active.features", base, problems),
        "pretrain": None,
        "acquisition": None,
        "prior": None,
        "analysis": None,
        "stop": (),
    }
    initial, own = choose_with(INITIAL_KINDS, block.pop("initial", None), "active.initial", base, problems, InitialKeys)
    if "acquisition" in block:
        plugins["acquisition"] = _acquisition(block.pop("acquisition"), base, problems)
    if "analysis" in block:
        plugins["analysis"] = _analyses(block.pop("analysis"), base, problems)
    if "stop" in block:
        plugins["stop"] = choose_stop_rules(block.pop("stop"), block.get("audit"), problems)
    if "pretrain" in block:
        plugins["pretrain"] = choose("pretrainer", block.pop("pretrain"), "active.pretrain", base, problems)
    if "prior" in block:
        plugins["prior"] = _prior(block.pop("prior"), base, problems)
    keys = validate(ActiveKeys, block, "active", problems, also=("initial", *plugins))
    if problems.lines:
        return None
    settings = InitialSettings(initial.kind, initial.name, initial.config, initial.features, own.size)
    return ActiveConfig(**keys.model_dump(), **plugins, initial=settings)


def _acquisition(value: Any, base: Path, problems: Problems) -> PluginChoice | None:
    name = value.get("name") if isinstance(value, dict) else value
    if isinstance(name, str) and name in REGISTRY.names("initial_labels"):
        where = "active.acquisition.name" if isinstance(value, dict) else "active.acquisition"
        problems.add(where, f"'{name}' brings labels that exist already and chooses none; it is for active.initial")
        return None
    return choose("acquisition", value, "active.acquisition", base, problems, features=True)


def _analyses(value: Any, base: Path, problems: Problems) -> PluginChoice | tuple[PluginChoice, ...] | None:
    """One, or a list of several; a list of one is that one."""
    if not isinstance(value, list):
        return choose("analysis", value, "active.analysis", base, problems, features=True)
    if not value:
        problems.add("active.analysis", "an empty list; name at least one analysis, or leave the key out")
        return None
    chosen = tuple(
        choose("analysis", item, f"active.analysis[{number}]" if len(value) > 1 else "active.analysis", base, problems, features=True)
        for number, item in enumerate(value)
    )
    if None in chosen:
        return None
    return chosen if len(chosen) > 1 else chosen[0]


def _prior(value: Any, base: Path, problems: Problems) -> PriorSettings | None:
    choice, keys = choose_with("prior", value, "active.prior", base, problems, PriorKeys)
    if choice is None or keys is None:
        return None
    if keys.then == "update" and (keys.update_every is None or keys.until_iter is None):
        problems.add("active.prior.then", "update needs until_iter and update_every")
    elif keys.then == "remove" and keys.update_every is not None:
        problems.add("active.prior.update_every", f"is read only with then: update ({keys.update_every})")
    return PriorSettings(choice, **keys.model_dump())


# --- keys that must agree with each other ----------------------------------------------------------------------------------


def _settle_initial(active: ActiveConfig, num_labels: Any, problems: Problems) -> ActiveConfig:
    """The number of initial labels: `initial.size`, or USB's `num_labels`; a plugin that brings labels has no need of it."""
    size = active.initial.size
    if active.initial.brings_labels:
        if size is not None:
            problems.add("active.initial.size", f"'{active.initial.name}' brings its own labels ({size}); remove size")
        elif num_labels is not None:
            problems.warn("num_labels", f"'{active.initial.name}' brings its own labels; dropped")
        return active
    if size is not None and num_labels not in (None, "None", size):
        problems.add("num_labels", f"contradicts active.initial.size ({num_labels} and {size}); remove num_labels")
    elif size is None and num_labels in (None, "None"):
        problems.add("active.initial.size", "missing; how many labels there are before the first training")
    elif size is None:
        return active.model_copy(update={"initial": replace(active.initial, size=int(num_labels))})
    return active


def _settle_cycles(algorithm: str, active: ActiveConfig, problems: Problems) -> ActiveConfig:
    """An algorithm that trains on all labels trains once: nothing is left to select."""
    if active.cycles == 0 or not wants_all_labels(algorithm):
        return active
    problems.warn("active.cycles", f"'{algorithm}' trains on all known labels, so that none is left to select ({active.cycles}); dropped")
    return active.model_copy(update={"cycles": 0})


def _cross_check(usb: dict[str, Any], active: ActiveConfig, problems: Problems) -> None:
    if active.cycles > 0 and active.acquisition is None:
        problems.add("active.acquisition", f"missing, with cycles: {active.cycles}{nearest('', REGISTRY.names('acquisition'))}")
    if active.cycles > 0 and active.budget < 1:
        problems.add("active.budget", f"labels per cycle must be at least 1 ({active.budget})")
    # An algorithm that plans its cycles takes the iterations from the epochs.
    if usb["epoch"] > usb["num_train_iter"] and not overrides(own_algorithm(usb["algorithm"]), "plan"):
        problems.add("epoch", f"more epochs than iterations ({usb['epoch']}); at most num_train_iter, {usb['num_train_iter']}")
    if usb["use_pretrain"] and not usb["pretrain_path"]:
        problems.add("pretrain_path", "missing, with use_pretrain: true")


def _check_paths(usb: dict[str, Any], base: Path, problems: Problems) -> None:
    for name in ("save_dir", "data_dir", "load_path", "pretrain_path"):
        if what := path_problem(usb[name]):
            problems.add(name, what)
    what = name_problem(usb["save_name"])
    if what and (_is_run(base) or not path_problem(usb["save_dir"]) and _is_run(Path(usb["save_dir"]) / usb["save_name"])):
        what = old_name_problem(usb["save_name"])
    if what:
        problems.add("save_name", what)
    if usb["use_pretrain"] and is_url(usb["pretrain_path"]):
        problems.add("pretrain_path", f"nothing is downloaded ({show(usb['pretrain_path'])}); fetch the file, and give its path")


def _is_run(path: Path) -> bool:
    """Whether a run has been begun there: a folder with a config.yaml alone may be anything."""
    try:
        return (path / "config.yaml").is_file() and (path / PINNED_FILE).is_file()
    except (OSError, ValueError):
        # No path of this machine.
        return False


def own_algorithm(name: str) -> type | None:
    """The class of an algorithm that is a plugin; None for USB's own, which are not imported here."""
    return REGISTRY.get("algorithm", name) if name in REGISTRY.names("algorithm") and name not in ALGORITHMS else None


def _settle_stream(usb: dict[str, Any], active: ActiveConfig, given: bool, problems: Problems) -> None:
    """`include_lb_to_ulb`, where a method demands that labelled samples are, or are not, in the unlabelled stream."""
    # Of an instance, because what it wants may depend on its keys.
    asking = {choice.name: choice.make().include_labeled for choice in active.contributors.values()}
    own = own_algorithm(usb["algorithm"])
    if own is not None:
        asking[usb["algorithm"]] = declared(own, "include_labeled")
    for name, wanted in asking.items():
        if wanted is None or usb["include_lb_to_ulb"] is wanted:
            continue
        if given:
            problems.add("include_lb_to_ulb", f"'{name}' needs {show(wanted)} ({show(usb['include_lb_to_ulb'])})")
        usb["include_lb_to_ulb"], given = wanted, True


def _save_name(usb: dict[str, Any], active: ActiveConfig) -> str:
    """What the run is called when the YAML does not say: another method, data set or seed gets a directory of its own."""
    method = active.acquisition.name if active.acquisition else active.initial.name
    return f"active_{usb['algorithm']}_{usb['dataset']}_{method}_{usb['seed']}"
