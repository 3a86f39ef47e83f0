"""What a run's baselines are fitted to: the labels of each cycle, the features of the pool, and those of what they are evaluated on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from usb_active.config.upper_bound import with_known_labels
from usb_active.contracts.features import source_of
from usb_active.errors import UsageError
from usb_active.pool.pool import Pool
from usb_active.pool.split import hold_out
from usb_active.report.embedding import kept_features
from usb_active.report.runs import RunRecord
from usb_active.storage.artifacts import check_array, load_array
from usb_active.storage.audit_file import read_audit
from usb_active.storage.journal_checks import read_starts
from usb_active.storage.run_format import FIRST, run_format
from usb_active.storage.schemas import need_start, read_dataset

if TYPE_CHECKING:
    from usb_active.contracts.dataset import Dataset

# Beyond these, so many samples drawn at random stand for all of the pool (those with a label among them), and of the test set.
POOL_UP_TO, TEST_UP_TO = 50_000, 10_000
# Larger images are averaged down to at most this many pixels a side.
SIDE = 32
_BATCH = 256


@dataclass(frozen=True)
class Labelling:
    """What a cycle trained on: `labeled` (L,) sorted dataset indices and their `labels` (L,); `held` (V,) held out, and `held_labels`."""

    labeled: np.ndarray
    labels: np.ndarray
    held: np.ndarray
    held_labels: np.ndarray


@dataclass(frozen=True)
class Evaluation:
    """What is predicted: features of test samples, or of samples of the pool.

    Attributes:
        features: (Q, D).
        targets: (Q,) classes, of test samples.
        idx: (Q,) sorted, of the pool's samples.
        available: how many test samples there are.
    """

    features: np.ndarray
    targets: np.ndarray | None = None
    idx: np.ndarray | None = None
    available: int = 0

    def of(self, labelling: Labelling) -> tuple[np.ndarray, np.ndarray]:
        """The rows that count for a cycle, and their classes."""
        if self.idx is None:
            return np.arange(len(self.features)), self.targets
        return np.searchsorted(self.idx, labelling.held), labelling.held_labels


def labellings(run: RunRecord, dataset: Dataset, cycles: Sequence[int]) -> dict[int, Labelling]:
    """The labels of some cycles, as the training had them.

    Raises:
        UsageError: the data set does not have the run's samples or classes; a file of the run that says what it trained on is gone.
    """
    keys = run.directory.keys()
    if keys is None:
        raise UsageError(f"{run.path}: keys.txt, which says what is in the pool, is gone; restore it from a copy")
    dataset.align(keys, grow=False)
    rows, starts = run.directory.rows(), sorted(start.rows for start in read_starts(run.directory))
    share, seed = run.config["active"].get("validation") or 0.0, run.config.get("seed") or 0
    stratified, task, found = run_format(run.directory) > FIRST, dataset.task, {}
    audit = read_audit(run.directory)
    for cycle in cycles:
        start = need_start(run.directory, cycle)
        pool = Pool.from_rows(rows[: start["journal_rows"]], np.asarray(dataset.queryable), task, starts, audit)
        pool = with_known_labels(pool, dataset) if start.get("all_labels") else pool
        held = hold_out(pool, share, seed, stratified, task.strata)
        labeled = np.setdiff1d(pool.labeled, held)
        found[cycle] = Labelling(labeled, pool.labels[labeled], held, pool.labels[held])
    return found


class FeaturesInUse(NamedTuple):
    """Features that need no trained model, mapped.

    Attributes:
        title: what they are.
        pool: (N, D); None: the pixels are to be read, of test samples too.
        test: (T, D), where the model is evaluated on test samples.
    """

    title: str
    pool: np.ndarray | None = None
    test: np.ndarray | None = None


def features_in_use(run: RunRecord, place: str) -> FeaturesInUse:
    """What the baselines of a run are fitted to.

    Features of test samples are kept by runs that were trained on features. Where a model is evaluated on a test set and they are not
    there, it is the pixels.

    Raises:
        UsageError: features that are not those of the run's samples.
    """
    trained_on = _trained_on(run, place)
    if trained_on is not None:
        return trained_on
    # The keys of a large pool take seconds to read.
    size = len(run.directory.keys() or ()) if place == "validation" else 0
    kept, source = kept_features(run, size) if size else (None, "")
    if kept is not None:
        return FeaturesInUse(source, kept)
    side = (read_dataset(run.directory) or {}).get("img_size", 0)
    return FeaturesInUse("the pixels" if side <= SIDE else f"the pixels, averaged to {-(-side // _factor(side))} a side")


def _trained_on(run: RunRecord, place: str) -> FeaturesInUse | None:
    """The features that the run's network was trained on, where it was and they are kept."""
    active = run.config["active"]
    source = source_of(active.get("features"), f"{run.path}: config.yaml") if active.get("train_on") == "features" else None
    size = 0 if source is None else len(run.directory.keys() or ())
    kept = None if source is None else source.kept(run.path, size)
    if kept is None or not kept.path.is_file():
        return None
    remedy = "the report's baselines need the features that the run was trained on"
    pool = check_array(kept.path, load_array(kept.path), "f", (size, None), remedy)
    if place != "test":
        return FeaturesInUse(kept.title, pool)
    test = source.kept_test(run.path)
    if test is None or not test.is_file():
        return None
    return FeaturesInUse(kept.title, pool, check_array(test, load_array(test), "f", (None, pool.shape[1]), remedy))


