"""A second process, a bad disk, damaged files, Ctrl-C: one clear line, labels intact, and the same end afterwards."""

from __future__ import annotations

import os
import subprocess
import sys

import killer
import pytest
import run_helpers
from killer import KILLED, assert_same_end, directory, finish, run, settings

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    return killer.References(tmp_path_factory.mktemp("references"))


def refusal(data, point="", act="kill"):
    """The message of a run that ended with exit code 2: no traceback, one error."""
    ended = run(data, point, act)
    assert ended.code == 2, ended
    assert "Traceback" not in ended.err and ended.err.count("usb-active: error: ") == ended.err.count("\n"), ended
    return ended.err


def assert_labels_intact(data, reference):
    """What is in the journal is what an uninterrupted run has there, as far as it goes; nothing temporary lies about."""
    found, expected = run_helpers.labels_of(directory(data)), run_helpers.labels_of(reference)
    assert len(found) >= 21 and found == expected[: len(found)]
    assert not list(directory(data).rglob("*.tmp"))


# ---------------------------------------------------------------------------------------------------------- two processes
def test_second_process_is_refused(tmp_path, reference):
    from usb_active.storage.run_dir import RunDir

    data = settings(tmp_path)
    # The first process is this one.
    config = run_helpers.config_of(data)
    with RunDir.open(directory(data), config.resolved(), free_keys=config.free_keys):
        message = refusal(data)
        assert f"another process (pid {os.getpid()}) uses {directory(data)}" in message and message.count("\n") == 1
    assert_same_end(finish(data), reference())


# ---------------------------------------------------------------------------------------------------------- a bad disk
@pytest.mark.parametrize(
    ("point", "act", "reason"),
    [
        ("checkpoint", "full", "latest_model.pth: No space left on device"),
        ("checkpoint", "limit", "latest_model.pth: File too large"),
        ("query", "limit", "labels.csv: File too large"),
        ("in_labels", "full", "labels.csv: No space left on device"),
        ("fsync_labels", "read_only", "labels.csv: Read-only file system"),
        ("replace", "full", "No space left on device"),
        ("fsync", "read_only", "Read-only file system"),
    ],
)
def test_bad_disk(tmp_path, reference, point, act, reason):
    data = settings(tmp_path)
    message = refusal(data, point, act)
    assert message.startswith(f"usb-active: error: cannot write {directory(data)}") and message.count("\n") == 1
    assert reason in message
    assert_labels_intact(data, reference())
    assert_same_end(finish(data), reference())


def test_read_only_from_the_start(tmp_path):
    data = settings(tmp_path)
    message = refusal(data, "open", "read_only")
    assert message == f"usb-active: error: cannot make the folder {directory(data)}: Read-only file system\n"


# ---------------------------------------------------------------------------------------------------------- damaged files
def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def killed(tmp_path, point):
    """The settings and the directory of a run that was killed at a point."""
    data = settings(tmp_path)
    assert run(data, point).code == KILLED
    return data, directory(data)


def test_damaged_checkpoint_of_the_running_cycle(tmp_path, reference):
    data, path = killed(tmp_path, "train")
    checkpoint = path / "cycle_001" / "latest_model.pth"
    cut(checkpoint)
    message = refusal(data)
    assert str(checkpoint) in message and "remove it to repeat this cycle's training" in message and message.count("\n") == 1
    assert_labels_intact(data, reference())
    checkpoint.unlink()
    assert_same_end(finish(data), reference())


def test_damaged_checkpoint_that_the_next_query_needs(tmp_path, reference):
    """Its cycle is over, and is trained again with a warning once the damaged file is gone."""
    data, path = killed(tmp_path, "done")
    checkpoint = path / "cycle_000" / "latest_model.pth"
    cut(checkpoint)
    message = refusal(data)
    assert f"{checkpoint} is damaged" in message and "remove it to repeat this cycle's training" in message
    checkpoint.unlink()
    ended = run(data)
    assert ended.code == 0 and "cycle 0: its checkpoint is gone" in ended.err and ended.err.count("\n") == 1, ended
    assert_same_end(path, reference())


@pytest.mark.parametrize(
    ("point", "name"), [("train", "cycle_000/done.json"), ("done", "cycle_000/start.json"), ("train", "cycle_001/start.json")]
)
def test_damaged_record_of_a_cycle(tmp_path, reference, point, name):
    """The folder moved away, as the message says, the cycle is trained again on the labels it had then."""
    data, path = killed(tmp_path, point)
    cut(path / name)
    message = refusal(data)
    assert f"{path / name} is damaged" in message and "move its folder away" in message
    assert_labels_intact(data, reference())
    (path / name).parent.rename(tmp_path / "away")
    assert_same_end(finish(data), reference())


