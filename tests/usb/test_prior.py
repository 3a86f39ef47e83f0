"""Prior pseudo-labels: how a table enters USB's masks and targets, when it does, and who may change it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from run_helpers import checkpoint, config_of, settings, train, weights_equal

from usb_active.config.settings import PriorSettings
from usb_active.contracts.prior import PriorTable
from usb_active.errors import UsageError
from usb_active.loop.guidance import Guidance, read_prior_log
from usb_active.usb.seams import PriorSeam

PLUGINS = [str(Path(__file__).resolve().parents[1] / "contract_plugins.py")]
SHORT = {"num_train_iter": 4, "num_eval_iter": 4, "epoch": 2, "plugins": PLUGINS}
# Those with USB's masking and pseudo-label hooks.
GUIDED = ("fixmatch", "flexmatch", "freematch", "softmatch", "uda", "adamatch", "pseudolabel")


def prepared(tmp_path, name, prior, /, active=None, **usb):
    """A run that has not begun yet."""
    block = {"cycles": 0, "acquisition": "quiet", "prior": prior, **(active or {})}
    return settings(tmp_path, name, active=block, **{**SHORT, **usb})


def recorded(data):
    """A training's masks and targets: {(stage, cycle, iteration): (idx, result)}; and the algorithm."""
    from usb_active.usb.launcher import make_algorithm

    torch.set_num_threads(1)
    algorithm, seen = make_algorithm(config_of(data)), {}
    plain = algorithm.call_hook

    def call_hook(stage, hook=None, *values, **named):
        result = plain(stage, hook, *values, **named)
        if stage in ("masking", "gen_ulb_targets"):
            seen[stage, algorithm.cycle, algorithm.it] = (algorithm._loaded["idx_ulb"].numpy(), result.clone())
        return result

    algorithm.call_hook = call_hook
    algorithm.train()
    return algorithm, seen


def same_weights(one, other, cycle=0):
    return weights_equal(*(checkpoint(a.session.run_dir.path, cycle) for a in (one, other)))


def classes(targets):
    """Hard targets of hard or soft ones."""
    return (targets if targets.ndim == 1 else targets.argmax(dim=1)).numpy()


# ---------------------------------------------------------------------------------------------- the seam's arithmetic
class Tapped:
    """USB's hooks as they are, behind the seam: the arguments that reach them."""

    def __init__(self):
        self.given = []

    def __call__(self, **values):
        self.given.append(values)
        return values.get("logits_x_ulb", values.get("logits")).clone()


def guidance_by(table):
    guidance = Guidance(None, PriorSettings(None), Path("artifacts"))
    guidance.table = PriorTable(table)
    return guidance


def seam_of(table, idx):
    seam = PriorSeam(guidance_by(table))
    seam.open(0, torch.as_tensor(idx), torch.device("cpu"))
    return seam


def slow_posterior(probs, rows):
    """AS3L, Eq. 5, a number at a time; a row without a prior stays as it is."""
    result = [list(row) for row in probs]
    for i, row in enumerate(rows):
        if any(row):
            total = sum(float(p) + float(q) for p, q in zip(probs[i], row, strict=True))
            result[i] = [(float(p) + float(q)) / total for p, q in zip(probs[i], row, strict=True)]
    return np.array(result)


@pytest.mark.parametrize("softmax", [True, False])
def test_the_posterior_is_the_formula_in_slow_loops(softmax):
    rng = np.random.default_rng(0)
    table = rng.dirichlet(np.ones(5), 30).astype(np.float32)
    table[::3] = 0
    idx = rng.integers(0, 30, 12)
    logits = torch.from_numpy(rng.normal(size=(12, 5)).astype(np.float32))
    values = torch.softmax(logits, dim=-1)
    given = logits if softmax else values
    expected = slow_posterior(values.numpy(), table[idx])
    hook = Tapped()
    seam_of(table, idx).call("masking", hook, {"logits_x_ulb": given, "softmax_x_ulb": softmax})
    assert hook.given[0]["softmax_x_ulb"] is False
    assert np.allclose(hook.given[0]["logits_x_ulb"], expected, atol=1e-6)
    without = ~table[idx].any(axis=1)
    assert torch.equal(hook.given[0]["logits_x_ulb"][without], values[without])
    targets = seam_of(table, idx).call("gen_ulb_targets", Tapped(), {"logits": given, "softmax": softmax})
    # Logits remain logits, so that a temperature is the algorithm's own.
    as_probs = torch.softmax(targets, dim=-1) if softmax else targets
    assert np.allclose(as_probs[~without], expected[~without], atol=1e-6)
    assert torch.equal(targets[without], given[without])


