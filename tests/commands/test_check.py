"""`check` says what `run` will say, and a run that is refused keeps no corrected one from its directory."""

from __future__ import annotations

import numpy as np
import pytest
import run_helpers
from data_makers import write_folder

from usb_active import cli
from usb_active.errors import UsageError
from usb_active.records import LABELED, LabelRow
from usb_active.storage.run_dir import RunDir

pytestmark = pytest.mark.slow


@pytest.fixture
def do(tmp_path, capsys):
    """A command on settings: its exit code, and the lines of its error output."""

    def command(name, active=None, *, to="run", **usb):
        yaml = run_helpers.write_yaml(tmp_path / f"{to}.yaml", run_helpers.settings(tmp_path, to, active=active, **usb))
        code = cli.main([name, str(yaml)])
        return code, capsys.readouterr().err.splitlines()

    return command


def one_word(lines):
    return [line.removeprefix("usb-active: error: ") for line in lines]


@pytest.mark.parametrize("name", ["check", "run"])
def test_sizes_of_an_algorithm(do, tmp_path, name):
    code, lines = do(name, algorithm="lp", batch_size=32)
    assert code == 2 and one_word(lines) == [
        "lp_labeled: 50 of a batch_size of 32 leave no place for pseudo-labels",
        "lp_supervised_epochs: 10, but there are 2 epochs in all",
    ]
    assert not (tmp_path / "run").exists()


def test_both_faults_at_once(do, tmp_path):
    data = run_helpers.settings(tmp_path)
    RunDir.open(tmp_path / "run", run_helpers.config_of(data).resolved()).close()
    code, lines = do("check", algorithm="lp", batch_size=32, lp_supervised_epochs=1)
    text = "\n".join(one_word(lines))
    assert code == 2 and "holds a run of another configuration" in text and "lp_labeled: 50" in text


@pytest.mark.parametrize(
    ("cycles", "budget", "code"), [(3, 4, 2), (3, 5, 2), (3, 2, 0), (1, 6, 0), (1, 7, 2), (0, 1, 0)]
)
def test_known_labels_cannot_be_asked_again(do, tmp_path, cycles, budget, code):
    write_folder(tmp_path / "data", {"train/a": 3, "train/b": 3, "unlabeled": 6})
    folder = {"dataset": {"name": "image_folder"}, "data_dir": str(tmp_path / "data")}
    found, lines = do("check", {"initial": "known", "cycles": cycles, "budget": budget, "oracle": "csv"}, **folder)
    assert found == code
    if code:
        assert f"beside the 6 that 'known' brings only 6 samples can be queried; at most {6 // cycles} per cycle" in lines[0]


@pytest.mark.parametrize(
    ("text", "said"),
    [("name,class\n1,2\n", "missing columns"), ("index,label\n1,nope\n", "unknown class"), ("", "no header"),
     ("key,label\n", "holds no label")],
)
def test_initial_files_are_read(do, tmp_path, text, said):
    (tmp_path / "known.csv").write_text(text)
    code, lines = do("check", {"initial": {"name": "file", "path": str(tmp_path / "known.csv")}})
    assert code == 2 and said in lines[0]


def test_tables_and_weights_in_files_are_looked_at(do, tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((5, 10), np.float32))
    path = str(tmp_path / "a.npy")
    for block, said in (
        ({"prior": {"name": "file", "path": path}}, "expected (1343, 10), got (5, 10)"),
        ({"acquisition": {"name": "coreset", "features": {"name": "file", "path": path}}}, "expected (1343, D), got (5, 10)"),
        ({"pretrain": {"name": "file", "path": path}}, "cannot be read in torch's safe mode"),
    ):
        code, lines = do("check", block)
        assert code == 2 and said in lines[0] and len(lines) == 1


@pytest.mark.parametrize("width", [4097, 2**31, 2**62, 2**63])
def test_networks_of_impossible_sizes(do, width):
    code, lines = do("check", net={"name": "small_cnn", "width": width})
    assert code == 2 and len(lines) == 1


def test_a_network_that_torch_cannot_build(do, monkeypatch):
    from usb_active.usb import networks

    def fail(*arguments):
        raise RuntimeError("[enforce fail] not enough memory: you tried to allocate 1e20 bytes\nstack")

    monkeypatch.setattr(networks, "SmallCNN", fail)
    code, lines = do("check")
    assert code == 2 and lines[0].endswith("net: 'small_cnn' cannot be built: RuntimeError: [enforce fail] not enough memory: you tried to "
                                           "allocate 1e20 bytes; look at its keys")  # fmt: skip


def test_a_check_builds_the_network_once(do, monkeypatch):
    from usb_active.usb import networks

    built, make = [], networks.SmallCNN
    monkeypatch.setattr(networks, "SmallCNN", lambda *arguments: built.append(arguments) or make(*arguments))
    assert do("check") == (0, []) and len(built) == 1


def test_nothing_is_left_of_a_check(do, tmp_path):
    assert do("check") == (0, [])
    assert not (tmp_path / "run").exists()


# --- a refused start --------------------------------------------------------------------------------------------------------
def test_a_constructor_that_refuses_leaves_the_directory_free(tmp_path):
    data = run_helpers.settings(tmp_path, algorithm="lp", batch_size=32)
    with pytest.raises(UsageError, match="lp_labeled"):
        run_helpers.train(data)
    assert not (tmp_path / "run" / "config.yaml").exists()
    RunDir.open(tmp_path / "run", {"other": 1}).close()


def test_withdrawing_takes_nothing_that_was_worked_for(tmp_path):
    for number, name in enumerate(("labels.csv", "queries", "pretrain", "notes.txt")):
        with RunDir.open(tmp_path / str(number), {}) as run:
            if name == "labels.csv":
                run.append_rows([LabelRow(0, 1, "k", "a", LABELED, "x", "")])
            else:
                (run.path / name).mkdir()
            run.withdraw()
            assert (run.path / "config.yaml").exists(), name
    with RunDir.open(tmp_path / "fresh", {}) as run:
        run.write_keys(["a"])
        run.withdraw()
        assert {path.name for path in run.path.iterdir()} == {"lock"}
    with RunDir.open(tmp_path / "fresh", {}):
        pass
    with RunDir.open(tmp_path / "fresh", {}) as run:
        # Another start has made it.
        run.withdraw()
        assert (run.path / "config.yaml").exists()
