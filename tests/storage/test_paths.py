"""`~` in every path, paths that mean the same from anywhere, and what people write for a sample's key."""

from __future__ import annotations

import io
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from run_helpers import config_of, settings, write_yaml

from usb_active import cli
from usb_active.builtin.label_file import RowProblems, read_known_labels, read_sheet
from usb_active.commands.labels import correct
from usb_active.config.settings import config_from_dict, load_yaml_config
from usb_active.contracts.task import Classification
from usb_active.errors import UsageError
from usb_active.records import LABELED, LabelRow, Query
from usb_active.storage.paths import absolute, user_path
from usb_active.storage.run_dir import RunDir
from usb_active.storage.sample_keys import KeyFinder


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


# --- home folders ------------------------------------------------------------------------------------------------


def test_a_tilde_is_the_home_folder(home, tmp_path):
    assert user_path("~/runs") == home / "runs" and user_path("~") == home
    assert user_path("a~/b") == Path("a~/b") and user_path("./~x") == Path("~x")
    with pytest.raises(UsageError, match="there is no such user; for a folder here write ./~nobody-of-this-name/x"):
        user_path("~nobody-of-this-name/x")
    assert absolute("runs/../x") == str(tmp_path / "x")
    assert absolute("~/x") == str(home / "x")
    assert (absolute(""), absolute("https://a.b/c.pth")) == ("", "https://a.b/c.pth")


def test_every_path_of_a_yaml_takes_it(home, tmp_path):
    (home / "plugin.py").write_text("X = 1\n", encoding="utf-8")
    for name in ("labels.csv", "f.npy"):
        (home / name).write_bytes(b"")
    active = {"initial": {"name": "file", "path": "~/labels.csv"}, "cycles": 0, "features": {"name": "file", "path": "~/f.npy"}}
    data = settings(tmp_path, active=active, data_dir="~/data", pretrain_path="~/w.pth", plugins=["~/plugin.py"])
    config = config_of({**data, "save_dir": "~/runs"})
    assert config.run_path == home / "runs/run"
    assert (config.usb["data_dir"], config.usb["pretrain_path"]) == (str(home / "data"), str(home / "w.pth"))
    assert config.plugins == (str(home / "plugin.py"),)
    assert config.active.initial.config.path == home / "labels.csv"
    assert config.active.features.config.path == home / "f.npy"
    path = write_yaml(home / "c.yaml", {**data, "save_dir": "~/runs"})
    assert path.is_file() and load_yaml_config("~/c.yaml").run_path == home / "runs/run"


@pytest.mark.parametrize(
    ("changed", "where"),
    [
        ({"save_dir": "~nobody-of-this-name/x"}, "save_dir"),
        ({"data_dir": "~nobody-of-this-name/x"}, "data_dir"),
        ({"pretrain_path": "~nobody-of-this-name/x"}, "pretrain_path"),
        ({"active": {"initial": {"name": "file", "path": "~nobody-of-this-name/x"}, "cycles": 0}}, "active.initial.path"),
        ({"plugins": ["~nobody-of-this-name/x.py"]}, ""),
    ],
)
def test_a_user_that_there_is_not_is_named_with_the_key(home, tmp_path, changed, where):
    with pytest.raises(UsageError) as caught:
        config_of({**settings(tmp_path), **changed})
    message = str(caught.value)
    assert message.startswith(f"test.yaml: {where}: ~nobody" if where else "test.yaml: ~nobody")
    assert "\n" not in message


@pytest.mark.parametrize("command", [["labels", "~/run"], ["report", "~/run"], ["predict", "~/run"]])
def test_runs_are_found_in_the_home_folder(home, command, capsys):
    assert cli.main(command) == 2
    assert f"{home / 'run'} is not a run directory" in capsys.readouterr().err


def test_options_take_it_too(home, capsys):
    args = cli.build_parser().parse_args(["report", "x", "--out=~/out"])
    assert args.out == home / "out"
    assert cli.build_parser().parse_args(["predict", "x", "--data=~/in"]).data == home / "in"
    with pytest.raises(SystemExit):
        cli.build_parser().parse_args(["predict", "x", "--data=~nobody-of-this-name"])
    assert "there is no such user" in capsys.readouterr().err