@pytest.mark.parametrize("temperature", [0.1, 0.5, 1.0])
def test_soft_targets_have_the_algorithms_temperature_with_a_prior_as_without(temperature):
    """A prior that knows nothing, on two equal logits and on (2, 0): (.5 + p) / 2, sharpened."""
    from semilearn.algorithms.hooks import PseudoLabelingHook

    logits = torch.tensor([[1.0, 1.0], [2.0, 0.0]])
    algorithm = SimpleNamespace(compute_prob=lambda values: torch.softmax(values, dim=-1))
    values = {"logits": logits, "use_hard_label": False, "T": temperature, "softmax": True}
    seam = seam_of(np.full((2, 2), 0.5, np.float32), [0, 1])
    targets = seam.call("gen_ulb_targets", lambda **given: PseudoLabelingHook().gen_ulb_targets(algorithm, **given), values)
    p = 1 / (1 + np.exp(-2))
    powers = np.array([(0.5 + p) / 2, (0.5 + 1 - p) / 2]) ** (1 / temperature)
    assert np.allclose(targets, [[0.5, 0.5], powers / powers.sum()], atol=1e-6)


@pytest.mark.parametrize("algorithm", ["flexmatch", "freematch", "softmatch"])
def test_what_the_masks_keep_of_predictions_is_of_the_posterior(tmp_path, algorithm):
    """Of a one-hot prior: every sample seen counts for the prior's class, and the running means lean to it."""
    usb = {"algorithm": algorithm, **({"p_cutoff": 0.5} if algorithm == "flexmatch" else {})}
    table = {"name": "made", "table": "one_hot"}
    guided, seen = recorded(prepared(tmp_path, "run", table, num_train_iter=1, num_eval_iter=1, epoch=1, **usb))
    hook = guided.hooks_dict["MaskingHook"]
    (idx, _), *_ = [entry for (stage, *_), entry in seen.items() if stage == "masking"]
    if algorithm == "flexmatch":
        rows = np.searchsorted(guided.dataset_dict["train_ulb"].idx, idx)
        assert (hook.selected_label[rows].numpy() == idx % 10).all() and (hook.selected_label >= 0).sum() == len(set(idx.tolist()))
        return
    plain, _ = recorded(prepared(tmp_path, "plain", None, num_train_iter=1, num_eval_iter=1, epoch=1, **usb))
    kept, without = (each.hooks_dict["MaskingHook"] for each in (guided, plain))
    if algorithm == "freematch":
        # (1 + p) / 2 on the way into a running mean that begins at 1 / C: m / C + (1 − m) mean(max).
        m, before = guided.args.ema_p, (float(without.time_p) - guided.args.ema_p / 10) / (1 - guided.args.ema_p)
        after = (float(kept.time_p) - m / 10) / (1 - m)
        assert 0.5 <= after <= 1 and before < 0.5
    else:
        assert float(kept.prob_max_mu_t) > float(without.prob_max_mu_t)


def test_a_one_hot_prior_turns_the_threshold_into_twice_it_less_one():
    # (1 + p) / 2 ≥ τ is p ≥ 2τ − 1: at τ = 0.95, p ≥ 0.9.
    probs = torch.tensor([[0.91, 0.09], [0.89, 0.11], [0.2, 0.8]])
    hook = Tapped()
    seam_of(np.float32([[1, 0]] * 3), [0, 1, 2]).call("masking", hook, {"logits_x_ulb": probs, "softmax_x_ulb": False})
    posterior = hook.given[0]["logits_x_ulb"]
    assert torch.allclose(posterior, torch.tensor([[0.955, 0.045], [0.945, 0.055], [0.6, 0.4]]))
    assert (posterior.max(dim=1).values >= 0.95).tolist() == [True, False, False]


