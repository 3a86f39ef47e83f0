"""A map of the pool in two dimensions, with what was picked: t-SNE of the features that it was chosen by, or of the pixels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from usb_active.contracts.features import source_of
from usb_active.errors import UsageError, name_some, reason_of
from usb_active.report.drawing import MARKERS, add_title, new_figure, save_figure
from usb_active.report.runs import RunRecord
from usb_active.report.tables import escape
from usb_active.storage.artifacts import load_array
from usb_active.storage.audit_file import read_audit
from usb_active.storage.run_dir import RunDir

if TYPE_CHECKING:
    from usb_active.contracts.dataset import Dataset

MAP_SIZE, COMPONENTS, PERPLEXITY = 5000, 50, 30
# Beyond these a legend of classes would be longer than the map is high.
NAMED_CLASSES = 20


@dataclass(frozen=True)
class FeatureMap:
    """Samples on the map: `idx` (M,) in the pool's order, `features` (M, D), and where these are from."""

    idx: np.ndarray
    features: np.ndarray
    source: str


def draw_embedding(run: RunRecord, dataset_of: Callable[[RunDir], Dataset], path: Path) -> tuple[Path, str]:
    """Draw t-SNE (van der Maaten & Hinton 2008) of at most 5,000 samples, all picks among them; the path and a caption.

    Principal components first: at most 50 of them as its input, two as its start. All randomness is of the run's seed.

    Raises:
        UsageError: neither features on disk nor the dataset are there; features that are not finite; too few samples.
    """
    try:
        dataset: Dataset | None = dataset_of(run.directory)
        reason = ""
    except Exception as error:  # a dataset may be anyone's code; the map does without, where features are kept
        dataset, reason = None, reason_of(error)
    picks = _picks(run)
    positions = {} if dataset is None else {key: i for i, key in enumerate(dataset.keys)}
    keys = run.directory.keys()
    if not keys:
        raise UsageError(f"{run.path}: --embed: keys.txt, which says what is in the pool, is gone; restore it from a copy")
    chosen = _choose(run, keys, picks, dataset, positions, reason)
    classes, names = _classes(run.directory, chosen.idx, keys, dataset, positions)
    places = tsne(chosen.features, int(run.config.get("seed") or 0))
    title = f"t-SNE of {chosen.source}"
    caption = f"{escape(title)}: {len(chosen.idx):,} of {len(keys):,} samples, {sum(map(len, picks.values())):,} of them picked."
    return _draw(chosen.idx, places, picks, classes, names, title, path), caption


def _picks(run: RunRecord) -> dict[int, np.ndarray]:
    """Cycle → dataset indices; the query after the last training may be waiting for its answers."""
    queries = [run.directory.query(cycle) for cycle in range(run.metrics[-1]["cycle"] + 2)]
    audit = read_audit(run.directory)
    found = {query.cycle: query.idx[~np.isin(query.idx, audit)] for query in queries if query is not None}
    # One may have asked for nothing, or for samples of the audit alone whose answers were taken back.
    return {cycle: idx for cycle, idx in found.items() if len(idx)}


# ---------------------------------------------------------------------------------------------- samples and features
def _choose(
    run: RunRecord, keys: list[str], picks: Mapping[int, np.ndarray], dataset: Dataset | None, positions: Mapping[str, int], reason: str
) -> FeatureMap:
    kept, source = kept_features(run, len(keys))
    if kept is not None:
        idx = _sample(len(keys), picks, run)
        features = np.asarray(kept[idx], dtype=np.float32)
        finite = np.isfinite(features).all(axis=1)
        if not finite.all():
            raise UsageError(f"{run.path}: --embed: {source} are not finite for samples {name_some(idx[~finite])}")
        return FeatureMap(idx, features, f"the {source}")
    if dataset is None:
        where = run.path / "pretrain"
        raise UsageError(f"{run.path}: --embed: no features: none of this pool in {where}, and the dataset is not available: {reason}")
    idx = _sample(len(keys), picks, run)
    missing = [keys[i] for i in idx if keys[i] not in positions]
    if missing:
        raise UsageError(f"{run.path}: --embed: dataset '{dataset.name}' no longer has the samples {name_some(missing)}")
    try:
        return FeatureMap(idx, _pixels(dataset, [positions[keys[i]] for i in idx]), "the pixels")
    except Exception as error:  # as above
        raise UsageError(f"{run.path}: --embed: no features of pretraining, and no pixels: {reason_of(error)}") from error


def kept_features(run: RunRecord, size: int) -> tuple[np.ndarray | None, str]:
    """(N, D) for a pool of this size, mapped, and what they are: those that a selection chose by, where their source keeps
    them; else those of the pretrainer, or of its backbone."""
    active, folder = run.config["active"], run.path / "pretrain"
    choices = [(active.get(role) or {}).get("features") for role in ("initial", "acquisition")]
    places: list[tuple[Path, str]] = []
    for choice in [*choices, active.get("features")]:
        source = source_of(choice, f"{run.path}: config.yaml")
        kept = None if source is None else source.kept(run.path, size)
        places += [] if kept is None else [kept]
    places += [(folder / name, "features of pretraining") for name in ("features.npy", f"backbone_features_{size}.npy")]
    for path, source in places:
        if path.is_file():
            features = load_array(path)
            if features.ndim == 2 and len(features) == size:
                return features, source
    return None, ""


