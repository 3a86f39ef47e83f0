"""REVIVAL's configurations say what the paper says where it does (§4, Figs. 3 to 6, Table 1), and digits' run as they are shipped."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from usb_active.config.settings import RunConfig, check_against_pool, load_yaml_config
from usb_active.errors import UsageError
from usb_active.loop.setup import build_parts
from usb_active.usb.support import check_training

FOLDER = Path(__file__).resolve().parents[3] / "yaml_configs" / "revival"
ALL = sorted(path.stem for path in FOLDER.glob("*.yaml"))
DIGITS = [name for name in ALL if name.startswith("digits")]
PAPER = [name for name in ALL if name.startswith("cifar")]
CLASSES = {"cifar10": 10, "cifar100": 100}


def load(name: str, *overrides: str) -> RunConfig:
    return load_yaml_config(f"revival/{name}", overrides)


def test_every_trainer_has_a_file_for_each_data_set_and_there_is_no_other():
    trainers = ("mixmatch", "fixmatch", "flexmatch", "resnet18_supervised")
    assert set(PAPER) == {f"{data}_{trainer}" for data in CLASSES for trainer in trainers}
    assert set(ALL) == {*PAPER, *DIGITS, "mnist_folder"}


@pytest.mark.parametrize("name", PAPER)
def test_networks_and_labels_are_the_papers(name):
    config = load(name)
    data, _, trainer = name.partition("_")
    active = config.active
    supervised = trainer == "resnet18_supervised"
    assert config.usb["algorithm"] == ("supervised" if supervised else trainer)
    assert (config.dataset.name, config.net.name) == (data, "resnet18" if supervised else "wrn_28_2")
    # Balanced and random; supervised 10 % and 5 % a round; CIFAR-10 from 0.3 %; CIFAR-100 through Table 1's 15 and 25 %.
    assert active.initial.name == "balanced" and not active.warm_start
    if supervised:
        assert (active.initial.size, active.budget) == (5000, 2500) and 5000 + 2500 * active.cycles == 20_000
    elif data == "cifar10":
        assert active.initial.size == 150
    else:
        counts = [active.initial.size + active.budget * cycle for cycle in range(active.cycles + 1)]
        assert {7500, 12_500} <= set(counts) and max(counts) == 12_500
    assert (active.acquisition.name, active.acquisition.config.k, active.acquisition.config.labels) == ("revival", 20, "graph")
    assert active.analysis.name == "graph_accuracy"
    assert not config.warnings
    check_against_pool(config, 50_000, CLASSES[data])


@pytest.mark.parametrize("name", [name for name in PAPER if name.endswith("mixmatch")])
def test_mixmatch_has_its_papers_settings(name):
    usb = load(name).usb
    assert (usb["T"], usb["mixup_alpha"], usb["unsup_warm_up"], usb["uratio"], usb["batch_size"]) == (0.5, 0.75, 1 / 64, 1, 64)
    assert usb["ulb_loss_ratio"] == {"cifar10": 75, "cifar100": 150}[name.split("_")[0]] and usb["num_train_iter"] == 2**20


@pytest.mark.parametrize("name", PAPER)
@pytest.mark.parametrize("override", ["=random", "=entropy", "=coreset", ".preselect={budgets: 1}", ".preselect=all", ".labels=head"])
def test_rules_and_ablations_take_their_place(name, override):
    config = load(name, f"active.acquisition{override}").active.acquisition
    key, _, value = override.partition("=")
    assert str(getattr(config.config, key[1:]) if key else config.name) in (value, "{'budgets': 1.0}")


def test_a_share_below_the_budget_is_refused_before_anything_runs():
    said = "active.acquisition: 'revival': preselect: a share of 0.01 of the 1343 samples is 14, below the budget of 20; give a share of"
    with pytest.raises(UsageError, match=said):
        build_parts(load("digits", "active.acquisition.preselect={share: 0.01}"))
    build_parts(load("digits", "active.acquisition.preselect={share: 0.01}", "active.budget=14"))


@pytest.mark.parametrize("algorithm", ["mixmatch", "supervised"])
def test_the_prior_is_refused_where_it_has_no_way_in(algorithm):
    """MixMatch has no masking hook; what is trained on labels alone has no pseudo-labels."""
    with pytest.raises(UsageError, match=f"active.prior: algorithm '{algorithm}' has no .*so a prior cannot reach its pseudo-labels"):
        check_training(build_parts(load("digits_prior", f"algorithm={algorithm}")))


@pytest.mark.slow
@pytest.mark.parametrize("name", DIGITS)
def test_those_for_digits_run_as_they_are_but_for_their_length(tmp_path, name):
    from usb_active.usb.launcher import make_algorithm

    torch.set_num_threads(1)
    short = ["num_train_iter=8", "num_eval_iter=4", "active.cycles=1", f"save_dir={tmp_path}"]
    if name == "digits_prior":
        short.append("active.prior.until_iter=4")
    algorithm = make_algorithm(load(name, *short))
    algorithm.train()
    lines = algorithm.session.run_dir.metrics()
    assert [line["num_labels"] for line in lines] == [20, 40] and lines[1]["acquisition"] == "revival"
