"""What a cycle's training has scored, without a training."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from usb_active.contracts.task import Classification, Task
from usb_active.errors import UsageError
from usb_active.records import Metric
from usb_active.usb.scoring import Scores

NAMES = ("ant", "bee", "cat")
# A sample's logits are the sample itself.
BATCHES = [
    {"x_lb": torch.tensor([[3.0, 0.0, 0.0], [0.0, 2.0, 0.0]]), "y_lb": torch.tensor([0, 1])},
    {"x_lb": torch.tensor([[0.0, 1.0, 0.0]]), "y_lb": torch.tensor([2])},
]


class Identity(torch.nn.Module):
    def forward(self, x):
        # A network scores in eval mode.
        assert not self.training
        return {"logits": x, "twice": 2 * x}


class Error(Task):
    """Lower is better."""

    name = "error"
    metrics = (Metric("mae", "error", higher_is_better=False),)


def scores_of(task=None) -> Scores:
    return Scores(task or Classification(NAMES), lambda value: value, lambda found: UsageError(f"x: {found}"))


def test_scores_are_those_of_the_task_under_the_name_of_the_split():
    model = Identity()
    model.train()
    found = scores_of().score(model, BATCHES, "validation")
    assert found["validation/top-1-acc"] == pytest.approx(2 / 3) and all(name.startswith("validation/") for name in found)
    assert model.training
    shown = scores_of().score(model, BATCHES, "eval", "twice", return_logits=True)
    assert np.array_equal(shown["eval/logits"], 2 * np.concatenate([batch["x_lb"].numpy() for batch in BATCHES]))


@pytest.mark.parametrize(("split", "said"), [("eval", "the test set"), ("validation", "the validation set")])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_have_no_score(split, said, value):
    broken = [BATCHES[0], {"x_lb": torch.full((1, 3), value), "y_lb": torch.tensor([2])}]
    with pytest.raises(UsageError, match=f"^x: the logits of 1 of 3 samples of {said} are not finite$"):
        scores_of().score(Identity(), broken, split)


def test_the_best_step_is_chosen_on_held_out_labels_and_the_test_score_kept_apart():
    scores = scores_of()
    best = scores.note({"eval/top-1-acc": 0.9, "validation/top-1-acc": 0.4}, 10, (0.0, 0))
    assert best == (0.4, 10) and scores.best_test == 0.9
    best = scores.note({"eval/top-1-acc": 0.5, "validation/top-1-acc": 0.6}, 20, best)
    assert best == (0.6, 20) and scores.best_test == 0.9
    # As good is not better.
    assert scores.note({"eval/top-1-acc": 0.95, "validation/top-1-acc": 0.6}, 30, best) == best
    assert scores.best_test == 0.95 and scores.last["validation/top-1-acc"] == 0.6
    assert scores.note({}, 40, best) == best and scores.last["eval/top-1-acc"] == 0.95


def test_the_first_evaluation_is_a_best_one_even_at_zero():
    best = scores_of().note({"eval/top-1-acc": 0.0}, 10, (0.0, 0))
    assert best == (0.0, 10)
    assert scores_of().note({"eval/top-1-acc": 0.0}, 20, best) == best


def test_an_error_is_better_when_it_is_smaller():
    scores = scores_of(Error())
    # Above the 0.0 that USB begins with.
    best = scores.note({"eval/mae": 4.0}, 10, (0.0, 0))
    best = scores.note({"eval/mae": 3.0}, 20, best)
    assert scores.note({"eval/mae": 5.0}, 30, best) == (3.0, 20) and scores.best_test == 3.0 and scores.last == {"eval/mae": 5.0}


def test_states_go_out_and_come_in_under_the_names_that_checkpoints_have():
    one, other = scores_of(), scores_of()
    assert one.state_dict() == {"evaluation": {}, "best_test_accuracy": None}
    one.note({"eval/top-1-acc": 0.5}, 10, (0.0, 0))
    other.load_state_dict(one.state_dict())
    assert other.last == {"eval/top-1-acc": 0.5} and other.best_test == 0.5
    assert one.state_dict() == {"evaluation": {"eval/top-1-acc": 0.5}, "best_test_accuracy": 0.5}
