"""Training on propagated labels: what a mini-batch is made of, what an epoch is, the schedule, resume, and USB's own loop."""

from __future__ import annotations

from collections import Counter
from itertools import permutations
from math import ceil, cos, pi
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from killer import KILLED, assert_same_end, directory, finish, run
from run_helpers import config_of, settings, train
from usb_active.plugins.jlp.functional import certainty, diffuse, propagate, weighted_order

from usb_active.errors import UsageError
from usb_active.numerics.neighbors import affinity

LP = {
    "algorithm": "lp", "epoch": 4, "batch_size": 16, "lp_labeled": 4, "lp_supervised_epochs": 1, "lp_epoch": 0.05, "lp_k": 10,
    "lp_weighting": "label", "ema_m": 0.0, "include_lb_to_ulb": False, "lr": 0.05, "num_eval_iter": 5,
}  # fmt: skip
BLOCK = {"initial": {"name": "balanced", "size": 20}, "acquisition": {"name": "random"}}
POOL = 1343
CONTRACT_PLUGINS = [str(Path(__file__).resolve().parents[2] / "contract_plugins.py")]


def lp(tmp_path, name="run", /, active=None, **usb):
    keys = {**LP, **usb}
    data = settings(tmp_path, name, active={**BLOCK, **(active or {})}, **keys)
    del data["num_train_iter"]
    return data


def watched(data):
    """Run, noting what every step was made of."""
    from usb_active.usb.launcher import make_algorithm

    torch.set_num_threads(1)
    algorithm = make_algorithm(config_of(data))
    seen, step = [], algorithm.train_step

    def train_step(**inputs):
        loaded = algorithm._loaded
        pseudo = algorithm.pseudo_labels
        seen.append(SimpleNamespace(
            cycle=algorithm.cycle, epoch=algorithm.epoch, idx_lb=loaded["idx_lb"].tolist(), idx_ulb=loaded["idx_ulb"].tolist(),
            pseudo=None if pseudo is None else pseudo.clone(), lr=algorithm.optimizer.param_groups[0]["lr"],
        ))  # fmt: skip
        return step(**inputs)

    algorithm.train_step = train_step
    algorithm.train()
    return algorithm, seen


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return watched(lp(tmp_path_factory.mktemp("lp"), active={"cycles": 1}))


# ------------------------------------------------------------------------------------------ mini-batches and epochs
def test_an_epoch_ends_when_the_share_of_draws_is_reached(trained):
    _, seen = trained
    for cycle, labeled in ((0, 20), (1, 30)):
        # 5 % of the unlabelled samples, 12 pseudo-labelled ones in a batch of 16.
        per_epoch = ceil(0.05 * (POOL - labeled) / 12)
        assert Counter(step.epoch for step in seen if step.cycle == cycle) == {epoch: per_epoch for epoch in range(4)}


def test_mini_batches_are_labelled_and_pseudo_labelled_in_the_share_asked_for(trained):
    algorithm, seen = trained
    labels = {int(i): int(c) for i, c in zip(algorithm.session.pool.labeled, algorithm.session.dataset.targets, strict=False)}
    for step in seen:
        assert len(step.idx_lb) == 4 and set(step.idx_lb) <= set(labels)
        supervised = step.epoch < 1
        assert (step.pseudo is None) == supervised
        assert len(step.idx_ulb) == (1 if supervised else 12)
        if not supervised and step.cycle == 1:
            assert not set(step.idx_ulb) & set(labels)


def test_labelled_samples_come_equally_often(trained):
    _, seen = trained
    counts = Counter(i for step in seen if step.cycle == 0 for i in step.idx_lb)
    assert len(counts) == 20 and max(counts.values()) - min(counts.values()) <= 1


