"""Running a contract suite on a plugin that is broken on purpose: which of its checks fail?"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from usb_active.testing.contract import Contract


class Broken(NamedTuple):
    """A plugin, and the check of its suite that must fail for it; `also` may fail, as a consequence. All others must pass.

    given: what the test class says of the plugin, beside the class.
    """

    check: str
    plugin: type
    also: Iterable[str] = ()
    given: dict[str, Any] = {}

    @property
    def id(self) -> str:
        return f"{self.check.removeprefix('test_')}-{self.plugin.__name__}"


class UnderAnotherName:
    """Before a sound plugin: it has another name than that under which it is registered."""

    name = property(lambda self: "another", lambda self, value: None)


def checks_of(suite: type) -> list[str]:
    """The names of a suite's checks."""
    return sorted(name for name in dir(suite) if name.startswith("test_"))


def suite_for(suite: type[Contract], plugin: type, given: dict[str, Any]) -> type[Contract]:
    """A test class as the author of `plugin` would write it."""
    return type(f"For{plugin.__name__}", (suite,), {"plugin_class": plugin, **given})


def failing(suite: type[Contract], folder: Path, checks: Iterable[str] | None = None) -> dict[str, str]:
    """The checks that fail, and what they say."""
    found, runs = {}, {}
    for number, name in enumerate(checks or checks_of(suite)):
        for case, given in enumerate(_cases(getattr(suite, name))):
            (inside := folder / f"{number}_{case}").mkdir()
            if said := _failure(suite(), name, inside, given, runs):
                found[name] = said
    return found


def _cases(method: Any) -> Iterator[dict[str, Any]]:
    """The arguments of each of a check's cases."""
    marks = [mark for mark in getattr(method, "pytestmark", ()) if mark.name == "parametrize"]
    if not marks:
        yield {}
    for mark in marks:
        name, values = mark.args
        yield from ({name: value} for value in values)


def _failure(suite: Contract, check: str, folder: Path, given: dict[str, Any], runs: dict[str, Any]) -> str:
    """What a check says where it fails, else "". `runs`: what all checks of a suite share."""
    method = getattr(suite, check)
    with pytest.MonkeyPatch.context() as patch:
        fixtures = {
            "tmp_path": lambda: folder,
            "monkeypatch": lambda: patch,
            "world": lambda: _world(folder),
            "fresh": lambda: _world(folder, fresh=True),
            "asking": lambda: _asking(suite, folder),
            "whole": lambda: runs["whole"] if "whole" in runs else runs.setdefault("whole", suite.trained(folder / "whole")),
        }
        wanted = inspect.signature(method).parameters.keys() - given.keys()
        try:
            method(**given, **{name: fixtures[name]() for name in wanted})
        except pytest.skip.Exception:
            return ""
        except (Exception, pytest.fail.Exception) as error:
            return f"{type(error).__name__}: {error}" or "?"
    return ""


def _world(folder: Path, **made: Any) -> Any:
    from usb_active.testing.pool import World

    return World(folder / "world", **made)


def _asking(suite: Any, folder: Path) -> Any:
    from usb_active.testing.oracle import Asking

    return Asking(suite, folder)


def assert_complete(suite: type[Contract], broken: Iterable[Broken]) -> None:
    """AssertionError for checks of the suite that no broken plugin fails."""
    shown = {one.check for one in broken}
    assert set(checks_of(suite)) == shown, set(checks_of(suite)) ^ shown


def assert_fails(suite: type[Contract], one: Broken, folder: Path, checks: Iterable[str] | None = None) -> None:
    """AssertionError unless the check fails for the broken plugin, and no other does but its consequences."""
    found = failing(suite_for(suite, one.plugin, one.given), folder, checks)
    assert one.check in found and found.keys() <= {one.check, *one.also}, found
