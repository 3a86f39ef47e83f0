"""What a plugin sees of USB's training steps, and what it may add to them, on real trainings of a few steps."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from run_helpers import ALGORITHMS, checkpoint, config_of, settings, train, weights_equal

from usb_active.contracts.acquisition import BATCH_FIELDS
from usb_active.errors import UsageError
from usb_active.usb.seams import FIELDS

PLUGINS = [str(Path(__file__).resolve().parents[1] / "contract_plugins.py")]
SHORT = {"num_train_iter": 4, "num_eval_iter": 4, "epoch": 2, "plugins": PLUGINS}
# pseudolabel, mixmatch and supervised never look at use_cat.
CASES = [(name, use_cat) for name in ALGORITHMS for use_cat in (True, False) if use_cat or "logits_strong" in FIELDS[name]]


def run(tmp_path, name, acquisition, /, active=None, **usb):
    """A single training with a plugin beside it; the algorithm and its plugin."""
    block = {"cycles": 0, "acquisition": acquisition, **(active or {})}
    algorithm = train(settings(tmp_path, name, active=block, **{**SHORT, **usb}))
    return algorithm, algorithm.session.plugins["acquisition"]


def weights(algorithm):
    """The last checkpoint of the last cycle."""
    return checkpoint(algorithm.session.run_dir.path, algorithm.session.config.active.cycles)


def same_weights(one, other):
    """Whether two trainings ended with the same weights, bit for bit."""
    return weights_equal(weights(one), weights(other))


# ---------------------------------------------------------------------------------------------- observing
@pytest.mark.parametrize(("algorithm", "use_cat"), CASES)
def test_observing_changes_no_bit_and_what_is_seen_is_right(tmp_path, algorithm, use_cat):
    usb = {"algorithm": algorithm, "use_cat": use_cat}
    quiet, _ = run(tmp_path, "quiet", "quiet", **usb)
    hidden = ["classifier"] if "hidden" in FIELDS[algorithm] else []
    watched, watcher = run(tmp_path, "watched", {"name": "watcher", "recompute": True, "hidden": hidden}, **usb)
    assert same_weights(quiet, watched)
    assert [(b.cycle, b.iteration) for b in watcher.batches] == [(0, 0), (0, 1), (0, 2), (0, 3)]
    assert len(watcher.interval_at) == 1
    fields = FIELDS[algorithm]
    for batch, expected in zip(watcher.batches, watcher.expected, strict=True):
        check_presence(batch, fields)
        check_indices(watched.session, batch, fields)
        check_values(batch, expected, fields)


def check_presence(batch, fields):
    for name in BATCH_FIELDS - {"hidden"}:
        assert (getattr(batch, name) is not None) == (name in fields), name


def check_indices(session, batch, fields):
    targets = torch.from_numpy(session.dataset.targets)
    assert torch.equal(batch.y_lb.cpu(), targets[batch.idx_lb])
    assert set(batch.idx_lb.tolist()) <= set(session.pool.labeled.tolist())
    if "idx_ulb" in fields:
        assert len(batch.idx_ulb) == len(batch.x_ulb_w) == 16


def check_values(batch, expected, fields):
    if "probs_weak" in fields:
        assert torch.equal(batch.probs_weak, torch.softmax(expected["weak"], dim=-1))
        assert not batch.probs_weak.requires_grad
    if "logits_strong" in fields:
        assert torch.equal(batch.logits_strong, expected["strong"])
    if "logits_lb" in fields:
        assert torch.equal(batch.logits_lb, expected["lb"])
    if "feats" in fields:
        assert batch.feats["x_lb"].shape == (len(batch.x_lb), 16) and batch.feats["x_ulb_w"].shape == (16, 16)
    # The classifier is what makes logits of features.
    if "hidden" in fields:
        assert torch.equal(batch.logits_lb, batch.hidden["x_lb"]["classifier"])
    if {"hidden", "probs_weak"} <= fields:
        assert torch.equal(batch.probs_weak, torch.softmax(batch.hidden["x_ulb_w"]["classifier"], dim=-1))
    if {"hidden", "logits_strong"} <= fields and "x_ulb_s" in fields:
        assert torch.equal(batch.logits_strong, batch.hidden["x_ulb_s"]["classifier"])


@pytest.mark.parametrize("stage", ["observe", "extra_loss", "before_run", "after_train_step", "on_interval"])
def test_a_plugin_leaves_the_generators_as_it_found_them(stage):
    from usb_active.usb.plugin_hooks import PluginHook

    def disturb(*values):
        random.seed(5), np.random.seed(5), torch.manual_seed(5)

    session = SimpleNamespace(interval_view=lambda role: None, seed=0)
    algorithm = SimpleNamespace(it=0, cycle=0, epoch=1, num_iter_per_epoch=1, num_train_iter=9, use_amp=False, session=session)
    hook = PluginHook(SimpleNamespace(interval=1, **{stage: disturb}))
    hook.name = "active/acquisition"
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    getattr(hook, stage)(algorithm, *(["batch"] if stage in ("observe", "extra_loss") else []))
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == before


def test_features_are_those_the_logits_are_made_of(tmp_path):
    algorithm, watcher = run(
        tmp_path, "run", {"name": "watcher", "recompute": True}, algorithm="fixmatch", use_cat=False, lr=1e-30, weight_decay=0.0
    )
    head = algorithm.model.classifier
    for batch in watcher.batches:
        assert torch.equal(head(batch.feats["x_ulb_s"]), batch.logits_strong)
        assert torch.equal(torch.softmax(head(batch.feats["x_ulb_w"]), dim=-1), batch.probs_weak)


@pytest.mark.parametrize("include", [True, False])
def test_indices_are_those_of_the_dataset_whatever_the_rows_of_the_loader(tmp_path, include):
    # Without labelled samples in the stream, row and index differ; flexmatch has a table of the stream's length.
    algorithm, watcher = run(
        tmp_path,
        "run",
        "watcher",
        algorithm="flexmatch",
        include_lb_to_ulb=include,
        num_train_iter=22,
        num_eval_iter=22,
        uratio=8,
    )
    session = algorithm.session
    labeled, seen = set(session.pool.labeled.tolist()), set(torch.cat([b.idx_ulb for b in watcher.batches]).tolist())
    assert seen == set(range(len(session.dataset))) - (set() if include else labeled)
    assert algorithm.args.ulb_dest_len == len(session.dataset) - (0 if include else len(labeled))
    # The weak view of a digit is a shifted copy of it; where the shift is zero both are the same picture.
    load, view = session.dataset.load, session.dataset.views.eval
    same = lambda idx, views: sum(bool((x - view(load(int(i)))).abs().max() < 1e-6) for i, x in zip(idx, views, strict=True))  # noqa: E731
    assert sum(same(b.idx_ulb, b.x_ulb_w) for b in watcher.batches[:20]) > 0
    assert sum(same(b.idx_ulb.roll(1), b.x_ulb_w) for b in watcher.batches[:20]) == 0


@pytest.mark.parametrize("algorithm", ["softmatch", "adamatch"])
def test_aligned_predictions_are_not_what_observers_see(tmp_path, algorithm):
    aligned = []
    data = settings(tmp_path, active={"cycles": 0, "acquisition": "watcher"}, algorithm=algorithm, **SHORT)
    see = lambda stage, given: aligned.append(given["logits_x_ulb"]) if stage == "masking" else None  # noqa: E731 — passed on once
    trainer = watched_calls(config_of(data), see)
    trainer.train()
    batches = trainer.session.plugins["acquisition"].batches
    assert len(aligned) == len(batches) == 4
    assert not any(torch.equal(a, b.probs_weak) for a, b in zip(aligned, batches, strict=True))


def watched_calls(config, see):
    """An algorithm whose calls of its own hooks are shown to `see(stage, arguments)`."""
    from usb_active.usb.launcher import make_algorithm

    trainer = make_algorithm(config)
    plain = trainer.call_hook

    def call_hook(stage, hook=None, *values, **named):
        see(stage, named)
        return plain(stage, hook, *values, **named)

    trainer.call_hook = call_hook
    return trainer


@pytest.mark.parametrize(
    ("algorithm", "field", "reason"),
    [
        ("pseudolabel", "logits_strong", "it has no strong view"),
        ("mixmatch", "x_ulb_s", "it has no strong view"),
        ("mixmatch", "logits_lb", "its train_step does not have it"),
        ("supervised", "idx_ulb", "its train_step does not have it"),
        ("fixmatch", "gradients", "unknown fields"),
    ],
)
def test_a_plugin_that_needs_an_absent_field_is_refused_with_the_reason(tmp_path, algorithm, field, reason):
    with pytest.raises(UsageError, match=f"(?s)'demanding'.*{field}.*{reason}|'demanding'.*{reason}.*{field}") as caught:
        run(tmp_path, "run", {"name": "demanding", "fields": ["x_lb", field]}, algorithm=algorithm)
    assert "\n" not in str(caught.value)


def test_a_plugin_that_needs_present_fields_runs(tmp_path):
    fields = sorted(BATCH_FIELDS - {"hidden"})
    run(tmp_path, "run", {"name": "demanding", "fields": fields}, algorithm="uda")


def test_an_absent_hidden_module_is_named(tmp_path):
    with pytest.raises(UsageError, match="no module 'clasifier'; it has e.g. stem"):
        run(tmp_path, "run", {"name": "watcher", "hidden": ["clasifier"]})


# ---------------------------------------------------------------------------------------------- stages
def test_the_stages_come_in_order_and_setup_is_told_the_truth(tmp_path):
    active = {"cycles": 1, "acquisition": "diary"}
    algorithm = train(settings(tmp_path, active=active, **SHORT))
    diary = algorithm.session.plugins["acquisition"]
    assert diary.pages == [page for cycle in (0, 1) for page in expected_pages(cycle)]
    for cycle, info in enumerate(diary.infos):
        assert (info.cycle, info.num_samples, info.num_classes) == (cycle, 1343, 10)
        assert (info.img_size, info.in_channels, info.feature_dim, info.num_train_iter) == (8, 1, 16, 4)
        assert info.device == torch.device("cpu") if not torch.cuda.is_available() else info.device.type == "cuda"
        assert info.net is algorithm.model


def expected_pages(cycle):
    steps = []
    for epoch, iterations in enumerate(((0, 1), (2, 3))):
        steps.append(f"before_train_epoch {cycle}.{epoch}.{iterations[0]}")
        for it in iterations:
            steps += [f"before_train_step {cycle}.{epoch}.{it}", f"observe {cycle}.{it}", f"after_train_step {cycle}.{epoch}.{it}"]
            steps += [f"on_interval {cycle}"] * (it % 2)
        steps.append(f"after_train_epoch {cycle}.{epoch}.{iterations[-1] + 1}")
    select = [f"select {cycle}"] if cycle else []
    return [*select, f"setup {cycle}", f"before_run {cycle}.0.0", *steps, f"after_run {cycle}.1.4"]


@pytest.mark.parametrize("stop_at", [3, 4, 6, 8])
def test_no_stage_is_called_twice_or_forgotten_by_a_run_that_resumes(tmp_path, stop_at):
    usb = {**SHORT, "num_train_iter": 8, "num_eval_iter": 1, "num_log_iter": 8}
    active = {"cycles": 1, "acquisition": "diary"}
    whole = train(settings(tmp_path, "whole", active=active, **usb)).session.plugins["acquisition"]
    data = settings(tmp_path, "stopped", active=active, **usb)
    # The step of cycle 0 after `stop_at` checkpoints fails, or the commit of the cycle does, if there is no such step.
    stopped(data, lambda algorithm: fail_at(algorithm, stop_at))
    resumed = train(data).session.plugins["acquisition"]
    repeated = ("setup 0", "before_run 0.", "after_run 0.") if stop_at == 8 else ("setup 0", "before_run 0.")
    relevant = [page for page in resumed.pages if not page.startswith(repeated)]
    assert relevant == [page for page in whole.pages if not page.startswith(repeated)]


class Stopped(Exception):
    """Stands for a crash."""


def stopped(data, prepare):
    """Run until `prepare(algorithm)`'s fault strikes."""
    from usb_active.usb.launcher import make_algorithm

    torch.set_num_threads(1)
    algorithm = make_algorithm(config_of(data))
    prepare(algorithm)
    with pytest.raises(Stopped):
        algorithm.train()


