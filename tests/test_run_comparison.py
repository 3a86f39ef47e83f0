"""The comparison of run directories finds what differs, and passes what differs by nature."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from run_comparison import compare

LABELS = "cycle,index,key,label,status,acquisition,time\n0,7,digits/0007,3,labeled,random,{}\n"


def make_run(run: Path, number: str, time: str, seconds: float) -> Path:
    """The files of a run; the arguments are what differs from run to run."""
    for folder in ("cycle_000", "queries", "artifacts"):
        (run / folder).mkdir(parents=True)
    (run / "labels.csv").write_text(LABELS.format(time))
    (run / "lock").write_text(number)
    (run / "dataset.json").write_text(json.dumps({"img_size": 8, "run": number}))
    (run / "metrics.jsonl").write_text(json.dumps({"cycle": 0, "accuracy": 0.5, "train_seconds": seconds}) + "\n")
    (run / "cycle_000" / "start.json").write_text(json.dumps({"journal_rows": 1, "journal_sha256": time, "journal_crc32": [len(time)]}))
    (run / "queries" / "cycle_000.csv").write_text(f"index,key,file,label\n7,digits/0007,{run}/queries/7.png,3\n")
    np.save(run / "artifacts" / "table.npy", np.eye(2, dtype=np.float32))
    weights = {"a": torch.tensor([1.0, float("nan")]), "b": torch.tensor([2])}
    active = {"elapsed": seconds, "cycle": 0, "plugins": {}}
    torch.save({"model": weights, "it": 12, "belongs_to": {"run": number, "cycle": 0}, "active": active}, checkpoint_of(run))
    return run


def checkpoint_of(run: Path) -> Path:
    return run / "cycle_000" / "latest_model.pth"


@pytest.fixture
def runs(tmp_path):
    return make_run(tmp_path / "one", "111", "12:00", 1.5), make_run(tmp_path / "two", "2", "13:30:15", 0.25)


def replace(path: Path, old: str, new: str) -> None:
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def change_weights(path: Path, change) -> None:
    checkpoint = torch.load(path, weights_only=True)
    change(checkpoint)
    torch.save(checkpoint, path)


def test_what_differs_by_nature_is_no_difference(runs):
    found = compare(*runs)
    assert found.differences == []
    # a, b, it, belongs_to.cycle, active.cycle, active.plugins.
    assert found.files == 7 and found.checkpoint_entries == 6


@pytest.mark.parametrize(
    ("alter", "where"),
    [
        (lambda run: replace(run / "labels.csv", ",3,", ",4,"), "labels.csv: 0.label: "),
        (lambda run: replace(run / "metrics.jsonl", "0.5", "0.25"), "metrics.jsonl: 0.accuracy: "),
        (lambda run: replace(run / "queries" / "cycle_000.csv", ",3", ","), "queries/cycle_000.csv: 0.label: "),
        (lambda run: np.save(run / "artifacts" / "table.npy", np.eye(2)), "artifacts/table.npy: : "),
        (lambda run: (run / "artifacts" / "table.npy").unlink(), "artifacts/table.npy: missing"),
        (lambda run: (run / "queries" / ".a.7.tmp").touch(), "queries/.a.7.tmp: not in the reference"),
        (lambda run: change_weights(checkpoint_of(run), lambda c: c["model"]["b"].add_(1)), "cycle_000/latest_model.pth: model.b: "),
        (lambda run: change_weights(checkpoint_of(run), lambda c: c["model"].pop("a")), "cycle_000/latest_model.pth: model.a: missing"),
        (lambda run: change_weights(checkpoint_of(run), lambda c: c.update(it=12.0)), "cycle_000/latest_model.pth: it: "),
        (
            lambda run: change_weights(checkpoint_of(run), lambda c: c["belongs_to"].update(cycle=1)),
            "cycle_000/latest_model.pth: belongs_to.cycle: ",
        ),
    ],
)
def test_what_else_differs_is_named(runs, alter, where):
    alter(runs[0])
    (difference,) = compare(*runs).differences
    assert difference.startswith(where)
