"""REVIVAL in a run: killed while it chooses and while its prior is made, it ends with the same labels and the same bits."""

from __future__ import annotations

import killer
import numpy as np
import pytest
from run_helpers import settings

from usb_active.storage.run_dir import RunDir

pytestmark = pytest.mark.slow

FATAL = '''
"""Ends its process at a stage of REVIVAL that the environment names."""

import os
import signal

from usb_active.plugins.revival import acquisitions, priors, propagator


def at(owner, name, number=1, after=False):
    """Die before (or after) the `number`-th call."""
    original, calls = getattr(owner, name), []

    def wrapped(*args, **keywords):
        calls.append(name)
        if not after and len(calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(*args, **keywords)
        if after and len(calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, wrapped)


POINTS = {
    "select": lambda: at(acquisitions.Revival, "select"),
    "propagator": lambda: at(propagator, "train"),
    "trained": lambda: at(propagator, "train", after=True),
    "pushed": lambda: at(acquisitions.functional, "limit"),
    "chosen": lambda: at(acquisitions.Revival, "select", after=True),
    "prior": lambda: at(priors.RevivalPrior, "fit"),
    "prior_fitted": lambda: at(priors, "fitted", after=True),
    "update": lambda: at(priors.RevivalPrior, "fit", number=2),
}
if os.environ.get("USB_ACTIVE_TEST_POINT"):
    POINTS[os.environ["USB_ACTIVE_TEST_POINT"]]()
'''
POINTS = ("select", "propagator", "trained", "pushed", "chosen", "prior", "prior_fitted", "update")
SHORT = {"k": 10, "hidden": 8, "epochs": 20}


def digits(tmp_path, name, /):
    """FixMatch on digits: two cycles, chosen by REVIVAL and guided by its virtual labels, re-made in the middle of each training."""
    (tmp_path / "fatal.py").write_text(FATAL)
    block = {
        "acquisition": {"name": "revival", **SHORT}, "cycles": 2, "budget": 10,
        "prior": {"name": "revival", **SHORT, "until_iter": 6, "then": "update", "update_every": 4},
        "analysis": {"name": "graph_accuracy", "k": 10},
    }  # fmt: skip
    return settings(tmp_path, name, active=block, plugins=[str(tmp_path / "fatal.py")], algorithm="fixmatch", p_cutoff=0.3)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return killer.finish(digits(tmp_path_factory.mktemp("whole"), "whole"))


def kept(run):
    """Tables of the prior and files of the analysis, by name."""
    paths = [*(run / "artifacts").glob("prior_*.npy"), *(run / "analysis").glob("*")]
    return {path.name: path.read_bytes() for path in sorted(paths)}


def test_killed_in_one_stage_after_the_other(tmp_path, whole):
    data = digits(tmp_path, "run")
    for point in POINTS:
        ended = killer.run(data, point)
        assert ended.code == killer.KILLED, (point, ended)
    run = killer.finish(data)
    killer.assert_same_end(run, whole)
    assert kept(run) == kept(whole) and len(kept(run)) >= 4


def test_what_is_logged_and_kept(whole):
    first, *later = RunDir.read(whole).metrics()
    assert "revival/preselected" not in first["log"]
    for line in later:
        # 15 % of 1,343.
        assert line["log"]["revival/preselected"] == 202 and 0 < line["log"]["revival/virtual_label_accuracy"] <= 1
    table = np.load(sorted((whole / "artifacts").glob("prior_002_*.npy"))[-1])
    assert table.shape == (1343, 10) and np.allclose(table.sum(axis=1), 1, atol=1e-4)
    # The first training has no model before it, so its first table is that of the update.
    assert not (whole / "artifacts" / "prior_000_start_00000000.npy").exists()
    with np.load(whole / "analysis" / "graph_002.npz") as found:
        assert found["labels"] == 40 and found["all_known"] and 0 < found["agreeing"] < found["edges"]