def fail_at(algorithm, iteration):
    """Raise when the training's step `iteration` is about to run, or else when the training is over."""
    step, commit = algorithm.train_step, algorithm.session._fit_prior

    def train_step(**inputs):
        if algorithm.it == iteration:
            raise Stopped
        return step(**inputs)

    def fit_prior(when, *rest):
        if when == "end":
            raise Stopped
        return commit(when, *rest)

    # USB looks at the signature of what it calls.
    algorithm.train_step = train_step
    algorithm.session._fit_prior = fit_prior


def test_state_is_fresh_every_cycle_and_the_instance_lives_on(tmp_path):
    algorithm = train(settings(tmp_path, active={"cycles": 1, "acquisition": "diary"}, **SHORT))
    diary = algorithm.session.plugins["acquisition"]
    assert len(diary.infos) == 2
    again = train(settings(tmp_path, "again", active={"cycles": 1, "acquisition": "diary"}, **SHORT))
    # What `setup` draws belongs to (seed, cycle, role).
    assert again.session.plugins["acquisition"].draw == diary.draw


# ---------------------------------------------------------------------------------------------- on_interval
def test_on_interval_sees_the_ema_model_of_its_moment(tmp_path):
    # At a constant rate, the first three of six steps are a training of three steps.
    usb = {"active": {"schedule": "constant"}, "ema_m": 0.5, "epoch": 1}
    _, watcher = run(tmp_path, "six", "watcher", num_train_iter=6, num_eval_iter=6, **usb)
    three, _ = run(tmp_path, "three", "quiet", num_train_iter=3, num_eval_iter=3, **usb)
    assert len(watcher.interval_at) == 2
    assert torch.equal(watcher.interval_at[0], torch.nn.utils.parameters_to_vector(three.ema_model.parameters()))


