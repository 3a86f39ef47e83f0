"""ASSAL's configurations load, and digits' runs as it is shipped."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from run_helpers import command

from usb_active.config.settings import check_against_pool, load_yaml_config
from usb_active.config.study import read_study

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


# ------------------------------------------------------------------------------------------------- of the larger data sets


@pytest.mark.parametrize(("name", "samples", "classes"), [("cifar10", 50_000, 10), ("cifar100", 50_000, 100), ("svhn", 73_257, 10)])
def test_those_of_the_larger_data_sets_fit_their_pools_and_weigh_a_pixel_as_digits_does(name, samples, classes):
    config = load_yaml_config(f"assal/{name}", ())
    active, usb = config.active, config.usb
    assert (config.dataset.name, config.net.name, usb["algorithm"], active.acquisition.name) == (name, "assal_vae", "assal", "assal")
    assert active.analysis.name == "assal" and active.initial.name == "balanced" and active.initial.size % classes == 0
    check_against_pool(config, samples, classes)
    # Eq. 1's likelihood is a sum over pixels: 64 of digits, 3 · 32 · 32 here.
    assert usb["assal_lambda1"] * 3 * 32 * 32 == pytest.approx(0.01 * 64, rel=0.05)
    assert not config.warnings and not usb["include_lb_to_ulb"]


@pytest.mark.parametrize(("study", "trainer"), [("vaal_supervised", "resnet18_supervised"), ("vaal_mixmatch", "mixmatch")])
def test_columns_of_vaal_and_sraal_differ_from_revivals_in_the_rule_alone(study, trainer):
    cells = read_study(study).cells
    assert len(cells) == 20 and {cell.seed for cell in cells} == set(range(5))
    for cell in cells:
        own, rule = cell.config.stored(), cell.config.active.acquisition.name
        assert rule in ("vaal", "sraal")
        changed = [f"active.acquisition={rule}", f"seed={cell.seed}"]
        theirs = load_yaml_config(f"revival/{cell.config.dataset.name}_{trainer}", changed).stored()
        assert {key for key in own if own[key] != theirs[key]} <= {"save_dir", "save_name"} and own.keys() == theirs.keys()
    assert {cell.config.dataset.name for cell in cells} == {"cifar10", "cifar100"}


def test_the_warm_up_of_digits_runs_shortened(tmp_path):
    short = ["num_train_iter=4", "num_eval_iter=4", "num_log_iter=4", "epoch=1", "net.width=4", f"save_dir={tmp_path}"]
    of_block = ["active.pretrain.epochs=1", "active.cycles=1", "active.budget=5"]
    ended = command("run", "assal/digits_warmup", *(part for text in short + of_block for part in ("--set", text)))
    assert ended.returncode == 0, ended.stderr
    (run,) = tmp_path.glob("*/labels.csv")
    assert len(run.read_text().splitlines()) == 1 + 20 + 5
    (line,) = map(json.loads, (run.parent / "pretrain" / "scratch" / "assal.jsonl").read_text().splitlines())
    assert 0 < line["rotation_accuracy"] < 1 and line["active_dims"] > 0


def test_the_warm_up_differs_from_digits_by_its_cold_start_alone():
    one, other = (load_yaml_config(f"assal/{name}").stored() for name in ("digits", "digits_warmup"))
    assert {key for key in one if one[key] != other[key]} <= {"save_dir", "save_name", "active"}
    blocks = one["active"], other["active"]
    assert {key for key in blocks[1] if blocks[0].get(key) != blocks[1][key]} == {"pretrain", "features", "initial"}