def test_without_a_row_that_has_a_prior_the_seam_is_not_there():
    probs, hook = torch.rand(2, 3), Tapped()
    values = {"logits_x_ulb": probs, "softmax_x_ulb": False}
    seam_of(np.zeros((4, 3), np.float32), [1, 2]).call("masking", hook, values)
    assert hook.given[0]["logits_x_ulb"] is probs
    other = SimpleNamespace(seen=None)
    seam_of(np.eye(3, dtype=np.float32), [1, 2]).call("dist_align", lambda **v: setattr(other, "seen", v), {"probs_x_ulb": probs})
    assert other.seen["probs_x_ulb"] is probs


def slow_counts(probs, rows):
    """(changed, rows with a prior): the classes with and without it, a row at a time."""
    posterior, guided = slow_posterior(probs, rows), [i for i, row in enumerate(rows) if any(row)]
    return sum(int(posterior[i].argmax() != probs[i].argmax()) for i in guided), len(guided)


@pytest.mark.parametrize("softmax", [True, False])
def test_the_changed_pseudo_labels_are_counted_over_the_rows_with_a_prior(softmax):
    rng = np.random.default_rng(1)
    table = rng.dirichlet(np.full(5, 0.3), 30).astype(np.float32)
    table[::3] = 0
    guidance, expected = guidance_by(table), np.zeros(2, dtype=int)
    seam = PriorSeam(guidance)
    for _ in range(4):
        idx, logits = rng.integers(0, 30, 12), torch.from_numpy(rng.normal(size=(12, 5)).astype(np.float32))
        values = torch.softmax(logits, dim=-1)
        seam.open(0, torch.as_tensor(idx), torch.device("cpu"))
        # A mask is no pseudo-label.
        seam.call("masking", Tapped(), {"logits_x_ulb": logits, "softmax_x_ulb": True})
        seam.call("gen_ulb_targets", Tapped(), {"logits": logits if softmax else values, "softmax": softmax})
        seam.close()
        expected += slow_counts(values.numpy(), table[idx])
    assert guidance.state_dict()["prior_log"]["counts"] == expected.tolist() and 0 < expected[0] < expected[1]
    assert guidance.log_interval(4) == expected[0] / expected[1]
    assert guidance.records == [{"iteration": 4, "changed": expected[0], "rows": expected[1]}]
    # The first three: one is not changed, one is, and one has no prior.
    guidance.table = PriorTable(np.float32([[1, 0], [1, 0], [0, 0]]))
    seam.open(0, torch.arange(3), torch.device("cpu"))
    seam.call("gen_ulb_targets", Tapped(), {"logits": torch.tensor([[0.6, 0.4], [0.4, 0.6], [0.4, 0.6]]), "softmax": False})
    assert guidance.log_interval(5) == 1 / 2


# ---------------------------------------------------------------------------------------------- zero and one-hot tables
@pytest.mark.parametrize(("algorithm", "use_cat"), [*((name, True) for name in GUIDED), ("fixmatch", False), ("softmatch", False)])
def test_a_table_of_zeros_is_the_plain_training_to_the_bit(tmp_path, algorithm, use_cat):
    usb = {"algorithm": algorithm, "use_cat": use_cat}
    plain = train(prepared(tmp_path, "plain", None, **usb))
    zero = train(prepared(tmp_path, "zero", {"name": "made", "table": "zero"}, **usb))
    assert zero.session.guidance.file and same_weights(plain, zero)


HARD_OR_SOFT = {
    "fixmatch": (True, False),
    "flexmatch": (True, False),
    "freematch": (True, False),
    "softmatch": (True, False),
    "adamatch": (True, False),
}


