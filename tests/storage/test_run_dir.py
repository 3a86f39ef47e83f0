"""The run directory: nothing received is lost, whatever kills the writer or fills the disk."""

from __future__ import annotations

import errno
import json
import logging
import os
import signal
import stat
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from usb_active.errors import UsageError
from usb_active.records import LabelRow, Query
from usb_active.storage import durable
from usb_active.storage.durable import atomic_write, remove_leftovers
from usb_active.storage.journal import append_journal, read_journal
from usb_active.storage.run_dir import RunDir, check_reopening, differences, utc_now

CONFIG = {"algorithm": "fixmatch", "lr": 0.03, "num_workers": 2, "active": {"cycles": 3, "oracle": {"name": "csv"}}}
ROW = LabelRow(0, 5, "train/00005", "cat", "labeled", "random", "2024-05-01T12:00:00+00:00")
ROWS = [ROW, replace(ROW, index=6, label="", status="skipped"), replace(ROW, cycle=1, index=7, label="dog, large")]


@pytest.fixture
def run(tmp_path):
    with RunDir.open(tmp_path / "run", CONFIG) as run:
        yield run


needs_proc = pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="names the folder of a descriptor")


def failing(number):
    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    return fail


def query(cycle=1, **changes):
    fields = dict(cycle=cycle, idx=np.array([4, 2, 9]), keys=("d", "b", "i"), acquisition="margin", class_names=("x", "y"))
    return Query(**{**fields, **changes})


# Opening


def test_open_creates_and_resumes(tmp_path):
    path = tmp_path / "saved" / "run"
    with RunDir.open(path, CONFIG) as run:
        run.append_rows(ROWS)
    with RunDir.open(path, CONFIG) as run:
        assert run.rows() == ROWS
        assert run.config == CONFIG


def test_read_needs_a_run_and_writes_nothing(run, tmp_path):
    with pytest.raises(UsageError, match="no config.yaml"):
        RunDir.read(tmp_path)
    reader = RunDir.read(run.path)
    writes = (
        lambda: reader.append_rows(ROWS),
        lambda: reader.write_keys(["a"]),
        lambda: reader.save_query(query()),
        lambda: reader.write_state({}),
        lambda: reader.append_metrics({"cycle": 0}),
    )
    for write in writes:
        with pytest.raises(UsageError, match="opened for reading"):
            write()
    assert sorted(os.listdir(run.path)) == ["config.yaml", "lock"]


