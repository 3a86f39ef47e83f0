"""Algorithm 1 in real runs: which step moves what, what is in checkpoints, what is logged and warned of, and what is refused."""

from __future__ import annotations

import copy
import json
import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from run_helpers import checkpoint, command, config_of, labels_of, settings, train, weights_equal, write_yaml
from torch import nn
from usb_active.plugins.assal import algorithm as module
from usb_active.plugins.assal.algorithm import Assal
from usb_active.plugins.assal.learning import Learners, Objective, frozen
from usb_active.plugins.assal.networks import ClassifyingVae, Discriminator

from usb_active import UsageError, load_artifact

KEYS = {
    "algorithm": "assal", "net": {"name": "assal_vae", "latent": 4, "width": 4}, "include_lb_to_ulb": False, "optim": "AdamW",
    "lr": 0.002, "uratio": 1, "assal_sampler_width": 16,
}  # fmt: skip


def assal(tmp_path, name="run", /, active=None, **usb):
    return settings(tmp_path, name, active={"acquisition": "assal", **(active or {})}, **{**KEYS, **usb})


def made(data):
    from usb_active.usb.launcher import make_algorithm

    torch.set_num_threads(1)
    return make_algorithm(config_of(data))


def state(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(one, other):
    return all(torch.equal(value, other[name]) for name, value in one.items())


class Stopped(Exception):
    pass


def watched(data, stop_at=None):
    """A run, and for every step what the update of the rest and the sampler's step each changed."""
    algorithm = made(data)
    seen, train_step, step_sampler = [], algorithm.train_step, Assal.step_sampler

    def begun(**inputs):
        if (algorithm.cycle, algorithm.it) == stop_at:
            raise Stopped
        algorithm.before = state(algorithm.model), state(algorithm.sampler)
        return train_step(**inputs)

    def stepped():
        between = state(algorithm.model), state(algorithm.sampler)
        step_sampler(algorithm)
        after = state(algorithm.model), state(algorithm.sampler)
        seen.append(SimpleNamespace(before=algorithm.before, between=between, after=after))

    algorithm.train_step, algorithm.step_sampler = begun, stepped
    if stop_at is None:
        algorithm.train()
    else:
        with pytest.raises(Stopped):
            algorithm.train()
    return algorithm, seen


# ------------------------------------------------------------------------------------------------- who learns from what
def test_the_rest_is_updated_first_and_alone_and_then_the_sampler_alone(tmp_path):
    algorithm, seen = watched(assal(tmp_path, active={"cycles": 0}))
    assert len(seen) == 12
    for step in seen:
        assert not same(step.before[0], step.between[0]) and same(step.before[1], step.between[1])
        assert same(step.between[0], step.after[0]) and not same(step.between[1], step.after[1])
    moved = {name.partition(".")[0] for name, value in seen[0].after[0].items() if not torch.equal(value, seen[0].before[0][name])}
    assert moved == {"encoder", "generator", "classifier", "rotation"}


def test_the_adversarial_loss_alone_moves_the_encoder_and_nothing_else(tmp_path):
    weights = {"assal_lambda1": 0, "assal_lambda2": 0, "assal_lambda3": 0, "assal_lambda4": 1}
    _, seen = watched(assal(tmp_path, active={"cycles": 0}, weight_decay=0, **weights))
    moved = {name.partition(".")[0] for name, value in seen[0].between[0].items() if not torch.equal(value, seen[0].before[0][name])}
    assert moved == {"encoder"}


def test_frozen_passes_gradients_on_and_takes_none():
    sampler, code = Discriminator(3, width=4), torch.randn(2, 3, requires_grad=True)
    with frozen(sampler):
        loss = sampler(code).sum()
    loss.backward()
    assert code.grad.abs().sum() > 0 and all(p.grad is None and p.requires_grad for p in sampler.parameters())


def test_the_sampler_sees_the_images_of_the_step_encoded_again(tmp_path):
    algorithm = made(assal(tmp_path, active={"cycles": 0}))
    seen, step_sampler = [], Assal.step_sampler

    def stepped():
        x_lb, x_ulb = algorithm._seen
        inputs = []
        handle = algorithm.sampler.register_forward_hook(lambda module, given, output: inputs.append(given[0]))
        step_sampler(algorithm)
        handle.remove()
        with torch.no_grad():
            codes = algorithm.model.encode(torch.cat([x_lb, x_ulb]))[0]
        seen.append(len(inputs) == 1 and torch.equal(inputs[0], codes) and not inputs[0].requires_grad)

    algorithm.step_sampler = stepped
    algorithm.train()
    assert seen == [True] * 12


def test_no_labelled_sample_is_in_the_unlabelled_stream(tmp_path):
    split = train(assal(tmp_path, active={"cycles": 0})).split
    assert len(split.labeled) == 20 and len(split.unlabeled) == 1323 and not set(split.labeled) & set(split.unlabeled)
    with pytest.raises(UsageError, match="include_lb_to_ulb"):
        config_of(assal(tmp_path, include_lb_to_ulb=True))


# ------------------------------------------------------------------------------------------------- resume
def test_a_stopped_run_resumes_to_the_same_bits_with_both_optimizers(tmp_path):
    block = {"keep": "all"}
    watched(assal(tmp_path, "whole", block))
    watched(assal(tmp_path, "stopped", block), stop_at=(1, 10))
    watched(assal(tmp_path, "stopped", block))
    for cycle in (0, 1):
        one, other = (checkpoint(tmp_path / name, cycle) for name in ("whole", "stopped"))
        assert weights_equal(one, other)
        kept = [end["active"]["registered"]["algorithm"] for end in (one, other)]
        assert kept[0].keys() == {"sampler", "sampler_optimizer"} and same(kept[0]["sampler"], kept[1]["sampler"])
        for number, moments in kept[0]["sampler_optimizer"]["state"].items():
            # Adam has stepped once per step.
            assert int(moments["step"]) == 12 and same(moments, kept[1]["sampler_optimizer"]["state"][number])
    assert labels_of(tmp_path / "whole") == labels_of(tmp_path / "stopped")
    lines = [(tmp_path / name / "metrics.jsonl").read_text().splitlines() for name in ("whole", "stopped")]
    logs = [[json.loads(line)["log"] for line in of_run] for of_run in lines]
    assert logs[0] == logs[1] and all(0 <= line["assal/sampler_accuracy"] <= 1 for line in logs[0])


def test_a_killed_run_ends_like_an_uninterrupted_one(tmp_path):
    from killer import KILLED, PLUGIN, assert_same_end, finish, run

    data = assal(tmp_path, plugins=[str(PLUGIN)], active={"cycles": 2})
    uninterrupted = finish({**data, "save_name": "uninterrupted"})
    assert run(data, "train").code == KILLED
    assert_same_end(finish(data), uninterrupted)


# ------------------------------------------------------------------------------------------------- the code, logged and warned of
def longer(tmp_path, **keys):
    lasting = {"num_train_iter": 120, "num_eval_iter": 120, "num_log_iter": 20, "epoch": 2, "batch_size": 16, "ema_m": 0.0}
    return train(assal(tmp_path, active={"cycles": 0}, **{**lasting, **keys}))


def test_the_default_does_not_collapse_and_the_losses_as_printed_do(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "usb_active"):
        default = longer(tmp_path / "default", net={"name": "assal_vae", "latent": 8, "width": 8}, lr=0.005)
        assert default.log_dict["train/active_dims"] >= 4 and "collapsed" not in caplog.text
        printed = longer(tmp_path / "printed", net={"name": "assal_vae", "latent": 8, "width": 8}, lr=0.005, assal_beta=1)
    assert printed.log_dict["train/active_dims"] == 0 and printed.log_dict["train/kl"] < 0.1 < default.log_dict["train/kl"]
    assert sum("the code has collapsed" in record.getMessage() for record in caplog.records) == 1
    assert default.evaluation["eval/top-1-acc"] > 0.4 > 0.3 > printed.evaluation["eval/top-1-acc"]


def test_a_sampler_at_chance_is_warned_of_with_what_to_change(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "usb_active"):
        algorithm = train(assal(tmp_path, active={"cycles": 0}, assal_sampler_lr=1e-12))
    assert 0 <= algorithm.sampler_accuracy() < 0.55
    assert "near chance" in caplog.text and "smaller assal_lambda4" in caplog.text


# All told right, and none.
RIGHT, WRONG = torch.full((4,), 8.0), torch.tensor([0.0, 8.0, 0.0, 8.0])


@pytest.mark.parametrize(("acquisition", "counts", "is_said"), [
    ("assal", [WRONG] * 8 + [RIGHT] * 4, False), ("assal", [RIGHT] * 8 + [WRONG] * 4, True),
    # Four of the last four steps count, whatever an epoch is.
    ("assal", [WRONG] * 8 + [RIGHT, WRONG, RIGHT, WRONG], True), ("assal", [WRONG] * 8 + [RIGHT, RIGHT, RIGHT, WRONG], False),
    # Here the sampler chooses nothing.
    ("margin", [WRONG] * 12, False), ("badge", [WRONG] * 12, False),
])  # fmt: skip
def test_chance_is_judged_by_the_last_steps_and_where_the_sampler_chooses(tmp_path, monkeypatch, caplog, acquisition, counts, is_said):
    monkeypatch.setattr(module, "JUDGED_STEPS", 4)
    step, given = Learners.step_sampler, iter(counts)
    monkeypatch.setattr(Learners, "step_sampler", lambda learners, *images: (step(learners, *images)[0], next(given)))
    with caplog.at_level(logging.WARNING, "usb_active"):
        algorithm = train(assal(tmp_path, active={"acquisition": acquisition, "cycles": 0}))
    assert algorithm.it == 12 and next(given, None) is None
    assert ("near chance" in caplog.text) == is_said
    # What is logged remains that of the epoch.
    assert algorithm.sampler_counts.tolist() == torch.stack(counts[6:]).sum(dim=0).tolist()


def test_a_resumed_run_does_not_warn_of_its_collapse_again(tmp_path, monkeypatch, caplog):
    # From the middle of the training on, wherever it is logged: after steps 8 and 12.
    monkeypatch.setattr(Objective, "collapse", lambda objective, state: "the code has collapsed")
    said = lambda: sum("the code has collapsed" in record.getMessage() for record in caplog.records)  # noqa: E731 — asked again
    with caplog.at_level(logging.WARNING, "usb_active"):
        watched(assal(tmp_path, active={"cycles": 0}), stop_at=(0, 10))
        assert said() == 1
        algorithm, seen = watched(assal(tmp_path, active={"cycles": 0}))
    assert len(seen) == 4 and algorithm.warned_of_collapse and said() == 1


def test_its_balanced_accuracy_is_that_of_the_epoch(tmp_path):
    algorithm = made(assal(tmp_path, active={"cycles": 0}))
    algorithm.sampler_counts = torch.tensor([3.0, 4.0, 1.0, 10.0])
    assert algorithm.sampler_accuracy() == pytest.approx((0.75 + 0.1) / 2)
    algorithm.train()
    # Six steps of eight and eight.
    assert algorithm.sampler_counts[1::2].tolist() == [48, 48]


def test_its_balanced_accuracy_in_each_epoch_is_kept(tmp_path):
    """A stopped training ends with the same ones, and a cycle begins with none. The last of five epochs takes the remainder of twelve."""
    kept = []
    for name, stop_at in (("whole", None), ("stopped", (1, 7))):
        data = assal(tmp_path, name, active={"cycles": 1, "budget": 3}, epoch=5)
        if stop_at:
            watched(data, stop_at)
        train(data)
        kept.append([load_artifact(tmp_path / name / f"artifacts/assal_training_epochs_00{cycle}") for cycle in (0, 1)])
    assert np.shape(kept) == (2, 2, 5)
    assert np.array_equal(*kept) and np.ptp(kept[0]) > 0


def test_what_is_logged_of_a_step(tmp_path):
    algorithm = train(assal(tmp_path, active={"cycles": 0}))
    losses = {f"{name}_loss" for name in ("representation", "labeled", "unlabeled", "adversarial")}
    wanted = losses | {"kl", "spread", "active_dims", "sampler_accuracy"}
    assert {f"train/{name}" for name in wanted} <= set(algorithm.log_dict)


def test_numbers_are_read_where_they_are_logged_alone(tmp_path):
    algorithm = made(assal(tmp_path, active={"cycles": 0}, num_log_iter=3))
    found, train_step = [], algorithm.train_step

    def stepped(**inputs):
        out, logged = train_step(**inputs)
        found.append(set(logged))
        return out, logged

    algorithm.train_step = stepped
    algorithm.train()
    # Every third for TensorBoard, every fourth with an evaluation, and the last.
    assert [step for step, names in enumerate(found, 1) if names] == [3, 4, 6, 8, 9, 12]
    assert all({"train/kl", "train/labeled_loss", "train/sampler_accuracy"} <= names for names in found if names)


@pytest.mark.parametrize(("number", "term"), enumerate(("representation", "labeled", "unlabeled", "adversarial"), 1))
def test_terms_without_weight_are_not_logged(tmp_path, number, term):
    algorithm = train(assal(tmp_path, active={"cycles": 0}, **{f"assal_lambda{number}": 0}))
    losses = {name for name in algorithm.log_dict if name.startswith("train/") and name.endswith("_loss")}
    assert losses == {f"train/{name}_loss" for name in ("representation", "labeled", "unlabeled", "adversarial") if name != term}


def test_pseudo_labels_teach_only_where_the_classifier_is_sure(tmp_path):
    unsure = train(assal(tmp_path, "unsure", active={"cycles": 0}, assal_target="pseudo_label", assal_threshold=1.0))
    assert unsure.log_dict["train/unlabeled_loss"] == 0
    all_of_them = train(assal(tmp_path, "all", active={"cycles": 0}, assal_target="pseudo_label", assal_threshold=0.0))
    assert all_of_them.log_dict["train/unlabeled_loss"] > 0


# ------------------------------------------------------------------------------------------------- refused
@pytest.mark.parametrize(("keys", "said"), [
    ({f"assal_lambda{number}": 0 for number in range(1, 5)}, "all are 0, so that there is nothing to learn"),
    ({"assal_lambda3": -0.1}, "assal_lambda3"), ({"assal_beta": -1}, "assal_beta"), ({"assal_target": "rotations"}, "assal_target"),
    ({"net": {"name": "assal_vae", "latent": 0}}, "latent"),
    ({"net": {"name": "small_cnn", "width": 4}}, "net: 'small_cnn' has no 'encode', 'decode', 'rotation', which algorithm 'assal' calls"),
    ({"img_size": 4}, "assal_vae': takes images of 8 pixels or more, not of 4"),
])  # fmt: skip
def test_bad_keys_are_one_line_before_the_run(tmp_path, keys, said):
    data = assal(tmp_path, **keys)
    with pytest.raises(UsageError) as error:
        made(data)
    assert said in str(error.value) and "\n" not in str(error.value).strip()


def test_on_the_command_line_it_is_one_line(tmp_path):
    data = assal(tmp_path, **{f"assal_lambda{number}": 0 for number in range(1, 5)})
    found = command("check", write_yaml(tmp_path / "a.yaml", data))
    assert found.returncode == 2 and "all are 0" in found.stderr and "Traceback" not in found.stderr


def test_the_acquisition_under_another_algorithm_is_refused_before_the_run(tmp_path):
    data = settings(tmp_path, active={"acquisition": "assal"}, algorithm="fixmatch")
    with pytest.raises(UsageError, match="'assal': chooses by the sampler that algorithm 'assal' trains, and this one trains none"):
        made(data)


@pytest.mark.parametrize("name", ["encode", "decode", "rotation", "classifier", "num_features"])
def test_all_that_is_called_of_the_network_is_asked_for_before_the_run(tmp_path, name):
    from usb_active.usb.missing_parts import check_network

    config, net = config_of(assal(tmp_path)), ClassifyingVae(3, 8, 1, 4, 4)
    check_network(config, Assal, net)

    class Lacking(nn.Module):
        def __getattr__(self, asked):
            if asked == name:
                raise AttributeError(asked)
            return getattr(net, asked)

    with pytest.raises(UsageError, match=f"'assal_vae' has no '{name}', which algorithm 'assal' calls"):
        check_network(config, Assal, Lacking())


def test_one_gpu_of_several_and_no_processes():
    net = ClassifyingVae(3, 8, 1, 4, 4)
    # Without a process group, as it is refused by its class alone.
    distributed = nn.parallel.DistributedDataParallel.__new__(nn.parallel.DistributedDataParallel)
    assert module._unwrapped(net) is net and module._unwrapped(nn.DataParallel(net)) is net
    with pytest.raises(UsageError, match="algorithm 'assal': its gradients would not be averaged over processes .*; use one GPU"):
        module._unwrapped(distributed)


def test_plain_assal_says_why_not():
    with pytest.raises(UsageError, match="algorithm 'assal': USB's own loop keeps no sampler in its checkpoints; use active_assal"):
        Assal(SimpleNamespace(), None)


@pytest.mark.parametrize("number", range(1, 5))
def test_a_term_that_is_not_finite_stops_with_the_step_the_term_and_the_checkpoint(tmp_path, monkeypatch, number):
    algorithm = made(assal(tmp_path, active={"cycles": 0}))
    check, broken = Assal._check_terms, f"assal_lambda{number}"

    def spoiled(terms):
        if algorithm.it == 6:
            terms = {**terms, broken: terms[broken] * float("nan")}
        check(algorithm, terms)

    algorithm._check_terms = spoiled
    term = {1: "representation", 2: "labeled", 3: "unlabeled", 4: "adversarial"}[number]
    with pytest.raises(UsageError) as error:
        algorithm.train()
    found = str(error.value)
    assert f"step 7 of 12 of cycle 0: the term '{term}_loss' of {broken} is not finite (nan)" in found
    assert f"the last checkpoint is {tmp_path / 'run' / 'cycle_000' / 'latest_model.pth'}" in found and "\n" not in found


def test_a_term_that_has_no_weight_may_be_anything(tmp_path):
    algorithm = made(assal(tmp_path, active={"cycles": 0}, assal_lambda2=0))
    finite = {name: torch.tensor(1.0) for name in copy.copy(algorithm.weights)}
    algorithm._check_terms({**finite, "assal_lambda2": torch.tensor(float("nan"))})
