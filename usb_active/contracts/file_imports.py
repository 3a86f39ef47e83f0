"""Plugins in files: a `.py` file of a YAML's `plugins:` becomes a module, here and in every process that this one starts.

What lies beside the file can be imported by it, as a script can import its neighbours: the file's folder is put at the *end* of
`sys.path`, and stays there, because a plugin may import while it works. At the end, so that a neighbour called `torch.py` or
`yaml.py` shadows nothing that is installed; it is then the installed one that the plugin gets, too.
"""

from __future__ import annotations

import ast
import importlib.util
import sys
import zlib
from pathlib import Path
from types import ModuleType

from usb_active.errors import UsageError, printable

# The files imported so far, by module name: what another process must import before it can unpickle what they define.
_imported: dict[str, str] = {}


def imported_files() -> tuple[str, ...]:
    """The paths of all plugin files that this process has imported."""
    return tuple(_imported.values())


def import_files(paths: tuple[str, ...]) -> None:
    """Import plugin files in a process that was started fresh, before what they define is unpickled there."""
    for path in paths:
        import_file(Path(path))


def import_file(path: Path) -> ModuleType:
    """Import a plugin from a .py file, under a module name made from its path; twice gives the same module.

    Raises:
        UsageError: there is no such file, or it imports a neighbour of which a plugin in another folder has a namesake.
    """
    path = path.resolve()
    if not path.is_file():
        raise UsageError(f"plugins: no file {path}")
    # The same in every process (unlike `hash`), so that what is pickled here can be found there.
    name = f"usb_active_user_{path.stem}_{zlib.crc32(str(path).encode()):08x}"
    if name in sys.modules:
        return sys.modules[name]
    _refuse_namesakes(path)
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"plugins: {path}: not a Python file; its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    # Registered before it runs, so that classes defined in it can be pickled to loader workers.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    _imported[name] = str(path)
    return module


def _refuse_namesakes(path: Path) -> None:
    """A module name can be taken once in a process: with `helper.py` in two folders, one plugin would silently get the other's."""
    others = {Path(other).parent for other in _imported.values()} - {path.parent}
    for name in sorted(_imported_names(path)) if others else ():
        own = path.parent / f"{name}.py"
        loaded = getattr(sys.modules.get(name), "__file__", None)
        if own.is_file() and loaded and Path(loaded).resolve() != own and Path(loaded).resolve().parent in others:
            raise UsageError(
                f"plugins: {path} imports '{printable(name)}' from beside it, but {loaded} has that name already; rename one of them"
            )


def _imported_names(path: Path) -> set[str]:
    """The top-level modules that a file's import statements name; none where it is no Python, which importing it will say."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, OSError):
        return set()
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
    return {name.partition(".")[0] for name in names}
