"""`usb-active predict RUN`: labels for the rest of the pool, or for a folder of images, by the final model."""

from __future__ import annotations

import csv
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from usb_active.commands.model_inputs import ModelInputs, features_mean, inputs_of, model_inputs, of_cycle, with_encoder
from usb_active.config.settings import RunConfig, load_yaml_config
from usb_active.config.trust import FLAG, check_plugins
from usb_active.contracts.plugin import overrides
from usb_active.errors import UsageError
from usb_active.images.depth import describe_depth
from usb_active.images.files import folder_images
from usb_active.images.given import GivenImages
from usb_active.loop.setup import build_dataset, make, take_pinned
from usb_active.pool.feature_inputs import FeatureInputs
from usb_active.pool.pool import Pool
from usb_active.storage.artifacts import check_array, load_array
from usb_active.storage.journal_checks import check_labels
from usb_active.storage.run_dir import RunDir
from usb_active.storage.schemas import finished_trainings, run_metrics
from usb_active.storage.spreadsheet import text_cell

if TYPE_CHECKING:
    import torch

    from usb_active.contracts.task import Task

logger = logging.getLogger("usb_active")

_REMEDY = "restore it from a copy"
# Images at a time: 1,024 of 224 pixels take 600 MB.
MAX_BATCH = 1024


def write_predictions(path: Path, data: Path | None, out: TextIO, *, trusted: bool = False) -> None:
    """Write CSV rows, of classes (key, class, probability): the most probable class of each image. As `predictions`."""
    columns, rows = predictions(path, data, trusted=trusted)
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow([text_cell(value) if isinstance(value, str) else f"{value:.6f}" for value in row])


def predictions(
    path: Path, images: Path | Sequence[Any] | None = None, *, trusted: bool = False
) -> tuple[tuple[str, ...], Iterator[tuple[Any, ...]]]:
    """The columns (key, and those of the run's task), and a row for each image: by the EMA model, on eval views.

    Args:
        path: a run directory; it is only read, and a run may be in progress in it.
        images: a folder of images, in the order of their paths, or a list of paths, PIL images and arrays; the run's own images need not
            be there any more. None: the pool's samples without a label (skipped ones included), in the pool's order.
        trusted: import the run's plugins even where they are not installed; see `usb_active.config.trust`.

    Raises:
        UsageError: no run, no finished cycle, or no checkpoint of one; images that are missing or not readable; plugins that are
            not installed, without `trusted`.
    """
    run, config = open_finished(path, trusted)
    checkpoint = final_checkpoint(run)
    if images is None:
        keys, samples, idx, inputs = _pool_rest(run, config)
    else:
        keys, samples, idx, inputs = (_folder if isinstance(images, Path) else _given)(images, run, config)
    inputs = of_cycle(inputs, run, config, checkpoint)
    network = load_network(run, config, checkpoint, inputs)
    return ("key", *inputs.task.prediction_columns), _rows(config, network, keys, samples, idx, inputs.task)


def open_finished(path: Path, trusted: bool) -> tuple[RunDir, RunConfig]:
    """A run to be predicted with, and its configuration; unless it is `trusted`, no plugin that is not installed is imported.

    Raises:
        UsageError: no run, or plugins that are not installed.
    """
    run = RunDir.read(path)
    check_plugins(path, run.config.get("plugins"), trusted)
    config = load_yaml_config(path / "config.yaml")
    return run, config if trusted else within_machine(config)


def load_network(run: RunDir, config: RunConfig, checkpoint: Path, inputs: ModelInputs) -> torch.nn.Module:
    """The network with the weights of the EMA model in a checkpoint of the run, on the device."""
    # Imported late: it takes seconds, and mistakes should be told before.
    from usb_active.storage.checkpoint import Owner, must_fit, read_cycle_checkpoint

    cycle = int(checkpoint.parent.name.removeprefix("cycle_"))
    owner = Owner(run.run_id, cycle, config.usb["algorithm"])
    weights = read_cycle_checkpoint(checkpoint, owner, _REMEDY)["ema_model"]
    with must_fit(checkpoint, "weights", _REMEDY):
        return _build_model(config, inputs, weights)


def _rows(
    config: RunConfig, network: torch.nn.Module, keys: Sequence[str | int], samples: Any, idx: np.ndarray, task: Task
) -> Iterator[tuple[Any, ...]]:
    for part, values in _with_progress(_outputs(config, network, samples, idx, task), len(idx)):
        for row, given in zip(part, task.predictions(values), strict=True):
            yield keys[row], *given


def within_machine(config: RunConfig) -> RunConfig:
    """The configuration with no more workers and threads than this machine has cores, and no larger batches than `MAX_BATCH`.

    They change nothing in what is predicted, and a received run may name any number of them. A line says what is lowered.
    """
    cores = os.cpu_count() or 1
    usb, threads = dict(config.usb), config.active.threads
    for name, most, why in (("num_workers", cores, "the cores"), ("eval_batch_size", MAX_BATCH, "the most")):
        if usb[name] > most:
            logger.warning("%s: %d, lowered to %s here, %d (%s takes it as it is)", name, usb[name], why, most, FLAG)
            usb[name] = most
    if threads is not None and threads > cores:
        logger.warning("active.threads: %d, lowered to the cores here, %d (%s takes it as it is)", threads, cores, FLAG)
        threads = cores
    return replace(config, usb=usb, active=config.active.model_copy(update={"threads": threads}))


