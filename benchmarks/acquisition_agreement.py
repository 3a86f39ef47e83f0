"""Whether the rules for few labels pick what scikit-activeml's do: for benchmarks/acquisition.py --agree.

Where a rule draws nothing, its picks must be equal, or as good by what it makes large. max_herding: nothing is labelled, because
the peer covers the candidates alone. prob_cover: at one radius, labels covered before; many samples of equal degree follow chance.
Where a rule draws (clue, drop_query, typiclust) its law is looked at: a measure of the picks over seeds, and whether the means differ by
more than twice the standard error of their difference. k-means objective: the mean squared distance (clue: weighted by entropy) to the
nearest pick, of the candidates; drop_query's of those that disagree in most of 25 masks. typiclust's of all samples, and how typical
the picks are: their mean distance to the 20 nearest samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
from acquisition_peers import matrix_head, reference
from numpy.typing import NDArray

MASKS, RATE = 25, 0.75
Picker = Callable[[int], NDArray]
Measure = Callable[[NDArray], float]


def agreement(data: dict[str, NDArray], budget: int, seeds: int) -> Iterator[list[str]]:
    """Cells of the rows, one for each rule and measure."""
    rules = {"max_herding": herding, "prob_cover": covering, "clue": clue, "drop_query": dropping, "typiclust": typical}
    for method, rule in rules.items():
        mine, peer, measures = rule(data, budget)
        picks = [(np.asarray(mine(seed)), np.asarray(peer(seed))) for seed in range(seeds)]
        same = sum(np.array_equal(a, b) for a, b in picks)
        for name, measure in measures.items():
            ours, theirs = np.array([[measure(a), measure(b)] for a, b in picks]).T
            noise = np.sqrt((ours.var(ddof=1) + theirs.var(ddof=1)) / seeds) if seeds > 1 else np.inf
            difference = abs(ours.mean() - theirs.mean())
            fine = "yes" if difference <= max(2 * noise, 1e-9 * abs(theirs.mean())) else "NO"
            values = f"{ours.mean():.5g}", f"{theirs.mean():.5g}", f"{ours.mean() / theirs.mean():.4f}"
            yield [method, str(budget), str(seeds), f"{same} of {seeds}", name, *values, fine]


def herding(data: dict[str, NDArray], budget: int) -> tuple[Picker, Picker, dict[str, Measure]]:
    from usb_active.plugins.low_budget import functional as F

    features = data["features"].astype(np.float64)
    every = data | {"features": features, "labeled": np.arange(0), "candidates": np.arange(len(features))}
    return (
        lambda seed: F.max_herding(features, [], budget, np.random.default_rng(seed)),
        lambda seed: reference("max_herding", every, budget, seed)(),
        {"generalized coverage": partial(F.generalized_coverage, features)},
    )


def covering(data: dict[str, NDArray], budget: int) -> tuple[Picker, Picker, dict[str, Measure]]:
    from skactiveml import pool
    from usb_active.plugins.low_budget import functional as F

    features, labeled, classes = data["features"], data["labeled"], data["probs"].shape[1]
    unit = features / np.linalg.norm(features.astype(np.float64), axis=1, keepdims=True)
    delta = F.purity_radius(features, classes, np.random.default_rng(0))
    labels = np.full(len(features), np.nan)
    labels[labeled] = 0

    def covered(picks: NDArray) -> float:
        balls = unit[np.concatenate([labeled, picks])]
        return float((2 - 2 * (unit @ balls.T).max(axis=1) < delta**2).mean())

    return (
        lambda seed: F.prob_cover(features, labeled, budget, np.random.default_rng(seed), delta=delta).idx,
        lambda seed: pool.ProbCover(n_classes=classes, deltas=[delta], random_state=seed).query(unit, labels, batch_size=budget),
        {f"coverage at delta {delta:.3f}": covered},
    )


def clue(data: dict[str, NDArray], budget: int) -> tuple[Picker, Picker, dict[str, Measure]]:
    from usb_active.plugins.low_budget import functional as F

    features, probs, candidates = data["features"], data["probs"], data["candidates"]
    weights = -(probs * np.log(np.maximum(probs, 1e-300))).sum(axis=1)[candidates]
    return (
        lambda seed: F.clue(features, probs, budget, np.random.default_rng(seed), candidates=candidates),
        lambda seed: reference("clue", data, budget, seed)(),
        {"weighted k-means objective": partial(objective, features, candidates, weights)},
    )


def dropping(data: dict[str, NDArray], budget: int) -> tuple[Picker, Picker, dict[str, Measure]]:
    from usb_active.plugins.low_budget import functional as F

    # Of length one for both: ours scales them itself.
    features, candidates = data["features"], data["candidates"]
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    head, rng = matrix_head(features.shape[1], data["probs"].shape[1]), np.random.default_rng(1)
    whole = (unit @ head).argmax(axis=1)
    changed = sum(((unit * (rng.random(unit.shape) >= RATE)) @ head).argmax(axis=1) != whole for _ in range(MASKS))
    among = candidates[changed[candidates] > MASKS / 2]
    return (
        lambda seed: F.drop_query(
            unit, lambda x: (x @ head).argmax(axis=1), budget, np.random.default_rng(seed), candidates=candidates
        ).idx,
        lambda seed: reference("drop_query", data | {"features": unit}, budget, seed)(),
        {f"k-means objective of {len(among)} that disagree": partial(objective, unit, among, np.ones(len(among)))},
    )


def typical(data: dict[str, NDArray], budget: int) -> tuple[Picker, Picker, dict[str, Measure]]:
    from usb_active.plugins.as3l.functional import typiclust

    features, labeled, candidates = data["features"], data["labeled"], data["candidates"]
    every = np.arange(len(features))
    return (
        lambda seed: typiclust(features, budget, labeled=labeled, candidates=candidates, rng=np.random.default_rng(seed)),
        lambda seed: reference("typiclust", data, budget, seed)(),
        {
            "k-means objective, labels too": lambda picks: objective(
                features, every, np.ones(len(every)), np.concatenate([labeled, picks])
            ),
            "distance to 20 nearest": lambda picks: float(np.sort(distances(features, every, picks), axis=0)[1:21].mean()),
        },
    )


def objective(features: NDArray, among: NDArray, weights: NDArray, picks: NDArray) -> float:
    """The weighted mean over the rows `among` of the squared distance to the nearest pick."""
    return float(np.average(distances(features, among, picks).min(axis=1) ** 2, weights=weights))


def distances(features: NDArray, among: NDArray, picks: NDArray) -> NDArray[np.float64]:
    """(rows, picks) Euclidean, in double precision."""
    from scipy.spatial.distance import cdist

    return cdist(features[among].astype(np.float64), features[picks].astype(np.float64))
