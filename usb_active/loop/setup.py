"""From a configuration to the parts of a run, checked against each other before anything trains."""

from __future__ import annotations

import logging
import secrets
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from usb_active.config.labels_from import check_begun_from
from usb_active.config.settings import RunConfig, check_against_pool
from usb_active.config.stop_rules import check_assessed
from usb_active.config.upper_bound import check_upper_bound
from usb_active.config.usb_keys import algorithm_class
from usb_active.contracts.acquisition import NEEDS
from usb_active.contracts.dataset import Dataset, DatasetOptions, ImageDataset
from usb_active.contracts.features import independent_sources
from usb_active.contracts.observer import Observer
from usb_active.contracts.plugin import call_check, overrides
from usb_active.errors import UsageError, name_some
from usb_active.loop.audit import draw_audit
from usb_active.loop.previous_features import NEED
from usb_active.loop.task_checks import check_task
from usb_active.pool.feature_inputs import FeatureInputs
from usb_active.pool.image_cache import nothing_to_keep
from usb_active.storage.classes import with_added
from usb_active.storage.paths import nfc
from usb_active.storage.run_dir import RunDir, check_reopening
from usb_active.storage.run_format import PINNED_FILE, run_format
from usb_active.storage.schemas import read_dataset

if TYPE_CHECKING:
    from usb_active.config.choices import PluginChoice
    from usb_active.config.settings import ActiveConfig

logger = logging.getLogger("usb_active")


@dataclass
class Components:
    """The parts of a run.

    Attributes:
        plugins: by role.
        features: the sources by role; `features["algorithm"]` is the run's default one.
        initial_labels: what brings the first labels; None where `plugins["initial"]` chooses what is queried.
        inputs: the samples as the network takes them: the data set itself, or its features under `train_on: features`.
    """

    config: RunConfig
    run_dir: RunDir
    dataset: Dataset
    network: Any
    oracle: Any
    plugins: dict[str, Any]
    features: dict[str, Any]
    pretrainer: Any
    initial_labels: Any = None
    inputs: Dataset = field(init=False)

    def __post_init__(self) -> None:
        self.inputs = network_inputs(self.config, self.dataset, self.features["algorithm"])


def network_inputs(config: RunConfig, images: Dataset, source: Any) -> Dataset:
    """The samples of a data set as a run's network takes them; `source` is that of the run's features."""
    return images if config.active.train_on == "images" else FeatureInputs(images, source.width(images))


def make(choice: PluginChoice, *args: Any) -> Any:
    """An instance of the plugin that was chosen, which knows its name."""
    plugin = choice.make(*args)
    plugin.name = choice.name
    return plugin


def role_choices(active: ActiveConfig) -> dict[str, PluginChoice]:
    """The plugins of the roles that look at the pool, as far as the configuration names them."""
    return {"initial": active.initial, **active.contributors, **active.analyses}


def build_dataset(config: RunConfig, run: RunDir | None = None) -> Dataset:
    """The data set of a configuration: for a new run, or as `run` began with it."""
    usb = config.usb
    options = DatasetOptions(Path(usb["data_dir"]), usb["img_size"], usb["crop_ratio"], usb["num_classes"])
    if run is not None:
        # Files that have come since may be of another size: the data set is not to choose again.
        size = options.img_size or (read_dataset(run) or {}).get("img_size")
        options = replace(options, img_size=size, run_format=run_format(run))
    # The name is set on the class's instance before `prepare` runs, for its messages.
    cls = config.dataset.cls
    dataset = cls.__new__(cls)
    dataset.name = config.dataset.name
    dataset.__init__(config.dataset.config, options)
    if run is not None:
        dataset.class_names = with_added(run, dataset.class_names)
    return dataset


