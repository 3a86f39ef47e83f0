"""The live network is scored beside the EMA network, at the cost of one pass and of no random draw; a gap beyond noise is said."""

from __future__ import annotations

import json
import logging
from math import sqrt
from types import SimpleNamespace

import pytest
from run_helpers import checkpoint, labels_of, settings, train, weights_equal

from usb_active.contracts.task import Classification, Task
from usb_active.loop.live_scores import LiveScores, gap_remark, lead, live_fields
from usb_active.records import Metric
from usb_active.report import write_report
from usb_active.storage.run_dir import RunDir
from usb_active.usb.algorithm import ActiveMixin

CLASSES = Classification(("ant", "bee"))
USB = {"ema_m": 0.99}


def both(ema: float, live: float, count: int = 1000, split: str = "eval") -> LiveScores:
    return LiveScores(split, count, {"top-1-acc": ema, "balanced_acc": ema}, {"top-1-acc": live, "balanced_acc": live})


class Error(Task):
    name = "error"
    metrics = (Metric("mae", "error", higher_is_better=False),)


def test_the_lead_by_hand():
    # 50 and 80 of 98, plus one right and one wrong each: 51 and 81 of 100.
    low, high = lead(50 / 98, 80 / 98, 98)
    half = 1.959964 * sqrt((0.51 * 0.49 + 0.81 * 0.19) / 100)
    assert low == pytest.approx(0.30 - half) and high == pytest.approx(0.30 + half)
    # None and all of three: few samples are never sure, and never without a width.
    low, high = lead(0.0, 0.0, 3)
    assert low == pytest.approx(-high) and high == pytest.approx(1.959964 * sqrt(2 * 0.2 * 0.8 / 5))
    assert lead(0.3, 0.7, 50) == pytest.approx([-value for value in lead(0.7, 0.3, 50)[::-1]])


@pytest.mark.parametrize(("ema", "live", "count", "said"), [
    (0.156, 0.744, 1000, True), (0.744, 0.156, 1000, False), (0.852, 0.879, 360, False), (0.852, 0.852, 10**6, False),
    (0.852, 0.879, 36000, True), (0.0, 1.0, 2, False), (0.0, 1.0, 8, True), (0.75, 0.79, 1000, True), (0.75, 0.78, 1000, False),
])  # fmt: skip
def test_a_gap_is_said_beyond_noise_alone(ema, live, count, said):
    assert (gap_remark(both(ema, live, count), CLASSES, USB, 300) is not None) == said


def test_the_remark_has_numbers_and_ways_out():
    line = gap_remark(both(0.156, 0.744), CLASSES, USB, 300)
    assert "has accuracy 15.60 % on the test set (1000 samples), the live network accuracy 74.40 %" in line
    assert "a lead of 55.2 to 62.2 points" in line and "try an ema_m of at most 0.96 (it is 0.99)" in line
    # Where it is short enough already.
    assert "try a smaller ema_m than 0.99" in gap_remark(both(0.156, 0.744), CLASSES, USB, 3000)
    assert "on the labels trained on (1000 samples)" in gap_remark(both(0.1, 0.9, split="labeled"), CLASSES, USB, 300)


def test_nothing_is_said_of_a_training_of_a_few_steps():
    assert gap_remark(both(0.156, 0.744), CLASSES, USB, 49) is None and gap_remark(both(0.156, 0.744), CLASSES, USB, 50)


def test_nothing_is_said_of_no_evaluation_and_of_labels_that_are_no_classes():
    assert gap_remark(None, CLASSES, USB, 300) is None
    assert gap_remark(LiveScores("eval", 1000, {"mae": 9.0}, {"mae": 1.0}), Error(), USB, 300) is None


def test_the_fields_of_a_line():
    assert live_fields(None, CLASSES) == {}
    assert live_fields(both(0.1, 0.9), CLASSES) == {"live_accuracy": 0.9, "live_balanced_accuracy": 0.9}
    assert live_fields(both(0.1, 0.9, split="labeled"), CLASSES) == {"labeled_accuracy": 0.1, "live_labeled_accuracy": 0.9}
    assert live_fields(LiveScores("validation", 5, {"mae": 9.0}, {"mae": 1.0}), Error()) == {"live_error": 1.0}


@pytest.fixture
def without(monkeypatch):
    """Trainings as they were before the live network was scored."""

    def unscored(data):
        with monkeypatch.context() as patch:
            patch.setattr(ActiveMixin, "score_live", lambda self, scores: {})
            return train(data)

    return unscored


