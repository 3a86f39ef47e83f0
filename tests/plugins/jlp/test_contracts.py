"""jLP's pretrainer and its algorithm keep the contracts of their kinds."""

from __future__ import annotations

import pytest

from usb_active.testing import AlgorithmContract, PretrainerContract


class TestDeepCluster(PretrainerContract):
    name = "deepcluster"
    config = {"epochs": 3, "clusters": 6, "batch_size": 16, "lr": 0.1}


@pytest.mark.slow
class TestLabelPropagation(AlgorithmContract):
    name = "lp"
    config = {
        "num_train_iter": None, "epoch": 3, "batch_size": 16, "lp_labeled": 4, "lp_supervised_epochs": 1, "lp_epoch": 0.02, "lp_k": 10,
        "ema_m": 0.0, "include_lb_to_ulb": False, "num_eval_iter": 5,
    }  # fmt: skip
