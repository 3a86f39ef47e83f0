"""`view.previous_features`: what the last cycle's model made of the pool, for a prior that is asked when that model is gone."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from data_makers import picture, write_image
from run_helpers import checkpoint, labels_of, settings, train, weights_equal

from usb_active.errors import UsageError

PLUGINS = [str(Path(__file__).parents[1] / "seam_plugins.py")]
SHORT = {"num_train_iter": 4, "num_eval_iter": 2, "epoch": 2, "plugins": PLUGINS, "algorithm": "fixmatch", "p_cutoff": 0.3}


def recalled(tmp_path, name="run", cycles=2, **active):
    return settings(tmp_path, name, active={"prior": "recaller", "acquisition": "random", "cycles": cycles, **active}, **SHORT)


def artifacts(path):
    return sorted(file.name for file in (path / "artifacts").glob("features_after_*"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished run of three trainings, nothing forgotten."""
    return train(recalled(tmp_path_factory.mktemp("whole"), keep="all")).session


def test_they_are_those_of_the_last_trainings_ema_model(whole):
    seen = {(when, cycle): features for when, cycle, features in whole.plugins["prior"].seen}
    assert seen["start", 0] is None and seen["end", 0] is None
    for cycle in (1, 2):
        net = whole.weights.build().eval()
        net.load_state_dict(checkpoint(whole.run_dir.path, cycle - 1)["ema_model"])
        x = torch.stack([whole.dataset.views.eval(whole.dataset.load(i)) for i in range(len(whole.dataset))])
        with torch.no_grad():
            expected = net(x)["feat"].numpy()
        for when in ("start", "end"):
            assert np.allclose(seen[when, cycle], expected, atol=1e-5)
    assert artifacts(whole.run_dir.path) == ["features_after_000.npy", "features_after_001.npy"]


def test_keep_last_has_what_the_last_training_began_with(tmp_path, whole):
    session = train(recalled(tmp_path)).session
    assert artifacts(session.run_dir.path) == ["features_after_001.npy"]
    assert weights_equal(checkpoint(session.run_dir.path, 2), checkpoint(whole.run_dir.path, 2))


KEPT = "artifacts/features_after_001.npy"


@pytest.mark.parametrize("gone", [[], [KEPT], [KEPT, "cycle_002/latest_model.pth"]])
def test_a_run_that_resumes_has_the_same_whether_they_are_on_disk_or_not(tmp_path, whole, gone):
    train(recalled(tmp_path, cycles=2))
    path = tmp_path / "run"
    for name in gone:
        (path / name).unlink()
    (path / "cycle_002" / "done.json").unlink()
    shutil.rmtree(path / "scratch", ignore_errors=True)
    again = train(recalled(tmp_path, cycles=2)).session
    assert labels_of(path) == labels_of(whole.run_dir.path)
    assert weights_equal(checkpoint(path, 2), checkpoint(whole.run_dir.path, 2))
    kept, expected = (np.load(run.run_dir.path / KEPT) for run in (again, whole))
    assert np.array_equal(kept, expected)


def test_the_pool_may_have_grown(tmp_path):
    folder = tmp_path / "images"
    number = iter(range(1000))
    for name in ("train/cat", "train/dog"):
        for _ in range(20):
            write_image(folder / name / f"{next(number):03d}.png", picture(next(number)))
    data = recalled(tmp_path, cycles=1, initial={"name": "balanced", "size": 10}, budget=4)
    data |= {"dataset": "image_folder", "data_dir": str(folder), "img_size": 8, "eval_batch_size": 64}
    train(data)
    for _ in range(5):
        write_image(folder / "train/cat" / f"z{next(number):03d}.png", picture(next(number)))
    data["active"]["cycles"] = 2
    session = train(data).session
    assert len(session.dataset) == 45
    shapes = {(when, cycle): features.shape for when, cycle, features in session.plugins["prior"].seen if features is not None}
    # The pool of cycle 1 had 40; those of cycle 2 have 45.
    assert shapes["start", 2] == (40, 16)


def test_a_damaged_file_is_one_line(whole, tmp_path):
    path = tmp_path / "run"
    shutil.copytree(whole.run_dir.path, path)
    np.save(path / "artifacts/features_after_001.npy", np.zeros(3, np.float32))
    from usb_active.loop.previous_features import PreviousFeatures

    kept = PreviousFeatures(whole.plugins.values(), path / "artifacts")
    with pytest.raises(UsageError, match=r"features_after_001.npy is damaged .*; remove it to make it again") as caught:
        kept.before(2, 1343)
    assert "\n" not in str(caught.value)
    np.save(path / "artifacts/features_after_001.npy", np.zeros((1344, 3), np.float32))
    with pytest.raises(UsageError, match="1344 rows for 1343 samples"):
        kept.before(2, 1343)


def test_nothing_is_kept_without_need_and_only_priors_are_given_them(tmp_path, whole):
    session = train(settings(tmp_path, "plain", active={"acquisition": "random"}, **SHORT)).session
    assert artifacts(session.run_dir.path) == []
    with pytest.raises(UsageError, match="active.acquisition: 'recalling_picker' needs previous_features, which only a prior is given"):
        train(settings(tmp_path, "refused", active={"acquisition": "recalling_picker"}, **SHORT))
    view = whole.views.of("acquisition", 2)
    with pytest.raises(UsageError, match="'previous_features' was not declared"):
        view.previous_features  # noqa: B018 — a property that refuses
