"""An algorithm with a module and an optimizer of its own: trained, moved, kept in checkpoints, made again every cycle."""

from __future__ import annotations

import pytest
import torch
from run_helpers import checkpoint, config_of, settings, weights_equal
from semilearn.algorithms.fixmatch import FixMatch

from usb_active.contracts.registry import REGISTRY
from usb_active.usb.launcher import make_algorithm


class Stopped(Exception):
    pass


class WithCritic(FixMatch):
    """FixMatch whose loss also trains a linear critic on the labelled features."""

    batch_fields = frozenset({"idx_lb", "x_lb", "y_lb"})
    stop_at = None

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.critic = self.register_state(
            "critic", lambda: torch.nn.Linear(self.model.num_features, 1), optimizer=lambda p: torch.optim.Adam(p, lr=0.01)
        )

    def train_step(self, x_lb, y_lb, x_ulb_w, x_ulb_s):
        if (self.cycle, self.it) == self.stop_at:
            raise Stopped
        out, log = super().train_step(x_lb, y_lb, x_ulb_w, x_ulb_s)
        out["loss"] = out["loss"] + (self.critic(out["feat"]["x_lb"].float()).squeeze(1) - y_lb).square().mean()
        return out, log


@pytest.fixture(scope="module", autouse=True)
def registered():
    if "with_critic" not in REGISTRY.names("algorithm"):
        REGISTRY.add("algorithm", "with_critic", WithCritic)


def run(data, stop_at=None):
    torch.set_num_threads(1)
    algorithm = make_algorithm(config_of(data))
    type(algorithm).stop_at = stop_at
    if stop_at is None:
        algorithm.train()
    else:
        with pytest.raises(Stopped):
            algorithm.train()
    return algorithm


@pytest.mark.parametrize("amp", [False, True])
def test_it_learns_and_a_stopped_run_resumes_to_the_same_bits(tmp_path, amp):
    whole = run(settings(tmp_path, "whole", algorithm="with_critic", amp=amp))
    run(settings(tmp_path, "stopped", algorithm="with_critic", amp=amp), stop_at=(1, 6))
    again = run(settings(tmp_path, "stopped", algorithm="with_critic", amp=amp))
    ends = [checkpoint(tmp_path / name, 1) for name in ("whole", "stopped")]
    assert weights_equal(*ends)
    critics = [end["active"]["registered"]["algorithm"]["critic"] for end in ends]
    assert all(torch.equal(critics[0][name], critics[1][name]) for name in critics[0])
    # Adam has stepped it once per step, and starts over every cycle.
    steps = [end["active"]["optimizers"]["algorithm"]["critic"]["state"][0]["step"] for end in ends]
    assert [int(step) for step in steps] == [whole.num_train_iter] * 2
    assert again.critic.weight.abs().sum() > 0


def test_it_moves_by_its_own_gradient_alone(tmp_path):
    algorithm = run(settings(tmp_path, algorithm="with_critic", active={"cycles": 0}, num_train_iter=1, num_eval_iter=1, epoch=1))
    trained = checkpoint(tmp_path / "run", 0)["active"]["registered"]["algorithm"]["critic"]
    from usb_active.randomness import seeded_globals

    with seeded_globals(algorithm.session.seed, 0, "active/algorithm", "critic"):
        fresh = torch.nn.Linear(algorithm.model.num_features, 1)
    # Adam's first step is its rate in every coordinate that has a gradient.
    moved = (trained["weight"] - fresh.weight.detach()).abs()
    assert torch.allclose(moved[moved > 1e-6], torch.tensor(0.01), rtol=1e-3) and (moved > 1e-6).any()
