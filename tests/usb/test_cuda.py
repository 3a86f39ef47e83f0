"""On one GPU: cycles, mixed precision, resume bit for bit, plugins on the device, and a change of device. `pytest -m cuda -n 0`"""

from __future__ import annotations

import killer
import pytest
import torch
from run_helpers import checkpoint, command, config_of, labels_of, settings, train, weights_equal, write_yaml

from usb_active import Acquisition, register_plugin
from usb_active.usb.launcher import make_algorithm

pytestmark = [pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


@register_plugin("acquisition", "device_head")
class DeviceHead(Acquisition):
    """Sums what a training shows, and has a head that learns: all of it is state, on the training's device."""

    batch_fields = frozenset({"idx_ulb", "probs_weak", "logits_lb", "feats"})

    def setup(self, info):
        self.devices = set()
        self.total = torch.zeros(info.num_samples, info.num_classes, device=info.device)
        adam = lambda parameters: torch.optim.Adam(parameters, lr=0.01)  # noqa: E731 — a one-line factory
        self.head = info.register_state("head", lambda: torch.nn.Linear(info.feature_dim, info.num_classes), optimizer=adam)
        self.fresh = self.head.weight.detach().clone()

    def observe(self, batch):
        self.devices |= {batch.probs_weak.device.type, batch.logits_lb.device.type, batch.x_lb.device.type}
        # Draws, on the device too.
        noisy = batch.probs_weak * torch.rand(1, device=batch.probs_weak.device)
        self.total.index_add_(0, batch.idx_ulb.to(self.total.device), noisy)

    def extra_loss(self, batch):
        return 0.3 * torch.nn.functional.cross_entropy(self.head(batch.feats["x_lb"].float()), batch.y_lb)

    def select(self, view, budget):
        scores = self.total.amax(dim=1).cpu().numpy()[view.candidates]
        return view.candidates[scores.argsort(kind="stable")[::-1][:budget]]

    def state_dict(self):
        return {"total": self.total} if hasattr(self, "total") else {}

    def load_state_dict(self, state):
        # A checkpoint is read to the CPU.
        if "total" in state:
            self.total = state["total"].to("cuda")


class Stopped(Exception):
    """Stands for a crash."""


def stop_at(algorithm, cycle, iteration):
    """Let the training's step fail there."""
    step = algorithm.train_step

    def train_step(**inputs):
        if (algorithm.cycle, algorithm.it) == (cycle, iteration):
            raise Stopped
        return step(**inputs)

    algorithm.train_step = train_step


def finite(path, cycle):
    saved = checkpoint(path, cycle)
    return all(torch.isfinite(value).all() for net in ("model", "ema_model") for value in saved[net].values())


@pytest.mark.parametrize("amp", [False, True])
def test_flexmatch_runs_its_cycles_on_the_gpu(tmp_path, amp):
    algorithm = train(settings(tmp_path, active={"cycles": 2}, amp=amp))
    networks = (algorithm.model, algorithm.ema_model)
    assert {parameter.device.type for network in networks for parameter in network.parameters()} == {"cuda"}
    assert algorithm.hooks_dict["MaskingHook"].selected_label.is_cuda
    assert algorithm.loss_scaler.is_enabled() == amp
    assert len(labels_of(tmp_path / "run")) == 1 + 20 + 2 * 10
    assert checkpoint(tmp_path / "run", 2)["active"]["device"] == "cuda" and finite(tmp_path / "run", 2)
    assert [line["num_labels"] for line in algorithm.session.run_dir.metrics()] == [20, 30, 40]


@pytest.mark.parametrize("amp", [False, True])
@pytest.mark.parametrize("acquisition", ["margin", "device_head"])
def test_stopped_in_mid_cycle_and_deterministic_it_ends_as_if_nothing_had_happened(tmp_path, torch_settings, amp, acquisition):
    active = {"cycles": 2, "acquisition": acquisition, "deterministic": True}
    train(settings(tmp_path, "whole", active=active, amp=amp))
    data = settings(tmp_path, "stopped", active=active, amp=amp)
    algorithm = make_algorithm(config_of(data))
    # After the cycle's first checkpoint, not at one.
    stop_at(algorithm, 1, 6)
    with pytest.raises(Stopped):
        algorithm.train()
    assert checkpoint(tmp_path / "stopped", 1)["it"] < 12
    train(data)
    assert labels_of(tmp_path / "stopped") == labels_of(tmp_path / "whole")
    assert weights_equal(checkpoint(tmp_path / "stopped", 2), checkpoint(tmp_path / "whole", 2))


@pytest.mark.parametrize("amp", [False, True])
def test_a_plugin_sees_the_steps_and_learns_on_the_gpu(tmp_path, amp):
    algorithm = train(settings(tmp_path, active={"acquisition": "device_head"}, amp=amp, num_train_iter=24))
    plugin = algorithm.session.plugins["acquisition"]
    assert plugin.devices == {"cuda"} and plugin.head.weight.is_cuda
    # Every step adds a batch of 16 rows, each of them a distribution times one factor.
    assert torch.isfinite(plugin.total).all() and plugin.total.sum() > 0
    assert torch.isfinite(plugin.head.weight).all() and not torch.equal(plugin.head.weight, plugin.fresh)
    assert finite(tmp_path / "run", 1)
    saved = checkpoint(tmp_path / "run", 1)["active"]
    assert torch.equal(saved["registered"]["acquisition"]["head"]["weight"], plugin.head.weight.detach().cpu())


def test_observing_changes_no_bit_on_the_gpu(tmp_path, torch_settings):
    class Watching(Acquisition):
        """Draws from all generators, and picks as `blind` does."""

        def observe(self, batch):
            torch.rand(3), torch.rand(3, device="cuda")

        def select(self, view, budget):
            return view.rng.permutation(view.candidates)[:budget]

    register_plugin("acquisition", "gpu_watching")(Watching)
    register_plugin("acquisition", "gpu_blind")(type("Blind", (Acquisition,), {"select": Watching.select, "__doc__": "Looks at nothing."}))
    for name in ("gpu_watching", "gpu_blind"):
        train(settings(tmp_path, name, active={"acquisition": name, "deterministic": True}))
    assert weights_equal(checkpoint(tmp_path / "gpu_watching", 1), checkpoint(tmp_path / "gpu_blind", 1))


def test_a_run_begun_on_the_cpu_resumes_on_the_gpu_and_says_so(tmp_path, caplog):
    data = settings(tmp_path, active={"cycles": 2}, plugins=[str(killer.PLUGIN)])
    yaml = write_yaml(tmp_path / "run.yaml", data)
    ended = command("run", yaml, env={**killer.environment("train"), "CUDA_VISIBLE_DEVICES": ""})
    assert ended.returncode == killer.KILLED, ended
    # The killer's points lie in cycle 1.
    assert checkpoint(tmp_path / "run", 1)["active"]["device"] == "cpu"
    algorithm = train(data)
    assert next(algorithm.model.parameters()).is_cuda
    (warning,) = [record.getMessage() for record in caplog.records if "resuming on" in record.getMessage()]
    assert "cuda" in warning and "cpu" in warning
    assert "resuming on" in (tmp_path / "run" / "log.txt").read_text(encoding="utf-8")
    assert len(algorithm.session.run_dir.metrics()) == 3 and finite(tmp_path / "run", 2)

