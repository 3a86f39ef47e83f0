"""The paper's configurations say what the paper says (Tables I to III, Figs. 3 and 4), and digits' run as they are shipped."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from usb_active.config.settings import RunConfig, check_against_pool, load_yaml_config

FOLDER = Path(__file__).resolve().parents[3] / "yaml_configs" / "jlp"
ALL = sorted(path.stem for path in FOLDER.glob("*.yaml"))
DIGITS = [name for name in ALL if name.startswith("digits")]
REFERENCES = [name for name in ALL if name.endswith("all_labels")]
# In the form of the authors' public code; beside each the printed one.
AUTHORS = [name for name in ALL if name.endswith("_authors")]
COLUMNS = [name for name in ALL if name not in DIGITS + REFERENCES + AUTHORS]

# Samples that can be queried, and classes.
DATA = {"mnist": (60_000, 10), "svhn": (73_257, 10), "cifar10": (50_000, 10), "cifar100": (50_000, 100)}
# Table II is CIFAR-10 with b = 100; Table III the others, with PRE and with both; Fig. 4 is MNIST.
EXPERIMENTS = {
    ("cifar10", 100): ("supervised", "pre", "semi", "pre_semi"),
    ("svhn", 100): ("supervised", "pre", "pre_semi"),
    ("cifar10", 1000): ("supervised", "semi"),
    ("cifar100", 1000): ("supervised", "pre", "semi", "pre_semi"),
    ("mnist", 10): ("supervised", "semi"),
}


def load(name: str, *overrides: str) -> RunConfig:
    return load_yaml_config(f"jlp/{name}", overrides)


def parts(name: str) -> tuple[str, int, str]:
    data, budget, training = name.split("_", 2)
    return data, int(budget.removeprefix("b")), training


def test_every_column_has_a_file_and_there_is_no_other():
    expected = {f"{data}_b{budget}_{training}" for (data, budget), trainings in EXPERIMENTS.items() for training in trainings}
    assert set(COLUMNS) == expected
    assert set(REFERENCES) == {f"{data}_all_labels" for data in ("cifar10", "cifar100", "svhn")}


def test_every_column_with_semi_and_one_without_have_a_file_in_the_authors_form():
    assert set(AUTHORS) == {f"{name}_authors" for name in COLUMNS if name.endswith("semi") or name == "cifar10_b100_supervised"}


@pytest.mark.parametrize("name", COLUMNS)
def test_data_and_cycles_are_the_papers(name):
    config, (data, budget, _) = load(name), parts(name)
    assert (config.dataset.name, config.net.name) == (data, "cnn13") and config.dataset.config.augmentation == "translate_flip"
    assert data != "svhn" or config.dataset.config.svhn_split == "train"
    active = config.active
    # Five cycles of theirs are five trainings; |L0| = b, balanced.
    assert (active.initial.name, active.initial.size, active.budget, active.cycles) == ("balanced", budget, budget, 4)
    assert active.warm_start is False and active.validation == 0
    assert config.usb["include_lb_to_ulb"] is False and not config.warnings
    check_against_pool(config, *DATA[data])


@pytest.mark.parametrize("name", COLUMNS)
def test_the_training_is_that_of_table_1(name):
    usb, (data, _, training) = load(name).usb, parts(name)
    semi = training.endswith("semi")
    batch = {("mnist", False): 10, ("mnist", True): 64}.get((data, semi), 128 if semi else 32)
    assert (usb["lp_semi"], usb["batch_size"]) == (semi, batch)
    assert not semi or usb["lp_labeled"] == (10 if data == "mnist" else 50)
    # "Other parameters follow [33]": Nesterov momentum, no EMA; half a cosine that would be zero at epoch 210.
    assert (usb["optim"], usb["lr"], usb["momentum"], usb["weight_decay"], usb["ema_m"]) == ("SGD", 0.2, 0.9, 2e-4, 0.0)
    assert usb["epoch"] == 200 and usb["lp_anneal"] * 200 == pytest.approx(210) and usb["lp_epoch"] == 0.5
    assert (usb["lp_k"], usb["lp_gamma"], usb["lp_graph"], usb["lp_alpha"], usb["lp_weighting"]) == (50, 3.0, "mutual", 0.99, "label")


@pytest.mark.parametrize("name", AUTHORS)
def test_the_authors_form_differs_in_what_their_code_does_alone(name):
    printed, authors = load(name.removesuffix("_authors")), load(name)
    differing = {key: value for key, value in authors.usb.items() if value != printed.usb[key] and key != "save_dir"}
    of_all = {"lp_weighting": "class", "lp_graph": "sum"}
    of_semi = {"lp_weighted_loss": True, "lp_replacement": False, "lp_supervised_epochs": 0}
    assert differing == of_all | (of_semi if printed.usb["lp_semi"] else {"lp_drop_last": True})
    assert authors.active.acquisition.config.graph == "sum" and printed.active.acquisition.config.graph == "mutual"
    assert (authors.active.initial, authors.active.cycles) == (printed.active.initial, printed.active.cycles) and not authors.warnings
    assert authors.dataset == printed.dataset
    assert (authors.net.config.weight_norm_head, printed.net.config.weight_norm_head) == (True, False)


@pytest.mark.parametrize("name", [name for name in AUTHORS if "_pre_" in name])
def test_the_authors_pretraining_is_that_of_their_code(name):
    """Five clusters per class of the features as they are; 250 epochs are the paper's."""
    printed, authors = (load(each).active.pretrain.config for each in (name.removesuffix("_authors"), name))
    assert (authors.epochs, authors.clusters, authors.clusters_per_class, authors.pca, authors.whiten) == (250, None, 5, False, False)
    assert (authors.iterations, authors.lr, authors.momentum, authors.weight_decay, authors.batch_size) == (10, 0.02, 0.9, 2e-4, 128)
    assert (printed.pca, printed.whiten) == (True, True)


