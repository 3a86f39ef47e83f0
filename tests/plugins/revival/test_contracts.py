"""REVIVAL's prior and its analysis keep the contracts of their kinds."""

from __future__ import annotations

import pytest

from usb_active.testing import AnalysisContract, PriorContract


class TestRevivalPrior(PriorContract):
    name = "revival"
    config = {"k": 8, "hidden": 8, "epochs": 20}


@pytest.mark.slow
class TestGraphAccuracy(AnalysisContract):
    name = "graph_accuracy"
    config = {"k": 6}