def test_pseudo_labels_change_with_the_epochs_and_stay_within_one(trained):
    _, seen = trained
    of_epoch = {}
    for step in seen:
        if step.cycle == 1 and step.pseudo is not None:
            first = of_epoch.setdefault(step.epoch, step.pseudo)
            assert torch.equal(step.pseudo, first)
    assert len(of_epoch) == 3 and not torch.equal(of_epoch[1], of_epoch[3])


def test_the_learning_rate_is_half_a_cosine_that_ends_beyond_the_training(trained):
    _, seen = trained
    rates = [step.lr for step in seen if step.cycle == 0]
    total = len(rates)
    assert np.allclose(rates, [0.05 * (1 + cos(pi * step / (1.05 * total))) / 2 for step in range(total)])


def test_accuracy_of_the_propagated_labels_is_in_the_metrics(trained):
    algorithm, seen = trained
    line = algorithm.session.run_dir.metrics()[1]["log"]
    unlabeled = algorithm.session.dataset.targets[algorithm.dataset_dict["train_ulb"].idx]
    pseudo = seen[-1].pseudo.numpy()
    assert line["lp_reached"] == pytest.approx((pseudo >= 0).mean()) and line["lp_classes"] == len(set(pseudo.tolist()) - {-1})
    assert line["lp_accuracy"] == pytest.approx((pseudo == unlabeled)[pseudo >= 0].mean())


# ------------------------------------------------------------------------------------------ what it propagates
def test_labels_and_weights_are_those_of_the_formula(trained):
    """The last epoch's pseudo-labels from the features as they were: here of the trained network, propagated once more."""
    algorithm, _ = trained
    algorithm.it = algorithm.epoch * algorithm.num_iter_per_epoch
    algorithm.begin_epoch()
    dataset, idx = algorithm.session.dataset, algorithm.split
    algorithm.model.eval()

    def features_of(samples):
        # In the batches that the training takes them in: another batch rounds otherwise, and neighbours at the border change.
        parts = [samples[at : at + 256] for at in range(0, len(samples), 256)]
        with torch.no_grad():
            images = [torch.stack([dataset.views.eval(dataset.load(int(i))) for i in part]) for part in parts]
            return np.concatenate([algorithm.model(x)["feat"].numpy() for x in images])

    features = np.concatenate([features_of(idx.labeled), features_of(idx.unlabeled)])
    probs = propagate(affinity(features, 10, 3.0, "mutual"), np.arange(len(idx.labeled)), idx.labels, 10, 0.99)[len(idx.labeled) :]
    expected = np.where(probs.any(axis=1), probs.argmax(axis=1), -1)
    assert (algorithm.pseudo_labels.numpy() == expected).mean() > 0.999
    assert np.allclose(np.diff(algorithm.cumulated_weights.numpy(), prepend=0), certainty(probs), atol=1e-3)


def test_every_key_reaches_what_it_is_of(tmp_path, monkeypatch):
    from usb_active.plugins.jlp import algorithm as module

    given = {"affinity": [], "diffuse": [], "label_matrix": []}
    for name, calls in given.items():
        plain = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *values, plain=plain, calls=calls: (calls.append(values), plain(*values))[1])
    keys = {"lp_k": 7, "lp_gamma": 1.5, "lp_graph": "sum", "lp_alpha": 0.9, "lp_weighting": "class"}
    algorithm = train(lp(tmp_path, active={"cycles": 0}, momentum=0.8, weight_decay=0.01, **keys))
    assert len(given["affinity"]) == 3
    assert {values[1:] for values in given["affinity"]} == {(7, 1.5, "sum")}
    assert {values[4] for values in given["label_matrix"]} == {"class"}
    first, *later = given["diffuse"]
    assert {values[2] for values in given["diffuse"]} == {0.9} and first[4] is None
    # From the last epoch's solution, which a checkpoint holds in single precision.
    assert all(values[4] is not None and values[4].any() for values in later)
    assert np.array_equal(algorithm.solution.numpy(), np.float32(diffuse(*given["diffuse"][-1])))
    groups = algorithm.optimizer.param_groups
    assert {group["momentum"] for group in groups} == {0.8} and all(group["nesterov"] for group in groups)
    assert {group["weight_decay"] for group in groups} == {0.01, 0.0}


