"""ASSL as plugins: the contract of every acquisition, what each one picks, and runs that are interrupted and resume."""

from __future__ import annotations

import logging
import math
from types import SimpleNamespace

import killer
import numpy as np
import pytest
import run_helpers
import torch
from usb_active.plugins.assl.acquisitions import ASSL

from usb_active.contracts.acquisition import TrainBatch
from usb_active.errors import UsageError
from usb_active.storage.run_dir import RunDir
from usb_active.testing import AcquisitionContract
from usb_active.testing.pool import World, made_images

ALPHA, C_U, C_I = 0.8, 0.5, 2.0


# ------------------------------------------------------------------------------------------ the paper, one sample at a time
def u_of_one(p) -> float:
    """Eq. 1."""
    label = max(range(len(p)), key=lambda k: p[k])
    return math.sqrt(sum((x - (k == label)) ** 2 for k, x in enumerate(p)))


def i_of_one(p, logits) -> float:
    """Eq. 4, from weak probabilities and strong logits; neither has zeros."""
    total = math.log(sum(math.exp(x - max(logits)) for x in logits)) + max(logits)
    log_q = [x - total for x in logits]
    return 0.5 * sum((a - math.exp(b)) * (math.log(a) - b) for a, b in zip(p, log_q, strict=True))


class Loop:
    """Eq. 3, 5 and 6 as printed: one sample, one visit after the other."""

    def __init__(self):
        self.state = {}

    def see(self, batch: TrainBatch) -> None:
        rows = batch.idx_ulb.tolist(), batch.probs_weak.double().tolist(), batch.logits_strong.detach().double().tolist()
        for i, p, logits in zip(*rows, strict=True):
            mu, vu, mi, vi = self.state.get(i, (0.0, 0.0, 0.0, 0.0))
            u, inconsistency = u_of_one(p), i_of_one(p, logits)
            mu, mi = ALPHA * u + (1 - ALPHA) * mu, ALPHA * inconsistency + (1 - ALPHA) * mi
            vu, vi = ALPHA * (u - mu) ** 2 + (1 - ALPHA) * vu, ALPHA * (inconsistency - mi) ** 2 + (1 - ALPHA) * vi
            self.state[i] = mu, vu, mi, vi

    def scores(self, use: str = "product", c_u: float = C_U, c_i: float = C_I) -> dict[int, float]:
        parts = {i: (mu + c_u * math.sqrt(vu), mi + c_i * math.sqrt(vi)) for i, (mu, vu, mi, vi) in self.state.items()}
        return {i: {"product": u * x, "uncertainty": u, "inconsistency": x}[use] for i, (u, x) in parts.items()}


# ------------------------------------------------------------------------------------------ the contract
def batches(world: World, rounds: int = 3, part: slice = slice(None)) -> list[TrainBatch]:
    """What a training would show of these samples: predictions that follow from each sample's image alone, other ones each round."""
    # A sample that is not finite has no prediction, and a training would have ended there.
    images = torch.nan_to_num(torch.from_numpy(world.images))[:, None]
    idx = torch.arange(len(images))[part]
    world.net.eval()
    made = []
    with torch.no_grad():
        for number in range(rounds):
            weak, strong = (world.net(factor * images[idx])["logits"] for factor in (1 - 0.2 * number, 0.3 + 0.4 * number))
            made.append(TrainBatch(1, number, idx_ulb=idx, probs_weak=torch.softmax(weak, dim=1), logits_strong=strong))
    return made


def watch(plugin: ASSL, world: World, seen: list[TrainBatch]) -> ASSL:
    plugin.setup(SimpleNamespace(num_samples=len(world.dataset), device=torch.device("cpu")))
    for batch in seen:
        plugin.observe(batch)
    return plugin


