"""What algorithm and acquisition share: the terms of Eq. 6 by hand, which step moves what, and what is said of code and sampler."""

from __future__ import annotations

import contextlib
import copy

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from usb_active.plugins.assal.functional import gaussian_kl
from usb_active.plugins.assal.learning import TERMS, Learners, NotFinite, Objective, accuracy_of, code_state, frozen, sampler_counts
from usb_active.plugins.assal.networks import ClassifyingVae, Discriminator

OBJECTIVE = Objective()
LATENT, CLASSES = 4, 3


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def noise_of(seed=7):
    generator = torch.Generator().manual_seed(seed)
    return lambda like: torch.randn(like.shape, generator=generator)


def learners(objective=OBJECTIVE, lr=1e-2):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net, sampler = ClassifyingVae(CLASSES, 8, 1, LATENT, 4), Discriminator(LATENT, 16)
    return Learners(net, sampler, torch.optim.Adam(sampler.parameters(), lr=lr), objective)


def batch():
    return normal(3, 1, 8, 8), torch.tensor([0, 2, 1]), normal(5, 1, 8, 8, seed=1), torch.tensor([0, 1, 2, 3, 1])


def moved(module, before):
    return {name.partition(".")[0] for name, value in module.state_dict().items() if not torch.equal(value, before[name])}


# ------------------------------------------------------------------------------------------------- Eq. 6
@pytest.mark.parametrize("target", ["rotation", "pseudo_label"])
def test_the_terms_by_hand(target):
    objective = Objective(scale=0.5, beta=0.3, target=target, threshold=0.4)
    parts, (x_l, y_l, x_u, turns) = learners(objective), batch()
    found, coded_l, coded_u = parts.terms(x_l, y_l, x_u, turns, noise_of())
    turned = torch.stack([torch.rot90(image, int(number), dims=(1, 2)) for image, number in zip(x_u, turns, strict=True)])
    images = torch.cat([x_l, x_u, *([turned] if target == "rotation" else [])])
    mu, log_var = parts.net.encode(images)
    z = mu + (log_var / 2).exp() * noise_of()(mu)
    kl = gaussian_kl(mu, log_var)
    bounds = [((parts.net.decode(z[i : i + 1]) - images[i : i + 1]) / 0.5).square().sum() / 2 + kl[i] for i in range(8)]
    assert found["lambda1"].item() == pytest.approx((sum(bounds[:3]) / 3 + sum(bounds[3:]) / 5).item(), rel=1e-4)
    labels = [F.cross_entropy(parts.net.classifier(z[i]), y_l[i]) + 0.3 * kl[i] for i in range(3)]
    assert found["lambda2"].item() == pytest.approx((sum(labels) / 3).item(), rel=1e-4)
    if target == "rotation":
        own = [F.cross_entropy(parts.net.rotation(z[8 + i]), turns[i]) + 0.3 * kl[8 + i] for i in range(5)]
    else:
        probs = parts.net.classifier(mu[3:8]).softmax(dim=1)
        sure = [i for i in range(5) if probs[i].max() >= 0.4]
        assert 0 < len(sure) < 5
        own = [F.cross_entropy(parts.net.classifier(z[3 + i]), probs[i].argmax()) + 0.3 * kl[3 + i] for i in sure]
    # Eq. 3 is a mean over the pool, of those too whose pseudo-label does not count.
    assert found["lambda3"].item() == pytest.approx((sum(own) / 5).item(), rel=1e-4)
    taken = [-torch.log(torch.sigmoid(parts.sampler(mu[i : i + 1])))[0] for i in range(8)]
    assert found["lambda4"].item() == pytest.approx((sum(taken[:3]) / 3 + sum(taken[3:]) / 5).item(), rel=1e-4)
    assert torch.equal(coded_l.x, x_l) and torch.equal(coded_u.x, x_u) and torch.allclose(coded_u.mu, mu[3:8])
    weighted = 0.01 * found["lambda1"] + found["lambda2"] + found["lambda3"] + 0.1 * found["lambda4"]
    assert objective.loss(found).item() == pytest.approx(weighted.item(), rel=1e-6)


def test_without_a_weight_no_image_is_turned():
    parts, (x_l, y_l, x_u, turns) = learners(Objective(lambda3=0)), batch()
    rows = []
    parts.terms(x_l, y_l, x_u, turns, lambda mu: rows.append(len(mu)) or torch.zeros_like(mu))
    assert rows == [8]


