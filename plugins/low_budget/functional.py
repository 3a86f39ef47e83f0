"""The rules for few labels, in arrays.

Dimension letters: N pool, M candidates, L labelled, C classes, D feature dimension. Every `idx` is a position in the arrays that span
the pool (`features`, `probs`), never a position among the candidates.
"""

from __future__ import annotations

from usb_active.plugins.low_budget.covering import Covering, prob_cover, purity_radius
from usb_active.plugins.low_budget.herding import generalized_coverage, max_herding, smallest_distance, u_herding

__all__ = [
    "Covering", "generalized_coverage", "max_herding", "prob_cover", "purity_radius", "smallest_distance", "u_herding",
]  # fmt: skip
