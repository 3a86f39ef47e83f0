"""The paper's configurations say what the paper says (§4.1.3, Tables 1 to 3), and never share a run."""

from __future__ import annotations

import re
import shlex
from itertools import combinations
from pathlib import Path

import pytest

from usb_active.config.settings import RunConfig, check_against_pool, load_yaml_config

FOLDER = Path(__file__).resolve().parents[3] / "yaml_configs" / "as3l"
ALL = sorted(path.stem for path in FOLDER.glob("*.yaml"))
PAPER = [name for name in ALL if not name.startswith("digits")]

# §4.1: network, images, classes, samples that can be queried; FlexMatch's weight decay.
DATA = {
    "cifar10": {"net": "wrn_28_2", "side": 32, "classes": 10, "queryable": 50_000, "weight_decay": 5e-4},
    "cifar100": {"net": "wrn_28_8", "side": 32, "classes": 100, "queryable": 50_000, "weight_decay": 1e-3},
    "stl10": {"net": "wrn_var_37_2", "side": 96, "classes": 10, "queryable": 5_000, "weight_decay": 5e-4},
}
# Table 1's sizes of the labelled set; the better option of Table 3, by §4.3.1's rule where it has none.
EXPERIMENTS = {
    ("cifar10", 10): "update", ("cifar10", 40): "remove", ("cifar100", 200): "remove", ("cifar100", 400): "remove",
    ("stl10", 20): "remove", ("stl10", 40): "remove",
}  # fmt: skip
GUIDED = [f"{data}_{labels}" for data, labels in EXPERIMENTS]
# From random weights.
STANDARD = [f"{name}_standard" for name in GUIDED]
FLEXMATCH = {
    "algorithm": "flexmatch", "batch_size": 64, "uratio": 7, "ulb_loss_ratio": 1.0, "optim": "SGD", "lr": 0.03, "momentum": 0.9,
    "ema_m": 0.999, "hard_label": True, "p_cutoff": 0.95, "thresh_warmup": True, "num_warmup_iter": 0, "clip_grad": 0, "amp": False,
}  # fmt: skip
# SimSiam's appendix D, and its baseline settings.
SIMSIAM = {
    "epochs": 800, "batch_size": 512, "lr": 0.03, "momentum": 0.9, "weight_decay": 5e-4, "fixed_predictor_lr": True, "projection_layers": 2,
    "projection_dim": 2048, "prediction_dim": 512, "crop": 0.2, "flip": None, "stop_gradient": True,
}  # fmt: skip


def load(name: str, *overrides: str) -> RunConfig:
    return load_yaml_config(f"as3l/{name}", overrides)


def parts(name: str) -> tuple[str, int]:
    data, labels = name.split("_")[:2]
    return data, int(labels)


def steps(name: str) -> int:
    """§4.1.3."""
    if name in STANDARD:
        return 1024 * 1024
    return 112 * (1024 if parts(name) == ("cifar10", 10) else 2304)


def commands(name: str) -> list[list[str]]:
    """The overrides of each command in the opening comment, loops unrolled."""
    lines = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8").partition("algorithm:")[0].replace("\\\n", "\n").splitlines()
    text = " ".join(line.lstrip("# ") for line in lines)
    for variable, values, body in re.findall(r"for (\w+) in ([^;]+); do (.*?) done", text):
        unrolled = " ".join(re.sub(rf"\${variable}\b", value, body) for value in values.split())
        text = text.replace(f"for {variable} in {values}; do {body} done", unrolled)
    found = []
    for config, sets in re.findall(r"""usb-active run (\S+)((?:\s+--set (?:"[^"]*"|\S+))*)""", text):
        assert config == f"as3l/{name}"
        found.append([word for word in shlex.split(sets) if word != "--set"])
    return found


def same_but(one: RunConfig, other: RunConfig, *names: str) -> bool:
    """Whether the two differ in these keys of `active` alone, and in where they lie."""
    plain = []
    for config in (one, other):
        data = {key: value for key, value in config.resolved().items() if key not in ("save_dir", "save_name")}
        data["active"] = {key: value for key, value in data["active"].items() if key not in names}
        plain.append(data)
    return plain[0] == plain[1]


# ------------------------------------------------------------------------------------------ the paper's table of settings
def test_every_experiment_of_the_paper_has_a_file_and_there_is_no_other():
    assert set(PAPER) == {*GUIDED, *(f"{name}_{kind}" for name in GUIDED for kind in ("flexmatch", "linear", "standard"))}


@pytest.mark.parametrize("name", PAPER)
def test_data_and_network_are_the_papers(name):
    config, (data, labels) = load(name), parts(name)
    expected = DATA[data]
    assert (config.dataset.name, config.net.name, config.usb["img_size"]) == (data, expected["net"], expected["side"])
    assert config.active.initial.size == labels and config.active.cycles == 0  # single shot
    assert config.usb["include_lb_to_ulb"] is False  # §3: n − m unlabelled images
    assert config.active.validation == 0 and not config.warnings
    check_against_pool(config, expected["queryable"], expected["classes"])


@pytest.mark.parametrize("name", [name for name in PAPER if name not in STANDARD])
def test_the_features_are_simsiams(name):
    config = load(name)
    assert config.active.pretrain.name == "simsiam" and config.active.features.name == "pretrain"
    keys = config.active.pretrain.config.model_dump()
    assert {key: keys[key] for key in SIMSIAM} == SIMSIAM and set(keys) - set(SIMSIAM) == {"num_workers"}


