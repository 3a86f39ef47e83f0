"""The contract of an analysis: watches trainings, chooses nothing, and reports on what it saw.

Dimension letters: N pool, U unlabelled, C classes, B batch.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from usb_active.contracts.observer import Observer
from usb_active.errors import UsageError

if TYPE_CHECKING:
    from usb_active.report.runs import RunRecord


class Analysis(Observer):
    """Watches the trainings of a run, and reports on them afterwards. Override `report`; everything else is optional.

    It sees what any observer sees (usb_active/contracts/observer.py), but has no part in what is trained, picked or labelled: weights and
    labels of a run with it are bit-identical to those of a run without. One instance lives for the whole run; the report is made by another
    one, that was made from the run's configuration and has seen nothing: what it needs must be in files.
    """

    kind: ClassVar[str] = "analysis"
    # How many intervals a training must have for the report to say anything; a configuration with fewer is refused.
    least_intervals: int = 1
    # Set by the core before any training, and before `report`: where the analysis may keep files. Nothing there is ever removed, under
    # `keep: last` neither. A file's name should tell cycle and step, and a file be written whole
    # (`usb_active.storage.artifacts.save_artifact`): steps that a killed run repeats are observed again, with the same result.
    folder: Path | None = None

    def report(self, run: RunRecord, out: Path) -> str | None:
        """A Markdown section on a run (headings from ### down), or None where the run holds nothing for it yet.

        Args:
            run: the run's path, configuration and metrics. `self.folder` is what it was to the run.
            out: a folder for this section's figures alone. The page lies beside it: link a figure as `{out.name}/figure.png`.
        """
        raise NotImplementedError(f"{type(self).__name__}.report")


def analysis_folder(run_path: Path, role: str = "analysis", name: str = "") -> Path:
    """Where an analysis of a run keeps its files: `analysis` for one alone; one of several, by its role and name, `analysis/0_NAME`."""
    number = re.search(r"\d+", role)
    return run_path / "analysis" / f"{number[0]}_{re.sub(r'[^A-Za-z0-9_.-]+', '_', name)}" if number else run_path / "analysis"


def is_analysis(role: str) -> bool:
    """Whether a role of a run's plugins is that of an analysis."""
    return role.partition("[")[0] == "analysis"


def check_intervals(where: str, analysis: Any, num_train_iter: int, role: str = "analysis") -> None:
    """UsageError when a training has fewer intervals than the analysis needs: nothing could be reported in the end."""
    interval, least = analysis.interval, analysis.least_intervals
    if interval is None or num_train_iter // interval >= least:
        return
    valid = f"at most {num_train_iter // least}" if num_train_iter >= least else f"train at least {least} steps"
    reason = f"a training of {num_train_iter} steps has {num_train_iter // interval} of them, and '{analysis.name}' needs {least}"
    raise UsageError(f"{where}: active.{role}.interval: {interval}: {reason}; {valid}")
