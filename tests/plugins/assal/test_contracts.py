"""ASSAL's algorithm and acquisition keep the contracts of their kinds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from usb_active.plugins.assal.functional import rank_average
from usb_active.plugins.assal.networks import Discriminator

from usb_active import PoolView, UsageError
from usb_active.numerics.arrays import entropy
from usb_active.pool.view import Registered
from usb_active.testing import AcquisitionContract, AlgorithmContract, AnalysisContract

KEYS = {"net": {"name": "assal_vae", "latent": 4, "width": 4}, "include_lb_to_ulb": False, "optim": "AdamW", "lr": 0.002}


@pytest.mark.slow
class TestAssal(AlgorithmContract):
    name = "assal"
    config = {**KEYS, "assal_sampler_width": 16}


@pytest.mark.slow
class TestAssalOfPseudoLabels(AlgorithmContract):
    name = "assal"
    config = {**KEYS, "assal_sampler_width": 16, "assal_target": "pseudo_label", "assal_threshold": 0.2}


@pytest.mark.slow
class TestAutoencoderAnalysis(AnalysisContract):
    name = "assal"
    config = {"images": 3, "samples": 4, "steps": 2}
    usb = {"algorithm": "assal", **KEYS, "uratio": 1, "assal_sampler_width": 16}


class TestAssalSampling(AcquisitionContract):
    name = "assal"
    initial = False

    def view(self, world, plugin, *, cycle=1, seed=0, role="acquisition"):
        """With a sampler that a training may have left."""
        torch.manual_seed(0)
        sampler = Discriminator(world.net.num_features, width=8)
        registered = {"algorithm": {"sampler": Registered(sampler)}} if not world.fresh else {}
        live = lambda: None if world.fresh else world.net  # noqa: E731 — asked later
        source = replace(world.source(seed), registered=lambda: registered, live_model=live)
        self.sampler = sampler
        return PoolView(source, cycle, role, frozenset(plugin.needs), None)

    def expected(self, world, net):
        with torch.no_grad():
            scores = self.sampler(net.eval()(torch.from_numpy(world.images)[:, None])["feat"]).tolist()
        return sorted(world.pool.candidates.tolist(), key=lambda i: scores[i])

    def test_the_lowest_come_first_by_the_live_weights(self, world):
        other = type(world)(world.folder / "other")
        with torch.no_grad():
            for parameter in other.net.parameters():
                parameter.mul_(-1.5)
        view = self.view(world, self.plugin())
        view._source.live_model = lambda: other.net
        picks = self.plugin().select(view, 9).tolist()
        assert picks == self.expected(world, other.net)[:9] and picks != self.expected(world, world.net)[:9]

    def test_a_sampler_that_is_sure_of_all_still_orders_them(self, world):
        """D itself would be 1 for all by rounding, and the picks drawn."""
        plugin = self.plugin()
        view = self.view(world, plugin)
        with torch.no_grad():
            self.sampler.layers[-1].bias.fill_(40)
        assert torch.sigmoid(torch.tensor(39.0)) == 1
        assert np.array_equal(plugin.select(view, 9), self.expected(world, world.net)[:9])

    def test_another_algorithm_is_refused(self):
        from usb_active.plugins.assal.algorithm import Assal

        from usb_active.usb.bases import AlgorithmBase

        plugin = self.plugin()
        with pytest.raises(UsageError, match="chooses by the sampler that algorithm 'assal' trains, and this one trains none"):
            plugin.check(60, 3, algorithm=AlgorithmBase)
        plugin.check(60, 3, algorithm=Assal)


class TestAssalSamplingWithEntropy(TestAssalSampling):
    name = "assal"
    config = {"score": "sampler_entropy", "entropy_weight": 0.3}

    def expected(self, world, net):
        """The classifier's entropy is that of the live weights too."""
        with torch.no_grad():
            seen = net.eval()(torch.from_numpy(world.images)[:, None])
            logits, probs = self.sampler(seen["feat"]).numpy(), seen["logits"].softmax(dim=1).numpy()
        candidates = world.pool.candidates
        scores = rank_average(logits[candidates], entropy(probs[candidates]), 0.3)
        return candidates[np.argsort(-scores)].tolist()

    def test_a_sampler_that_is_sure_of_all_still_orders_them(self, world):
        plugin = self.plugin()
        view = self.view(world, plugin)
        with torch.no_grad():
            self.sampler.layers[-1].bias.fill_(40)
        assert np.array_equal(np.sort(plugin.select(view, 9)), np.sort(self.expected(world, world.net)[:9]))

    def test_entropies_are_logged(self, world):
        plugin = self.plugin()
        view = self.view(world, plugin)
        plugin.select(view, 9)
        assert view._source.metrics["assal/entropy_of_picks"] > 0