@pytest.mark.parametrize("name", COLUMNS + AUTHORS)
def test_pretraining_stands_where_the_name_says_so(name):
    pretrain = load(name).active.pretrain
    assert (pretrain is not None) == parts(name)[2].startswith("pre")
    assert pretrain is None or (pretrain.name, pretrain.config.epochs) == ("deepcluster", 250)


@pytest.mark.parametrize("name", COLUMNS)
@pytest.mark.parametrize("rule", ["random", "entropy", "coreset", "jlp", "ceal"])
def test_every_rule_of_the_tables_takes_the_place_of_jlp(name, rule):
    assert load(name, f"active.acquisition={rule}").active.acquisition.name == rule


@pytest.mark.parametrize("name", REFERENCES)
def test_the_references_train_on_all_labels(name):
    config = load(name)
    size, classes = DATA[config.dataset.name]
    assert config.active.initial.size == size and config.active.cycles == 0 and config.usb["lp_semi"] is False
    check_against_pool(config, size, classes)


@pytest.mark.slow
@pytest.mark.parametrize("name", DIGITS)
def test_those_for_digits_run_as_they_are_but_for_their_length(tmp_path, name):
    from usb_active.usb.launcher import make_algorithm

    torch.set_num_threads(1)
    short = ["epoch=3", "active.cycles=1", f"save_dir={tmp_path}"]
    config = load(name, *short)
    if config.usb["lp_semi"]:
        short.append("lp_supervised_epochs=1")
    if config.active.pretrain is not None:
        short.append("active.pretrain.epochs=2")
    algorithm = make_algorithm(load(name, *short))
    algorithm.train()
    lines = algorithm.session.run_dir.metrics()
    assert [line["num_labels"] for line in lines] == [10, 20]
    assert lines[1]["acquisition"] == config.active.acquisition.name
    if config.usb["lp_semi"]:
        assert 0.2 < lines[1]["log"]["lp_accuracy"] <= 1 and lines[1]["accuracy"] > 0.2
