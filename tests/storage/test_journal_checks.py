"""labels.csv against what the run knows: whatever changed is named by its line, and never trained on."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest
import run_helpers
from run_helpers import labels_of, settings, write_yaml

from usb_active import cli
from usb_active.errors import UsageError
from usb_active.records import LabelRow
from usb_active.storage.journal import append_journal
from usb_active.storage.journal_checks import BLOCKS, Journal, changed_lines, check_labels, check_prefix, journal_sums, read_starts
from usb_active.storage.run_dir import RunDir

FAST = {"num_train_iter": 2, "num_eval_iter": 2, "epoch": 1}
PARTIAL = {"oracle": {"name": "csv", "accept_partial": True}, "cycles": 1}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of two trainings, 20 and 30 labels."""
    folder = tmp_path_factory.mktemp("finished")
    run_helpers.train(settings(folder, **FAST))
    return folder / "run"


@pytest.fixture
def run(finished, tmp_path):
    """A copy of it that may be damaged, beside the YAML that resumes it."""
    write_yaml(tmp_path / "run.yaml", settings(tmp_path, **FAST))
    return Path(shutil.copytree(finished, tmp_path / "run"))


def forget_sums(run: Path) -> None:
    """As a run of before: nothing but the number of rows."""
    for path in run.glob("cycle_*/start.json"):
        record = json.loads(path.read_text())
        path.write_text(json.dumps({name: record[name] for name in ("cycle", "journal_rows", "log")}))


def edit(run: Path, change) -> None:
    """labels.csv after `change(lines)`, header included."""
    path = run / "labels.csv"
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join(change(lines)) + "\n", encoding="utf-8")


def command(capsys, *arguments) -> tuple[int, str]:
    """Exit code and the standard error of a command in this process."""
    capsys.readouterr()
    code = cli.main([str(argument) for argument in arguments])
    return code, capsys.readouterr().err


def refusal(capsys, *arguments) -> str:
    """The one line of a command that ended with exit code 2."""
    code, said = command(capsys, *arguments)
    assert code == 2 and said.count("\n") == 1 and said.startswith("usb-active: error: "), (code, said)
    return said


def content(run: Path) -> dict[Path, bytes]:
    """All files but those that any start may write: the lock, and the free keys in config.yaml."""
    return {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name not in ("lock", "config.yaml", "log.txt")}


def swapped(lines, at, **cells):
    names = lines[0].split(",")
    row = dict(zip(names, lines[at - 1].split(","), strict=True)) | cells
    return [*lines[: at - 1], ",".join(row[name] for name in names), *lines[at:]]


def other_class(lines, at):
    label = lines[at - 1].split(",")[3]
    return swapped(lines, at, label="7" if label != "7" else "4")


ALTERED = {
    "the last rows removed": (lambda lines: lines[:-12], 20),
    "one row in the middle removed": (lambda lines: [*lines[:8], *lines[9:]], 9),
    "a row of the first cycle removed, one added at the end": (lambda lines: [*lines[:4], *lines[5:], lines[4]], 5),
    "two rows changed places": (lambda lines: [*lines[:10], lines[11], lines[10], *lines[12:]], 11),
    "a label changed": (lambda lines: other_class(lines, 14), 14),
    "a label of the last cycle changed": (lambda lines: other_class(lines, 27), 27),
    "an index changed": (lambda lines: swapped(lines, 6, index="3"), 6),
    "a key changed": (lambda lines: swapped(lines, 7, key="digits/0001"), 7),
    "skipped instead of labelled": (lambda lines: swapped(lines, 3, label="", status="skipped"), 3),
    "a time changed": (lambda lines: swapped(lines, 21, time="2020-01-01T00:00:00+00:00"), 21),
    "all rows removed": (lambda lines: lines[:1], 2),
}


