"""The three libraries that multiply by a graph: same outputs, same gradients; and what is said where one is missing."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from revival_graphs import blobs
from usb_active.plugins.revival import backends
from usb_active.plugins.revival.backends import aggregator, check_backend
from usb_active.plugins.revival.functional import (
    Adversary,
    GcnSettings,
    adversarial_divergence,
    convolution_matrix,
    fit_propagator,
    neighbor_graph,
)
from usb_active.plugins.revival.propagator import Propagator, initial_weights

from usb_active.errors import UsageError

LIBRARIES = [
    pytest.param(name, marks=pytest.mark.skipif(importlib.util.find_spec(name) is None, reason=f"{name} is not installed"))
    for name in ("dgl", "torch_geometric")
]


def generator(seed=0):
    return np.random.default_rng(seed)


def weighted_matrix(size=60):
    """Of a graph whose weights and degrees differ widely, so that another normalisation shows."""
    features = blobs(per_class=size // 3, spread=2.0)[0]
    return features, convolution_matrix(neighbor_graph(features, 7))


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_products_and_their_gradients_are_those_of_torch(library, dtype):
    _, matrix = weighted_matrix()
    x = torch.as_tensor(generator().standard_normal((60, 8)), dtype=dtype)
    found = []
    for backend in ("torch", library):
        inputs = x.clone().requires_grad_()
        out = aggregator(matrix, backend, dtype=dtype)(inputs)
        (out**3).sum().backward()
        found.append((out.detach(), inputs.grad))
    assert torch.allclose(found[0][0], found[1][0], atol=1e-5) and torch.allclose(found[0][1], found[1][1], atol=1e-4)
    assert torch.allclose(found[1][0], torch.as_tensor(matrix.toarray(), dtype=dtype) @ x, atol=1e-5)


@pytest.mark.parametrize("library", LIBRARIES)
def test_the_same_weights_give_the_same_virtual_labels_and_input_gradients(library):
    features, matrix = weighted_matrix()
    first, second = initial_weights(6, 16, 3, generator())
    rows, grads = [], []
    for backend in ("torch", library):
        propagator = Propagator(features, aggregator(matrix, backend), 0.3 * first, second, np.array([0]))
        rows.append(propagator.probs())
        x = torch.as_tensor(features).requires_grad_()
        propagator.log_probs(x @ propagator.first)[:, 0].sum().backward()
        grads.append(x.grad)
    assert np.allclose(*rows, atol=1e-5) and torch.allclose(*grads, atol=1e-5)
    assert rows[0].max(axis=1).std() > 0.05 and grads[0].abs().max() > 0.01


@pytest.mark.parametrize("library", LIBRARIES)
def test_trained_by_any_of_them_it_is_the_same_network(library):
    features, truth, labeled = blobs()
    made = []
    for backend in ("torch", library):
        settings = GcnSettings(hidden=7, epochs=10, backend=backend)
        propagator = fit_propagator(features, labeled, truth[labeled], 3, k=6, settings=settings, rng=generator())
        made.append((propagator.losses, propagator.probs(), adversarial_divergence(propagator, Adversary(0.05), rng=generator(1))))
    for one, other, atol in zip(*made, (1e-4, 1e-4, 1e-4), strict=True):
        assert np.allclose(one, other, atol=atol)


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_graph_without_edges_is_each_sample_alone(library):
    matrix = convolution_matrix(neighbor_graph(blobs()[0], 1))
    x = torch.as_tensor(generator().standard_normal((42, 3)), dtype=torch.float32)
    assert torch.allclose(aggregator(matrix, library)(x), x)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("dgl") is None, reason="dgl is not installed")
def test_dgl_writes_nothing_to_the_home_folder(tmp_path):
    environment = {key: value for key, value in os.environ.items() if key != "DGLBACKEND"}
    code = "from usb_active.plugins.revival.backends import check_backend; check_backend('dgl')"
    command = [sys.executable, "-c", code]
    subprocess.run(command, env={**environment, "HOME": str(tmp_path)}, check=True, capture_output=True)
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------------------------- bad input
def test_an_unknown_backend_is_named():
    with pytest.raises(UsageError, match="backend: unknown value 'torch_geometri'; did you mean 'torch_geometric'?"):
        check_backend("torch_geometri")


@pytest.mark.parametrize(
    ("library", "error", "hint"),
    [
        ("dgl", ModuleNotFoundError("No module named 'dgl'"), r"dgl 1.1.3 goes with Python below 3.12 .*usb-active\[dgl\]"),
        ("torch_geometric", ImportError("undefined symbol: x"), r"torch_geometric 2.8.1 goes with .*usb-active\[pyg\]"),
        ("dgl", FileNotFoundError("libgraphbolt.so"), "dgl 1.1.3 goes with"),
    ],
)
def test_a_library_that_is_missing_or_unfit_is_one_line_with_the_versions(monkeypatch, library, error, hint):
    def refuse(name):
        raise error

    monkeypatch.setattr(backends.importlib, "import_module", refuse)
    with pytest.raises(UsageError, match=f"backend: {library} cannot be imported .*{error}.*{hint}.*backend: torch") as found:
        check_backend(library)
    assert "\n" not in str(found.value)