def test_cosines_are_a_mixture_of_both():
    from usb_active.plugins.jlp.algorithm import beside_inputs

    rng = np.random.default_rng(0)
    features, inputs = rng.normal(size=(6, 4)) * rng.uniform(1, 9, size=(6, 1)), rng.normal(size=(6, 7))

    def cosines(rows):
        return rows @ rows.T / np.outer(*[np.linalg.norm(rows, axis=1)] * 2)

    for share in (0.0, 0.3, 1.0):
        mixed = beside_inputs(features, inputs, share)
        assert mixed.shape == (6, 11) and mixed.dtype == np.float32
        assert np.allclose(cosines(mixed), share * cosines(inputs) + (1 - share) * cosines(features), atol=1e-6)


@pytest.mark.parametrize("share", [0.25, 1.0])
def test_the_graph_is_that_of_the_images_as_far_as_asked(tmp_path, monkeypatch, share):
    from usb_active.plugins.jlp import algorithm as module

    graphs, passes, plain = [], [], module.LabelPropagation._features
    monkeypatch.setattr(module, "affinity", lambda rows, *keys: (graphs.append(rows), affinity(rows, *keys))[1])
    monkeypatch.setattr(module.LabelPropagation, "_features", lambda self, stream: (passes.append(plain(self, stream)), passes[-1])[1])
    algorithm = train(lp(tmp_path, active={"cycles": 0}, lp_inputs=share))
    dataset, idx = algorithm.session.dataset, np.concatenate([algorithm.split.labeled, algorithm.dataset_dict["train_ulb"].idx])
    images = np.stack([dataset.views.eval(dataset.load(int(i))).flatten().numpy() for i in idx])
    assert len(graphs) == 3
    if share == 1:
        assert not passes and all(np.array_equal(graph, images) for graph in graphs)
        return
    features = [np.concatenate(passes[at : at + 2]) for at in range(0, 6, 2)]
    assert all(np.array_equal(graph, module.beside_inputs(of, images, share)) for graph, of in zip(graphs, features, strict=True))
    assert not np.array_equal(graphs[0], graphs[1])


def test_images_of_which_there_is_no_direction_are_named(tmp_path, monkeypatch):
    from usb_active.builtin.array_datasets import Digits

    # Their mean is zero where they are normalised.
    monkeypatch.setattr(Digits, "load", lambda self, index: self._images[index] if index != 8 else np.zeros((8, 8), np.uint8))
    data = lp(tmp_path, active={"cycles": 0}, lp_inputs=0.5)
    plain = Digits.prepare
    monkeypatch.setattr(Digits, "prepare", lambda self: (plain(self), setattr(self, "mean", (0.0,)))[0])
    with pytest.raises(UsageError, match="lp: epoch 1: inputs: all zero, so without a direction, for sample 8; lp_inputs: 0 looks at"):
        train(data)


def test_an_epoch_in_which_nothing_is_certain_is_supervised(tmp_path, monkeypatch, caplog):
    from usb_active.plugins.jlp import algorithm as module

    monkeypatch.setattr(module, "certainty", lambda probs: np.zeros(len(probs)))
    _, seen = watched(lp(tmp_path, active={"cycles": 0}, epoch=2))
    assert all(step.pseudo is None and len(step.idx_ulb) == 1 for step in seen)
    assert "no unlabelled sample has a certain label in epoch 1" in caplog.text


def test_labelled_samples_of_the_unlabelled_stream_are_never_drawn(tmp_path):
    algorithm, seen = watched(lp(tmp_path, active={"cycles": 0}, include_lb_to_ulb=True, lp_epoch=0.5))
    assert set(algorithm.split.labeled.tolist()) <= set(algorithm.dataset_dict["train_ulb"].idx.tolist())
    assert not {i for step in seen if step.epoch > 0 for i in step.idx_ulb} & set(algorithm.split.labeled.tolist())


