"""`labels --import` and `--export`: what one run knows, another one knows after a round trip; and nothing is taken from a file in parts."""

from __future__ import annotations

import json

import numpy as np
import pytest
import run_helpers
from data_makers import write_folder
from human_desk import Desk

from usb_active import cli
from usb_active.records import LabelRow, Query, status_of
from usb_active.storage.labels_in_force import labels_in_force
from usb_active.storage.run_dir import RunDir

NAMES = ("cat", "a & <b>", "é")
# With what markup, addresses and spreadsheets take for something else.
KEYS = ("u/img 1.png", "u/=2.png", 'u/"3"&<.png', "v/img 1.png", "u/ü?d=5.png", "u/6", "u/7.png", "u/8.png")
FORMATS = ("csv", "label-studio", "cvat")


def row(index, label, method="random"):
    return LabelRow(0, index, KEYS[index], label or "", status_of(label), method, "2024-05-01T12:00:00+00:00")


def make(path, *rows, keys=KEYS, names=NAMES):
    """A run that waits for samples 0 to 5, with these rows."""
    with RunDir.open(path, {}) as run:
        run.write_json("dataset.json", {"img_size": 8, "in_channels": 1, "class_names": list(names), "run": path.name})
        run.write_keys(list(keys))
        run.save_query(Query(0, np.arange(6), tuple(keys[:6]), "random", names))
        run.append_rows(rows)
    return path


@pytest.fixture
def full(tmp_path):
    """All that can be: labels, a refusal, one taken back, one pending, one volunteered, one that nobody has looked at."""
    rows = [
        row(0, "cat"),
        row(1, "a & <b>"),
        row(2, "é"),
        row(3, ""),
        row(4, "cat"),
        row(4, None, "correction"),
        row(6, "é", "volunteered"),
    ]
    return make(tmp_path / "full", *rows)


def labels(path, *options, code=0):
    assert cli.main(["labels", str(path), *map(str, options)]) == code


@pytest.mark.parametrize("name", FORMATS)
def test_a_round_trip_gives_the_same_labels_in_force(full, tmp_path, capsys, name):
    file = tmp_path / {"csv": "out.csv", "label-studio": "out.json", "cvat": "out.xml"}[name]
    labels(full, "--export", file)
    left = "; 1 skipped samples are not in it, which the format cannot hold" if name == "cvat" else ""
    assert capsys.readouterr().out == f"{file}: 4 labels ({name}){left}\n"
    other = make(tmp_path / "other")
    labels(other, "--import", file)
    assert capsys.readouterr().out == f"{file}: 4 labels and {int(name != 'cvat')} refusals taken, 0 as they were ({name})\n"
    one, two = labels_in_force(full), labels_in_force(other)
    assert dict(two.labels) == dict(one.labels) == {KEYS[0]: "cat", KEYS[1]: "a & <b>", KEYS[2]: "é", KEYS[6]: "é"}
    assert two.skipped == (() if name == "cvat" else (KEYS[3],))
    assert {item.key: item.acquisition for item in RunDir.read(other).rows()}[KEYS[6]] == "volunteered"
    # Again: nothing is written twice.
    before = (other / "labels.csv").read_bytes()
    labels(other, "--import", file)
    assert (other / "labels.csv").read_bytes() == before


def test_what_differs_is_corrected_and_what_is_not_in_the_file_stays(full, tmp_path, capsys):
    labels(full, "--export", tmp_path / "out.csv")
    other = make(tmp_path / "other", row(0, "é"), row(3, "cat"), row(5, "cat"))
    labels(other, "--import", tmp_path / "out.csv")
    found = labels_in_force(other)
    assert found.labels[KEYS[0]] == "cat" and found.skipped == (KEYS[3],) and found.labels[KEYS[5]] == "cat"
    rows = [(item.label, item.acquisition) for item in RunDir.read(other).rows() if item.index == 0]
    assert rows == [("é", "random"), ("cat", "correction")]


def test_another_runs_journal_is_a_csv(full, tmp_path):
    other = make(tmp_path / "other")
    labels(other, "--import", full / "labels.csv")
    assert labels_in_force(other).labels == labels_in_force(full).labels and labels_in_force(other).skipped == (KEYS[3],)


