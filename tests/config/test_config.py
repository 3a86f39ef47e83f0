"""The configuration: what is read, what is derived, and the one line for everything that can be wrong."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
import yaml

from usb_active.config.free_keys import FREE_KEYS
from usb_active.config.settings import check_against_pool, config_from_dict, load_yaml_config
from usb_active.config.usb_keys import ALGORITHMS, BASE, DERIVED, FROM_DATASET, IGNORED, convert
from usb_active.errors import UsageError
from usb_active.storage.yaml_input import apply_overrides, packaged_names, parse_yaml

HERE = Path(__file__).parents[1]
TOYS = str(HERE / "toy_plugins.py")
USB_YAMLS = sorted((HERE / "fixtures" / "usb_yamls").glob("*.yaml"))


def base_config() -> dict:
    return {
        "plugins": [TOYS],
        "algorithm": "flexmatch",
        "dataset": "toy_pool",
        "net": "toy_net",
        "active": {
            "initial": {"name": "toy_first", "size": 10},
            "acquisition": "toy_first",
            "cycles": 2,
            "budget": 5,
            "oracle": "toy_oracle",
            "features": "toy_zeros",
        },
    }


def build(overrides=(), base=Path("/base")):
    data = base_config()
    changed = apply_overrides(data, overrides)
    return config_from_dict(data, base=base, source="c.yaml", overridden=changed)


def write(tmp_path, data) -> Path:
    path = tmp_path / "c.yaml"
    path.write_text(data if isinstance(data, str) else yaml.safe_dump(data))
    return path


def error_of(data, tmp_path) -> str:
    with pytest.raises(UsageError) as error:
        load_yaml_config(write(tmp_path, data))
    return str(error.value).replace(str(tmp_path / "c.yaml"), "c.yaml")


def changed(**dotted) -> dict:
    """The base configuration with `a__b=value` put at a.b; ... removes the key."""
    data = base_config()
    for name, value in dotted.items():
        *parents, last = name.split("__")
        node = data
        for parent in parents:
            node[parent] = {"name": node[parent]} if isinstance(node.get(parent), str) else node.get(parent, {})
            node = node[parent]
        if value is ...:
            del node[last]
        else:
            node[last] = value
    return data


# --- USB's own keys --------------------------------------------------------------------------------------------------------


def usb_options(monkeypatch) -> dict[str, argparse.Action]:
    """USB's own options by name, recorded while USB builds its parser."""
    from semilearn.lighting.config import get_config

    options = {}
    original = argparse.ArgumentParser.add_argument

    def record(self, *args, **kwargs):
        action = original(self, *args, **kwargs)
        options[action.dest] = action
        return action

    monkeypatch.setattr(argparse.ArgumentParser, "add_argument", record)
    get_config({"algorithm": "supervised"})
    return {name: action for name, action in options.items() if name not in ("help", "c", "algorithm", "dataset", "net")}


def usb_type(action) -> type:
    if isinstance(action, argparse._StoreTrueAction):
        return bool
    return bool if action.type.__name__ == "str2bool" else action.type


def test_table_of_base_keys_is_usbs(monkeypatch):
    options = usb_options(monkeypatch)
    assert set(BASE) == set(options)
    assert {name: key.type for name, key in BASE.items()} == {name: usb_type(option) for name, option in options.items()}
    defaults = {name: option.default for name, option in options.items()} | {"save_name": None, "include_lb_to_ulb": True}
    assert {name: key.default for name, key in BASE.items()} == defaults


def test_table_of_algorithm_keys_is_usbs():
    from semilearn.core.utils import ALGORITHMS as REAL

    for name in REAL.keys():
        # Those of plugins may be registered beside USB's own.
        if not REAL[name].__module__.startswith("semilearn."):
            continue
        arguments = {item.name.removeprefix("--"): item for item in REAL[name].get_argument()}
        types = {key: bool if item.type.__name__ == "str2bool" else item.type for key, item in arguments.items()}
        assert {key: own.type for key, own in ALGORITHMS[name].items()} == types, name
        assert {key: own.default for key, own in ALGORITHMS[name].items()} == {key: item.default for key, item in arguments.items()}, name
    assert set(ALGORITHMS) == {name for name in REAL.keys() if REAL[name].__module__.startswith("semilearn.")}