@pytest.mark.parametrize(("value", "message"), [(0.0, "all zero, so without a direction,"), (float("nan"), "not finite")])
def test_samples_without_usable_features_are_named(tmp_path, monkeypatch, value, message):
    from usb_active.plugins.jlp.algorithm import LabelPropagation

    plain = LabelPropagation._features

    def broken(self, stream):
        features = plain(self, stream)
        features[np.isin(stream.idx, [8, 700])] = value
        return features

    monkeypatch.setattr(LabelPropagation, "_features", broken)
    with pytest.raises(UsageError, match=f"lp: epoch 1: features: {message} for samples 8, 700"):
        train(lp(tmp_path, active={"cycles": 0}))


@pytest.mark.parametrize("rule", ["coreset", "entropy", "ceal"])
def test_other_rules_choose_for_it(tmp_path, rule):
    first, second = train(lp(tmp_path, active={"acquisition": rule, "cycles": 1})).session.run_dir.metrics()
    assert second["acquisition"] == rule and (first["num_labels"], second["num_labels"]) == (20, 30)


def test_draws_follow_the_weights_with_replacement(trained):
    algorithm, _ = trained
    weights = torch.tensor([0.0, 3.0, 0.0, 1.0, 0.0])
    kept, algorithm.cumulated_weights = algorithm.cumulated_weights, torch.cumsum(weights, 0)
    draws = np.concatenate([algorithm.pseudo_labeled_batch(number) for number in range(500)])
    again = algorithm.pseudo_labeled_batch(3)
    assert np.array_equal(again, algorithm.pseudo_labeled_batch(3))
    algorithm.cumulated_weights = kept
    counts = Counter(draws.tolist())
    # 6,000 draws: three quarters have a standard deviation of 0.56 %.
    assert set(counts) == {1, 3} and abs(counts[1] / len(draws) - 0.75) < 0.03


def test_the_loss_is_the_plain_mean_over_labels_and_pseudo_labels(trained):
    algorithm, _ = trained
    labeled, unlabeled = (algorithm.dataset_dict[name] for name in ("train_lb", "train_ulb"))
    rows = torch.tensor([5, 5, 9])
    x_lb, x_ulb = torch.stack([labeled[i]["x_lb"] for i in (0, 1)]), torch.stack([unlabeled[int(i)]["x_ulb_w"] for i in rows])
    targets = torch.tensor([3, 4])
    algorithm.model.eval()
    out, _ = algorithm.base_class.train_step(algorithm, x_lb, targets, rows, x_ulb)
    with torch.no_grad():
        probs = torch.softmax(algorithm.model(torch.cat([x_lb, x_ulb]))["logits"], dim=1)
    classes = [3, 4, *algorithm.pseudo_labels[rows].tolist()]
    assert out["loss"].item() == pytest.approx(-np.mean([float(probs[i, c].log()) for i, c in enumerate(classes)]), rel=1e-4)
    assert out["feat"]["x_lb"].shape[0] == 2 and out["feat"]["x_ulb_w"].shape[0] == 3