# --- folders ----------------------------------------------------------------------------------------------------------------
def test_folders_of_links_to_images(tmp_path, capsys):
    desk = Desk(tmp_path, capsys)
    write_folder(desk.data, {"unlabeled": 20})
    desk.write()
    desk.go(3)
    first = desk.keys(0)
    desk.do(0, "labels", str(desk.run), "--set", f"{first[0]}=cat", "--set", f"{first[1]}=guinea pig", "--skip", first[2])
    out = tmp_path / "by class"
    assert desk.do(0, "labels", str(desk.run), "--export", str(out)) == [
        f"{out}: 2 labels (folders); 1 skipped samples are not in it, which the format cannot hold"
    ]
    files = {path.relative_to(out).as_posix(): path for path in out.rglob("*") if not path.is_dir()}
    assert set(files) == {f"cat/{first[0]}", f"guinea pig/{first[1]}"}
    assert files[f"cat/{first[0]}"].is_symlink() and files[f"cat/{first[0]}"].resolve() == desk.data / first[0]
    assert desk.do(2, "labels", str(desk.run), "--export", str(out)) == [
        f"usb-active: error: {out} is there already; give another name, or an empty folder"
    ]
    desk.write(save_name="other")
    desk.go(3)
    other = tmp_path / "other"
    desk.do(0, "labels", str(other), "--import", str(out))
    assert labels_in_force(other).labels == labels_in_force(desk.run).labels
    # A folder that somebody else has filled, by the names of the files alone.
    (tmp_path / "flat" / "dog").mkdir(parents=True)
    name = first[3].rpartition("/")[2]
    (tmp_path / "flat" / "dog" / name).touch()
    desk.do(0, "labels", str(other), "--import", str(tmp_path / "flat"))
    assert labels_in_force(other).labels[first[3]] == "dog"


def test_samples_that_are_no_files_are_drawn(tmp_path, capsys):
    data = run_helpers.settings(
        tmp_path, num_train_iter=2, num_eval_iter=2, epoch=1, active={"cycles": 0, "initial": {"name": "random", "size": 12}}
    )
    run_helpers.train(data)
    labels(tmp_path / "run", "--export", tmp_path / "out")
    assert len(list((tmp_path / "out").rglob("*.png"))) == 12
    run_helpers.train({**data, "save_name": "other", "seed": 4})
    labels(tmp_path / "other", "--import", tmp_path / "out")
    assert labels_in_force(tmp_path / "run").labels.items() <= labels_in_force(tmp_path / "other").labels.items()


def test_a_class_that_can_be_no_folder(tmp_path, capsys):
    path = make(tmp_path / "run", row(0, "../up"), names=("../up", "b"))
    labels(path, "--export", tmp_path / "out", code=2)
    assert "the class '../up' can be no folder: is a name, not a path" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_name_that_several_samples_have_is_refused_by_name(tmp_path, capsys):
    """Also where only one of them was asked for."""
    path = make(tmp_path / "run", keys=("u/1.png", *"abcde", "v/1.png"))
    (tmp_path / "in" / "cat").mkdir(parents=True)
    file = tmp_path / "in" / "cat" / "1.png"
    file.touch()
    labels(path, "--import", tmp_path / "in", code=2)
    assert capsys.readouterr().err == f"usb-active: error: {file}: '1.png' could be any of several samples: u/1.png, v/1.png\n"


# --- other tools' files -----------------------------------------------------------------------------------------------------
def task(key=None, *annotations, **more):
    return {"data": {"image": key}, "annotations": list(annotations), **more}


def choice(*names, **more):
    return {"result": [{"type": "choices", "value": {"choices": list(names)}}], **more}


def write(path, value):
    path.write_text(json.dumps(value))
    return path


