"""What plugins and the algorithm register for a training, without a training."""

from __future__ import annotations

import pytest
import torch

from usb_active.errors import UsageError
from usb_active.pool.divergence import nonfinite_of
from usb_active.randomness import seeded_globals
from usb_active.usb.registered import OWN, RegisteredState, Registrations, step_scaled


class Table:
    """A state that is no module."""

    def __init__(self):
        self.rows = {}

    def state_dict(self):
        return dict(self.rows)

    def load_state_dict(self, state):
        self.rows = dict(state)


def registrations(seed: int = 0, cycle: int = 1) -> Registrations:
    return Registrations({"acquisition": RegisteredState("active/acquisition")}, seed, cycle, torch.device("cpu"))


def linear() -> torch.nn.Module:
    return torch.nn.Linear(3, 1)


def adam(parameters):
    return torch.optim.Adam(parameters, lr=0.1)


def test_what_is_made_depends_on_seed_cycle_role_and_name_alone():
    torch.manual_seed(7)
    before = torch.get_rng_state()
    made = registrations().register("acquisition", "critic", linear)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(8)
    assert torch.equal(registrations().register("acquisition", "critic", linear).weight, made.weight)
    with seeded_globals(0, 1, "active/acquisition", "critic"):
        assert torch.equal(linear().weight, made.weight)
    others = [
        registrations(seed=1).register("acquisition", "critic", linear), registrations(cycle=2).register("acquisition", "critic", linear),
        registrations().register(OWN, "critic", linear), registrations().register("acquisition", "other", linear),
    ]  # fmt: skip
    assert not any(torch.equal(other.weight, made.weight) for other in others)


def test_they_are_found_by_role_and_name_with_their_optimizers():
    states = registrations()
    critic = states.register("acquisition", "critic", linear, adam)
    table = states.registrar("acquisition")("table", Table)
    own = states.register(OWN, "critic", linear)
    found = states.by_role()
    assert found["acquisition"]["critic"].module is critic and isinstance(found["acquisition"]["critic"].optimizer, torch.optim.Adam)
    assert found["acquisition"]["table"].module is table and found["acquisition"]["table"].optimizer is None
    assert found[OWN]["critic"].module is own
    # Tables are no networks.
    assert states.modules() == {"active.acquisition: 'critic'": critic, "algorithm: 'critic'": own}


@pytest.mark.parametrize(("role", "who"), [("acquisition", "active.acquisition"), (OWN, "algorithm")])
def test_a_name_is_taken_once_a_role(role, who):
    states = registrations()
    states.register(role, "critic", linear)
    with pytest.raises(UsageError, match=f"^{who}: state 'critic' is registered twice$"):
        states.register(role, "critic", linear)


def test_states_go_out_and_come_in(tmp_path):
    def filled(scale):
        states = registrations()
        critic = states.register("acquisition", "critic", linear, adam)
        states.register(OWN, "table", Table).rows["a"] = scale
        for _ in range(scale):
            critic(torch.full((1, 3), float(scale))).sum().backward()
            states.by_role()["acquisition"]["critic"].optimizer.step()
        return states

    one, other = filled(3), filled(1)
    state = one.state_dict()
    assert {kind: {role: set(names) for role, names in roles.items()} for kind, roles in state.items()} == {
        "registered": {"acquisition": {"critic"}, OWN: {"table"}}, "optimizers": {"acquisition": {"critic"}, OWN: set()},
    }  # fmt: skip
    torch.save(state, tmp_path / "state.pth")
    assert not torch.equal(state["registered"]["acquisition"]["critic"]["weight"], other.by_role()["acquisition"]["critic"].module.weight)
    other.load_state_dict(torch.load(tmp_path / "state.pth", weights_only=True))
    loaded = other.by_role()
    assert torch.equal(loaded["acquisition"]["critic"].module.weight, one.by_role()["acquisition"]["critic"].module.weight)
    assert loaded["acquisition"]["critic"].optimizer.state_dict()["state"][0]["step"] == 3
    assert loaded[OWN]["table"].module.rows == {"a": 3}


def test_a_checkpoint_of_before_a_role_existed_leaves_it_as_it_is():
    states = registrations()
    critic = states.register(OWN, "critic", linear, adam)
    before = critic.weight.detach().clone()
    states.load_state_dict({"registered": {"acquisition": {}}, "optimizers": {}})
    assert torch.equal(critic.weight, before)


def test_a_scaled_loss_moves_as_far_and_a_step_that_is_not_finite_not_at_all():
    def moved(scale, times):
        net = torch.nn.Linear(2, 1)
        torch.nn.init.ones_(net.weight)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
        (net(torch.ones(1, 2)).sum() * times).backward()
        step_scaled(optimizer, scale)
        assert not nonfinite_of(net.state_dict()) and net.weight.grad is None
        return net.weight.detach().tolist()

    # d loss / d weight = 1 each: 1 - 0.5 · 1.
    assert moved(1.0, 1.0) == moved(1024.0, 1024.0) == [[0.5, 0.5]]
    assert moved(1024.0, float("inf")) == [[1.0, 1.0]]