@pytest.mark.parametrize("name", ALTERED)
def test_every_command_refuses_an_altered_row_by_its_line(run, capsys, name):
    change, line = ALTERED[name]
    edit(run, change)
    before = content(run)
    commands = [("run", run.parent / "run.yaml"), ("labels", run), ("labels", run, "--csv"), ("report", run), ("predict", run)]
    commands.append(("labels", run, "--set", f"{(run / 'labels.csv').read_text().splitlines()[-1].split(',')[2]}=3"))
    for arguments in commands:
        said = refusal(capsys, *arguments)
        assert f"{run / 'labels.csv'}:{line}: " in said and "restore it from a copy" in said, said
        assert "missing" in said if name.endswith("removed") else "--accept-edits" in said, said
    assert before == content(run)


@pytest.mark.parametrize("name", [name for name in ALTERED if "label" not in name and "skipped" not in name and "time" not in name])
def test_runs_of_before_say_what_can_be_known(run, capsys, name):
    """Without checksums: rows, keys and the samples of a query are checked all the same. Places and labels alone cannot be."""
    if name == "two rows changed places":
        pytest.skip("the same labels in another order")
    forget_sums(run)
    edit(run, ALTERED[name][0])
    said = refusal(capsys, "run", run.parent / "run.yaml")
    assert f"{run / 'labels.csv'}:" in said and "restore it from a copy" in said


def test_a_run_of_before_without_a_change_resumes_and_has_checksums_from_the_next_cycle_on(run, capsys):
    forget_sums(run)
    write_yaml(run.parent / "run.yaml", settings(run.parent, active={"cycles": 2}, **FAST))
    assert command(capsys, "run", run.parent / "run.yaml")[0] == 0
    assert [start.sha256 is not None for start in read_starts(RunDir.read(run))] == [False, False, True]
    edit(run, lambda lines: other_class(lines, 5))
    assert f"{run / 'labels.csv'}:5: not as it was when cycle 2 began" in refusal(capsys, "labels", run)


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        ({"index": "5"}, ":6: the key '{key}' is not that of sample 5, '{key5}' (keys.txt)"),
        ({"key": "digits/9999"}, ":6: the key 'digits/9999' is not that of sample {index}, '{key}' (keys.txt)"),
        ({"index": "99999"}, ":6: no sample 99999; valid: 0 to "),
    ],
)
def test_the_key_of_a_row_is_that_of_its_index(run, cells, expected):
    forget_sums(run)
    row, keys = (run / "labels.csv").read_text().splitlines()[5].split(","), RunDir.read(run).keys()
    edit(run, lambda lines: swapped(lines, 6, **cells))
    with pytest.raises(UsageError) as caught:
        check_labels(RunDir.read(run))
    assert expected.format(key=row[2], index=row[1], key5=keys[5]) in str(caught.value)


def test_picks_without_an_answer_are_named(run):
    """Rows for other samples in their places: number, keys and indices agree, and yet a sample that was queried is missing."""
    forget_sums(run)
    keys, asked = RunDir.read(run).keys(), {row.index for row in RunDir.read(run).rows()}
    stranger = next(index for index in range(len(keys)) if index not in asked)
    lost = (run / "labels.csv").read_text().splitlines()[24].split(",")[2]
    edit(run, lambda lines: swapped(lines, 25, index=str(stranger), key=keys[stranger]))
    with pytest.raises(UsageError, match=f"answers to the query of cycle 1 .*there are none for {lost}; restore it from a copy"):
        check_labels(RunDir.read(run), complete=True)
    check_labels(RunDir.read(run))


def test_a_start_reads_the_rows_for_their_checksums_once(run, monkeypatch):
    read, sums = [], Journal.sha256
    monkeypatch.setattr(Journal, "sha256", lambda self, rows: read.append(self.path) or sums(self, rows))
    run_helpers.train(settings(run.parent, **FAST))
    assert read == [run / "labels.csv"]


def test_line_ends_are_no_change(run, capsys):
    path = run / "labels.csv"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert command(capsys, "labels", run) == (0, "")


