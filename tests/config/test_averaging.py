"""An EMA that is too slow for its training is said before the run; one that fits is not."""

from __future__ import annotations

import logging

import pytest
import run_helpers

from usb_active import cli
from usb_active.config.averaging import ema_remark, fitting_ema, remarks


@pytest.mark.parametrize(
    ("ema_m", "steps", "half_life", "way_out"),
    [
        (0.99, 300, "69", "at most 0.96 fits"),
        (0.999, 5120, "693", "at most 0.998 fits"),
        (0.999, 9999, "693", "at most 0.998 fits"),
        (0.9, 50, "7", "at most 0.8 fits"),
        (0.9999, 20000, "6931", "at most 0.9995 fits"),
    ],
)
def test_an_ema_of_more_than_a_tenth_of_the_steps_is_said(ema_m, steps, half_life, way_out):
    line = ema_remark(ema_m, steps)
    assert line.startswith(f"ema_m: {ema_m:g} is a half-life of {half_life} steps in a training of {steps}, ")
    assert line.endswith(f"; {way_out}")


@pytest.mark.parametrize(
    ("ema_m", "steps"), [(0.0, 1), (0.0, 300), (0.9, 100), (0.99, 1000), (0.999, 10000), (0.96, 300), (0.8, 50), (0.99, 49)]
)
def test_one_that_fits_is_not(ema_m, steps):
    assert ema_remark(ema_m, steps) is None


@pytest.mark.parametrize("steps", [11, 12, 19, 20, 50, 51, 59, 99, 100, 101, 300, 400, 999, 5120, 20000, 2**20])
def test_what_is_advised_fits_and_is_close_to_the_largest(steps):
    fit = fitting_ema(steps)
    assert ema_remark(fit, steps) is None
    # A tenth of the training is 1 / (1 - ema_m) = steps / 10; the digits cost at most that much again.
    assert 1 - fit <= 2.01 * 10 / steps


def test_the_remark_names_the_file_and_leaves_steps_that_are_planned_later_to_the_training(tmp_path):
    data = run_helpers.settings(tmp_path, ema_m=0.99, num_train_iter=300)
    (line,) = remarks(run_helpers.config_of(data))
    assert line.startswith("test.yaml: ema_m: 0.99 is a half-life of 69 steps in a training of 300, ")
    assert line.endswith("; at most 0.96 fits, and active.batch_norm: recomputed helps networks with BatchNorm")
    (line,) = remarks(run_helpers.config_of({**data, "active": {**data["active"], "batch_norm": "recomputed"}}))
    assert line.endswith("; at most 0.96 fits")
    assert remarks(run_helpers.config_of({**data, "ema_m": 0.96})) == []
    assert remarks(run_helpers.config_of({**data, "algorithm": "lp", "batch_size": 64})) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["check", "run"])
def test_check_and_run_say_it_and_go_on(tmp_path, caplog, capsys, name):
    short = run_helpers.settings(tmp_path, active={"cycles": 0}, num_train_iter=50, num_eval_iter=50, epoch=1, ema_m=0.99)
    code = cli.main([name, str(run_helpers.write_yaml(tmp_path / "a.yaml", short))])
    # A run has its own way to show warnings, which `check` leaves to the program's log.
    (line,) = [line for line in [*caplog.messages, *capsys.readouterr().err.splitlines()] if "half-life" in line]
    assert code == 0 and f"{tmp_path / 'a.yaml'}: ema_m: 0.99 is a half-life of 69 steps in a training of 50, " in line
    assert name == "check" or line.startswith("usb-active: warning: ")


@pytest.mark.slow
def test_an_algorithm_that_plans_its_steps_is_said_when_they_are_known(tmp_path, caplog):
    keys = {"lp_labeled": 4, "lp_supervised_epochs": 1, "lp_k": 5}
    data = run_helpers.settings(tmp_path, active={"cycles": 0}, algorithm="lp", epoch=2, ema_m=0.999, **keys)
    with caplog.at_level(logging.WARNING, "usb_active"):
        algorithm = run_helpers.train(data)
    (line,) = [record.message for record in caplog.records if "half-life" in record.message]
    assert line.startswith("cycle 0: ema_m: 0.999 is a half-life of 693 steps in a training of ")
    assert f"a training of {algorithm.num_train_iter}, " in line
