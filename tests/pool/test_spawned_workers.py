"""Loader workers that are started fresh (`spawn`, `forkserver`): what they are given can be pickled, plugin files included."""

from __future__ import annotations

import pickle
import subprocess
import sys
from multiprocessing.reduction import ForkingPickler

import pytest
import run_helpers
from data_makers import write_folder

from usb_active.pool import sampling

FILE_DATASET = """
from helper import classes
from usb_active import register_plugin
from usb_active.builtin.array_datasets import Digits


@register_plugin("dataset", "digits_of_a_file")
class OfAFile(Digits):
    name = "digits_of_a_file"

    def prepare(self):
        super().prepare()
        self.test = None

    @property
    def collate(self):
        return together

    @collate.setter
    def collate(self, value):
        pass


def together(rows):
    from torch.utils.data import default_collate

    assert classes() == 10
    return default_collate(rows)
"""


def write_plugin(folder):
    (folder / "main.py").write_text(FILE_DATASET)
    (folder / "helper.py").write_text("def classes():\n    return 10\n")
    return str(folder / "main.py")


@pytest.fixture
def pickled(monkeypatch):
    """Every loader that is made pickles at once what its workers would be given; the types of the rows."""
    seen = []
    original = sampling.Loader.__init__

    def init(self, rows, *arguments, **options):
        original(self, rows, *arguments, **options)
        data = ForkingPickler.dumps((self.dataset, self.collate_fn, self.worker_init_fn))
        back = pickle.loads(bytes(data))[0]
        assert type(back) is type(rows) and len(back) == len(rows)
        seen.append(type(rows).__name__)

    monkeypatch.setattr(sampling.Loader, "__init__", init)
    return seen


CONFIGURATIONS = {
    "held-out labels": {"active": {"validation": 0.5}},
    "algorithm with loaders of its own": {
        "active": {"initial": {"name": "random", "size": 40}}, "algorithm": "lp", "batch_size": 64, "lp_supervised_epochs": 1,
    },
    "pretraining": {"active": {"pretrain": {"name": "simsiam", "epochs": 1, "batch_size": 128}, "acquisition": "badge"}},
    "three views": {"algorithm": "remixmatch"},
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_what_workers_are_given_can_be_pickled(tmp_path, pickled, name):
    given = dict(CONFIGURATIONS[name])
    run_helpers.train(run_helpers.settings(tmp_path, "run", **{**given, "active": {"cycles": 1, **given.get("active", {})}}))
    assert {"SeededRows", "EvaluationRows"} <= set(pickled)


@pytest.mark.slow
def test_images_in_folders_can_be_pickled(tmp_path, pickled):
    write_folder(tmp_path / "data", {"train/a": 12, "train/b": 12, "test/a": 2, "test/b": 2})
    usb = {"dataset": {"name": "image_folder"}, "data_dir": str(tmp_path / "data"), "num_train_iter": 2, "num_eval_iter": 2, "epoch": 1}
    block = {"initial": {"name": "random", "size": 8}, "budget": 4, "validation": 0.5}
    run_helpers.train(run_helpers.settings(tmp_path, "run", active=block, **usb))
    assert {"SeededRows", "EvaluationRows", "PoolRows"} <= set(pickled)


def test_rows_of_a_plugin_file_arrive_in_a_fresh_process(tmp_path):
    """The child knows nothing but the parcel: it must import the plugin, and the plugin its neighbour."""
    from usb_active.contracts.registry import REGISTRY
    from usb_active.pool.inference import PoolRows

    REGISTRY.load_modules([write_plugin(tmp_path)])
    dataset = REGISTRY.get("dataset", "digits_of_a_file")()
    (tmp_path / "parcel").write_bytes(bytes(ForkingPickler.dumps(PoolRows(dataset, dataset.targets[:2] * 0, "eval", 1, 0, ()))))
    code = (
        f"import pickle; rows = pickle.load(open({str(tmp_path / 'parcel')!r}, 'rb')); "
        "print(type(rows.dataset).__name__, rows.dataset.collate([{'x': 1}])['x'].tolist())"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path.parent)
    assert ended.stdout == "OfAFile [1]\n", ended.stderr


SPAWNED = """
import multiprocessing, sys

if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    from usb_active.cli import main

    sys.exit(main(["run", sys.argv[1]]))
"""


@pytest.mark.slow
def test_a_whole_run_with_spawned_workers(tmp_path):
    """Held-out labels, a data set of a plugin file with a neighbour: the same end as without workers. Each worker imports USB."""
    usb = {"dataset": "digits_of_a_file", "plugins": [write_plugin(tmp_path)], "num_train_iter": 1, "num_eval_iter": 1, "epoch": 1}
    ends = []
    for name, workers in (("alone", 0), ("spawned", 1)):
        data = run_helpers.settings(tmp_path, name, active={"validation": 0.5, "cycles": 0}, num_workers=workers, **usb)
        (tmp_path / "go.py").write_text(SPAWNED)
        yaml = run_helpers.write_yaml(tmp_path / f"{name}.yaml", data)
        ended = subprocess.run([sys.executable, str(tmp_path / "go.py"), str(yaml)], capture_output=True, text=True, timeout=850)
        assert ended.returncode == 0, ended.stderr
        ends.append(run_helpers.checkpoint(tmp_path / name, 0))
    assert run_helpers.weights_equal(*ends)