def _factor(side: int) -> int:
    return -(-side // SIDE)


def pool_rows(dataset: Dataset, in_use: FeaturesInUse, cycles: Iterable[Labelling]) -> tuple[np.ndarray, np.ndarray]:
    """(M,) sorted dataset indices and (M, D) their features: of all the pool, or of what stands for it."""
    idx = _standing_for(len(dataset), np.unique(np.concatenate([labelling.labeled for labelling in cycles])))
    return idx, _features(dataset, in_use, idx)


def _standing_for(size: int, labeled: np.ndarray) -> np.ndarray:
    if size <= POOL_UP_TO:
        return np.arange(size)
    rng = np.random.default_rng(0)
    others = rng.permutation(np.setdiff1d(np.arange(size), labeled))
    return np.sort(np.concatenate([rng.permutation(labeled), others])[:POOL_UP_TO])


def evaluation(dataset: Dataset, place: str, in_use: FeaturesInUse, cycles: Iterable[Labelling]) -> Evaluation:
    """What the model was evaluated on: the test set, or the labels that were held out of the training."""
    if place == "validation":
        idx = np.unique(np.concatenate([labelling.held for labelling in cycles]))
        return Evaluation(_features(dataset, in_use, idx), idx=idx)
    test = dataset.test
    if test is None or not len(test):
        raise UsageError(f"dataset '{dataset.name}' has no test samples, on which the model was evaluated")
    some = np.arange(len(test))
    if len(test) > TEST_UP_TO:
        some = np.sort(np.random.default_rng(0).choice(len(test), TEST_UP_TO, replace=False))
    kept = in_use.test
    if kept is not None and len(kept) != len(test):
        raise UsageError(f"there are features of {len(kept)} test samples, and now the data set has {len(test)}")
    features = _pixels(dataset, test.load, some) if kept is None else np.asarray(kept[some], dtype=np.float32)
    return Evaluation(features, np.asarray(test.targets)[some], available=len(test))


def _features(dataset: Dataset, in_use: FeaturesInUse, idx: np.ndarray) -> np.ndarray:
    kept = in_use.pool
    return _pixels(dataset, dataset.load, idx) if kept is None else np.asarray(kept[idx], dtype=np.float32)


def _pixels(dataset: Dataset, load: Callable[[int], Any], idx: np.ndarray) -> np.ndarray:
    """(M, D) of the eval views, normalised as these are; images beyond `SIDE` averaged down."""
    parts = [_flat(dataset, [dataset.views.eval(load(int(i))) for i in idx[at : at + _BATCH]]) for at in range(0, len(idx), _BATCH)]
    return np.concatenate(parts)


def _flat(dataset: Dataset, views: list[Any]) -> np.ndarray:
    import torch

    batch = torch.stack(views) if dataset.collate is None else dataset.collate([{"x": view} for view in views])["x"]
    if isinstance(batch, Mapping) or not torch.is_tensor(batch):
        raise UsageError(f"dataset '{dataset.name}': its views are no tensors of one size")
    batch = batch.float()
    if batch.ndim == 4 and max(batch.shape[2:]) > SIDE:
        factor = _factor(max(batch.shape[2:]))
        batch = torch.nn.functional.avg_pool2d(batch, factor, ceil_mode=True)
    return batch.flatten(1).numpy()