def build_parts(config: RunConfig) -> dict[str, Any]:
    """All parts of a run but its directory, checked against each other.

    Raises:
        UsageError: anything that contradicts anything else.
    """
    run = RunDir.read(config.run_path) if (config.run_path / "config.yaml").is_file() else None
    dataset, made = build_dataset(config, run), make_plugins(config)
    oracle, features, pretrainer = (made[name] for name in ("oracle", "features", "pretrainer"))
    brought = made["initial_labels"]
    plugins = made["plugins"] if brought is None else {"initial": brought, **made["plugins"]}
    if run is not None:
        take_pinned(run, dataset)
    check_needs(plugins, features, oracle, has_pretrainer=pretrainer is not None)
    check_task(config, plugins, dataset)
    of_block = {**plugins, "oracle": oracle, **({"pretrain": pretrainer} if pretrainer else {})}
    checked = {**{f"active.{role}": plugin for role, plugin in of_block.items()}, "dataset": dataset, "net": made["network"]}
    check_keys(config, checked, dataset)
    check_sizes(config, dataset, oracle)
    check_upper_bound(config, dataset, oracle)
    check_assessed(config, dataset)
    check_files(config)
    for role, source in features.items():
        # The default source may be unused.
        used = config.active.train_on == "features" if role == "algorithm" else "features" in plugins[role].needs
        if used:
            _check_source(config, source, dataset, role)
    return {"config": config, "dataset": dataset, **made}


def _check_source(config: RunConfig, source: Any, dataset: Dataset, role: str) -> None:
    where = "active.features" if role == "algorithm" else f"active.{role}.features"
    try:
        check_plugin(config, source, dataset)
        if role == "algorithm" and overrides(source, "check_training"):
            source.check_training(dataset)
    except UsageError as error:
        raise UsageError(f"{config.source}: {where}: '{source.name}': {error}") from error


def make_plugins(config: RunConfig) -> dict[str, Any]:
    """All parts of a run but its directory and its data set, unchecked."""
    active = config.active
    choices = role_choices(active)
    plugins = {role: make(choice) for role, choice in choices.items()}
    sources = {role: choice.features or active.features for role, choice in choices.items()}
    return {
        "network": make(config.net),
        "oracle": make(active.oracle),
        "initial_labels": plugins.pop("initial") if active.initial.brings_labels else None,
        "plugins": plugins,
        "features": {role: make(choice) for role, choice in {**sources, "algorithm": active.features}.items()},
        "pretrainer": make(active.pretrain) if active.pretrain else None,
    }


def say_remarks(parts: dict[str, Any]) -> None:
    """What people should know of the samples before a run, as warnings; once for a command."""
    dataset, lines = parts["dataset"], parts["dataset"].remarks()
    if parts["config"].active.cache_images and (reason := nothing_to_keep(dataset)):
        lines = [*lines, reason]
    for line in lines:
        logger.warning("%s", line)


def open_parts(parts: dict[str, Any], is_new: bool = False) -> Components:
    """The parts with the run directory, opened and locked last, when nothing else can go wrong any more; unless they bring one.

    Args:
        parts: by name, as `Components` takes them.
        is_new: this start has made it before, and closed it.
    """
    if "run_dir" in parts:
        return Components(**parts)
    config = parts["config"]
    return Components(**parts, run_dir=RunDir.open(config.run_path, config.stored(), free_keys=config.free_keys, is_new=is_new))


def check_directory(config: RunConfig) -> None:
    """UsageError when the run's directory holds a run of another configuration, or is none of a run."""
    check_begun_from(config)
    check_reopening(config.run_path, config.stored(), free_keys=config.free_keys)


def pin(run_dir: RunDir, dataset: Dataset) -> None:
    """Keep what a data set may choose by what lies in its folder, which may grow, but has to hold for the whole run."""
    if read_dataset(run_dir) is None:
        kind = f"{len(dataset.class_names)} classes" if dataset.class_names else f"task '{dataset.task.name}'"
        logger.info("%d samples, %s, img_size %d", len(dataset), kind, dataset.img_size)
        # By its number a checkpoint is told from those of other runs.
        began_with = {"format": dataset.options.run_format, "run": secrets.token_hex(8), **_pinned(dataset), **normalization(dataset)}
        run_dir.write_json(PINNED_FILE, began_with)


