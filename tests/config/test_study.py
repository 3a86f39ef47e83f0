"""A study's file: which cells it gives, what they are called, and that all that is wrong with it is said at once."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import pytest
import run_helpers
import yaml

from usb_active.config.settings import load_yaml_config
from usb_active.config.shared_pretraining import pretraining_key
from usb_active.config.study import is_cell_name, override_text, read_study
from usb_active.errors import UsageError
from usb_active.storage.yaml_input import STUDIES, apply_overrides, find_yaml, packaged_names

ROOT = Path(__file__).resolve().parents[2]
MATRIX = {"active.acquisition": ["random", "margin"], "active.budget": [5, 10]}


def write_study(tmp_path: Path, of_base: dict[str, Any] | None = None, **keys: Any) -> Path:
    """A study over a tiny run; `None` takes a key away. `of_base`: keys of the run."""
    data = run_helpers.settings(tmp_path)
    for key in ("save_dir", "save_name"):
        del data[key]
    run_helpers.write_yaml(tmp_path / "base.yaml", {**data, **(of_base or {})})
    study = {"base": "base.yaml", "matrix": MATRIX, "save_dir": str(tmp_path / "studies"), **keys}
    study = {key: value for key, value in study.items() if value is not None}
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(study, sort_keys=False), encoding="utf-8")
    return path


def places(path: Path) -> list[dict[str, Any]]:
    """The places of a study, each once, with short keys."""
    found = [{key.removeprefix("active."): value for key, value in cell.place.items()} for cell in read_study(path).cells]
    return [place for number, place in enumerate(found) if place not in found[:number]]


def refusal(path: Path, *overrides: str) -> list[str]:
    """The lines of what is wrong, without the study's path."""
    with pytest.raises(UsageError) as caught:
        read_study(path, overrides)
    return [line.removeprefix(f"{path}: ") for line in str(caught.value).splitlines()]


# ------------------------------------------------------------------------------------------------- cells


def test_every_combination_with_every_seed_is_a_run_of_its_own(tmp_path):
    study = read_study(write_study(tmp_path, seeds=[4, 2]))
    expected = [*itertools.product(["random", "margin"], [5, 10], [4, 2])]
    assert [(*cell.place.values(), cell.seed) for cell in study.cells] == expected
    assert study.name == "study" and study.folder == tmp_path / "studies/study"
    for cell, (rule, budget, seed) in zip(study.cells, expected, strict=True):
        assert cell.name == f"acquisition={rule},budget={budget},seed={seed}"
        assert cell.run_path == study.folder / cell.name == cell.config.run_path
        # What the command line makes of the overrides is the cell.
        config = load_yaml_config(study.base, cell.overrides)
        assert config.stored() == cell.config.stored()
        assert (config.active.acquisition.name, config.active.budget, config.usb["seed"]) == (rule, budget, seed)
        assert cell.trainings == 2


@pytest.mark.parametrize(("seeds", "expected"), [(3, [0, 1, 2]), ([7], [7]), (None, [3])])
def test_seeds(tmp_path, seeds, expected):
    study = read_study(write_study(tmp_path, matrix={"active.budget": [5]}, seeds=seeds))
    assert [cell.seed for cell in study.cells] == expected


def test_names_depend_on_the_cell_alone(tmp_path):
    small = read_study(write_study(tmp_path, seeds=1))
    large = read_study(write_study(tmp_path, matrix={**MATRIX, "active.budget": [3, 5, 10]}, seeds=2))
    assert {cell.name for cell in small.cells} < {cell.name for cell in large.cells}


def test_values_that_are_no_words_have_names_that_tell_them_apart(tmp_path):
    values = ["random", {"name": "random"}, {"name": "random", "features": "pretrain"}, "a/b", "a b", "1", 1, True, None, ["x"], "é" * 300]
    # Paths whose digests begin with the same six digits.
    values += [{"name": "file", "path": f"w{number}.pth"} for number in (535, 2013)] + [{"name": "x", 1: 2}, {"name": "x", "1": 2}]
    from usb_active.config.study import _cell_name

    names = [_cell_name({"active.acquisition": value}, 0) for value in values]
    assert len(set(names)) == len(names) and names[0] == "acquisition=random,seed=0"
    assert all(re.fullmatch(r"[\w.+=,~-]+", name) and len(name.encode()) < 200 and is_cell_name(name) for name in names)
    assert not any(map(is_cell_name, ["logs", "report", "seed", "my_seed=3", "seed=3,lr=1"]))


TEXTS = ["a,b=c", "yes", "1", "a: b", "# x", "...", "a\nb", ""]


