"""Runs killed at random moments and started again by the same command: how often do they end otherwise than uninterrupted ones?

    python benchmarks/kills.py --kills 50 --seed 0 --root runs/kills

Each configuration is run once without a kill, as its reference. Then, always for the configuration with the fewest kills, a run is
killed with SIGKILL (it and its workers) at a moment drawn uniformly over the time that the reference took, started again, killed again
at another such moment, and so on until it ends before its moment. Every file of its directory is then compared with the reference,
entry by entry and bit for bit, but for times, the run's number and the report (see tests/run_comparison.py); and no row of labels.csv that
was there at a kill may have changed since, times included. Under the oracle `csv` this script is the person: whenever the command waits
for labels, half of those that are missing at first, and then the rest, are filled in from the data set.

Prints a line for each kill and a table in Markdown; exit code 1 when anything differs. What is done is kept in ROOT/kills.jsonl: the same
command resumes where it stopped. The processes are forked from a server that has imported USB, so that a start takes little time.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from hashlib import sha256
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import killer  # noqa: E402 — it lies beside the tests, whose folder is no package
import run_comparison  # noqa: E402 — as above
import run_helpers  # noqa: E402 — as above

WAITING = 3
REFERENCE = "reference"
# Differences of one run that are printed.
SHOWN = 20

# Name → the active: block and USB's keys, over those of run_helpers.settings; each with `num_workers` 0 and 2.
CONFIGURATIONS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "assl, validation": ({"acquisition": "assl", "validation": 0.25}, {"algorithm": "fixmatch"}),
    "as3l, simsiam, updated prior": (
        {
            "pretrain": {"name": "simsiam", "epochs": 6, "batch_size": 256, "lr": 0.5, "projection_dim": 32, "prediction_dim": 8},
            "features": "pretrain",
            "initial": {"name": "as3l", "size": 20, "clusterings": 2, "epochs": 5},
            "acquisition": {"name": "as3l", "clusterings": 2, "epochs": 5},
            "prior": {"name": "as3l", "clusterings": 2, "epochs": 5, "until_iter": 7, "then": "update", "update_every": 5},
        },
        {},
    ),
    "lp, jlp, deepcluster": (
        {"pretrain": {"name": "deepcluster", "epochs": 4, "batch_size": 64, "lr": 0.1}, "acquisition": "jlp"},
        {
            "algorithm": "lp", "epoch": 4, "batch_size": 24, "lp_labeled": 8, "lp_supervised_epochs": 1, "lp_epoch": 0.1,
            "include_lb_to_ulb": False,
        },
    ),
    "margin, csv": ({"oracle": "csv"}, {}),
}  # fmt: skip
COMMON = {"num_train_iter": 24, "num_eval_iter": 6, "num_log_iter": 6, "epoch": 2}
WORKERS = (0, 2)


def settings(folder: Path, name: str, workers: int, save_name: str) -> dict[str, Any]:
    """The YAML of a run. Without workers all checkpoints are kept, with workers those of the last cycle."""
    active, usb = CONFIGURATIONS[name]
    block = {"cycles": 2, "keep": "last" if workers else "all", **active}
    if "pretrain" in block:
        block["pretrain"] = {**block["pretrain"], "num_workers": workers}
    return run_helpers.settings(folder, save_name, block, **{**COMMON, **usb, "num_workers": workers})


# ------------------------------------------------------------------------------------------ one run
class Subject:
    """A configuration: the settings of its runs, and how a run of it is brought to its end or killed before."""

    def __init__(self, root: Path, name: str, workers: int):
        self.name = f"{name}, workers {workers}"
        self._settings = lambda save_name: settings(self._folder, name, workers, save_name)
        self._folder = root / self.name.replace(", ", "-").replace(" ", "_")
        self._folder.mkdir(parents=True, exist_ok=True)

    def path(self, save_name: str) -> Path:
        """The directory of a run."""
        return self._folder / save_name

    def attempt(self, save_name: str, seconds: float) -> tuple[int, int, float]:
        """Give the command, and again after each wait for labels, until it ends or is killed after so many seconds.

        Returns its last exit code, how often it was given, and how long it ran.
        """
        data, starts, took = self._settings(save_name), 0, 0.0
        while True:
            code, ran = _start(data, max(0.0, seconds - took))
            starts, took = starts + 1, took + ran
            if code != WAITING:
                return code, starts, took
            answer(self.path(save_name))

    def complaints(self, save_name: str, code: int) -> list[str]:
        """What is wrong with how the last command ended: its exit code, or lines on stderr that are no warnings."""
        lines = [line for line in killer.said(self._settings(save_name))[1].splitlines() if line.strip()]
        wrong = lines if code else [line for line in lines if not line.startswith("usb-active: warning: ")]
        return [f"exit code {code}: {' | '.join(wrong)[-600:]}"] if code or wrong else []


def _start(data: Mapping[str, Any], seconds: float) -> tuple[int, float]:
    """The exit code of a process that is killed after so many seconds, with its group, and how long it ran."""
    process = killer.start(data)
    began = time.monotonic()
    try:
        process.join(min(seconds, killer.LIMIT_SECONDS))
        if process.exitcode is None and seconds > killer.LIMIT_SECONDS:
            raise SystemExit(f"{data['save_name']}: still running after {killer.LIMIT_SECONDS} s")
    finally:
        _kill(process)
    return process.exitcode, time.monotonic() - began


def _kill(process: BaseProcess) -> None:
    if process.exitcode is None:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            # It has no group of its own yet.
            process.kill()
        process.join()


def answer(run: Path) -> None:
    """Fill in the true labels of the last query: half of the rows, or where some are filled the rest."""
    path = sorted((run / "queries").glob("cycle_*.csv"))[-1]
    with open(path, encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    empty = [row for row in rows if not row["label"]]
    names, targets = truth()
    for row in empty[: len(rows) // 2 if len(empty) == len(rows) else None]:
        row["label"] = names[targets[int(row["index"])]]
    with open(path, "w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)


def truth() -> tuple[list[str], list[int]]:
    """The names of the classes and the class of every sample of digits."""
    from usb_active.loop.setup import build_dataset

    dataset = build_dataset(run_helpers.config_of(run_helpers.settings(Path.cwd())))
    return list(dataset.class_names), dataset.targets.tolist()


def how_far(run: Path) -> str:
    """What a run that was killed has on disk."""
    if not (run / "config.yaml").exists():
        return "nothing yet"
    epochs = sum(len(path.read_text().splitlines()) for path in run.glob("pretrain/scratch/*.jsonl"))
    trained = f"{epochs} epochs of pretraining, " if epochs else ""
    labels = len(whole_rows(run).splitlines()[1:])
    stage = "no query"
    for query in sorted(run.glob("queries/cycle_???.json")):
        cycle = query.name.removesuffix(".json")
        folder = run / cycle
        done, begun, kept = ((folder / name).exists() for name in ("done.json", "start.json", "latest_model.pth"))
        step = run_helpers.checkpoint(run, int(cycle[-3:]))["it"] if kept else 0
        stage = f"{cycle} " + ("done" if done else f"in training, checkpoint of step {step}" if begun else "asked")
    return f"{trained}{labels} labels, {stage}"


def whole_rows(run: Path) -> bytes:
    """labels.csv without a row that was being written."""
    path = run / "labels.csv"
    data = path.read_bytes() if path.exists() else b""
    return data[: data.rfind(b"\n") + 1]


# ------------------------------------------------------------------------------------------ all of them
class Log:
    """What was done, a line of JSON each: it is not done again."""

    def __init__(self, path: Path):
        self.path = path
        self._records = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def add(self, kind: str, subject: Subject, **values: Any) -> dict[str, Any]:
        """`kind`: reference, kill or end (of a run that was not killed again)."""
        record = {"kind": kind, "configuration": subject.name, **values}
        self._records.append(record)
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        return record

    def of(self, kind: str, subject: Subject | None = None) -> list[dict[str, Any]]:
        """The records of a kind, of one configuration or of all."""
        names = [record for record in self._records if record["kind"] == kind]
        return names if subject is None else [record for record in names if record["configuration"] == subject.name]


def make_reference(subject: Subject, log: Log) -> None:
    """Run it without a kill, in one go."""
    if log.of("reference", subject):
        return
    # Of an earlier call of this script, which was interrupted.
    shutil.rmtree(subject.path(REFERENCE), ignore_errors=True)
    code, starts, took = subject.attempt(REFERENCE, math.inf)
    wrong = subject.complaints(REFERENCE, code)
    if wrong:
        raise SystemExit(f"{subject.name}: {wrong[0]}")
    log.add("reference", subject, seconds=took, starts=starts)
    print(f"{subject.name}: {took:.1f} s without a kill, {starts} start(s)", flush=True)


def kill_and_finish(subject: Subject, log: Log, wanted: int, seed: int) -> None:
    """One run, killed until it ends before its moment, and compared. No kill more than are wanted of all configurations together."""
    save_name = f"run_{len(log.of('end', subject)):03d}"
    run, whole = subject.path(save_name), log.of("reference", subject)[0]["seconds"]
    while True:
        draw = random.Random(f"{seed} {subject.name} {len(log.of('kill', subject))} {save_name}").uniform(0, whole)
        code, starts, _ = subject.attempt(save_name, draw if len(log.of("kill")) < wanted else math.inf)
        if code != killer.KILLED:
            break
        rows = whole_rows(run)
        left = {"rows": len(rows), "sha256": sha256(rows).hexdigest(), "at": how_far(run)}
        log.add("kill", subject, run=save_name, starts=starts, moment=draw, **left)
        print(f"{len(log.of('kill')):3d} {subject.name}, {save_name}: killed after {draw:.2f} of {whole:.2f} s: {left['at']}", flush=True)
    found = run_comparison.compare(run, subject.path(REFERENCE))
    found.differences[:0] = [*subject.complaints(save_name, code), *lost_rows(run, log.of("kill", subject))]
    log.add("end", subject, run=save_name, starts=starts, **asdict(found))
    for line in found.differences[:SHOWN]:
        print(f"    DIFFERENT {subject.name}, {save_name}: {line}", flush=True)
    if len(found.differences) > SHOWN:
        print(f"    and {len(found.differences) - SHOWN} more, in {log.path}", flush=True)


def next_subject(subjects: Sequence[Subject], log: Log, wanted: int) -> Subject | None:
    """One whose run an earlier call of this script has left unfinished; else the one with the fewest kills, while more are wanted."""
    for subject in subjects:
        if {kill["run"] for kill in log.of("kill", subject)} - {end["run"] for end in log.of("end", subject)}:
            return subject
    if len(log.of("kill")) >= wanted:
        return None
    return min(subjects, key=lambda subject: len(log.of("kill", subject)))


def lost_rows(run: Path, kills: Sequence[Mapping[str, Any]]) -> list[str]:
    """Kills before which labels.csv had rows that are others now, times included."""
    data = whole_rows(run)
    mine = [(number, kill) for number, kill in enumerate(kills, start=1) if kill["run"] == run.name]
    lost = [number for number, kill in mine if sha256(data[: kill["rows"]]).hexdigest() != kill["sha256"]]
    return [f"labels.csv: rows from before kill {number} of this configuration have changed" for number in lost]


def table(subjects: Sequence[Subject], log: Log) -> str:
    """In Markdown, a row for each configuration."""
    columns = ("kills", "starts", "runs killed", "files", "checkpoint entries", "other entries", "runs never killed", "differences")
    rows = [(subject.name, _counts(log, subject)) for subject in subjects] + [("all", _counts(log, None))]
    lines = [f"| configuration | {' | '.join(columns)} |", "| :--- |" + " ---: |" * len(columns)]
    return "\n".join([*lines, *(f"| {name} | {' | '.join(f'{count:,}' for count in counts)} |" for name, counts in rows)])


def _counts(log: Log, subject: Subject | None) -> tuple[int, ...]:
    """What was compared is counted for runs that were killed; differences for the others too, whose moments came after their end."""
    kills, ends = log.of("kill", subject), log.of("end", subject)
    killed_runs = {(kill["configuration"], kill["run"]) for kill in kills}
    killed = [end for end in ends if (end["configuration"], end["run"]) in killed_runs]
    starts = sum(record["starts"] for record in [*kills, *killed])
    compared = (sum(end[name] for end in killed) for name in ("files", "checkpoint_entries", "other_entries"))
    differences = sum(len(end["differences"]) for end in ends)
    return len(kills), starts, len(killed), *compared, len(ends) - len(killed), differences


def main() -> int:
    """0 when nothing differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--root", type=Path, required=True, help="where the runs are kept")
    args = parser.parse_args()
    # For the server, and so for all runs.
    os.environ.update(OMP_NUM_THREADS="1", MPLBACKEND="Agg")
    root = args.root.resolve()
    subjects = [Subject(root, name, workers) for workers in WORKERS for name in CONFIGURATIONS]
    log = Log(root / "kills.jsonl")
    for subject in subjects:
        make_reference(subject, log)
    while (subject := next_subject(subjects, log, args.kills)) is not None:
        kill_and_finish(subject, log, args.kills, args.seed)
    print(table(subjects, log))
    return int(any(end["differences"] for end in log.of("end")))


if __name__ == "__main__":
    sys.exit(main())
