"""The paper's configurations say what the paper says (§4), differ from each other only in what is compared, and never share a run."""

from __future__ import annotations

import re
import shlex
from itertools import combinations
from pathlib import Path

import pytest
import torch

from usb_active.config.settings import RunConfig, check_against_pool, load_yaml_config

FOLDER = Path(__file__).resolve().parents[3] / "yaml_configs" / "assl"
PAPER = sorted(path.stem for path in FOLDER.glob("*.yaml") if not path.stem.startswith("digits"))

# §4: labels per round, images of the pool (SVHN: by the times of Table 2), classes; FixMatch's weight decay. Of MiniImageNet the paper
# gives the labels per round alone: split and size are those of ALFA-Mix's public code, weight decay is ours.
DATA = {
    "cifar10": {"labels": 100, "pool": 50_000, "classes": 10, "side": 32, "weight_decay": 5e-4},
    "svhn": {"labels": 100, "pool": 60_000, "classes": 10, "side": 32, "weight_decay": 5e-4},
    "cifar100": {"labels": 1000, "pool": 50_000, "classes": 100, "side": 32, "weight_decay": 1e-3},
    "miniimagenet": {"labels": 1000, "pool": 48_000, "classes": 100, "side": 84, "weight_decay": 1e-3},
}
LR = {"resnet18": 0.03, "vit_small": 0.01}
PAIRS = [*((name, "resnet18") for name in DATA), ("cifar10", "vit_small"), ("svhn", "vit_small")]
# FixMatch's own, and what every run shares.
FIXMATCH = {"batch_size": 64, "uratio": 7, "p_cutoff": 0.95, "hard_label": True, "ulb_loss_ratio": 1.0}
SGD = {"optim": "SGD", "momentum": 0.9, "ema_m": 0.999, "layer_decay": 1.0, "num_warmup_iter": 0, "clip_grad": 0, "amp": False}
RULES = {"random", "entropy", "coreset", "badge", "cdal", "alfa_mix", "assl", "assl_div"}
BASE = "cifar10_resnet18_randinit"
# Figs. 8 and 9; a moving average alone is a bound with c = 0.
ABLATIONS = {
    "pseudo_el2n": ("pseudo_el2n", {}),
    "uncertainty_ema": ("assl", {"use": "uncertainty", "c_u": 0}),
    "uncertainty_ucb": ("assl", {"use": "uncertainty", "c_u": 0.5}),
    "inconsistency_ema": ("assl", {"use": "product", "c_u": 0.5, "c_i": 0}),
}
FULL = "cifar10_resnet18_fixmatch"
# In ALFA-Mix's settings.
ADAM = [name for name in PAPER if name.endswith("_adam")]
ROUNDS = [name for name in PAPER if name != FULL]


def load(name: str, *overrides: str) -> RunConfig:
    return load_yaml_config(f"assl/{name}", overrides)


def own_keys(config: RunConfig) -> dict:
    return config.active.acquisition.config.model_dump()


def without(data: dict, *dotted: str) -> dict:
    """A copy without these keys, and without where the run lies."""
    rest = {name: value for name, value in data.items() if name not in ("save_dir", "save_name")}
    rest["active"] = {name: value for name, value in data["active"].items() if f"active.{name}" not in dotted}
    return rest


def commands(name: str) -> list[list[str]]:
    """The overrides of each command in the opening comment, loops unrolled; the seed, which hides a shared run, only where it is alone."""
    lines = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8").partition("algorithm:")[0].replace("\\\n", "\n").splitlines()
    text = " ".join(line.lstrip("# ") for line in lines)
    loop = re.search(r"for (\w+) in ([^;]+); do (.*?) done", text)
    texts = [re.sub(rf"\${loop[1]}\b", value, loop[3]) for value in loop[2].split()] if loop else [text]
    found = []
    for each in texts:
        for config, sets in re.findall(r"usb-active run (\S+)((?:\s+--set \S+)*)", each):
            assert config == f"assl/{name}"
            words = [word for word in shlex.split(sets) if word != "--set"]
            found.append([word for word in words if not word.startswith("seed=")] or words)
    return found


# ------------------------------------------------------------------------------------------ the paper's table of settings
def test_every_experiment_of_the_paper_has_a_file_and_there_is_no_other():
    starts = {f"{data}_{net}_{start}" for data, net in PAIRS for start in ("randinit", "coninit")}
    supervised = {f"{data}_resnet18_supervised{settings}" for data in DATA for settings in ("", "_adam")}
    variants = {f"{BASE}_{name}" for name in (*ABLATIONS, *(RULES - {"assl"}))}
    assert set(PAPER) == starts | supervised | variants | {FULL}


