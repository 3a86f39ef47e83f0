"""`usb-active init`: what it finds in a folder, what it writes, and that it runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from image_makers import bar, save, write_drawings, write_photos
from run_helpers import write_yaml

from usb_active import cli
from usb_active.commands import init_plan as plan
from usb_active.commands.init_yaml import commented
from usb_active.config.recipes import Length, shipped_recipes
from usb_active.config.settings import load_yaml_config
from usb_active.errors import UsageError
from usb_active.storage.run_dir import RunDir


@pytest.fixture
def do(tmp_path, monkeypatch, capsys):
    """A command in the folder of the test: its exit code, what it printed, and its errors."""
    monkeypatch.chdir(tmp_path)

    def command(*arguments):
        code = cli.main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return command


def written(tmp_path, name="photos"):
    return yaml.safe_load((tmp_path / f"{name}.yaml").read_text(encoding="utf-8"))


# ------------------------------------------------------------------------------------------------- whole folders


@pytest.mark.slow
def test_drawings_end_well(tmp_path, do):
    write_drawings(tmp_path / "bars", train=180, test=30)
    code, out, err = do("init", "bars", "--simulate", "--labels", 12)
    assert code == 0, err
    assert "540 images to train on, the folders answer; 90 to test; 12 pixels, grey" in out
    assert "classes: 3 (across, dot, down)" in out and "kind: drawings (" in out and "recipe: drawings, " in out
    assert out.endswith("Next:\n\n  usb-active run bars.yaml\n")
    data = written(tmp_path, "bars")
    assert data["dataset"]["flip"] is False and data["dataset"]["in_channels"] == 1 and data["img_size"] == 12
    assert (data["active"]["initial"]["size"], data["active"]["cycles"], data["active"]["oracle"]) == (12, 0, "dataset")
    assert data["active"]["initial"]["name"] == "typiclust"
    assert do("check", "bars.yaml")[0] == 0
    code, out, err = do("run", "bars.yaml")
    assert code == 0 and "warning" not in err, err
    accuracy = RunDir.read(tmp_path / "runs/bars").metrics()[0]["accuracy"]
    # A third is the majority's; every label counts here.
    assert accuracy > 0.6
    # As many again, from there: what asks for them has been in the file from the beginning.
    code, out, err = do("run", "bars.yaml", "--set", "active.cycles=1")
    assert code == 0 and "warning" not in err, err
    assert [line["num_labels"] for line in RunDir.read(tmp_path / "runs/bars").metrics()] == [12, 24]


@pytest.mark.slow
def test_photos_are_mirrored_and_trained_in_cycles(tmp_path, do):
    write_photos(tmp_path / "places", train=40)
    code, out, err = do("init", "places", "--simulate", "--labels", 26, "--minutes", 0.01)
    assert code == 0, err
    assert "80 images to train on" in out and "in colour" in out and "kind: photos (" in out
    assert "no test/<class>/: accuracy is not measured; active.audit: 100 " in out
    data = written(tmp_path, "places")
    recipe = shipped_recipes()["photos_pixels"]
    assert data["dataset"]["flip"] is True and data["dataset"]["in_channels"] == 3 and data["algorithm"] == recipe.config["algorithm"]
    # 26 labels of two classes are more than ten of each: 11 first, and three times 5.
    active = data["active"]
    assert (active["initial"]["size"], active["cycles"], active["budget"]) == (11, 3, 5)
    assert data["num_train_iter"] == recipe.keys.length.least and "longer than asked" in out
    assert data["batch_size"] == 8
    # The average of the last steps fits the training, and nothing warns.
    assert 1 / (1 - data["ema_m"]) <= data["num_train_iter"] / 10 + 1e-6 and not err
    assert do("check", "places.yaml")[0] == 0


@pytest.mark.slow
def test_people_are_asked_and_labels_that_exist_are_kept(tmp_path, do):
    write_drawings(tmp_path / "bars", train=4, unlabeled=60)
    code, out, err = do("init", "bars", "--labels", 9, "--out", "mine.yaml")
    assert code == 0, err
    assert "12 with a label" in out
    active = written(tmp_path, "mine")["active"]
    assert active["initial"] == "known" and (active["cycles"], active["budget"], active["oracle"]) == (1, 9, "csv")
    assert "  usb-active run mine.yaml --label " in out
    code, out, _ = do("run", "mine.yaml")
    assert code == cli.WAITING and "9 of 9 labels are missing" in out


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(shipped_recipes()))
def test_every_shipped_recipe_passes_check(tmp_path, do, name):
    recipe = shipped_recipes()[name]
    if recipe.install_hint():
        pytest.skip(recipe.install_hint())
    write_drawings(tmp_path / "bars", unlabeled=90)
    code, out, err = do("init", "bars", "--classes", "across,down,dot", "--recipe", name, "--labels", 9)
    assert code == 0, err
    assert f"recipe: {name}, " in out
    code, out, err = do("check", "bars.yaml")
    assert code == 0 and not err
    assert written(tmp_path, "bars")["dataset"]["class_names"] == ["across", "down", "dot"]


@pytest.mark.slow
def test_more_time_is_a_longer_training_up_to_what_gains(tmp_path, do):
    write_drawings(tmp_path / "bars", unlabeled=90)
    classes = ("--classes", "across,down,dot", "--labels", 6)
    lengths = []
    for minutes in (0.05, 1000):
        code, out, err = do("init", "bars", *classes, "--minutes", minutes, "--force")
        assert code == 0, err
        lengths.append(written(tmp_path, "bars")["num_train_iter"])
    length = shipped_recipes()["drawings_flexmatch"].keys.length
    assert length.least <= lengths[0] < lengths[1] == length.most and f"{length.most} are the most that this recipe takes" in out


@pytest.mark.slow
def test_a_recipe_of_ones_own(tmp_path, do):
    write_drawings(tmp_path / "bars", unlabeled=30)
    config = {
        "algorithm": "supervised", "net": {"name": "small_cnn", "width": 2}, "num_train_iter": 20, "img_size": 8, "num_workers": 0,
        "ema_m": 0.5, "active": {"initial": "random", "acquisition": "random", "threads": 1},
    }  # fmt: skip
    block = {"title": "mine", "condition": {"kinds": ["photos"]}, "evidence": "none", "normalization": "imagenet"}
    write_yaml(tmp_path / "mine.yaml", {"recipe": block, "config": config})
    code, out, err = do("init", "bars", "--classes", "a,b", "--labels", 4, "--recipe", "mine.yaml", "--minutes", 3)
    assert code == 0, err
    assert "asked for, though it is for photos" in out and "timing" not in out and "--minutes is not used: " in out
    data = written(tmp_path, "bars")
    assert data["img_size"] == 8 and data["num_train_iter"] == 20 and "mean" not in data["dataset"]


@pytest.mark.slow
def test_the_kind_that_was_said_counts_and_tested_classes_need_not_be_said(tmp_path, do):
    write_drawings(tmp_path / "bars", unlabeled=30, test=2)
    code, out, err = do("init", "bars", "--labels", 4, "--kind", "photos")
    assert code == 0, err
    dataset = written(tmp_path, "bars")["dataset"]
    assert "kind: photos, as --kind says" in out and dataset["flip"] is True and "none with a label; 6 to test" in out
    assert dataset["class_names"] == ["across", "dot", "down"]


# ------------------------------------------------------------------------------------------------- refusals


def bars(tmp_path, **counts):
    return write_drawings(tmp_path / "bars", **counts)


@pytest.mark.parametrize(
    ("counts", "arguments", "said"),
    [
        ({"unlabeled": 9}, [], "--classes: needed, because bars/train has no class folders; as in --classes cat,dog"),
        ({"unlabeled": 9}, ["--classes", "a"], "--classes: at least two names, with commas between them"),
        ({"unlabeled": 9}, ["--classes", "a,,b"], "--classes: at least two names"),
        ({"unlabeled": 9}, ["--classes", "a,b,a"], "--classes: named twice: a"),
        ({"unlabeled": 9}, ["--classes", "a,b", "--labels", 9], "--labels: 9, but only 8 images can be labelled"),
        ({"unlabeled": 9}, ["--classes", "a,b,c", "--labels", 2], "--labels: 2 for 3 classes; at least 3, one of each"),
        ({"unlabeled": 9}, ["--classes", "a,b", "--simulate"], "--simulate: the classes in train/<class>/ answer, and bars/train has no"),
        ({"train": 3}, [], "bars: all 9 images lie in train/<class>/, so that no label is left to ask for; --simulate has"),
        ({"train": 3}, ["--simulate", "--labels", 9], "--labels: 9, but only 8 images can be labelled"),
        ({"train": 3}, ["--classes", "across,down"], "class folders that class_names does not have: dot"),
        ({"train": 3}, ["--simulate", "--labels", 3], "at least 500 images, there are 9; it wants at least 6 labels, not 3; drawings_fl"),
        ({"train": 3}, ["--simulate", "--recipe", "nothing"], "--recipe: unknown recipe 'nothing'"),
        ({"train": 3}, ["--simulate", "--recipe", "no.yaml"], "--recipe: there is no file no.yaml"),
        ({"train": 3}, ["--simulate", "--out", "a/b.yaml"], "--out: a/b.yaml is in a folder that is not there"),
        ({"train": 3}, ["--simulate", "--out", "bars"], "--out: bars is a folder"),
    ],
)
def test_what_cannot_be_is_one_line_and_nothing_is_written(tmp_path, do, counts, arguments, said):
    bars(tmp_path, **counts)
    code, out, err = do("init", "bars", *arguments)
    assert code == cli.WRONG_USE and said in err and err.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bars"]


def test_folders_that_hold_no_pool_are_told_what_is_missing(tmp_path, do):
    (tmp_path / "empty").mkdir()
    for path in ("flat/a.png", "classes/cat/a.png"):
        save(bar("dot", np.random.default_rng(0)), tmp_path / path)
    for folder, said in (
        ("nowhere", "nowhere is not a folder"),
        ("empty", "empty has no image in it, nor a folder unlabeled/ or train/<class>/"),
        ("flat", "flat has 1 images, but neither unlabeled/ nor train/<class>/; move them into flat/unlabeled"),
        ("classes", "move folders of classes into classes/train, images of unknown class into classes/unlabeled"),
    ):  # fmt: skip
        code, _, err = do("init", folder)
        assert code == cli.WRONG_USE and said in err and err.count("\n") == 1


def test_a_file_that_is_there_is_kept(tmp_path, do):
    bars(tmp_path, train=3)
    (tmp_path / "bars.yaml").write_text("mine")
    code, _, err = do("init", "bars", "--simulate")
    assert code == cli.WRONG_USE and "bars.yaml is there already; --force overwrites it, --out writes another file" in err
    assert (tmp_path / "bars.yaml").read_text() == "mine"


@pytest.mark.parametrize("arguments", [["--labels", "0"], ["--labels", "x"], ["--minutes", "nan"], ["--minutes", "-1"], ["--kind", "cats"]])
def test_numbers_that_are_none_are_refused_by_the_command_line(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.build_parser().parse_args(["init", "x", *arguments])
    assert stop.value.code == 2


def test_without_a_folder_it_asks_for_one(do):
    code, _, err = do("init")
    assert code == cli.WRONG_USE and "usb-active init --list" in err


def test_a_recipe_that_is_not_installed_is_refused_with_the_way_to_it(tmp_path, do):
    bars(tmp_path, train=3)
    needs = {"modules": ["no_such_package_x"], "install": "pip install x"}
    block = {"title": "t", "condition": {"kinds": ["drawings"], "needs": needs}, "evidence": "e"}
    config = {"algorithm": "supervised", "active": {"initial": "random", "acquisition": "random"}}
    write_yaml(tmp_path / "far.yaml", {"recipe": block, "config": config})
    code, _, err = do("init", "bars", "--simulate", "--recipe", "far.yaml")
    assert code == cli.WRONG_USE and "recipe 'far': it needs the package no_such_package_x, which is not installed: pip install x" in err


# ------------------------------------------------------------------------------------------------- the list


def test_the_list_shows_what_each_recipe_is_for_and_rests_on(do):
    code, out, _ = do("init", "--list")
    assert code == 0
    for name, recipe in shipped_recipes().items():
        assert f"{name}: {recipe.keys.title}\n" in out and recipe.keys.evidence in out and recipe.condition() in out


@pytest.mark.parametrize("arguments", [["--list"], ["--help"]])
def test_list_and_help_are_light(arguments):
    code = (
        "import sys\nfrom usb_active import cli\n"
        f"try: cli.main(['init', *{arguments!r}])\nexcept SystemExit: pass\n"
        "print(sorted(set(sys.modules) & {'torch', 'semilearn', 'sklearn'}))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.endswith("[]\n") and ("drawings" in out)


# ------------------------------------------------------------------------------------------------- what it decides


@pytest.mark.parametrize(
    ("labels", "classes", "known", "found"),
    [
        (40, 10, 0, (40, 0, 40)), (100, 10, 0, (100, 0, 100)), (101, 10, 0, (50, 3, 17)), (200, 10, 0, (50, 3, 50)),
        (1000, 10, 0, (250, 3, 250)), (23, 2, 0, (11, 3, 4)), (9, 3, 12, (0, 1, 9)), (60, 3, 12, (0, 3, 20)), (31, 3, 12, (0, 1, 31)),
        (0, 3, 12, (0, 0, 3)),
    ],
)  # fmt: skip
def test_labels_are_divided(labels, classes, known, found):
    division = plan.divide(labels, classes, known)
    assert (division.first, division.cycles, division.budget) == found
    assert division.first + division.cycles * division.budget == labels and division.why


def test_labels_unless_said():
    assert plan.labels_to_ask(None, 10, 0, 4000) == 40
    assert plan.labels_to_ask(None, 10, 0, 15) == 15
    assert plan.labels_to_ask(1, 10, known=20, most=5) == 1
    with pytest.raises(UsageError):
        plan.labels_to_ask(9, 10, 0, 100)


@pytest.mark.parametrize(
    ("side", "most", "found"),
    [(28, 20, 14), (32, 20, 16), (20, 20, 20), (8, 20, 8), (80, 20, 20), (81, 20, 20), (683, 40, 40), (224, None, 224)],
)
def test_images_are_halved_or_made_as_small(side, most, found):
    assert plan.trained_side(side, most)[0] == found


@pytest.mark.parametrize(("wanted", "labels", "found"), [(32, 40, 32), (32, 31, 16), (16, 9, 8), (16, 2, 4), (8, 100, 8)])
def test_batches_fit_the_labels(wanted, labels, found):
    assert plan.batch_size(wanted, labels) == found


def test_units_are_what_the_time_allows_within_bounds():
    steps, epochs = (Length(key=key, least=20, most=100, trial=2) for key in ("num_train_iter", "epoch"))
    assert plan.units(steps, 50, None, 1.0) == 50
    assert plan.units(epochs, 50, 61.0, 1.0) == 61 and plan.units(steps, 50, 61.0, 1.0) == 60
    assert plan.units(steps, 50, 1.0, 1.0) == 20 and plan.units(steps, 50, 1e9, 1.0) == 100
    assert plan.units(steps, 50, -5.0, 0.0) == 20


def test_a_run_gets_a_name_of_its_own(tmp_path):
    folder = tmp_path / "my photos"
    folder.mkdir()
    assert plan.run_name(folder, tmp_path / "runs") == plan.folder_name(folder) == "my photos"
    (tmp_path / "link").symlink_to(folder)
    assert plan.folder_name(tmp_path / "link") == "link" and plan.folder_name(Path("/")) == "images"
    for name in ("my photos", "my photos_2"):
        (tmp_path / "runs" / name).mkdir(parents=True)
    assert plan.run_name(folder, tmp_path / "runs") == "my photos_3"


def test_the_text_reads_back_as_what_was_meant(tmp_path):
    data = {
        "algorithm": "fixmatch", "dataset": {"name": "image_folder", "class_names": ["yes", "no", "1e3", "a, b", "é"], "flip": False},
        "lr": 0.03, "net": {"name": "small_cnn", "width": 4}, "data_dir": "a: b",
        "active": {"initial": {"name": "random", "size": 3}, "cycles": 0},
    }  # fmt: skip
    why = {"algorithm": "a\nb", "lr": "x" * 200, "active.cycles": "none", "dataset.class_names": "as said # twice"}
    text = commented(data, why, ["one", "two\nthree"])
    assert yaml.safe_load(text) == data and json.dumps(data)
    assert text.startswith("# one\n# two\\nthree\n") and "# a\\nb" in text and "  # none" in text
    (tmp_path / "a.yaml").write_text(text, encoding="utf-8")
    assert load_yaml_config(tmp_path / "a.yaml").usb["lr"] == 0.03
