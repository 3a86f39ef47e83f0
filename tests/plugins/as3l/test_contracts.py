"""AS3L's priors, its pretrainer and its algorithm keep the contracts of their kinds."""

from __future__ import annotations

import pytest

from usb_active.testing import AlgorithmContract, PretrainerContract, PriorContract


class TestAS3L(PriorContract):
    name = "as3l"


class TestAS3LOfGivenNumbers(PriorContract):
    name = "as3l"
    config = {"fine_tune": False, "ks": [4, 9]}


class TestAS3LOracle(PriorContract):
    name = "as3l_oracle"


class TestSimSiam(PretrainerContract):
    name = "simsiam"
    config = {"epochs": 3, "batch_size": 16, "lr": 0.5, "crop": 0.6, "projection_dim": 12, "prediction_dim": 3}


class TestLLGC(PriorContract):
    name = "llgc"


@pytest.mark.slow
class TestLinearEvaluation(AlgorithmContract):
    name = "linear_evaluation"
    config = {"uratio": 1}