def test_a_folder_of_something_else_is_refused_and_untouched(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(UsageError, match="is not empty and no run.*thesis.tex"):
        RunDir.open(tmp_path, CONFIG)
    assert os.listdir(tmp_path) == ["thesis.tex"]


def test_a_file_in_the_way(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(UsageError, match="run is a file"):
        RunDir.open(tmp_path / "run", CONFIG)
    with pytest.raises(UsageError, match="cannot make the folder"):
        RunDir.open(tmp_path / "run" / "below", CONFIG)


def test_a_start_that_died_before_its_config_resumes(tmp_path):
    (tmp_path / "lock").write_text("123\n")
    (tmp_path / ".config.yaml.123.tmp").write_text("algor")
    with RunDir.open(tmp_path, CONFIG) as run:
        assert run.config == CONFIG


def test_a_read_only_parent_gives_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "mkdir", failing(errno.EROFS))
    with pytest.raises(UsageError, match="cannot make the folder .*run: Read-only file system") as caught:
        RunDir.open(tmp_path / "run", CONFIG)
    assert "\n" not in str(caught.value)


# Configuration


def test_another_configuration_is_refused_with_the_difference(tmp_path):
    RunDir.open(tmp_path, CONFIG).close()
    before = (tmp_path / "config.yaml").read_bytes()
    changed = {**CONFIG, "lr": 0.1, "active": {"cycles": 9, "oracle": {"name": "dataset"}, "budget": 5}}
    with pytest.raises(UsageError) as caught:
        RunDir.open(tmp_path, changed, free_keys=("active.cycles",))
    assert str(caught.value).splitlines()[1:] == [
        "  lr: 0.03 -> 0.1",
        '  active.oracle.name: "csv" -> "dataset"',
        "  active.budget: (not set) -> 5",
    ]
    assert (tmp_path / "config.yaml").read_bytes() == before
    RunDir.open(tmp_path, CONFIG).close()  # the refusal gave the lock back


def test_many_differences_are_shortened(tmp_path):
    RunDir.open(tmp_path, {f"k{i}": 0 for i in range(8)}).close()
    with pytest.raises(UsageError) as caught:
        RunDir.open(tmp_path, {f"k{i}": 1 for i in range(8)})
    assert str(caught.value).splitlines()[-1] == "  and 3 more"
    assert len(str(caught.value).splitlines()) == 1 + 5 + 1


def test_free_keys_may_differ_and_are_kept(tmp_path):
    RunDir.open(tmp_path, CONFIG).close()
    changed = {**CONFIG, "num_workers": 0, "active": {"cycles": 9, "oracle": {"name": "csv", "accept_partial": True}}}
    free = ("num_workers", "active.cycles", "active.oracle.accept_partial")
    with RunDir.open(tmp_path, changed, free_keys=free) as run:
        assert run.config == changed


def test_a_free_key_frees_what_is_below_and_not_what_begins_alike(tmp_path):
    RunDir.open(tmp_path, {"a": {"b": 1}, "ab": 1}).close()
    RunDir.open(tmp_path, {"a": {"b": 2}, "ab": 1}, free_keys=("a",)).close()
    with pytest.raises(UsageError, match="ab: 1 -> 2"):
        RunDir.open(tmp_path, {"a": {"b": 2}, "ab": 2}, free_keys=("a",))


def test_lists_and_nan_are_no_difference_to_themselves(tmp_path):
    config = {"betas": [0.9, 0.999], "limit": float("nan"), "tiny": 1e-5, "text": "1e-5", "no": None}
    RunDir.open(tmp_path, config).close()
    RunDir.open(tmp_path, config).close()
    assert differences({"a": 1}, {"a": None}) == [("a", 1, None)]


def test_paths_that_lead_to_the_same_place_are_no_difference(tmp_path, monkeypatch):
    """Relative in a run of version 0.1.0, absolute now; one after the other: what is asked before a start, and the start itself."""
    monkeypatch.chdir(tmp_path)
    old = {"pretrain_path": "w.pth", "plugins": ["package", "own/mine.py"]}
    now = {"pretrain_path": str(tmp_path / "w.pth"), "plugins": ["package", str(tmp_path / "own/mine.py")]}
    for number, changed in enumerate(({}, {"pretrain_path": str(tmp_path / "v.pth")}, {"plugins": ["other", now["plugins"][1]]})):
        path, new = tmp_path / str(number), {**now, **changed}
        RunDir.open(path, old).close()
        for way in (check_reopening, RunDir.open):
            with pytest.raises(UsageError, match=f"{next(iter(changed))}: ") if changed else nullcontext():
                (way(path, new) or RunDir.read(path)).close()
    assert RunDir.read(tmp_path / "0").config == now


def test_a_damaged_config_is_named(tmp_path):
    RunDir.open(tmp_path, CONFIG).close()
    for content in ("a: [", "", "- 1", b"\xff\xfe\xfa"):
        (tmp_path / "config.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(UsageError, match="config.yaml is damaged") as caught:
            RunDir.open(tmp_path, CONFIG)
        assert "\n" not in str(caught.value)


# The lock

# Its forked child stands for a loader's worker: it lives on when the holder is killed, until its input ends.
HOLDER = """
import os, sys
from usb_active.storage.run_dir import RunDir
run = RunDir.open(sys.argv[1], {})
if os.fork():
    print("locked", flush=True)
sys.stdin.read()
"""


def test_a_second_process_is_refused_and_a_killed_one_lets_go_whatever_its_children_do(tmp_path):
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout.readline() == "locked\n"
            with pytest.raises(UsageError, match=rf"another process \(pid {holder.pid}\) uses .*") as caught:
                RunDir.open(tmp_path, {})
            assert "\n" not in str(caught.value)
        finally:
            holder.send_signal(signal.SIGKILL)
            holder.wait()
        RunDir.open(tmp_path, {}).close()


# Holds the lock until it is told.
LOOKER = """
import fcntl, sys
file = open(sys.argv[1], "r+")
fcntl.lockf(file, fcntl.LOCK_EX)
print("locked", flush=True)
sys.stdin.readline()
fcntl.lockf(file, fcntl.LOCK_UN)
print("free", flush=True)
"""


def test_a_process_that_only_looks_at_the_lock_is_in_nobodys_way(tmp_path, monkeypatch):
    RunDir.open(tmp_path, {}).close()
    command = [sys.executable, "-c", LOOKER, str(tmp_path / "lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as looker:
        assert looker.stdout.readline() == "locked\n"
        pauses = []

        def pause(seconds):
            pauses.append(seconds)
            print(file=looker.stdin, flush=True)
            assert looker.stdout.readline() == "free\n"

        monkeypatch.setattr(durable.time, "sleep", pause)
        RunDir.open(tmp_path, {}).close()
    assert len(pauses) == 1


def test_the_lock_file_names_its_holder_alone(tmp_path):
    (tmp_path / "lock").write_text("12345678901234\n")
    RunDir.open(tmp_path, {}).close()
    # Not before `close`: reading the file would release the lock.
    assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"


def test_the_same_process_is_refused_too_and_keeps_its_lock(run):
    with pytest.raises(UsageError, match=f"this process .pid {os.getpid()}. already uses"):
        RunDir.open(run.path, CONFIG)
    RunDir.read(run.path).close()
    code = "import sys; from usb_active.storage.run_dir import RunDir; RunDir.open(sys.argv[1], {})"
    other = subprocess.run([sys.executable, "-c", code, str(run.path)], capture_output=True, text=True, check=False)
    assert f"UsageError: another process (pid {os.getpid()})" in other.stderr


def test_close_gives_the_lock_back_and_ends_writing(run):
    run.close()
    run.close()
    with pytest.raises(UsageError, match="is closed"):
        run.append_rows(ROWS)
    RunDir.open(run.path, CONFIG).close()


# The journal


def test_rows_come_back_whatever_they_hold(run):
    odd = [
        replace(ROW, key='a,"b"\n c\r\\n', label="x\ny"),
        replace(ROW, key="naïve/ünï/\udcff.png", label=" lead, 'quoted' "),
        replace(ROW, key="", label="\\"),
    ]
    run.append_rows(odd[:1])
    run.append_rows(odd[1:])
    assert run.rows() == odd
    assert (run.path / "labels.csv").read_bytes().count(b"\n") == 1 + len(odd)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(st.tuples(st.text(), st.text(min_size=1)), min_size=1, max_size=4))
def test_any_text_round_trips(tmp_path, texts):
    path = tmp_path / "labels.csv"
    path.unlink(missing_ok=True)
    encodable = [
        (key, label) for key, label in texts if not any("\ud800" <= char <= "\udfff" or char == "\0" for char in key + label)
    ]
    rows = [replace(ROW, key=key, label=label) for key, label in encodable]
    append_journal(path, rows)
    assert read_journal(path) == rows


def test_rows_are_not_cached_between_processes_views(run):
    reader = RunDir.read(run.path)
    assert reader.rows() == []
    run.append_rows(ROWS)
    assert reader.rows() == ROWS


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"label": ""}, "label is '' though status is 'labeled'"),
        ({"status": "done"}, "status is 'done'"),
        ({"index": -1}, "index is '-1'"),
        ({"cycle": 1.5}, "cycle is '1.5'"),
    ],
)
def test_a_row_that_is_none_is_not_written(run, change, what):
    with pytest.raises(UsageError, match=what):
        run.append_rows([ROW, replace(ROW, **change)])
    assert not (run.path / "labels.csv").exists()


