"""Small pools, and the paper's formulas as slow dense loops, for the tests of REVIVAL."""

from __future__ import annotations

import math

import numpy as np
import scipy.sparse as sp
import torch
from usb_active.plugins.revival.backends import aggregator
from usb_active.plugins.revival.graph import convolution_matrix, neighbor_graph
from usb_active.plugins.revival.propagator import Propagator, initial_weights


def blobs(seed: int = 0, per_class: int = 14, classes: int = 3, dim: int = 6, spread: float = 0.8):
    """Features (N, D), classes (N,) and idx of labelled samples, two of each class."""
    rng = np.random.default_rng(seed)
    centres = 2 * rng.standard_normal((classes, dim))
    truth = np.repeat(np.arange(classes), per_class)
    features = (centres[truth] + spread * rng.standard_normal((len(truth), dim))).astype(np.float32)
    labeled = np.concatenate([rng.permutation(np.flatnonzero(truth == c))[:2] for c in range(classes)])
    return features, truth, labeled


def dense_graph(features, k, weights="similarity"):
    """Eq. 1 pair by pair, symmetrised by union."""
    rows = [[float(v) for v in row] for row in features]
    size = len(rows)

    def cosine(i, j):
        dot = sum(a * b for a, b in zip(rows[i], rows[j], strict=True))
        return dot / math.sqrt(sum(a * a for a in rows[i])) / math.sqrt(sum(b * b for b in rows[j]))

    graph = np.zeros((size, size))
    for j in range(size):
        near = sorted((i for i in range(size) if i != j), key=lambda i: -cosine(i, j))[: k - 1]
        for i in near:
            value = {"similarity": max(cosine(i, j), 0), "binary": 1.0, "distance": 1 - cosine(i, j)}[weights]
            graph[i, j] = graph[j, i] = value
    return graph


def dense_convolution(graph):
    """D^-1/2 (A + I) D^-1/2 entry by entry."""
    size = len(graph)
    with_loops = [[graph[i, j] + (i == j) for j in range(size)] for i in range(size)]
    degree = [sum(row) for row in with_loops]
    return np.array([[with_loops[i][j] / math.sqrt(degree[i] * degree[j]) for j in range(size)] for i in range(size)])


def dense_forward(matrix, x, first, second):
    """Eq. 2 with L = 2, node by node: softmax(Â ReLU(Â X W0) W1) as (N, C) numpy arrays in double precision."""
    size = len(x)
    hidden = np.array([np.maximum(sum(matrix[i, j] * (x[j] @ first) for j in range(size)), 0) for i in range(size)])
    out = []
    for i in range(size):
        logits = sum(matrix[i, j] * (hidden[j] @ second) for j in range(size))
        powers = np.exp(logits - logits.max())
        out.append(powers / powers.sum())
    return np.array(out)


def kl(p, q):
    """KL(p, q) of two distributions, term by term."""
    return sum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True) if a > 0)


def double_propagator(features, labeled, *, hidden=5, classes=3, k=5, seed=0, scale=1.5, matrix=None) -> Propagator:
    """An untrained network in double precision, whose predictions are far from uniform."""
    matrix = convolution_matrix(neighbor_graph(features, k)) if matrix is None else sp.csr_array(matrix)
    first, second = initial_weights(features.shape[1], hidden, classes, np.random.default_rng(seed), torch.float64)
    aggregate = aggregator(matrix, dtype=torch.float64)
    return Propagator(features.astype(np.float64), aggregate, scale * first, scale * second, np.asarray(labeled))