def test_what_a_run_keeps_means_the_same_from_anywhere(home, tmp_path):
    config = config_of({**settings(tmp_path), "save_dir": "runs", "data_dir": "./data"})
    stored = config.stored()
    assert (stored["save_dir"], stored["data_dir"], stored["pretrain_path"]) == (str(tmp_path / "runs"), str(tmp_path / "data"), "")
    assert config.run_path == Path("runs/run")
    again = config_from_dict(stored, base=Path("/"), source="config.yaml")
    assert again.stored() == stored


# --- keys of samples ---------------------------------------------------------------------------------------------

COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))
KEYS = ["train/cat/1.png", "train/dog/1.png", "unlabeled/a b.png", "unlabeled/deep/2.png", f"unlabeled/{DECOMPOSED}.png", "plain"]
SPELLINGS = [
    ("train/cat/1.png", 0),
    ("./train/cat/1.png", 0),
    ("train//cat/../cat/1.png", 0),
    (r"train\dog\1.png", 1),
    (r".\train\dog\1.png", 1),
    ("/home/me/photos/train/dog/1.png", 1),
    (r"C:\Users\me\photos\train\dog\1.png", 1),
    ("photos/train/cat/1.png", 0),
    ("a b.png", 2),
    ("./a b.png", 2),
    ("2.png", 3),
    (f"{COMPOSED}.png", 4),
    (f"unlabeled/{COMPOSED}.png", 4),
    ("/somewhere/plain", 5),
    ("1.png", None),  # of two
    ("cat/1.png", None),  # neither a key nor a bare name
    ("somewhere/plain", None),
    ("train/cat", None),
    ("", None),
    ("/", None),
    ("..", None),
]


@pytest.mark.parametrize(("text", "index"), SPELLINGS)
def test_a_key_is_understood_as_it_is_written(text, index):
    assert KeyFinder(dict(enumerate(KEYS))).find(text) == index


@pytest.mark.parametrize(("text", "index"), [(text, index) for text, index in SPELLINGS if text])
def test_keys_of_label_files(tmp_path, text, index):
    path = tmp_path / "labels.csv"
    path.write_text(f'key,label\n"{text}",dog\n', encoding="utf-8")
    problems = RowProblems()
    query = Query(0, np.arange(len(KEYS)), tuple(KEYS), "random", ("cat", "dog"))
    found = read_sheet(path, query, problems).labels
    if index is None:
        assert found == {} and problems.count == 1 and "key is not in this query" in problems.lines[0]
        with pytest.raises(UsageError, match="key is not in the pool"):
            read_known_labels(path, KEYS, Classification(("cat", "dog")))
        return
    assert found == {index: 1} and problems.count == 0
    assert read_known_labels(path, KEYS, Classification(("cat", "dog"))) == {index: 1}
    # Beside an index, the key must be that of the same sample, in whatever spelling.
    path.write_text(f'index,key,label\n{index},"{text}",dog\n', encoding="utf-8")
    assert read_sheet(path, query, problems).labels == {index: 1}
    path.write_text(f'index,key,label\n{(index + 1) % 6},"{text}",dog\n', encoding="utf-8")
    assert read_sheet(path, query, problems).labels == {}
    assert "key does not agree" in problems.lines[0]


@pytest.mark.parametrize(("text", "index"), [(text, index) for text, index in SPELLINGS if index is not None])
def test_keys_of_corrections(tmp_path, capsys, text, index):
    name = f"caf{COMPOSED}"
    with RunDir.open(tmp_path / "run", {"seed": 1}) as run:
        run.write_keys(KEYS)
        run.save_query(Query(0, np.arange(len(KEYS)), tuple(KEYS), "random", ("cat", name)))
        run.append_rows([LabelRow(0, i, key, "cat", LABELED, "random", "2024-05-01T12:00:00+00:00") for i, key in enumerate(KEYS)])
    correct(tmp_path / "run", [f"{text}=caf{DECOMPOSED}"], [], out := io.StringIO())
    assert out.getvalue() == f"{KEYS[index]}: cat -> {name}\n"
    row = RunDir.read(tmp_path / "run").rows()[-1]
    assert (row.index, row.key, row.label) == (index, KEYS[index], name)
    correct(tmp_path / "run", [], [text], io.StringIO())
    assert RunDir.read(tmp_path / "run").rows()[-1].index == index
