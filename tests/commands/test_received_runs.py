"""Values of a received run that would hang, fill or garble the machine that looks at it: one line each, and bounds."""

from __future__ import annotations

import json
import os
import time

import numpy as np
import pytest
import run_helpers

from usb_active import cli
from usb_active.commands.predict import MAX_BATCH, within_machine
from usb_active.config.settings import config_from_dict
from usb_active.contracts.registry import PluginImportError
from usb_active.environment.import_guard import BrokenInstall
from usb_active.errors import UsageError, reason_of
from usb_active.records import LABELED, LabelRow, Query
from usb_active.storage.journal_checks import check_rows, find_edits
from usb_active.storage.run_dir import RunDir

LINE = {"cycle": 0, "num_labels": 10, "accuracy": 0.5, "best_accuracy": 0.5, "balanced_accuracy": 0.5, "evaluated_on": "test"}
BASE = {"algorithm": "fixmatch", "dataset": "digits", "active": {"initial": {"name": "random", "size": 10}, "cycles": 0}}
LONG = "\x1b[31m" + 300 * "x"


def received(folder, lines=(LINE,), **more):
    run = folder / "run"
    run.mkdir()
    run_helpers.write_yaml(run / "config.yaml", {**BASE, **more})
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run


# --- metrics ----------------------------------------------------------------------------------------------------------------
def test_a_cycle_of_any_number_takes_no_time(tmp_path):
    run = received(tmp_path, [LINE, {**LINE, "cycle": 10**12, "num_labels": 20}])
    began = time.monotonic()
    assert cli.main(["report", str(run)]) == 0
    assert time.monotonic() - began < 60


@pytest.mark.parametrize("command", ["report", "predict"])
def test_a_training_that_never_was_is_refused(tmp_path, capsys, command):
    run = received(tmp_path, [LINE, {**LINE, "cycle": 10**12}])
    (run / "cycle_000").mkdir()
    (run / "cycle_000" / "start.json").write_text(json.dumps({"cycle": 0, "journal_rows": 0}))
    (run / "keys.txt").write_text("")
    with RunDir.open(run, RunDir.read(run).config) as writing:
        writing.save_query(Query(0, np.arange(0), (), "random", ("cat",)))
    assert cli.main([command, str(run)]) == 2
    expected = f"{run / 'metrics.jsonl'}:2 is of cycle 1000000000000, which was never trained: no cycle_1000000000000/start.json; restore"
    assert expected in capsys.readouterr().err


# --- plugins ----------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("plugins", [5, "evil", [5], [["evil"]], {"evil": 1}, [None], True])
@pytest.mark.parametrize("command", ["report", "report --analysis", "predict", "labels"])
def test_plugins_that_are_no_list_of_texts(tmp_path, capsys, plugins, command):
    run = received(tmp_path, plugins=plugins)
    name, *options = command.split()
    code = cli.main([name, str(run), *options])
    err = capsys.readouterr().err
    assert "Traceback" not in err
    if name != "labels":
        assert code == 2 and f"{run / 'config.yaml'} is damaged (plugins" in err and err.count("\n") == 1


# --- workers, threads, batches ----------------------------------------------------------------------------------------------
def test_a_received_run_takes_no_more_than_there_is(tmp_path, caplog):
    cores = os.cpu_count()
    data = {**BASE, "num_workers": 100_000, "eval_batch_size": 10**7, "active": {**BASE["active"], "threads": 10**6}}
    config = within_machine(config_from_dict(data, base=tmp_path, source="config.yaml"))
    assert (config.usb["num_workers"], config.usb["eval_batch_size"], config.active.threads) == (cores, MAX_BATCH, cores)
    said = [line.partition(",")[0] for line in caplog.messages]
    assert said == ["num_workers: 100000", "eval_batch_size: 10000000", "active.threads: 1000000"]
    caplog.clear()
    small = config_from_dict({**BASE, "num_workers": 1, "eval_batch_size": 64}, base=tmp_path, source="config.yaml")
    assert within_machine(small) == small and not caplog.messages


