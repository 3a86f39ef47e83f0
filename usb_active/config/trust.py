"""What a received run directory may make this machine do: read it, and nothing more.

A run's config.yaml names plugins. Whoever types `usb-active run CONFIG` has chosen that file, and all it names is imported. `predict`
and `report` look into a directory that may come from anyone: from there they import modules of installed distributions (in site-packages,
or of a project that was installed in editable mode), and anything else (a `.py` file, a module that only lies in the working directory
or on PYTHONPATH, the standard library, of which no module is a plugin) only with `--trust-plugins`. Whether a module belongs to a
distribution is found out without importing it or its package.
"""

from __future__ import annotations

import json
import re
import site
import sys
import sysconfig
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.machinery import ModuleSpec
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

from usb_active.errors import UsageError, name_some, plain

FLAG = "--trust-plugins"


def foreign_plugins(names: Iterable[Any], run: Path) -> list[str]:
    """Those of a configuration's `plugins:` that are not installed here, in their order. `run`: the directory it came from."""
    return [str(name) for name in names if not isinstance(name, str) or name.endswith(".py") or not is_installed(name, run)]


def check_plugins(run: Path, names: Any, trusted: bool) -> None:
    """UsageError that names file and flag, unless all plugins of a run's configuration are installed or `trusted`."""
    foreign = [] if trusted or not isinstance(names, list) else foreign_plugins(names, run)
    if foreign:
        shown = name_some(map(plain, foreign))
        raise UsageError(
            f"{run / 'config.yaml'}: plugins: {shown}: of no package that is installed here, and a run directory's own code is not "
            f"executed unasked; {FLAG} imports it (from Python, trust_plugins=True): only for code that you know"
        )


def is_installed(module: str, run: Path) -> bool:
    """Whether a module would be imported from an installed distribution, and from nowhere below `run`. Nothing is imported to find out."""
    parts = module.split(".")
    # What a `__main__` does when it is imported is to run a command.
    if parts[0] not in _roots().names or "__main__" in parts:
        return False
    path = None
    for depth in range(len(parts)):
        # Not `importlib.util.find_spec`: that imports the packages around a module.
        spec = _find_spec(".".join(parts[: depth + 1]), path)
        if spec is None or not _is_of_installation(spec, run.resolve(), top=depth == 0):
            return False
        path = spec.submodule_search_locations
        if path is None:
            return depth == len(parts) - 1
    return True


def _find_spec(name: str, path: Iterable[str] | None) -> ModuleSpec | None:
    """Where a module would come from: what importing it asks first, and in this order."""
    for finder in sys.meta_path:
        find = getattr(finder, "find_spec", None)
        try:
            spec = None if find is None else find(name, path)
        except KeyError:
            # So Python says that a namespace package was found below a package that is not imported.
            return _namespace(name, path or ())
        except (ImportError, ValueError, AttributeError):
            return None
        if spec is not None:
            return spec
    return None


def _namespace(name: str, path: Iterable[str]) -> ModuleSpec:
    spec = ModuleSpec(name, None, is_package=True)
    folders = (Path(entry) / name.rpartition(".")[2] for entry in path)
    spec.submodule_search_locations = [str(folder) for folder in folders if folder.is_dir()]
    return spec


def _is_of_installation(spec: ModuleSpec, run: Path, top: bool) -> bool:
    """Whether a module's file or folder lies in site-packages, or its top package beside those of an editable project.

    A folder without `__init__.py` (a namespace package) counts in site-packages alone: anywhere else any folder is one, such as that of
    the runs in a clone.
    """
    roots = _roots()
    is_namespace = spec.origin is None
    texts = [*(spec.submodule_search_locations or ()), *([spec.origin] if spec.has_location and spec.origin else [])]
    places = [Path(text).resolve() for text in texts]
    if not places or any(place.is_relative_to(run) for place in places):
        return False
    if all(any(place.is_relative_to(folder) for folder in roots.packages) for place in places):
        return True
    if is_namespace:
        return False
    # A package's folder, or the file of a module: below it, what is no namespace is its own.
    return not top or places[0].parent in roots.projects


@dataclass(frozen=True)
class _Roots:
    """Where installed code lies: `packages` (site-packages), `projects` (the folders that hold the packages of editable projects); and
    the `names` of the top packages of all distributions."""

    packages: frozenset[Path]
    projects: frozenset[Path]
    names: frozenset[str]


@cache
def _roots() -> _Roots:
    packages = {sysconfig.get_path(name) for name in ("purelib", "platlib")} | set(site.getsitepackages())
    if site.ENABLE_USER_SITE:
        packages.add(site.getusersitepackages())
    linked = {entry for folder in packages for entry in _linked(Path(folder))}
    # Not `sys.path`: the working directory may hold metadata of any origin.
    found = list(distributions(path=sorted(packages | linked)))
    roots = filter(None, map(_editable_root, found))
    projects = {place.resolve() for root in roots for place in (root, root / "src")}
    # A link may lead to another site-packages, or to a project.
    packages |= {entry for entry in linked if Path(entry).name in ("site-packages", "dist-packages")}
    return _Roots(
        frozenset(Path(folder).resolve() for folder in packages),
        frozenset(projects | {Path(entry).resolve() for entry in linked}),
        frozenset(name for distribution in found for name in _top_packages(distribution)),
    )


def _top_packages(distribution: Distribution) -> set[str]:
    """The modules and packages that it brings; of an editable one that does not list them, the one of its own name."""
    declared = (distribution.read_text("top_level.txt") or "").split()
    if declared:
        return {name.replace("/", ".").partition(".")[0] for name in declared}
    tops = {path.parts[0] for path in distribution.files or () if path.suffix in (".py", ".so", ".pyd")}
    name = re.sub(r"[-_.]+", "_", distribution.metadata["Name"] or "").lower()
    return {top.partition(".")[0] for top in tops} - {""} | {name}


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