# ---------------------------------------------------------------------------------------------- extra_loss
def test_an_extra_loss_of_half_the_squared_norm_is_weight_decay(tmp_path):
    # ∇ ½·λ‖θ‖² = λθ, which is what SGD's weight_decay adds. USB leaves biases and batch norm out of its decay, so it is set apart here.
    usb = {"algorithm": "fixmatch", "num_train_iter": 6, "num_eval_iter": 6, "weight_decay": 0.0}
    added, _ = run(tmp_path, "added", {"name": "decay", "strength": 0.1}, **usb)
    plain, _ = run(tmp_path, "plain", "quiet", **usb)
    data = settings(tmp_path, "sgd", active={"cycles": 0, "acquisition": "quiet"}, **{**SHORT, **usb})
    decayed = with_decay(config_of(data), 0.1)
    decayed.train()
    for name, value in decayed.model.named_parameters():
        assert torch.allclose(dict(added.model.named_parameters())[name], value, rtol=1e-4, atol=1e-6), name
    assert not same_weights(added, plain)


def with_decay(config, strength):
    """An algorithm whose optimizer decays every parameter."""
    from usb_active.usb.launcher import make_algorithm

    trainer = make_algorithm(config)
    build = trainer.set_optimizer

    def set_optimizer():
        optimizer, scheduler = build()
        for group in optimizer.param_groups:
            group["weight_decay"] = strength
        return optimizer, scheduler

    trainer.set_optimizer = set_optimizer
    return trainer


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_an_extra_loss_of_zero_changes_nothing_in_any_algorithm(tmp_path, algorithm):
    zero, _ = run(tmp_path, "zero", {"name": "decay", "strength": 0.0}, algorithm=algorithm)
    strong, _ = run(tmp_path, "strong", {"name": "decay", "strength": 0.5}, algorithm=algorithm)
    quiet, _ = run(tmp_path, "quiet", "quiet", algorithm=algorithm)
    assert same_weights(zero, quiet) and not same_weights(strong, quiet)


