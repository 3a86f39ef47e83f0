"""semilearn imports whatever the packages do that it wants beside those for images; what does not load is one line."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import threading
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from run_helpers import settings, write_yaml

from usb_active.environment import import_guard
from usb_active.environment.import_guard import STOOD_IN, StandIn

BROKEN = "raise OSError('libtorch: undefined symbol: torch_exception_get_what')"


def broken_packages(folder: Path, names=STOOD_IN) -> Path:
    """Packages that raise when they are imported, in a folder to be put first on the path."""
    for name in names:
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text(BROKEN)
    return folder


def python(*arguments: str | Path, path: Path, cwd: Path | None = None) -> subprocess.CompletedProcess:
    env = {**os.environ, "PYTHONPATH": str(path), "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *map(str, arguments)], env=env, cwd=cwd, capture_output=True, text=True, timeout=300)


def printed(code: str, path: Path) -> list:
    """What a program prints last, as JSON."""
    result = python("-c", f"import json, sys\n{code}", path=path)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def test_packages_that_do_not_load_do_no_harm_until_they_are_used(tmp_path):
    code = """
def error_of(work):
    try:
        work()
    except Exception as error:
        return [type(error).__name__, str(error)]
# Before us: the code that imports it gets the error.
import importlib
before = error_of(lambda: importlib.import_module("torchaudio"))
import usb_active
# semilearn comes first, as in a plugin's file.
from semilearn.datasets.audio_datasets import datasetbase
from semilearn.nets.bert import bert
import usb_active.usb
left = [name for name in sys.modules if name.partition(".")[0] in %r]
after = error_of(lambda: importlib.import_module("torchaudio"))
used = [error_of(lambda: datasetbase.torchaudio.load), error_of(lambda: bert.BertModel.from_pretrained("x"))]
print(json.dumps([before, left, after, *used]))
"""
    before, left, after, used, text = printed(code % (STOOD_IN,), broken_packages(tmp_path))
    assert before == after == ["OSError", BROKEN.split("'")[1]]
    assert left == []
    assert used[0] == "BrokenInstall" and "\n" not in used[1]
    assert used[1].startswith("torchaudio ") and " does not load beside torch 2." in used[1] and "undefined symbol" in used[1]
    assert text[1].startswith("transformers ") and "nothing for images needs it" in text[1]


def test_stand_ins_become_the_real_packages_when_they_are_used(tmp_path):
    """What is loaded already is taken as it is; the rest is imported at the first use of an attribute."""
    (tmp_path / "torchaudio.py").write_text("answer = 42")
    (tmp_path / "wandb.py").write_text("init = 'real'")
    code = """
import torchaudio, usb_active
import semilearn.datasets.audio_datasets.datasetbase as audio
import semilearn.core.hooks.wandb as hook
from semilearn.nets.bert.bert import BertModel
from importlib.util import find_spec
loaded = ["wandb" in sys.modules, "transformers" in sys.modules]
found = [audio.torchaudio is torchaudio, hook.wandb.init, BertModel.base_model_prefix, find_spec("wandb").name]
print(json.dumps([loaded, found, ["wandb" in sys.modules, "transformers" in sys.modules]]))
"""
    loaded, found, later = printed(code, tmp_path)
    assert loaded == [False, False] and later == [True, True]
    assert found == [True, "real", "bert", "wandb"]


@pytest.fixture
def finder(tmp_path, monkeypatch):
    """A finder that is asked first, and small packages in the place of those that are stood in for."""
    for name in STOOD_IN:
        for path, text in {name: "answer = 42\n", f"{name}/part": "answer = 43\n"}.items():
            (tmp_path / path).mkdir()
            (tmp_path / path / "__init__.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    loaded = [name for name in sys.modules if name.partition(".")[0] in STOOD_IN]
    kept = {name: sys.modules.pop(name) for name in loaded}
    made = import_guard._Finder()
    sys.meta_path.insert(0, made)
    yield made
    sys.meta_path.remove(made)
    for name in [name for name in sys.modules if name.partition(".")[0] in STOOD_IN]:
        del sys.modules[name]
    sys.modules.update(kept)


def in_thread(work):
    """What another thread comes to."""
    found = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    thread.join()
    return found[0]


def test_another_thread_gets_the_real_packages(finder):
    """While this one imports semilearn: one that was not imported yet, one that is stood in for already, and a module of it."""
    with finder._stand_ins():
        import transformers
        import wandb

        assert isinstance(transformers, StandIn)
        other = in_thread(lambda: importlib.import_module("torchaudio"))
        assert not isinstance(other, StandIn) and other.answer == 42
        assert in_thread(lambda: importlib.import_module("transformers").answer) == 42
        assert in_thread(lambda: importlib.import_module("wandb.part")).answer == 43
        assert isinstance(transformers.answer, type) and isinstance(wandb, StandIn)
        # What is loaded is taken as it is, here too.
        assert importlib.import_module("torchaudio") is other
    assert transformers.answer == wandb.answer == 42 and not isinstance(sys.modules["wandb"], StandIn)
    assert not any(isinstance(module, StandIn) for module in sys.modules.values())


def test_a_stand_in_knows_the_version_of_the_package(finder, monkeypatch):
    with finder._stand_ins():
        transformers = importlib.import_module("transformers")
        assert transformers.__version__ == version("transformers")
        for module, name in ((transformers, "__wrapped__"), (importlib.import_module("transformers.part"), "__version__")):
            with pytest.raises(AttributeError):
                getattr(module, name)
        monkeypatch.setattr(import_guard, "_installed", lambda name: None)
        assert not hasattr(transformers, "__version__")


def test_a_module_that_timm_has_announced_to_remove_may_go(tmp_path):
    code = """
