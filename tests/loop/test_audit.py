"""`active.audit` and `active.stop` in whole runs: what is drawn, asked, trained on, measured; resumed, continued and ended."""

from __future__ import annotations

import json
import logging
import shutil

import killer
import numpy as np
import pytest
from run_helpers import ROOT, checkpoint, config_of, labels_of, settings, train, weights_equal

from usb_active import cli, load_config, run
from usb_active.builtin.array_datasets import Digits
from usb_active.commands.run import check_all
from usb_active.contracts.task import Classification
from usb_active.errors import UsageError
from usb_active.loop.audit import audit_fields, draw_audit, mixed
from usb_active.loop.session import progress_line
from usb_active.numerics.assessment import clopper_pearson, cohen_kappa
from usb_active.pool.pool import Pool
from usb_active.pool.view import PoolView
from usb_active.report.baseline_data import labellings
from usb_active.report.runs import read_runs
from usb_active.storage.audit_file import AUDIT_FILE, read_audit
from usb_active.storage.run_dir import RunDir
from usb_active.storage.schemas import finished_trainings

SIZE = 25
AUDITED = {"audit": SIZE, "cycles": 2, "validation": 0.2}


@pytest.fixture(scope="module")
def audited(tmp_path_factory):
    """A finished run: 25 + 20, 10 and 10 labels."""
    return train(settings(tmp_path_factory.mktemp("audited"), active=AUDITED, include_lb_to_ulb=True))


@pytest.fixture(scope="module")
def lines(audited):
    return finished_trainings(audited.session.run_dir)


def test_the_draw_depends_on_the_seed_alone():
    queryable = np.ones(50, dtype=bool)
    queryable[7] = False
    drawn = draw_audit(queryable, [3, 4], 10, 0)
    assert np.array_equal(drawn, draw_audit(queryable, [4, 3], 10, 0))
    assert not np.array_equal(drawn, draw_audit(queryable, [3, 4], 10, 1))
    assert np.array_equal(drawn, np.unique(drawn)) and len(drawn) == 10
    assert not {3, 4, 7} & set(drawn.tolist())
    assert draw_audit(queryable, [3, 4], 47, 0).tolist() == np.setdiff1d(np.arange(50), [3, 4, 7]).tolist()
    with pytest.raises(UsageError, match=r"active\.audit: 48: only 47 samples"):
        draw_audit(queryable, [3, 4], 48, 0)


def test_every_sample_is_drawn_as_often_as_any_other():
    counts = sum(np.bincount(draw_audit(np.ones(20, dtype=bool), (), 5, seed), minlength=20) for seed in range(2000))
    # 500 each, with a standard deviation of √(2000 · 0.25 · 0.75) ≈ 19.
    assert np.abs(counts - 500).max() < 100


def test_the_audit_is_mixed_among_the_picks():
    picks, audit = np.array([9, 2, 5, 7]), np.array([1, 3, 8])
    query = mixed(picks, audit, 0)
    assert query[~np.isin(query, audit)].tolist() == picks.tolist()
    assert sorted(query.tolist()) == [1, 2, 3, 5, 7, 8, 9]
    places = {tuple(np.flatnonzero(np.isin(mixed(picks, audit, seed), audit))) for seed in range(200)}
    assert len(places) == 35  # all ways to choose 3 of 7 places


def test_it_is_asked_with_the_first_query_and_never_again(audited):
    session = audited.session
    audit, first = read_audit(session.run_dir), session.run_dir.query(0)
    assert len(audit) == SIZE and len(first.idx) == SIZE + 20
    assert set(audit) <= set(first.idx)
    assert first.probs is None
    for cycle in (1, 2):
        assert not set(audit) & set(session.run_dir.query(cycle).idx)
    by_method = {}
    for row in session.run_dir.rows():
        by_method.setdefault(row.acquisition, []).append(row.index)
    assert sorted(by_method["audit"]) == audit.tolist()
    assert {name: len(idx) for name, idx in by_method.items()} == {"audit": SIZE, "random": 20, "margin": 20}