def test_every_torn_end_is_dropped_with_a_warning_and_overwritten(tmp_path, caplog):
    """The file is cut at every byte of its last row, and at every byte of its header."""
    path = tmp_path / "labels.csv"
    last = replace(ROW, index=8, key="naïve, käy\n", label="ü")
    append_journal(path, ROWS)
    start = path.stat().st_size
    append_journal(path, [last])
    data = path.read_bytes()
    header = data.index(b"\n") + 1
    for end in [*range(header), *range(start, len(data))]:
        path.write_bytes(data[:end])
        caplog.clear()
        kept = ROWS if end >= start else []
        torn = end not in (0, start)
        assert read_journal(path) == kept
        assert len(caplog.records) == torn
        append_journal(path, [last])
        assert len(caplog.records) == 2 * torn
        assert read_journal(path) == [*kept, last]
        if kept:
            assert path.read_bytes() == data


def test_opening_cuts_the_torn_row_and_reading_does_not(run, caplog):
    run.append_rows(ROWS)
    run.close()
    journal = run.path / "labels.csv"
    whole = journal.read_bytes()
    journal.write_bytes(whole + b"1,9,train/00009,c")
    assert RunDir.read(run.path).rows() == ROWS
    assert journal.read_bytes() != whole
    with RunDir.open(run.path, CONFIG), caplog.at_level(logging.WARNING):
        assert journal.read_bytes() == whole
    assert "the last row is torn" in caplog.text and "1,9,train/00009,c" in caplog.text