@pytest.mark.parametrize(("value", "got"), [(1.0, "got float"), ([1.0, 2.0], r"got a tensor of shape \(2,\)")])
def test_an_extra_loss_that_is_no_scalar_tensor_is_refused(tmp_path, value, got):
    with pytest.raises(UsageError, match=rf"^active\.acquisition: extra_loss must return a scalar tensor, {got}"):
        run(tmp_path, "run", {"name": "odd_loss", "value": value})


# ---------------------------------------------------------------------------------------------- register_state
HEAD = {"algorithm": "flexmatch", "num_train_iter": 8, "num_eval_iter": 2, "num_log_iter": 8}


@pytest.mark.parametrize("amp", [False, True])
def test_a_registered_module_learns_and_is_restored(tmp_path, amp):
    usb = {**HEAD, "amp": amp}
    whole, head = run(tmp_path, "whole", "loss_head", **usb)
    assert not torch.equal(head.fresh, head.head.weight)
    assert head.head.weight.device == whole.device and head.steps == 8
    data = settings(tmp_path, "stopped", active={"cycles": 0, "acquisition": "loss_head"}, **{**SHORT, **usb})
    # Five steps done, four of them in the checkpoint.
    stopped(data, lambda algorithm: fail_at(algorithm, 5))
    resumed = train(data)
    assert same_weights(whole, resumed)
    again = resumed.session.plugins["acquisition"]
    assert torch.equal(again.head.weight, head.head.weight) and torch.equal(again.head.bias, head.head.bias)
    assert again.steps == 8
    one, other = weights(whole)["active"], weights(resumed)["active"]
    assert_same(one["optimizers"], other["optimizers"])
    assert_same(one["registered"], other["registered"])