def test_label_studio_as_it_writes_itself(tmp_path, capsys):
    """Uploaded files, addresses, agreeing annotators, refusals; what a model has predicted is no answer."""
    tasks = [
        task("/data/upload/1/1a2b3c4d-7.png", choice("cat", was_cancelled=False)),
        task("/data/local-files/?d=u/8.png", choice("é"), choice("é"), {"was_cancelled": True, "result": []}),
        task("https://example.org/x/u/6?token=1", {"was_cancelled": True, "result": []}),
        task("s3://bucket/u/img%201.png", {"result": []}, predictions=[choice("cat")]),
        task("u/=2.png", predictions=[choice("cat")]),
    ]
    path = make(tmp_path / "run")
    labels(path, "--import", write(tmp_path / "in.json", tasks))
    found = labels_in_force(path)
    assert dict(found.labels) == {"u/7.png": "cat", "u/8.png": "é"} and found.skipped == ("u/6",)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([task("u/9.png", choice("cat"))], "task 1: 'u/9.png' is no sample of the pool; did you mean 'u/"),
        ([task("img 1.png", choice("cat"))], "task 1: 'img 1.png' could be any of several samples: u/img 1.png, v/img 1.png"),
        ([task("u/6", choice("cats"), id=77)], "task 77: unknown class 'cats'; did you mean 'cat'?"),
        ([task("u/6", choice("cat"), choice("é"))], "task 1: not one label ('cat, é'); valid: annotations that agree"),
        ([task("u/6", choice("cat", "é"))], "task 1: not one label"),
        ([task("u/6", {"result": [{"type": "rectanglelabels", "value": {"x": 1}}]})], "task 1: not one label"),
        ([task("u/6", choice("cat")), task("u/6", choice("é"))], "task 2: two labels for 'u/6' ('cat, é'); valid: one for each sample"),
        ([{"image": "u/6", "choice": "cat"}], "task 1: no task of Label Studio"),
        ([7, None], "task 1: no task of Label Studio"),
        ([task("u/6", predictions=[choice("cat")])], "holds no label"),
        ([{"data": {}, "annotations": [choice("cat")]}], "task 1: '' is no sample of the pool"),
    ],
)
def test_mistakes_in_json_are_named_and_nothing_is_taken(tmp_path, capsys, value, said):
    path = make(tmp_path / "run")
    good = [] if "holds no" in said else [task("u/7.png", choice("cat"))]
    labels(path, "--import", write(tmp_path / "in.json", [*value, *good]), code=2)
    assert said in capsys.readouterr().err.splitlines()[0]
    assert RunDir.read(path).rows() == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("<annotations><image name='u/6'><tag label='cat'/><tag label='é'/></image></annotations>", ":1: more than one tag ('cat, é')"),
        ("<annotations>\n<image name='u/6'><tag label='ca'/></image></annotations>", ":2: unknown class 'ca'; did you mean 'cat'?"),
        ("<annotations><image name='u/6'><tag label=''/></image></annotations>", ":1: a tag without a label for 'u/6' (''); valid: a"),
        ("<annotations><image name='u/6'><tag/></image></annotations>", ":1: a tag without a label for 'u/6'"),
        ("<annotations><image name='u/6'><tag label='cat'/><tag label=' '/></image></annotations>", ":1: a tag without a label for 'u/6'"),
        ("<annotations><image name='u/9'><tag label='cat'/></image></annotations>", ":1: 'u/9' is no sample of the pool"),
        ("<annotations><image name='u/6'><box label='cat'/></image></annotations>", "holds no label"),
        ("<annotations><image name='u/6'>", "cannot be read as XML (no element found"),
        ("<html></html>", ":1: begins with <html>, must be CVAT for images 1.1"),
        ("", "cannot be read as XML"),
        ("<!DOCTYPE a [<!ENTITY b 'cat'>]><annotations><image name='u/6'><tag label='&b;'/></image></annotations>", ":1: has a DOCTYPE"),
        ("<!DOCTYPE a SYSTEM 'file:///etc/passwd'><annotations/>", ":1: has a DOCTYPE"),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_mistakes_in_xml_are_named_and_nothing_is_taken(tmp_path, capsys, text, said, encoding):
    path, file = make(tmp_path / "run"), tmp_path / "in.xml"
    file.write_bytes(text.encode(encoding))
    labels(path, "--import", file, code=2)
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1
    assert RunDir.read(path).rows() == []


