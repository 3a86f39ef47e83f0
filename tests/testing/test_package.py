"""The package of the suites: one for each kind, each shown to fail, none of them imported before it is asked for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from usb_active import testing
from usb_active.contracts.registry import CONTRACTS


def python(code: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def test_every_kind_has_a_suite_of_its_own():
    kinds = {suite.kind for suite in (getattr(testing, name) for name in testing.SUITES)}
    assert len(kinds) == len(testing.SUITES) and kinds == set(CONTRACTS)


def test_every_suite_is_tried_on_broken_plugins():
    here = Path(__file__).parent
    for name, module in testing.SUITES.items():
        assert f"assert_complete({name}, BROKEN)" in (here / f"test_{module}.py").read_text(encoding="utf-8")


def test_every_check_says_why():
    for name in testing.SUITES:
        suite = getattr(testing, name)
        assert not [check for check in dir(suite) if check.startswith("test_") and not getattr(suite, check).__doc__]


def test_a_suite_is_imported_when_it_is_asked_for():
    heavy = "sorted({'torch', 'semilearn', 'usb_active.testing.acquisition'} & set(sys.modules))"
    assert python(f"import sys, usb_active.testing; print({heavy})").stdout == "[]\n"


def test_without_pytest_one_line_says_so():
    result = python("import sys; sys.modules['pytest'] = None; import usb_active.testing")
    assert result.stderr.splitlines()[-1] == "ImportError: usb_active.testing needs pytest: pip install pytest"
    assert python("import sys; sys.modules['pytest'] = None; import usb_active, usb_active.cli").returncode == 0


def test_an_unknown_suite_is_named():
    result = python("from usb_active.testing import DatasetContrakt")
    assert "cannot import name 'DatasetContrakt'" in result.stderr
