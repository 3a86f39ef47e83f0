"""A run that began with a default of before goes on with it; new runs have the new one; what the YAML says counts."""

from __future__ import annotations

import pytest
import run_helpers
import yaml

from usb_active.errors import UsageError
from usb_active.loop.setup import check_directory
from usb_active.storage.run_dir import RunDir
from usb_active.storage.run_format import PINNED_FILE

KEYS = {"algorithm": "lp", "batch_size": 32, "lp_labeled": 10, "lp_supervised_epochs": 1}
FORMER, NOW = {"lp_k": 50, "lp_weighting": "label"}, {"lp_k": 10, "lp_weighting": "class"}


@pytest.fixture
def begun(tmp_path):
    """A run directory whose config.yaml holds other values, or lacks the keys."""

    def begin(*, without=(), **values):
        with RunDir.open(tmp_path / "run", run_helpers.config_of(settings(tmp_path)).stored()) as run:
            run.write_json(PINNED_FILE, {"format": 2})
        path = tmp_path / "run" / "config.yaml"
        stored = {**yaml.safe_load(path.read_text()), **values}
        path.write_text(yaml.safe_dump({key: value for key, value in stored.items() if key not in without}))

    return begin


def settings(tmp_path, **keys):
    return run_helpers.settings(tmp_path, **{**KEYS, **keys})


def of(config):
    return {key: config.usb[key] for key in NOW}


def test_a_new_run_has_the_defaults_of_now_without_a_word(tmp_path):
    config = run_helpers.config_of(settings(tmp_path))
    assert of(config) == NOW and not config.warnings


def test_a_run_that_began_with_the_former_ones_keeps_them_and_says_so(tmp_path, begun):
    begun(**FORMER)
    config = run_helpers.config_of(settings(tmp_path))
    assert of(config) == FORMER
    assert [line.partition(" began ")[2] for line in config.warnings] == [
        "when 50 was the default, and keeps it; new runs have 10", "when 'label' was the default, and keeps it; new runs have 'class'"
    ]  # fmt: skip
    assert all(line.startswith(f"test.yaml: lp_{key}: ") for line, key in zip(config.warnings, ("k", "weighting"), strict=True))
    check_directory(config)


def test_a_run_from_before_there_was_the_key_is_as_the_former_default_has_it(tmp_path, begun):
    begun(lp_k=50, without=("lp_weighting",))
    config = run_helpers.config_of(settings(tmp_path))
    assert of(config) == FORMER
    check_directory(config)


def test_a_key_that_is_new_and_off_is_not_spoken_of(tmp_path, begun):
    begun(without=("lp_inputs",))
    config = run_helpers.config_of(settings(tmp_path))
    assert config.usb["lp_inputs"] == 0 and not config.warnings
    check_directory(config)
    with pytest.raises(UsageError, match="lp_inputs: .* -> 0.5"):
        check_directory(run_helpers.config_of(settings(tmp_path, lp_inputs=0.5)))


def test_a_run_that_began_with_other_values_is_no_run_of_the_former_defaults(tmp_path, begun):
    begun(lp_k=7, lp_weighting="class")
    config = run_helpers.config_of(settings(tmp_path))
    assert of(config) == NOW and not config.warnings
    with pytest.raises(UsageError, match="lp_k: 7 -> 10"):
        check_directory(config)


def test_what_the_yaml_says_counts(tmp_path, begun):
    begun(**FORMER)
    config = run_helpers.config_of(settings(tmp_path, **NOW))
    assert of(config) == NOW and not config.warnings
    with pytest.raises(UsageError, match="lp_k: 50 -> 10"):
        check_directory(config)


def test_other_algorithms_are_not_concerned(tmp_path, begun):
    begun(**FORMER)
    config = run_helpers.config_of(run_helpers.settings(tmp_path))
    assert not config.warnings and not set(NOW) & set(config.usb)
