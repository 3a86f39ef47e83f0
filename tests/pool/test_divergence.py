"""Trainings that diverge end with one line, and nothing of them is kept as a result."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import run_helpers
import torch
from run_helpers import checkpoint, config_of, settings, train, write_yaml

from usb_active import Pretrained, cli
from usb_active.contracts.plugin import PluginConfig
from usb_active.errors import UsageError
from usb_active.pool.divergence import Divergence, DivergenceWatch, advice, check_finite_states, nonfinite_of, nonfinite_tensors
from usb_active.pool.epoch_training import EpochTraining
from usb_active.usb.launcher import make_algorithm

ONE = {"cycles": 0}


def diverged(data) -> str:
    """The message of a training that diverged."""
    with pytest.raises(UsageError) as caught:
        train(data)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def broken(data, at: int, break_it, cycle: int = 0, updated: bool = False):
    """An algorithm with `break_it(algorithm)` at a step of a cycle: before its update, or (at an interval) after it."""
    torch.set_num_threads(1)
    algorithm = make_algorithm(config_of(data))
    hooked = type(algorithm).call_hook

    class Broken(type(algorithm)):
        def call_hook(self, fn_name, hook_name=None, *positional, **named):
            if fn_name == "after_train_step" and hook_name is None and (self.cycle, self.it, updated) == (cycle, at, False):
                break_it(self)
            return hooked(self, fn_name, hook_name, *positional, **named)

        def check_divergence(self, thoroughly):
            if (self.cycle, self.it, updated) == (cycle, at, True):
                break_it(self)
            super().check_divergence(thoroughly)

    algorithm.__class__ = Broken
    return algorithm


# ---------------------------------------------------------------------------------------------------------- a whole run
@pytest.mark.parametrize("more", [{}, {"amp": True}, {"algorithm": "fixmatch", "fast_hooks": False}, {"clip_grad": 1e20, "lr": 1e38}])
def test_a_rate_that_is_far_too_large(tmp_path, capsys, more):
    active = {**ONE, **{key: more[key] for key in ("fast_hooks",) if key in more}}
    usb = {key: value for key, value in more.items() if key not in active}
    data = settings(tmp_path, active=active, **{"lr": 1e30, "num_log_iter": 2, **usb})
    yaml = write_yaml(tmp_path / "run.yaml", data)
    for _ in range(2):
        # Again: the same end, at once, and not a result from what the first one left.
        assert cli.main(["run", str(yaml)]) == 2
        # Beside the advice on a processor that imitates what `amp` computes in.
        said = "".join(line for line in capsys.readouterr().err.splitlines(True) if "warning: " not in line)
        assert said.count("\n") == 1 and "the training of cycle 0 diverged and has no result: " in said
        assert " of the model are not finite" in said and "a smaller lr than " in said and "another save_name" in said
        assert ("amp: false" in said) == usb.get("amp", False) and ("clip_grad: 1" in said) == ("clip_grad" not in usb)
    run = tmp_path / "run"
    assert not [path for path in run.rglob("*") if path.name in ("done.json", "metrics.jsonl", "model_best.pth", "latest_model.pth")]
    assert len((run / "labels.csv").read_text().splitlines()) == 21
    assert cli.main(["predict", str(run)]) == cli.main(["report", str(run)]) == 2


def test_since_when_is_the_step_and_found_at_the_next_interval(tmp_path):
    data = settings(tmp_path, active=ONE, num_log_iter=3, num_eval_iter=12)
    algorithm = broken(data, 3, lambda self: self.out_dict.update(loss=self.out_dict["loss"] * float("nan")))
    # The loss of step 4 is broken after it was seen, so that the first that is seen is the one of step 5.
    with pytest.raises(UsageError, match=r"the loss is not finite since step 5 of 12; at step 6, \d+ of 20 tensors of the model"):
        algorithm.train()


def test_a_later_cycle_that_diverges_leaves_the_earlier_ones(tmp_path):
    def break_it(self):
        next(self.model.parameters()).data[0] = float("inf")

    data = settings(tmp_path)
    with pytest.raises(UsageError, match="the training of cycle 1 diverged"):
        broken(data, 5, break_it, cycle=1).train()
    run = tmp_path / "run"
    assert [json.loads(line)["cycle"] for line in (run / "metrics.jsonl").read_text().splitlines()] == [0]
    assert checkpoint(run, 1)["it"] == 4 and not nonfinite_of(checkpoint(run, 1)["model"])
    # What broke it was not in the run: it resumes from the last sound checkpoint.
    train(data)
    assert json.loads((run / "metrics.jsonl").read_text().splitlines()[1])["num_labels"] == 30


BREAKS = {
    "weights": (lambda self: next(self.model.parameters()).data.fill_(float("nan")), "of the model are not finite"),
    "one buffer": (lambda self: next(b for b in self.model.buffers() if b.is_floating_point())[:1].fill_(float("inf")), "of the model are"),
    "EMA": (lambda self: next(self.ema_model.parameters()).data[0].fill_(float("nan")), "of the EMA model are not finite"),
}


@pytest.mark.parametrize("what", BREAKS)
@pytest.mark.parametrize("at", [7, 11])
def test_weights_buffers_and_ema_count(tmp_path, what, at):
    break_it, said = BREAKS[what]
    data = settings(tmp_path, active={**ONE, "validation": 0.25})
    with pytest.raises(UsageError, match=said):
        broken(data, at, break_it, updated=True).train()
    path = tmp_path / "run" / "cycle_000"
    assert not (path / "done.json").exists()
    for name in ("latest_model.pth", "model_best.pth"):
        kept = torch.load(path / name, weights_only=True)
        assert kept["it"] <= at and not nonfinite_of(kept["model"]) and not nonfinite_of(kept["ema_model"])


def test_logits_that_are_not_finite_though_the_weights_are(tmp_path):
    def grow(self):
        for network in (self.model, self.ema_model):
            for parameter in network.parameters():
                parameter.data.fill_(3e38)

    data = settings(tmp_path, active=ONE)
    said = r"diverged and has no result: the logits of \d+ of 454 samples of the test set are not finite; try a smaller lr"
    with pytest.raises(UsageError, match=said):
        broken(data, 3, grow, updated=True).train()
    assert not list((tmp_path / "run").rglob("*.pth"))


@pytest.mark.parametrize("error", [UsageError("acquisition 'x': probs must be finite"), ZeroDivisionError("x")])
def test_a_divergence_is_named_before_the_error_that_it_caused(tmp_path, error):
    def give_up(self):
        BREAKS["weights"][0](self)
        raise error

    with pytest.raises(UsageError, match="the training of cycle 0 diverged and has no result: at step 3, ") as caught:
        broken(settings(tmp_path, "diverged", active=ONE), 2, give_up).train()
    assert caught.value.__context__ is error

    def only_give_up(self):
        raise error

    with pytest.raises(type(error), match=str(error)):
        broken(settings(tmp_path, "sound", active=ONE), 2, only_give_up).train()


def test_a_loss_of_a_step_that_is_not_finite_is_no_divergence_where_the_weights_are(tmp_path):
    """As mixed precision skips such a step."""
    data = settings(tmp_path, active=ONE)
    algorithm = broken(data, 2, lambda self: self._divergence.see(torch.tensor(float("nan")), 3))
    algorithm.train()
    assert (tmp_path / "run" / "cycle_000" / "done.json").exists()


def test_the_watch_changes_no_bit(tmp_path, monkeypatch):
    one = settings(tmp_path, "one", active=ONE, num_log_iter=1)
    other = settings(tmp_path, "other", active=ONE)
    train(one)
    monkeypatch.setattr(DivergenceWatch, "see", lambda self, loss, step: None)
    train(other)
    assert run_helpers.weights_equal(checkpoint(tmp_path / "one", 0), checkpoint(tmp_path / "other", 0))


def test_a_module_of_a_plugin_counts(tmp_path):
    algorithm = make_algorithm(config_of(settings(tmp_path, active=ONE)))
    critic = algorithm.register_state("critic", lambda: torch.nn.Linear(3, 1))
    assert algorithm._divergence.nonfinite() == ""
    critic.bias.data.fill_(float("nan"))
    assert "1 of 2 tensors of algorithm: 'critic' are not finite (bias)" in algorithm._divergence.nonfinite()
    algorithm.session.close()


def test_a_checkpoint_of_before_that_had_diverged_is_not_gone_on_from(tmp_path):
    train(settings(tmp_path, active=ONE))
    path = tmp_path / "run" / "cycle_000" / "latest_model.pth"
    kept = torch.load(path, weights_only=True)
    next(iter(kept["model"].values()))[0] = float("nan")
    torch.save(kept, path)
    assert f"{path}: 1 of " in diverged(settings(tmp_path))


def test_warm_start_begins_from_sound_weights_only(tmp_path):
    data = settings(tmp_path, active={"warm_start": True})
    with pytest.raises(UsageError, match="cycle 1 diverged"):
        broken(data, 6, BREAKS["weights"][0], cycle=1).train()
    train(data)
    whole = train(settings(tmp_path, "whole", active={"warm_start": True}))
    assert run_helpers.weights_equal(checkpoint(tmp_path / "run", 1), checkpoint(whole.session.run_dir.path, 1))


# ---------------------------------------------------------------------------------------------------------- pretraining
class Config(PluginConfig):
    epochs: int = 4
    lr: float = 0.5
    num_workers: int = 0


class Growing(EpochTraining):
    """A weight that becomes infinite in the third epoch, under a loss that says nothing of it."""

    def __init__(self, losses, weights):
        super().__init__("growing", Config(), torch.nn.Linear(2, 1), np.zeros(3), 0, torch.device("cpu"))
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=0.5)
        self.losses, self.weights = losses, weights

    def train_epoch(self):
        self.net.weight.data.fill_(self.weights[self.epoch])
        return {"loss": self.losses[self.epoch]}


@pytest.mark.parametrize(
    ("losses", "weights", "said"),
    [
        ([1.0] * 4, [1, 2, float("inf"), 4], "diverged in epoch 3: weights that are not finite: weight; a smaller lr than 0.5"),
        ([1.0, 1.0, float("nan"), 1.0], [1, 2, 3, 4], "epoch 3: the loss is nan; a smaller lr than 0.5"),
    ],
)
def test_a_pretraining_keeps_no_diverged_epoch(tmp_path, losses, weights, said):
    for _ in range(2):
        with pytest.raises(UsageError, match=f"pretrain: 'growing': {said}"):
            Growing(losses, weights).run(tmp_path)
        assert torch.load(tmp_path / "growing.pth", weights_only=True)["epoch"] == 2
    made = Growing([1.0] * 4, [1, 2, 3, 4]).run(tmp_path)
    assert isinstance(made, Pretrained) and made.backbone["weight"].tolist() == [[4.0, 4.0]]


def test_initial_weights_that_are_not_finite_are_refused(tmp_path):
    from usb_active.contracts.pretrainer import Pretrained as Result

    result = Result({"weight": torch.tensor([1.0, float("nan")])}, {"head": {"bias": torch.zeros(1)}})
    with pytest.raises(UsageError, match="pretrain: 'x': diverged: weights of backbone that are not finite: weight"):
        check_finite_states("pretrain: 'x'", {"backbone": result.backbone, **result.modules})


# ---------------------------------------------------------------------------------------------------------- the parts
def test_the_watch_keeps_the_first_step():
    watch = DivergenceWatch(torch.device("cpu"))
    for step, loss in enumerate([1.0, float("nan"), 2.0, float("-inf")], start=1):
        watch.see(torch.tensor(loss, requires_grad=True), step)
        assert watch.first() == (None if step < 2 else 2)
    watch.forget()
    assert watch.first() is None
    watch.see(torch.tensor(float("inf")), 9)
    assert watch.first() == 9


def test_whole_numbers_are_finite_and_names_come_in_order():
    net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    assert nonfinite_tensors(net) == []
    net[1].running_var[1] = float("inf")
    net[0].bias.data[0] = float("nan")
    assert nonfinite_tensors(net) == ["0.bias", "1.running_var"]


def test_advice_names_what_was_not_tried():
    assert advice({"lr": 1e6, "clip_grad": 0, "amp": True}) == (
        "try a smaller lr than 1e+06 or clip_grad: 1 or amp: false, under another save_name: a run keeps its configuration"
    )
    assert advice({"lr": 0.03, "clip_grad": 1.0, "amp": False}).startswith("try a smaller lr than 0.03, under")


def test_what_is_logged_is_one_line(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        diverged(settings(tmp_path, active=ONE, lr=1e30))
    assert not caplog.records and not list(Path(tmp_path).rglob("*.tmp"))


def watched(**modules) -> Divergence:
    return Divergence("runs/a: the training of cycle 2", torch.device("cpu"), lambda: modules, "try less")


def test_a_loss_that_is_not_finite_is_forgotten_where_the_weights_are():
    """As mixed precision skips such a step: what it did no harm to is looked at once, and not again."""
    net = torch.nn.Linear(2, 1)
    divergence = watched(net=net)
    divergence.see(torch.tensor(float("nan")), 3)
    divergence.check(4, 9, thoroughly=False)
    net.weight.data.fill_(float("nan"))
    # The loss has been finite since.
    divergence.check(5, 9, thoroughly=False)
    with pytest.raises(UsageError) as caught:
        divergence.check(6, 9, thoroughly=True)
    said = "at step 6, 1 of 2 tensors of net are not finite (weight); try less"
    assert str(caught.value) == f"runs/a: the training of cycle 2 diverged and has no result: {said}"
    divergence.see(None, 7)
    divergence.see(torch.tensor(float("inf")), 7)
    with pytest.raises(UsageError, match="the loss is not finite since step 7 of 9; at step 8, 1 of 2 tensors of net"):
        divergence.check(8, 9, thoroughly=False)


def test_a_plugins_network_that_is_not_finite_either_is_named_with_the_advice():
    modules = {"the model": torch.nn.Linear(2, 1), "active.acquisition: 'head'": torch.nn.Linear(2, 1)}
    divergence = Divergence("x", torch.device("cpu"), lambda: modules, "try less")
    modules["the model"].weight.data.fill_(float("nan"))
    assert str(divergence.error("it")) == "x diverged and has no result: it; try less"
    modules["active.acquisition: 'head'"].weight.data.fill_(float("nan"))
    said = "x diverged and has no result: it; try less; or a smaller lr of active.acquisition: 'head', where that diverged first"
    assert str(divergence.error("it")) == said


def test_modules_that_are_made_later_count():
    modules = {"a": torch.nn.Linear(2, 1)}
    divergence = Divergence("x", torch.device("cpu"), lambda: modules, "")
    assert divergence.nonfinite() == ""
    modules["b"] = torch.nn.Linear(2, 1)
    modules["b"].bias.data.fill_(float("inf"))
    assert divergence.nonfinite() == "1 of 2 tensors of b are not finite (bias)"
