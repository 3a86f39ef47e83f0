"""The rules for few labels, in arrays.

Dimension letters: N pool, M candidates, L labelled, C classes, D feature dimension. Every `idx` is a position in the arrays that span
the pool (`features`, `probs`), never a position among the candidates.
"""

from __future__ import annotations

from usb_active.plugins.low_budget.clustered import Disagreeing, clue, drop_query
from usb_active.plugins.low_budget.competence import Competent, competence_score, dcom, pure_radius
from usb_active.plugins.low_budget.covering import Covering, prob_cover, purity_radius
from usb_active.plugins.low_budget.fisher import bait
from usb_active.plugins.low_budget.herding import generalized_coverage, label_bandwidth, max_herding, smallest_distance, u_herding
from usb_active.plugins.low_budget.power import power_margin, power_sample

__all__ = [
    "Competent", "Covering", "Disagreeing", "bait", "clue", "competence_score", "dcom", "drop_query", "generalized_coverage",
    "label_bandwidth", "max_herding", "power_margin", "power_sample", "prob_cover", "pure_radius", "purity_radius", "smallest_distance",
    "u_herding",
]  # fmt: skip
