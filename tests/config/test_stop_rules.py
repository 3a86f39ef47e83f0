"""`active.audit` and `active.stop` in a YAML: what is taken, stored and refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from data_makers import write_folder
from run_helpers import config_of, settings

from usb_active.config.stop_rules import Kappa, OverallUncertainty, Plateau, Target
from usb_active.errors import UsageError
from usb_active.loop.setup import build_parts


def made(tmp_path, **active):
    return config_of(settings(tmp_path, active=active))


def refused(tmp_path, **active) -> list[str]:
    with pytest.raises(UsageError) as caught:
        made(tmp_path, **active)
    return str(caught.value).splitlines()


def test_rules_are_names_or_mappings(tmp_path):
    given = ["kappa", {"name": "overall_uncertainty", "below": 0.1, "then": "end"}, {"name": "plateau", "last": 2}]
    config = made(tmp_path, audit=30, stop=[*given, {"name": "target", "at_least": 0.9}])
    expected = Kappa(), OverallUncertainty(below=0.1, then="end"), Plateau(last=2), Target(at_least=0.9)
    assert config.active.stop == expected
    again = config_of(config.resolved())
    assert again.active == config.active
    assert again.resolved() == config.resolved()


def test_without_them_the_stored_configuration_is_what_it_was(tmp_path):
    block = made(tmp_path).stored()["active"]
    assert {"audit", "stop"} & block.keys() == set()
    assert made(tmp_path, audit=0, stop=[]).stored()["active"] == block


def test_rules_may_change_when_a_run_is_resumed_and_the_audit_may_not(tmp_path):
    free = made(tmp_path, audit=5, stop=["kappa"]).free_keys
    assert "active.stop" in free
    assert "active.audit" not in free


WRONG = {
    "no list": ({"stop": "kappa"}, "active.stop: must be a list of rules ('kappa'); known: kappa"),
    "unknown": ({"stop": ["kapa"]}, "active.stop[0]: unknown stop rule 'kapa'; did you mean 'kappa'?"),
    "no name": ({"stop": [{"last": 3}]}, "active.stop[0]: must be a name, or a mapping with a name"),
    "unknown key": ({"stop": [{"name": "kappa", "lats": 3}]}, "active.stop[0].lats: unknown key; did you mean 'last'?"),
    "missing": ({"stop": ["overall_uncertainty"]}, "active.stop[0].below: missing"),
    "range": ({"stop": [{"name": "target", "at_least": 90}], "audit": 9}, "active.stop[0].at_least: should be less than or equal to 1"),
    "then": ({"stop": [{"name": "kappa", "then": "stop"}]}, "active.stop[0].then: should be 'say' or 'end'"),
    "plateau": ({"stop": ["kappa", "plateau"]}, "active.stop[1]: 'plateau' reads the audit, and there is none; give active.audit"),
    "target": ({"stop": [{"name": "target", "at_least": 0.9}]}, "active.stop[0]: 'target' reads the audit, and there is none"),
    "negative": ({"audit": -1}, "active.audit: should be greater than or equal to 0 (-1)"),
    "text": ({"audit": "30"}, "active.audit: "),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_refused(tmp_path, case):
    active, message = WRONG[case]
    (line,) = refused(tmp_path, **active)
    assert line.startswith(f"test.yaml: {message}")


def test_a_pool_that_is_too_small(tmp_path):
    # Digits has 1343 samples; 20 + 10 are wanted beside the audit.
    build_parts(made(tmp_path, audit=1312))
    with pytest.raises(UsageError) as caught:
        build_parts(made(tmp_path, audit=1314))
    expected = "test.yaml: active.audit: 1314 + 20 initial + 1 cycles of 10 = 1344 labels, but only 1343 samples can be queried"
    assert str(caught.value) == expected


def test_the_test_set_that_there_is_not(tmp_path):
    write_folder(tmp_path / "data" / "train", {"cat": 20, "dog": 20})
    usb = {"dataset": "image_folder", "data_dir": str(tmp_path / "data"), "batch_size": 2}
    stop = [{"name": "target", "at_least": 0.9, "of": "test"}]
    with pytest.raises(UsageError, match=r"active\.stop\[0\]: of: test, and dataset 'image_folder' has no test set; of: audit") as caught:
        build_parts(config_of(settings(tmp_path, active={"stop": stop}, **usb)))
    assert "\n" not in str(caught.value)


def test_labels_that_are_no_classes(tmp_path):
    plugin = str(Path(__file__).parent.with_name("toy_regression.py"))
    usb = {"algorithm": "l1", "dataset": "brightness", "plugins": [plugin]}
    for active, key in (({"audit": 5}, "audit"), ({"stop": ["kappa"]}, "stop")):
        active = {"acquisition": "random", **active}
        with pytest.raises(UsageError, match=rf"active\.{key}: measures how often a class is right") as caught:
            build_parts(config_of(settings(tmp_path, active=active, **usb)))
        assert "\n" not in str(caught.value)
