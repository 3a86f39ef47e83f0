"""The greedy in a large connected component: guess the picks, solve their columns together, replay on the true columns."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from usb_active.plugins.jlp.fast_block import BlockSolver
from usb_active.plugins.jlp.fast_moderate import FLOOR, TAKEN, first_of_lowest
from usb_active.plugins.jlp.kernels import WIDTH, greedy_ahead
from usb_active.plugins.jlp.refinement import Trace, refine

from usb_active.numerics.propagation.graph import Part

# Residual, relative, of the similarities between blocks, as a share of the tolerance; and when two of them are close.
_SETTLED = 0.1
_EXACT = 1e-12
# The lowest is close to others in any case when it is this small beside the mean: between blocks it is not known well enough.
_FAINT = 1e-3
# Nodes among which picks are guessed and replayed: at least, and as a share of all.
_SHORT_LIST = 4096
_SHORT_SHARE = 1 / 8
# Blocks of columns that are kept: guesses may come true later.
_BLOCKS = 3


class Large:
    """The greedy in a large component.

    All nodes but those in `near` lie above `limit`, and stay there, since similarities only grow. Below `faint` they are solved for to
    rounding.

    Attributes:
        rank: (N,), TAKEN where a node cannot be picked.
        h: (N,) similarities, but for the `recent` picks.
        near: (S,) nodes with the lowest.
        values: (S,) their similarities to all, inf if taken.
        blocks: columns (N, WIDTH) of single precision.
        column: where those of a node stand in near_columns (S, _BLOCKS * WIDTH).
    """

    def __init__(self, part: Part, rank: NDArray, alpha: float, tol: float) -> None:
        self.part, self.rank, self.alpha = part, rank, alpha
        self.tol, self.settled = tol, _SETTLED * tol
        self.h, self.sources = np.zeros(len(part)), np.zeros(len(part))
        self.free = rank < TAKEN
        self.recent: list[int] = []
        self.blocks: list[NDArray[np.float32] | None] = [None] * _BLOCKS
        self.column: dict[int, int] = {}
        self.residuals = np.zeros(_BLOCKS * WIDTH)
        self.solved, self.doubt = 0, 0.0
        self.solver: BlockSolver | None = None

    def begin(self, sources: NDArray) -> None:
        self.sources[sources] = 1
        self.trace = Trace()
        refine(self.part, self.h, self.sources, self.alpha, self.settled, self.trace)
        self.exact = False
        self._list_nearest()

    def lowest(self) -> tuple[float, int] | None:
        """(value, at least FLOOR, and node), or None when there is nothing left."""
        if not self.free.any():
            return None
        while True:
            best = max(self.values.min(), FLOOR)
            if best * (1 + self.tol) >= self.limit:
                self._settle(self.settled)
            elif not self.exact and (best < self.faint or np.count_nonzero(self.values <= best * (1 + self.tol)) > 1):
                self.make_exact()
            else:
                at = first_of_lowest(self.values, self.rank[self.near])
                return max(float(self.values[at]), FLOOR), int(self.near[at])

    def add(self, node: int) -> None:
        """Pick a node among the lowest."""
        if node not in self.column:
            self._solve_ahead(node)
        self.values += self.near_columns[:, self.column[node]]
        self.values[self.place[node]] = np.inf
        self.recent.append(node)
        self.sources[node] = 1
        self.free[node] = False
        self.exact = False
        self.doubt += self.residuals[self.column[node]] ** 2
        # The residuals of the columns since the last solve must not make up more than the tolerance.
        if self.doubt > self.tol**2 * self.sources.sum():
            self._settle(self.settled)

    def make_exact(self) -> None:
        """Solve in double precision, to tell close values apart."""
        self._settle(_EXACT)
        self.exact = True

    def _settle(self, tol: float) -> None:
        """Bring h up to date, on all nodes, and choose the lowest again."""
        for slot, block in enumerate(self.blocks):
            places = [self.column[node] - slot * WIDTH for node in self.recent if self.column[node] // WIDTH == slot]
            if places:
                weights = np.zeros(WIDTH, np.float32)
                weights[places] = 1
                self.h += block @ weights
        self.recent, self.doubt = [], 0.0
        refine(self.part, self.h, self.sources, self.alpha, tol)
        self._list_nearest()

    def _list_nearest(self) -> None:
        self.faint = _FAINT * self.h.mean()
        values = np.where(self.free, self.h, np.inf)
        count = max(_SHORT_LIST, int(_SHORT_SHARE * len(values)))
        # Close values stay together, else the lowest of the list might have an equal outside.
        last = max(np.partition(values, count - 1)[count - 1], FLOOR) * (1 + self.tol) if count < len(values) else np.inf
        inside = values <= last
        self.limit = values[~inside].min(initial=np.inf)
        self.near = np.flatnonzero(inside & self.free)
        self.values = self.h[self.near]
        self.place = np.full(len(values), -1, np.int32)
        self.place[self.near] = np.arange(len(self.near), dtype=np.int32)
        self.near_columns = np.zeros((len(self.near), _BLOCKS * WIDTH), np.float32)
        for slot, block in enumerate(self.blocks):
            if block is not None:
                self.near_columns[:, slot * WIDTH : (slot + 1) * WIDTH] = block[self.near]

    def _solve_ahead(self, node: int) -> None:
        """Columns of `node` and of those that will probably follow, in the place of the oldest block."""
        slot = self.solved % _BLOCKS
        if any(self.column[other] // WIDTH == slot for other in self.recent):
            self._settle(self.settled)
        self.column = {other: at for other, at in self.column.items() if at // WIDTH != slot}
        self.blocks[slot] = None
        if self.solver is None:
            self.solver = self._make_solver()
        nodes = self._guess(node)
        block, norms = self.solver.columns(nodes)
        self.blocks[slot], self.residuals[slot * WIDTH : (slot + 1) * WIDTH] = block, norms
        self.near_columns[:, slot * WIDTH : (slot + 1) * WIDTH] = block[self.near]
        self.column |= {int(other): slot * WIDTH + at for at, other in enumerate(nodes)}
        self.solved += 1

    def _guess(self, node: int) -> NDArray[np.int64]:
        """Up to WIDTH nodes without column, `node` first, which the greedy would pick by a model of their columns."""
        values = self.values.copy()
        values[self.place[node]] = -np.inf
        column_at = np.full(len(self.near), -1, np.int64)
        for other, at in self.column.items():
            if self.place[other] >= 0:
                column_at[self.place[other]] = at
        part, coarse = self.part, self.solver.coarse
        basis = coarse.basis
        return greedy_ahead(
            part.indptr, part.indices, part.data, self.alpha, basis.indptr, basis.indices, basis.data, coarse.inverse,
            self.near, self.place, values, column_at, self.near_columns, WIDTH,
        )  # fmt: skip

    def _make_solver(self) -> BlockSolver:
        bounds = self.trace.bounds()
        if bounds is None:
            lowest, second = -1.0, 0.5
        else:
            # Lanczos values lie within the spectrum: a margin outwards.
            lowest = max(-1.0, (1 - 1.02 * bounds[1]) / self.alpha)
            second = min((1 - 0.95 * bounds[0]) / self.alpha, 1.0)
        return BlockSolver(self.part, self.alpha, lowest, second)