@pytest.mark.parametrize(
    ("old", "new", "line", "what"),
    [
        (b"skipped", b"skippt", 3, "status is 'skippt'"),
        (b"0,6,", b"0,six,", 3, "index is 'six'"),
        (b"0,6,", b"0,", 3, "6 fields, must be 7"),
        (b'"dog, large"', b'"dog, large', 4, "unexpected end of data"),
        (b'"dog, large"', b'"dog" large', 4, "expected after"),
        (b"cat,labeled", b",labeled", 2, "label is '' though status is 'labeled'"),
        (b"cycle,index", b"cycle;index", 1, "the first line must be cycle,index,key"),
        (b"0,6,", b"\n0,6,", 3, "0 fields"),
    ],
)
def test_damage_elsewhere_is_an_error_that_names_the_row_and_deletes_nothing(run, old, new, line, what):
    run.append_rows(ROWS)
    journal = run.path / "labels.csv"
    damaged = journal.read_bytes().replace(old, new)
    journal.write_bytes(damaged)
    with pytest.raises(UsageError, match=rf"labels\.csv:{line}: damaged.*{what}"):
        run.rows()
    if line == 1:
        with pytest.raises(UsageError, match=r"labels\.csv:1"):
            run.append_rows(ROWS)
    assert journal.read_bytes() == damaged


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
@pytest.mark.parametrize("call", ["write", "fsync"])
def test_a_failing_disk_leaves_the_journal_as_it_was(run, monkeypatch, call, number):
    run.append_rows(ROWS)
    before = (run.path / "labels.csv").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(os, call, failing(number))
        with pytest.raises(UsageError, match="cannot write .*labels.csv: " + os.strerror(number)) as caught:
            run.append_rows([ROW])
    assert "\n" not in str(caught.value)
    assert (run.path / "labels.csv").read_bytes() == before
    run.append_rows([ROW])
    assert run.rows() == [*ROWS, ROW]


def test_a_disk_that_fills_in_the_middle_of_a_row(run, monkeypatch):
    run.append_rows(ROWS)
    before = (run.path / "labels.csv").read_bytes()
    write, written = os.write, []

    def fills(fd, data):
        if written:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(write(fd, bytes(data)[:7]))
        return written[0]

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", fills)
        with pytest.raises(UsageError, match="No space left on device"):
            run.append_rows([ROW])
        assert written == [7]
    assert (run.path / "labels.csv").read_bytes() == before


def test_short_writes_are_continued(run, monkeypatch):
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, bytes(data)[:5]))
    run.append_rows(ROWS)
    assert run.rows() == ROWS


def test_a_disk_that_cannot_even_truncate_leaves_a_row_that_is_dropped_later(run, monkeypatch):
    run.append_rows(ROWS)
    write = os.write

    def torn(fd, data):
        write(fd, bytes(data)[:7])
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", torn)
        patch.setattr(os, "ftruncate", failing(errno.EIO))
        with pytest.raises(UsageError, match="Input/output error"):
            run.append_rows([ROW])
    assert run.rows() == ROWS
    run.append_rows([ROW])
    assert run.rows() == [*ROWS, ROW]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs the device that is always full")
def test_a_disk_that_is_really_full(tmp_path):
    """Every write to /dev/full fails with ENOSPC, so a temporary file that leads there is a full disk."""
    path = tmp_path / "file"
    path.write_bytes(b"old")
    os.symlink("/dev/full", tmp_path / f".file.{os.getpid()}.tmp")
    with pytest.raises(UsageError, match="cannot write .*file: No space left on device"):
        atomic_write(path, lambda file: file.write(b"new"))
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_many_rows_of_a_large_pool(run):
    rows = [replace(ROW, index=i, key=f"train/{i:07d}.png") for i in range(100_000)]
    run.append_rows(rows)
    assert run.rows() == rows


def test_utc_now_has_seconds_and_a_zone():
    assert utc_now()[19:] == "+00:00"