def test_nothing_trains_on_it(audited):
    """Labelled samples are in the unlabelled stream of this run; those of the audit are in no stream."""
    audit = set(read_audit(audited.session.run_dir).tolist())
    streams = audited.dataset_dict
    held = audited.split.validation
    assert not audit & {*streams["train_lb"].idx.tolist(), *streams["train_ulb"].idx.tolist(), *held.tolist()}
    assert len(streams["train_lb"].idx) + len(held) == 40
    assert len(streams["train_ulb"].idx) == 1343 - SIZE - len(held)
    view = audited.session.views.of("acquisition", 2)
    assert not audit & {*view.labeled.tolist(), *view.unlabeled.tolist(), *view.candidates.tolist()}


def test_what_a_plugin_may_know_of_the_truth(audited):
    source = audited.session.views.source()
    truth = PoolView(source, 2, "acquisition", frozenset({"truth"}), None).truth
    audit = read_audit(audited.session.run_dir)
    assert (truth[audit] == -1).all()
    assert np.array_equal(np.delete(truth, audit), np.delete(source.dataset.targets, audit))
    # Nor where it may only be logged.
    seen = []
    PoolView(source, 2, "acquisition", frozenset(), None).audit(seen.append)
    assert len(seen) == 1 and np.array_equal(seen[0], truth)


def test_the_baselines_of_a_report_do_not_fit_it(audited):
    (record,), _ = read_runs([audited.session.run_dir.path])
    found = labellings(record, audited.session.dataset, [0, 2])
    audit = read_audit(audited.session.run_dir)
    assert not np.isin(audit, np.concatenate([found[2].labeled, found[2].held])).any()
    assert [len(found[cycle].labeled) + len(found[cycle].held) for cycle in (0, 2)] == [20, 40]


def test_what_is_measured(audited, lines):
    session, line = audited.session, lines[-1]
    audit = read_audit(session.run_dir)
    # The model of the last training, one sample at a time.
    rows = dict(zip(audit.tolist(), _probs(session, audit), strict=True))
    truth = session.dataset.targets
    right = [int(rows[i].argmax()) == truth[i] for i in audit.tolist()]
    assert line["audit_samples"] == SIZE
    assert line["audit_accuracy"] == pytest.approx(sum(right) / SIZE)
    assert (line["audit_low"], line["audit_high"]) == clopper_pearson(sum(right), SIZE)
    assert line["audit_class_counts"] == np.bincount(truth[audit], minlength=10).tolist()
    assert sum(line["audit_class_right"]) == sum(right)
    for number, count in enumerate(line["audit_class_counts"]):
        ends = line["audit_class_low"][number], line["audit_class_high"][number]
        assert ends == clopper_pearson(line["audit_class_right"][number], count)


def test_which_of_it_is_right_is_kept(audited, lines):
    session, line = audited.session, lines[-1]
    audit = read_audit(session.run_dir)
    right = _probs(session, audit).argmax(axis=1) == session.dataset.targets[audit]
    assert line["audit_hits"] == "".join("01"[int(hit)] for hit in right)
    pool = Pool(np.ones(4, dtype=bool))
    pool.audited[:], pool.audit_labels[:] = True, [1, -1, 0, 1]
    assert audit_fields(pool, np.array([[0.1, 0.9], [0.2, 0.8], [0.3, 0.7]]), Classification(("a", "b")))["audit_hits"] == "1-01"


def test_what_the_model_says_of_itself(audited, lines):
    session, folder = audited.session, audited.session.run_dir.path / "artifacts"
    # The pool is smaller than what is watched at most: all of it is, but for the audit.
    watched = np.load(folder / "stop_set.npy")
    assert watched.tolist() == np.setdiff1d(np.arange(1343), read_audit(session.run_dir)).tolist()
    probs = _probs(session, session.pool.unlabeled)
    assert lines[-1]["own_estimate"] == pytest.approx(probs.max(axis=1).mean(), rel=1e-5)
    assert lines[-1]["uncertainty"] == pytest.approx(-(probs * np.log(probs)).sum(axis=1).mean(), rel=1e-5)
    before, now = (np.load(folder / f"stop_set_{cycle:03d}.npy") for cycle in (1, 2))
    assert [line["kappa"] is None for line in lines] == [True, False, False]
    assert lines[-1]["kappa"] == cohen_kappa(before, now, 10)


