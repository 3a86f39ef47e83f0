"""The configurations that are shipped load, and give each rule features that it can use."""

from __future__ import annotations

from pathlib import Path

import pytest

from usb_active.config.settings import RunConfig, load_yaml_config

FOLDER = Path(__file__).resolve().parents[3] / "yaml_configs" / "low_budget"
ALL = sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load(name: str) -> RunConfig:
    return load_yaml_config(f"low_budget/{name}")


def test_every_rule_has_a_file_and_there_is_no_other():
    assert set(ALL) == {"max_herding", "u_herding", "prob_cover", "dcom", "power_margin", "clue", "drop_query", "bait"}


@pytest.mark.parametrize("name", ALL)
def test_a_file_runs_the_rule_that_it_is_named_after(name):
    config = load(name)
    assert config.active.acquisition.name == name and not config.warnings


def test_dcom_has_features_that_do_not_change_from_cycle_to_cycle():
    """Its radii are kept over the cycles, and are distances of the features."""
    source = load("dcom").active.acquisition.features
    assert source is not None and not source.cls.follows_model
