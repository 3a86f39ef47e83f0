"""The rules for few labels, in arrays.

Dimension letters: N pool, M candidates, L labelled, C classes, D feature dimension. Every `idx` is a position in the arrays that span
the pool (`features`, `probs`), never a position among the candidates.
"""

from __future__ import annotations

from usb_active.plugins.low_budget.competence import Competent, competence_score, dcom, pure_radius
from usb_active.plugins.low_budget.covering import Covering, prob_cover, purity_radius
from usb_active.plugins.low_budget.herding import generalized_coverage, max_herding, smallest_distance, u_herding

__all__ = [
    "Competent", "Covering", "competence_score", "dcom", "generalized_coverage", "max_herding", "prob_cover", "pure_radius",
    "purity_radius", "smallest_distance", "u_herding",
]  # fmt: skip
