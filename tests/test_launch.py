"""USB's train.py, of which a stand-in does what it does, drives the whole experiment."""

from __future__ import annotations

import argparse
import ast
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import killer
import pytest
import run_helpers
from data_makers import write_folder
from killer import assert_same_end, directory
from run_helpers import checkpoint, labels_of, settings, train, weights_equal, write_yaml

from usb_active import launch
from usb_active.storage.run_dir import RunDir

SCRIPT = Path(__file__).parent / "fixtures" / "usb_train.py"


def launcher(data, point: str = "") -> subprocess.CompletedProcess:
    """`python -m usb_active.launch` in a process of its own, which may end at a point of `killer`."""
    yaml = write_yaml(Path(data["save_dir"]) / "c.yaml", data)
    env = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **killer.environment(point)}
    command = [sys.executable, "-m", "usb_active.launch", str(SCRIPT), "--c", str(yaml)]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def launched(tmp_path_factory):
    """A run that was killed in mid-epoch and given again: its settings, the directory, both processes."""
    data = killer.settings(tmp_path_factory.mktemp("launched"), use_tensorboard=True)
    return data, directory(data), launcher(data, "train"), launcher(data)


@pytest.mark.slow
def test_a_killed_run_resumes_to_what_usb_active_run_gives(launched):
    data, run, killed, finished = launched
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert finished.returncode == 0, finished.stderr
    train({**data, "save_name": "reference"})
    assert_same_end(run, run.parent / "reference")


@pytest.mark.slow
def test_results_are_shown_by_train_py_and_by_us(launched):
    _, run, _, finished = launched
    lines = finished.stdout.splitlines()
    accuracy = RunDir.read(run).metrics()[-1]["accuracy"]
    assert f"result test/accuracy: {accuracy}" in lines
    assert f"run: {run}" in lines and any(line.startswith("cycle 2: 40 labels") for line in lines)
    assert "parameters: " in finished.stderr
    assert list((run / "tensorboard").iterdir())
    # train.py saves once more when all is over; what the cycles saved is what counts.
    assert not (run / "latest_model.pth").exists()


@pytest.mark.slow
def test_a_finished_run_ends_at_once_and_nothing_is_removed(launched, monkeypatch):
    data, run, _, _ = launched
    kept = {path: path.read_bytes() for path in run.rglob("*") if path.suffix in (".pth", ".json", ".csv", ".jsonl", ".yaml")}
    # Here, in this process: the same as in one of its own.
    argv, yaml = list(sys.argv), run.parent / "c.yaml"
    assert launch.main([str(SCRIPT), "--c", str(yaml)]) == 0
    assert {path: path.read_bytes() for path in kept} == kept
    assert sys.argv == argv
    from semilearn.core import utils

    assert utils.get_net_builder.__module__ == "semilearn.core.utils.build"


def test_it_waits_for_people_as_usb_active_run_does(tmp_path, capsys):
    yaml = write_yaml(tmp_path / "c.yaml", settings(tmp_path, active={"oracle": "csv", "initial": {"name": "random", "size": 2}}))
    assert launch.main([str(SCRIPT), "--c", str(yaml)]) == 3
    assert "2 of 2 labels are missing: fill the column 'label' of" in capsys.readouterr().out
    assert (tmp_path / "run" / "queries" / "cycle_000.csv").exists()


def test_a_run_of_another_configuration_is_refused_before_train_py_can_touch_it(tmp_path, capsys):
    yaml = write_yaml(tmp_path / "c.yaml", settings(tmp_path, num_train_iter=2, epoch=1, active={"cycles": 0}))
    train(settings(tmp_path, num_train_iter=2, epoch=1, active={"cycles": 0}))
    labels = labels_of(tmp_path / "run")
    assert launch.main([str(SCRIPT), "--c", str(yaml), "--set", "seed=4"]) == 2
    assert "seed: 3 -> 4" in capsys.readouterr().err
    assert labels_of(tmp_path / "run") == labels