def test_every_default_is_valid_by_its_own_table():
    for algorithm in ALGORITHMS:
        config = build([f"algorithm={algorithm}"])
        for name, key in {**BASE, **ALGORITHMS[algorithm]}.items():
            if name not in (*FROM_DATASET, "save_name", "num_labels"):
                build([f"algorithm={algorithm}", f"{name}={yaml.safe_dump(key.default)}"])
            assert name in config.usb


def test_ignored_keys_are_read_nowhere_in_usb():
    import semilearn

    sources = "\n".join(path.read_text() for path in Path(semilearn.__file__).parent.rglob("*.py"))
    for name in IGNORED:
        assert f"args.{name}" not in sources.replace("args.clip_", "")


@pytest.mark.parametrize("path", USB_YAMLS, ids=lambda path: path.stem)
def test_usbs_own_yamls_are_read(path):
    given = yaml.safe_load(path.read_text())
    config = load_yaml_config(path)
    assert config.usb["algorithm"] == given["algorithm"]
    assert config.algorithm == f"active_{given['algorithm']}"
    assert config.active.initial.size == config.usb["num_labels"] == given["num_labels"]
    assert [line.partition(": ")[2] for line in config.warnings if ": clip: " in line] == ["clip: is read by nothing in USB 0.3.2; dropped"]
    changed_by_us = {*DERIVED, "clip", "use_amp", "active", "gpu", "ulb_num_labels"}
    if given["algorithm"] == "dash":
        changed_by_us.add("p_cutoff")
    assert {name: config.usb[name] for name in given if name not in changed_by_us} == {
        name: value for name, value in given.items() if name not in changed_by_us
    }
    assert (config.usb["resume"], config.usb["load_path"], config.usb["multiprocessing_distributed"]) == (False, None, False)
    assert config.usb["gpu"] is None


def test_key_of_another_algorithm_is_dropped_with_a_warning():
    config = build(["algorithm=dash", "p_cutoff=0.9"])
    assert "p_cutoff" not in config.usb
    (line,) = config.warnings
    assert line.startswith("--set: p_cutoff: is not read by 'dash' (a key of adamatch, ") and line.endswith("; dropped")


def test_use_amp_means_amp():
    assert build(["use_amp=true"]).usb["amp"] is True
    assert "use_amp" not in build(["use_amp=true"]).usb
    with pytest.raises(UsageError, match=r"^--set: use_amp: contradicts amp \(true and false\); give one of them$"):
        build(["use_amp=true", "amp=false"])


def test_algorithm_by_either_name():
    assert build(["algorithm=active_flexmatch"]) == build(["algorithm=flexmatch"])


def test_third_party_algorithm_declares_its_keys():
    assert build(["algorithm=toymatch"]).usb["sharpness"] == 2.0
    assert build(["algorithm=toymatch", "sharpness=3"]).usb["sharpness"] == 3.0
    with pytest.raises(UsageError, match="sharpness: unknown key"):
        build(["sharpness=3"])


@pytest.mark.parametrize("text", ["1e-3", "'1e-3'", "0.001"])
def test_numbers_as_people_write_them(text):
    assert build([f"lr={text}"]).usb["lr"] == 0.001
    assert build([f"active.acquisition.alpha={text}"]).active.acquisition.config.alpha == 0.001
    assert build([f"active.validation={text}"]).active.validation == 0.001


def test_convert_loses_nothing():
    assert convert(3, float) == 3.0 and type(convert(3, float)) is float
    assert convert(3.0, int) == 3 and type(convert(3.0, int)) is int
    for value, wanted in ((3.5, int), ("3", int), (True, int), (True, float), (1, bool), ("yes", bool), (1, str), (float("nan"), float)):
        assert convert(value, wanted) not in (value, 3, 1, True), (value, wanted)


def test_without_a_value_the_data_set_decides():
    config = build()
    assert config.usb["num_classes"] is None and config.usb["img_size"] is None
    assert build(["img_size=96"]).usb["img_size"] == 96


def test_what_is_left_out_is_known():
    assert "num_workers" in build().left_out and "algorithm" not in build().left_out
    assert "num_workers" not in build(["num_workers=1"]).left_out and build(["num_workers=1"]) == build()


def test_save_name_tells_runs_apart():
    assert build().usb["save_name"] == "active_flexmatch_toy_pool_toy_first_1"
    assert build(["seed=3"]).run_path != build(["seed=4"]).run_path
    assert build(["save_name=mine"]).run_path == Path("saved_models/mine")