def test_the_loss_of_a_pseudo_label_may_be_weighed_by_its_certainty(trained, monkeypatch):
    """w / max w, as in the authors' code; labels weigh one, and the sum is divided by the size of the batch."""
    algorithm, _ = trained
    labeled, unlabeled = (algorithm.dataset_dict[name] for name in ("train_lb", "train_ulb"))
    rows = torch.tensor([5, 9])
    x_lb, x_ulb = torch.stack([labeled[0]["x_lb"]]), torch.stack([unlabeled[int(i)]["x_ulb_w"] for i in rows])
    weights = torch.zeros(len(unlabeled), dtype=torch.float64)
    weights[[5, 9, 20]] = torch.tensor([0.1, 0.4, 0.8], dtype=torch.float64)
    monkeypatch.setattr(algorithm, "cumulated_weights", torch.cumsum(weights, 0))
    monkeypatch.setattr(algorithm.args, "lp_weighted_loss", True)
    algorithm.model.eval()
    out, _ = algorithm.base_class.train_step(algorithm, x_lb, torch.tensor([3]), rows, x_ulb)
    with torch.no_grad():
        logs = torch.log_softmax(algorithm.model(torch.cat([x_lb, x_ulb]))["logits"], dim=1)
    classes = [3, *algorithm.pseudo_labels[rows].tolist()]
    expected = -sum(w * float(logs[i, c]) for i, (w, c) in enumerate(zip([1, 0.1 / 0.8, 0.4 / 0.8], classes, strict=True))) / 3
    assert out["loss"].item() == pytest.approx(expected, rel=1e-4)


def test_the_order_without_replacement_has_its_law():
    """Weights 1, 2 and 5: the first is i with probability w_i / 8, and then j with w_j / (8 - w_i)."""
    weights, drawn = np.array([1.0, 0.0, 2.0, 5.0]), Counter()
    rng, total = np.random.default_rng(0), 20_000
    for _ in range(total):
        drawn[tuple(weighted_order(weights, rng).tolist())] += 1
    assert set(drawn) == set(permutations((0, 2, 3)))
    for (first, second, _), count in drawn.items():
        probability = weights[first] / 8 * weights[second] / (8 - weights[first])
        assert abs(count / total - probability) < 4 * np.sqrt(probability * (1 - probability) / total)


def test_draws_without_replacement_are_distinct_within_an_epoch_until_all_are_drawn(trained, monkeypatch):
    algorithm, _ = trained
    weights = torch.zeros(POOL, dtype=torch.float64)
    weights[: 12 * 3 - 6] = torch.linspace(1, 4, 30, dtype=torch.float64)
    monkeypatch.setattr(algorithm, "cumulated_weights", torch.cumsum(weights, 0))
    monkeypatch.setattr(algorithm, "_order", None)
    monkeypatch.setattr(algorithm.args, "lp_replacement", False)
    first = algorithm.epoch * algorithm.num_iter_per_epoch
    batches = [algorithm.pseudo_labeled_batch(first + number) for number in range(5)]
    assert {len(batch) for batch in batches} == {12}
    # Two rounds of the 30 that have a weight.
    in_order = np.concatenate(batches)
    assert sorted(in_order[:30]) == sorted(in_order[30:]) == list(range(30)) and in_order[:30].tolist() != in_order[30:].tolist()
    # Any of them by itself, as a resumed run asks.
    monkeypatch.setattr(algorithm, "_order", None)
    assert np.array_equal(algorithm.pseudo_labeled_batch(first + 2), batches[2])
    monkeypatch.setattr(algorithm, "epoch", algorithm.epoch + 1)
    assert not np.array_equal(algorithm.pseudo_labeled_batch(first + algorithm.num_iter_per_epoch), batches[0])


def test_a_class_without_a_label_yet_is_no_error(tmp_path):
    # Three random labels of ten classes.
    algorithm, seen = watched(lp(tmp_path, active={"initial": {"name": "random", "size": 3}, "cycles": 0}))
    # -1 where none of the three labels arrives.
    assert set(seen[-1].pseudo.unique().tolist()) <= {-1, *algorithm.split.labels.tolist()}
    unreached = {int(algorithm.dataset_dict["train_ulb"].idx[row]) for row in (seen[-1].pseudo < 0).nonzero()[:, 0]}
    assert not unreached & set(seen[-1].idx_ulb)


