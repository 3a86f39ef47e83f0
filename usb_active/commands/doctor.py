"""`usb-active doctor`: what is installed, what of it imports, and what the machine offers; to be pasted into a bug report."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import TextIO

from usb_active import __version__
from usb_active.contracts.registry import REGISTRY
from usb_active.environment.import_guard import CONSTRAINTS, STOOD_IN

# Distributions of one module: one of them is wanted, never both.
FAISS = ("faiss-cpu", "faiss-gpu")
# What is imported, in this order, and whether nothing works without it.
MODULES = {
    **dict.fromkeys(("numpy", "scipy", "numba", "sklearn", "PIL", "matplotlib.pyplot", "torch", "torchvision", "timm"), True),
    **dict.fromkeys(("usb_active.usb", "faiss"), True),
    **dict.fromkeys(STOOD_IN, False),
}
# What the lines of our own begin with, among those that libraries print.
_MARK = "usb-active doctor: "
# Runs in a process of its own: a library that crashes shall not end the report, and the last line tells which one it was.
_IMPORTS = """
import importlib, json, sys, warnings
warnings.simplefilter("ignore")
def say(*found):
    print("", sys.argv[1] + json.dumps(found), sep="\\n", flush=True)
for name in sys.argv[2:]:
    say(name, None)
    try:
        importlib.import_module(name)
        problem = ""
    except BaseException as error:
        problem = " ".join(f"{type(error).__name__}: {error}".split())
    say(name, problem)
import torch
cuda = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
mps = getattr(torch.backends, "mps", None) is not None and torch.backends.mps.is_available()
say("", {"cuda": cuda, "cuda_version": torch.version.cuda, "mps": mps, "threads": torch.get_num_threads()})
"""


def doctor(out: TextIO) -> bool:
    """Print the report; whether everything that is needed is there and works."""
    print(f"usb-active {__version__}, Python {platform.python_version()}, {platform.platform()}", file=out)
    print(f"python: {sys.executable}", file=out)
    problems = [*_versions(out), *_imports(out), *_plugins(), *_folders(out)]
    for problem in problems:
        print(f"problem: {problem}", file=out)
    print(f"{len(problems)} problems" if problems else "no problems", file=out)
    return not problems


def _versions(out: TextIO) -> Iterator[str]:
    tested = tested_versions()
    print(f"\n{'package':<18} {'installed':<14} tested", file=out)
    for name in [*_required(), *FAISS, *STOOD_IN]:
        found = _installed(name)
        print(f"{name:<18} {found or '-':<14} {tested.get(canonical(name), '-')}", file=out)
        if found is None and name not in (*FAISS, *STOOD_IN):
            yield f"{name} is not installed; pip install {name}"
    print(f"tested: {CONSTRAINTS}", file=out)
    if all(map(_installed, FAISS)):
        yield f"{' and '.join(FAISS)} are both installed; they share a module: uninstall both, then install one"


def _required() -> list[str]:
    """The names of what this package depends on, extras left out."""
    from packaging.requirements import Requirement

    try:
        lines = requires("usb-active") or []
    except PackageNotFoundError:  # a source tree on the path
        return []
    parsed = map(Requirement, lines)
    return [one.name for one in parsed if one.marker is None or one.marker.evaluate({"extra": ""})]


def tested_versions() -> dict[str, str]:
    """Name, as `canonical` has it → version on which the tests passed, for this Python and system."""
    from packaging.requirements import Requirement

    lines = (line.partition("#")[0].strip() for line in CONSTRAINTS.read_text(encoding="utf-8").splitlines())
    parsed = [Requirement(line) for line in lines if line]
    return {canonical(one.name): str(one.specifier).removeprefix("==") for one in parsed if one.marker is None or one.marker.evaluate()}


def canonical(name: str) -> str:
    """The spelling of a distribution's name by which `torch_geometric` and `torch-geometric` are one."""
    from packaging.utils import canonicalize_name

    return canonicalize_name(name)


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _imports(out: TextIO) -> Iterator[str]:
    print("\nimports", file=out)
    # Optional ones only where they are installed.
    names = [name for name, needed in MODULES.items() if needed or _installed(name)]
    child = subprocess.run([sys.executable, "-c", _IMPORTS, _MARK, *names], capture_output=True, text=True)
    lines = [json.loads(line.removeprefix(_MARK)) for line in child.stdout.splitlines() if line.startswith(_MARK)]
    found = {name: problem for name, problem in lines if name}
    for name in names:
        problem = found.get(name, "not tried")
        if problem is None:
            problem = f"ended the process (exit code {child.returncode})"
        print(f"{name:<18} {problem or 'ok'}", file=out)
        if problem and MODULES[name]:
            yield f"{name} does not import ({problem})"
    yield from _devices(dict(lines).get(""), out)


def _devices(found: dict | None, out: TextIO) -> Iterator[str]:
    print(f"\nCPU cores: {os.cpu_count()}", file=out)
    if found is None:
        print("devices: unknown, since torch does not import", file=out)
        return
    cuda = ", ".join(found["cuda"]) or "no device"
    print(f"CUDA: {cuda} (torch is built for {found['cuda_version'] or 'the CPU alone'})", file=out)
    print(f"torch threads: {found['threads']}", file=out)
    if found["mps"]:
        print("MPS: there, not used", file=out)
    if _installed("faiss-gpu") and not found["cuda"]:
        yield "faiss-gpu is installed, but torch sees no CUDA device; pip uninstall faiss-gpu, then pip install faiss-cpu"


def _plugins() -> Iterator[str]:
    REGISTRY.discover()
    for origin, problem in REGISTRY.broken.items():
        yield f"plugins of {origin} do not import ({problem})"


def _folders(out: TextIO) -> Iterator[str]:
    print("\nwrite access", file=out)
    places = {"working directory": Path.cwd, "temporary files": lambda: Path(tempfile.gettempdir()), "home": Path.home}
    for what, find in places.items():
        folder, problem = _place(find)
        print(f"{what:<18} {folder}: {problem or 'ok'}", file=out)
        # The others are only noted: a run writes into save_dir.
        if problem and what == "temporary files":
            yield f"{folder} cannot be written ({problem}); set TMPDIR to a folder that can"


def _place(find: Callable[[], Path]) -> tuple[str, str]:
    """A folder, and why nothing can be written there; there may be none: it was removed, or the user has no home."""
    try:
        folder = find()
    except (OSError, RuntimeError) as error:
        return "none", _reason(error)
    return str(folder), _not_writable(folder)


def _not_writable(folder: Path) -> str:
    try:
        with tempfile.TemporaryFile(dir=folder):
            return ""
    except OSError as error:
        return _reason(error)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