def assert_same(one, other):
    """Nested states, bit-identical."""
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key, value in one.items():
            assert_same(value, other[key])
    else:
        assert one == other


def test_a_detached_head_leaves_the_model_as_it_would_be_but_an_attached_one_trains_it(tmp_path):
    attached, _ = run(tmp_path, "attached", "loss_head", **HEAD)
    quiet, _ = run(tmp_path, "quiet", "quiet", **HEAD)
    assert not same_weights(attached, quiet)


def test_a_fresh_cycle_makes_fresh_modules(tmp_path):
    algorithm = train(settings(tmp_path, active={"cycles": 1, "acquisition": "loss_head"}, **{**SHORT, **HEAD}))
    head = algorithm.session.plugins["acquisition"]
    assert head.steps == 8
    alone, first = run(tmp_path, "first", "loss_head", **HEAD)
    # Its initial values belong to the cycle.
    assert head.fresh.shape == first.fresh.shape and not torch.equal(head.fresh, first.fresh)


def test_one_name_is_registered_once(tmp_path):
    with pytest.raises(UsageError, match=r"^active\.acquisition: state 'head' is registered twice"):
        run(tmp_path, "run", "twice_registered")


def test_state_that_could_not_be_read_back_is_refused_when_it_is_saved(tmp_path):
    with pytest.raises(UsageError, match=r"array is a numpy.ndarray; state must be tensors"):
        run(tmp_path, "run", "bad_state")


# ---------------------------------------------------------------------------------------------- algorithms of one's own
def test_a_plan_grows_with_the_labelled_set_and_a_sampler_makes_its_own_batches(tmp_path):
    data = settings(tmp_path, active={"cycles": 1}, algorithm="growing", plugins=PLUGINS)
    algorithm = train(data)
    labeled = {cycle: set() for cycle in (0, 1)}
    for cycle in (0, 1):
        for epoch in range(3):
            batches = [idx for c, e, idx in algorithm.seen if (c, e) == (cycle, epoch)]
            # 20 labels: 7 + 7 + 6. 30 labels: four times 7, and 2.
            assert [len(idx) for idx in batches] == ([7, 7, 6] if cycle == 0 else [7, 7, 7, 7, 2])
            labeled[cycle] = {i for idx in batches for i in idx}
            assert len(labeled[cycle]) == sum(map(len, batches)) == (20 if cycle == 0 else 30)
    assert labeled[1] == set(algorithm.session.pool.labeled.tolist()) > labeled[0]
    assert algorithm.num_train_iter == 15 and checkpoint(algorithm.session.run_dir.path, 1)["it"] == 15