def take_pinned(run_dir: RunDir, dataset: Dataset) -> None:
    """Have the data set call its classes as the run does, whose files may be of a disk that composes accents in another way.

    Raises:
        UsageError: image size, channels or classes are not those the run began with; names the key that brings them back. Or the test set
            is another, where it is taken from the images of the pool.
    """
    before = read_dataset(run_dir) or {}
    for name, now in _pinned(dataset).items():
        then = before.get(name, now)
        if name == "class_names":
            then = list(with_added(run_dir, then))
        if then == now:
            continue
        if name == "class_names" and list(map(nfc, then)) == list(map(nfc, now)):
            dataset.class_names = tuple(then)
            continue
        if name == "test_digest":
            raise UsageError(
                f"{run_dir.path}: the test set is taken from the same images as the pool (test_share), and is another than when the run "
                "began: images came or went; put them back as they were (new ones can go to unlabeled/)"
            )
        old, new = (f"[{', '.join(value)}]" if name == "class_names" else value for value in (then, now))
        where = "below `dataset:` in the YAML, and take away folders of other classes" if name == "class_names" else "in the YAML"
        raise UsageError(f"{run_dir.path}: the run began with {name}: {old}, and now it is {new}; to resume, write {name}: {old} {where}")


def _pinned(dataset: Dataset) -> dict[str, Any]:
    pinned = {"img_size": dataset.img_size, "in_channels": dataset.in_channels, "class_names": list(dataset.class_names)}
    pinned |= {} if dataset.test_digest is None else {"test_digest": dataset.test_digest}
    return pinned if dataset.class_names else {**pinned, "task": dataset.task.record()}


def normalization(dataset: Dataset) -> dict[str, Any]:
    """The mean and std of a data set's eval views, for predictions without its samples; nothing where its views are its own."""
    if not isinstance(dataset, ImageDataset) or type(dataset).views is not ImageDataset.views or dataset.collate is not None:
        return {}
    return {"mean": list(dataset.mean), "std": list(dataset.std)}


def check_needs(plugins: dict[str, Any], features: dict[str, Any], oracle: Any, has_pretrainer: bool) -> None:
    """What the plugins need must be there when they need it."""
    for role, plugin in plugins.items():
        who, source = f"active.{role}: '{plugin.name}'", features[role]
        unknown = plugin.needs - NEEDS
        if unknown:
            raise UsageError(f"{who} declares unknown needs: {name_some(sorted(unknown))}; known: {', '.join(sorted(NEEDS))}")
        if NEED in plugin.needs and role != "prior":
            raise UsageError(f"{who} needs {NEED}, which only a prior is given; what is asked after a training has its model")
        if "truth" in plugin.needs and not oracle.simulated:
            raise UsageError(f"{who} needs the true labels, which only a simulated oracle knows; use oracle: dataset")
        before_training = role == "initial"
        if before_training and "probs" in plugin.needs:
            raise UsageError(f"{who} needs a trained model's predictions, and before the first training there is none")
        if before_training and "labels" in plugin.needs:
            raise UsageError(f"{who} needs labels, and before the first query no sample is labelled; begin with another, such as random")
        if before_training and isinstance(plugin, Observer) and plugin.batch_fields:
            raise UsageError(f"{who} chooses by what it sees of a training, and before the first there is none")
        if "features" not in plugin.needs:
            continue
        if (before_training or (role == "prior" and plugin.features_at_start)) and source.follows_model:
            raise UsageError(f"{who} needs features before a training; give `features:` {independent_sources()} instead of '{source.name}'")
        if "head" in plugin.needs and not source.follows_model:
            what = f"asks the model's classifier about features, and its are of '{source.name}', which no classifier takes"
            raise UsageError(f"{who} {what}; give `features: model` beside its name")
        if source.from_pretraining and not has_pretrainer:
            raise UsageError(f"{who} takes its features from '{source.name}', but there is no `pretrain:` block")


def check_keys(config: RunConfig, plugins: dict[str, Any], dataset: Dataset) -> None:
    """The plugins' own keys, by where they stand in the YAML, against the pool."""
    for where, plugin in plugins.items():
        try:
            check_plugin(config, plugin, dataset)
        except UsageError as error:
            raise UsageError(f"{config.source}: {where}: '{plugin.name}': {error}") from error


def check_plugin(config: RunConfig, plugin: Any, dataset: Dataset) -> None:
    """The plugin's own `check`, with the algorithm's and the network's class, budget and image size where it wants to see them."""
    algorithm = lambda: algorithm_class(config.usb["algorithm"])  # noqa: E731 — imports semilearn, so only when it is wanted
    wanted = {
        "algorithm": algorithm, "network": lambda: config.net.cls, "budget": lambda: config.active.budget,
        "img_size": lambda: dataset.img_size,
    }  # fmt: skip
    call_check(plugin, len(dataset), len(dataset.class_names), **wanted)


