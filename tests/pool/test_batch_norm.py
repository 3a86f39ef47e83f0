"""BatchNorm's statistics from images: by hand, whatever the batches, and nothing else of the network is touched."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from usb_active.pool.batch_norm import recompute, tracking_layers, trained_layers


def network() -> nn.Sequential:
    torch.manual_seed(0)
    last = nn.BatchNorm1d(3, track_running_stats=False)
    return nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 3), nn.Dropout(0.5), nn.BatchNorm1d(3, momentum=0.01), last)


def test_the_statistics_by_hand():
    net = nn.Sequential(nn.BatchNorm1d(1))
    # Batches of 3 and 2: means 2 and 10, unbiased variances 1 and 8; weighted 3 : 2.
    batches = [torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([[8.0], [12.0]])]
    recompute(net, ["0"], batches)
    assert net[0].running_mean.item() == pytest.approx((3 * 2 + 2 * 10) / 5)
    assert net[0].running_var.item() == pytest.approx((3 * 1 + 2 * 8) / 5)
    assert net[0].num_batches_tracked.item() == 2


def test_what_was_there_before_has_no_part_and_again_is_the_same():
    one, other = network(), network()
    other[0].running_mean.fill_(77.0)
    other[3].running_var.fill_(0.001)
    x = torch.randn(8, 2)
    for net in (one, other, other):
        recompute(net, trained_layers(net), [x[:4], x[4:]])
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())
    # The second layer sees what the first one gives in training mode.
    first = (x[:4] - x[:4].mean(0)) / torch.sqrt(x[:4].var(0, unbiased=False) + 1e-5)
    second = (x[4:] - x[4:].mean(0)) / torch.sqrt(x[4:].var(0, unbiased=False) + 1e-5)
    means = [one[1](part).mean(0) for part in (first, second)]
    assert torch.allclose(one[3].running_mean, (means[0] + means[1]) / 2, atol=1e-6)


def test_modes_momenta_weights_and_the_generator_stay():
    net = network()
    net[3].eval()
    names = trained_layers(net)
    assert names == ("0",) and list(tracking_layers(net)) == ["0", "3"]
    modes = [module.training for module in net.modules()]
    kept = {name: value.clone() for name, value in net.state_dict().items()}
    state = torch.get_rng_state()
    recompute(net, names, [torch.randn(5, 2, generator=torch.Generator().manual_seed(1))])
    # Dropout draws nothing, because it is in eval mode.
    assert torch.equal(state, torch.get_rng_state())
    assert [module.training for module in net.modules()] == modes
    assert (net[0].momentum, net[3].momentum) == (0.1, 0.01)
    changed = {name for name, value in net.state_dict().items() if not torch.equal(value, kept[name])}
    assert changed == {"0.running_mean", "0.running_var", "0.num_batches_tracked"}


def test_momenta_and_modes_stay_when_a_batch_cannot_be_read():
    net = network()

    def broken():
        yield torch.randn(4, 2)
        raise OSError("no such image")

    with pytest.raises(OSError, match="no such image"):
        recompute(net, trained_layers(net), broken())
    assert (net[0].momentum, net[3].momentum) == (0.1, 0.01) and all(module.training for module in net.modules())