# Atomic files


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_atomic_write_keeps_the_old_file_and_no_other(tmp_path, monkeypatch, call):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with monkeypatch.context() as patch:
        patch.setattr(os, call, failing(errno.ENOSPC))
        with pytest.raises(UsageError, match="cannot write .*file: No space left on device"):
            atomic_write(path, lambda file: file.write(b"new"))
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_atomic_write_hands_on_what_the_writer_raises(tmp_path):
    def writer(file):
        file.write(b"half")
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        atomic_write(tmp_path / "file", writer)
    assert os.listdir(tmp_path) == []


@pytest.fixture
def events(monkeypatch):
    """What is synced and renamed, in order: "file", "rename", or the name of a folder."""
    events = []
    fsync, rename = os.fsync, os.replace

    def sync(fd):
        is_folder = stat.S_ISDIR(os.fstat(fd).st_mode)
        events.append(os.path.basename(os.readlink(f"/proc/self/fd/{fd}")) if is_folder else "file")
        fsync(fd)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "replace", lambda *names: (events.append("rename"), rename(*names)))
    return events


@needs_proc
def test_new_folders_and_the_first_row_are_synced_into_their_folders(tmp_path, events):
    (tmp_path / "saved").mkdir()
    with RunDir.open(tmp_path / "saved" / "a" / "run", CONFIG) as run:
        assert sorted(events[:2]) == ["a", "saved"]
        assert events[2:] == ["file", "rename", "run"]
        run.append_rows(ROWS)
        run.append_rows(ROWS)
    assert events[5:] == ["file", "run", "file"]


@needs_proc
def test_atomic_write_syncs_content_before_the_name_and_the_folder_after(tmp_path, events):
    atomic_write(tmp_path / "file", lambda file: file.write(b"new"))
    assert events == ["file", "rename", tmp_path.name]
    atomic_write(tmp_path / "file", lambda file: file.write(b"newer"), durable=False)
    assert events[3:] == ["rename"]
    assert (tmp_path / "file").read_bytes() == b"newer"


# Keys


def test_keys_come_back_and_grow_at_the_end_only(run):
    keys = ["b/ü.png", "a\n\u2028.png", '"quoted"', "\udcff", ""]
    assert run.keys() is None
    run.write_keys(keys)
    assert run.keys() == keys
    run.write_keys([*keys, "new"])
    assert run.keys() == [*keys, "new"]
    refused = {"now there is none": keys, "sample 0 was 'b/ü.png', now it is": ["x", *keys[1:], "new"]}
    for what, changed in refused.items():
        with pytest.raises(UsageError, match=what):
            run.write_keys(changed)
    assert run.keys() == [*keys, "new"]


def test_keys_must_be_distinct(run):
    with pytest.raises(UsageError, match="several samples of one key: 'a'; "):
        run.write_keys(["a", "b", "a"])


def test_an_empty_pool_has_keys(run):
    run.write_keys([])
    assert run.keys() == []


def test_unchanged_keys_are_not_written_again(run, monkeypatch):
    run.write_keys(["a"])
    monkeypatch.setattr(os, "replace", failing(errno.ENOSPC))
    run.write_keys(["a"])
    with pytest.raises(UsageError, match=r"cannot write .*keys\.txt: No space left"):
        run.write_keys(["a", "b"])
    assert run.keys() == ["a"]


def test_damaged_keys_are_named_with_their_line(run):
    (run.path / "keys.txt").write_text('"a"\n"b\n"c"\n')
    with pytest.raises(UsageError, match=r"keys\.txt is damaged \(Invalid control character at: line 2 .*; restore it from a copy"):
        run.keys()
    (run.path / "keys.txt").write_text('"a"\n7\n')
    with pytest.raises(UsageError, match=r"keys\.txt is damaged"):
        run.keys()


# What json.loads answers with another error than that the text is no JSON.
ODD_JSON = {"nested": "[" * 200_000, "a number of 5,000 digits": "1" * 5000, "no UTF-8": "\udcff"}


@pytest.mark.parametrize("text", ODD_JSON.values(), ids=ODD_JSON)
def test_json_that_no_reader_takes_is_one_line(run, text):
    data = text.encode("utf-8", "surrogateescape")
    for name, read in {"keys.txt": run.keys, "dataset.json": lambda: run.read_json("dataset.json"), "metrics.jsonl": run.metrics}.items():
        (run.path / name).write_bytes(data + b"\n")
        with pytest.raises(UsageError) as caught:
            read()
        assert f"{name}" in str(caught.value) and " is damaged (" in str(caught.value) and "\n" not in str(caught.value)
    (run.path / "state.json").write_bytes(data)
    assert run.state() is None