def _sample(size: int, picks: Mapping[int, np.ndarray], run: RunRecord) -> np.ndarray:
    """(M,) all picks and, up to 5,000 in all, others at random; in the order of the pool."""
    rng = np.random.default_rng(int(run.config.get("seed") or 0) & 0xFFFFFFFF)
    picked = np.unique(np.concatenate([*picks.values(), np.empty(0, dtype=np.int64)]))
    others = np.setdiff1d(np.arange(size), picked)
    number = min(len(others), max(0, MAP_SIZE - len(picked)))
    return np.sort(np.concatenate([rng.permutation(picked)[:MAP_SIZE], rng.permutation(others)[:number]]))


def _pixels(dataset: Dataset, positions: list[int]) -> np.ndarray:
    """(M, D) of the samples as they are, in colour and at the dataset's size."""
    from PIL import Image

    mode, rows = "L" if dataset.in_channels == 1 else "RGB", []
    for position in positions:
        sample = dataset.load(position)
        image = sample if hasattr(sample, "convert") else Image.fromarray(np.asarray(sample))
        image = image.convert(mode).resize((dataset.img_size, dataset.img_size))
        rows.append(np.asarray(image, dtype=np.float32).ravel() / 255)
    return np.stack(rows)


def _classes(
    run: RunDir, idx: np.ndarray, keys: list[str], dataset: Dataset | None, positions: Mapping[str, int]
) -> tuple[np.ndarray, list[str]]:
    """(M,) classes, -1 unknown: the dataset's, else the answers'; and the names of all classes."""
    query = run.query(0)
    names = list(dataset.class_names if dataset is not None else query.class_names if query is not None else ())
    number = {name: i for i, name in enumerate(names)}
    if not names:
        # Labels that are no classes have no colours.
        return np.full(len(idx), -1, dtype=np.int64), names
    # The last row of an index counts: a later row is a correction.
    answers = {row.index: number.get(row.label, -1) if row.status == "labeled" else -1 for row in run.rows()}
    classes = np.array([answers.get(int(i), -1) for i in idx], dtype=np.int64)
    if dataset is not None:
        truth = np.array([dataset.targets[positions[keys[i]]] if keys[i] in positions else -1 for i in idx])
        classes = np.where(truth >= 0, truth, classes)
    return classes, names


# ---------------------------------------------------------------------------------------------- the map
def tsne(features: np.ndarray, seed: int) -> np.ndarray:
    """(M, 2) of (M, D); the perplexity is 30, or a third of the neighbours where there are fewer than 91."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    size, state = len(features), seed & 0xFFFFFFFF
    if size < 4 or features.shape[1] < 2:
        raise UsageError(f"--embed: a map needs 4 samples and 2 features at least, got {size} and {features.shape[1]}")
    if features.shape[1] > COMPONENTS:
        features = PCA(min(COMPONENTS, size), random_state=state).fit_transform(features)
    return TSNE(perplexity=min(PERPLEXITY, (size - 1) / 3), init="pca", random_state=state).fit_transform(features)


def _draw(
    idx: np.ndarray, places: np.ndarray, picks: Mapping[int, np.ndarray], classes: np.ndarray, names: list[str], title: str, path: Path
) -> Path:
    figure = new_figure(8.5, 6.4)
    axes = figure.add_subplot()
    colors = _colors(classes, len(names))
    axes.scatter(*places.T, s=7, c=colors, alpha=0.55, linewidths=0)
    handles = _draw_picks(axes, idx, places, picks, colors)
    if 0 < len(names) <= NAMED_CLASSES and (classes >= 0).any():
        handles += [_dot(color, name) for color, name in zip(_palette(len(names)), names, strict=True)]
    if names and (classes < 0).any():
        handles.append(_dot(UNKNOWN, "class unknown"))
    legend = axes.legend(handles=handles, loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=9, frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)
    add_title(axes, title)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_color("0.8")
    return save_figure(figure, path)


UNKNOWN = (0.85, 0.85, 0.85, 1.0)


def _palette(number: int) -> list[tuple[float, ...]]:
    from matplotlib import colormaps

    if number <= NAMED_CLASSES:
        return [colormaps["tab10" if number <= 10 else "tab20"](i) for i in range(number)]
    return [colormaps["hsv"](i / number) for i in range(number)]


def _colors(classes: np.ndarray, number: int) -> np.ndarray:
    """(M, 4)"""
    return np.array([*_palette(number), UNKNOWN])[np.where(classes >= 0, classes, number)]


def _draw_picks(axes: Any, idx: np.ndarray, places: np.ndarray, picks: Mapping[int, np.ndarray], colors: np.ndarray) -> list[Any]:
    """A marker for each cycle, or for a few in a row where there are more cycles than markers; the legend's entries."""
    from matplotlib.lines import Line2D

    handles = []
    for part, marker in zip(np.array_split(list(picks), min(len(picks), len(MARKERS)) or 1), MARKERS, strict=False):
        if not len(part):
            continue
        on_map = np.isin(idx, np.concatenate([picks[cycle] for cycle in part.tolist()]))
        axes.scatter(*places[on_map].T, s=46, c=colors[on_map], marker=marker, edgecolors="black", linewidths=1.1, zorder=3)
        label = f"picked, cycle {part[0]}" if len(part) == 1 else f"picked, cycles {part[0]}–{part[-1]}"
        style = {"markerfacecolor": "white", "markeredgecolor": "black", "markersize": 7, "linestyle": "none"}
        handles.append(Line2D([], [], marker=marker, label=label, **style))
    return handles


def _dot(color: tuple[float, ...], label: str) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], marker="o", linestyle="none", color=color, markersize=5, label=label)
