"""`labels --add-class`: a class that nobody had thought of, while a query waits; models and files from before know fewer."""

from __future__ import annotations

import json
import shutil

import pytest
from data_makers import write_folder, write_image
from human_desk import CLASSES, Desk
from run_helpers import checkpoint, weights_equal

from usb_active import cli, open_run
from usb_active.errors import UsageError
from usb_active.loop.ledger import Ledger
from usb_active.storage.classes import added_names
from usb_active.storage.labels_in_force import labels_in_force
from usb_active.storage.run_dir import RunDir

NEW = (*CLASSES, "bird")


@pytest.fixture
def desk(tmp_path, capsys) -> Desk:
    desk = Desk(tmp_path, capsys)
    write_folder(desk.data, {"unlabeled": 20})
    desk.write({"cycles": 2})
    return desk


def add(desk, *names, code=0):
    return desk.do(code, "labels", str(desk.run), *(part for name in names for part in ("--add-class", name)))


def waiting_for(desk, cycle):
    """The run waits for the answers to this query, with all those before given."""
    desk.go(3)
    for earlier in range(cycle):
        desk.fill(earlier, "cat", "dog", "guinea pig", "cat")
        desk.go(3)


def refusal(desk, *names):
    before = sorted(path.name for path in desk.run.iterdir())
    (line,) = add(desk, *names, code=2)
    assert sorted(path.name for path in desk.run.iterdir()) == before
    return line.removeprefix("usb-active: error: ")


def test_a_class_is_added_while_a_query_waits(desk):
    waiting_for(desk, 1)
    assert add(desk, "bird") == ["bird: a class from the training of cycle 1 on, for any sample; the network gets an output more"]
    # The query that waits takes it, in the file and by command; the name of the class is asked for.
    assert "with one of: cat, dog, guinea pig, bird; 'skip' refuses a sample; then run the same command again" in desk.go(3)
    first, *_ = desk.keys(1)
    desk.do(0, "labels", str(desk.run), "--set", f"{first}=bird")
    desk.fill(1, "", "BIRD", "dog")
    # The file's answer to the first one is missing, and the command has given it.
    lines = desk.go(3)
    assert any(line.startswith("cycle 1: 7 labels") for line in lines) and lines[-1].startswith("with one of: cat, dog, guinea pig, bird;")
    names = [json.loads((desk.run / f"cycle_00{cycle}" / "start.json").read_text())["class_names"] for cycle in (0, 1)]
    assert names == [list(CLASSES), list(NEW)]
    asked = [json.loads((desk.run / "queries" / f"cycle_00{cycle}.json").read_text())["class_names"] for cycle in (0, 1, 2)]
    assert asked == [list(CLASSES), list(CLASSES), list(NEW)]
    assert ["bird", "2"] in [line.split() for line in desk.do(0, "labels", str(desk.run))]
    assert labels_in_force(desk.run).class_names == NEW and list(labels_in_force(desk.run).labels.values()).count("bird") == 2
    # The next model suggests among all of them, and the run comes to its end.
    desk.fill(2, "bird", "cat", "cat")
    desk.go(0)
    assert open_run(desk.run).model().class_names == NEW
    zero, one, two = RunDir.read(desk.run).metrics()
    assert [len(line["class_counts"]) for line in (zero, one, two)] == [3, 4, 4]
    report = (desk.run / "report" / "report.md").read_text()
    assert "| cat 0, dog 1, guinea pig 0, bird 2 |" in report
    assert desk.do(0, "labels", str(desk.run), "--history", first)[0].endswith(": bird")


def test_a_model_from_before_predicts_with_its_own_classes(desk, tmp_path):
    waiting_for(desk, 1)
    write_image(tmp_path / "other" / "one.png")
    before = desk.do(0, "predict", str(desk.run)), desk.do(0, "predict", str(desk.run), "--data", str(tmp_path / "other"))
    add(desk, "bird")
    desk.do(0, "labels", str(desk.run), "--set", f"{desk.keys(1)[0]}=bird")
    after = desk.do(0, "predict", str(desk.run)), desk.do(0, "predict", str(desk.run), "--data", str(tmp_path / "other"))
    # But for the image that has got a label.
    assert [line for line in before[0] if not line.startswith(f"{desk.keys(1)[0]},")] == after[0] and before[1] == after[1]
    assert open_run(desk.run).model().class_names == CLASSES