def test_corrections_are_rows_of_their_own_and_no_edit(run, capsys):
    key = (run / "labels.csv").read_text().splitlines()[3].split(",")[2]
    for label in ("5", "6"):
        assert command(capsys, "labels", run, "--set", f"{key}={label}")[0] == 0
    assert command(capsys, "labels", run, "--skip", key)[0] == 0
    assert command(capsys, "run", run.parent / "run.yaml")[0] == 0


def test_an_edit_that_was_meant_is_accepted_by_a_command_and_counts_from_then_on(run, capsys):
    original = {path: path.read_bytes() for path in run.glob("cycle_*/start.json")}
    edit(run, lambda lines: other_class(other_class(lines, 4), 25))
    lines = (run / "labels.csv").read_text().splitlines()
    refusal(capsys, "report", run)
    assert cli.main(["labels", str(run), "--accept-edits"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[:2] == [f"line 4: now {lines[3]}", f"line 25: now {lines[24]}"]
    assert shown[2].startswith("accepted; what cycle 0, 1 trained before stays as it is")
    assert original == {path: path.read_bytes() for path in run.glob("cycle_*/start.json")}, "nothing is forgotten"
    for arguments in (("labels", run), ("predict", run), ("run", run.parent / "run.yaml")):
        assert command(capsys, *arguments)[0] == 0
    # A later change is one again, and may be accepted in its turn.
    edit(run, lambda lines: swapped(lines, 4, label="", status="skipped"))
    assert ":4: not as it was" in refusal(capsys, "labels", run)
    assert command(capsys, "labels", run, "--accept-edits")[0] == command(capsys, "labels", run)[0] == 0
    write_yaml(run.parent / "run.yaml", settings(run.parent, active={"cycles": 2}, **FAST))
    assert command(capsys, "run", run.parent / "run.yaml")[0] == 0
    assert json.loads((run / "metrics.jsonl").read_text().splitlines()[2])["num_labels"] == 39


def test_nothing_to_accept(run, capsys):
    assert cli.main(["labels", str(run), "--accept-edits"]) == 0
    assert "nothing to accept" in capsys.readouterr().out and not (run / "accepted.json").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda lines: [*lines[:8], *lines[9:]], ":9: rows are missing"),
        (lambda lines: swapped(lines, 4, label="dog"), ":4: unknown class 'dog'"),
        (lambda lines: swapped(lines, 4, index="3"), ":4: the key '"),
        (lambda lines: swapped(lines, 4, label=""), ":4: damaged row: label is ''"),
        (lambda lines: [*lines[:4], *lines[5:], *lines[-1:]], "there are none for"),
    ],
)
def test_what_cannot_be_meant_is_not_accepted(run, capsys, change, said):
    edit(run, change)
    assert said in refusal(capsys, "labels", run, "--accept-edits")
    assert not (run / "accepted.json").exists()


def test_a_damaged_list_of_accepted_edits_is_said(run, capsys):
    edit(run, lambda lines: other_class(lines, 4))
    command(capsys, "labels", run, "--accept-edits")
    for content in ("{}", "[1]", "null", '{"edits": [{"cycle": 0}]}', '{"edits": [1'):
        (run / "accepted.json").write_text(content)
        said = refusal(capsys, "labels", run)
        assert f"{run / 'accepted.json'} is damaged" in said and "restore it from a copy" in said


def test_a_torn_row_that_a_cycle_was_trained_on_is_not_cut_off(run, capsys):
    path = run / "labels.csv"
    path.write_bytes(path.read_bytes()[:-9])
    torn = path.read_bytes()
    assert f"{path}:31: rows are missing" in refusal(capsys, "run", run.parent / "run.yaml")
    assert path.read_bytes() == torn