# ------------------------------------------------------------------------------------------ the supervised baseline
def test_without_semi_an_epoch_goes_once_through_the_labelled(tmp_path):
    algorithm, seen = watched(lp(tmp_path, active={"cycles": 1}, lp_semi=False, batch_size=8))
    for cycle, labeled in ((0, 20), (1, 30)):
        steps = [step for step in seen if step.cycle == cycle]
        assert len(steps) == 4 * ceil(labeled / 8) and all(step.pseudo is None for step in steps)
        first = Counter(i for step in steps[: ceil(labeled / 8)] for i in step.idx_lb)
        assert len(first) == labeled and max(first.values()) <= 2


def test_an_incomplete_batch_may_be_left_out(tmp_path):
    """100 labels and batches of 32 are 96 draws in the authors' code; here 30 in batches of 8. An epoch has a batch at least."""
    _, seen = watched(lp(tmp_path, active={"cycles": 1}, lp_semi=False, batch_size=8, lp_drop_last=True))
    assert Counter(step.cycle for step in seen) == {0: 4 * 2, 1: 4 * 3}
    for cycle in (0, 1):
        epochs = [[i for step in seen if (step.cycle, step.epoch) == (cycle, epoch) for i in step.idx_lb] for epoch in range(4)]
        # None is drawn twice in an epoch, and other ones are left out in the next.
        assert all(len(set(drawn)) == len(drawn) == (16, 24)[cycle] for drawn in epochs)
        assert len({tuple(sorted(drawn)) for drawn in epochs}) > 1
    _, seen = watched(lp(tmp_path, "few", active={"cycles": 0}, lp_semi=False, batch_size=64, lp_drop_last=True))
    assert len(seen) == 4 and len(seen[0].idx_lb) == 20


# ------------------------------------------------------------------------------------------ resume, and USB's own loop
@pytest.mark.slow
@pytest.mark.parametrize("keys", [{}, {"lp_replacement": False, "lp_weighted_loss": True, "lp_graph": "sum"}], ids=["printed", "authors"])
def test_killed_in_the_middle_of_an_epoch(tmp_path, keys):
    from killer import PLUGIN

    active = {"acquisition": {"name": "jlp", "k": 10}, "cycles": 2}
    data = lp(tmp_path, active=active, plugins=[str(PLUGIN)], lp_supervised_epochs=0, **keys)
    uninterrupted = finish({**data, "save_name": "uninterrupted"})
    assert run(data, "train").code == KILLED
    # What the run resumes from lies within an epoch, and holds what that epoch began with.
    path = directory(data) / "cycle_001" / "latest_model.pth"
    kept = torch.load(path, weights_only=True)["active"]["algorithm"]["tensors"]
    assert {"pseudo_labels", "cumulated_weights", "solution"} <= set(kept) and kept["solution"].dtype == torch.float32
    assert_same_end(finish(data), uninterrupted)


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_in_usbs_own_loop(tmp_path, share):
    """Without cycles: USB's data set class, its `train()`, and labels of the samples that are in the unlabelled set too."""
    from semilearn.datasets.cv_datasets.datasetbase import BasicDataset
    from torchvision import transforms
    from usb_active.plugins.jlp.algorithm import LabelPropagation

    from usb_active.builtin.array_datasets import Digits
    from usb_active.usb.arguments import make_args
    from usb_active.usb.device import DeviceMixin, remove_hook
    from usb_active.usb.networks import small_cnn

    digits = Digits()
    images = np.stack([digits.load(i) for i in range(200)])
    targets = np.asarray(digits.targets[:200])
    few = np.concatenate([np.flatnonzero(targets == c)[:2] for c in range(10)])
    view = transforms.ToTensor()

    class Plain(DeviceMixin, LabelPropagation):
        def set_dataset(self):
            return {
                "train_lb": BasicDataset("lp", images[few], targets[few], 10, view, False, view),
                "train_ulb": BasicDataset("lp", images, targets, 10, view, True, view),
                "eval": BasicDataset("lp", images, targets, 10, view, False, None),
                "test": None,
            }

        def set_data_loader(self):
            # Replaced before the first epoch.
            return {}

    data = lp(tmp_path, lp_epoch=0.5, epoch=8, lp_inputs=share)
    args = make_args(config_of(data))
    args.num_classes, args.num_train_iter, args.num_eval_iter, args.lb_dest_len, args.ulb_dest_len = 10, 80, 80, 20, 200
    plain = Plain(args, lambda num_classes, **_: small_cnn(num_classes, 8, 1, 8))
    # USB's own evaluation runs on CUDA alone.
    remove_hook(plain, "EvaluationHook")
    plain.train()
    assert plain.it == 80 and plain.pseudo_labels.shape == (200,)
    assert plain.propagated["lp_accuracy"] > 0.5