@pytest.mark.parametrize("target", ["rotation", "pseudo_label"])
@pytest.mark.parametrize("absent", TERMS)
def test_a_term_without_weight_is_not_computed(absent, target):
    whole, objective = Objective(target=target, threshold=0.0), Objective(target=target, threshold=0.0, **{absent: 0.0})
    found, calls = {}, {}
    for name, one in (("whole", whole), ("without", objective)):
        parts, (x_l, y_l, x_u, turns) = learners(one), batch()
        called = calls[name] = []
        net = parts.net
        nets = {"lambda1": net.generator, "classifier": net.classifier, "rotation": net.rotation, "lambda4": parts.sampler}
        for part, module in nets.items():
            module.register_forward_hook(lambda *_, part=part, called=called: called.append(part))
        # The same noise for an image whether turned ones follow it or not.
        found[name], _, _ = parts.terms(x_l, y_l, x_u, turns, lambda mu: 0.5 * torch.ones_like(mu))
    assert found["without"].keys() == TERMS.keys() - {absent}
    assert all(torch.allclose(term, found["whole"][name]) for name, term in found["without"].items())
    of_unlabeled = ["rotation"] if target == "rotation" else ["classifier", "classifier"]
    gone = {"lambda1": ["lambda1"], "lambda2": ["classifier"], "lambda3": of_unlabeled, "lambda4": ["lambda4", "lambda4"]}
    assert sorted(calls["without"] + gone[absent]) == sorted(calls["whole"])


@pytest.mark.parametrize("target", ["rotation", "pseudo_label"])
def test_all_networks_of_the_objective_compute_in_its_precision(target):
    inside, seen = [], {}

    @contextlib.contextmanager
    def autocast():
        inside.append(True)
        yield
        inside.pop()

    parts, (x_l, y_l, x_u, turns) = learners(Objective(target=target, threshold=0.0)), batch()
    for name, net in parts.net.named_children():
        net.register_forward_hook(lambda *_, name=name: seen.setdefault(name, set()).add(bool(inside)))
    Learners(parts.net, parts.sampler, parts.sampler_optimizer, parts.objective, autocast).terms(x_l, y_l, x_u, turns)
    used = {"encoder", "generator", "classifier"} | ({"rotation"} if target == "rotation" else set())
    assert seen == dict.fromkeys(used, {True})


