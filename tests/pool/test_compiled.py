"""Compiled forward passes: in force only where they are asked for; names, copies and hooks of the network stay as they are."""

from __future__ import annotations

import copy
import io

import numpy as np
import pytest
import torch

from usb_active.errors import UsageError
from usb_active.pool import compiled
from usb_active.pool.batch_norm import recompute, trained_layers
from usb_active.pool.compiled import check_compiler, compile_forward, in_force
from usb_active.pool.inference import PoolRows, predict
from usb_active.usb.networks import small_cnn


@pytest.fixture
def calls(monkeypatch):
    """The shapes of compiled calls. What they compute is what torch would compile."""
    seen = []

    def compile(module, **how):
        def call(*given, **named):
            seen.append(tuple(given[0].shape))
            return module._call_impl(*given, **named)

        assert how == {"dynamic": False}
        module._compiled_call_impl = call

    monkeypatch.setattr(torch.nn.Module, "compile", compile)
    return seen


@pytest.fixture
def network():
    torch.manual_seed(1)
    return small_cnn(3, 8, 1, 4)


X = torch.linspace(-1, 1, 2 * 64).view(2, 1, 8, 8)


def test_it_is_in_force_only_where_it_is_asked_for(calls, network):
    before = list(network.state_dict())
    compile_forward(network)
    compile_forward(network)
    network(X)
    assert calls == []
    with in_force(network):
        network(X)
    with in_force(network, wanted=False):
        network(X)
    network(X)
    assert calls == [(2, 1, 8, 8)] and list(network.state_dict()) == before


def test_after_an_error_it_is_as_before(calls, network):
    compile_forward(network)
    with pytest.raises(UsageError, match="small_cnn: a batch of shape"), in_force(network):
        network(torch.zeros(2, 5))
    network(X)
    assert calls == [(2, 5)]


def test_another_network_and_a_copy_are_not_compiled(calls, network):
    compile_forward(network)
    for other in (copy.deepcopy(network), small_cnn(3, 8, 1, 4)):
        with in_force(other):
            other(X)
    torch.save(network, io.BytesIO())
    assert calls == []


class Images:
    collate = None

    class views:
        eval = staticmethod(lambda sample: sample)

    def load(self, index):
        return X[index % 2]


def scored(network, outputs):
    rows = PoolRows(Images(), np.arange(10), "eval", 1, 0, ())
    return [values for _, values in predict(network, rows, outputs, 4, 0, torch.device("cpu"))]


def test_whole_batches_of_a_pool_are_compiled_and_the_rest_is_not(calls, network):
    plain = scored(network, ["probs"])
    compile_forward(network)
    for values, expected in zip(scored(network, ["probs", "features"]), plain, strict=True):
        assert np.array_equal(values["probs"], expected["probs"])
    assert calls == [(4, 1, 8, 8)] * 2


def test_a_pool_smaller_than_a_batch_is_not_compiled(calls, network):
    compile_forward(network)
    rows = PoolRows(Images(), np.arange(3), "eval", 1, 0, ())
    assert len(list(predict(network, rows, ["probs"], 4, 0, torch.device("cpu")))) == 1 and calls == []


@pytest.mark.parametrize("outputs", [["blocks.0.conv"], {"own": lambda tensors: tensors["logits"]}], ids=["module", "function"])
def test_modules_and_functions_are_not_compiled(calls, network, outputs):
    compile_forward(network)
    assert sum(len(next(iter(values.values()))[0]) for values in scored(network, outputs)) == 10 and calls == []


def test_statistics_are_not_compiled(calls, network):
    compile_forward(network)
    recompute(network, trained_layers(network), [X, X])
    assert calls == []


def test_a_machine_that_cannot_compile_is_told_so_in_one_line(monkeypatch):
    def broken(*given, **named):
        raise RuntimeError("Failed to find C++ compiler\nand much more")

    monkeypatch.setattr(torch, "compile", broken)
    check_compiler.cache_clear()
    with pytest.raises(UsageError) as caught:
        check_compiler("cpu")
    expected = "torch cannot compile here, for which it needs a C++ compiler (g++): RuntimeError: Failed to find C++ compiler"
    assert str(caught.value) == f"active.compile: {expected}"
    check_compiler.cache_clear()


def test_more_shapes_than_torch_allows_are_allowed(calls, network):
    compile_forward(network)
    assert compiled.MOST_SHAPES <= torch._dynamo.config.recompile_limit
