"""The direction of imports between the rooms of the package, as pyproject.toml lays it down."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    """The package as an installation has it: `plugins` and `yaml_configs` inside. An editable one maps them, which grimp does not see."""
    folder = tmp_path_factory.mktemp("rooms")
    leave = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "usb_active", folder / "usb_active", ignore=leave)
    shutil.copytree(ROOT / "plugins", folder / "usb_active" / "plugins", ignore=leave)
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def lint(tree: Path) -> subprocess.CompletedProcess[str]:
    """`lint-imports` on this tree."""
    command = [sys.executable, "-c", "import sys; from importlinter.cli import lint_imports_command as c; c()", "--no-cache"]
    return subprocess.run(command, cwd=tree, env={**os.environ, "PYTHONPATH": str(tree)}, capture_output=True, text=True)


def test_imports_point_downwards(tree):
    result = lint(tree)
    assert result.returncode == 0 and "4 kept, 0 broken" in result.stdout, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("numerics/kmeans.py", "import usb_active.storage.durable"),
        ("storage/durable.py", "import usb_active.loop.session"),
        ("report/tables.py", "import usb_active.plugins.assl.functional"),
        ("plugins/assl/functional.py", "import usb_active.plugins.jlp.functional"),
        ("plugins/jlp/functional.py", "import semilearn"),
        ("unplaced.py", ""),
    ],
)
def test_every_other_direction_is_found(tree, module, line):
    path = tree / "usb_active" / module
    before = path.read_text() if path.exists() else None
    path.write_text(f"{before or ''}\n{line}\n")
    try:
        assert lint(tree).returncode == 1
    finally:
        path.unlink() if before is None else path.write_text(before)


def test_the_table_of_rooms_has_each_in_its_order():
    """CONTRIBUTING's table against the layers that are checked here."""
    layers = re.search(r"^layers = \[(.*?)^\]", (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    rooms = [name for name in re.findall(r"\w+", layers.group(1)) if (ROOT / "usb_active" / name).is_dir()]
    table = re.findall(r"^\| \[(\w+)\]\(usb_active/(\w+)\) \|", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert rooms == [shown for shown, _ in table] == [folder for _, folder in table]
