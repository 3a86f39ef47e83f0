"""An algorithm with a network that lacks what it calls: refused before a run where that is declared, and one line in any case."""

from __future__ import annotations

import pytest
import torch
from run_helpers import settings, train, write_yaml
from semilearn.algorithms.fixmatch import FixMatch

from usb_active import Network, Pretrained, Pretrainer, UsageError, cli, register_plugin
from usb_active.usb.bases import OwnAlgorithm
from usb_active.usb.networks import SmallCNN

LACKS = "has no '{}', which algorithm '{}' calls; choose another net or algorithm"
SHORT = {"num_train_iter": 2, "num_eval_iter": 2, "epoch": 1}


@register_plugin("network", "with_parts")
class WithParts(Network):
    """small_cnn with what the algorithms below call."""

    def build(self, num_classes, img_size, in_channels, pretrained_path=None):
        return _Rich(num_classes, in_channels, 4)


class _Rich(SmallCNN):
    def features_only_forward(self, x):
        return self(x, only_feat=True)

    def forward(self, x, only_fc=False, only_feat=False, scale=1.0):
        return super().forward(x, only_fc=only_fc, only_feat=only_feat)


@register_plugin("network", "broken_inside")
class BrokenInside(Network):
    """Its own code asks for a layer that it does not have."""

    def build(self, num_classes, img_size, in_channels, pretrained_path=None):
        return _Broken(num_classes, in_channels, 4)


class _Broken(SmallCNN):
    def forward(self, x, only_fc=False, only_feat=False):
        if self.training:
            return self.no_such_layer(x)
        return super().forward(x, only_fc=only_fc, only_feat=only_feat)


@register_plugin("network", "logits_only")
class LogitsOnly(Network):
    """Gives no features."""

    def build(self, num_classes, img_size, in_channels, pretrained_path=None):
        return _Poor(num_classes, in_channels, 4)


class _Poor(SmallCNN):
    def forward(self, x, only_fc=False, only_feat=False):
        return {"logits": super().forward(x)["logits"]}


@register_plugin("algorithm", "declares")
class Declares(OwnAlgorithm, FixMatch):
    """Says what it calls."""

    needs_network = ("num_features", "features_only_forward", "scale")

    def train_step(self, x_lb, y_lb, x_ulb_w, x_ulb_s):
        self.model.features_only_forward(x_lb)
        self.model(x_lb, scale=2.0)
        return super().train_step(x_lb, y_lb, x_ulb_w, x_ulb_s)


@register_plugin("pretrainer", "declares_too")
class DeclaresToo(Pretrainer):
    """Says what it calls."""

    needs_network = ("num_features", "features_only_forward", "scale")

    def run(self, build_net, dataset, scratch, rng, device):
        return Pretrained(build_net().state_dict())


@register_plugin("algorithm", "calls_a_method")
class CallsAMethod(FixMatch):
    """Says nothing."""

    def train_step(self, x_lb, y_lb, x_ulb_w, x_ulb_s):
        self.model.features_only_forward(x_lb)
        return super().train_step(x_lb, y_lb, x_ulb_w, x_ulb_s)


@register_plugin("algorithm", "calls_with_more")
class CallsWithMore(FixMatch):
    """Says nothing, and gives forward an argument."""

    def train_step(self, x_lb, y_lb, x_ulb_w, x_ulb_s):
        self.model(x_lb, scale=2.0)
        return super().train_step(x_lb, y_lb, x_ulb_w, x_ulb_s)


@register_plugin("algorithm", "asks_at_once")
class AsksAtOnce(FixMatch):
    """Says nothing, and looks at the network in its constructor."""

    def __init__(self, args, net_builder, tb_log=None, logger=None, **keywords):
        super().__init__(args, net_builder, tb_log, logger, **keywords)
        self.encode = self.model.features_only_forward


@register_plugin("algorithm", "asks_nothing")
class AsksNothing(FixMatch):
    """FixMatch under another name."""