@pytest.mark.parametrize("name", [name for name in PAPER if not name.endswith("_linear")])
def test_the_trainer_is_flexmatch_for_as_many_steps(name):
    config = load(name)
    assert {key: config.usb[key] for key in FLEXMATCH} == FLEXMATCH
    assert config.usb["weight_decay"] == DATA[parts(name)[0]]["weight_decay"] and config.active.schedule == "cosine"
    assert config.usb["num_train_iter"] == steps(name)
    # USB trains epoch × (num_train_iter // epoch) steps; the last is evaluated.
    assert config.usb["num_train_iter"] % config.usb["epoch"] == 0 == config.usb["num_train_iter"] % config.usb["num_eval_iter"]


def test_with_the_pretraining_these_are_the_iterations_of_table_2():
    pretraining = SIMSIAM["epochs"] * (50_000 // SIMSIAM["batch_size"])
    assert {pretraining + load(name).usb["num_train_iter"] for name in ("cifar10_40", "cifar100_200", "cifar100_400")} == {335_648}
    assert pretraining + load("cifar10_10").usb["num_train_iter"] == 192_288


@pytest.mark.parametrize("name", GUIDED)
def test_selection_and_prior_have_the_papers_constants(name):
    active, (data, labels) = load(name).active, parts(name)
    assert active.initial.name == active.prior.choice.name == "as3l"
    for keys in (active.initial.config.model_dump(), active.prior.choice.config.model_dump()):
        assert (keys["clusterings"], keys["epochs"], keys["fine_tune"]) == (6, 40, True)
    # §4.1.3's 10 … 60 are multiples of CIFAR-10's number of classes.
    assert active.prior.choice.config.ks == [DATA[data]["classes"] * factor for factor in range(1, 7)]
    assert (active.prior.until_iter, active.prior.then) == (6900, EXPERIMENTS[data, labels])


# ------------------------------------------------------------------------------------------ what is compared
@pytest.mark.parametrize("name", GUIDED)
def test_early_stopped_flexmatch_differs_in_selection_and_prior_alone(name):
    guided, plain = load(name), load(f"{name}_flexmatch")
    assert same_but(guided, plain, "initial", "prior")
    assert plain.active.prior is None and plain.active.initial.name == "stratified"


@pytest.mark.parametrize("name", [f"{name}_flexmatch" for name in GUIDED])
def test_the_baselines_of_table_1_are_one_key_away(name):
    runs = [load(name, *overrides) for overrides in commands(name)]
    rules = {run.active.initial.name: run for run in runs if run.active.pretrain is not None}
    assert set(rules) == {"random", "kmedoids", "coreset"}
    assert all(same_but(load(name), run, "initial") for run in rules.values())
    # On the features of the pretraining, like the proposed selection.
    assert all(run.active.features.name == "pretrain" and run.active.initial.features is None for run in rules.values())
    scratch = [run for run in runs if run.active.pretrain is None]
    assert len(scratch) == 1 and same_but(load(name), scratch[0], "pretrain", "features")


@pytest.mark.parametrize("name", GUIDED)
def test_standard_flexmatch_is_the_one_from_scratch_for_more_steps(name):
    short = [load(f"{name}_flexmatch", *overrides) for overrides in commands(f"{name}_flexmatch")]
    runs = [next(run for run in short if run.active.pretrain is None), load(f"{name}_standard")]
    longer = ("epoch", "num_train_iter", "num_eval_iter", "save_dir", "save_name")
    scratch, standard = ({key: value for key, value in run.resolved().items() if key not in longer} for run in runs)
    assert scratch == standard and runs[1].usb["num_train_iter"] == 1_048_576


@pytest.mark.parametrize("name", GUIDED)
def test_linear_evaluation_stands_on_the_same_features(name):
    config, plain = load(f"{name}_linear"), load(f"{name}_flexmatch")
    assert config.usb["algorithm"] == "linear_evaluation" and config.usb["weight_decay"] == 0
    assert config.active.resolved() == plain.active.resolved() and config.net == plain.net


@pytest.mark.parametrize("name, then", [("cifar10_10", "remove"), ("cifar10_40", "update")])
def test_the_other_option_of_table_3(name, then):
    other = next(load(name, *overrides) for overrides in commands(name) if any(".then" in word for word in overrides))
    assert same_but(load(name), other, "prior") and (other.active.prior.until_iter, other.active.prior.then) == (6900, then)


# ------------------------------------------------------------------------------------------ commands of the comments
@pytest.mark.parametrize("name", ALL)
def test_the_commands_of_the_comment_are_valid_and_have_runs_of_their_own(name):
    paths = [load(name).run_path, *(load(name, *overrides).run_path for overrides in commands(name))]
    assert len(set(paths)) == len(paths)


def test_no_run_lies_inside_another():
    paths = [load(name, *overrides).run_path for name in ALL for overrides in [[], *commands(name)]]
    assert not [pair for pair in combinations(paths, 2) if pair[0] == pair[1] or pair[0] in pair[1].parents or pair[1] in pair[0].parents]


# ------------------------------------------------------------------------------------------ digits
def test_a_persons_run_differs_in_the_oracle_alone():
    simulated, asked = load("digits"), load("digits_csv")
    assert same_but(simulated, asked, "oracle") and asked.active.oracle.name == "csv"


def test_digits_share_their_pretraining():
    configs = [load(name) for name in ALL if name.startswith("digits")]
    assert len({repr(config.active.pretrain.resolved()) for config in configs}) == 1
    assert all(config.active.features.name == "pretrain" for config in configs)