def check_sizes(config: RunConfig, dataset: Dataset, oracle: Any) -> None:
    """Budgets against the pool; labels per class against the classes; the prior's iterations against the training's."""
    queryable = queryable_mask(dataset, oracle)
    counts = None
    if oracle.simulated and dataset.class_names:
        counts = dataset.task.counts(dataset.targets[_choosable(config, queryable)]).tolist()
    # Labels that exist already take their samples from those that can be queried: before a run begins, `usb/trial.py` counts them.
    if not config.active.initial.brings_labels or (config.run_path / "queries").is_dir():
        check_against_pool(config, int(queryable.sum()), len(dataset.class_names), counts)
    prior, steps = config.active.prior, config.usb["num_train_iter"]
    if prior is not None and prior.until_iter is not None and prior.until_iter > steps - (prior.then == "update"):
        where = f"{config.source}: active.prior.until_iter: {prior.until_iter}"
        raise UsageError(f"{where} is beyond the training (num_train_iter: {steps}), so `then: {prior.then}` never comes")
    check_shares(config, dataset)


def _choosable(config: RunConfig, queryable: np.ndarray) -> np.ndarray:
    """(N,) bool: from what the first query chooses, where it is still to be made: the audit is drawn before."""
    size, found = config.active.audit, queryable.copy()
    is_drawn_first = not config.active.initial.brings_labels and size <= queryable.sum()
    if is_drawn_first and not (config.run_path / "queries" / "cycle_000.json").is_file():
        found[draw_audit(queryable, (), size, config.usb["seed"])] = False
    return found


def check_shares(config: RunConfig, dataset: Dataset) -> None:
    """`validation` must hold out at least one sample, and the unlabelled stream must not be empty."""
    active = config.active
    size, share = active.initial.size, active.validation
    if share and size is not None and int(share * size + 0.5) < 1:
        least = f"at least {0.5 / size:.3g}"
        raise UsageError(f"{config.source}: active.validation: {share} of {size} initial labels holds out no sample; {least}")
    total = (size or 0) + active.cycles * active.budget + active.audit
    if not config.usb["include_lb_to_ulb"] and total >= len(dataset):
        reason = f"false, and {total} labels are all there are: the unlabelled stream ends empty"
        raise UsageError(f"{config.source}: include_lb_to_ulb: {reason}")


def check_files(config: RunConfig) -> None:
    """Files that plugins read must be there, before labels are asked for or hours trained."""
    active = config.active
    choices = {**role_choices(active), "features": active.features}
    if active.pretrain is not None:
        choices["pretrain"] = active.pretrain
    if has_taken_labels(config):
        del choices["initial"]
    for where, choice in choices.items():
        for key, value in [*vars(choice.config).items(), *(vars(choice.features.config).items() if choice.features else ())]:
            if isinstance(value, Path) and not value.exists():
                raise UsageError(f"{config.source}: active.{where}.{key}: there is no file {value}")


def has_taken_labels(config: RunConfig) -> bool:
    """Whether labels that existed already are in the run's journal, with the query that stands for them: they are not read again."""
    return config.active.initial.brings_labels and (config.run_path / "queries" / "cycle_000.json").is_file()


def queryable_mask(dataset: Dataset, oracle: Any) -> np.ndarray:
    """(N,) bool: a simulated oracle can only be asked for what the data set knows."""
    queryable = np.asarray(dataset.queryable, dtype=bool)
    return queryable & (np.asarray(dataset.targets) >= 0) if oracle.simulated else queryable


def components_from_args(args: Any) -> Components:
    """From the namespace USB hands to its algorithms, which carries the configuration."""
    # Taken away: they are for one run, and need not be pickled to other processes.
    parts = vars(args).pop("parts", None)
    if parts is None:
        parts = build_parts(args.run_config)
        say_remarks(parts)
    # Said by the launcher, which makes it before train.py writes into it.
    return open_parts(parts, is_new=vars(args).pop("made_run", False))