def test_a_million_keys(run):
    keys = [f"train/{i:07d}.png" for i in range(1_000_000)]
    run.write_keys(keys)
    assert run.keys() == keys


# Queries


def test_a_query_comes_back(run):
    probs = np.array([[0.25, 0.75], [1, 0], [0.5, 0.5]], dtype=np.float32)
    assert run.query(1) is None
    run.save_query(query(probs=probs))
    run.save_query(query(cycle=2))
    back = run.query(1)
    assert back.idx.dtype == np.int64 and back.idx.tolist() == [4, 2, 9]
    assert (back.cycle, back.keys, back.acquisition, back.class_names) == (1, ("d", "b", "i"), "margin", ("x", "y"))
    assert np.array_equal(back.probs, probs)
    assert run.query(2).probs is None


def test_a_query_is_never_changed(run):
    run.save_query(query())
    run.save_query(query())
    for change in ({"idx": np.array([4, 2, 8])}, {"acquisition": "random"}, {"class_names": ("x", "z")}):
        with pytest.raises(UsageError, match=r"cycle_001\.json holds other picks"):
            run.save_query(query(**change))
    assert run.query(1).idx.tolist() == [4, 2, 9]


def test_probabilities_of_an_attempt_that_died_are_not_taken(run, monkeypatch):
    """The disk fills after the probabilities, before the picks; the next attempt has no probabilities."""
    rename = os.replace

    def fills(old, new):
        if str(new).endswith(".json"):
            raise OSError(errno.ENOSPC, "No space left on device")
        rename(old, new)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fills)
        with pytest.raises(UsageError, match="No space left"):
            run.save_query(query(probs=np.ones((3, 2))))
    assert os.listdir(run.path / "queries") == ["cycle_001.probs.npy"]
    assert run.query(1) is None
    run.save_query(query())
    assert run.query(1).probs is None


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ("{", "Expecting"),
        ("[]", "no object in it"),
        ({"idx": None}, "idx must be whole numbers"),
        ({"idx": [4, 2, True]}, "idx must be whole numbers"),
        ({"idx": [4, 2, 2]}, "twice"),
        ({"idx": [4, 2, 1.5]}, "whole numbers"),
        ({"idx": [4, 2, 2**63]}, "idx must be whole numbers of 64 bits"),
        ({"idx": [4, 2, -(10**30)]}, "idx must be whole numbers of 64 bits"),
        ({"keys": ["d"]}, "1 keys for 3 idx"),
        ({"cycle": 7}, "cycle is 7, must be 1"),
        ({"class_names": "xy"}, "class_names must be texts"),
        ({"acquisition": None}, "acquisition must be a text"),
        ({"expects": 3}, "expects must be a text"),
    ],
)
def test_a_damaged_query_is_named(run, change, what):
    run.save_query(query())
    path = run.path / "queries" / "cycle_001.json"
    path.write_text(change if isinstance(change, str) else json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(UsageError, match=rf"cycle_001\.json is damaged.*{what}"):
        run.query(1)


@pytest.mark.parametrize("field", ["cycle", "idx", "keys", "class_names", "acquisition"])
def test_a_query_without_a_field_is_named(run, field):
    run.save_query(query())
    path = run.path / "queries" / "cycle_001.json"
    record = json.loads(path.read_text())
    del record[field]
    path.write_text(json.dumps(record))
    with pytest.raises(UsageError, match=rf"cycle_001\.json is damaged \(no '{field}'\)"):
        run.query(1)


def test_damaged_or_missing_probabilities_are_named(run):
    run.save_query(query(probs=np.ones((3, 2))))
    path = run.path / "queries" / "cycle_001.probs.npy"
    np.save(path, np.ones((3, 5)))
    with pytest.raises(UsageError, match=r"cycle_001\.probs\.npy is damaged or missing .*\(3, 5\), must be \(3, 2\)"):
        run.query(1)
    path.write_bytes(b"\x93NUM")
    with pytest.raises(UsageError, match=r"cycle_001\.probs\.npy is damaged or missing"):
        run.query(1)
    path.unlink()
    with pytest.raises(UsageError, match=r"set \"probs\" to false in cycle_001\.json"):
        run.query(1)


def test_a_query_of_a_hundred_thousand(run):
    idx = np.random.default_rng(0).permutation(100_000)
    run.save_query(query(idx=idx, keys=tuple(map(str, idx))))
    assert np.array_equal(run.query(1).idx, idx)


# State, other JSON files, metrics


def test_json_files(run):
    assert run.read_json("cycle_000/start.json") is None
    run.write_json("cycle_000/start.json", {"journal_rows": np.int64(3), "scores": np.array([0.5, 1.0])})
    assert run.read_json("cycle_000/start.json") == {"journal_rows": 3, "scores": [0.5, 1.0]}
    assert run.cycle_path(0) == run.path / "cycle_000"
    for content in (b"{", b"", b"\xff"):
        (run.cycle_path(0) / "start.json").write_bytes(content)
        with pytest.raises(UsageError, match=r"cycle_000/start\.json is damaged .*; restore it"):
            run.read_json("cycle_000/start.json")


def test_a_damaged_state_is_warned_about_and_written_anew(run, caplog):
    assert run.state() is None
    run.write_state({"cycle": 2})
    assert run.state() == {"cycle": 2} and not caplog.records
    for content in ('{"cycle": ', "[]"):
        (run.path / "state.json").write_text(content)
        caplog.clear()
        assert run.state() is None
        assert len(caplog.records) == 1 and "it is derived and will be rebuilt" in caplog.text
    run.write_state({"cycle": 3})
    assert run.state() == {"cycle": 3}


def test_metrics_are_one_line_a_cycle_in_order(run):
    assert run.metrics() == []
    for record in ({"cycle": 1, "accuracy": 0.5}, {"cycle": 1, "accuracy": 0.75}, {"cycle": 0, "accuracy": np.float32(0.25)}):
        run.append_metrics(record)
    assert run.metrics() == [{"cycle": 0, "accuracy": 0.25}, {"cycle": 1, "accuracy": 0.75}]
    lines = (run.path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["cycle"] for line in lines] == [0, 1]


def test_a_torn_last_metrics_line_is_dropped_and_other_damage_named(run, caplog):
    run.append_metrics({"cycle": 0})
    path = run.path / "metrics.jsonl"
    path.write_text(path.read_text() + '{"cycle": 1')
    assert run.metrics() == [{"cycle": 0}] and "torn" in caplog.text
    run.append_metrics({"cycle": 1})
    assert path.read_text() == '{"cycle": 0}\n{"cycle": 1}\n'
    for bad in ("{\n", "{}\n"):
        path.write_text('{"cycle": 0}\n' + bad + '{"cycle": 2}\n')
        with pytest.raises(UsageError, match=r"metrics\.jsonl:2 is damaged"):
            run.metrics()


def test_light_to_import():
    modules = "usb_active.builtin.oracles, usb_active.pool.pool, usb_active.storage.run_dir"
    code = f"import sys, {modules}; print({{'torch', 'semilearn', 'PIL'}} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


@pytest.mark.parametrize("name", ["labels.csv", "queries/query.json", "queries/cycle_001/17.png", "pretrain/scratch/net.pth"])
def test_what_a_killed_write_left_goes_however_deep_it_lies(tmp_path, name):
    left = (tmp_path / name).with_name(f".{Path(name).name}.4711.tmp")
    left.parent.mkdir(parents=True, exist_ok=True)
    left.write_text("half of it")
    somebodys = left.with_name(".notes.tmp")
    somebodys.write_text("kept")
    remove_leftovers(tmp_path)
    assert not left.exists() and somebodys.exists()


# Metrics


@pytest.mark.parametrize("value", [float("nan"), float("inf"), np.float64("nan")])
def test_a_line_of_metrics_that_is_no_number_is_not_written(run, value):
    run.append_metrics({"cycle": 0, "accuracy": np.float32(0.5), "log": {"gap": float("nan")}})
    before = (run.path / "metrics.jsonl").read_bytes()
    said = r"metrics\.jsonl: the line of cycle 1 .*accuracy: input should be a finite number.*nothing was written"
    with pytest.raises(UsageError, match=said):
        run.append_metrics({"cycle": 1, "accuracy": value})
    assert (run.path / "metrics.jsonl").read_bytes() == before and len(run.metrics()) == 1