class ObserverContract(AcquisitionContract):
    initial = False

    def observed(self, plugin, world):
        watch(plugin, world, batches(world))

    def test_before_any_training_it_says_why_it_cannot_choose(self, world):
        with pytest.raises(UsageError, match=f"acquisition '{self.name}': ranks by what it saw of a training, and there was none yet"):
            self.pick(world, 3, self.plugin())

    def test_samples_never_visited_come_last_with_a_warning(self, world, caplog):
        candidates = world.pool.candidates
        seen = batches(world, part=candidates[:5])
        orders = set()
        for seed in range(4):
            plugin = watch(self.plugin(), world, seen)
            with caplog.at_level(logging.WARNING, logger="usb_active"):
                picks = self.pick(world, 9, plugin, seed=seed)
            assert sorted(picks[:5]) == sorted(candidates[:5])
            orders.add(tuple(picks[5:]))
            # 45 candidates.
            assert caplog.messages == [f"acquisition '{self.name}': 40 of 45 candidates were never visited in training, and rank last"]
            caplog.clear()
        assert len(orders) == 4

    def test_no_warning_and_no_lost_sample_when_all_were_visited(self, world, caplog):
        with caplog.at_level(logging.WARNING, logger="usb_active"):
            self.pick(world, 45)
        assert not caplog.messages

    def test_samples_that_joined_the_pool_since_then_were_not_visited(self, world):
        plugin = self.plugin()
        plugin.setup(SimpleNamespace(num_samples=40, device=torch.device("cpu")))
        for batch in batches(world, part=slice(0, 40)):
            plugin.observe(batch)
        known = np.count_nonzero(world.pool.candidates < 40)
        picks = self.pick(world, 45, plugin)
        assert (picks[:known] < 40).all() and (picks[known:] >= 40).all()

    def test_every_training_begins_anew(self, world):
        plugin = self.plugin(world)
        watch(plugin, world, batches(world, 1)[:1])
        fresh = watch(self.plugin(), world, batches(world, 1)[:1])
        for name, state in fresh.state_dict().items():
            assert all(torch.equal(value, plugin.state_dict()[name][key]) for key, value in state.items())

    def test_bad_predictions_are_an_error_that_names_samples_and_method(self, world):
        plugin, batch = self.plugin(world), batches(world)[0]
        probs = batch.probs_weak.clone()
        probs[[7, 12]] = 0.5
        with pytest.raises(UsageError, match=rf"^acquisition '{self.name}': probs.*sum to 1, got sum 1.5 .* in samples 7, 12$"):
            plugin.observe(TrainBatch(1, 0, idx_ulb=batch.idx_ulb, probs_weak=probs, logits_strong=batch.logits_strong))


class RankedContract(ObserverContract):
    """The highest scores first, by the loop over single samples."""

    def loop_scores(self, loop: Loop) -> dict[int, float]:
        return loop.scores(**self.config)

    def test_the_highest_scores_come_first(self, world):
        loop = Loop()
        for batch in batches(world):
            loop.see(batch)
        scores = self.loop_scores(loop)
        assert self.pick(world, 9).tolist() == sorted(world.pool.candidates, key=lambda i: -scores[i])[:9]


class TestProduct(RankedContract):
    name = "assl"

    def test_it_needs_both_views_and_no_inference(self):
        assert self.plugin().needs == frozenset()
        assert self.plugin().batch_fields == {"idx_ulb", "probs_weak", "logits_strong"}


class TestEmaOnly(RankedContract):
    name, config = "assl", {"c_u": 0.0, "c_i": 0.0}


class TestUncertainty(RankedContract):
    name, config = "assl", {"use": "uncertainty"}

    def test_it_needs_no_strong_view(self, world):
        assert self.plugin().batch_fields == {"idx_ulb", "probs_weak"}
        seen = [TrainBatch(b.cycle, b.iteration, idx_ulb=b.idx_ulb, probs_weak=b.probs_weak) for b in batches(world)]
        assert self.pick(world, 9, watch(self.plugin(), world, seen)).tolist() == self.pick(world, 9).tolist()


class TestInconsistency(RankedContract):
    name, config = "assl", {"use": "inconsistency"}


