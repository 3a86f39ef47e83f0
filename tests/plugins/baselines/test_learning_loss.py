"""Learning loss: Eq. 2 as a loop, closed forms, invariants; the head by hand; what a step learns; picks; trainings, also killed ones."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from types import SimpleNamespace

import killer
import pytest
import run_helpers
import torch
from usb_active.plugins.baselines.learning_loss import LossHead, pairwise_ranking_loss, pooled
from usb_active.plugins.baselines.trained import LearningLoss

from usb_active import TrainBatch, UsageError
from usb_active.pool.view import PoolView, Registered
from usb_active.storage.checkpoint import read_checkpoint
from usb_active.testing import AcquisitionContract


def rows(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# ------------------------------------------------------------------------------------------------- Eq. 2
@pytest.mark.parametrize(("size", "margin"), list(product((2, 3, 8, 17), (0.25, 1.0))))
def test_eq_2_as_a_loop(size, margin):
    predicted, losses = rows(size).tolist(), rows(size, seed=1).abs().tolist()
    half, total = size // 2, 0.0
    for i in range(half):
        j = i + half
        sign = 1 if losses[i] > losses[j] else -1
        total += max(0.0, -sign * (predicted[i] - predicted[j]) + margin)
    found = pairwise_ranking_loss(torch.tensor(predicted), torch.tensor(losses), margin)
    assert found.ndim == 0 and float(found) == pytest.approx(total / half, rel=1e-5)


def test_closed_forms_of_one_pair():
    def of_pair(p, losses):
        return float(pairwise_ranking_loss(torch.tensor(p), torch.tensor(losses)))

    # Right order, 3 apart: max(0, -3 + 1) = 0. Half apart: -0.5 + 1. Wrong order by 3: 3 + 1.
    assert [of_pair([3.0, 0.0], [2.0, 1.0]), of_pair([0.5, 0.0], [2.0, 1.0]), of_pair([0.0, 3.0], [2.0, 1.0])] == [0, 0.5, 4]
    # Equal losses count as "not larger": the sign is -1, so that 2 above costs 2 + 1.
    assert of_pair([2.0, 0.0], [1.0, 1.0]) == 3


def test_only_differences_of_predictions_and_the_order_of_losses_matter():
    predicted, losses = rows(10), rows(10, seed=1).abs()
    found = pairwise_ranking_loss(predicted, losses)
    assert torch.allclose(pairwise_ranking_loss(predicted + 7, losses), found)
    assert torch.equal(pairwise_ranking_loss(predicted, 3 * losses.exp()), found)
    # The two of every pair change places: the same pairs.
    swap = torch.arange(10).roll(5)
    assert torch.allclose(pairwise_ranking_loss(predicted[swap], losses[swap]), found)


def test_the_gradient_pushes_the_wrongly_ordered_apart_and_does_not_reach_the_losses():
    predicted, losses = torch.tensor([0.0, 5.0, 1.0, 0.0], requires_grad=True), torch.tensor([2.0, 2.0, 1.0, 1.0], requires_grad=True)
    pairwise_ranking_loss(predicted, losses).backward()
    # Pair (0, 2) is wrong: -1 and +1, halved by the mean over two pairs. Pair (1, 3) is right by more than the margin.
    assert predicted.grad.tolist() == [-0.5, 0, 0.5, 0] and losses.grad is None


def test_what_does_not_fit_is_said():
    with pytest.raises(ValueError, match=r"losses: expected one for each prediction, got shapes \(3,\) and \(4,\)"):
        pairwise_ranking_loss(rows(3), rows(4))
    with pytest.raises(ValueError, match="a pair needs 2 samples, got 1"):
        pairwise_ranking_loss(rows(1), rows(1))


# ------------------------------------------------------------------------------------------------- the head
def test_the_head_by_hand():
    head = LossHead({"a": 3, "b": 2}, width=4)
    outputs = {"a": rows(5, 3, 4, 6), "b": rows(5, 2), "other": rows(5, 9)}
    weights = {name: value.detach().double().numpy() for name, value in head.state_dict().items()}
    for i, found in enumerate(head(outputs).tolist()):
        a = [sum(outputs["a"][i, d].flatten().tolist()) / 24 for d in range(3)]
        joined = [max(0.0, float(w @ a + b)) for w, b in zip(weights["layers.0.weight"], weights["layers.0.bias"], strict=True)]
        vector = outputs["b"][i].double().numpy()
        joined += [max(0.0, float(w @ vector + b)) for w, b in zip(weights["layers.1.weight"], weights["layers.1.bias"], strict=True)]
        assert found == pytest.approx(float(weights["last.weight"][0] @ joined + weights["last.bias"][0]), abs=1e-5)


def test_a_constant_map_is_as_the_vector_of_its_values_and_its_place_in_the_image_does_not_matter():
    vector = rows(5, 3)
    assert torch.allclose(pooled(vector[:, :, None, None].expand(5, 3, 4, 2)), vector) and pooled(vector) is vector
    head, maps = LossHead({"a": 3}, width=4), rows(5, 3, 4, 4)
    assert torch.allclose(head({"a": maps}), head({"a": maps.transpose(2, 3).flip(2)}), atol=1e-6)


# ------------------------------------------------------------------------------------------------- a step
class Registrar:
    """`register_state`, which keeps the optimizer too."""

    def __call__(self, name, factory, optimizer):
        torch.manual_seed(0)
        self.head = factory()
        self.optimizer = optimizer(self.head.parameters())
        return self.head


def info_of(world, register=None, steps=10, **changes):
    given = {"net": world.net, "in_channels": 1, "img_size": 8, "num_train_iter": steps, "register_state": register, **changes}
    return SimpleNamespace(**given)


class TestLearningLoss(AcquisitionContract):
    name = "learning_loss"
    initial = False

    def view(self, world, plugin, *, cycle=1, seed=0, role="acquisition"):
        """With a head that a training may have left."""
        register = Registrar()
        if not world.fresh:
            self.make(self.config).setup(info_of(world, register))
        registered = {role: {"head": Registered(getattr(register, "head", None))}}
        source = replace(world.source(seed), registered=lambda: registered, live_model=lambda: world.net)
        return PoolView(source, cycle, role, frozenset(plugin.needs), None)

    def step(self, world, iteration=0, size=6, **keys):
        """The plugin after `setup`, its registrar, a batch whose hidden outputs have gradients, and those outputs."""
        plugin, register = self.make(keys), Registrar()
        plugin.setup(info_of(world, register))
        hidden = {name: rows(size, d, 2, 2).requires_grad_() for name, d in (("stem", 4), ("blocks.0", 8), ("blocks.1", 16))}
        batch = TrainBatch(
            0, iteration, y_lb=torch.arange(size) % 3, logits_lb=rows(size, 3, seed=5).requires_grad_(), hidden={"x_lb": hidden}
        )
        return plugin, register, batch, hidden

    def test_the_modules_are_found_or_given(self, world):
        assert self.make({}).choose_hidden_modules(info_of(world)) == ["stem", "blocks.0", "blocks.1"]
        plugin, register = self.make({"modules": ["blocks.1.conv", "stem.bn"], "width": 5}), Registrar()
        assert plugin.choose_hidden_modules(info_of(world)) == ["blocks.1.conv", "stem.bn"]
        plugin.setup(info_of(world, register))
        assert [tuple(layer.weight.shape) for layer in register.head.layers] == [(5, 16), (5, 4)]
        with pytest.raises(UsageError, match="^acquisition 'learning_loss': modules: the network calls no module 'stme'; did you mean 'st"):
            self.make({"modules": ["stme"]}).choose_hidden_modules(info_of(world))

    @pytest.mark.parametrize("keys", [{}, {"weight": 0.5, "margin": 3.0}])
    def test_a_step_adds_the_ranking_loss_of_the_cross_entropies(self, world, keys):
        plugin, register, batch, hidden = self.step(world, **keys)
        predicted = register.head(hidden).tolist()
        losses = [-float(batch.logits_lb[i].detach().log_softmax(0)[batch.y_lb[i]]) for i in range(6)]
        margin = keys.get("margin", 1.0)
        signs = [1 if losses[i] > losses[i + 3] else -1 for i in range(3)]
        terms = [max(0.0, -signs[i] * (predicted[i] - predicted[i + 3]) + margin) for i in range(3)]
        assert float(plugin.extra_loss(batch)) == pytest.approx(keys.get("weight", 1.0) * sum(terms) / 3, rel=1e-5)

    @pytest.mark.parametrize(("iteration", "flows"), [(0, True), (5, True), (6, False), (9, False)])
    def test_after_60_of_100_steps_its_gradient_stops_at_the_head(self, world, iteration, flows):
        plugin, register, batch, hidden = self.step(world, iteration)
        plugin.extra_loss(batch).backward()
        assert [x.grad is not None for x in hidden.values()] == [flows] * 3
        assert all(p.grad is not None for p in register.head.parameters())
        # The losses are what is learned, not what learns.
        assert batch.logits_lb.grad is None

    @pytest.mark.parametrize(("iteration", "rate"), [(0, 0.1), (7, 0.1), (8, 0.01), (9, 0.01)])
    def test_the_rate_falls_to_a_tenth_after_80_of_100_steps(self, world, iteration, rate):
        plugin, register, batch, _ = self.step(world, iteration)
        plugin.extra_loss(batch)
        (group,) = register.optimizer.param_groups
        assert group["lr"] == pytest.approx(rate) and (group["momentum"], group["weight_decay"]) == (0.9, 5e-4)
        # A step back in time, as after a resume: by position alone.
        plugin.extra_loss(replace(batch, iteration=0))
        assert group["lr"] == 0.1

    def test_a_batch_without_a_pair(self, world):
        plugin, _, batch, _ = self.step(world, size=1)
        with pytest.raises(UsageError, match="'learning_loss': learns from pairs of labelled samples; batch_size must be at least 2"):
            plugin.extra_loss(batch)
        # Later, as the rest of an epoch: that step goes without.
        assert plugin.extra_loss(replace(batch, iteration=3)) is None

    def test_the_largest_predicted_losses_come_first(self, world):
        plugin, register = self.plugin(), Registrar()
        plugin.setup(info_of(world, register))
        maps = {}
        x = torch.from_numpy(world.images)[:, None]
        with torch.no_grad():
            net = world.net.eval()
            maps["stem"] = net.stem(x)
            maps["blocks.0"] = net.blocks[0](net.pool(maps["stem"]))
            maps["blocks.1"] = net.blocks[1](net.pool(maps["blocks.0"]))
            scores = register.head(maps).tolist()
        assert self.pick(world, 9).tolist() == sorted(world.pool.candidates, key=lambda i: -scores[i])[:9]
        # A subset is drawn: its best, and another for another seed.
        drawn = [self.pick(world, 9, self.make({"subset": 12}), seed=seed).tolist() for seed in range(3)]
        assert all(picks == sorted(picks, key=lambda i: -scores[i]) for picks in drawn) and len({tuple(p) for p in drawn}) == 3
        assert len(self.pick(world, 9, self.make({"subset": 2}))) == 9 and len(self.pick(world, 9, self.make({"subset": 5000}))) == 9

    def test_live_or_ema_weights(self, world):
        other = type(world)(world.folder / "other")
        with torch.no_grad():
            for parameter in other.net.parameters():
                parameter.mul_(-1.5)
        view = self.view(world, self.plugin())
        view._source.live_model = lambda: other.net
        ema, live = (self.make({"live": live}).select(view, 9).tolist() for live in (False, True))
        assert ema == self.pick(world, 9).tolist() != live

    @pytest.mark.parametrize(
        "keys",
        [
            {"modules": []}, {"modules": ["stem", "stem"]}, {"modules": "stem"}, {"margin": 0}, {"weight": -1}, {"stop_at": 1.5},
            {"width": 0}, {"lr": 0}, {"decay_at": -0.1}, {"momentum": 1}, {"weight_decay": -1}, {"subset": 0}, {"lr": float("inf")},
        ],
    )  # fmt: skip
    def test_keys_out_of_their_range_are_refused(self, keys):
        with pytest.raises(UsageError, match=next(iter(keys))):
            self.make(keys)


# ------------------------------------------------------------------------------------------------- in a training
def settings(tmp_path, name="run", keys=None, /, active=None, **usb):
    return run_helpers.settings(tmp_path, name, active={"acquisition": {"name": "learning_loss", **(keys or {})}, **(active or {})}, **usb)


def registered_in(saved):
    return saved["active"]["registered"]["acquisition"]["head"], saved["active"]["optimizers"]["acquisition"]["head"]


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["flexmatch", "pseudolabel", "supervised"])
def test_it_learns_beside_an_algorithm_and_reaches_the_task_model_until_it_stops(tmp_path, algorithm):
    keep = {"keep": "all"}
    for name, keys in (("with", {}), ("stopped", {"stop_at": 0})):
        run_helpers.train(settings(tmp_path, name, keys, active=keep, algorithm=algorithm))
    run_helpers.train(run_helpers.settings(tmp_path, "without", active={"acquisition": "random", **keep}, algorithm=algorithm))
    saved = {name: run_helpers.checkpoint(tmp_path / name, 0) for name in ("with", "stopped", "without")}
    # A gradient that is stopped from the first step on leaves the training as it is, to the bit.
    assert run_helpers.weights_equal(saved["stopped"], saved["without"])
    assert not run_helpers.weights_equal(saved["with"], saved["without"])
    head, optimizer = registered_in(saved["with"])
    assert set(head) == {f"{layer}.{kind}" for layer in ("layers.0", "layers.1", "layers.2", "last") for kind in ("weight", "bias")}
    # 12 steps, of which those from the tenth on are at a tenth of the rate.
    assert len(optimizer["state"]) == 8 and optimizer["param_groups"][0]["lr"] == pytest.approx(0.01)


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    return killer.References(tmp_path_factory.mktemp("references"))


@pytest.mark.slow
@pytest.mark.parametrize("point", ["train", "predict"])
def test_killed_in_a_training_or_while_it_chooses(tmp_path, reference, point):
    chosen = {"acquisition": {"name": "learning_loss"}}
    data, whole = killer.settings(tmp_path, "run", chosen), reference(chosen)
    assert killer.run(data, point).code == killer.KILLED
    run = killer.finish(data)
    killer.assert_same_end(run, whole)
    ends = [registered_in(read_checkpoint(path / "cycle_002" / "latest_model.pth")) for path in (run, whole)]
    (head, optimizer), (expected, expected_optimizer) = ends
    assert all(torch.equal(value, expected[name]) for name, value in head.items()) and head.keys() == expected.keys()
    for number, state in optimizer["state"].items():
        assert torch.equal(state["momentum_buffer"], expected_optimizer["state"][number]["momentum_buffer"])
    assert optimizer["param_groups"] == expected_optimizer["param_groups"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("usb", "names"),
    [
        ({"net": {"name": "resnet18", "stem": "cifar"}}, ["body.layer1", "body.layer2", "body.layer3", "body.layer4"]),
        ({"net": "mlp"}, ["hidden"]),
        ({"net": "linear"}, ["hidden"]),
    ],
)
def test_other_networks_run(tmp_path, usb, names):
    short = {"num_train_iter": 2, "num_eval_iter": 2, "epoch": 1, "batch_size": 2, "uratio": 1}
    algorithm = run_helpers.train(settings(tmp_path, "run", {"subset": 40}, algorithm="supervised", **short, **usb))
    assert algorithm.registered()["acquisition"]["head"].module.names == tuple(names)
    assert len(algorithm.session.run_dir.query(1).idx) == 10


@pytest.mark.slow
@pytest.mark.parametrize(
    ("keys", "usb", "said"),
    [
        ({}, {"algorithm": "mixmatch"}, "needs hidden, logits_lb of every step, .* 'mixmatch' cannot give it: .* a mixture of samples"),
        ({}, {"algorithm": "remixmatch"}, "needs hidden, logits_lb .* 'remixmatch' cannot give it: .* a mixture of samples"),
        ({}, {"algorithm": "meanteacher"}, "needs logits_lb .* 'meanteacher' cannot give it: its train_step does not have it"),
        ({"modules": ["layer4"]}, {}, "'learning_loss': modules: the network calls no module 'layer4'"),
        ({"modules": ["pool"]}, {}, "'learning_loss': modules: module 'pool' is called several times"),
    ],
)
def test_what_cannot_be_learned_from_is_refused_before_there_is_a_run(tmp_path, keys, usb, said):
    from usb_active.commands.run import check

    with pytest.raises(UsageError, match=said) as caught:
        check(run_helpers.config_of(settings(tmp_path, "run", keys, **usb)))
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()


def test_as_the_initial_acquisition_it_is_refused(tmp_path):
    with pytest.raises(UsageError, match="active.initial: 'learning_loss' chooses by what it sees of a training, and before the first"):
        run_helpers.train(run_helpers.settings(tmp_path, active={"initial": {"name": "learning_loss", "size": 20}}))


def test_it_declares_what_it_looks_at():
    assert LearningLoss.batch_fields == {"y_lb", "logits_lb"} and LearningLoss.hidden_modules == ()
