"""The suite of an analysis: it watches without a trace in what is trained, and reports from its files alone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

from usb_active.contracts.analysis import Analysis, analysis_folder
from usb_active.report.runs import read_runs
from usb_active.testing.contract import Contract, files_below
from usb_active.testing.runs import STEPS, Trained, TrainingStopped, differing_weights, labels_of, settings, train


class AnalysisContract(Contract):
    """What the core relies on in any analysis, on a real run with digits.

    Attributes for an analysis to set:
        config: its own keys; an interval must fit into 12 steps. usb: USB's keys of the run that it watches, such as the algorithm.
    """

    kind = "analysis"
    usb: ClassVar[Mapping[str, Any]] = {"algorithm": "fixmatch"}

    # ------------------------------------------------------------------------------------------ helpers
    def settings(self, folder: Path, watched: bool = True) -> dict[str, Any]:
        """The YAML of a run, with the analysis or without."""
        active = {"analysis": {"name": self.name, **self.config}} if watched else {}
        return settings(folder, active, self.usb)

    def trained(self, folder: Path, **changes: Any) -> Trained:
        """A run that was watched, to its end."""
        return train(self.settings(folder), **changes)

    def plugin(self, folder: Path | None) -> Analysis:
        """An instance that has seen nothing, as a report makes it."""
        plugin = self.make(self.config)
        plugin.folder = folder
        return plugin

    def report(self, run: Path, out: Path, folder: Path | None = None) -> str | None:
        """What it says of a run."""
        out.mkdir(parents=True, exist_ok=True)
        (found,), _ = read_runs([run])
        return self.plugin(folder or analysis_folder(run)).report(found, out)

    @pytest.fixture(scope="class")
    def whole(self, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trained:
        return request.cls().trained(tmp_path_factory.mktemp("whole"))

    # ------------------------------------------------------------------------------------------ watching
    def test_it_is_registered(self) -> None:
        """A run finds it by its name alone."""
        assert isinstance(self.plugin(None), self.registered()) and self.plugin(None).name == self.shown_name

    def test_the_run_is_the_same_without_it(self, whole: Trained, tmp_path: Path) -> None:
        """It has no part in what is trained: weights and labels are bit-identical."""
        other = train(self.settings(tmp_path, watched=False))
        assert labels_of(other.path) == labels_of(whole.path), "other labels than without it"
        assert not differing_weights(other.path, whole.path), "other weights than without it"

    def test_it_writes_into_its_folder_alone(self, whole: Trained, tmp_path: Path) -> None:
        """All else in a run's directory is the core's."""
        other = train(self.settings(tmp_path, watched=False))
        known, now = (
            {name for name in files_below(path) if not name.startswith("analysis/") and "tfevents" not in name}
            for path in (other.path, whole.path)
        )
        assert now <= known, f"has written {sorted(now - known)}"

    def test_stopped_in_the_middle_it_keeps_the_same(self, whole: Trained, tmp_path: Path) -> None:
        """Steps that a killed run repeats are observed again, and must give the same files."""
        with pytest.raises(TrainingStopped):
            self.trained(tmp_path, stop_at=STEPS * 2 // 3 + 1)
        other = self.trained(tmp_path)
        one, again = (files_below(analysis_folder(path)) for path in (whole.path, other.path))
        assert one.keys() == again.keys(), f"other files: {sorted(one.keys() ^ again.keys())}"
        assert one == again, f"other content of {sorted(name for name in one if one[name] != again[name])}"

    # ------------------------------------------------------------------------------------------ reporting
    def test_the_report_is_a_section(self, whole: Trained, tmp_path: Path) -> None:
        """It stands on a page below a heading of the second level."""
        text = self.report(whole.path, tmp_path / "figures")
        assert isinstance(text, str) and text.strip(), f"nothing to say of a run that it watched: {text!r}"
        assert not re.search(r"^#{1,2} ", text, re.MULTILINE), "headings must be from ### down"

    def test_figures_are_where_the_report_links_them(self, whole: Trained, tmp_path: Path) -> None:
        """The page lies beside the folder of the figures."""
        text = self.report(whole.path, tmp_path / "figures") or ""
        broken = [link for link in re.findall(r"!\[[^\]]*\]\(([^)\s]+)\)", text) if not (tmp_path / link).is_file()]
        assert not broken, f"linked, and not there: {broken}"

    def test_reporting_changes_no_run(self, whole: Trained, tmp_path: Path) -> None:
        """A report may be made of a resumed run, and by another user than its owner."""
        before = files_below(whole.path)
        self.report(whole.path, tmp_path / "figures")
        assert files_below(whole.path) == before, "the report has changed the run's directory"

    def test_the_same_report_again(self, whole: Trained, tmp_path: Path) -> None:
        """A report says what the files say."""
        assert self.report(whole.path, tmp_path / "1" / "figures") == self.report(whole.path, tmp_path / "2" / "figures")

    def test_nothing_is_said_of_what_was_not_seen(self, whole: Trained, tmp_path: Path) -> None:
        """A run whose first training has not ended has no files yet: None, and no traceback."""
        (empty := tmp_path / "empty").mkdir()
        assert self.report(whole.path, tmp_path / "figures", empty) is None, "has something to say without its files"
