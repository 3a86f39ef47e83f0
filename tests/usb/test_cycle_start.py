"""What a cycle's training begins with."""

from __future__ import annotations

import copy

import pytest
import torch

from usb_active.usb.cycle_start import constant_after_warmup, load_into


class Wrapped(torch.nn.Module):
    """As a parallel wrapper, which puts `module.` before every name."""

    def __init__(self, module: torch.nn.Module):
        super().__init__()
        self.module = module


@pytest.mark.parametrize("wrap", [lambda net: net, Wrapped])
def test_fresh_values_come_into_the_modules_that_are_there(wrap):
    existing, fresh = wrap(torch.nn.Linear(3, 2)), torch.nn.Linear(3, 2)
    values, before = copy.deepcopy(fresh.state_dict()), list(existing.parameters())
    for parameter in before:
        parameter.grad = torch.ones_like(parameter)
    assert load_into(existing, fresh) is existing
    assert all(one is other for one, other in zip(existing.parameters(), before, strict=True))
    assert all(parameter.grad is None for parameter in existing.parameters())
    found = {name.removeprefix("module."): value for name, value in existing.state_dict().items()}
    assert found.keys() == values.keys() and all(torch.equal(found[name], values[name]) for name in values)


def test_a_network_whose_own_part_is_called_module_is_not_taken_for_a_wrapped_one():
    existing, fresh = Wrapped(torch.nn.Linear(3, 2)), Wrapped(torch.nn.Linear(3, 2))
    assert torch.equal(load_into(existing, fresh).module.weight, fresh.module.weight)


@pytest.mark.parametrize(("warmup", "rates"), [(0, [0.4, 0.4, 0.4, 0.4]), (2, [0.0, 0.2, 0.4, 0.4])])
def test_a_rate_rises_over_the_warm_up_and_stays(warmup, rates):
    optimizer = torch.optim.SGD(torch.nn.Linear(1, 1).parameters(), lr=0.4)
    schedule, seen = constant_after_warmup(optimizer, warmup), []
    for _ in rates:
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert seen == pytest.approx(rates)
