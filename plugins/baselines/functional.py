"""Baseline acquisitions as functions of arrays: uncertainty scores, top k, k-center, k-means++.

Dimension letters: N pool, M candidates, L labelled, C classes, D feature dimension. Every `idx` is a position
in the arrays that span the pool (`features`, `probs`), never a position among the candidates.
"""

from __future__ import annotations

from usb_active.numerics.arrays import entropy, least_confidence, margin
from usb_active.numerics.greedy import k_center_greedy, kmeans_plus_plus
from usb_active.numerics.ranking import top_k

__all__ = ["entropy", "k_center_greedy", "kmeans_plus_plus", "least_confidence", "margin", "top_k"]