class TestASSLDiv(ObserverContract):
    name = "assl_div"
    deterministic = False

    def scaled(self, world: World) -> np.ndarray:
        """(N, D): each feature times its sample's score."""
        loop = Loop()
        for batch in batches(world):
            loop.see(batch)
        world.net.eval()
        with torch.no_grad():
            features = world.net(torch.from_numpy(world.images)[:, None])["feat"].double().numpy()
        return features * np.array([loop.scores()[i] for i in range(len(features))])[:, None]

    def test_the_first_pick_is_the_largest_of_the_scaled_features(self, world):
        norms = np.linalg.norm(self.scaled(world), axis=1)
        largest = max(world.pool.candidates, key=lambda i: norms[i])
        assert {int(self.pick(world, 3, seed=seed)[0]) for seed in range(5)} == {largest}

    def test_the_second_is_drawn_by_squared_distance_of_the_scaled_features(self, world):
        scaled, candidates, plugin = self.scaled(world), world.pool.candidates, self.plugin(world)
        seconds = [int(self.pick(world, 2, plugin, seed=seed)[1]) for seed in range(150)]
        first = int(self.pick(world, 1, plugin)[0])
        squared = np.square(scaled[candidates] - scaled[first]).sum(axis=1)
        expected = float(np.sum(squared * squared) / squared.sum())
        drawn = np.square(scaled[seconds] - scaled[first]).sum(axis=1)
        # The mean of 150 draws, within four of its standard deviations; a uniform draw has the mean of all.
        deviation = math.sqrt((np.sum(squared**3) / squared.sum() - expected**2) / 150)
        assert abs(drawn.mean() - expected) < 4 * deviation
        assert abs(squared.mean() - expected) > 4 * deviation

    def test_a_copy_of_a_pick_is_not_drawn(self, tmp_path):
        images = made_images()
        # Of each class all are one image: three different points, so three picks are of three classes.
        images[:20], images[20:40], images[40:] = images[0], images[20], images[40]
        for seed in range(20):
            assert {pick // 20 for pick in self.pick(World(tmp_path, images), 3, seed=seed).tolist()} == {0, 1, 2}


class TestPseudoEL2N(AcquisitionContract):
    name = "pseudo_el2n"

    def test_the_highest_scores_come_first(self, world):
        world.net.eval()
        with torch.no_grad():
            logits = world.net(torch.from_numpy(world.images)[:, None])["logits"].double()
        scores = [u_of_one(p) for p in torch.softmax(logits, dim=1).tolist()]
        assert self.pick(world, 9).tolist() == sorted(world.pool.candidates, key=lambda i: -scores[i])[:9]


# ------------------------------------------------------------------------------------------ configuration
@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("alpha", 0, "0"), ("alpha", 1.2, "1.2"), ("c_u", -1, "-1"), ("c_i", -0.1, "-0.1"), ("use", "both", "both"),
        ("c", 1, "unknown key; known: .*c_u"),
    ],
)  # fmt: skip
def test_bad_keys_are_refused_by_name(tmp_path, key, value, said):
    with pytest.raises(UsageError, match=rf"active\.acquisition\.{key}: .*{said}"):
        run_helpers.config_of(run_helpers.settings(tmp_path, active={"acquisition": {"name": "assl", key: value}}))


def test_it_cannot_be_the_initial_acquisition(tmp_path):
    message = "active.initial: 'assl' chooses by what it sees of a training, and before the first there is none"
    with pytest.raises(UsageError, match=f"^{message}$"):
        run_helpers.train(run_helpers.settings(tmp_path, active={"initial": {"name": "assl", "size": 20}}))
    # Refused before there is a run.
    assert not (tmp_path / "run").exists()