def _probs(session, idx):
    view = session.algorithm_view()
    return np.concatenate([values["probs"][0] for _, values in view.predict(["probs"], idx)])


def test_it_is_charged(audited, lines):
    assert [line["num_labels"] for line in lines] == [45, 55, 65]
    assert [sum(line["class_counts"]) + sum(line["validation_class_counts"]) for line in lines] == [20, 30, 40]
    assert audited.session.run_dir.state()["labels"] == 65


def test_the_line_that_is_shown(lines):
    line = {**lines[0], "audit_accuracy": 0.8, "audit_low": 0.593, "audit_high": 0.932}
    assert ", audit 80.00 % (59.3 to 93.2 %, 25 samples), trained " in progress_line(line)


def test_what_is_taken_back_is_among_the_picks_of_the_next_query():
    picks, back = np.array([9, 2, 5]), np.array([1, 3])
    query = mixed(picks, back, 0, 2)
    assert query[~np.isin(query, back)].tolist() == picks.tolist() and sorted(query.tolist()) == [1, 2, 3, 5, 9]
    # At places of its own in each query.
    assert len({tuple(np.isin(mixed(picks, back, 0, cycle), back)) for cycle in range(1, 60)}) == 10
    assert mixed(np.empty(0, dtype=np.int64), back, 0, 2).tolist() in ([1, 3], [3, 1])


def test_a_run_without_is_as_it_was(tmp_path, audited):
    """Neither file nor key nor field of it."""
    session = train(settings(tmp_path)).session
    assert not (session.run_dir.path / AUDIT_FILE).exists()
    assert not list((session.run_dir.path / "artifacts").glob("stop_set*"))
    assert not any(name in line for line in session.run_dir.metrics() for name in ("audit_accuracy", "own_estimate", "kappa", "stop"))
    assert {"audit", "stop"} & session.run_dir.config["active"].keys() == set()


def test_stop_rules_alone_change_nothing_of_a_training(tmp_path):
    train(settings(tmp_path, "plain", active={"cycles": 2}))
    train(settings(tmp_path, "ruled", active={"cycles": 2, "stop": ["kappa"]}))
    assert labels_of(tmp_path / "plain") == labels_of(tmp_path / "ruled")
    assert weights_equal(checkpoint(tmp_path / "plain", 2), checkpoint(tmp_path / "ruled", 2))
    plain, ruled = (RunDir.read(tmp_path / name).metrics() for name in ("plain", "ruled"))
    assert [line["num_labels"] for line in plain] == [line["num_labels"] for line in ruled] == [20, 30, 40]
    assert [line["stop"] for line in ruled] == [[], [], []]


def test_all_known_labels_without_those_of_the_audit(tmp_path):
    data = settings(tmp_path, active={"audit": SIZE, "cycles": 0}, algorithm="fullysupervised", num_train_iter=6, num_eval_iter=3, epoch=1)
    algorithm = train(data)
    assert len(algorithm.dataset_dict["train_lb"].idx) == 1343 - SIZE
    assert not np.isin(read_audit(algorithm.session.run_dir), algorithm.dataset_dict["train_lb"].idx).any()
    (line,) = algorithm.session.run_dir.metrics()
    assert (line["num_labels"], line["num_asked"], line["audit_samples"]) == (1343, 20 + SIZE, SIZE)


# ---------------------------------------------------------------------------------------------- resumed and continued
@pytest.mark.slow
@pytest.mark.parametrize("point", ["select", "before_query", "query", "labels", "train", "training_end", "before_done"])
def test_killed_at_a_point(tmp_path, point):
    data = killer.settings(tmp_path, "killed", {"audit": 15, "stop": [{"name": "kappa", "last": 1, "at_least": 0.01}]})
    assert killer.run(data, point).code == killer.KILLED
    ended, other = killer.finish(data), killer.finish({**data, "save_name": "whole"})
    killer.assert_same_end(ended, other)
    assert (ended / AUDIT_FILE).read_bytes() == (other / AUDIT_FILE).read_bytes()