@pytest.mark.parametrize(("algorithm", "hard"), [(name, hard) for name in GUIDED for hard in HARD_OR_SOFT.get(name, (None,))])
def test_a_one_hot_prior_is_followed_in_every_target(tmp_path, algorithm, hard):
    usb = {"algorithm": algorithm, **({} if hard is None else {"hard_label": hard})}
    guided, seen = recorded(prepared(tmp_path, "run", {"name": "made", "table": "one_hot"}, **usb))
    assert len(seen) == 8
    for (stage, _, _), (idx, result) in seen.items():
        if stage == "gen_ulb_targets":
            assert (classes(result) == idx % 10).all()
            assert (result.ndim == 1) == (hard if hard is not None else algorithm != "uda")
        if result.ndim == 2:
            assert torch.allclose(result.sum(dim=1), torch.ones(len(idx)))


@pytest.mark.parametrize(("algorithm", "hard"), [*((name, True) for name in GUIDED), ("freematch", False), ("softmatch", False)])
def test_rows_without_a_prior_are_unchanged_in_a_mixed_batch(tmp_path, algorithm, hard):
    # The first step of both trainings sees the same predictions. Thresholds of the whole batch move with its guided rows.
    usb = {"algorithm": algorithm, **({"hard_label": hard} if algorithm in ("freematch", "softmatch") else {"p_cutoff": 0.2})}
    _, plain = recorded(prepared(tmp_path, "plain", None, **usb))
    _, mixed = recorded(prepared(tmp_path, "mixed", {"name": "made", "table": "half"}, **usb))
    for stage in ("masking", "gen_ulb_targets"):
        (idx, before), (same, after) = plain[stage, 0, 0], mixed[stage, 0, 0]
        assert (idx == same).all()
        without = idx % 2 == 1
        assert 0 < without.sum() < len(idx)
        if stage == "gen_ulb_targets" or algorithm not in ("freematch", "softmatch"):
            assert torch.equal(before[without], after[without])
    targets = classes(mixed["gen_ulb_targets", 0, 0][1])
    assert (targets[~without] == idx[~without] % 10).all()


def test_a_prior_holds_for_both_views_of_the_indices(tmp_path):
    # Without labelled samples in the stream, the loader's row is not the dataset's index.
    _, seen = recorded(prepared(tmp_path, "run", {"name": "made", "table": "one_hot"}, include_lb_to_ulb=False, algorithm="flexmatch"))
    assert all((classes(result) == idx % 10).all() for (stage, _, _), (idx, result) in seen.items() if stage == "gen_ulb_targets")


def test_a_prior_under_mixed_precision(tmp_path):
    usb = {"algorithm": "freematch", "amp": True}
    plain = train(prepared(tmp_path, "plain", None, **usb))
    zero = train(prepared(tmp_path, "zero", {"name": "made", "table": "zero"}, **usb))
    assert same_weights(plain, zero)
    _, seen = recorded(prepared(tmp_path, "one_hot", {"name": "made", "table": "one_hot"}, **usb))
    assert all((classes(result) == idx % 10).all() for (stage, _, _), (idx, result) in seen.items() if stage == "gen_ulb_targets")


# ---------------------------------------------------------------------------------------------- when
def shifts(seen, cycle):
    """By iteration: the shift of the one-hot table that every target of the step follows, or None."""
    found, steps = [], sorted(iteration for stage, number, iteration in seen if (stage, number) == ("gen_ulb_targets", cycle))
    for iteration in steps:
        idx, result = seen["gen_ulb_targets", cycle, iteration]
        shift = set(((classes(result) - idx) % 10).tolist())
        found.append(shift.pop() if len(shift) == 1 else None)
    return found


def test_a_prior_is_removed_at_until_iter(tmp_path):
    prior = {"name": "made", "table": "one_hot", "until_iter": 3, "then": "remove"}
    algorithm, seen = recorded(prepared(tmp_path, "run", prior, algorithm="fixmatch", num_train_iter=6, num_eval_iter=6))
    assert shifts(seen, 0) == [0, 0, 0, None, None, None]
    assert algorithm.session.plugins["prior"].asked == [("start", 0), ("end", 0)]


