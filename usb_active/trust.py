"""What a run directory from somebody else may make this machine do: read it, and nothing more.

A run's config.yaml names plugins. Whoever types `usb-active run CONFIG` has chosen that file, and all it names is imported. `predict`
and `report` look into a directory that may come from anybody: from there they import what is installed (site-packages, or a project
that was installed in editable mode), and anything else (a `.py` file, a module that only lies in the working directory or on
PYTHONPATH) only with `--trust-plugins`. Whether a module is installed is found out without importing it or its package.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
import site
import sysconfig
from collections.abc import Iterable
from functools import cache
from importlib.metadata import distributions
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

from usb_active.errors import UsageError, name_some, plain

FLAG = "--trust-plugins"


def foreign_plugins(names: Iterable[Any]) -> list[str]:
    """Those of a configuration's `plugins:` that are not installed here, in their order."""
    return [str(name) for name in names if not isinstance(name, str) or name.endswith(".py") or not is_installed(name)]


def check_plugins(run: Path, names: Any, trusted: bool) -> None:
    """UsageError that names file and flag, unless all plugins of a run's configuration are installed or `trusted`."""
    foreign = [] if trusted or not isinstance(names, list) else foreign_plugins(names)
    if foreign:
        shown = name_some(map(plain, foreign))
        raise UsageError(
            f"{run / 'config.yaml'}: plugins: {shown}: not installed here, and a run directory's own code is not executed unasked; "
            f"{FLAG} imports it: only for code that you know"
        )


def is_installed(module: str) -> bool:
    """Whether a module would be imported from an installed package. Nothing is imported to find out."""
    top = module.partition(".")[0]
    try:
        # Not `find_spec(module)`: that imports the package around it.
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError, AttributeError):
        return False
    if spec is None:
        return False
    if spec.origin in ("built-in", "frozen"):
        return True
    places = list(spec.submodule_search_locations or ()) or ([spec.origin] if spec.has_location and spec.origin else [])
    return bool(places) and all(_is_of_installation(Path(place).resolve()) for place in places)


def _is_of_installation(place: Path) -> bool:
    """Whether a module's file or folder lies in site-packages, or at the top of an editable project: not anywhere below that, where a
    run directory may be."""
    packages, projects = _roots()
    return any(place.is_relative_to(root) for root in packages) or place.parent in projects


@cache
def _roots() -> tuple[frozenset[Path], frozenset[Path]]:
    """Where installed code lies: site-packages and the standard library; and the folders that hold the packages of editable projects."""
    packages = {sysconfig.get_path(name) for name in ("purelib", "platlib")} | set(site.getsitepackages())
    if site.ENABLE_USER_SITE:
        packages.add(site.getusersitepackages())
    linked = {entry for folder in packages for entry in _linked(Path(folder))}
    found = filter(None, map(_editable_root, distributions(path=sorted(packages | linked))))
    projects = {place.resolve() for root in found for place in (root, root / "src")}
    # A link may lead to another site-packages, or to a project.
    packages |= {entry for entry in linked if Path(entry).name in ("site-packages", "dist-packages")} | {sysconfig.get_path("stdlib")}
    return frozenset(Path(folder).resolve() for folder in packages), frozenset(projects | {Path(entry).resolve() for entry in linked})


def _linked(folder: Path) -> list[str]:
    """Folders that the .pth files of a site-packages add: an administrator's doing, as the packages themselves are."""
    try:
        lines = [line.strip() for path in sorted(folder.glob("*.pth")) for line in path.read_text(errors="replace").splitlines()]
    except OSError:
        return []
    return [str(folder / line) for line in lines if line and not line.startswith(("#", "import ", "import\t")) and (folder / line).is_dir()]


def _editable_root(distribution: Any) -> Path | None:
    try:
        found = json.loads(distribution.read_text("direct_url.json") or "{}")
        url = urlparse(found["url"] if found["dir_info"]["editable"] else "")
    except (ValueError, KeyError, TypeError, OSError):
        return None
    return Path(unquote(url.path)) if url.scheme == "file" else None