# --- the active: block ------------------------------------------------------------------------------------------------------


def test_short_and_long_forms_are_the_same():
    long = changed(dataset={"name": "toy_pool"}, active__acquisition={"name": "toy_first"})
    assert config_from_dict(long, base=Path("/base"), source="") == build()


def test_defaults():
    active = build().active
    plain = (active.warm_start, active.schedule, active.validation, active.keep, active.deterministic, active.threads, active.fast_hooks)
    assert plain == (False, "cosine", 0.0, "last", False, None, True)
    assert active.pretrain is None and active.prior is None


def test_features_beside_a_plugin():
    config = build(["active.acquisition.features=toy_zeros", "active.acquisition.alpha=0.25"])
    assert config.active.acquisition.features.name == "toy_zeros"
    assert config.active.acquisition.config.alpha == 0.25
    assert config.active.initial.features is None


def test_prior_settings():
    config = build(["active.prior={name: toy_prior, until_iter: 6, then: update, update_every: 2}"])
    prior = config.active.prior
    assert (prior.choice.name, prior.until_iter, prior.then, prior.update_every) == ("toy_prior", 6, "update", 2)
    assert build(["active.prior=toy_prior"]).active.prior.until_iter is None


def test_several_analyses_are_a_list_and_one_is_as_it_was():
    one = build(["active.analysis={name: toy_witness, interval: 2}"])
    listed = build(["active.analysis=[{name: toy_witness, interval: 2}]"])
    assert listed.resolved() == one.resolved() and isinstance(one.resolved()["active"]["analysis"], dict)
    several = build(["active.analysis=[toy_witness, {name: toy_witness, interval: 2, features: toy_zeros}]"])
    assert [choice.config.interval for choice in several.active.analyses.values()] == [5, 2]
    assert list(several.active.analyses) == ["analysis[0]", "analysis[1]"] and list(one.active.analyses) == ["analysis"]
    assert [item["name"] for item in several.resolved()["active"]["analysis"]] == ["toy_witness"] * 2
    again = config_from_dict(several.resolved(), base=Path(), source="again")
    assert again.resolved() == several.resolved()


def test_an_analysis_is_asked_for_by_name():
    assert build().active.analysis is None and "analysis" not in build().resolved()["active"]
    analysis = build(["active.analysis=toy_witness"]).active.analysis
    assert (analysis.kind, analysis.name, analysis.config.interval) == ("analysis", "toy_witness", 5)


def test_num_labels_is_derived():
    assert build().usb["num_labels"] == 10
    assert build(["num_labels=10"]) == build()
    assert build(["active.initial={name: toy_first}", "num_labels=40"]).active.initial.size == 40


def test_labels_that_exist_already_need_no_size():
    config = build(["active.initial=toy_known", "num_labels=40"])
    assert config.active.initial.size is None and config.usb["num_labels"] is None
    assert config.warnings == ("--set: num_labels: 'toy_known' brings its own labels; dropped",)


def test_stream_follows_the_method():
    assert build().usb["include_lb_to_ulb"] is True
    assert build(["active.acquisition=toy_apart"]).usb["include_lb_to_ulb"] is False


def test_single_shot_needs_no_acquisition():
    active = build(["active={initial: {name: toy_first, size: 4}, cycles: 0, oracle: toy_oracle, features: toy_zeros}"]).active
    assert active.acquisition is None and active.budget == 0


def test_relative_paths_count_from_the_folder_of_the_yaml(tmp_path):
    assert build(["active.acquisition.table=labels.csv"], tmp_path).active.acquisition.config.table == tmp_path / "labels.csv"
    assert build(["active.acquisition.table=/labels.csv"], tmp_path).active.acquisition.config.table == Path("/labels.csv")


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["algorithm=softmatch", "lr=1e-5", "amp=true", "img_size=32"],
        ["active.acquisition={name: toy_first, alpha: 1, table: labels.csv, features: toy_zeros}", "active.validation=0.1"],
        ["active.prior={name: toy_prior, until_iter: 6, then: update, update_every: 2}"],
        ["active.initial=toy_known", "active.cycles=0"],
        ["active.acquisition=toy_apart", "use_amp=true"],
        ["active.analysis={name: toy_witness, interval: 2, features: toy_zeros}"],
    ],
)
def test_resolved_gives_the_same_configuration(overrides, tmp_path):
    config = build(overrides)
    again = load_yaml_config(write(tmp_path, config.resolved()))
    assert again == config
    assert again.resolved() == config.resolved()
    assert again.warnings == ()