def test_a_prior_is_updated_after_until_iter(tmp_path):
    prior = {"name": "made", "table": "one_hot", "when": ["start", "step"], "until_iter": 3, "then": "update", "update_every": 2}
    algorithm, seen = recorded(prepared(tmp_path, "run", prior, algorithm="fixmatch", num_train_iter=8, num_eval_iter=8))
    assert shifts(seen, 0) == [0, 0, 0, 3, 3, 3, 3, 3]
    # Between steps 2 and 3, 4 and 5, 6 and 7; not after the last.
    assert algorithm.session.plugins["prior"].asked == [("start", 0), *[("step", 0)] * 3, ("end", 0)]


def test_labels_that_are_held_out_are_not_shown_to_what_makes_targets(tmp_path):
    """They would choose a checkpoint by what its training was told."""
    prior = {"name": "made", "when": ["start", "step"], "until_iter": 1, "then": "update", "update_every": 1}
    algorithm = train(prepared(tmp_path, "run", prior, algorithm="curious", active={"cycles": 1, "validation": 0.25}))
    split, session = algorithm.split, algorithm.session
    assert len(split.validation) == 8 and session.pool.labeled.tolist() == sorted([*split.validation, *split.labeled])
    *_, last = session.plugins["prior"].shown
    assert last.tolist() == algorithm.shown.tolist() == split.labeled.tolist()
    assert [len(shown) for shown in session.plugins["prior"].shown] == [15] * 5 + [22] * 5


@pytest.mark.parametrize("when", [["start", "step"], ["end"]])
def test_a_cycle_whose_checkpoint_is_gone_is_trained_again_from_the_table_it_began_with(tmp_path, when):
    prior = {"name": "made", "table": "one_hot", "when": when, "until_iter": 1, "then": "update", "update_every": 1}
    data = prepared(tmp_path, "run", prior, algorithm="fixmatch", active={"cycles": 1, "acquisition": "margin"})
    session = train(data).session
    path = session.run_dir.path
    # What a finished cycle was guided by, what it left, and what it began with.
    assert {table.stem for table in (path / "artifacts").glob("prior_*")} == session._tables_of(1) - {""}
    (path / "cycle_001" / "latest_model.pth").unlink()
    more = {**data, "active": {**data["active"], "cycles": 2}}
    again, whole = (train({**more, "save_name": name}).session.run_dir.metrics() for name in ("run", "whole"))
    assert [line["accuracy"] for line in again] == [line["accuracy"] for line in whole]
    assert {table.stem for table in (path / "artifacts").glob("prior_*")} == {
        table.stem for table in (tmp_path / "whole" / "artifacts").glob("prior_*")
    }


def test_an_update_that_gives_nothing_keeps_the_table(tmp_path):
    prior = {"name": "made", "table": "one_hot", "until_iter": 1, "then": "update", "update_every": 1}
    _, seen = recorded(prepared(tmp_path, "run", prior, algorithm="fixmatch"))
    assert shifts(seen, 0) == [0, 0, 0, 0]


def test_a_table_from_the_end_guides_the_next_cycle(tmp_path):
    prior = {"name": "made", "table": "one_hot", "when": ["end"]}
    _, seen = recorded(prepared(tmp_path, "run", prior, algorithm="fixmatch", active={"cycles": 1}))
    assert shifts(seen, 0) == [None] * 4
    assert shifts(seen, 1) == [5] * 4


def test_a_new_table_at_the_start_of_a_cycle_replaces_that_of_the_end(tmp_path):
    prior = {"name": "made", "table": "one_hot", "when": ["start", "end"]}
    _, seen = recorded(prepared(tmp_path, "run", prior, algorithm="fixmatch", active={"cycles": 1}))
    assert shifts(seen, 0) == [0] * 4
    assert shifts(seen, 1) == [1] * 4


def test_a_prior_sees_the_model_just_trained(tmp_path):
    data = prepared(tmp_path, "run", {"name": "probing", "when": ["end"]}, algorithm="fixmatch", active={"keep": "all"})
    session = train(data).session
    table = session.guidance.table.probs
    model = session.trainer.ema_model.eval()
    with torch.no_grad():
        views = torch.stack([session.dataset.views.eval(session.dataset.load(i)) for i in range(200)])
        expected = model(views)["logits"].argmax(dim=1).numpy()
    assert (table[:200].argmax(axis=1) == expected).all()