def final_checkpoint(run: RunDir) -> Path:
    """The checkpoint of the last finished cycle that still has one: the one that held-out labels chose, or else the last.

    Raises:
        UsageError: no cycle is finished, or the checkpoints are gone.
    """
    finished = finished_trainings(run)
    if not finished and any(run.path.glob("cycle_*/done.json")):
        raise UsageError(f"{run.path / 'metrics.jsonl'} is gone or empty; usb-active run with the run's YAML writes it again")
    if not finished:
        raise UsageError(f"{run.path}: no cycle has been finished yet, so there is no model to predict with")
    paths, metric = [], run_metrics(run)[0]
    for record in reversed(finished):
        name = "latest_model.pth" if record.get(f"validation_{metric.key}") is None else "model_best.pth"
        paths.append(run.cycle_path(record["cycle"]) / name)
        if paths[-1].is_file():
            return paths[-1]
    raise UsageError(f"{paths[0]} is gone, and with it the model to predict with; restore it from a copy")


def _pool_rest(run: RunDir, config: RunConfig) -> tuple[Sequence[str], Any, np.ndarray, ModelInputs]:
    """Keys, samples, the dataset indices that have no label, and what the model takes."""
    check_labels(run)
    try:
        dataset = build_dataset(config, run)
    except UsageError as error:
        raise UsageError(f"{run.path}: the rest of its pool cannot be labelled without its images: {error}; others: --data DIR") from error
    take_pinned(run, dataset)
    dataset.align(run.keys() or dataset.keys, grow=False)
    pool = Pool.from_rows(run.rows(), np.asarray(dataset.queryable, dtype=bool), dataset.task)
    inputs = inputs_of(dataset)
    if config.active.train_on == "images":
        return dataset.keys, dataset, pool.unlabeled, inputs
    source = make(config.active.features)
    kept = source.kept(run.path, len(dataset)) if overrides(source, "kept") else None
    if kept is None or not kept.path.is_file():
        inputs = with_encoder(run, config, inputs)
        return dataset.keys, SimpleNamespace(collate=None, load=dataset.load, views=inputs.views), pool.unlabeled, inputs
    features = check_array(kept.path, load_array(kept.path), "f", (len(dataset), None), "restore it from a copy")
    width = features.shape[1]
    samples = FeatureInputs(dataset, width, lambda: (features, None, features_mean(run, width)))
    return dataset.keys, samples, pool.unlabeled, replace(inputs, width=width)


def _folder(data: Path, run: RunDir, config: RunConfig) -> tuple[Sequence[str], Any, np.ndarray, ModelInputs]:
    """The images below a folder, seen as those of the pool are."""
    from usb_active.images.checking import check_images

    inputs = with_encoder(run, config, model_inputs(run, config))
    files, listing = folder_images(data, inputs.in_channels, inputs.reading)
    for line in [*listing.remarks(), *describe_depth(check_images(files).deep)]:
        logger.warning("%s: %s", data, line)
    samples = SimpleNamespace(collate=inputs.collate, load=files.load, views=inputs.views)
    return files.keys, samples, np.arange(len(files.keys)), inputs


def _given(images: Sequence[Any], run: RunDir, config: RunConfig) -> tuple[Sequence[str | int], Any, np.ndarray, ModelInputs]:
    """Images of a list, seen as those of the pool are."""
    inputs = with_encoder(run, config, model_inputs(run, config))
    given = GivenImages(images, inputs.in_channels, inputs.reading)
    samples = SimpleNamespace(collate=inputs.collate, load=given.load, views=inputs.views)
    return given.keys, samples, np.arange(len(images)), inputs


def _build_model(config: RunConfig, inputs: ModelInputs, weights: dict[str, torch.Tensor]) -> torch.nn.Module:
    """The network with the weights of a checkpoint, on the device."""
    from usb_active.pool.memory_format import use_channels_last
    from usb_active.usb.device import configure_torch, pick_device

    configure_torch(config.active)
    shape = (inputs.img_size, inputs.in_channels) if inputs.width is None else (1, inputs.width)
    model = make(config.net).build(inputs.task.num_outputs, *shape)
    model.load_state_dict({name.removeprefix("module."): value for name, value in weights.items()})
    if config.active.uses_channels_last:
        use_channels_last(model)
    model = model if inputs.of_images is None else inputs.of_images(model)
    return model.to(pick_device(config.usb["gpu"]))


def _outputs(
    config: RunConfig, model: torch.nn.Module, samples: Any, idx: np.ndarray, task: Task
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(idx (B,), the task's `output` (B, …)), in order."""
    from usb_active.pool import inference

    usb, device = config.usb, next(model.parameters()).device
    rows = inference.PoolRows(samples, idx, "eval", 1, usb["seed"], ("predict",))
    sizes = usb["eval_batch_size"], usb["num_workers"]
    for part, values in inference.predict(model, rows, [task.output], *sizes, device, has_probs=bool(task.class_names)):
        yield part, values[task.output][0]


def _with_progress(parts: Iterator[tuple[np.ndarray, np.ndarray]], total: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """A bar on the standard error, if that is a terminal."""
    from tqdm import tqdm

    with tqdm(total=total, unit="image", leave=False, file=sys.stderr, disable=not sys.stderr.isatty()) as bar:
        for idx, values in parts:
            yield idx, values
            bar.update(len(idx))