def test_a_run_that_lost_its_audit_is_refused(tmp_path):
    data = settings(tmp_path, active={"audit": 5, "cycles": 0})
    train(data)
    kept = (tmp_path / "run" / AUDIT_FILE).read_text()
    (tmp_path / "run" / AUDIT_FILE).unlink()
    with pytest.raises(UsageError, match=r"audit\.json is gone; restore it from a copy: it says what must not be trained on"):
        train({**data, "active": {**data["active"], "cycles": 1}})
    record = json.loads(kept)
    for damage in ({"idx": [0]}, {**record, "idx": record["idx"][::-1]}, {**record, "keys": record["keys"][::-1]}, [], None):
        (tmp_path / "run" / AUDIT_FILE).write_text(json.dumps(damage))
        with pytest.raises(UsageError, match=r"audit\.json is damaged") as caught:
            read_audit(RunDir.read(tmp_path / "run"))
        assert "\n" not in str(caught.value)
    (tmp_path / "run" / AUDIT_FILE).write_text(kept)
    train({**data, "active": {**data["active"], "cycles": 1}})


END = {"name": "overall_uncertainty", "below": 100, "then": "end"}


def test_a_rule_that_ends_the_run(tmp_path, caplog):
    def go(**active):
        caplog.clear()
        with caplog.at_level(logging.INFO, "usb_active"):
            session = train(settings(tmp_path, active={"cycles": 2, **active})).session
        return session.run_dir

    run_dir = go(stop=[END])
    assert [line["cycle"] for line in run_dir.metrics()] == [0]
    assert run_dir.query(1) is None
    state = run_dir.state()
    assert state["stage"] == "stopped" and state["why"][0].startswith("overall_uncertainty: the mean entropy")
    assert "to go on, change active.stop or leave it out, and run the same command again" in caplog.messages
    # Again, and it stays where it is.
    assert [line["cycle"] for line in go(stop=[END]).metrics()] == [0]
    # Under another rule it goes on to where that one ends it, and without any to the end.
    went_on = go(stop=[{"name": "kappa", "last": 1, "at_least": 1e-9, "then": "end"}, {**END, "then": "say"}])
    said = [line["stop"] for line in went_on.metrics()]
    assert [len(why) for why in said][:2] in ([1, 1], [1, 2])
    whole = go()
    assert [line["cycle"] for line in whole.metrics()] == [0, 1, 2]
    assert whole.state()["stage"] == "done"
    # A rule that comes too late ends nothing that has been begun.
    assert [line["cycle"] for line in go(stop=[END]).metrics()] == [0, 1, 2]
    train(settings(tmp_path, "plain", active={"cycles": 2}))
    assert weights_equal(checkpoint(tmp_path / "run", 2), checkpoint(tmp_path / "plain", 2))


# ---------------------------------------------------------------------------------------------- labels of another run
def test_the_audit_of_another_run_is_taken_over(audited, tmp_path):
    old = audited.session.run_dir
    data = settings(tmp_path, "new", active={"cycles": 1, "audit": SIZE}, algorithm="fixmatch")
    run(load_config(data, labels_from=old.path), quiet=True)
    new = RunDir.read(tmp_path / "new")
    assert read_audit(new).tolist() == read_audit(old).tolist()
    assert {row.index for row in new.rows() if row.acquisition == "audit"} == set(read_audit(old).tolist())
    assert [line["num_labels"] for line in new.metrics()] == [65, 75]
    assert [line["audit_samples"] for line in new.metrics()] == [SIZE, SIZE]
    assert [sum(line["class_counts"]) for line in new.metrics()] == [40, 50]


def test_an_audit_of_another_size_is_refused_and_none_trains_on_all(audited, tmp_path):
    old = audited.session.run_dir.path
    with pytest.raises(UsageError) as caught:
        check_all(load_config(settings(tmp_path, "other", active={"audit": 9}), labels_from=old))
    assert str(caught.value) == (
        "active.audit: 9: initial 'other_run' brings an audit of 25 samples; audit: 25 takes it over, audit: 0 trains on its labels"
    )
    run(load_config(settings(tmp_path, "all", active={"cycles": 0}), labels_from=old), quiet=True)
    (line,) = RunDir.read(tmp_path / "all").metrics()
    assert line["num_labels"] == sum(line["class_counts"]) == 65