class Stopped(Exception):
    """Stands for a crash."""


@pytest.mark.parametrize("stop_at", [5, 7])
def test_a_run_stopped_after_an_update_resumes_with_the_updated_table(tmp_path, stop_at):
    prior = {"name": "probing", "when": ["start", "step"], "until_iter": 2, "then": "update", "update_every": 2}
    usb = {"algorithm": "fixmatch", "num_train_iter": 8, "num_eval_iter": 1, "num_log_iter": 8}
    # The first query has no model; the table of cycle 1's start is made by the model of cycle 0.
    data = prepared(tmp_path, "whole", {**prior, "when": ["step"]}, **usb)
    whole = train(data)
    again = {**data, "save_name": "stopped"}
    stop(again, stop_at)
    resumed, seen = recorded(again)
    assert min(it for _, _, it in seen) == stop_at
    assert same_weights(whole, resumed)
    assert resumed.session.guidance.file == whole.session.guidance.file != ""
    assert np.array_equal(resumed.session.guidance.table.probs, whole.session.guidance.table.probs)


def stop(data, iteration):
    """Run until the step `iteration` is about to begin."""
    from usb_active.usb.launcher import make_algorithm

    algorithm = make_algorithm(config_of(data))
    step = algorithm.train_step

    def train_step(**inputs):
        if algorithm.it == iteration:
            raise Stopped
        return step(**inputs)

    algorithm.train_step = train_step
    with pytest.raises(Stopped):
        algorithm.train()


def test_a_table_from_the_end_is_there_for_a_process_that_comes_later(tmp_path):
    prior = {"name": "probing", "when": ["end"]}
    usb = {"algorithm": "fixmatch", "active": {"cycles": 1}}
    whole = train(prepared(tmp_path, "whole", prior, **usb))
    train(prepared(tmp_path, "split", prior, algorithm="fixmatch"))
    later = train(prepared(tmp_path, "split", prior, **usb))
    assert same_weights(whole, later, cycle=1)


# ---------------------------------------------------------------------------------------------- what is logged
def test_every_interval_and_every_table_has_a_record(tmp_path):
    prior = {"name": "made", "table": "half", "when": ["start", "step", "end"], "until_iter": 2, "then": "update", "update_every": 3}
    usb = {"algorithm": "fixmatch", "num_train_iter": 8, "num_eval_iter": 4, "num_log_iter": 3}
    data = prepared(tmp_path, "run", prior, active={"cycles": 1, "keep": "last"}, **usb)
    algorithm, seen = recorded(data)
    for cycle in (0, 1):
        records = read_prior_log(tmp_path / "run" / f"cycle_{cycle:03d}")
        assert [(r["iteration"], r["when"]) for r in records if "when" in r] == [(0, "start"), (2, "step"), (5, "step"), (8, "end")]
        intervals = [r for r in records if "rows" in r]
        # Also the steps after the last full interval.
        assert [r["iteration"] for r in intervals] == [3, 6, 8]
        # Half of the samples have a row.
        steps = [it for stage, number, it in seen if (stage, number) == ("gen_ulb_targets", cycle)]
        rows = [sum(int((seen["gen_ulb_targets", cycle, it][0] % 2 == 0).sum()) for it in steps if first <= it < last)
                for first, last in ((0, 3), (3, 6), (6, 8))]  # fmt: skip
        assert [r["rows"] for r in intervals] == rows
        assert all(0 <= r["changed"] <= r["rows"] for r in intervals) and sum(r["changed"] for r in intervals) > 0
    last = intervals[-1]
    assert algorithm.log_dict["train/prior_changed"] == last["changed"] / last["rows"]


JUDGED = """
import numpy as np
from usb_active import Prior, PriorTable, register_plugin

@register_plugin("prior", "judged")
class Judged(Prior):
    fits = 0

    def fit(self, view, when):
        self.fits += 1
        view.log("prior_fits" if when == "start" else "updated_prior_fits", self.fits)
        return None if when == "end" else PriorTable(np.eye(view.num_classes)[np.arange(len(view)) % 2])
"""