# --- names of 0.1.0 ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["exp/one", "exp/one/two", "exp\\one", " blank "])
def test_a_run_under_a_path_resumes_under_it(tmp_path, name):
    data = {**BASE, "save_dir": str(tmp_path), "save_name": name}
    with pytest.raises(UsageError, match="save_name"):
        config_from_dict(data, base=tmp_path, source="new.yaml")
    run = tmp_path / name
    run.mkdir(parents=True)
    run_helpers.write_yaml(run / "config.yaml", data)
    with pytest.raises(UsageError, match="save_name"):
        config_from_dict(data, base=tmp_path, source="new.yaml")
    (run / "dataset.json").write_text("{}")
    assert config_from_dict(data, base=tmp_path, source="new.yaml").run_path == run
    # Its own config.yaml, wherever it has been moved to.
    moved = config_from_dict({**data, "save_dir": str(tmp_path / "gone")}, base=run, source="config.yaml")
    assert moved.usb["save_name"] == name


@pytest.mark.parametrize("name", ["..", "../run", "exp/../../run", "/etc", "."])
def test_no_run_lies_outside_of_save_dir(tmp_path, name):
    (tmp_path / "config.yaml").write_text("")
    (tmp_path / "dataset.json").write_text("{}")
    with pytest.raises(UsageError, match="save_name: must be a path below save_dir"):
        config_from_dict({**BASE, "save_dir": str(tmp_path / "run"), "save_name": name}, base=tmp_path, source="config.yaml")


# --- messages ---------------------------------------------------------------------------------------------------------------
def is_short(message: str) -> bool:
    return "\x1b" not in message and "xx" in message and 85 * "x" not in message


def test_messages_show_little_of_keys_and_labels(tmp_path, caplog, capsys):
    row = LabelRow(0, 0, LONG, LONG, LABELED, "random", "")
    messages = []
    for keys in (["other"], [LONG + "other"]):
        with pytest.raises(UsageError) as caught:
            check_rows(tmp_path, [row], keys)
        messages.append(str(caught.value))
    run = tmp_path / "run"
    with RunDir.open(run, {}) as writing:
        writing.write_keys([LONG])
        writing.append_rows([row])
        with pytest.raises(UsageError) as caught:
            writing.write_keys([LONG + "other"])
        messages.append(str(caught.value))
        writing.save_query(Query(0, np.arange(1), (LONG,), "random", ("cat",)))
        with pytest.raises(UsageError) as caught:
            find_edits(writing, "")
        messages.append(str(caught.value))
    (run / "keys.txt").write_text(json.dumps("other" + LONG) + "\n")
    (run / "labels.csv").unlink()
    assert cli.main(["labels", str(run)]) == 2
    messages.append(capsys.readouterr().err)
    (run / "metrics.jsonl").write_bytes(LONG.encode())
    RunDir.read(run).metrics()
    messages.append(caplog.messages[-1])
    assert all(map(is_short, messages)), messages


@pytest.mark.parametrize("kind", [UsageError, BrokenInstall, PluginImportError])
def test_what_a_worker_refuses_is_its_last_message(capsys, kind):
    name = f"{kind.__module__}.{kind.__qualname__}"
    text = (
        f"Caught {kind.__name__} in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n  File ...\n"
        f"{UsageError.__module__}.UsageError: the cause\n\nThe above exception was the direct cause of the following exception:\n\n"
        f"Traceback (most recent call last):\n  raise it\n{name}: one line\nand another\n"
    )

    def work():
        raise kind(text)

    assert cli.guarded(work) == 2
    assert capsys.readouterr().err == "usb-active: error: one line\nusb-active: error: and another\n"


def test_reasons_are_one_line():
    assert reason_of(RuntimeError("no\x1b\nmore")) == "RuntimeError: no\\x1b"
    assert reason_of(UsageError("one\ntwo")) == "one two"
    assert len(reason_of(KeyError(1000 * "x"))) == len("KeyError: ") + 200
