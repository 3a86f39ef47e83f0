"""What pyproject.toml ships is what there is: every package, every plugin's entry point, every YAML."""

from __future__ import annotations

from pathlib import Path

import pytest

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10, to which pytest brings it
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SETUPTOOLS = PYPROJECT["tool"]["setuptools"]
ROOTS = SETUPTOOLS["package-dir"]


def dotted(root: str, folder: Path) -> str:
    """The name of the package in `folder`, which lies in that of the package `root`."""
    return ".".join([root, *folder.relative_to(ROOT / ROOTS[root]).parts])


def holding(pattern: str) -> set[str]:
    """The packages that would hold files of this name, if every folder that has one were a package."""
    return {dotted(root, path.parent) for root, folder in ROOTS.items() for path in (ROOT / folder).rglob(pattern)}


def test_every_package_is_listed_once():
    listed = SETUPTOOLS["packages"]
    assert set(listed) == holding("__init__.py") >= {"usb_active.usb", "usb_active.plugins.assl", "usb_active.yaml_configs"}
    assert len(listed) == len(set(listed))


def test_no_module_lies_outside_a_package():
    assert holding("*.py") == holding("__init__.py")


def test_every_plugin_folder_has_an_entry_point():
    declared = PYPROJECT["project"]["entry-points"]["usb_active.plugins"]
    folders = {path.parent.name for path in (ROOT / "plugins").glob("*/__init__.py")}
    assert folders
    assert declared == {"core": "usb_active.builtin", **{name: f"usb_active.plugins.{name}" for name in folders}}


@pytest.mark.parametrize("root", sorted(ROOTS))
def test_every_other_file_is_package_data(root):
    folder = ROOT / ROOTS[root]
    shipped = {path for pattern in SETUPTOOLS["package-data"].get(root, []) for path in folder.glob(pattern)}
    # What python and numba have compiled lies beside the sources.
    files = {path for path in folder.rglob("*") if path.is_file() and path.suffix != ".py" and path.parent.name != "__pycache__"}
    assert shipped == files
    assert not any(path.suffix == ".yaml" for path in files) or root == "usb_active.yaml_configs"


def test_there_are_configurations_to_ship():
    assert (ROOT / "yaml_configs" / "quickstart.yaml").is_file() and ROOTS["usb_active.yaml_configs"] == "yaml_configs"