@pytest.mark.parametrize("size", [SIZE, SIZE - 2])
def test_an_audit_that_lacks_answers_is_not_taken_over(audited, tmp_path, size):
    """Not even the answered part: what people leave for later is seldom like the rest."""
    old = tmp_path / "old"
    shutil.copytree(audited.session.run_dir.path, old)
    audit = read_audit(RunDir.read(old)).tolist()
    keys = [RunDir.read(old).keys()[index] for index in audit]
    assert cli.main(["labels", str(old), "--retract", keys[3], "--retract", keys[7]]) == 0
    with pytest.raises(UsageError) as caught:
        check_all(load_config(settings(tmp_path, active={"audit": size}), labels_from=old))
    assert str(caught.value) == (
        f"initial 'other_run': known_audit: 2 of {SIZE} samples of the audit have neither a label nor a refusal: {audit[3]}, {audit[7]}; "
        "answer or skip them where they come from, or leave them out as an audit: audit: 0"
    )
    # Without an audit the labels that there are train, and with all answers it is taken over.
    check_all(load_config(settings(tmp_path, active={"audit": 0}), labels_from=old))
    assert cli.main(["labels", str(old), "--skip", keys[3], "--set", f"{keys[7]}=1"]) == 0
    check_all(load_config(settings(tmp_path, active={"audit": SIZE}), labels_from=old))


def test_labels_that_exist_already_are_no_audit(tmp_path):
    """The audit is drawn from the rest, and asked alone."""
    dataset = train(settings(tmp_path, "for_its_keys", active={"cycles": 0})).session.dataset
    known = list(range(40))
    text = "".join(f"{dataset.keys[i]},{dataset.class_names[dataset.targets[i]]}\n" for i in known)
    (tmp_path / "labels.csv").write_text("key,label\n" + text)
    initial = {"name": "file", "path": str(tmp_path / "labels.csv")}
    session = train(settings(tmp_path, "run", active={"initial": initial, "audit": SIZE})).session
    audit = read_audit(session.run_dir).tolist()
    assert len(audit) == SIZE and not set(audit) & set(known)
    assert session.run_dir.query(0).idx.tolist() == [*known, *audit]
    methods = {row.index: row.acquisition for row in session.run_dir.rows() if row.cycle == 0}
    assert methods == {**dict.fromkeys(known, "file"), **dict.fromkeys(audit, "audit")}
    assert [line["num_labels"] for line in session.run_dir.metrics()] == [65, 75]


def test_too_few_samples_beside_labels_that_exist(tmp_path):
    dataset = train(settings(tmp_path, "for_its_keys", active={"cycles": 0})).session.dataset
    text = "".join(f"{key},{dataset.class_names[label]}\n" for key, label in zip(dataset.keys[:1300], dataset.targets, strict=False))
    (tmp_path / "labels.csv").write_text("key,label\n" + text)
    active = {"initial": {"name": "file", "path": str(tmp_path / "labels.csv")}, "audit": 34}
    with pytest.raises(UsageError) as caught:
        check_all(config_of(settings(tmp_path, active=active)))
    assert str(caught.value) == (
        "test.yaml: active.audit: 34 for the audit + 1 cycles of 10 = 44 labels, but beside the 1300 that 'file' brings only 43 samples "
        "can be queried"
    )


def test_as_many_of_each_class_as_are_left_beside_the_audit(tmp_path):
    def check(each: int) -> None:
        initial = {"name": "toy_balanced", "size": 10 * each}
        active = {"initial": initial, "audit": 800, "cycles": 0, "budget": 0}
        check_all(config_of(settings(tmp_path, active=active, plugins=[str(ROOT / "tests/toy_plugins.py")])))

    dataset = Digits()
    left = np.delete(dataset.targets, draw_audit(dataset.targets >= 0, (), 800, 3))
    least = np.bincount(left, minlength=10)
    check(int(least.min()))
    # There are so many of each class, but not beside the audit.
    assert np.bincount(dataset.targets).min() > least.min()
    with pytest.raises(UsageError, match=f"class {least.argmin()} has {least.min()} beside the audit.*; at most {10 * least.min()}$"):
        check(int(least.min()) + 1)