# ------------------------------------------------------------------------------------------ bad input
@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"lp_labeled": 16}, "lp_labeled: 16 of a batch_size of 16"),
        ({"lp_supervised_epochs": 4}, "lp_supervised_epochs: 4, but there are 4 epochs"),
        ({"lp_alpha": 1.0}, r"lp_alpha: must be in \[0, 1\)"),
        ({"lp_graph": "both"}, "lp_graph: must be one of mutual, union, sum"),
        ({"lp_k": 0}, "lp_k: must be in"),
        ({"lp_inputs": 1.01}, r"lp_inputs: must be in \[0, 1\]"),
        ({"lp_drop_last": True}, "lp_drop_last: true, which is of an epoch through the labelled samples: lp_semi: false"),
        ({"lp_semi": False, "lp_replacement": False}, "lp_replacement: false are of pseudo-labels, and lp_semi is false"),
        ({"lp_weighting": "mean"}, "lp_weighting: must be one of label, class"),
    ],
)
def test_bad_keys(tmp_path, keys, message):
    with pytest.raises(UsageError, match=message):
        train(lp(tmp_path, active={"cycles": 0}, **keys))


def test_observers_see_no_unlabelled_sample_where_none_is_trained_on(tmp_path):
    from usb_active.usb.launcher import make_algorithm

    algorithm = make_algorithm(config_of(lp(tmp_path, active={"acquisition": {"name": "watcher"}, "cycles": 0}, plugins=CONTRACT_PLUGINS)))
    algorithm.train()
    shapes = [(len(batch.idx_ulb), len(batch.x_ulb_w)) for batch in algorithm.session.plugins["acquisition"].batches]
    assert len(shapes) == algorithm.num_train_iter
    per_epoch = algorithm.num_iter_per_epoch
    assert set(shapes[:per_epoch]) == {(0, 0)} and set(shapes[per_epoch:]) == {(12, 12)}


def test_a_second_kind_of_pseudo_labels_is_said(tmp_path, caplog):
    said = "pseudo-labels of 'ceal' join the labelled samples"
    train(lp(tmp_path, "semi", active={"acquisition": "ceal", "cycles": 1}))
    assert caplog.text.count(said) == 1
    caplog.clear()
    train(lp(tmp_path, "supervised", active={"acquisition": "ceal", "cycles": 0}, lp_semi=False))
    assert said not in caplog.text


def test_observers_that_need_a_strong_view_are_refused(tmp_path):
    with pytest.raises(UsageError, match="needs logits_strong, probs_weak .* 'lp' cannot give it"):
        train(lp(tmp_path, active={"acquisition": "assl"}))


@pytest.mark.parametrize(("k", "said"), [(33, False), (34, True), (50, True)])
def test_more_neighbours_than_a_quarter_of_a_class_are_said(tmp_path, caplog, k, said):
    # 20 labels beside 1,323 unlabelled samples: 134 of each class.
    train(lp(tmp_path, active={"cycles": 0}, lp_k=k, epoch=2, lp_epoch=0.02))
    lines = [record.getMessage() for record in caplog.records if "neighbours of a sample" in record.getMessage()]
    assert len(lines) == said and all("lp_k: " in line and "a class has about 134: " in line and "33 at most" in line for line in lines)
