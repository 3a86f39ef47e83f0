"""What multiplies by a graph's convolution matrix: torch's sparse matrices, the Deep Graph Library, or PyTorch Geometric.

All three do the same arithmetic, the same gradients included; the two libraries are extras of the package, imported when asked for.
"""

from __future__ import annotations

import importlib
import os
import warnings
from collections.abc import Callable
from typing import Any

import scipy.sparse as sp
import torch

from usb_active.errors import UsageError, nearest, reason_of

BACKENDS = ("torch", "dgl", "torch_geometric")
# x (N, F) → matrix x (N, F), differentiable.
Aggregate = Callable[[torch.Tensor], torch.Tensor]

_EXTRAS = {
    "dgl": ("dgl", "dgl 1.1.3 goes with Python below 3.12 and setuptools below 70"),
    "torch_geometric": ("pyg", "torch_geometric 2.8.1 goes with torch 2.12 to 2.15"),
}


def check_backend(backend: str) -> None:
    """UsageError when a backend is not known, or its library is not there or cannot be imported; says which versions go together."""
    if backend not in BACKENDS:
        raise UsageError(f"backend: unknown value {backend!r}{nearest(backend, BACKENDS)}")
    if backend != "torch":
        _library(backend)


def _library(name: str) -> Any:
    # Without it dgl writes a file into the home folder to remember its choice.
    os.environ.setdefault("DGLBACKEND", "pytorch")
    try:
        with warnings.catch_warnings():
            # Both define functions by what this torch calls outdated.
            warnings.simplefilter("ignore")
            return importlib.import_module(f"{name}.nn.pytorch" if name == "dgl" else f"{name}.nn")
    # Whatever a library of another age fails with.
    except Exception as error:
        extra, versions = _EXTRAS[name]
        hint = f"{versions}: pip install 'usb-active[{extra}]', or use backend: torch"
        raise UsageError(f"backend: {name} cannot be imported ({reason_of(error)}); {hint}") from error


def aggregator(
    matrix: sp.csr_array, backend: str = "torch", device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> Aggregate:
    """The product with a matrix, as a function of tensors (N, F) on `device`.

    Args:
        matrix: symmetric (N, N), a convolution matrix or the part of one that some nodes induce: normalised already. dgl's own
            `norm="both"` divides by the numbers of neighbours instead of the sums of weights, which is something else.
        backend: "torch", "dgl" or "torch_geometric".
        device: where the tensors are.
        dtype: theirs.

    Raises:
        UsageError: as `check_backend`.
    """
    check_backend(backend)
    if backend == "torch":
        return _of_torch(matrix, device, dtype)
    entries = sp.coo_array(matrix)
    target, source, weight = (torch.as_tensor(part, device=device) for part in (entries.row, entries.col, entries.data))
    of_library = _of_dgl if backend == "dgl" else _of_geometric
    return of_library(target.long(), source.long(), weight.to(dtype), matrix.shape[0])


class _Product(torch.autograd.Function):
    """A symmetric matrix times x. torch's own backward of a CSR product would transpose the matrix every time."""

    @staticmethod
    def forward(ctx: Any, matrix: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        ctx.matrix = matrix
        return matrix @ x

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[None, torch.Tensor]:  # type: ignore[override]
        return None, ctx.matrix @ grad.contiguous()


def _of_torch(matrix: sp.csr_array, device: torch.device | str, dtype: torch.dtype) -> Aggregate:
    with warnings.catch_warnings():
        # "Sparse CSR tensor support is in beta state": said of every one.
        warnings.simplefilter("ignore", UserWarning)
        parts = (torch.as_tensor(part) for part in (matrix.indptr, matrix.indices, matrix.data))
        tensor = torch.sparse_csr_tensor(*parts, size=matrix.shape, dtype=dtype, device=device)
    return lambda x: _Product.apply(tensor, x)


def _of_dgl(target: torch.Tensor, source: torch.Tensor, weight: torch.Tensor, size: int) -> Aggregate:
    layers, dgl = _library("dgl"), importlib.import_module("dgl")
    graph = dgl.graph((source, target), num_nodes=size, device=weight.device)
    convolution = layers.GraphConv(1, 1, norm="none", weight=False, bias=False, allow_zero_in_degree=True)
    return lambda x: convolution(graph, x, edge_weight=weight)


def _of_geometric(target: torch.Tensor, source: torch.Tensor, weight: torch.Tensor, size: int) -> Aggregate:
    edges = torch.stack([source, target])
    convolution = _library("torch_geometric").SimpleConv(aggr="sum")
    return lambda x: convolution(x, edges, edge_weight=weight)
