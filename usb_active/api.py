"""Experiments from Python: `load_config`, `run`, and `open_run` for what a run directory holds. Made for notebooks.

What the commands do and check, this does and checks as well: `run` is `usb-active run` but for the report, which `Run.report` writes,
`Run.predictions` is `usb-active predict`, and a run is given up and resumed in the same way. Mistakes are raised as `UsageError`,
with the line that the command would print.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from usb_active.config.labels_from import with_labels_of
from usb_active.config.settings import RunConfig, config_from_dict, load_yaml_config
from usb_active.errors import UsageError, plain, printable
from usb_active.storage.paths import user_path
from usb_active.storage.yaml_input import apply_overrides

if TYPE_CHECKING:
    import torch

__all__ = ["Run", "TrainedModel", "load_config", "open_run", "run"]

logger = logging.getLogger("usb_active")


def load_config(
    config: str | Path | Mapping[str, Any], overrides: Sequence[str] = (), *, labels_from: str | Path | None = None
) -> RunConfig:
    """A checked configuration, for `run`.

    Args:
        config: the path of a YAML file; the name of a packaged one, such as "quickstart"; or the same as a dict. Relative paths of
            plugins' keys count from the YAML's folder, those of a dict from the working directory.
        overrides: texts as after the command's `--set`, put over it: `["active.budget=50", "seed=3"]`.
        labels_from: a run directory, as after the command's `--from`: a new run begins with the labels and skips that it holds, in
            place of `active.initial`. Give it again to resume that run.

    Returns:
        The configuration: `run_path` is where it runs, `resolved()` all of it as a dict. What was dropped is logged as a warning.

    Raises:
        UsageError: everything that is wrong with it, a line each.
    """
    if isinstance(overrides, str):
        raise UsageError(f"overrides: must be a list of texts, as in ['{printable(overrides)}']")
    if not isinstance(labels_from, (str, os.PathLike, type(None))):
        raise UsageError(f"labels_from: must be the path of a run, not {type(labels_from).__name__}")
    source = None if labels_from is None else user_path(labels_from)
    if isinstance(config, Mapping):
        data = _yaml_value("config", config)
        changed = apply_overrides(data, overrides)
        read = partial(config_from_dict, base=Path.cwd(), source="config", overridden=changed)
        loaded = read(data) if source is None else with_labels_of(read, data, source)
    elif isinstance(config, (str, os.PathLike)):
        loaded = load_yaml_config(os.fspath(config), overrides, source)
    else:
        raise UsageError(f"config: must be a path, the name of a packaged YAML, or a dict, not {type(config).__name__}")
    for line in loaded.warnings:
        logger.warning("%s", plain(line))
    return loaded


def run(config: RunConfig | str | Path | Mapping[str, Any], *, verbose: bool = False, quiet: bool = False) -> Run:
    """Run an experiment to its end, or resume it from where it stopped, as `usb-active run` does.

    A run that was interrupted, or that waits for labels, is resumed by the same call. The process's random generators, thread counts
    and loggers are afterwards as before.

    Args:
        config: what `load_config` returns, or what it takes.
        verbose: show what USB logs as well.
        quiet: show warnings alone.

    Returns:
        The finished run.

    Raises:
        UsageError: a mistake in configuration, data or plugins.
        WaitingForLabels: people are to give labels; its text says where, its `pending` how many.
    """
    from usb_active.commands.run import check_all, progress_logged, say_advice, train_experiment

    with _process_kept(), progress_logged(verbose, quiet):
        loaded = config if isinstance(config, RunConfig) else load_config(config)
        parts = check_all(loaded)
        say_advice(loaded)
        train_experiment(parts)
    # Its configuration is the caller's own, and its plugins are imported already.
    return Run(loaded.run_path, trust_plugins=True)


def open_run(path: str | Path, *, trust_plugins: bool = False) -> Run:
    """A run directory to look at, finished or not. Nothing in it is changed, and a run may be in progress in it.

    Args:
        path: the run directory.
        trust_plugins: import the plugins that the run's config.yaml names even where they are not installed. They are executed: only
            for code that you know. Without it `predictions` and `model` refuse such a run, and `labels` and `metrics` need no plugin.

    Raises:
        UsageError: no run at this path.
    """
    return Run(user_path(path), trust_plugins=trust_plugins)


class TrainedModel(NamedTuple):
    """A run's final model: `network, transform, class_names = run.model()`.

    Attributes:
        network: in eval mode, on the device. Of a batch (B, channels, height, width) it returns {"logits": (B, C), "feat": (B, D)}.
        transform: a path, a PIL image or an array of uint8 → the tensor (channels, height, width) that the run's eval view makes of it.
        class_names: (C,) what the columns of the logits stand for; empty where labels are no classes.
    """

    network: torch.nn.Module
    transform: Callable[[Any], torch.Tensor]
    class_names: tuple[str, ...]


class Run:
    """What a run directory holds. Every method reads the files again, so that a run can be watched while it trains.

    Tables are pandas DataFrames where pandas is installed, else lists of dicts.
    """

    def __init__(self, path: Path, *, trust_plugins: bool = False):
        """Use `open_run`, or what `run` returns."""
        from usb_active.storage.run_dir import RunDir

        self.path = path
        self._trusted = trust_plugins
        self._directory = RunDir.read(path)

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    @property
    def config(self) -> dict[str, Any]:
        """The resolved configuration, as plain data; `load_config(run.path / "config.yaml")` is the same, checked and to be run again."""
        return self._directory.config

    def labels(self) -> Any:
        """Every sample that was asked for or labelled, by cycle, as it stands now.

        Returns:
            A table: cycle, index, key, label ("" without one), status ("labeled", "skipped", "retracted" or "pending"), acquisition (what
            chose it; "volunteered" where nobody asked for it), time (UTC; "" where pending), corrections (how often the label was changed).

        Raises:
            UsageError: files of the run that are damaged.
        """
        from usb_active.commands.asked import Asked, asked_samples
        from usb_active.storage.journal_checks import check_labels

        columns = [field.name for field in fields(Asked)]
        return _table(columns, [asdict(sample) for sample in asked_samples(self._directory, check_labels(self._directory))])

    def metrics(self) -> Any:
        """The lines of metrics.jsonl: one for each finished training, by cycle.

        Returns:
            A table: cycle, num_labels, the metrics of the last EMA model (of classes accuracy and balanced_accuracy), evaluated_on ("test",
            "validation" for held-out labels, or "none"), best_accuracy (selected on the test set itself, so optimistically biased),
            selected_accuracy (on the test set, of the checkpoint that held-out labels chose), counts per class, acquisition, seconds,
            and what plugins logged.

        Raises:
            UsageError: files of the run that are damaged.
        """
        from usb_active.storage.schemas import finished_trainings

        lines = finished_trainings(self._directory)
        return _table(list(dict.fromkeys(name for line in lines for name in line)), lines)

    def predictions(self, images: str | Path | Iterable[Any] | None = None) -> Any:
        """What the final model says of images: the EMA model of the last finished cycle, on eval views.

        Args:
            images: a folder; a list of paths, PIL images and arrays of uint8; or None: the samples of the pool that have no label.

        Returns:
            A table: key, class and probability of the most probable class; of labels that are no classes, the columns of their task.
            `key` is the sample's; of a list, the path as it was given, or else the position in the list.

        Raises:
            UsageError: nothing has been trained yet, a checkpoint or an image is missing or not readable, or a plugin is not installed.
        """
        from usb_active.commands.predict import predictions

        given = images if images is None else user_path(images) if isinstance(images, (str, os.PathLike)) else _listed(images)
        with _process_kept():
            columns, rows = predictions(self.path, given, trusted=self._trusted)
            return _table(columns, [dict(zip(columns, row, strict=True)) for row in rows])

    def model(self) -> TrainedModel:
        """The network that `predictions` uses, and what makes its inputs.

        Raises:
            UsageError: as `predictions`.
        """
        from usb_active.commands.model_inputs import model_inputs, of_cycle, with_encoder
        from usb_active.commands.predict import final_checkpoint, load_network, open_finished

        with _process_kept():
            directory, config = open_finished(self.path, self._trusted)
            checkpoint, inputs = final_checkpoint(directory), with_encoder(directory, config, model_inputs(directory, config))
            inputs = of_cycle(inputs, directory, config, checkpoint)
            network = load_network(directory, config, checkpoint, inputs).eval()
        return TrainedModel(network, inputs.transform, tuple(inputs.task.class_names))

    def report(self, out: str | Path | None = None, *, analysis: bool = False, embed: bool = False) -> list[Path]:
        """Write the report: learning_curve.png, report.md, and pictures of what was picked. As `usb-active report`.

        Args:
            out: the folder; by default `report` in the run's.
            analysis: analysis.md and its figures as well.
            embed: a map of the pool as well.

        Returns:
            The files.

        Raises:
            UsageError: nothing has been trained yet, or `out` cannot be written.
        """
        from usb_active.report import write_report

        folder = None if out is None else user_path(out)
        with _process_kept():
            return write_report([self.path], folder, analysis=analysis, embed=embed, trusted=self._trusted)


def _table(columns: Sequence[str], rows: list[dict[str, Any]]) -> Any:
    try:
        import pandas
    except ImportError:
        return rows
    return pandas.DataFrame(rows, columns=list(columns))


def _listed(images: Any) -> list[Any]:
    if isinstance(images, (np.ndarray, Mapping)) or not isinstance(images, Iterable):
        raise UsageError(f"images: must be a folder, or a list of paths, PIL images and arrays, not {type(images).__name__}")
    return list(images)


def _yaml_value(where: str, value: Any) -> Any:
    """A copy as a YAML would hold it: paths as texts, numbers of numpy as Python's, tuples as lists. UsageError names what none can."""
    if isinstance(value, Mapping):
        wrong = next((key for key in value if not isinstance(key, str)), None)
        if wrong is not None:
            raise UsageError(f"{where}: {printable(wrong)}: keys must be texts")
        return {key: _yaml_value(f"{where}: {printable(key)}", item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_yaml_value(where, item) for item in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, np.generic):
        value = value.item()
    # Exactly these: what derives from them, as an Enum may, is no YAML either.
    if value is None or type(value) in (str, int, float, bool):
        return value
    kinds = "texts, numbers, lists, dicts, None"
    raise UsageError(f"{where}: {printable(value)}: a {type(value).__name__} is no value of a YAML; valid: {kinds}")


@contextmanager
def _process_kept() -> Iterator[None]:
    """Whatever a run sets for its own process is afterwards as before: a notebook's process does more than this run."""
    import torch

    from usb_active.randomness import global_generators_kept

    threads = torch.get_num_threads()
    deterministic, warn_only = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark = torch.backends.cudnn.benchmark
    try:
        with global_generators_kept():
            yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
        torch.backends.cudnn.benchmark = benchmark