from importlib.machinery import PathFinder
find = PathFinder.find_spec
PathFinder.find_spec = classmethod(lambda cls, name, *rest: None if name == "timm.models.layers" else find(name, *rest))
import usb_active, semilearn.nets.vit.vit as vit, timm.layers
print(json.dumps([vit.DropPath is timm.layers.DropPath, "timm.models.layers" in sys.modules]))
"""
    assert printed(code, tmp_path) == [True, False]


def test_loader_workers_that_are_spawned_are_guarded(tmp_path):
    code = """
import numpy as np
from torch.utils.data import DataLoader
from usb_active.builtin.array_datasets import Digits
from usb_active.usb.data import PoolStream
stream = PoolStream("fixmatch", Digits(), np.arange(4), np.zeros(4, dtype=np.int64))
batch = next(iter(DataLoader(stream, 4, num_workers=1, multiprocessing_context="spawn")))
print(json.dumps(list(batch["x_lb"].shape)))
"""
    assert printed(code, broken_packages(tmp_path)) == [4, 1, 8, 8]


TRAIN = """
import sys, json
from pathlib import Path
import torch.multiprocessing as mp
from semilearn.core.utils import ALGORITHMS, over_write_args_from_file

def worker(rank, args, out):
    assert args.algorithm in ALGORITHMS
    Path(out).write_text(json.dumps([__name__, rank, args.algorithm, "torchaudio" in sys.modules]))

if __name__ == "__main__":
    import argparse
    args = argparse.Namespace()
    over_write_args_from_file(args, "")
    mp.spawn(worker, nprocs=1, args=(args, str(Path(args.save_dir) / "out.json")))
    sys.exit(0)
"""


def test_processes_that_train_py_spawns_are_guarded(tmp_path):
    """They import train.py, whose first lines import semilearn, before they unpickle anything of ours."""
    script = tmp_path / "train.py"
    script.write_text(TRAIN)
    config = write_yaml(tmp_path / "c.yaml", settings(tmp_path))
    result = python("-m", "usb_active.launch", script, "--c", config, path=broken_packages(tmp_path / "broken"))
    assert result.returncode == 0, result.stderr
    assert json.loads((tmp_path / "out.json").read_text()) == ["__mp_main__", 0, "active_flexmatch", False]


def test_a_plugin_file_may_import_semilearn_at_its_top(tmp_path):
    plugin = tmp_path / "mine.py"
    plugin.write_text(
        "from semilearn.algorithms.fixmatch import FixMatch\n"
        "from usb_active import register_plugin\n"
        '@register_plugin("algorithm", "mine")\n'
        "class Mine(FixMatch):\n"
        '    """FixMatch by another name."""\n'
    )
    config = write_yaml(tmp_path / "c.yaml", settings(tmp_path, algorithm="mine", plugins=[str(plugin)]))
    result = python("-m", "usb_active", "check", config, path=broken_packages(tmp_path / "broken"))
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("progress", BROKEN, ["semilearn 0.3.2 does not import: OSError: libtorch: undefined symbol"]),
        ("ruamel", "import nowhere", ["ModuleNotFoundError: No module named 'nowhere'"]),
        ("semilearn", "from gone import x", ["ModuleNotFoundError: No module named 'gone'"]),
    ],
)
def test_any_other_failure_is_one_line(name, text, words, tmp_path):
    (tmp_path / f"{name}.py").write_text(text)
    config = write_yaml(tmp_path / "c.yaml", settings(tmp_path))
    result = python("-m", "usb_active", "check", config, path=tmp_path)
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("usb-active: error: ") and all(word in line for word in words)
    assert "pip install -c " in line and "constraints.txt" in line


def test_semilearn_that_is_not_installed_is_one_line(tmp_path):
    code = """
from importlib.machinery import PathFinder
find = PathFinder.find_spec
PathFinder.find_spec = classmethod(lambda cls, name, *rest: None if name == "semilearn" else find(name, *rest))
import usb_active
try:
    import usb_active.usb
except ImportError as error:
    print(json.dumps([type(error).__name__, str(error)]))
"""
    name, message = printed(code, tmp_path)
    assert name == "BrokenInstall" and "No module named 'semilearn'" in message and "\n" not in message


def test_runs_are_refused_where_there_are_no_posix_locks(tmp_path):
    (tmp_path / "fcntl.py").write_text("raise ModuleNotFoundError(\"No module named 'fcntl'\")")
    config = tmp_path / "c.yaml"
    config.write_text(yaml.safe_dump(settings(tmp_path)))
    result = python("-m", "usb_active", "run", config, path=tmp_path)
    assert result.returncode == 2
    assert "POSIX file locks" in result.stderr and result.stderr.count("\n") == 1
