"""What cheap classifiers make of the same labels: the yardstick that a trained network must beat.

Arrays in, predictions out; nothing is drawn but subsets, which are the same every time. Dimension letters: N pool, L labelled,
Q queries (what is predicted), D feature dimension, C classes.
"""

from __future__ import annotations

import math
import warnings

import numpy as np
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray

from usb_active.numerics.arrays import named

# Keys as they are stored, and what people read.
TITLES = {"majority": "majority class", "nearest": "1-NN", "logistic": "logistic regression", "spreading": "label spreading"}
# Beyond so many labels, 1-NN and logistic regression take so many of them, drawn at random.
LABELS_UP_TO = 5_000
# scikit-learn's label spreading up to here: its search for neighbours is quadratic.
EXACT_UP_TO = 20_000
# scikit-learn's defaults for the kernel "knn".
_NEIGHBORS, _ALPHA = 7, 0.2
# Of the sparse propagation that takes its place beyond.
_GRAPH_NEIGHBORS, _GRAPH_ALPHA = 10, 0.8


class Baselines:
    """Classifiers on fixed features, for one set of labels after another: what depends on the features alone is computed once.

    Args:
        pool: (N, D) features of the samples that may have labels.
        queries: (Q, D) features of those to predict; they train nothing.

    Raises:
        ValueError: features that are not finite (naming the rows), of two widths, or none.
    """

    def __init__(self, pool: ArrayLike, queries: ArrayLike):
        self._pool, self._queries = _checked("pool", pool), _checked("queries", queries)
        if self._pool.shape[1] != self._queries.shape[1]:
            raise ValueError(f"queries: {self._queries.shape[1]} features, and pool has {self._pool.shape[1]}")
        self._graph: sp.csr_matrix | None = None
        self._bridge: sp.csr_matrix | None = None

    def predict(self, labeled: ArrayLike, labels: ArrayLike, num_classes: int) -> dict[str, NDArray[np.int64]]:
        """Classes (Q,) of the queries by name of the baseline (but the majority, see `majority_accuracy`).

        Args:
            labeled: (L,) distinct rows of the pool, L at least 1.
            labels: (L,) their classes, in 0..C-1.
            num_classes: C.
        """
        labeled, labels = np.asarray(labeled, np.int64), np.asarray(labels, np.int64)
        if labeled.ndim != 1 or labels.shape != labeled.shape or not len(labeled):
            raise ValueError(f"labels: expected one for each of at least 1 labelled, got {labels.shape} for {labeled.shape}")
        if labels.min() < 0 or labels.max() >= num_classes:
            raise ValueError(f"labels: {labels.min()} to {labels.max()}, expected 0 to {num_classes - 1}")
        some = np.arange(len(labeled))
        if len(labeled) > LABELS_UP_TO:
            some = np.sort(np.random.default_rng(0).choice(len(labeled), LABELS_UP_TO, replace=False))
        rows, classes = self._pool[labeled[some]], labels[some]
        nearest = nearest_label(rows, classes, self._queries)
        return {
            "nearest": nearest,
            "logistic": logistic_regression(rows, classes, self._queries),
            "spreading": self._spread(labeled, labels, num_classes, nearest),
        }

    def _spread(self, labeled: NDArray, labels: NDArray, num_classes: int, otherwise: NDArray) -> NDArray[np.int64]:
        """Classes of the queries by the neighbours' distributions; `otherwise` (Q,) where no label reaches them."""
        if self._graph is None or self._bridge is None:
            make = _exact_graph if len(self._pool) <= EXACT_UP_TO else _sparse_graph
            self._graph, self._bridge = make(self._pool, self._queries)
        by_class = self._distributions(labeled, labels, num_classes)
        scores = self._bridge @ by_class
        return np.where(scores.any(axis=1), scores.argmax(axis=1), otherwise).astype(np.int64)

    def _distributions(self, labeled: NDArray, labels: NDArray, num_classes: int) -> NDArray[np.float64]:
        """(N, C) of the pool; zero rows where no label arrives."""
        if len(self._pool) > EXACT_UP_TO:
            # Imported late, as are others here: its compiled loops start threads, after which a process had better not fork.
            from usb_active.numerics.propagation import propagate

            return propagate(self._graph, labeled, labels, num_classes, _GRAPH_ALPHA, weighting="class")
        from sklearn.semi_supervised import LabelSpreading

        targets = np.full(len(self._pool), -1, np.int64)
        targets[labeled] = labels
        # The kernel "knn" searched once for all cycles; what is given as features is not looked at.
        model = LabelSpreading(kernel=lambda *_: self._graph, alpha=_ALPHA)
        with warnings.catch_warnings():
            # It stops after thirty rounds, or when the next would change little: what it has come to is the baseline.
            warnings.simplefilter("ignore")
            model.fit(np.zeros((len(targets), 1)), targets)
        distributions = np.zeros((len(targets), num_classes))
        distributions[:, model.classes_] = np.nan_to_num(model.label_distributions_)
        return distributions


