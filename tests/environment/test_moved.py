"""Old names of modules: plugins in files that were written against version 0.1.0 still load."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

from usb_active.environment.moved import MOVED

# As CONTRIBUTING of version 0.1.0 had it.
OLD_PLUGIN = '''
import numpy as np
from pydantic import Field

from usb_active import Acquisition, PluginConfig, register_plugin
from usb_active.ranking import top_k
from usb_active.registry import Declaration
from usb_active.pretraining_loop import EpochTraining


@register_plugin("acquisition", "target_confidence")
class TargetConfidence(Acquisition):
    class Config(PluginConfig):
        target: float = Field(0.5, ge=0, le=1)

    @property
    def needs(self):
        return frozenset({"probs"})

    def select(self, view, budget):
        scores = -np.abs(view.probs[view.candidates].max(axis=1) - self.config.target)
        return view.candidates[top_k(scores, budget, view.rng)]
'''


@pytest.mark.parametrize("old", sorted(MOVED))
def test_an_old_name_is_the_module_itself(old):
    now = importlib.import_module(f"usb_active.{MOVED[old]}")
    spec = now.__spec__
    sys.modules.pop(f"usb_active.{old}", None)
    with pytest.warns(DeprecationWarning, match=rf"usb_active\.{old} is usb_active\.{MOVED[old]} now"):
        assert importlib.import_module(f"usb_active.{old}") is now
    assert now.__spec__ is spec and now.__name__ == f"usb_active.{MOVED[old]}"


def test_a_plugin_of_version_0_1_0_loads(tmp_path):
    (tmp_path / "old_plugin.py").write_text(OLD_PLUGIN)
    code = (
        "from pathlib import Path; from usb_active.contracts.registry import REGISTRY\n"
        f"REGISTRY.load_modules([{str(tmp_path / 'old_plugin.py')!r}])\n"
        "print(REGISTRY.get('acquisition', 'target_confidence').__name__)"
    )
    found = subprocess.run([sys.executable, "-W", "default", "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "TargetConfidence\n"
    # The warning points at the author's line.
    assert "old_plugin.py:6: DeprecationWarning: usb_active.ranking is usb_active.numerics.ranking now" in found.stderr


def test_what_never_was_is_not_found():
    with pytest.raises(ModuleNotFoundError, match="usb_active.rankings"):
        importlib.import_module("usb_active.rankings")