@pytest.mark.parametrize("name", ["growing", "both_streams"])
def test_a_sampler_starts_at_the_batch_reached(tmp_path, name):
    usb = {"algorithm": name, "num_eval_iter": 2, "num_log_iter": 4, "num_train_iter": 10, "epoch": 2, "plugins": PLUGINS}
    active = {"cycles": 0}
    whole = train(settings(tmp_path, "whole", active=active, **usb))
    data = settings(tmp_path, "stopped", active=active, **usb)
    stopped(data, lambda algorithm: fail_at(algorithm, 7))
    resumed = train(data)
    assert same_weights(whole, resumed)
    if name == "growing":
        # Of three steps per epoch, four steps done at the checkpoint of step six: epoch 2 from its first batch.
        assert whole.starts == [(0, 0, 0), (0, 1, 0), (0, 2, 0)] and resumed.starts == [(0, 2, 0)]


def test_an_endless_sampler_is_cut_at_the_epochs_end(tmp_path):
    algorithm = train(settings(tmp_path, active={"cycles": 0, "acquisition": "watcher"}, algorithm="both_streams", **SHORT))
    assert algorithm.it == 4
    assert [len(b.idx_lb) for b in algorithm.session.plugins["acquisition"].batches] == [3, 4, 3, 4]


@pytest.mark.parametrize(
    ("epochs", "reason"), [(1, "ended 2 batches before the end of epoch 0, which has 4"), (2, "samples that are not in this stream")]
)
def test_a_sampler_that_does_not_keep_its_word_is_named(tmp_path, epochs, reason):
    with pytest.raises(UsageError, match=f"make_sampler: {reason}"):
        train(settings(tmp_path, active={"cycles": 0}, algorithm="running_dry", **{**SHORT, "epoch": epochs}))


def test_an_algorithm_may_look_at_the_pool_at_any_stage(tmp_path):
    usb = {**SHORT, "plugins": PLUGINS}
    curious = train(settings(tmp_path, "curious", active={"cycles": 0}, algorithm="curious", **usb))
    plain = train(settings(tmp_path, "plain", active={"cycles": 0}, algorithm="fixmatch", **usb))
    assert len(curious.sums) == 4 and np.allclose(curious.sums, 1343, atol=1e-2)
    assert same_weights(curious, plain)


def test_registration_is_idempotent_and_complete():
    from semilearn.core.utils import ALGORITHMS as USB

    import usb_active

    usb_active.register_usb_algorithms()
    before = {name: USB[name] for name in USB.keys()}
    usb_active.register_usb_algorithms()
    assert {name: USB[name] for name in USB.keys()} == before
    plain = [name for name in before if not name.startswith("active_")]
    assert set(ALGORITHMS) <= set(plain)
    for name in plain:
        assert issubclass(before[f"active_{name}"], before[name])


# ---------------------------------------------------------------------------------------------- other algorithms of USB
@pytest.mark.parametrize("algorithm", ["defixmatch", "fullysupervised", "meanteacher", "pimodel", "remixmatch"])
def test_usbs_other_algorithms_train_and_can_be_watched(tmp_path, algorithm):
    quiet, _ = run(tmp_path, "quiet", "quiet", algorithm=algorithm)
    watched, watcher = run(tmp_path, "watched", "watcher", algorithm=algorithm)
    assert same_weights(quiet, watched)
    assert len(watcher.batches) == 4
    # Nothing is claimed of steps that were not looked into.
    assert all(batch.probs_weak is None for batch in watcher.batches)


@pytest.mark.parametrize(
    ("algorithm", "reason"),
    [
        ("crmatch", "it makes data streams of its own"),
        ("dash", "it wants its warmup"),
        pytest.param("comatch", "needs a CUDA device", marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")),
        pytest.param("simmatch", "needs a CUDA device", marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")),
        pytest.param("vat", "needs a CUDA device", marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")),
    ],
)
def test_an_algorithm_that_cannot_run_says_why_and_leaves_no_run_behind(tmp_path, algorithm, reason):
    with pytest.raises(UsageError, match=f"algorithm '{algorithm}'.*{reason}"):
        run(tmp_path, "run", "quiet", algorithm=algorithm)
    assert not (tmp_path / "run" / "config.yaml").exists()