def test_pending_answers_are_no_missing_rows(tmp_path, capsys):
    data = settings(tmp_path, active={**PARTIAL, "cycles": 0, "initial": {"name": "random", "size": 8}}, **FAST)
    yaml = write_yaml(tmp_path / "run.yaml", data)
    assert cli.main(["run", str(yaml)]) == 3
    sheet = tmp_path / "run" / "queries" / "cycle_000.csv"
    lines = sheet.read_text(encoding="utf-8-sig").splitlines()
    answered = [line.rstrip(",") + f",{number % 3}" if number < 5 else line for number, line in enumerate(lines[1:])]
    sheet.write_text("\n".join([lines[0], *answered]) + "\n")
    assert command(capsys, "run", yaml)[0] == 0
    assert json.loads((tmp_path / "run" / "cycle_000" / "start.json").read_text())["pending"] == 3
    assert command(capsys, "labels", tmp_path / "run")[0] == command(capsys, "run", yaml)[0] == 0


def test_a_cycle_trained_again_after_an_accepted_edit_says_what_it_began_with(run, capsys):
    """Its folder moved away, it starts over; its oracle still knows better than the edit, and is taken at its word."""
    edit(run, lambda lines: other_class(lines, 25))
    edited = labels_of(run)
    command(capsys, "labels", run, "--accept-edits")
    (run / "cycle_001").rename(run.parent / "away")
    assert command(capsys, "run", run.parent / "run.yaml")[0] == 0
    assert labels_of(run)[:-1] == edited and labels_of(run)[-1][1] == edited[24][1]
    assert read_starts(RunDir.read(run))[1].rows == 31
    assert command(capsys, "labels", run)[0] == 0


# ---------------------------------------------------------------------------------------------------------- many rows
def many(path: Path, count: int) -> Path:
    append_journal(path, [LabelRow(i // 100, i, f"folder/image {i}.png", f"class {i % 7}", "labeled", "margin", "t") for i in range(count)])
    return path


@pytest.mark.parametrize("count", [1, 999, BLOCKS, BLOCKS + 1, 2 * BLOCKS + 1, 3500])
def test_blocks_say_where_among_many_rows(tmp_path, count):
    path = many(tmp_path / "labels.csv", count)
    sums = journal_sums(path, count)
    size = -(-count // BLOCKS)
    assert len(sums["journal_crc32"]) == -(-count // size) <= BLOCKS
    (tmp_path / "cycle_000").mkdir()
    record = {"cycle": 0, "journal_rows": count, **sums}
    (tmp_path / "cycle_000" / "start.json").write_text(json.dumps(record))
    (tmp_path / "config.yaml").write_text("seed: 0\n")
    run = RunDir.read(tmp_path)
    check_prefix(run)
    lines = path.read_text().splitlines()
    for number in {2, count // 2 + 2, count + 1}:
        path.write_text("\n".join([*lines[: number - 1], lines[number - 1].replace("class", "klass"), *lines[number:]]) + "\n")
        with pytest.raises(UsageError):
            check_prefix(run)
        found = changed_lines(Journal(path), read_starts(run)[0])
        assert len(found) == 1 and found[0] <= number < found[0] + size


def test_a_prefix_has_the_checksum_that_it_had_as_the_whole(tmp_path):
    counts, found = [0, 1, 7, 7, 30], []
    for number, count in enumerate(counts):
        (tmp_path / str(number)).mkdir()
        many(tmp_path / str(number) / "labels.csv", count)
        found.append(journal_sums(tmp_path / str(number) / "labels.csv", count)["journal_sha256"] if count else None)
    whole = Journal(tmp_path / "4" / "labels.csv")
    assert list(whole.sha256(counts))[1:] == found[1:]


def test_a_million_rows_are_checked_in_about_a_second(tmp_path):
    """Against reading the same bytes into rows, on the same machine: a small part of it."""
    path = many(tmp_path / "labels.csv", 40_000)
    data = path.read_bytes()
    header, rows = data[: data.index(b"\n") + 1], data[data.index(b"\n") + 1 :]
    path.write_bytes(header + rows * 25)
    started = time.process_time()
    journal = Journal(path)
    assert journal.num_rows == 1_000_000
    list(journal.sha256(range(20_000, 1_000_001, 20_000)))
    journal.crc32(1_000_000)
    assert time.process_time() - started < 5