def test_a_table_is_recorded_with_what_the_prior_logged_of_it(tmp_path):
    (tmp_path / "judged.py").write_text(JUDGED)
    prior = {"name": "judged", "until_iter": 2, "then": "update", "update_every": 2}
    data = prepared(tmp_path, "run", prior, algorithm="fixmatch", plugins=[*PLUGINS, str(tmp_path / "judged.py")])
    session = train(data).session
    tables = [record for record in read_prior_log(tmp_path / "run" / "cycle_000") if "when" in record]
    assert [(r["iteration"], r["log"]) for r in tables] == [(0, {"prior_fits": 1.0}), (2, {"updated_prior_fits": 2.0})]
    assert session.run_dir.metrics()[0]["log"] == {"prior_fits": 1.0, "updated_prior_fits": 3.0}


def test_counting_changes_no_bit_of_the_training(tmp_path, monkeypatch):
    prior, usb = {"name": "made", "table": "half"}, {"algorithm": "flexmatch", "num_log_iter": 1}
    counted = train(prepared(tmp_path, "counted", prior, **usb))
    monkeypatch.setattr(PriorSeam, "_count", lambda self, probs, posterior: None)
    other = train(prepared(tmp_path, "other", prior, **usb))
    assert same_weights(counted, other)
    counts = {name: sum("rows" in record for record in read_prior_log(tmp_path / name / "cycle_000")) for name in ("counted", "other")}
    assert counts == {"counted": 4, "other": 0}


@pytest.mark.parametrize("stop_at", [5, 7])
def test_a_killed_run_ends_with_the_same_records(tmp_path, stop_at):
    prior = {"name": "made", "table": "half", "when": ["start", "step"], "until_iter": 2, "then": "update", "update_every": 2}
    # Checkpoints within the intervals.
    usb = {"algorithm": "fixmatch", "num_train_iter": 8, "num_eval_iter": 1, "num_log_iter": 3}
    data = prepared(tmp_path, "whole", prior, **usb)
    train(data)
    again = {**data, "save_name": "stopped"}
    stop(again, stop_at)
    train(again)
    whole, stopped = (tmp_path / name / "cycle_000" / "prior.jsonl" for name in ("whole", "stopped"))
    assert whole.read_bytes() == stopped.read_bytes()


def test_a_checkpoint_from_before_there_were_records_resumes_without_them(tmp_path):
    usb = {"algorithm": "fixmatch", "num_train_iter": 8, "num_eval_iter": 1, "num_log_iter": 2}
    data = prepared(tmp_path, "run", {"name": "made", "table": "half"}, **usb)
    stop(data, 4)
    old = checkpoint(tmp_path / "run", 0)
    del old["active"]["prior_log"]
    torch.save(old, tmp_path / "run" / "cycle_000" / "latest_model.pth")
    train(data)
    assert [record["iteration"] for record in read_prior_log(tmp_path / "run" / "cycle_000")] == [6, 8]


def test_a_training_that_is_made_again_leaves_its_records_alone(tmp_path):
    data = prepared(tmp_path, "run", {"name": "made", "table": "half", "when": ["start", "end"]}, algorithm="fixmatch")
    train({**data, "active": {**data["active"], "acquisition": "margin"}})
    file = tmp_path / "run" / "cycle_000" / "prior.jsonl"
    before = file.read_bytes()
    (tmp_path / "run" / "cycle_000" / "latest_model.pth").unlink()
    train({**data, "active": {**data["active"], "acquisition": "margin", "cycles": 1}})
    assert file.read_bytes() == before
    assert b'"end"' in before


def test_a_run_without_a_prior_has_no_records(tmp_path):
    algorithm = train(prepared(tmp_path, "run", None, num_log_iter=1))
    assert read_prior_log(tmp_path / "run" / "cycle_000") == [] and "train/prior_changed" not in algorithm.log_dict