def test_free_keys_are_keys():
    # What is left out at its default is given.
    resolved = build(["active.cache_images=true", "active.views_on=device", "active.stop=[kappa]"]).resolved()
    for dotted in FREE_KEYS:
        node = resolved
        for part in dotted.split("."):
            node = node[part]


@pytest.mark.parametrize("name", packaged_names())
def test_packaged_configurations_are_valid(name):
    config = load_yaml_config(name)
    assert config.warnings == ()


# --- what can be wrong ------------------------------------------------------------------------------------------------------

WRONG = {
    "unknown key": (changed(batch_sise=4), "c.yaml: batch_sise: unknown key; did you mean 'batch_size'?"),
    "unknown analysis": (
        changed(active__analysis="toy_witnes"),
        "c.yaml: active.analysis: unknown analysis 'toy_witnes'; did you mean 'toy_witness'?",
    ),
    "no analysis": (
        changed(active__analysis=[]),
        "c.yaml: active.analysis: an empty list; name at least one analysis, or leave the key out",
    ),
    "analysis in a list": (
        changed(active__analysis=["toy_witness", {"name": "toy_witness", "interval": 0}]),
        "c.yaml: active.analysis[1].interval: should be greater than or equal to 1 (0)",
    ),
    "analysis value": (
        changed(active__analysis={"name": "toy_witness", "interval": 0}),
        "c.yaml: active.analysis.interval: should be greater than or equal to 1 (0)",
    ),
    "unknown active key": (changed(active__bugdet=4), "c.yaml: active.bugdet: unknown key; did you mean 'budget'?"),
    "unknown plugin key": (changed(active__acquisition__alfa=1), "c.yaml: active.acquisition.alfa: unknown key; did you mean 'alpha'?"),
    "unknown initial key": (changed(active__initial__sise=1), "c.yaml: active.initial.sise: unknown key; did you mean 'size'?"),
    "unknown net key": (changed(net__widht=1), "c.yaml: net.widht: unknown key; did you mean 'width'?"),
    "unknown acquisition": (
        changed(active__acquisition="toy_frist"),
        "c.yaml: active.acquisition: unknown acquisition 'toy_frist'; did you mean 'toy_first'?",
    ),
    "unknown acquisition, long form": (
        changed(active__initial__name="toy_frist"),
        "c.yaml: active.initial.name: unknown acquisition or initial_labels 'toy_frist'; did you mean 'toy_first'?",
    ),
    "unknown algorithm": (changed(algorithm="flexmach"), "c.yaml: algorithm: unknown algorithm 'flexmach'; did you mean 'flexmatch'?"),
    "unknown active algorithm": (
        changed(algorithm="active_fixmach"),
        "c.yaml: algorithm: unknown algorithm 'fixmach'; did you mean 'fixmatch'?",
    ),
    "unknown dataset": (changed(dataset="toy_poll"), "c.yaml: dataset: unknown dataset 'toy_poll'; did you mean 'toy_pool'?"),
    "text for an integer": (changed(batch_size="64"), "c.yaml: batch_size: must be an integer ('64' is a text)"),
    "fraction for an integer": (changed(uratio=1.5), "c.yaml: uratio: must be an integer (1.5 is a number)"),
    "truth for an integer": (changed(epoch=True), "c.yaml: epoch: must be an integer (true is true or false)"),
    "text for a truth": (changed(use_cat="yes"), "c.yaml: use_cat: must be true or false ('yes' is a text)"),
    "integer for a text": (changed(save_name=3), "c.yaml: save_name: must be a text (3 is an integer)"),
    "empty": (changed(lr=None), "c.yaml: lr: must be a number (null is empty)"),
    "not finite": (changed(lr=float("nan")), "c.yaml: lr: must be a number (nan is a number)"),
    "text for a plugin's integer": (
        changed(active__acquisition__steps="3"),
        "c.yaml: active.acquisition.steps: must be an integer ('3' is a text)",
    ),
    "text for a plugin's truth": (
        changed(active__acquisition__flag="on"),
        "c.yaml: active.acquisition.flag: must be true or false ('on' is a text)",
    ),
    "text for an active integer": (changed(active__budget="5"), "c.yaml: active.budget: should be a valid integer ('5')"),
    "range": (changed(batch_size=0), "c.yaml: batch_size: must be in [1, inf) (0)"),
    "range of a share": (changed(p_cutoff=1.5), "c.yaml: p_cutoff: must be in [0, 1] (1.5)"),
    "range of a plugin's key": (
        changed(active__acquisition__alpha=2),
        "c.yaml: active.acquisition.alpha: should be less than or equal to 1 (2)",
    ),
    "range of validation": (changed(active__validation=0.6), "c.yaml: active.validation: should be less than or equal to 0.5 (0.6)"),
    "seed": (changed(seed=-1), "c.yaml: seed: must be in [0, 4294967295] (-1)"),
    "one of a few": (changed(optim="Adam"), "c.yaml: optim: must be one of SGD, AdamW ('Adam')"),
    "one of a few, active": (changed(active__schedule="linear"), "c.yaml: active.schedule: should be 'cosine' or 'constant' ('linear')"),
    "epochs": (changed(epoch=30, num_train_iter=20), "c.yaml: epoch: more epochs than iterations (30); at most num_train_iter, 20"),
    "no active block": (
        changed(active=...),
        "c.yaml: active: missing; the block that says what to label: initial, acquisition, cycles, budget (null)",
    ),
    "no cycles": (changed(active__cycles=...), "c.yaml: active.cycles: missing"),
    "no budget": (changed(active__budget=...), "c.yaml: active.budget: labels per cycle must be at least 1 (0)"),
    "no size": (
        changed(active__initial__size=...),
        "c.yaml: active.initial.size: missing; how many labels there are before the first training",
    ),
    "contradicting sizes": (
        changed(num_labels=40),
        "c.yaml: num_labels: contradicts active.initial.size (40 and 10); remove num_labels",
    ),
    "size of known labels": (
        changed(active__initial__name="toy_known"),
        "c.yaml: active.initial.size: 'toy_known' brings its own labels (10); remove size",
    ),
    "plugin that is no name": (changed(active__oracle=3), "c.yaml: active.oracle: must be a name, or a mapping with a name (3); "),
    "stream": (
        changed(active__acquisition="toy_apart", include_lb_to_ulb=True),
        "c.yaml: include_lb_to_ulb: 'toy_apart' needs false (true)",
    ),
    "update without a period": (
        changed(active__prior={"name": "toy_prior", "then": "update"}),
        "c.yaml: active.prior.then: update needs until_iter and update_every",
    ),
    "period without update": (
        changed(active__prior={"name": "toy_prior", "update_every": 3}),
        "c.yaml: active.prior.update_every: is read only with then: update (3)",
    ),
    "networks by name": (changed(net_from_name=True), "c.yaml: net_from_name: not supported (true); USB 0.3.2 cannot build"),
    "imbalance": (changed(imb_algorithm="darp"), "c.yaml: imb_algorithm: not supported ('darp'); USB's algorithms for imbalanced"),
    "imbalanced labels": (changed(lb_imb_ratio=100), "c.yaml: lb_imb_ratio: not supported (100); which samples are labelled"),
    "sampler": (changed(train_sampler="WeightedRandomSampler"), "c.yaml: train_sampler: not supported ('WeightedRandomSampler'); other"),
    "machines": (changed(world_size=2), "c.yaml: world_size: not supported (2); one machine"),
    "no weights": (changed(use_pretrain=True), "c.yaml: pretrain_path: missing, with use_pretrain: true"),
    "plugins": (changed(plugins="mine.py"), "c.yaml: plugins: must be a list of module names and .py files ('mine.py')"),
    "plugin module": (changed(plugins=["no_such_thing"]), "c.yaml: plugins: 'no_such_thing' does not import: ModuleNotFoundError: "),
    "plugin file": (changed(plugins=["/no/such.py"]), "c.yaml: plugins: no file /no/such.py"),
    "key twice": ("algorithm: fixmatch\nlr: 0.1\nlr: 0.2\n", "c.yaml, line 3, column 1: the key 'lr' stands here twice"),
    "key twice inside": ("active:\n  cycles: 1\n  cycles: 2\n", "c.yaml, line 3, column 3: the key 'cycles' stands here twice"),
    "no yaml": ("a: [1, 2\nb: 3\n", "c.yaml, line 2, column 2: while parsing a flow sequence expected ',' or ']', but got ':'"),
    "object": ("a: !!python/object/apply:os.getcwd []\n", "c.yaml, line 1, column 4: could not determine a constructor for the tag"),
    "no mapping": ("- 1\n", "c.yaml: must be a mapping of keys to values, not list"),
    "no text key": ("1: 2\n", "c.yaml: 1: keys must be texts"),
}