@pytest.mark.slow
@pytest.mark.parametrize("name", ["small_cnn", "cnn13"])
def test_training_and_picks_are_as_without(tmp_path, without, name):
    # cnn13 has dropout: one draw more and everything after it would differ.
    net = {"name": name, "width": 4}
    keys = {"net": net, "img_size": 12, "num_train_iter": 6, "num_eval_iter": 3, "epoch": 1}
    one, two = (settings(tmp_path, folder, **keys) for folder in ("scored", "unscored"))
    train(one)
    without(two)
    assert weights_equal(checkpoint(tmp_path / "scored", 1), checkpoint(tmp_path / "unscored", 1))
    assert labels_of(tmp_path / "scored") == labels_of(tmp_path / "unscored")
    lines = [RunDir.read(tmp_path / folder).metrics() for folder in ("scored", "unscored")]
    for scored, unscored in zip(*lines, strict=True):
        assert set(scored) - set(unscored) == {"live_accuracy", "live_balanced_accuracy"}
        assert {name: scored[name] for name in unscored if "seconds" not in name} == {
            name: value for name, value in unscored.items() if "seconds" not in name
        }


@pytest.mark.slow
def test_the_live_score_is_that_of_the_trained_network_in_metrics_report_and_tensorboard(tmp_path, caplog):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    data = settings(tmp_path, active={"cycles": 0}, ema_m=0.999, use_tensorboard=True, num_train_iter=60, num_eval_iter=30, epoch=1)
    with caplog.at_level(logging.WARNING, "usb_active"):
        algorithm = train(data)
    (line,) = RunDir.read(tmp_path / "run").metrics()
    assert line["live_accuracy"] == algorithm.score(algorithm.model, "eval")["eval/top-1-acc"]
    assert line["accuracy"] == algorithm.score(algorithm.ema_model, "eval")["eval/top-1-acc"]
    # Weights that are hardly changed since the first ones.
    assert line["live_accuracy"] > line["accuracy"] + 0.2
    (said,) = [record.message for record in caplog.records if "more than noise" in record.message]
    assert said.startswith("cycle 0: the EMA network") and f"accuracy {100 * line['live_accuracy']:.2f} %" in said
    log = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    log.Reload()
    tags = log.Tags()["scalars"]
    assert {"live_eval/top-1-acc", "cycle/live_accuracy"} <= set(tags)
    # One per evaluation.
    assert [event.step for event in log.Scalars("live_eval/top-1-acc")] == [29, 59]
    write_report([tmp_path / "run"], trusted=True)
    report = (tmp_path / "run" / "report" / "report.md").read_text(encoding="utf-8")
    header, row = next((one, two) for one, two in zip(report.splitlines(), report.splitlines()[2:], strict=False) if "live network" in one)
    shown = dict(zip((cell.strip() for cell in header.split("|")), (cell.strip() for cell in row.split("|")), strict=True))
    assert shown["live network"] == f"{100 * line['live_accuracy']:.2f}"


@pytest.mark.slow
@pytest.mark.parametrize(("validation", "split"), [(0.0, "labeled"), (0.5, "validation")])
def test_without_a_test_set_it_is_scored_on_labels(tmp_path, monkeypatch, validation, split):
    from usb_active.builtin.array_datasets import Digits

    monkeypatch.setattr(Digits, "test", None, raising=False)
    prepare = Digits.prepare
    monkeypatch.setattr(Digits, "prepare", lambda self: (prepare(self), vars(self).pop("test", None))[0])
    algorithm = train(settings(tmp_path, active={"cycles": 0, "validation": validation}))
    (line,) = RunDir.read(tmp_path / "run").metrics()
    assert algorithm.live_scores.split == split and algorithm.live_scores.count == (10 if validation else 20)
    if validation:
        assert line["evaluated_on"] == "validation" and "live_accuracy" in line and "live_labeled_accuracy" not in line
    else:
        assert line["evaluated_on"] == "none" and line["accuracy"] is None and "live_accuracy" not in line
        assert 0 <= line["labeled_accuracy"] <= 1 and 0 <= line["live_labeled_accuracy"] <= 1


@pytest.mark.slow
def test_without_averaging_no_pass_is_spent(tmp_path, monkeypatch):
    passes = []
    score = ActiveMixin.evaluate
    monkeypatch.setattr(ActiveMixin, "evaluate", lambda self, *given: (passes.append(given), score(self, *given))[1])
    from usb_active.usb.scoring import Scores

    models = []
    plain = Scores.score
    monkeypatch.setattr(Scores, "score", lambda self, model, *given: (models.append(model), plain(self, model, *given))[1])
    algorithm = train(settings(tmp_path, active={"cycles": 0}, ema_m=0))
    assert len(models) == len(passes) == 3 and all(model is algorithm.ema_model for model in models)
    (line,) = RunDir.read(tmp_path / "run").metrics()
    assert line["live_accuracy"] == line["accuracy"] == algorithm.score(algorithm.model, "eval")["eval/top-1-acc"]


def test_a_checkpoint_brings_them_back_and_one_from_before_has_none():
    from usb_active.usb.scoring import Scores

    one, other = (Scores(CLASSES, lambda value: value, lambda found: found) for _ in range(2))
    one.live = both(0.25, 0.75, 4)
    other.load_state_dict(json.loads(json.dumps(one.state_dict())))
    assert other.live == one.live
    other.load_state_dict({"evaluation": {}, "best_test_accuracy": None})
    assert other.live is None and SimpleNamespace(**other.state_dict()).evaluation == {}
