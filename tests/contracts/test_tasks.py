"""What a label is: its text, its number, and how predictions are scored."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, precision_score, recall_score

from usb_active.contracts.task import Classification, evaluate

NAMES = ("cat", "dog", "a,b", "")
TASK = Classification(NAMES)


def test_a_class_has_one_name_and_one_number():
    assert [TASK.encode(name) for name in NAMES] == [0, 1, 2, 3]
    assert [TASK.decode(label) for label in range(4)] == list(NAMES)
    with pytest.raises(ValueError, match="no class 'cow'"):
        TASK.encode("cow")


def test_scores_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    logits, targets = rng.normal(size=(200, 5)), rng.integers(0, 5, 200)
    predicted, scores = logits.argmax(axis=1), evaluate(logits, targets)
    assert scores["top-1-acc"] == pytest.approx(accuracy_score(targets, predicted))
    assert scores["balanced_acc"] == pytest.approx(balanced_accuracy_score(targets, predicted))
    assert scores["precision"] == pytest.approx(precision_score(targets, predicted, average="macro"))
    assert scores["recall"] == pytest.approx(recall_score(targets, predicted, average="macro"))
    assert scores["F1"] == pytest.approx(f1_score(targets, predicted, average="macro"))


def test_the_loss_is_the_mean_negative_log_probability():
    logits, targets = np.random.default_rng(1).normal(size=(20, 3)).astype(np.float32), np.arange(20) % 3
    total = 0.0
    for row, target in zip(logits.tolist(), targets.tolist(), strict=True):
        total -= row[target] - np.log(sum(np.exp(value) for value in row))
    assert evaluate(logits, targets)["loss"] == pytest.approx(total / 20, rel=1e-6)


def test_large_logits_do_not_overflow():
    # log softmax of (1000, 0) is (0, −1000).
    assert evaluate(np.float32([[1000, 0], [1000, 0]]), np.array([0, 1]))["loss"] == pytest.approx(500)


def test_uniform_logits_lose_log_c():
    assert evaluate(np.zeros((6, 4)), np.array([0, 1, 2, 3, 0, 1]))["loss"] == pytest.approx(np.log(4))


def test_a_class_that_never_occurs_does_not_count_for_balance():
    # Recall of class 0: 1/2, of class 2: 1; class 1 is only predicted.
    logits = np.eye(3)[[0, 1, 2]]
    assert evaluate(logits, np.array([0, 0, 2]))["balanced_acc"] == pytest.approx(0.75)


def test_scores_are_plain_floats():
    scores = evaluate(np.eye(3, dtype=np.float32), np.arange(3))
    assert {type(value) for value in scores.values()} == {float}
    assert json.loads(json.dumps(scores))["top-1-acc"] == 1.0