def test_a_foreign_directory_is_left_alone(tmp_path, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("years of work")
    yaml = write_yaml(tmp_path / "c.yaml", settings(tmp_path))
    assert launch.main([str(SCRIPT), "--c", str(yaml)]) == 2
    assert "is not empty and no run" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["thesis.tex"]


def test_a_start_that_is_refused_late_takes_its_directory_back(tmp_path, capsys):
    """All images are read only once the run has begun; the launcher made its directory before train.py began."""
    photos = write_folder(tmp_path / "photos", {"train/cat": 30, "train/dog": 30})
    broken = photos / "train/dog/029.png"
    whole = broken.read_bytes()
    broken.write_bytes(whole[: len(whole) // 2])
    data = settings(tmp_path, dataset="image_folder", data_dir=str(photos), img_size=8, active={"cycles": 0})
    yaml = write_yaml(tmp_path / "c.yaml", data)
    assert launch.main([str(SCRIPT), "--c", str(yaml)]) == 2
    assert "1 of 60 images below" in capsys.readouterr().err
    assert not (tmp_path / "run/config.yaml").exists() and not (tmp_path / "run/dataset.json").exists()
    # A corrected configuration may go into the same directory; one that began earlier is not taken back.
    broken.write_bytes(whole)
    assert launch.main([str(SCRIPT), "--c", str(yaml), "--set", "seed=4"]) == 0
    broken.write_bytes(whole[: len(whole) // 2])
    assert launch.main([str(SCRIPT), "--c", str(yaml), "--set", "seed=4"]) == 2
    assert RunDir.read(tmp_path / "run").config["seed"] == 4


def test_a_network_that_cannot_be_built_is_one_line(tmp_path, capsys):
    yaml = write_yaml(tmp_path / "c.yaml", settings(tmp_path, net={"name": "small_cnn", "width": 2**40}))
    assert launch.main([str(SCRIPT), "--c", str(yaml)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "net" in line and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "changes", "message"),
    [
        ([], {}, "TRAIN.PY: no such file; give the path of USB's train.py, and --c CONFIG.yaml"),
        (["nowhere/train.py", "--c", "c.yaml"], {}, "nowhere/train.py: no such file; give the path of USB's train.py, and --c CONFIG.yaml"),
        ([str(SCRIPT)], {}, "--c: missing; the YAML of the experiment, as in --c config.yaml"),
        ([str(SCRIPT), "--c", "c.yaml", "--lr", "1"], {}, "--lr 1: not taken; values come from the YAML, or from --set key=value"),
        ([str(SCRIPT), "--c", "c.yaml"], {"active": None}, "c.yaml: active: missing; the block that says what to label"),
        ([str(SCRIPT), "--c", "c.yaml"], {"epoch": 5}, "c.yaml: epoch: USB's train.py wants num_train_iter (12) to be a multiple"),
    ],
)
def test_mistakes_are_one_line(arguments, changes, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_yaml(Path("c.yaml"), {**settings(tmp_path), **changes})
    assert launch.main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"usb-active: error: {message}")
    assert not (tmp_path / "run").exists()


def test_a_namespace_brings_the_plugin_to_other_processes(tmp_path):
    """As train.py hands its arguments to the processes that it spawns, which import semilearn and nothing of ours."""
    from usb_active.usb.launcher import script_args

    config = run_helpers.config_of(killer.settings(tmp_path))
    parcel = tmp_path / "args.pickle"
    parcel.write_bytes(pickle.dumps(argparse.Namespace(**script_args(config))))
    code = (
        "import pickle, sys; from semilearn.core.utils import ALGORITHMS; assert 'active_flexmatch' not in ALGORITHMS\n"
        f"args = pickle.loads(open({str(parcel)!r}, 'rb').read())\n"
        "assert args.algorithm in ALGORITHMS and args.run_config.active.acquisition.cls.name == 'running_mean'\n"
        "print(args.run_config.resolved())"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert ast.literal_eval(result.stdout.splitlines()[-1]) == config.resolved()


def test_a_namespace_of_semilearn_s_own_is_completed(tmp_path):
    """semilearn's `get_config` and `get_algorithm`, as in its notebooks: every key has a default, given or not."""
    import usb_active

    usb_active.register_usb_algorithms()
    from semilearn.algorithms import get_algorithm
    from semilearn.lighting.config import get_config

    data = settings(tmp_path, "from_args", active={"cycles": 0}, algorithm="active_flexmatch", num_train_iter=4, epoch=1)
    args = get_config(data)
    assert (args.num_labels, args.num_classes, args.img_size) == (400, 10, 32)
    algorithm = get_algorithm(args, None, None, None)
    algorithm.train()
    train({**data, "save_name": "run"})
    assert weights_equal(checkpoint(tmp_path / "from_args", 0), checkpoint(tmp_path / "run", 0))
    assert (args.num_labels, args.img_size) == (20, 8)
