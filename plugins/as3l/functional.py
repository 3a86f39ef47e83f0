"""AS3L in arrays: fine-tuned features, the selection, prior pseudo-labels, and what they are measured by.

Wen, Pizarro and Williams, "Active Self-Semi-Supervised Learning for Few Labeled Samples Fast Training", 2022; and TypiClust,
Hacohen, Dekel and Weinshall, "Active Learning on a Budget: Opposite Strategies Suit High and Low Budgets", ICML 2022.
Dimension letters: N pool, M candidates, L labelled, C classes (in the paper's Eq. 1: clusterings), D feature dimension.
"""

from __future__ import annotations

from usb_active.plugins.as3l.fine_tuning import LinearLayer, fine_tune, fit_layer
from usb_active.plugins.as3l.prior_labels import class_coverage, expected_calibration_error, is_correct, partly_true, posterior, prior
from usb_active.plugins.as3l.selection import select, typiclust

__all__ = [
    "LinearLayer", "class_coverage", "expected_calibration_error", "fine_tune", "fit_layer", "is_correct", "partly_true",
    "posterior", "prior", "select", "typiclust",
]  # fmt: skip