@pytest.mark.parametrize("name", PAPER)
def test_what_all_runs_share(name):
    config, data = load(name), DATA[name.split("_")[0]]
    assert config.active.schedule == "constant" and config.usb["img_size"] == data["side"]
    if name not in ADAM:
        assert config.usb["lr"] == next(value for net, value in LR.items() if f"_{net}_" in name)
        assert {key: config.usb[key] for key in SGD} == SGD and config.usb["weight_decay"] == data["weight_decay"]
    assert config.usb["include_lb_to_ulb"] is False  # §3.1: U excludes L
    assert (config.active.initial.name, config.active.initial.size) == ("random", data["labels"])
    assert not config.warnings and config.active.pretrain is None and config.active.prior is None
    assert config.active.validation == 0


@pytest.mark.parametrize("name", [name for name in ROUNDS if name not in ADAM])
def test_ten_rounds_of_five_epochs_are_56320_steps(name):
    config, data = load(name), DATA[name.split("_")[0]]
    assert (config.active.cycles, config.active.budget) == (10, data["labels"])
    assert (config.usb["epoch"], config.usb["num_train_iter"] / config.usb["epoch"]) == (5, 1024)
    assert (config.active.cycles + 1) * config.usb["num_train_iter"] == 56_320  # §4.2
    assert config.usb["num_train_iter"] % config.usb["num_eval_iter"] == 0  # the last step is evaluated
    check_against_pool(config, data["pool"], data["classes"])


@pytest.mark.parametrize("name", PAPER)
def test_the_trainer_is_fixmatch_or_without_unlabelled_images(name):
    config = load(name)
    if "_supervised" in name:
        assert config.usb["algorithm"] == "supervised" and config.usb["batch_size"] == FIXMATCH["batch_size"]
        assert config.active.acquisition.name in RULES - {"assl", "assl_div"}  # these two watch unlabelled images
    else:
        assert config.usb["algorithm"] == "fixmatch" and {key: config.usb[key] for key in FIXMATCH} == FIXMATCH


@pytest.mark.parametrize("name", PAPER)
def test_networks_and_pools_are_the_papers(name):
    config = load(name)
    if "_resnet18_" in name:
        assert config.net.name == "resnet18" and config.net.config.model_dump() == {"stem": "imagenet", "embedding": 256}
    else:
        assert config.net.name == "vit_small" and config.net.config.model_dump() == {"patch_size": 16, "last_blocks": 4, "embedding": 256}
    expected = "image_folder" if name.startswith("miniimagenet") else name.split("_")[0]
    assert config.dataset.name == expected
    if expected == "svhn":
        assert (config.dataset.config.svhn_split, config.dataset.config.size) == ("train", 60_000)
    if expected == "image_folder":
        # 600 images of each of 100 classes, as in ALFA-Mix's public code.
        assert config.dataset.config.test_share == 0.2
    # FixMatch mirrors all but SVHN's digits, and does two operations.
    assert config.dataset.config.flip is (False if expected == "svhn" and name not in ADAM else None)
    assert config.dataset.config.augmentation == ("none" if name in ADAM else "usb")
    assert config.dataset.config.randaugment_n == (3 if "_supervised" in name else 2)


@pytest.mark.parametrize("name", [name for name in PAPER if re.search("_(randinit|coninit)$", name)])
def test_the_paper_s_rule_has_the_paper_s_constants(name):
    config = load(name)
    assert config.active.warm_start is name.endswith("coninit")
    assert config.active.acquisition.name == "assl"
    assert own_keys(config) == {"alpha": 0.8, "c_u": 0.5, "c_i": 2.0, "use": "product"}


# ------------------------------------------------------------------------------------------ what is compared
@pytest.mark.parametrize(("data", "net"), PAIRS, ids="-".join)
def test_the_two_starts_differ_in_the_weights_alone(data, net):
    rand, con = (load(f"{data}_{net}_{start}") for start in ("randinit", "coninit"))
    assert without(rand.resolved(), "active.warm_start") == without(con.resolved(), "active.warm_start")


@pytest.mark.parametrize("variant", [*sorted(RULES - {"assl"}), *ABLATIONS])
def test_rules_differ_from_the_main_run_in_the_acquisition_alone(variant):
    main, other = load(BASE), load(f"{BASE}_{variant}")
    assert without(main.resolved(), "active.acquisition") == without(other.resolved(), "active.acquisition")
    name, keys = ABLATIONS.get(variant, (variant, {}))
    assert other.active.acquisition.name == name
    own = own_keys(other)
    assert {key: own[key] for key in keys} == keys
    assert own.get("alpha", 0.8) == 0.8
    if variant == "assl_div":
        assert own == own_keys(main)