@pytest.mark.parametrize("value", [*TEXTS, 1e-5, True, None, [1, "a"], {"name": "x", "k": [1]}])
def test_an_override_is_read_back_as_it_was(value):
    data: dict[str, Any] = {}
    text = override_text("a.b", value)
    assert apply_overrides(data, [text]) == ["a.b"]
    assert data == {"a": {"b": value}} and type(data["a"]["b"]) is type(value)


# ------------------------------------------------------------------------------------------------- include and exclude


def test_the_example_of_github_actions(tmp_path):
    # Its documentation's example of `include`: fruit [apple, pear] × animal [cat, dog].
    from usb_active.config.study import _extended

    matrix = [dict(zip(("fruit", "animal"), pair, strict=True)) for pair in itertools.product(["apple", "pear"], ["cat", "dog"])]
    include = [
        {"color": "green"}, {"color": "pink", "animal": "cat"}, {"fruit": "apple", "shape": "circle"}, {"fruit": "banana"},
        {"fruit": "banana", "animal": "cat"},
    ]  # fmt: skip
    assert [*_extended(matrix, include)] == [
        {"fruit": "apple", "animal": "cat", "color": "pink", "shape": "circle"},
        {"fruit": "apple", "animal": "dog", "color": "green", "shape": "circle"},
        {"fruit": "pear", "animal": "cat", "color": "pink"},
        {"fruit": "pear", "animal": "dog", "color": "green"},
        {"fruit": "banana"},
        {"fruit": "banana", "animal": "cat"},
    ]


def test_exclude_takes_away_what_has_all_its_values(tmp_path):
    path = write_study(tmp_path, exclude=[{"active.acquisition": "random", "active.budget": 10}])
    margin = [{"acquisition": "margin", "budget": 5}, {"acquisition": "margin", "budget": 10}]
    assert places(path) == [{"acquisition": "random", "budget": 5}, *margin]
    assert places(write_study(tmp_path, exclude=[{"active.acquisition": "random"}])) == margin


def test_what_is_excluded_can_be_included_otherwise(tmp_path):
    one = {"active.acquisition": "random", "active.budget": 10}
    path = write_study(tmp_path, exclude=[{"active.acquisition": "random"}], include=[{**one, "num_train_iter": 8}])
    assert places(path)[-1] == {"acquisition": "random", "budget": 10, "num_train_iter": 8} and len(places(path)) == 3


def test_a_study_of_includes_alone(tmp_path):
    path = write_study(tmp_path, matrix=None, include=[{"active.budget": 3}, {"active.budget": 4, "lr": 0.01}])
    assert places(path) == [{"budget": 3}, {"budget": 4, "lr": 0.01}]


# ------------------------------------------------------------------------------------------------- what is refused


def test_all_that_is_wrong_with_a_study_is_said_at_once(tmp_path):
    matrix = {"active.budget": [], "seed": [1], "lr": 0.1}
    lines = refusal(write_study(tmp_path, base_yaml="x", matrix=matrix, seeds=[1, 1], name="a/b", exclude={"a": 1}))
    keys = ["base_yaml", "name", "matrix.active.budget", "matrix.seed", "matrix.lr", "exclude", "seeds"]
    assert [line.partition(": ")[0] for line in lines] == keys
    assert lines[0] == "base_yaml: unknown key; did you mean 'base'?"
    assert lines[2] == "matrix.active.budget: an empty list; give at least one value"


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"matrix": {}}, "matrix: empty; keys with lists of values"),
        ({"matrix": None}, "matrix: missing; keys with lists of values"),
        ({"base": None}, "base: missing; a YAML's path from the study's folder"),
        ({"base": "quickstrat"}, "base: quickstrat: no such file in "),
        ({"seeds": 0}, "seeds: must be a list of seeds, or how many (0)"),
        ({"seeds": [True]}, "seeds: must be a list of seeds"),
        ({"exclude": [{"active.budgte": 5}]}, "exclude[0].active.budgte: no key of the matrix; did you mean 'active.budget'?"),
        ({"exclude": [{"active.budget": 7}]}, "exclude[0]: no combination of the matrix has these values"),
        ({"exclude": [{"active.budget": 5}, {"active.budget": 10}]}, "exclude: nothing is left of the matrix"),
        ({"include": [{"save_name": "x"}]}, "include[0].save_name: every cell has its own"),
        ({"matrix": {"net.width": [4], "net": ["small_cnn"]}}, "net: comes after net.width, and would replace it; put it first"),
        ({"matrix": {"lr": [*range(200)], "ema_m": [*range(200)]}}, "matrix: 40,000 combinations; a study has at most 10,000 cells"),
        ({"matrix": {"lr": [*range(10_000)]}, "include": [{"active.budget": 1, "lr": -1}], "seeds": None},
         "10,001 cells; a study has at most 10,000"),
        ({"matrix": {"active.acquisition": [{"name": "margin", 1: 2}]}, "seeds": 1}, "active.acquisition"),
    ],
)
def test_one_mistake_is_one_line(tmp_path, keys, expected):
    (line,) = refusal(write_study(tmp_path, **keys))
    assert line.startswith(expected)


