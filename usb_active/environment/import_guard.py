"""`import semilearn` as this package needs it: what images do not use is left aside, and a failure is one line.

semilearn imports torchaudio, transformers, aim and wandb although only its audio, text and logging parts use them. They cost
seconds, and each may fail to load beside the torch, the Python or the protobuf that is installed. While semilearn is imported,
stand-ins take their place, which load the real package when they are first used.

The finder is installed by `import usb_active`, so that it does not matter which module imports semilearn first: ours, a plugin's,
or one that a worker or a spawned process needs to unpickle what it is given.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

from usb_active.environment.release import check_release
from usb_active.errors import UsageError

GUARDED = "semilearn"
STOOD_IN = ("aim", "torchaudio", "transformers", "wandb")
# Modules that a dependency has announced to remove, under whose old names semilearn asks for them.
MOVED = {"timm.models.layers": "timm.layers"}
# The exact versions that the tests passed on.
CONSTRAINTS = Path(__file__).parent.with_name("constraints.txt")


class BrokenInstall(UsageError, ImportError):
    """A package that is needed is missing, does not load, or does not go with another one."""


def install() -> None:
    """Guard the first `import semilearn` of this process; again is harmless."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder:
    """Has semilearn executed by `_execute`; during that, finds stand-ins for what is not loaded already, in the same thread alone."""

    def __init__(self) -> None:
        self._thread: int | None = None

    @property
    def standing_in(self) -> bool:
        """Whether this thread is importing semilearn."""
        return self._thread == threading.get_ident()

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        top, parent = fullname.partition(".")[0], fullname.rpartition(".")[0]
        if top in STOOD_IN and self.standing_in and (top == fullname or isinstance(sys.modules.get(top), StandIn)):
            return ModuleSpec(fullname, _Loader(self), is_package=True)
        if isinstance(sys.modules.get(parent), StandIn):
            # Another thread wants the real one now.
            return self._real_spec(fullname, getattr(_load(parent), "__path__", None), target)
        if fullname != GUARDED:
            return None
        spec = self._real_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            # On this one loader, so that it stays of its class for code that asks it for sources or resources.
            execute = spec.loader.exec_module
            spec.loader.exec_module = lambda module: self._execute(execute, module)
        return spec

    def _real_spec(self, *request: Any) -> ModuleSpec | None:
        """What the other finders say."""
        specs = (finder.find_spec(*request) for finder in sys.meta_path if finder is not self and hasattr(finder, "find_spec"))
        return next((spec for spec in specs if spec is not None), None)

    def _execute(self, execute: Callable[[ModuleType], None], module: ModuleType) -> None:
        for folder in getattr(module, "__path__", ()):
            check_release(Path(folder))
        try:
            with warnings.catch_warnings(), self._stand_ins(), _moved_modules():
                # What USB's dependencies have deprecated among themselves is nothing that a user of ours could mend.
                warnings.simplefilter("ignore")
                execute(module)
        except UsageError:
            raise
        except Exception as error:  # whatever the packages that semilearn imports may raise
            raise BrokenInstall(explain(error)) from error

    @contextmanager
    def _stand_ins(self) -> Iterator[None]:
        self._thread = threading.get_ident()
        try:
            yield
        finally:
            self._thread = None
            _forget_stand_ins()


class _Loader:
    """Makes stand-ins."""

    def __init__(self, finder: _Finder):
        self._finder = finder

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return StandIn(spec.name, self._finder)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing: there is nothing in it."""


class StandIn(ModuleType):
    """A module that is not imported before an attribute of it is used.

    While semilearn is imported an attribute is a `_Deferred` class, as `from x import Y` wants it; later, and in other threads, it is
    the real one. `__version__` is that of the package installed.
    """

    def __init__(self, name: str, finder: _Finder):
        super().__init__(name)
        self.__finder = finder

    def __getattr__(self, attribute: str) -> Any:
        if attribute == "__version__" and "." not in self.__name__ and (found := _installed(self.__name__)):
            return found
        # What asks for special names only looks around.
        if attribute.startswith("__"):
            raise AttributeError(f"module '{self.__name__}' has no attribute '{attribute}'")
        if self.__finder.standing_in:
            return _Deferred(attribute, (), {"__module__": self.__name__})
        return getattr(_load(self.__name__), attribute)


class _Deferred(type):
    """Something of a package that is not imported yet; to call it, or to ask it for an attribute, is to import it."""

    @property
    def _real(cls) -> Any:
        return getattr(_load(cls.__module__), cls.__name__)

    def __call__(cls, *args: Any, **keywords: Any) -> Any:
        return cls._real(*args, **keywords)

    def __getattr__(cls, attribute: str) -> Any:
        if attribute.startswith("__"):
            raise AttributeError(f"'{cls.__name__}' has no attribute '{attribute}'")
        return getattr(cls._real, attribute)

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, cls._real)


def _load(name: str) -> ModuleType:
    """The real module. BrokenInstall, in one line, when it does not load."""
    try:
        # Where another thread is still importing semilearn, which takes what is loaded as it is.
        _forget_stand_ins(name.partition(".")[0])
        return importlib.import_module(name)
    except Exception as error:  # whatever a library that does not load raises
        top = name.partition(".")[0]
        raise BrokenInstall(
            f"{top} {_version(top)} does not load beside torch {_version('torch')} on Python {sys.version.partition(' ')[0]} "
            f"({_reason(error)}); nothing for images needs it. Versions that go together: {CONSTRAINTS}"
        ) from error


def _forget_stand_ins(top: str = "") -> None:
    """Take stand-ins out of the loaded modules: all, or those of one package."""
    for name, module in list(sys.modules.items()):
        if isinstance(module, StandIn) and top in ("", name.partition(".")[0]):
            sys.modules.pop(name, None)


@contextmanager
def _moved_modules() -> Iterator[None]:
    """Modules that have gone, under their old names; those that are still there are left alone."""
    gone = [old for old in MOVED if importlib.util.find_spec(old) is None]
    sys.modules.update({old: importlib.import_module(MOVED[old]) for old in gone})
    try:
        yield
    finally:
        for old in gone:
            sys.modules.pop(old, None)


def explain(error: BaseException) -> str:
    """One line: what failed, in which version of which package, and the command that installs versions known to work."""
    raised_by = _distribution_of(error.__traceback__)
    who = f" in {raised_by}" if raised_by else ""
    return (
        f"{GUARDED} {_version(GUARDED)} does not import: {_reason(error)}{who}; "
        f'versions known to work: pip install -c {CONSTRAINTS} "usb-active[cpu]"'
    )


def _reason(error: BaseException) -> str:
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= 200 else f"{text[:199]}…"


def _installed(distribution: str) -> str | None:
    """The version of a package that is installed, None where it is not."""
    # Imported late: nothing that goes well asks for it.
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _version(distribution: str) -> str:
    return _installed(distribution) or "(not installed)"


def _distribution_of(traceback: TracebackType | None) -> str:
    """`name version` of the installed package whose code raised, "" if it is none."""
    from importlib.metadata import packages_distributions

    names = []
    while traceback is not None:
        names.append(traceback.tb_frame.f_globals.get("__name__", "").partition(".")[0])
        traceback = traceback.tb_next
    owners = packages_distributions()
    found = next((name for name in reversed(names) if name in owners), "")
    return f"{owners[found][0]} {_version(owners[found][0])}" if found else ""
