"""The format of a cycle's checkpoints: written and read by algorithms that are built and not trained."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from run_helpers import config_of, settings

from usb_active.errors import UsageError
from usb_active.storage.checkpoint import read_checkpoint, write_checkpoint
from usb_active.usb.launcher import make_algorithm

# Runs of earlier versions are resumed by these names.
USB = {"model", "ema_model", "optimizer", "loss_scaler", "it", "epoch", "best_it", "best_eval_acc", "scheduler"}
ACTIVE = {
    "cycle", "device", "algorithm", "plugins", "registered", "optimizers", "evaluation", "best_test_accuracy", "prior", "prior_log",
    "elapsed", "elapsed_cpu", "log",
}  # fmt: skip


@pytest.fixture
def build(tmp_path):
    """Builds the algorithm of one run, as a process does that begins or resumes; its run directory is given back at the end."""
    built = []

    def make():
        for algorithm in built:
            algorithm.session.close()
        algorithm = make_algorithm(config_of(settings(tmp_path, algorithm="flexmatch")))
        algorithm.epoch = 0
        built.append(algorithm)
        return algorithm

    yield make
    for algorithm in built:
        algorithm.session.close()


def put(algorithm, path: Path, **changes) -> Path:
    """Its checkpoint, with some entries under "active" replaced."""
    kept = algorithm.get_save_dict()
    write_checkpoint(path, {**kept, "active": {**kept["active"], **changes}})
    return path


def test_the_names_in_a_checkpoint(build):
    kept = build().get_save_dict()
    # FlexMatch brings a table of its own.
    assert USB | {"belongs_to", "active"} == set(kept) - {"classwise_acc", "selected_label"}
    assert set(kept["active"]) == ACTIVE
    assert set(kept["active"]["registered"]) == set(kept["active"]["optimizers"]) == {"initial", "acquisition", "algorithm"}


def test_what_was_written_is_there_after_reading(build, tmp_path):
    one = build()
    one.register_state("critic", lambda: torch.nn.Linear(3, 1)).weight.data.fill_(0.25)
    one.it = 6
    next(one.model.parameters()).data.fill_(0.5)
    one.note_evaluation({"eval/top-1-acc": 0.75})
    one.hooks_dict["MaskingHook"].selected_label[3] = 2
    one.session.logged["seen"] = 4.0
    path = put(one, tmp_path / "kept.pth", elapsed=12.5, elapsed_cpu=20.25)
    other = build()
    critic = other.register_state("critic", lambda: torch.nn.Linear(3, 1))
    assert other.load_model(str(path)).keys() == one.get_save_dict().keys()
    # The number of a checkpoint is that of the next step.
    assert (other.it, other.best_it, other.best_eval_acc) == (7, 6, 0.75)
    assert (next(other.model.parameters()) == 0.5).all() and (critic.weight == 0.25).all()
    assert other.evaluation == {"eval/top-1-acc": 0.75} and other.best_test_score == 0.75
    assert other.hooks_dict["MaskingHook"].selected_label[3] == 2
    assert other.session.logged == {"seen": 4.0} and (other.elapsed, other.cpu_elapsed) == (12.5, 20.25)


def test_of_an_algorithm_s_numbers_only_those_that_changed_are_kept(build, tmp_path):
    one = build()
    assert one.get_save_dict()["active"]["algorithm"]["numbers"] == {}
    one.p_cutoff = 0.123
    path = put(one, tmp_path / "kept.pth")
    assert read_checkpoint(path)["active"]["algorithm"]["numbers"] == {"p_cutoff": 0.123}
    other = build()
    assert other.p_cutoff != 0.123
    other.load_model(str(path))
    assert other.p_cutoff == 0.123


def test_a_checkpoint_of_before_there_was_a_log_of_the_prior(build, tmp_path):
    path = put(build(), tmp_path / "kept.pth")
    kept = read_checkpoint(path)
    del kept["active"]["prior_log"]
    write_checkpoint(path, kept)
    assert build().load_model(str(path))["active"].keys() == ACTIVE - {"prior_log"}


def test_cpu_seconds_of_which_a_part_was_not_counted_are_not_said(build, tmp_path):
    path = put(build(), tmp_path / "kept.pth", elapsed=12.5)
    kept = read_checkpoint(path)
    del kept["active"]["elapsed_cpu"]
    write_checkpoint(path, kept)
    algorithm = build()
    algorithm.load_model(str(path))
    assert (algorithm.elapsed, algorithm.cpu_elapsed) == (12.5, None)


def test_one_of_a_training_that_had_diverged_is_refused(build, tmp_path):
    one = build()
    next(one.ema_model.parameters()).data[0] = float("nan")
    path = put(one, tmp_path / "kept.pth")
    with pytest.raises(UsageError, match=r"kept\.pth: 1 of \d+ tensors of the EMA model are not finite .*: the training had diverged; try"):
        build().load_model(str(path))


def test_another_device_is_a_warning(build, tmp_path, caplog):
    path = put(build(), tmp_path / "kept.pth", device="elsewhere")
    with caplog.at_level(logging.WARNING, logger="usb_active"):
        build().load_model(str(path))
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith("resuming on ") and "(previously elsewhere): results are no longer bit-identical" in said


def test_usb_s_last_save_into_the_run_directory_writes_nothing(build):
    algorithm = build()
    algorithm.save_model("latest_model.pth", str(algorithm.session.run_dir.path))
    assert not list(algorithm.session.run_dir.path.rglob("*.pth"))
    algorithm.save_model("latest_model.pth", algorithm.session.run_dir.path / "cycle_000")
    assert [path.name for path in algorithm.session.run_dir.path.rglob("*.pth")] == ["latest_model.pth"]