def test_mistakes_in_a_csv(full, tmp_path, capsys):
    file = tmp_path / "in.csv"
    file.write_text("key,label\nu/7.png,cat\nu/99.png,cat\nu/6,dgo\n", encoding="utf-8")
    before = RunDir.read(full).rows()
    labels(full, "--import", file, code=2)
    first, second = capsys.readouterr().err.splitlines()
    assert f"{file}:3: key is not in the pool ('u/99.png')" in first and f"{file}:4: unknown class ('dgo')" in second
    assert RunDir.read(full).rows() == before


@pytest.mark.parametrize("word", ["retract", " Retract "])
def test_no_file_takes_a_label_back(full, tmp_path, capsys, word):
    file = tmp_path / "in.csv"
    file.write_text(f"key,label\nu/7.png,cat\nu/ü?d=5.png,{word}\nu/6,retract\n", encoding="utf-8")
    before = (full / "labels.csv").read_bytes()
    labels(full, "--import", file, code=2)
    first, second = capsys.readouterr().err.splitlines()
    assert f"{file}:3: a file takes no label back ('{word}'); valid: a label, skip, or none; `--retract KEY` takes one back" in first
    assert f"{file}:4: a file takes no label back" in second and (full / "labels.csv").read_bytes() == before
    # Nor does a row in which nothing is said.
    file.write_text(f"key,label,status\n{KEYS[0]},,retracted\n{KEYS[1]},,\nu/7.png,cat,labeled\n", encoding="utf-8")
    labels(full, "--import", file)
    assert capsys.readouterr().out == f"{file}: 1 labels and 0 refusals taken, 0 as they were (csv)\n"
    assert labels_in_force(full).labels[KEYS[0]] == "cat" and labels_in_force(full).labels[KEYS[1]] == "a & <b>"


def test_who_refuses_a_task_yields_to_who_labels_it(tmp_path):
    path = make(tmp_path / "run")
    refusal = {"was_cancelled": True, "result": []}
    labels(path, "--import", write(tmp_path / "in.json", [task("u/6", refusal, choice("cat")), task("u/7.png", refusal, refusal)]))
    assert dict(labels_in_force(path).labels) == {"u/6": "cat"} and labels_in_force(path).skipped == ("u/7.png",)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--import", "no.json"), "no.json: no such file"),
        (
            ("--import", "no.txt"),
            "no.txt: its name says no format; known: .csv (csv), .json (label-studio), .xml (cvat), no suffix (folders)",
        ),
        (("--import", "x", "--format", "cvta"), "--format cvta: no such format; did you mean 'cvat'?"),
        (("--format", "csv"), "--format is read only beside --import or --export"),
        (("--export", "full"), "full is there already"),
    ],
)
def test_wrong_options_are_one_line(full, tmp_path, capsys, options, said, monkeypatch):
    monkeypatch.chdir(tmp_path)
    labels(full, *options, code=2)
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1


def test_nothing_is_written_over(full, tmp_path, capsys):
    (tmp_path / "out.csv").write_text("mine")
    labels(full, "--export", tmp_path / "out.csv", code=2)
    assert (tmp_path / "out.csv").read_text() == "mine"


def test_a_format_that_the_name_does_not_say(full, tmp_path):
    labels(full, "--export", tmp_path / "labels.txt", "--format", "cvat")
    other = make(tmp_path / "other")
    labels(other, "--import", tmp_path / "labels.txt", "--format", "cvat")
    assert len(labels_in_force(other).labels) == 4


def test_before_any_question_there_is_nothing_to_import_into(tmp_path, capsys):
    with RunDir.open(tmp_path / "run", {}) as run:
        run.write_keys(list(KEYS))
    labels(tmp_path / "run", "--import", write(tmp_path / "in.json", [task("u/6", choice("cat"))]), code=2)
    assert capsys.readouterr().err == (
        f"usb-active: error: {tmp_path / 'run'}: nothing has been asked yet, and a label belongs to a query; start the run first\n"
    )