def test_before_the_first_training(desk):
    waiting_for(desk, 0)
    add(desk, "bird")
    desk.fill(0, "bird", "cat", "dog", "bird")
    desk.go(3)
    assert json.loads((desk.run / "cycle_000" / "start.json").read_text())["class_names"] == list(NEW)
    (line,) = RunDir.read(desk.run).metrics()
    assert line["class_counts"] == [1, 1, 0, 2]
    # To name it in the YAML afterwards is the same.
    desk.write({"cycles": 2}, dataset={"name": "image_folder", "class_names": list(NEW)})
    desk.fill(1, "bird", "cat", "dog")
    assert any(line.startswith("cycle 1: 7 labels") for line in desk.go(3))


def test_a_run_that_began_with_the_class_comes_to_the_same_weights(desk):
    waiting_for(desk, 0)
    add(desk, "bird")
    desk.fill(0, "bird", "cat", "dog", "bird")
    desk.go(3)
    weights, picks = checkpoint(desk.run, 0), desk.keys(1)
    desk.run.rename(desk.folder / "added")
    desk.write({"cycles": 2}, dataset={"name": "image_folder", "class_names": list(NEW)})
    desk.go(3)
    desk.fill(0, "bird", "cat", "dog", "bird")
    desk.go(3)
    assert weights_equal(weights, checkpoint(desk.run, 0)) and desk.keys(1) == picks


def test_several_at_once_and_labels_of_them(desk):
    waiting_for(desk, 0)
    first, second, *_ = desk.keys(0)
    given = ("--set", f"{first}=bird", "--set", f"{second}=owl")
    assert desk.do(0, "labels", str(desk.run), "--add-class", "bird", "--add-class", "owl", *given) == [
        "bird: a class from the training of cycle 0 on, for any sample; the network gets an output more",
        "owl: a class from the training of cycle 0 on, for any sample; the network gets an output more",
        f"{first}: pending -> bird",
        f"{second}: pending -> owl",
    ]
    assert [row[2] for row in desk.journal()] == ["bird", "owl"] and added_names(RunDir.read(desk.run)) == ["bird", "owl"]


def test_killed_after_it_was_added_the_run_goes_on(desk):
    waiting_for(desk, 1)
    add(desk, "bird")
    desk.fill(1, "bird", "dog", "cat")
    begin = Ledger.begin
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Ledger, "begin", lambda *args: (begin(*args), (_ for _ in ()).throw(KeyboardInterrupt))[0])
        patch.setattr(Ledger, "take_up", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert cli.main(["run", str(desk.folder / "c.yaml")]) == 130
    assert any(line.startswith("cycle 1: 7 labels") for line in desk.go(3))


# --- refused ----------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("Dog", "--add-class Dog: there is a class 'dog' already"),
        ("guinea pig", "there is a class 'guinea pig' already"),
        ("retract", "people write this word in place of a class"),
        ("SKIP", "people write this word in place of a class"),
        ("a/b", "is a name, not a path"),
        ("", "must be a name"),
        (" x", "no blank at its ends"),
    ],
)
def test_names_that_are_none(desk, name, reason):
    waiting_for(desk, 0)
    assert reason in refusal(desk, name)


def test_a_number_that_means_a_place(desk):
    waiting_for(desk, 0)
    assert "--add-class 2: where no class is called by a number, a number is a class's place among the others" in refusal(desk, "2")


def test_where_classes_are_numbers_a_number_is_a_name(desk):
    desk.write(dataset={"name": "image_folder", "class_names": ["0", "1"]})
    desk.go(3)
    add(desk, "3")
    desk.fill(0, "3", "1", "0", "3.0")
    desk.go(3)
    assert RunDir.read(desk.run).metrics()[0]["class_counts"] == [1, 1, 2]


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (("--add-class", "Dog"), "--add-class Dog: there is a class 'dog' already"),
        (("--add-class", "BIRD"), "--add-class BIRD: there is a class 'bird' already"),
        (("--set", "nobody.png=bird"), "'nobody.png' is no sample of the pool"),
        (("--set", "{key}=brid"), "unknown class 'brid'; did you mean 'bird'?"),
        (("--skip", "nobody.png"), "'nobody.png' is no sample of the pool"),
    ],
)
def test_where_something_is_wrong_no_class_is_added(desk, more, reason):
    waiting_for(desk, 0)
    more = [text.replace("{key}", desk.keys(0)[0]) for text in more]
    (line,) = desk.do(2, "labels", str(desk.run), "--add-class", "bird", *more)
    assert reason in line and not (desk.run / "classes.json").exists() and not (desk.run / "labels.csv").exists()


def test_a_class_is_added_once(desk):
    waiting_for(desk, 0)
    add(desk, "bird")
    assert "there is a class 'bird' already" in refusal(desk, "Bird")


