"""ASSAL's configurations load, and digits' runs as it is shipped."""

from __future__ import annotations

from pathlib import Path

import pytest
from run_helpers import command

from usb_active.config.settings import load_yaml_config

FOLDER = Path(__file__).resolve().parents[3] / "yaml_configs" / "assal"
ALL = sorted(path.stem for path in FOLDER.glob("*.yaml"))


@pytest.mark.parametrize("name", [name for name in ALL if name.startswith("digits")])
def test_digits_passes_check(name):
    """All that can be checked before a run: keys, network on the images, what goes with what."""
    found = command("check", f"assal/{name}")
    assert found.returncode == 0, found.stderr


def test_digits_trains_with_the_weights_that_the_page_names():
    config = load_yaml_config("assal/digits", ())
    usb = config.usb
    assert [usb[f"assal_lambda{number}"] for number in range(1, 5)] == [0.01, 1, 1, 0.1] and usb["assal_beta"] == 0.01
    assert usb["algorithm"] == "assal" and config.active.acquisition.name == "assal" and not usb["include_lb_to_ulb"]