class Waits(TorchDispatchMode):
    """Counts the operations for which the host waits for a device: numbers that are read, and shapes that depend on values."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        masks = func.namespace == "aten" and func._opname in ("index", "index_put_") and any(
            mask is not None and mask.dtype == torch.bool for mask in args[1]
        )  # fmt: skip
        self.count += masks or func._opname in ("_local_scalar_dense", "nonzero", "masked_select")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("target", ["rotation", "pseudo_label"])
def test_a_step_of_the_rest_waits_for_nothing_and_the_samplers_once(target):
    parts, (x_l, y_l, x_u, turns) = learners(Objective(target=target, threshold=0.4)), batch()
    with Waits() as waits:
        terms, _, _ = parts.terms(x_l, y_l, x_u, turns)
        parts.objective.loss(terms).backward()
    assert waits.count == 0
    with Waits() as waits:
        parts.objective.check_terms(terms)
    assert waits.count <= 1
    # Whether its loss is finite; Adam counts its steps on the CPU.
    parts = Learners(parts.net, parts.sampler, torch.optim.SGD(parts.sampler.parameters(), 0.1), parts.objective)
    with Waits() as waits:
        parts.step_sampler(x_l, x_u)
    assert waits.count == 1


# ------------------------------------------------------------------------------------------------- who learns from what
def test_the_sampler_learns_nothing_from_eq_6():
    parts, (x_l, y_l, x_u, turns) = learners(), batch()
    terms, _, _ = parts.terms(x_l, y_l, x_u, turns, noise_of())
    OBJECTIVE.loss(terms).backward()
    assert all(p.grad is None and p.requires_grad for p in parts.sampler.parameters())
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in parts.net.parameters())


def test_of_the_adversarial_loss_the_encoder_alone_learns():
    parts, (x_l, y_l, x_u, turns) = learners(), batch()
    terms, _, _ = parts.terms(x_l, y_l, x_u, turns, noise_of())
    terms["lambda4"].backward()
    learned = {name.partition(".")[0] for name, p in parts.net.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert learned == {"encoder"}


def test_the_samplers_step_moves_the_sampler_alone_and_leaves_no_gradient():
    parts, (x_l, _, x_u, _) = learners(), batch()
    before = [copy.deepcopy(module.state_dict()) for module in (parts.net, parts.sampler)]
    loss, right = parts.step_sampler(x_l, x_u)
    assert moved(parts.net, before[0]) == set() and moved(parts.sampler, before[1]) == {"layers"}
    assert all(p.grad is None for p in parts.net.parameters()) and not loss.requires_grad
    assert right[1::2].tolist() == [3, 5]


def test_the_samplers_loss_by_hand_and_it_learns():
    parts, (x_l, _, x_u, _) = learners(), batch()
    with torch.no_grad():
        logits = parts.sampler(parts.net.encode(torch.cat([x_l, x_u]))[0])
    expected = -torch.log(torch.sigmoid(logits[:3])).mean() - torch.log(1 - torch.sigmoid(logits[3:])).mean()
    losses = [parts.step_sampler(x_l, x_u)[0] for _ in range(30)]
    assert losses[0].item() == pytest.approx(expected.item(), rel=1e-5) and losses[-1] < 0.5 * losses[0]


def test_frozen_puts_back_only_what_learned():
    sampler = Discriminator(3, width=4)
    sampler.layers[0].weight.requires_grad_(False)
    with frozen(sampler):
        assert not any(p.requires_grad for p in sampler.parameters())
    assert [p.requires_grad for p in sampler.parameters()] == [False, True, True, True, True, True]


# ------------------------------------------------------------------------------------------------- not finite
@pytest.mark.parametrize("name", TERMS)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_term_that_counts_must_be_finite(name, value):
    terms = {**dict.fromkeys(TERMS, torch.tensor(1.0)), name: torch.tensor(value)}
    with pytest.raises(NotFinite, match=f"^the term '{TERMS[name]}' of {name} is not finite .{value}.$"):
        OBJECTIVE.check_terms(terms)
    Objective(**{name: 0.0}).check_terms(terms)


def test_a_sampler_that_is_not_finite_is_said_before_it_steps():
    parts, (x_l, _, x_u, _) = learners(), batch()
    with torch.no_grad():
        parts.sampler.layers[-1].bias.fill_(float("nan"))
    first = parts.sampler.layers[0].weight.clone()
    with pytest.raises(NotFinite, match="the term 'sampler' is not finite .nan."):
        parts.step_sampler(x_l, x_u)
    assert torch.equal(parts.sampler.layers[0].weight, first)


# ------------------------------------------------------------------------------------------------- what is said
def test_what_it_told_right_adds_up_to_balanced_accuracy():
    counts = sampler_counts(torch.tensor([1.0, -1.0]), torch.tensor([-1.0, -2.0, 3.0]))
    counts = counts + sampler_counts(torch.tensor([2.0]), torch.tensor([0.0]))
    assert counts.tolist() == [2, 3, 3, 4] and accuracy_of(counts) == pytest.approx((2 / 3 + 3 / 4) / 2)
    assert accuracy_of(torch.zeros(4)) == 0.5


def test_the_state_of_a_code_by_hand():
    parts, (x_l, y_l, x_u, turns) = learners(), batch()
    _, _, pool = parts.terms(x_l, y_l, x_u, turns, noise_of())
    state = code_state(pool)
    variances = [pool.mu[:, d].var(correction=0).item() for d in range(LATENT)]
    assert state["spread"] == pytest.approx(sum(v**0.5 for v in variances) / LATENT)
    assert state["active_dims"] == sum(v > 0.01 for v in variances)
    assert state["kl"] == pytest.approx(gaussian_kl(pool.mu, pool.log_var).mean().item())


@pytest.mark.parametrize("prefix", ["", "assal_"])
def test_warnings_name_the_keys_as_they_are_written(prefix):
    objective = Objective(prefix=prefix)
    collapsed = objective.collapse({"active_dims": 0.0, "spread": 0.01, "kl": 0.02})
    assert f"a smaller {prefix}beta or {prefix}lambda1, or a smaller {prefix}scale" in collapsed and "spread 0.01, KL 0.02" in collapsed
    assert f"a smaller {prefix}lambda4 or a larger {prefix}sampler_lr" in objective.chance(0.5)
    assert objective.chance(0.55) == "" and objective.collapse({"active_dims": 1.0}) == ""


@pytest.mark.parametrize(("keys", "cures"), [
    ({}, "; a smaller beta or lambda1, or a smaller scale, may help"), ({"beta": 0.0}, "; a smaller lambda1, or a smaller scale, may help"),
    ({"lambda1": 0.0}, "; a smaller beta, may help"), ({"lambda1": 0.0, "beta": 0.0}, ""),
    ({"lambda2": 0.0, "lambda3": 0.0}, "; a smaller lambda1, or a smaller scale, may help"),
])  # fmt: skip
def test_no_smaller_value_than_zero_is_advised_against_a_collapse(keys, cures):
    collapsed = Objective(**keys).collapse({"active_dims": 0.0, "spread": 0.01, "kl": 0.02})
    assert collapsed.endswith(f": it is the same for all images{cures}")


def test_no_smaller_value_than_zero_is_advised_against_chance():
    said = Objective(lambda4=0.0).chance(0.5)
    assert said.endswith("; a larger sampler_lr may help") and "lambda4" not in said and "equilibrium" not in said


def test_an_objective_reads_the_keys_under_its_prefix():
    class Keys:
        pass

    for name in (*TERMS, "beta", "scale", "threshold"):
        setattr(Keys, f"p_{name}", 0.25)
    Keys.p_target = "pseudo_label"
    objective = Objective.of(Keys, "p_")
    assert objective.weights == {f"p_lambda{number}": 0.25 for number in range(1, 5)} and not objective.turns
    assert objective.term("p_lambda2") == "labeled_loss"
