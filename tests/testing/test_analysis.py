"""Every check of an analysis's suite fails for an analysis that breaks its rule, and for that rule alone."""

from __future__ import annotations

import json
import time

import pytest
from broken_plugins import Broken, assert_complete, assert_fails, failing, suite_for

from usb_active import Analysis, register_plugin
from usb_active.testing import AnalysisContract

GIVEN = {"usb": {"algorithm": "supervised"}}


@register_plugin("analysis", "contract_sound")
class Sound(Analysis):
    """How many steps there were."""

    name = "contract_sound"

    def after_train_step(self, algorithm):
        self.write(f"{algorithm.it:03d}.json", algorithm.it + 1)

    def write(self, name, value):
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / name).write_text(json.dumps(value))

    def report(self, run, out):
        seen = sorted(self.folder.glob("*.json"))
        return self.text(len(seen), out) if seen else None

    def text(self, steps, out):
        (out / "steps.png").write_bytes(b"")
        return f"### Steps\n\n{steps}\n\n![steps]({out.name}/steps.png)"


def analysis(cls):
    """Registered under a name of its own."""
    cls.name = f"contract_{cls.__name__.lower()}"
    return register_plugin("analysis", cls.name)(cls)


@analysis
class Misnamed(Sound):
    def __init__(self, config=None):
        super().__init__(config)
        self.__class__ = Sound


@analysis
class Training(Sound):
    def after_train_step(self, algorithm):
        super().after_train_step(algorithm)
        algorithm.model.classifier.weight.data.mul_(0.999)


@analysis
class Scattering(Sound):
    def write(self, name, value):
        super().write(name, value)
        (self.folder.parent / "steps.txt").write_text(name)


@analysis
class Timed(Sound):
    def write(self, name, value):
        super().write(name, time.time())


@analysis
class Silent(Sound):
    def report(self, run, out):
        return None


@analysis
class Loud(Sound):
    def text(self, steps, out):
        return "# " + super().text(steps, out)


@analysis
class Unlinked(Sound):
    def text(self, steps, out):
        return super().text(steps, out).replace("/steps.png", "/other.png")


@analysis
class Keeping(Sound):
    def text(self, steps, out):
        (self.folder / "report.txt").write_text(str(time.time()))
        return super().text(steps, out)


@analysis
class Dated(Sound):
    def text(self, steps, out):
        return f"{super().text(steps, out)}\n\n{time.perf_counter_ns()}"


@analysis
class Careless(Sound):
    def report(self, run, out):
        return self.text(len(list(self.folder.glob("*.json"))), out)


BROKEN = [
    Broken("test_it_is_registered", Misnamed),
    Broken("test_the_run_is_the_same_without_it", Training),
    Broken("test_it_writes_into_its_folder_alone", Scattering),
    Broken("test_stopped_in_the_middle_it_keeps_the_same", Timed),
    Broken("test_the_report_is_a_section", Silent),
    Broken("test_the_report_is_a_section", Loud),
    Broken("test_figures_are_where_the_report_links_them", Unlinked),
    Broken("test_reporting_changes_no_run", Keeping),
    Broken("test_the_same_report_again", Dated),
    Broken("test_nothing_is_said_of_what_was_not_seen", Careless),
]
# Those that need no further run: it costs seconds, and they read what another check reads.
REPORTING = [name for name in dir(AnalysisContract) if "report" in name or "said" in name or "registered" in name]


def suite_of(one):
    return suite_for(AnalysisContract, one, {"name": one.name, **GIVEN})


def test_every_check_has_an_analysis_that_fails_it():
    assert_complete(AnalysisContract, BROKEN)


@pytest.mark.parametrize("one", BROKEN, ids=lambda one: one.id)
def test_a_broken_analysis_fails_its_check(one, tmp_path):
    checks = sorted({one.check, *(name for name in REPORTING if name.startswith("test_"))})
    assert_fails(AnalysisContract, one._replace(given={"name": one.plugin.name, **GIVEN}), tmp_path, checks)


def test_a_sound_analysis_passes(tmp_path):
    assert not failing(suite_of(Sound), tmp_path)
