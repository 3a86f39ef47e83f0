"""YAMLs as USB's repository has them (same keys, other values) with an `active:` block: what runs, and the line for what does not."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import pytest
import yaml

from usb_active.builtin import _USB_NETWORKS
from usb_active.config.settings import config_from_dict, load_yaml_config
from usb_active.config.usb_keys import FIXED, IMB_ALGORITHMS, NEWER
from usb_active.contracts.registry import REGISTRY
from usb_active.environment.usb_names import DATASETS, NETWORKS, NEWER_ALGORITHMS, other_modality, why_not
from usb_active.errors import UsageError

HERE = Path(__file__).parents[1]
KINDS = HERE / "fixtures" / "usb_yamls" / "kinds"
ACTIVE = {"initial": {"name": "random"}, "acquisition": "margin", "cycles": 1, "budget": 10}
NOTHING_READS = "is read by nothing in USB 0.3.2; dropped"
NOT_READ = "of USB is not read; put its images into folders and give dataset: image_folder"
NEWER_USB = "is of a newer USB than 0.3.2, the release that usb-active runs on"
IMBALANCED = "USB's algorithms for imbalanced data are not supported"
NO_LABELS = "which samples are labelled is chosen by active.initial and active.acquisition"

DROPPED = {
    "use_refix": [f"clip: {NOTHING_READS}", f"use_refix: {NOTHING_READS}"],
    "epass_off": [f"clip: {NOTHING_READS}", "use_epass: is read by a newer USB than 0.3.2 alone; dropped"],
    "fullysupervised": [
        f"clip: {NOTHING_READS}",
        "active.cycles: 'fullysupervised' trains on all known labels, so that none is left to select (1); dropped",
    ],
}
REFUSED = {
    "epass": ["use_epass: not supported (true); the three projectors of EPASS need a newer USB than 0.3.2; false trains without them"],
    "newer_algorithm": [f"algorithm: 'refixmatch' {NEWER_USB}"],
    "newer_algorithm_unread_images": [f"dataset: 'eurosat' {NOT_READ}", f"algorithm: 'sequencematch' {NEWER_USB}"],
    "unread_images": [f"dataset: 'tissuemnist' {NOT_READ}"],
    "text": ["dataset: 'ag_news' of USB is text; only images are supported"],
    "text_newer_algorithm": ["dataset: 'yelp_review' of USB is text; only images are supported"],
    "audio": ["dataset: 'gtzan' of USB is audio; only images are supported"],
    "imbalanced": [
        f"imb_algorithm: not supported ('cossl'), nor are lb_imb_ratio, ulb_imb_ratio, ulb_num_labels and 9 more; {IMBALANCED}"
    ],
    "imbalanced_no_own_keys": [f"imb_algorithm: not supported ('adsh'), nor is lb_imb_ratio; {IMBALANCED}"],
    "imbalanced_unread_images": [
        f"imb_algorithm: not supported ('crest+'), nor are lb_imb_ratio, ulb_imb_ratio, crest_num_gens and 3 more; {IMBALANCED}"
    ],
    "imbalanced_labels": [f"lb_imb_ratio: not supported (25); {NO_LABELS}"],
    "not_yaml": [", line 6, column 1: while scanning a simple key could not find expected ':'"],
}


def with_block(name: str, tmp_path: Path) -> Path:
    """A fixture with an `active:` block at its end, as a user would write it."""
    path = tmp_path / "c.yaml"
    path.write_text((KINDS / f"{name}.yaml").read_text() + yaml.safe_dump({"active": ACTIVE}))
    return path


def test_every_kind_has_its_case():
    assert {path.stem for path in KINDS.glob("*.yaml")} == {*DROPPED, *REFUSED}


@pytest.mark.parametrize("name", DROPPED)
def test_what_nothing_reads_is_dropped_with_a_warning(name, tmp_path):
    path = with_block(name, tmp_path)
    config = load_yaml_config(path)
    assert [line.removeprefix(f"{path}: ") for line in config.warnings] == DROPPED[name]
    given = yaml.safe_load(path.read_text())
    assert config.usb["algorithm"] == given["algorithm"]
    assert not {"clip", "use_refix", "use_epass"} & set(config.usb)
    # What is left says the same again, without a word.
    again = config_from_dict(config.resolved(), base=tmp_path, source="")
    assert again == config and again.warnings == ()


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_run_is_refused_with_one_line_for_each_reason(name, tmp_path):
    path = with_block(name, tmp_path)
    with pytest.raises(UsageError) as error:
        load_yaml_config(path)
    assert [line.removeprefix(str(path)).removeprefix(": ") for line in str(error.value).splitlines()] == REFUSED[name]


def refused(**keys) -> list[str]:
    data = {"active": {**ACTIVE, "initial": {"name": "random", "size": 20}}, "dataset": "digits", **keys}
    with pytest.raises(UsageError) as error:
        config_from_dict(data, base=Path(), source="c")
    return [line.removeprefix("c: ") for line in str(error.value).splitlines()]


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        ({"algorithm": "multimatch"}, f"algorithm: 'multimatch' {NEWER_USB}"),
        ({"algorithm": "active_sequencematch"}, f"algorithm: 'sequencematch' {NEWER_USB}"),
        ({"algorithm": "sequencmatch"}, "algorithm: unknown algorithm 'sequencmatch'"),
        ({"net": "hubert_base"}, "net: 'hubert_base' reads audio; only images are supported"),
        ({"net": {"name": "bert_base_cased"}}, "net.name: 'bert_base_cased' reads text; only images are supported"),
        ({"dataset": {"name": "esc50"}, "net": "wave2vecv2_base"}, "dataset: 'esc50' of USB is audio; only images are supported"),
        ({"dataset": "imagenet"}, f"dataset: 'imagenet' {NOT_READ}"),
        ({"dataset": {"name": "semi_aves"}}, f"dataset.name: 'semi_aves' {NOT_READ}"),
        ({"use_epass": "yes"}, "use_epass: not supported ('yes'); the three projectors of EPASS need"),
        ({"use_epass": 0}, "use_epass: not supported (0); the three projectors of EPASS need"),
        ({"ulb_imb_ratio": -100}, "ulb_imb_ratio: not supported (-100); the pool is used as it is"),
        ({"darp_alpha": 2.0}, f"darp_alpha: not supported (2.0); {IMBALANCED}"),
        ({"imb_algorithm": "simis", "simis_la": True}, f"imb_algorithm: not supported ('simis'), nor is simis_la; {IMBALANCED}"),
        ({"lb_imb_ratio": "many"}, "lb_imb_ratio: must be an integer ('many' is a text)"),
    ],
)
def test_each_is_one_line_whatever_stands_beside_it(keys, line):
    (said,) = refused(**keys)
    assert said.startswith(line)


def test_neutral_values_are_no_imbalance():
    keys = {"imb_algorithm": "None", "lb_imb_ratio": 1.0, "ulb_imb_ratio": 1, "ulb_num_labels": None, "dataset": "digits"}
    config = config_from_dict({**keys, "active": {**ACTIVE, "initial": {"name": "random", "size": 20}}}, base=Path(), source="c")
    assert all(config.usb[name] == FIXED[name][0] for name in keys if name != "dataset") and config.warnings == ()


def test_a_data_set_that_is_registered_elsewhere_is_left_alone():
    assert other_modality({"dataset": "esc50"}, known=()) and not other_modality({"dataset": "esc50"}, known=["esc50"])
    assert other_modality({"dataset": 3}, ()) == other_modality({}, ()) == ""


def test_the_tables_are_usbs():
    """What USB has and the tables do not say would be called a misspelling; what they say and we have would be refused."""
    import semilearn.nets
    from semilearn.core.utils import IMB_ALGORITHMS as REAL_IMB
    from semilearn.imb_algorithms import get_imb_algorithm  # noqa: F401 — fills the registry

    nets = {name for name, value in vars(semilearn.nets).items() if callable(value) and not name.startswith("_")}
    assert nets <= set(_USB_NETWORKS) | NETWORKS["text"] | NETWORKS["audio"]
    assert {name.rstrip("+") for name in REAL_IMB.keys()} <= IMB_ALGORITHMS
    for name in REAL_IMB.keys():
        for argument in REAL_IMB[name].get_argument():
            assert argument.name.removeprefix("--").partition("_")[0] in IMB_ALGORITHMS, argument.name
    sources = "\n".join(path.read_text() for path in Path(semilearn.__file__).parent.rglob("*.py"))
    assert all(f"'{name}'" in sources or f'"{name}"' in sources for names in DATASETS.values() for name in names - {"semi_inat"})
    assert not any(f"args.{name}" in sources for name in NEWER)
    ours = {"algorithm": [NEWER_ALGORITHMS], "network": NETWORKS.values(), "dataset": DATASETS.values()}
    for kind, tables in ours.items():
        names = set().union(*tables)
        assert not names & set(REGISTRY.names(kind))
        assert all(why_not(kind, name) for name in names)


def test_the_counts_are_made_by_reason(tmp_path, capsys):
    """The script behind docs/usb_files.md, on the fixtures."""
    spec = importlib.util.spec_from_file_location("usb_yamls", HERE.parent / "benchmarks" / "usb_yamls.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    shutil.copytree(KINDS, tmp_path / "config" / "some" / "folder")
    script.main([str(tmp_path)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "15 files: 3 are accepted, 12 refused, 1 of these with more than one line."
    assert "| 2 | 1 | dataset: '…' of USB is text; only images are supported |" in lines
    assert "| 1 | 0 | accepted; dropped: clip, use\\_refix |" in lines
    assert "| 3 | 1 | imb\\_algorithm: not supported (…), nor …; USB's algorithms for imbalanced data are not supported |" in lines
    with pytest.raises(SystemExit, match="no YAML below config/"):
        script.main([str(tmp_path / "config")])
