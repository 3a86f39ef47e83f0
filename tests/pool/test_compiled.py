"""Compiled forward passes: in force only where they are asked for; names, copies and hooks of the network stay as they are."""

from __future__ import annotations

import copy
import gc
import io
import logging
import pickle
import threading
import weakref

import numpy as np
import pytest
import torch

from usb_active.environment import compiling
from usb_active.errors import UsageError
from usb_active.pool import compiled
from usb_active.pool.batch_norm import recompute, trained_layers
from usb_active.pool.compiled import check_compiler, compile_forward, in_force, is_compiled
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


def test_copies_may_be_compiled_and_what_is_kept_of_the_network_is_not(calls, network):
    compile_forward(network)
    with in_force(network):
        copies = [copy.deepcopy(network), pickle.loads(pickle.dumps(network))]
    assert is_compiled(network) and not any(map(is_compiled, copies))
    for one in copies:
        assert one.state_dict().keys() == network.state_dict().keys()
        compile_forward(one)
        with in_force(one):
            one(X)
        assert is_compiled(one)
    assert calls == [(2, 1, 8, 8)] * 2


@pytest.mark.parametrize("used", [False, True])
def test_a_compiled_network_is_freed(calls, used):
    network = small_cnn(3, 8, 1, 4)
    compile_forward(network)
    if used:
        with in_force(network):
            network(X)
    gone = weakref.ref(network)
    del network
    gc.collect()
    assert gone() is None


def test_the_inner_one_leaves_the_outer_one_in_force(calls, network):
    compile_forward(network)
    with in_force(network):
        with in_force(network):
            network(X[:1])
        network(X)
        with in_force(network, wanted=False):
            network(X[:1])
        network(X)
        compile_forward(network)
        network(X)
    network(X)
    assert calls == [(1, 1, 8, 8), *[(2, 1, 8, 8)] * 3]


def test_one_that_was_compiled_by_others_stays_as_it_was(calls, network):
    network.compile(dynamic=False)
    for wanted in (True, False):
        with in_force(network, wanted):
            network(X)
    compile_forward(network)
    network(X)
    with in_force(network, wanted=False):
        network(X)
    network(X)
    assert len(calls) == 4


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


@pytest.mark.parametrize(("size", "at_once", "expected"), [(3, 4, 0), (1, 1, 0), (3, 2, 0), (7, 2, 2), (8, 3, 2)])
def test_what_is_smaller_than_a_batch_is_not_compiled(calls, network, monkeypatch, size, at_once, expected):
    """Nor a part of it that has the shape of a whole batch's parts, where a batch is scored in parts."""
    monkeypatch.setattr("usb_active.pool.inference._Asked._fitting", lambda self, x: at_once)
    compile_forward(network)
    rows = PoolRows(Images(), np.arange(size), "eval", 1, 0, ())
    scored = predict(network, rows, ["probs"], 4, 0, torch.device("cpu"))
    assert sum(len(idx) for idx, _ in scored) == size and calls == [(at_once, 1, 8, 8)] * expected


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


def traced(module, **how):
    """In place of `Module.compile`: torch's own, with a backend that needs no compiler."""
    module._compiled_call_impl = torch.compile(module._call_impl, backend="eager", **how)


def rows_of(network, sizes):
    with in_force(network):
        return [len(network(torch.ones(size, 3))) for size in sizes]


@pytest.fixture
def linear(monkeypatch):
    monkeypatch.setattr(torch.nn.Module, "compile", traced)
    torch._dynamo.reset()
    network = torch.nn.Linear(3, 2)
    compile_forward(network)
    yield network
    torch._dynamo.reset()


def test_more_shapes_than_torch_allows_are_allowed(linear):
    before = torch._dynamo.config.recompile_limit
    sizes = range(2, 4 + before)
    assert len(sizes) > before and rows_of(linear, sizes) == list(sizes)
    assert torch._dynamo.config.recompile_limit == before


def test_beyond_the_limit_nothing_goes_on_uncompiled(linear, monkeypatch):
    monkeypatch.setattr(compiled, "MOST_SHAPES", 2)
    assert rows_of(linear, (4, 5)) == [4, 5]
    said = "^active.compile: a batch would need more than the 2 shapes and modes of one network, or 1024 of all in a process"
    with pytest.raises(UsageError, match=said):
        rows_of(linear, (4, 6))
    assert rows_of(linear, (5, 4)) == [5, 4] and len(linear(torch.ones(6, 3))) == 6


def test_it_is_said_that_every_process_compiles_again(calls, network, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(compiling, "PATIENCE_S", 0.0)
    compile_forward(network)
    for _ in range(2):
        with in_force(network):
            for timer in [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)]:
                timer.join()
    said = "compiling the network, which may take minutes; it is done again in every process, and for every shape of a batch"
    assert [record.getMessage() for record in caplog.records] == [said]
