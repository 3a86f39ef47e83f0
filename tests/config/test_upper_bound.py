"""Algorithms that train on all known labels: what is trained on, what is written down, and where it is refused."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from run_helpers import checkpoint, config_of, labels_of, settings, train, weights_equal

from usb_active.config.upper_bound import wants_all_labels, with_known_labels
from usb_active.contracts.registry import REGISTRY
from usb_active.errors import UsageError
from usb_active.loop.session import progress_line
from usb_active.loop.setup import build_parts
from usb_active.pool.pool import Pool
from usb_active.storage.run_dir import RunDir

KNOWN = 1343  # digits: all that are not in its test set


def short(tmp_path, name, algorithm="fullysupervised", /, active=None, **usb):
    keys = {"algorithm": algorithm, "num_train_iter": 6, "num_eval_iter": 3, "epoch": 1, **usb}
    return settings(tmp_path, name, active={"cycles": 0, **(active or {})}, **keys)


def test_the_pool_that_is_trained_on():
    # Sample:          0   1   2   3   4   5
    targets = np.array([1, -1, 0, 1, 0, 1])
    pool = Pool(np.array([True, True, True, True, True, False]))
    pool.set_labels(np.array([0, 1]), np.array([0, 1]), 2)
    pool.skip(np.array([3]))
    full = with_known_labels(pool, SimpleNamespace(targets=targets))
    # Labels of the journal stay (0 is corrected, 1 was never known), the skipped one has none, the rest is the data set's.
    assert full.labels.tolist() == [0, 1, 0, -1, 0, 1]
    assert full.round.tolist() == [2, 2, 0, -1, 0, 0]
    assert pool.labels.tolist() == [0, 1, -1, -1, -1, -1]


def test_it_trains_on_all_labels_and_journals_those_asked_for(tmp_path, caplog):
    with caplog.at_level(logging.INFO, "usb_active"):
        algorithm = train(short(tmp_path, "all"))
    assert caplog.messages.count(f"fullysupervised trains on all {KNOWN} known labels, not only on the 20 in labels.csv") == 1
    stream = algorithm.dataset_dict["train_lb"]
    assert stream.idx.tolist() == list(range(KNOWN))
    assert np.array_equal(stream.targets, algorithm.session.dataset.targets)
    assert len(labels_of(tmp_path / "all")) == 1 + 20
    (line,) = RunDir.read(tmp_path / "all").metrics()
    assert (line["num_labels"], line["num_asked"]) == (KNOWN, 20)
    assert line["class_counts"] == np.bincount(algorithm.session.dataset.targets).tolist()
    assert sum(line["selected_class_counts"]) == 20
    assert progress_line(line).startswith(f"cycle 0: {KNOWN} labels (20 asked for), accuracy ")


def test_supervised_trains_on_the_labels_asked_for_as_before(tmp_path):
    train(short(tmp_path, "all"))
    algorithm = train(short(tmp_path, "some", "supervised"))
    assert len(algorithm.dataset_dict["train_lb"]) == 20
    (line,) = RunDir.read(tmp_path / "some").metrics()
    assert line["num_labels"] == 20 and "num_asked" not in line
    assert labels_of(tmp_path / "some") == labels_of(tmp_path / "all")
    assert not weights_equal(checkpoint(tmp_path / "some", 0), checkpoint(tmp_path / "all", 0))


def test_which_samples_were_asked_for_does_not_matter(tmp_path):
    train(short(tmp_path, "few"))
    train(short(tmp_path, "many", active={"initial": {"name": "balanced", "size": 100}}))
    assert weights_equal(checkpoint(tmp_path / "few", 0), checkpoint(tmp_path / "many", 0))


def test_validation_holds_out_a_share_of_all_labels(tmp_path):
    algorithm = train(short(tmp_path, "run", active={"validation": 0.25}))
    split = algorithm.split
    # 0.25 x 1343 = 335.75
    assert len(split.validation) == 336 and len(split.labeled) == KNOWN - 336
    assert not set(split.validation) & set(split.labeled) and not set(split.validation) & set(split.unlabeled)
    (line,) = RunDir.read(tmp_path / "run").metrics()
    assert line["num_labels"] == KNOWN and line["validation_accuracy"] is not None and line["selected_accuracy"] is not None


@pytest.mark.parametrize("cycles", [1, 7])
def test_cycles_are_dropped_with_a_warning(tmp_path, cycles):
    config = config_of(short(tmp_path, "run", active={"cycles": cycles}))
    assert config.active.cycles == 0
    text = f"'fullysupervised' trains on all known labels, so that none is left to select ({cycles}); dropped"
    assert config.warnings == (f"test.yaml: active.cycles: {text}",)
    assert config_of(short(tmp_path, "run", "supervised", active={"cycles": cycles})).active.cycles == cycles
    assert config_of(short(tmp_path, "run")).warnings == ()


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"active": {"oracle": "csv"}},
            "algorithm: 'fullysupervised' trains on the labels of all samples, which the oracle 'csv' does not know; "
            "oracle: dataset, or algorithm: supervised for the labels at hand",
        ),
        (
            {"include_lb_to_ulb": False},
            "include_lb_to_ulb: false, and 'fullysupervised' trains on the labels of all samples: the unlabelled stream is empty",
        ),
    ],
)
def test_where_it_cannot_be_it_is_refused_before_anything_is_written(tmp_path, changes, line):
    config = config_of(short(tmp_path, "run", **changes))
    with pytest.raises(UsageError) as error:
        build_parts(config)
    assert str(error.value) == f"test.yaml: {line}"
    assert not (tmp_path / "run").exists()
    build_parts(config_of(short(tmp_path, "run", "supervised", **changes)))


def edit(path: Path, change) -> None:
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def test_a_run_of_an_earlier_version_opens_when_finished_and_does_not_resume_in_the_middle(tmp_path):
    train(short(tmp_path, "run"))
    run = tmp_path / "run"
    edit(run / "cycle_000" / "start.json", lambda record: record.pop("all_labels"))
    train(short(tmp_path, "run"))
    (run / "cycle_000" / "done.json").unlink()
    with pytest.raises(UsageError) as error:
        train(short(tmp_path, "run"))
    assert str(error.value) == (
        f"{run}: cycle 0 was begun on the labels asked for, and 'fullysupervised' now trains on all; use another save_name"
    )


class Greedy:
    """An algorithm of another distribution that declares the same."""

    all_labels = True

    def train_step(self): ...


class Modest(Greedy):
    all_labels = False


def test_an_algorithm_may_declare_it(monkeypatch):
    monkeypatch.setattr(REGISTRY, "_declared", dict(REGISTRY._declared))
    monkeypatch.setattr(REGISTRY, "_classes", dict(REGISTRY._classes))
    REGISTRY.add("algorithm", "greedy", Greedy)
    REGISTRY.add("algorithm", "modest", Modest)
    assert [wants_all_labels(name) for name in ("greedy", "modest", "fullysupervised", "supervised", "nothing")] == [
        True, False, True, False, False,
    ]  # fmt: skip
