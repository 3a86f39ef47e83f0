"""The command line: what it prints, its exit codes, and that looking around imports nothing heavy."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

import usb_active
from usb_active import cli
from usb_active.errors import UsageError, WaitingForLabels

TOYS = str(Path(__file__).parent / "toy_plugins.py")
HEAVY = ("torch", "semilearn", "torchvision", "transformers", "sklearn", "matplotlib", "numba", "faiss")


def light_run(*args: str, cwd: Path | None = None) -> subprocess.CompletedProcess:
    """The program in a process of its own; its last line of output names the heavy modules that it has imported."""
    code = (
        "import sys\nfrom usb_active.cli import main\n"
        f"try:\n    code = main({list(args)!r})\nexcept SystemExit as stop:\n    code = stop.code\n"
        f"print('heavy:', *(name for name in {HEAVY!r} if name in sys.modules))\nsys.exit(code)"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=cwd)


@pytest.mark.parametrize("args", [["--help"], ["--version"], ["list"], ["list", "acquisition"], ["run", "--help"], ["labels", "--help"]])
def test_looking_around_is_light(args, tmp_path):
    result = light_run(*args, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "heavy:"


def test_the_package_itself_is_light():
    code = f"import sys, usb_active.config.settings; print([name for name in {HEAVY!r} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


def test_version(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"usb-active {usb_active.__version__}\n"


def test_public_names_exist():
    for name in usb_active.__all__:
        assert getattr(usb_active, name) is not None
    assert set(usb_active.__all__) <= set(dir(usb_active))
    with pytest.raises(AttributeError, match="no attribute 'Acquisitoin'"):
        usb_active.Acquisitoin  # noqa: B018 (the access is what is tested)


def test_help_tells_the_exit_codes(capsys):
    with pytest.raises(SystemExit):
        cli.main(["run", "--help"])
    out = capsys.readouterr().out
    assert "  3    labels are awaited" in out and "130  interrupted" in out


@pytest.fixture
def config_file(tmp_path) -> Path:
    path = tmp_path / "c.yaml"
    active = {"initial": {"name": "toy_first", "size": 1}, "cycles": 0, "oracle": "toy_oracle", "features": "toy_zeros"}
    path.write_text(yaml.safe_dump({"plugins": [TOYS], "dataset": "toy_pool", "net": "toy_net", "clip": 0.0, "active": active}))
    return path


def test_mistakes_are_lines_without_a_traceback(config_file, capsys):
    assert cli.main(["run", str(config_file), "--set", "lr=-1", "--set", "sede=3"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "usb-active: error: --set: lr: must be in (0, inf) (-1)",
        "usb-active: error: --set: sede: unknown key; did you mean 'seed'?",
    ]


@pytest.mark.parametrize(
    ("raised", "code", "stream", "text"),
    [
        (WaitingForLabels("fill in the file\nrun again", 3), 3, "out", "fill in the file\nrun again\n"),
        (KeyboardInterrupt(), 130, "err", "\nusb-active: interrupted; the same command resumes from here\n"),
        (UsageError("one\ntwo"), 2, "err", "usb-active: error: one\nusb-active: error: two\n"),
    ],
)
def test_exit_codes(config_file, capsys, monkeypatch, raised, code, stream, text):
    def handler(args):
        raise raised

    monkeypatch.setattr(cli, "_report", handler)
    assert cli.main(["report", "somewhere"]) == code
    assert getattr(capsys.readouterr(), stream) == text


def test_warnings_are_shown(config_file, capsys):
    cli._load(cli.build_parser().parse_args(["check", str(config_file)]))
    assert capsys.readouterr().err == f"usb-active: warning: {config_file}: clip: is read by nothing in USB 0.3.2; dropped\n"


def test_unknown_configuration(capsys):
    assert cli.main(["check", "quickstrat"]) == 2
    assert capsys.readouterr().err.startswith("usb-active: error: quickstrat: no such file, and no packaged configuration has this name")


def test_a_path_of_the_clone_names_the_packaged_configuration(capsys, tmp_path, monkeypatch):
    # As README has it, typed where there is no clone.
    monkeypatch.chdir(tmp_path)
    assert cli.main(["check", "yaml_configs/quickstart.yaml"]) == 2
    assert "no such file, and no packaged configuration has this name; did you mean 'quickstart'?" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["labels", "report"])
def test_commands_on_what_is_no_run(command, tmp_path, capsys):
    assert cli.main([command, str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("usb-active: error: ")


def test_report_with_analysis_prints_the_page(tmp_path, capsys):
    for seed in (0, 1):
        for name, accuracy in (("margin", 0.7), ("random", 0.6)):
            folder = tmp_path / f"{name}{seed}"
            folder.mkdir()
            active = {"initial": {"name": "random", "size": 10}, "acquisition": {"name": name}, "budget": 10}
            (folder / "config.yaml").write_text(yaml.safe_dump({"algorithm": "fixmatch", "seed": seed, "active": active}))
            rest = {"best_accuracy": 0.9, "balanced_accuracy": 0.5, "evaluated_on": "test"}
            lines = [{"cycle": i, "num_labels": 10 + 10 * i, "accuracy": accuracy, **rest} for i in range(2)]
            (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    runs, out = sorted(map(str, tmp_path.iterdir())), tmp_path / "out"
    assert cli.main(["report", *runs, "--out", str(out), "--analysis"]) == 0
    names = ["learning_curve.png", "report.md", "cells.csv", "analysis.md", "pairwise.png"]
    assert capsys.readouterr().out.splitlines() == [str(out / name) for name in names]
    # One method alone, and without an analysis.
    assert cli.main(["report", *runs[:2], "--out", str(out), "--analysis"]) == 2
    assert re.fullmatch(r"usb-active: error: nothing to analyse: .* below `active:` in its YAML.*\n", capsys.readouterr().err)


def test_report_with_a_map_prints_its_path_or_why_there_is_none(tmp_path, capsys):
    run = tmp_path / "run"
    (run / "pretrain").mkdir(parents=True)
    active = {"initial": {"name": "random", "size": 10}, "acquisition": {"name": "margin"}, "budget": 10}
    (run / "config.yaml").write_text(yaml.safe_dump({"algorithm": "fixmatch", "seed": 0, "dataset": "gone", "active": active}))
    rest = {"best_accuracy": 0.9, "balanced_accuracy": 0.5, "evaluated_on": "test"}
    (run / "metrics.jsonl").write_text(json.dumps({"cycle": 0, "num_labels": 10, "accuracy": 0.5, **rest}) + "\n")
    (run / "keys.txt").write_text("".join(f'"{i}"\n' for i in range(12)))
    assert cli.main(["report", str(run), "--embed"]) == 2
    assert re.fullmatch(r"usb-active: error: .*--embed: no features: none of this pool in .*\n", capsys.readouterr().err)
    np.save(run / "pretrain" / "features.npy", np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32))
    assert cli.main(["report", str(run), "--embed"]) == 0
    assert str(run / "report" / "embed.png") in capsys.readouterr().out.splitlines()


# --- list -------------------------------------------------------------------------------------------------------------------


def test_list_shows_kind_name_summary_and_origin(config_file, capsys):
    cli.main(["run", str(config_file), "--set", "lr=-1"])
    capsys.readouterr()
    assert cli.main(["list", "network"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (line,) = [line for line in lines if " toy_net " in line]
    assert line.split("  ")[0] == "network" and "No network." in line and line.endswith("toy_plugins.py")
    assert all(line.startswith("network ") for line in lines)


def test_list_check_names_what_fails(capsys, tmp_path, monkeypatch):
    declared = "from usb_active import Declaration\nPLUGINS = [Declaration('prior', 'half', 'half_plugin:Missing', 'Half there.')]\n"
    (tmp_path / "half_plugin.py").write_text(declared)
    (tmp_path / "half-1.dist-info").mkdir()
    (tmp_path / "half-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: half\nVersion: 1\n")
    (tmp_path / "half-1.dist-info" / "entry_points.txt").write_text("[usb_active.plugins]\nhalf = half_plugin\n")
    command = [sys.executable, "-m", "usb_active", "list", "prior"]
    env = {"PYTHONPATH": str(tmp_path)}
    plain = subprocess.run(command, capture_output=True, text=True, env=env, cwd=tmp_path)
    assert plain.returncode == 0 and "Half there." in plain.stdout
    checked = subprocess.run([*command, "--check"], capture_output=True, text=True, env=env, cwd=tmp_path)
    assert checked.returncode == 1
    expected = "broken: prior 'half': prior 'half' (half_plugin:Missing, from half (half_plugin)) does not import: AttributeError"
    assert expected in checked.stdout


def test_all_shipped_plugins_import(tmp_path):
    result = subprocess.run([sys.executable, "-m", "usb_active", "list", "--check"], capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