def nearest_label(rows: ArrayLike, labels: ArrayLike, queries: ArrayLike) -> NDArray[np.int64]:
    """(Q,) the class of the nearest row (L, D), Euclidean; of rows equally far, the first."""
    from sklearn.neighbors import KNeighborsClassifier

    model = KNeighborsClassifier(1, algorithm="brute").fit(rows, labels)
    return model.predict(queries).astype(np.int64)


def logistic_regression(rows: ArrayLike, labels: ArrayLike, queries: ArrayLike) -> NDArray[np.int64]:
    """(Q,) classes by multinomial logistic regression with scikit-learn's L2 penalty (C=1); the only class where there is but one."""
    from sklearn.linear_model import LogisticRegression

    labels = np.asarray(labels)
    if (labels == labels[0]).all():
        return np.full(len(np.asarray(queries)), labels[0], np.int64)
    with warnings.catch_warnings():
        # Where the steps do not suffice, what they came to is the baseline.
        warnings.simplefilter("ignore")
        model = LogisticRegression(max_iter=1000).fit(rows, labels)
    return model.predict(queries).astype(np.int64)


def majority_accuracy(labels: ArrayLike, targets: ArrayLike) -> float:
    """The share of targets (Q,) that are of the most frequent class of labels (L,); the mean over classes that are equally frequent."""
    classes, counts = np.unique(np.asarray(labels), return_counts=True)
    targets = np.asarray(targets)
    return float(np.mean([(targets == one).mean() for one in classes[counts == counts.max()]]))


def noise(one: float, other: float, size: int) -> float:
    """Half the 95 % interval of the difference of two shares, each of `size` samples, taken as independent."""
    return 1.96 * math.sqrt((one * (1 - one) + other * (1 - other)) / size)


def _checked(name: str, features: ArrayLike) -> NDArray[np.float32]:
    features = np.asarray(features, np.float32)
    if features.ndim != 2 or 0 in features.shape:
        raise ValueError(f"{name}: expected shape (N, D), got {features.shape}")
    bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if len(bad):
        raise ValueError(f"{name}: not finite in {named('row', bad)}")
    return features


def _exact_graph(pool: NDArray, queries: NDArray) -> tuple[sp.csr_matrix, sp.csr_matrix]:
    """scikit-learn's kernel "knn": who is among whose 7 nearest, a row itself included, (N, N); and the queries' nearest rows (Q, N)."""
    from sklearn.neighbors import NearestNeighbors

    search = NearestNeighbors(n_neighbors=min(_NEIGHBORS, len(pool)), algorithm="brute").fit(pool)
    return search.kneighbors_graph(pool, mode="connectivity"), search.kneighbors_graph(queries, mode="connectivity")


def _sparse_graph(pool: NDArray, queries: NDArray) -> tuple[sp.csr_matrix, sp.csr_matrix]:
    """Edges to nearest neighbours by cosine, found by faiss's inverted file: those within the pool, and those from the queries to it."""
    from usb_active.numerics.neighbors import affinity

    size = len(pool)
    rows = np.concatenate([pool, queries])
    # Around their mean: features that are never negative all point one way.
    rows -= pool.mean(axis=0)
    graph = affinity(rows, _GRAPH_NEIGHBORS, mode="sum", method="ivf")
    return graph[:size, :size], graph[size:, :size]