def test_damaged_records_are_one_line(tmp_path):
    (tmp_path / "prior.jsonl").write_text('{"iteration": 1, "changed": 0, "rows": 2}\n{"iter')
    with pytest.raises(UsageError, match=r"prior\.jsonl:2 is damaged \(.*remove it") as caught:
        read_prior_log(tmp_path)
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------------------------------------- what is refused
@pytest.mark.parametrize(
    ("algorithm", "reason"),
    [
        ("mixmatch", "has no MaskingHook and no PseudoLabelingHook"),
        ("supervised", "has no MaskingHook and no PseudoLabelingHook"),
        ("defixmatch", "masks its labelled predictions through the same hooks"),
    ],
)
def test_an_algorithm_that_a_prior_cannot_reach_is_refused_with_the_reason(tmp_path, algorithm, reason):
    with pytest.raises(UsageError, match=f"active.prior: algorithm '{algorithm}' {reason}") as caught:
        train(prepared(tmp_path, "run", {"name": "made"}, algorithm=algorithm))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("short", r"prior 'made': expected a table of \(1343, 10\), got \(1342, 10\)"),
        ("sums", "prior: rows must be non-negative and sum to one, or be zero; samples 4, 9 do not"),
        ("nan", "prior: .*samples 11 do not"),
        ("negative", "prior: .*samples 5 do not"),
    ],
)
def test_a_broken_table_is_one_line_that_names_the_samples(tmp_path, table, message):
    with pytest.raises(UsageError, match=message) as caught:
        train(prepared(tmp_path, "run", {"name": "made", "table": table}))
    assert "\n" not in str(caught.value)


def test_a_table_of_another_shape_is_refused():
    with pytest.raises(UsageError, match=r"must be \(N, C\), got shape \(5,\)"):
        PriorTable(np.zeros(5, np.float32))


def test_rows_are_those_of_the_indices_asked_for():
    table = PriorTable(np.eye(4, dtype=np.float64)[[3, 1, 2, 0, 0]])
    assert len(table) == 5 and table.probs.dtype == np.float32
    assert table.rows(np.array([4, 0, 0])).argmax(axis=1).tolist() == [0, 3, 3]


# ---------------------------------------------------------------------------------------------- the file plugin
def test_a_table_in_a_file(tmp_path):
    table = np.zeros((1343, 10), np.float32)
    np.save(tmp_path / "zero.npy", table)
    table[np.arange(1343), np.arange(1343) % 10] = 1
    np.save(tmp_path / "one_hot.npy", table)
    plain = train(prepared(tmp_path, "plain", None))
    zero = train(prepared(tmp_path, "zero", {"name": "file", "path": str(tmp_path / "zero.npy")}))
    assert same_weights(plain, zero)
    _, seen = recorded(prepared(tmp_path, "one_hot", {"name": "file", "path": str(tmp_path / "one_hot.npy")}))
    assert shifts(seen, 0) == [0] * 4


@pytest.mark.parametrize(
    ("what", "message"),
    [("shape", r"expected \(1343, 10\), got \(3, 10\)"), ("absent", "no such file"), ("text", "not a readable .npy array")],
)
def test_a_file_that_is_no_table_of_this_pool(tmp_path, what, message):
    path = tmp_path / "table.npy"
    if what == "shape":
        np.save(path, np.zeros((3, 10), np.float32))
    if what == "text":
        path.write_text("0 0 1")
    with pytest.raises(UsageError, match=message) as caught:
        train(prepared(tmp_path, "run", {"name": "file", "path": str(path)}))
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_table_of_a_pool_that_has_grown_since_leaves_the_new_samples_without_a_prior(tmp_path):
    session = train(prepared(tmp_path, "run", {"name": "made", "table": "one_hot"})).session
    old = np.eye(10, dtype=np.float32)[np.arange(1000) % 10]
    np.save(session.run_dir.path / "artifacts" / "old.npy", old)
    session.load_prior("old")
    rows = session.guidance.at(0).rows(np.array([999, 1000, 1342]))
    assert rows[0].argmax() == 9 and not rows[1:].any()