def test_damaged_state_is_made_anew(tmp_path, reference):
    data, path = killed(tmp_path, "train")
    (path / "state.json").write_text('{"cycle": 1, "sta')
    assert_same_end(finish(data), reference())
    assert (path / "state.json").read_text() == (reference() / "state.json").read_text()


def test_damaged_notes_on_a_query(tmp_path, reference):
    """Seconds and what was logged: the run can do without, when it is told to."""
    data, path = killed(tmp_path, "train")
    notes = path / "queries" / "cycle_001.meta.json"
    cut(notes)
    message = refusal(data)
    assert f"{notes} is damaged" in message and "remove it" in message
    notes.unlink()
    assert_same_end(finish(data), reference())


def test_damaged_plugin_state_is_not_lost_silently(tmp_path, reference):
    data, path = killed(tmp_path, "train_early")
    file = next((path / "queries").glob("cycle_001.answers.pth"))
    whole = file.read_bytes()
    cut(file)
    message = refusal(data)
    assert f"{file} is damaged" in message and "restore it from a copy" in message and "remove" not in message
    file.unlink()
    assert f"{file} is gone" in refusal(data)
    file.write_bytes(whole)
    assert_same_end(finish(data), reference())


@pytest.mark.parametrize("damage", ["torn", "cut"])
def test_torn_last_row_of_the_labels(tmp_path, reference, damage):
    """A row begun and never finished is dropped with a warning; one that lost its end is asked for again."""
    data, path = killed(tmp_path, "labels")
    journal = path / "labels.csv"
    rows = journal.read_bytes()
    journal.write_bytes(rows + b"1,17,tr" if damage == "torn" else rows[:-7])
    ended = run(data)
    assert ended.code == 0 and ended.err.count("\n") == 1
    assert f"{journal}: the last row is torn and dropped" in ended.err
    assert_same_end(path, reference())


def test_torn_metrics(tmp_path, reference):
    data, path = killed(tmp_path, "train")
    with open(path / "metrics.jsonl", "a") as file:
        file.write('{"cycle": 0, "acc')
    assert run(data).code == 0
    assert_same_end(path, reference())


def test_leftovers_of_a_killed_write_go(tmp_path):
    """A checkpoint of which a part was written would fill the disk, one kill after the other."""
    data, path = killed(tmp_path, "checkpoint")
    assert list(path.rglob("*.tmp"))
    finish(data)
    assert not list(path.rglob("*.tmp"))


# ---------------------------------------------------------------------------------------------------------- Ctrl-C
@pytest.mark.parametrize(("point", "num_workers"), [("train", 0), ("train", 2), ("predict", 2), ("checkpoint", 0)])
def test_ctrl_c(tmp_path, reference, point, num_workers):
    data = settings(tmp_path, num_workers=num_workers)
    ended = run(data, point, "interrupt")
    assert ended.code == 130 and ended.err == "\nusb-active: interrupted; the same command resumes from here\n", ended
    assert_labels_intact(data, reference())
    # Starting workers costs time, and whether there are any may change between two calls.
    assert_same_end(finish(settings(tmp_path)), reference())


def test_ctrl_c_on_the_command_line_leaves_no_worker(tmp_path, reference):
    """The pipes end when the last process that holds them has ended: `run` comes back only if no worker stays."""
    data = settings(tmp_path, num_workers=2)
    yaml = run_helpers.write_yaml(tmp_path / "run.yaml", data)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **killer.environment("train", "interrupt")}
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "usb_active", "run", str(yaml)],
        env=environment, start_new_session=True, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert ended.returncode == 130 and ended.stderr == "\nusb-active: interrupted; the same command resumes from here\n", ended.stderr
    assert_same_end(finish(settings(tmp_path)), reference())


# ---------------------------------------------------------------------------------------------------------- another configuration
def test_more_cycles_later(tmp_path, reference):
    finish(settings(tmp_path, "run", {"cycles": 1}))
    assert_same_end(finish(settings(tmp_path)), reference())


@pytest.mark.parametrize(
    ("active", "usb", "shown"),
    [({}, {"lr": 0.1}, "lr: 0.05 -> 0.1"), ({"budget": 12}, {}, "active.budget: 10 -> 12")],
    ids=["lr", "budget"],
)
def test_changed_key_is_refused(tmp_path, reference, active, usb, shown):
    data, _ = killed(tmp_path, "train")
    assert shown in refusal(settings(tmp_path, "run", active, **usb))
    assert_same_end(finish(data), reference())
