"""Which views an algorithm's step gets of unlabelled samples: those it declares, or USB's."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from run_helpers import checkpoint, config_of, settings, train, weights_equal

from usb_active.errors import UsageError
from usb_active.usb.seams import batch_fields
from usb_active.usb.unlabeled import USB_ROWS, check_views, declared_views, view_names

PLUGINS = [str(Path(__file__).resolve().parents[1] / "seam_plugins.py")]
SHORT = {"num_train_iter": 4, "num_eval_iter": 4, "epoch": 2, "plugins": PLUGINS}


def run(tmp_path, algorithm, name="run", **usb):
    return train(settings(tmp_path, name, active={"cycles": 0}, algorithm=algorithm, **{**SHORT, **usb}))


def test_a_step_gets_the_views_that_its_algorithm_declares(tmp_path):
    algorithm = run(tmp_path, "three_views")
    dataset = algorithm.session.dataset
    assert len(algorithm.seen) == 4
    shifted = 0
    for rows, plain, weak, mirrored in algorithm.seen:
        samples = [dataset.load(int(i)) for i in algorithm._loaders.dataset_idx["train_ulb"][rows]]
        assert torch.equal(plain, torch.stack([dataset.views.eval(sample) for sample in samples]))
        assert torch.equal(mirrored, torch.stack([torch.tensor(sample[:, ::-1].copy()).float()[None] for sample in samples]))
        assert weak.shape == plain.shape
        shifted += int((weak != plain).flatten(1).any(dim=1).sum())
    assert shifted > 32


def test_no_unlabelled_image_is_loaded_for_an_algorithm_that_wants_none(tmp_path, monkeypatch):
    from usb_active.builtin.array_datasets import Digits

    loaded = []
    plain = Digits.load
    monkeypatch.setattr(Digits, "load", lambda self, index: (loaded.append(index), plain(self, index))[1])
    algorithm = run(tmp_path, "no_views")
    # The test set is loaded by rows of its own.
    assert set(loaded) <= set(algorithm.session.pool.labeled.tolist()) | set(range(len(algorithm.session.dataset.test)))
    assert algorithm.it == 4


@pytest.mark.parametrize("name", ["mixmatch", "remixmatch"])
def test_an_algorithm_under_another_name_may_have_the_rows_of_usbs(tmp_path, name):
    usb, own = run(tmp_path, name, "usb"), run(tmp_path, f"my_{name}", "own")
    assert weights_equal(*(checkpoint(a.session.run_dir.path, 0) for a in (usb, own)))


@pytest.mark.parametrize(
    ("algorithm", "message"),
    [
        ("wants_more", "algorithm 'wants_more': train_step takes x_ulb_s, but its batches bring x_ulb_w; declare it in unlabeled_views"),
        ("unknown_view", "algorithm 'unknown_view': unlabeled_views: x_ulb_w: the data set has no view 'weka'; did you mean 'weak'?"),
    ],
)
def test_a_view_that_cannot_be_is_one_line_and_leaves_no_run(tmp_path, algorithm, message):
    from usb_active.usb.launcher import make_algorithm

    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        make_algorithm(config_of(settings(tmp_path, "run", active={"cycles": 0}, algorithm=algorithm, **SHORT)))
    assert not (tmp_path / "run" / "config.yaml").exists()


@pytest.mark.parametrize(
    ("views", "message"),
    [
        (["weak"], r"Made.unlabeled_views: \['weak'\]: must be a mapping such as"),
        ({"idx_ulb": "weak"}, "Made.unlabeled_views: 'idx_ulb': an argument of train_step that begins with x_ulb_"),
        ({"x_ulb_w": 3}, "Made.unlabeled_views: x_ulb_w: 3: must be a view of the data set or a function of a sample"),
    ],
)
def test_a_wrong_declaration_is_one_line(views, message):
    with pytest.raises(UsageError, match=f"^{message}") as caught:
        declared_views(type("Made", (), {"unlabeled_views": views}))
    assert "\n" not in str(caught.value)


def test_the_table_of_usbs_rows_is_usbs():
    from semilearn.datasets.cv_datasets.datasetbase import BasicDataset

    image = torch.zeros(1, 4, 4)
    for name in (*USB_ROWS, "fixmatch", "flexmatch", "anything"):
        rows = BasicDataset(name, [image], None, 2, lambda x: x, True, lambda x: x)
        brought = [key for key in rows[0] if key.startswith("x_ulb_")]
        assert sorted(brought) == sorted(view_names(name, object)), name


def test_every_algorithm_of_usb_gets_what_its_step_takes():
    from semilearn.core.utils import ALGORITHMS

    import usb_active

    usb_active.register_usb_algorithms()
    own = {name: ALGORITHMS[name] for name in ALGORITHMS.keys() if ALGORITHMS[name].__module__.startswith("semilearn.")}
    assert len(own) > 15
    for name, cls in own.items():
        check_views(name, cls)


def test_what_observers_see_follows_from_the_views():
    assert "x_ulb_w" not in batch_fields("made", type("Made", (), {"unlabeled_views": {"x_ulb_e": "eval"}}))
    assert "x_ulb_w" in batch_fields("made", type("Made", (), {}))
