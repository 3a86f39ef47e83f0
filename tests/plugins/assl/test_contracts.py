"""ASSL's analysis keeps the contract of its kind."""

from __future__ import annotations

import pytest

from usb_active.testing import AnalysisContract


@pytest.mark.slow
class TestTemporalInstability(AnalysisContract):
    name = "temporal_instability"
    config = {"interval": 3, "threshold": 0.3}
