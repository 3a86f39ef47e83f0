"""The rules of other packages that benchmarks/acquisition.py measures beside ours.

They do not do quite the same. scikit-activeml's Badge makes all gradient embeddings: N·C·D numbers, and a pass over them for each pick. Its
MaxHerding covers the candidates alone, ours the whole pool, in a kernel matrix of all pairs; its ProbCover holds all distances, and
chooses its radius among ten, as ours does among all, on k-means of the same number of classes. Its Clue and DropQuery run
scikit-learn's k-means once to its end, and draw five masks where ours draws three.
Its TypiClust runs scikit-learn's k-means once to its end, in as many clusters as labels and picks without limit; counts five neighbours
(here 20, as ours and the paper), a sample itself as one of them, at no distance; and takes small clusters in their turn.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

SCORES = {"entropy": "entropy", "margin": "margin_sampling", "least_confidence": "least_confident"}
# Rules of scikit-activeml; those that are not here are nowhere that we know of.
PEERS = ("k_center_greedy", *SCORES, "badge", "max_herding", "prob_cover", "clue", "drop_query", "typiclust")


def reference(method: str, data: dict[str, NDArray], budget: int, seed: int = 0) -> Callable[[], NDArray]:
    """The call to be measured; what it needs is imported here."""
    features, candidates = data["features"], data["candidates"]
    if method == "kmeans_plus_plus":
        from sklearn.cluster import kmeans_plusplus

        # One trial a step: scikit-learn's default of several is another, greedy, algorithm.
        return lambda: kmeans_plusplus(features, budget, random_state=0, n_local_trials=1)[1]
    if method in SCORES:
        from skactiveml.pool import uncertainty_scores
        from skactiveml.utils import simple_batch

        probs = data["probs"][candidates]
        return lambda: candidates[simple_batch(uncertainty_scores(probs, method=SCORES[method]), random_state=0, batch_size=budget)]
    return lambda: _queried(method, data, budget, seed)


def _queried(method: str, data: dict[str, NDArray], budget: int, seed: int) -> NDArray:
    from skactiveml import pool

    features, num_classes = data["features"], data["probs"].shape[1]
    labels = np.full(len(features), np.nan)
    labels[data["labeled"]] = data["probs"][data["labeled"]].argmax(axis=1)
    asked: dict[str, Any] = {"batch_size": budget}
    if method == "k_center_greedy":
        rule = pool.CoreSet(random_state=seed)
    elif method == "badge":
        rule, asked["clf"], features = pool.Badge(random_state=seed), _known(data), features.astype(np.float64)
    elif method == "max_herding":
        # The paper's kernel, exp(-d²) of features of length one.
        rule = pool.MaxHerding(metric_dict={"gamma": 1.0}, random_state=seed)
    elif method == "prob_cover":
        rule = pool.ProbCover(n_classes=num_classes, random_state=seed)
        features = features / np.linalg.norm(features, axis=1, keepdims=True)
    elif method == "clue":
        rule, asked["estimator"] = pool.Clue(cluster_algo_dict={"n_init": 1}, random_state=seed), _known(data)
    elif method == "typiclust":
        rule = pool.TypiClust(k=20, cluster_algo_dict={"n_init": 1}, random_state=seed)
    else:
        rule, asked["clf"] = pool.DropQuery(cluster_algo_dict={"n_init": 1}, random_state=seed), _known(data)
    fitted = {"fit_estimator": False} if "estimator" in asked else {"fit_clf": False} if "clf" in asked else {}
    return rule.query(features, labels, **asked, **fitted)


def matrix_head(dim: int, classes: int) -> NDArray[np.float32]:
    """(D, C): a classifier that is nothing but a matrix, the same for both sides."""
    return np.random.default_rng(0).standard_normal((dim, classes)).astype(np.float32)


def _known(data: dict[str, NDArray]) -> Any:
    """A classifier that gives the probabilities of the candidates that are there already, and classes by a matrix."""
    from skactiveml.base import SkactivemlClassifier

    classes = data["probs"].shape[1]
    head = matrix_head(data["features"].shape[1], classes)

    class Known(SkactivemlClassifier):
        def fit(self, X, y, sample_weight=None):
            return self

        def predict_proba(self, X):
            return data["probs"][data["candidates"]]

        def predict(self, X):
            return (X @ head).argmax(axis=1)

    return Known(classes=range(classes))


def reference_name(method: str) -> str | None:
    """The installed package that has the rule, with its version."""
    package, module = ("scikit-learn", "sklearn") if method == "kmeans_plus_plus" else ("scikit-activeml", "skactiveml")
    if method not in (*PEERS, "kmeans_plus_plus") or importlib.util.find_spec(module) is None:
        return None
    return f"{package} {importlib.metadata.version(package)}"
