"""Linear evaluation: only the classifier moves, the features stay, and it is an algorithm like any other: EMA, cycles, resume."""

from __future__ import annotations

import killer
import numpy as np
import pytest
import torch
from run_helpers import config_of, settings, train
from usb_active.plugins.as3l.algorithm import LinearEvaluation

from usb_active.errors import UsageError
from usb_active.usb.launcher import make_algorithm

LINEAR = {"algorithm": "linear_evaluation", "uratio": 1, "lr": 0.5, "num_eval_iter": 6, "num_workers": 0}
PRETRAIN = {"name": "simsiam", "epochs": 1, "batch_size": 128, "projection_dim": 16, "prediction_dim": 4}
CLASSIFIER = {"classifier.weight", "classifier.bias"}


def linear(tmp_path, name="run", /, active=None, **usb):
    return settings(tmp_path, name, active={"cycles": 0, "pretrain": PRETRAIN, **(active or {})}, **{**LINEAR, **usb})


def features_of(net, algorithm, idx):
    images = torch.stack([algorithm.session.dataset.views.eval(algorithm.session.dataset.load(int(i))) for i in idx])
    net.eval()
    with torch.no_grad():
        return net(images)["feat"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return train(linear(tmp_path_factory.mktemp("linear"), active={"cycles": 1}, weight_decay=0.01))


def test_only_the_classifier_learns(trained):
    start, end = trained.session.weights.build().state_dict(), trained.model.state_dict()
    # Batch norm's statistics and counters too, and in spite of the weight decay.
    assert {name for name in start if not torch.equal(start[name], end[name])} == CLASSIFIER


def test_the_backbone_is_what_pretraining_left(trained):
    left = torch.load(trained.session.run_dir.path / "pretrain" / "pretrained.pth", weights_only=True)["backbone"]
    assert all(torch.equal(value, left[name]) for name, value in trained.model.state_dict().items() if name not in CLASSIFIER)


def test_the_averaged_model_differs_in_the_classifier_alone(trained):
    start, averaged, live = trained.session.weights.build().state_dict(), trained.ema_model.state_dict(), trained.model.state_dict()
    for name in start:
        if name in CLASSIFIER:
            assert not torch.equal(averaged[name], live[name]) and not torch.equal(averaged[name], start[name])
        else:
            torch.testing.assert_close(averaged[name], start[name], rtol=1e-5, atol=1e-7)


def test_a_step_is_that_of_logistic_regression_on_the_features(tmp_path):
    """One step from the start: W − lr · mean (softmax − onehot) xᵀ, on features in eval mode."""
    algorithm = make_algorithm(config_of(linear(tmp_path, num_train_iter=1, epoch=1, num_eval_iter=1, weight_decay=0.0)))
    seen, step = [], algorithm.train_step

    def train_step(**inputs):
        seen.append(inputs)
        return step(**inputs)

    algorithm.train_step = train_step
    algorithm.train()
    (inputs,) = seen
    start = algorithm.session.weights.build().eval()
    with torch.no_grad():
        out = start(inputs["x_lb"])
    error = torch.softmax(out["logits"], dim=1) - torch.nn.functional.one_hot(inputs["y_lb"], 10)
    # Nesterov's first step with momentum 0.9 is 1.9 times the gradient.
    expected = start.classifier.weight - 1.9 * 0.5 * error.T @ out["feat"] / len(error)
    torch.testing.assert_close(algorithm.model.classifier.weight, expected)


def test_a_batch_of_one_image_is_no_matter(trained):
    """Batch norm in eval mode: the features of an image do not depend on its neighbours, and the model's own mode stays."""
    rows = [trained.dataset_dict["train_lb"][row] for row in range(4)]
    x, y = torch.stack([row["x_lb"] for row in rows]), torch.tensor([row["y_lb"] for row in rows])
    trained.model.train()
    whole, _ = trained.base_class.train_step(trained, x, y)
    one, _ = trained.base_class.train_step(trained, x[:1], y[:1])
    torch.testing.assert_close(one["feat"]["x_lb"], whole["feat"]["x_lb"][:1])
    assert trained.model.training and not one["feat"]["x_lb"].requires_grad


def test_unlabelled_images_are_not_loaded(trained):
    assert set(trained.dataset_dict["train_ulb"][0]) == {"idx_ulb"}


def test_it_learns_what_the_features_can_tell(tmp_path):
    """400 labels: not far from scikit-learn's regression on the same features."""
    from sklearn.linear_model import LogisticRegression

    wide = {"net": {"name": "small_cnn", "width": 12}, "weight_decay": 0.0, "lr": 1.0}
    steps = {"num_train_iter": 300, "num_eval_iter": 300, "batch_size": 64}
    data = linear(tmp_path, active={"initial": {"name": "random", "size": 400}}, **wide, **steps)
    algorithm = train(data)
    dataset, labeled = algorithm.session.dataset, algorithm.split.labeled
    x = features_of(algorithm.model, algorithm, np.arange(len(dataset))).numpy()
    rest = np.setdiff1d(np.arange(len(dataset)), labeled)
    best = LogisticRegression(max_iter=2000).fit(x[labeled], dataset.targets[labeled]).score(x[rest], dataset.targets[rest])
    ours = (algorithm.model.classifier(torch.from_numpy(x)).argmax(dim=1).numpy() == dataset.targets)[rest].mean()
    assert ours > best - 0.15 and ours > 0.6


@pytest.mark.slow
def test_killed_in_the_middle_it_ends_with_the_same_bits(tmp_path):
    data = linear(tmp_path, active={"cycles": 2}, plugins=[str(killer.PLUGIN)])
    uninterrupted = killer.finish({**data, "save_name": "uninterrupted"})
    assert killer.run(data, "train").code == killer.KILLED
    killer.assert_same_end(killer.finish(data), uninterrupted)


def test_random_features_that_stay_random_are_a_warning(tmp_path, caplog):
    data = linear(tmp_path)
    del data["active"]["pretrain"]
    train(data)
    assert [record.message for record in caplog.records if "random weights" in record.message]


def test_a_prior_has_no_place_in_it(tmp_path):
    with pytest.raises(UsageError, match="algorithm 'linear_evaluation' has no MaskingHook"):
        train(linear(tmp_path, active={"prior": {"name": "as3l"}, "features": "pretrain"}))


def test_it_is_an_algorithm_of_usbs_kind():
    from semilearn.core import AlgorithmBase

    assert issubclass(LinearEvaluation, AlgorithmBase) and LinearEvaluation.get_argument is AlgorithmBase.get_argument


@pytest.mark.parametrize("net", [{"name": "wrn_28_2"}, {"name": "cnn13", "width": 4}], ids=lambda net: net["name"])
def test_other_networks_can_be_evaluated_too(tmp_path, net):
    """Their features and their classifier are told apart by USB's calling convention alone."""
    keys = {"dataset": {"name": "digits", "in_channels": 3}, "img_size": 12}
    data = linear(tmp_path, net=net, num_train_iter=2, epoch=1, num_eval_iter=2, **keys)
    del data["active"]["pretrain"]
    algorithm = train(data)
    start, end = algorithm.session.weights.build().state_dict(), algorithm.model.state_dict()
    changed = {key for key in start if not torch.equal(start[key], end[key])}
    # A weight norm's own scale is part of the classifier.
    assert changed and changed <= set(algorithm.session.weights._classifier_keys())