@pytest.mark.parametrize("case", WRONG)
def test_one_clear_line(case, tmp_path):
    data, expected = WRONG[case]
    message = error_of(data, tmp_path)
    assert len(message.splitlines()) == 1, message
    assert message == expected or message.startswith(expected), message


def test_all_problems_are_reported_at_once(tmp_path):
    lines = error_of(changed(batch_sise=4, uratio="7", active__bugdet=3, net="nothing"), tmp_path).splitlines()
    assert [line.split(": ")[1] for line in lines] == ["net", "batch_sise", "uratio", "active.bugdet"]


def test_missing_file_names_the_nearest(tmp_path):
    with pytest.raises(UsageError, match="^quikstart: no such file, and no packaged configuration has this name"):
        load_yaml_config("quikstart")
    with pytest.raises(UsageError, match="is a folder"):
        load_yaml_config(tmp_path)
    broken = tmp_path / "broken.yaml"
    broken.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="broken.yaml: cannot be read"):
        load_yaml_config(broken)


# --- --set --------------------------------------------------------------------------------------------------------------------


def test_overrides():
    config = build(["active.budget=50", "seed=3", "active.acquisition.alpha=0.1", "dataset.noise=2", "use_cat=false"])
    assert (config.active.budget, config.usb["seed"], config.active.acquisition.config.alpha) == (50, 3, 0.1)
    assert config.dataset.config.noise == 2.0 and config.usb["use_cat"] is False


