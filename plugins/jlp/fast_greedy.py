"""The greedy of joint label propagation: always the candidate with the lowest similarity to what is labelled or picked.

The components of the graph do not see each other: each has its own greedy, and the lowest of their minima is picked.
In a component of moderate size every pick is followed by an exact solve. In a large one the picks are guessed ahead, their
columns solved together, and the greedy is then replayed on the true columns, for as long as it finds its picks among them.
"""

from __future__ import annotations

import heapq

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits
from usb_active.plugins.jlp.fast_large import Large
from usb_active.plugins.jlp.fast_moderate import TAKEN, TIE, Moderate

from usb_active.numerics.propagation.graph import Graph, Part

# Edges from which on a component is large, if so many picks are expected in it.
_LARGE = 60_000
_WORTH_A_BLOCK = 8


def pick_greedily(graph: Graph, labeled: NDArray, order: NDArray, budget: int, alpha: float, tol: float) -> NDArray[np.int64]:
    """(budget,) of the candidates `order` (M,), the first of equals. Values closer than `tol`, relative, are solved for exactly."""
    if alpha == 0:
        # Nothing spreads: all that is not labelled is equally far.
        return order[:budget].copy()
    # The threads of BLAS wait by spinning, and would take the cores from the loops over edges.
    with threadpool_limits(1, "blas"):
        return _Components(graph, labeled, order, budget, alpha, tol).run()


class _Components:
    """The greedy over all components. `order` resolves ties, so also among nodes that nothing reaches: their value is 0."""

    def __init__(self, graph: Graph, labeled: NDArray, order: NDArray, budget: int, alpha: float, tol: float) -> None:
        self.alpha, self.tol, self.budget = alpha, tol, budget
        # Nodes of a component become neighbours in memory, and so do most neighbours: several times as fast.
        self.nodes = sp.csgraph.reverse_cuthill_mckee(graph.matrix, symmetric_mode=True).astype(np.int64)
        self.position = np.empty(graph.size, np.int64)
        self.position[self.nodes] = np.arange(graph.size)
        self.matrix = graph.matrix[self.nodes]
        self.indices = self.position.astype(np.int32)[self.matrix.indices]
        self.top = graph.top[self.nodes]
        component = graph.component[self.nodes]
        starts = np.flatnonzero(np.diff(component, prepend=-1))
        self.bounds = np.append(starts, graph.size)
        self.part_of = np.cumsum(np.diff(component, prepend=component[0]) != 0)
        self.labeled, self.order = self.position[labeled], self.position[order]
        self.rank = np.full(graph.size, TAKEN)
        self.rank[self.order] = np.arange(len(order))
        self.greedy: dict[int, Moderate | Large] = {}
        self.heap: list[tuple[float, int, int, int]] = []

    def run(self) -> NDArray[np.int64]:
        by_part = np.split(self.labeled[np.argsort(self.part_of[self.labeled], kind="stable")], self._label_bounds())
        for nodes in by_part:
            if len(nodes):
                self._begin(int(self.part_of[nodes[0]]), nodes)
        picks = self._pick_unreached()
        while len(picks) < self.budget:
            part, node = self._lowest()
            picks.append(node)
            if len(picks) < self.budget:
                self.greedy[part].add(node - int(self.bounds[part]))
                self._push(part)
        return self.nodes[np.array(picks, np.int64)]

    def _label_bounds(self) -> NDArray[np.int64]:
        return np.flatnonzero(np.diff(np.sort(self.part_of[self.labeled]))) + 1

    def _pick_unreached(self) -> list[int]:
        """The first candidate, in order, of every component without a label: their similarity is exactly zero."""
        reached = np.zeros(len(self.bounds) - 1, bool)
        reached[self.part_of[self.labeled]] = True
        parts, first = np.unique(self.part_of[self.order], return_index=True)
        first = np.sort(first[~reached[parts]])[: self.budget]
        picks = self.order[first]
        if len(picks) < self.budget:
            for node in picks:
                self._begin(int(self.part_of[node]), node[None])
        return picks.tolist()

    def _begin(self, part: int, sources: NDArray) -> None:
        """Start the greedy in a component, if there is anything to pick."""
        start, end = int(self.bounds[part]), int(self.bounds[part + 1])
        rank = self.rank[start:end].copy()
        rank[sources - start] = TAKEN
        if rank.min() == TAKEN:
            return
        expected = self.budget * (end - start) / len(self.part_of)
        section = self._section(start, end)
        large = len(section.data) > _LARGE and expected >= _WORTH_A_BLOCK
        made = Large(section, rank, self.alpha, self.tol) if large else Moderate(section, rank, self.alpha)
        made.begin(sources - start)
        self.greedy[part] = made
        self._push(part)

    def _section(self, start: int, end: int) -> Part:
        edges = slice(self.matrix.indptr[start], self.matrix.indptr[end])
        indptr = self.matrix.indptr[start : end + 1] - self.matrix.indptr[start]
        return Part(indptr, self.indices[edges] - np.int32(start), self.matrix.data[edges], self.top[start:end])

    def _push(self, part: int) -> None:
        lowest = self.greedy[part].lowest()
        if lowest is not None:
            value, node = lowest
            start = int(self.bounds[part])
            heapq.heappush(self.heap, (value, int(self.rank[start + node]), part, start + node))

    def _lowest(self) -> tuple[int, int]:
        """(component, node) of the next pick, taken from the heap."""
        while True:
            close = [heapq.heappop(self.heap)]
            while self.heap and self.heap[0][0] <= close[0][0] * (1 + self.tol):
                close.append(heapq.heappop(self.heap))
            vague = [entry for entry in close if not self.greedy[entry[2]].exact] if len(close) > 1 else []
            if not vague:
                break
            for entry in vague:
                self.greedy[entry[2]].make_exact()
                self._push(entry[2])
            for entry in close:
                if entry not in vague:
                    heapq.heappush(self.heap, entry)
        equal = [entry for entry in close if entry[0] <= close[0][0] * (1 + TIE)]
        chosen = min(equal, key=lambda entry: entry[1])
        for entry in close:
            if entry is not chosen:
                heapq.heappush(self.heap, entry)
        return chosen[2], chosen[3]
