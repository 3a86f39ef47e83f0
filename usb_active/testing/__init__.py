"""The contract suites: what the core relies on in a plugin of each kind, as tests that a plugin's own test class inherits.

    from usb_active.testing import DatasetContract

    class TestMine(DatasetContract):
        name = "mine"
        config = {"size": 100}

For this package's own tests, and for those of other distributions. They are written for pytest, which is needed here alone; nothing of
the package imports this. A suite is imported when it is first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

try:
    import pytest
except ImportError as error:
    raise ImportError("usb_active.testing needs pytest: pip install pytest") from error

# Suite, and the module that has it.
SUITES = {
    "AcquisitionContract": "acquisition",
    "InitialLabelsContract": "initial_labels",
    "DatasetContract": "dataset",
    "FeaturesContract": "features",
    "PriorContract": "prior",
    "PretrainerContract": "pretrainer",
    "OracleContract": "oracle",
    "NetworkContract": "network",
    "AnalysisContract": "analysis",
    "AlgorithmContract": "algorithm",
}
# Before they are imported: a check that fails shall show values, as one in a test file does.
pytest.register_assert_rewrite(*(f"{__name__}.{module}" for module in (*SUITES.values(), "contract", "runs")))


def __getattr__(name: str) -> Any:
    if name not in SUITES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(SUITES)}")
    return getattr(import_module(f"{__name__}.{SUITES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *SUITES])