def test_values_that_a_run_refuses_are_said_with_their_cells(tmp_path):
    path = write_study(tmp_path, matrix={"active.acquisition": ["margin", "margn"], "active.budget": [5, -5]}, seeds=1)
    assert refusal(path) == [
        "active.budget: should be greater than or equal to 0 (-5) "
        "(in acquisition=margin,budget=-5,seed=0, acquisition=margn,budget=-5,seed=0)",
        "active.acquisition: unknown acquisition 'margn'; did you mean 'margin'? "
        "(in acquisition=margn,budget=5,seed=0, acquisition=margn,budget=-5,seed=0)",
    ]


def test_what_is_wrong_with_the_base_is_said_once(tmp_path):
    assert refusal(write_study(tmp_path, {"lr": -1}, seeds=2)) == ["base.yaml: lr: must be in (0, inf) (-1)"]


@pytest.mark.parametrize("values", [["margin", {"name": "margin"}], ["random", "random"]])
def test_two_cells_that_are_one_run_are_refused(tmp_path, values):
    (line,) = refusal(write_study(tmp_path, matrix={"active.acquisition": values}))
    assert line.startswith("two cells are the same run: acquisition=")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("seed=3", "--set seed: every cell has its own; give `seeds:`"),
        ("active.budget=3", "--set active.budget: the study varies active.budget itself"),
        ("active.acquisition.k=3", "--set active.acquisition.k: the study varies active.acquisition itself"),
        ("lr=-1", "--set: lr: must be in (0, inf) (-1)"),
    ],
)
def test_what_the_command_line_may_not_give(tmp_path, override, expected):
    assert refusal(write_study(tmp_path), override) == [expected]


def test_the_command_line_is_put_over_the_base_of_every_cell(tmp_path):
    study = read_study(write_study(tmp_path, matrix={"net.width": [4, 8]}), ["net=small_cnn", "lr=0.25"])
    assert [(cell.config.usb["lr"], cell.config.net.config.width) for cell in study.cells] == [(0.25, 4), (0.25, 8)]


def test_a_run_is_no_study_and_a_study_no_run(tmp_path):
    path = write_study(tmp_path)
    with pytest.raises(UsageError, match="is the configuration of a run .*, no study"):
        read_study(tmp_path / "base.yaml")
    with pytest.raises(UsageError, match="matrix: unknown key"):
        load_yaml_config(path)
    with pytest.raises(UsageError, match="no such file, and no packaged study has this name; did you mean 'digits'"):
        read_study("digts")


# ------------------------------------------------------------------------------------------------- what is packaged

SHIPPED = sorted((ROOT / "yaml_configs" / STUDIES).glob("*.yaml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_packaged_studies_are_valid_and_say_what_they_are(path):
    assert re.match(r"# \S.{20,}\n", path.read_text(encoding="utf-8"))
    for name in (path.stem, f"{STUDIES}/{path.stem}", str(path)):
        assert len(read_study(name).cells) > 1


def test_studies_are_no_packaged_configurations():
    assert SHIPPED and not [name for name in packaged_names() if name.startswith(STUDIES)]
    with pytest.raises(UsageError, match="no packaged configuration has this name"):
        find_yaml("studies/digits")


def test_the_study_of_the_guide_is_the_packaged_one():
    text = (ROOT / "docs/sweeps.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```yaml\n# a study\n(.*?)```", text, re.DOTALL)
    assert block == "".join((ROOT / "yaml_configs/studies/digits.yaml").read_text(encoding="utf-8").splitlines(keepends=True)[1:])


def test_the_guide_lists_what_is_packaged_and_how_many_runs_it_is():
    rows = re.findall(r"^- `(\w+)` \((\d+) runs\)", (ROOT / "docs/sweeps.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(rows) == sorted((path.stem, str(len(read_study(path).cells))) for path in SHIPPED)


@pytest.mark.parametrize(("name", "pretrained"), [("jlp", 10), ("as3l", 29), ("as3l_oracle", 5)])
def test_of_a_seed_all_cells_of_a_packaged_study_share_one_pretraining(name, pretrained):
    keys: dict[int, list[str]] = {}
    for cell in read_study(name).cells:
        if key := pretraining_key(cell.config):
            keys.setdefault(cell.seed, []).append(key)
    assert sorted(keys) == [0, 1, 2, 3, 4]
    assert all(len(found) == pretrained and len(set(found)) == 1 for found in keys.values())
    assert len({found[0] for found in keys.values()}) == 5
