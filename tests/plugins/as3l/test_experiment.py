"""AS3L as a whole: killed in every stage, and with a person's answers in between, it ends with the same labels and the same bits."""

from __future__ import annotations

import csv

import killer
import pytest
from run_helpers import checkpoint, labels_of, settings, weights_equal

from usb_active.builtin.array_datasets import Digits
from usb_active.storage.run_dir import RunDir

pytestmark = pytest.mark.slow

FATAL = '''
"""Ends its process at a stage of AS3L that the environment names."""

import os
import signal

from usb_active.loop import initial_weights
from usb_active.pool import epoch_training as pretraining_loop
from usb_active.plugins.as3l import acquisitions, priors, shared_features, simsiam
from usb_active.loop.guidance import Guidance
from usb_active.storage.run_dir import RunDir
from usb_active.usb.algorithm import ActiveMixin


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def at(owner, name, number=1, after=False, when=lambda *_, **__: True):
    """Die before (or after) the `number`-th call that is meant."""
    original, calls = getattr(owner, name), []

    def wrapped(*args, **keywords):
        chosen = when(*args, **keywords)
        calls.extend([name] * chosen)
        if chosen and not after and len(calls) == number:
            die()
        result = original(*args, **keywords)
        if chosen and after and len(calls) == number:
            die()
        return result

    setattr(owner, name, wrapped)


def step(iteration):
    at(ActiveMixin, "train_step", when=lambda trainer, **_: trainer.it == iteration)


def table(after):
    at(Guidance, "fit", after=after, when=lambda schedule, view, when, *_: when == "step")


# In the order in which a run comes to them. Five batches an epoch of the pretraining.
POINTS = {
    "pretraining": lambda: at(simsiam._Training, "_step", 8),
    "epoch": lambda: at(pretraining_loop, "write_checkpoint"),
    "pretrained": lambda: at(initial_weights, "write_checkpoint", after=True),
    "features": lambda: at(initial_weights, "save_artifact"),
    "fine_tuning": lambda: at(shared_features, "fit_layer"),
    "fine_tuned": lambda: at(acquisitions.functional, "select"),
    "query": lambda: at(RunDir, "save_query"),
    "asked": lambda: at(RunDir, "save_query", after=True),
    "answers": lambda: at(RunDir, "append_rows", after=True),
    "start": lambda: at(RunDir, "write_json", after=True, when=lambda run, name, *_: name == "cycle_000/start.json"),
    "prior": lambda: at(priors.AS3LPrior, "spread"),
    "guided": lambda: step(4),
    "guided_late": lambda: step(8),
    "before_update": lambda: table(False),
    "update": lambda: table(True),
    "unguided": lambda: step(13),
    "last": lambda: step(19),
}
if os.environ.get("USB_ACTIVE_TEST_POINT"):
    POINTS[os.environ["USB_ACTIVE_TEST_POINT"]]()
'''
POINTS = (
    "pretraining", "epoch", "pretrained", "features", "fine_tuning", "fine_tuned", "query", "asked", "answers", "start", "prior", "guided",
    "guided_late", "before_update", "update", "unguided", "last",
)  # fmt: skip
PRETRAIN = {"name": "simsiam", "epochs": 2, "batch_size": 256, "lr": 0.5, "crop": 0.6, "projection_dim": 16, "prediction_dim": 4}
UPDATE = {"until_iter": 10, "then": "update", "update_every": 6}


def digits(tmp_path, name, /, then=None, **active):
    """The digits experiment, shortened: 20 steps, with a checkpoint after every third."""
    (tmp_path / "fatal.py").write_text(FATAL)
    block = {
        "pretrain": PRETRAIN, "features": "pretrain", "initial": {"name": "as3l", "size": 10},
        "prior": {"name": "as3l", **(then or UPDATE)}, "cycles": 0, "acquisition": None, **active,
    }  # fmt: skip
    usb = {"num_train_iter": 20, "num_eval_iter": 3, "epoch": 1, "include_lb_to_ulb": False}
    return settings(tmp_path, name, active=block, plugins=[str(tmp_path / "fatal.py")], **usb)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return killer.finish(digits(tmp_path_factory.mktemp("whole"), "whole"))


def kill_and_finish(data, points):
    for point in points:
        ended = killer.run(data, point)
        assert ended.code == killer.KILLED, (point, ended)
    return killer.finish(data)


def tables(run):
    """What a run has kept, by name: tables of the prior, the layer of its fine-tuned features. (The report's baselines are kept with a sum
    over the journal, whose times differ.)"""
    return {path.name: path.read_bytes() for path in sorted((run / "artifacts").glob("*")) if path.is_file() and path.suffix != ".json"}


def test_killed_in_one_stage_after_the_other(tmp_path, whole):
    run = kill_and_finish(digits(tmp_path, "run"), POINTS)
    killer.assert_same_end(run, whole, cycle=0)
    assert tables(run) == tables(whole)
    scratch = "pretrain/scratch/simsiam.jsonl"
    assert (run / scratch).read_bytes() == (whole / scratch).read_bytes()


def test_killed_where_the_prior_is_removed(tmp_path):
    then = {"until_iter": 10, "then": "remove"}
    uninterrupted = killer.finish(digits(tmp_path, "uninterrupted", then))
    run = kill_and_finish(digits(tmp_path, "run", then), ("pretraining", "fine_tuned", "guided", "guided_late", "unguided", "last"))
    killer.assert_same_end(run, uninterrupted, cycle=0)


def test_selection_and_prior_share_one_layer_and_the_prior_is_judged(whole):
    names = sorted(name for name in tables(whole) if name.startswith("as3l_layer_"))
    assert len({name.rpartition("_10_6_40")[0] for name in names}) == 1
    (record,) = RunDir.read(whole).metrics()
    # The start's; and those of the updates, before steps 10 and 16, under names of their own.
    assert {"prior_accuracy", "prior_ece", "prior_coverage", "class_coverage", "updated_prior_accuracy"} <= set(record["log"])
    assert 0.2 < record["log"]["prior_accuracy"] <= 1 and record["log"]["class_coverage"] >= 5


def test_a_person_is_asked_once_and_what_was_fine_tuned_survives_the_pause(tmp_path, whole):
    data = digits(tmp_path, "run", oracle="csv")
    paused = killer.run(data)
    assert paused.code == 3 and "10 of 10 labels are missing" in paused.out + paused.err, paused
    run = killer.directory(data)
    kept = tables(run)
    assert any("layer" in name for name in kept)
    answer(run / "queries" / "cycle_000.csv")
    # Had the layer to be made again, the process would die of it.
    assert killer.run(data, "fine_tuning").code == 0
    assert {name: tables(run)[name] for name in kept} == kept
    # A simulated oracle gives the same labels: the same training, bit for bit.
    assert labels_of(run) == labels_of(whole)
    assert weights_equal(checkpoint(run, 0), checkpoint(whole, 0))


def answer(sheet):
    """Every row by the digits' own labels."""
    dataset = Digits()
    with open(sheet, encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row["label"] = dataset.class_names[dataset.targets[int(row["index"])]]
    with open(sheet, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