# ------------------------------------------------------------------------------------------ in a training
@pytest.mark.slow
@pytest.mark.parametrize(
    ("algorithm", "active", "reason"),
    [
        ("pseudolabel", {"name": "assl"}, "needs logits_strong of every step, .* 'pseudolabel' .*: it has no strong view"),
        ("mixmatch", {"name": "assl"}, "needs logits_strong of every step, .* 'mixmatch' .*: it has no strong view"),
        ("mixmatch", {"name": "assl_div"}, "acquisition: 'assl_div': needs logits_strong"),
        ("supervised", {"name": "assl"}, "needs idx_ulb, logits_strong, probs_weak .* 'supervised' cannot give it: it has no strong view"),
        ("supervised", {"name": "assl", "use": "uncertainty"}, "needs idx_ulb, probs_weak .*: its train_step does not have it"),
    ],
)
def test_algorithms_without_the_views_are_refused(tmp_path, algorithm, active, reason):
    with pytest.raises(UsageError, match=reason):
        run_helpers.train(run_helpers.settings(tmp_path, algorithm=algorithm, active={"acquisition": active}))


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["fixmatch", "flexmatch", "freematch", "softmatch", "uda", "adamatch"])
def test_the_picks_of_a_run_are_those_of_the_paper(tmp_path, monkeypatch, algorithm):
    """Recorded step by step, and computed by the loop."""
    loops, observe = {}, ASSL.observe

    def recorded(plugin, batch):
        loops.setdefault(batch.cycle, Loop()).see(batch)
        observe(plugin, batch)

    monkeypatch.setattr(ASSL, "observe", recorded)
    # 20 labels, 12 steps of 8 · 14: nearly every sample is visited.
    data = run_helpers.settings(tmp_path, algorithm=algorithm, uratio=14, active={"acquisition": {"name": "assl"}, "cycles": 2})
    session = run_helpers.train(data).session
    labeled: set[int] = set()
    for cycle in (1, 2):
        labeled |= set(session.run_dir.query(cycle - 1).idx.tolist())
        scores = {i: score for i, score in loops[cycle - 1].scores().items() if i not in labeled}
        picks = session.run_dir.query(cycle).idx.tolist()
        # By score, not by name: two that agree to single precision may change places.
        assert [scores[i] for i in picks] == pytest.approx(sorted(scores.values(), reverse=True)[:10], rel=1e-4)


@pytest.mark.slow
def test_watching_does_not_change_the_training(tmp_path):
    for name in ("assl", "random"):
        run_helpers.train(run_helpers.settings(tmp_path, name, active={"acquisition": {"name": name}, "keep": "all"}))
    one, other = (run_helpers.checkpoint(tmp_path / name, 0) for name in ("assl", "random"))
    assert run_helpers.weights_equal(one, other)
    state = one["active"]["plugins"]["acquisition"]
    # 12 steps of 16.
    assert state["uncertainty"]["visits"].sum() == state["inconsistency"]["visits"].sum() == 12 * 16
    assert not other["active"]["plugins"].get("acquisition")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pseudolabel", "mixmatch"])
def test_uncertainty_alone_runs_without_a_strong_view(tmp_path, name):
    active = {"acquisition": {"name": "assl", "use": "uncertainty"}}
    session = run_helpers.train(run_helpers.settings(tmp_path, algorithm=name, active=active)).session
    assert len(session.run_dir.query(1).idx) == 10


# ------------------------------------------------------------------------------------------ killed, and given again
POINTS = (
    "done", "before_query", "query", "labels", "start", "train_early", "epoch_end", "checkpoint", "train", "training_end", "last_done",
)  # fmt: skip


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """Uninterrupted runs by acquisition, each made once."""
    folder, made = tmp_path_factory.mktemp("references"), {}

    def run(acquisition):
        name = acquisition["name"]
        if name not in made:
            made[name] = finish(killer.settings(folder, name, {"acquisition": acquisition}))
        return made[name]

    return run


def finish(data):
    """The directory of the run, brought to its end. (It warns of samples that 12 steps did not visit.)"""
    ended = killer.run(data)
    assert ended.code == 0, ended
    return killer.directory(data)


def killed_and_finished(folder, acquisition, *points):
    data = killer.settings(folder, "run", {"acquisition": acquisition})
    for point in points:
        assert killer.run(data, point).code == killer.KILLED
    return finish(data)


def assert_same_picks(one, other):
    for cycle in range(3):
        assert RunDir.read(one).query(cycle).idx.tolist() == RunDir.read(other).query(cycle).idx.tolist()
    killer.assert_same_end(one, other)


@pytest.mark.slow
@pytest.mark.parametrize("point", POINTS)
def test_killed_anywhere_the_picks_are_the_same(tmp_path, reference, point):
    acquisition = {"name": "assl"}
    assert_same_picks(killed_and_finished(tmp_path, acquisition, point), reference(acquisition))


@pytest.mark.slow
def test_killed_everywhere_with_diverse_picks(tmp_path, reference):
    acquisition = {"name": "assl_div"}
    assert_same_picks(killed_and_finished(tmp_path, acquisition, "done", "query", "train", "training_end"), reference(acquisition))