@pytest.mark.parametrize(
    ("active", "reason"),
    [
        ({"warm_start": True}, "warm_start: true: the next training goes on from weights that have no output for another class"),
        ({"prior": {"name": "revival"}}, "prior: 'revival' hands over class probabilities, which have no column for another class"),
    ],
)
def test_settings_that_need_the_width_from_before(desk, active, reason):
    desk.write({"cycles": 2, **active})
    waiting_for(desk, 0)
    assert reason in refusal(desk, "bird")


def test_a_plugin_that_has_learned_something(desk):
    waiting_for(desk, 0)
    (desk.run / "queries" / "cycle_000.query.pth").write_bytes(b"")
    assert "a plugin has learned something for the classes there are (cycle_000.query.pth)" in refusal(desk, "bird")


def test_when_no_query_waits(desk):
    desk.write({"cycles": 0})
    desk.go(3)
    desk.fill(0, "cat", "dog", "guinea pig", "cat")
    desk.go(0)
    assert "no query waits for answers: the training of cycle 0 has begun" in refusal(desk, "bird")


def test_a_model_of_another_width_is_refused_where_it_is_needed(desk):
    waiting_for(desk, 1)
    add(desk, "bird")
    # Somebody takes the query away: to ask again, the last model is needed.
    for path in (desk.run / "queries").glob("cycle_001*"):
        path.unlink()
    *_, line = desk.go(2)
    assert line == (
        f"usb-active: error: {desk.run}: the model of cycle 0 knows 3 classes, and there are 4 now (bird came later); "
        "what comes next needs it, and cannot go on from another width"
    )


def test_a_damaged_list_is_one_line(desk):
    waiting_for(desk, 0)
    add(desk, "bird")
    (desk.run / "classes.json").write_text('{"added": [{"name": "", "cycle": 0, "time": ""}]}')
    (line,) = desk.do(2, "labels", str(desk.run))
    assert "classes.json is damaged (added.0.name: " in line and line.endswith("it says which classes were added")


def test_a_list_that_is_gone_is_named(desk):
    """By the start of the training that knew the class first, and by the next query where that says nothing."""
    waiting_for(desk, 1)
    add(desk, "bird", "owl")
    desk.fill(1, "bird", "dog", "cat")
    desk.go(3)
    path = desk.run / "classes.json"
    whole = json.loads(path.read_text())
    path.unlink()
    remedy = "restore it from a copy: it says which classes were added"
    (line,) = desk.do(2, "labels", str(desk.run))
    assert line == f"usb-active: error: {path} is gone (cycle_001/start.json knows bird, owl too); {remedy}"
    assert desk.go(2)[-1] == line
    start = desk.run / "cycle_001" / "start.json"
    record = json.loads(start.read_text())
    del record["class_names"]
    start.write_text(json.dumps(record))
    with pytest.raises(UsageError, match=r"classes\.json is gone \(queries/cycle_002\.json knows bird, owl too\); restore"):
        labels_in_force(desk.run)
    # One of two is another kind of loss.
    path.write_text(json.dumps({"added": whole["added"][:1]}))
    with pytest.raises(UsageError, match=r"classes\.json is damaged \(queries/cycle_002\.json knows owl too\); restore"):
        labels_in_force(desk.run)


def test_a_query_with_other_classes_is_damaged(desk):
    waiting_for(desk, 1)
    path = desk.run / "queries" / "cycle_001.json"
    record = json.loads(path.read_text())
    for names in (["cat", "dog"], ["cat", "dog", "cow"], ["cow", *CLASSES]):
        path.write_text(json.dumps({**record, "class_names": names}))
        with pytest.raises(UsageError, match=r"cycle_001\.json is damaged \(class_names are not those of"):
            labels_in_force(desk.run)


def test_runs_from_before_have_no_list_of_classes(desk):
    waiting_for(desk, 1)
    path = desk.run / "cycle_000" / "start.json"
    record = json.loads(path.read_text())
    del record["class_names"]
    path.write_text(json.dumps(record))
    add(desk, "bird")
    assert open_run(desk.run).model().class_names == CLASSES
    desk.fill(1, "bird", "dog", "cat")
    assert any(line.startswith("cycle 1: 7 labels") for line in desk.go(3))


def test_from_another_run_the_classes_must_be_named(desk):
    waiting_for(desk, 0)
    add(desk, "bird")
    desk.fill(0, "bird", "cat", "dog", "bird")
    desk.go(3)
    desk.write(save_name="other")
    (*_, line) = desk.go(2, "--from", str(desk.run))
    assert "4 classes there, 3 here, 1 in only one of them, first 'bird' (only there)" in line
    desk.write(save_name="third", dataset={"name": "image_folder", "class_names": list(NEW)})
    assert any(line.startswith("cycle 0: 4 labels") for line in desk.go(3, "--from", str(desk.run)))
    shutil.rmtree(desk.folder / "third")