@pytest.mark.parametrize("data", DATA)
def test_supervised_differs_in_the_trainer_and_the_rule_alone(data):
    semi, supervised = (load(f"{data}_resnet18_{kind}").resolved() for kind in ("randinit", "supervised"))
    # Without unlabelled images there is no strong view.
    assert semi["dataset"].pop("randaugment_n") == 2 and "randaugment_n" not in supervised["dataset"]
    differing = {key for key in semi.keys() | supervised.keys() if semi.get(key) != supervised.get(key)}
    assert differing == {"algorithm", "uratio", "hard_label", "T", "p_cutoff", "save_dir", "save_name", "active"}
    assert without(semi, "active.acquisition")["active"] == without(supervised, "active.acquisition")["active"]


@pytest.mark.parametrize("name", ADAM)
def test_the_settings_of_alfa_mix_differ_in_the_training_alone(name):
    usual, adam = load(name.removesuffix("_adam")), load(name)
    assert without(usual.resolved())["active"] == without(adam.resolved())["active"] and usual.net == adam.net
    assert {key: adam.usb[key] for key in ("optim", "lr", "weight_decay", "ema_m", "batch_size")} == {
        "optim": "AdamW", "lr": 1e-3, "weight_decay": 0.0, "ema_m": 0.0, "batch_size": 64,
    }  # fmt: skip
    labels = adam.active.initial.size + adam.active.cycles * adam.active.budget
    epochs = 1000 if labels == 1100 else 100
    assert adam.usb["num_train_iter"] == epochs * -(-labels // 64)
    assert adam.usb["num_train_iter"] % adam.usb["epoch"] == adam.usb["num_train_iter"] % adam.usb["num_eval_iter"] == 0
    check_against_pool(adam, DATA[name.split("_")[0]]["pool"], DATA[name.split("_")[0]]["classes"])


def test_adamw_without_weight_decay_is_adam():
    from semilearn.core.utils import get_optimizer

    nets = [torch.nn.Linear(5, 3) for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    optimizers = [get_optimizer(nets[0], "AdamW", 1e-3, weight_decay=0.0), torch.optim.Adam(nets[1].parameters(), lr=1e-3)]
    draws = torch.Generator().manual_seed(0)
    for _ in range(20):
        x = torch.randn(4, 5, generator=draws)
        for net, optimizer in zip(nets, optimizers, strict=True):
            optimizer.zero_grad()
            net(x).square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(nets[0].weight, nets[1].weight, rtol=0, atol=1e-7)


def test_plain_fixmatch_is_observed_a_hundred_times_to_the_end():
    config = load(FULL)
    interval = config.active.analysis.config.interval
    assert config.usb["num_train_iter"] == 500_000 and interval == 5000 and config.active.cycles == 0
    # USB trains epoch × (num_train_iter // epoch) steps.
    assert config.usb["num_train_iter"] % config.usb["epoch"] == 0
    assert config.active.analysis.name == "temporal_instability" and config.active.analysis.config.threshold == 0.95


# ------------------------------------------------------------------------------------------ commands of the comments
@pytest.mark.parametrize("name", PAPER)
def test_the_commands_of_the_comment_are_valid_and_have_runs_of_their_own(name):
    runs = [load(name, *overrides) for overrides in commands(name)]
    assert runs and load(name).run_path not in {run.run_path for run in runs}
    assert len({run.run_path for run in runs}) == len(runs)


@pytest.mark.parametrize("name", PAPER)
def test_the_rules_that_the_comment_names_are_valid(name):
    listed = re.search(r"Another rule \(([\w, ]+)\)", (FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    if listed is None:
        assert not re.search("(randinit|coninit|supervised|adam)$", name)
        return
    rules = {*listed[1].split(", "), load(name).active.acquisition.name}
    assert rules == (RULES - {"assl", "assl_div"} if "_supervised" in name else RULES)
    assert len({load(name, f"active.acquisition={rule}").run_path for rule in rules}) == len(rules)


def test_loops_of_the_ablations_reach_the_bounds():
    for name, key in (("uncertainty_ucb", "c_u"), ("inconsistency_ema", "c_i")):
        values = [own_keys(load(f"{BASE}_{name}", *overrides))[key] for overrides in commands(f"{BASE}_{name}")]
        assert len(values) > 2 and {"c_u": 0.5, "c_i": 2.0}[key] in values


def test_no_run_lies_inside_another():
    paths = [load(name, *overrides).run_path for name in PAPER for overrides in [[], *commands(name)]]
    assert not [pair for pair in combinations(paths, 2) if pair[0] == pair[1] or pair[0] in pair[1].parents or pair[1] in pair[0].parents]