@register_plugin("algorithm", "errs_itself")
class ErrsItself(FixMatch):
    """Its fault has nothing to do with the network."""

    def train_step(self, x_lb, y_lb, x_ulb_w, x_ulb_s):
        owner = self if self.args.seed == 4 else torch.nn.Linear(2, 2)
        return owner.no_such_thing(x_lb)


def run_of(tmp_path, algorithm, net="small_cnn", **usb):
    return settings(tmp_path, active={"cycles": 0}, **{**SHORT, "algorithm": algorithm, "net": net, **usb})


@pytest.mark.parametrize("command", ["check", "run"])
@pytest.mark.parametrize("algorithm", ["declares", "asks_at_once"])
def test_refused_before_anything_runs(tmp_path, capsys, command, algorithm):
    yaml = write_yaml(tmp_path / "run.yaml", run_of(tmp_path, algorithm))
    assert cli.main([command, str(yaml)]) == 2
    said = capsys.readouterr().err
    missing = "features_only_forward', 'scale" if algorithm == "declares" else "features_only_forward"
    assert said == f"usb-active: error: {yaml}: net: 'small_cnn' {LACKS.format(missing, algorithm)}\n"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("command", ["check", "run"])
def test_what_a_pretrainer_needs_is_refused_likewise(tmp_path, capsys, command):
    data = run_of(tmp_path, "fixmatch")
    data["active"]["pretrain"] = "declares_too"
    yaml = write_yaml(tmp_path / "run.yaml", data)
    assert cli.main([command, str(yaml)]) == 2
    lacks = "has no 'features_only_forward', 'scale', which pretrainer 'declares_too' calls; choose another net or pretrain"
    assert capsys.readouterr().err == f"usb-active: error: {yaml}: net: 'small_cnn' {lacks}\n"
    assert not (tmp_path / "run").exists()
    if command == "run":
        train({**data, "net": "with_parts"})


@pytest.mark.parametrize("algorithm", ["declares", "asks_at_once", "calls_a_method", "calls_with_more"])
def test_a_network_that_has_it_trains(tmp_path, algorithm):
    train(run_of(tmp_path, algorithm, "with_parts"))


@pytest.mark.parametrize(
    ("algorithm", "missing"),
    [("calls_a_method", r"'features_only_forward'"), ("calls_with_more", r"an argument 'scale' of forward")],
)
def test_what_is_not_declared_is_one_line_at_the_first_step(tmp_path, algorithm, missing):
    message = rf"^test\.yaml: net: 'small_cnn' has no {missing}, which algorithm '{algorithm}' calls"
    with pytest.raises(UsageError, match=message) as caught:
        train(run_of(tmp_path, algorithm))
    assert "\n" not in str(caught.value) and isinstance(caught.value.__cause__, (AttributeError, TypeError))


def test_a_network_without_features(tmp_path, capsys):
    yaml = write_yaml(tmp_path / "run.yaml", run_of(tmp_path, "fixmatch", "logits_only"))
    assert cli.main(["check", str(yaml)]) == 2
    assert "net: 'logits_only' has no 'feat' in what it gives, which algorithm 'fixmatch' calls" in capsys.readouterr().err
    # Whose fields are not known: at its first step.
    with pytest.raises(UsageError, match="^test.yaml: net: 'logits_only' has no 'feat' in what it gives, .* 'asks_nothing' calls"):
        train(run_of(tmp_path, "asks_nothing", "logits_only"))
    # One that works without.
    train(settings(tmp_path, "without", active={"cycles": 0}, algorithm="supervised", net="logits_only", **SHORT))


@pytest.mark.parametrize(
    ("algorithm", "net", "seed", "missing"),
    [
        ("fixmatch", "broken_inside", 3, "no_such_layer"),
        ("errs_itself", "small_cnn", 3, "no_such_thing"),
        ("errs_itself", "small_cnn", 4, "no_such_thing"),
    ],
)
def test_faults_of_others_stay_what_they_are(tmp_path, algorithm, net, seed, missing):
    with pytest.raises(AttributeError, match=missing):
        train(run_of(tmp_path, algorithm, net, seed=seed))