def test_overrides_do_not_reach_into_nested_mappings_that_are_shared():
    data = base_config()
    inner = data["active"]
    apply_overrides(data, ["active.budget=50"])
    assert data["active"]["budget"] == 50 and inner["budget"] == 5


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("seed", "--set seed: must be key=value, as in active.budget=50"),
        (".seed=3", "--set .seed=3: must be key=value"),
        ("seed.x=3", "--set seed.x: seed is a int, it has no keys"),
        ("active.budget=[", "--set active.budget, line 1, column 2: while parsing"),
        ("active.bugdet=3", "--set: active.bugdet: unknown key; did you mean 'budget'?"),
    ],
)
def test_wrong_overrides(override, expected):
    data = base_config() | {"seed": 1}
    with pytest.raises(UsageError) as error:
        config_from_dict(data, base=Path(), source="c.yaml", overridden=apply_overrides(data, [override]))
    assert str(error.value).startswith(expected)


def test_merge_keys_are_no_duplicates():
    assert parse_yaml("a: &x {p: 1, q: 2}\nb: {<<: *x, p: 3}", "t")["b"] == {"p": 3, "q": 2}


# --- with the pool at hand -------------------------------------------------------------------------------------------------------


def test_budget_within_the_pool():
    # 10 initial + 2 cycles of 5 = 20.
    check_against_pool(build(), 20, 2)
    with pytest.raises(UsageError) as error:
        check_against_pool(build(), 19, 2)
    assert str(error.value) == (
        "c.yaml: active.budget: 10 initial + 2 cycles of 5 = 20 labels, but only 19 samples can be queried; at most 4 per cycle"
    )
    with pytest.raises(UsageError, match="active.initial.size: 10 labels wanted, but only 9 samples can be queried"):
        check_against_pool(build(), 9, 2)


def test_labels_per_class():
    config = build(["active.initial.name=toy_balanced"])
    check_against_pool(config, 100, 5, [50, 20, 20, 8, 2])
    with pytest.raises(UsageError, match=r"'toy_balanced' takes equally many of each class \(10 for 3\); it could be 9 or 12$"):
        check_against_pool(config, 100, 3, [50, 25, 25])
    with pytest.raises(UsageError, match="10 is 2 of each class, but class 4 has 1; at most 5$"):
        check_against_pool(config, 100, 5, [50, 20, 20, 9, 1])
