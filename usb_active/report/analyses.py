"""analysis.md: what the analyses of runs have to say, and the methods of several runs against each other."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from usb_active.contracts.analysis import analysis_folder
from usb_active.errors import UsageError, reason_of
from usb_active.report.groups import Group, common_title
from usb_active.report.pairwise import compare
from usb_active.report.pairwise_page import pairwise_section
from usb_active.report.runs import RunRecord
from usb_active.report.tables import escape
from usb_active.storage.durable import atomic_write, make_folder


def check_anything_to_analyse(groups: Sequence[Group]) -> None:
    """UsageError, one line, when neither an analysis nor two methods are there."""
    runs = [run for group in groups for run in group.runs]
    if any(_asked(run) for run in runs) or compare(groups) is not None:
        return
    from usb_active.contracts.registry import REGISTRY

    names = REGISTRY.names("analysis")
    known = f" (known: {', '.join(names)})" if names else ""
    raise UsageError(
        f"nothing to analyse: no run was started with `analysis: {{name: …}}` below `active:` in its YAML{known}, "
        "and a comparison needs runs of at least two methods"
    )


def write_analyses(groups: Sequence[Group], out: Path, trusted: bool = False) -> list[Path]:
    """Write analysis.md and its figures into `out`; their paths, the page first. `trusted`: see `usb_active.config.trust`."""
    parts, drawn = [f"# {escape(common_title('Analyses', groups))}"], []
    runs = [run for group in groups for run in group.runs]
    for run, run_folder in _folders([run for run in runs if _asked(run)], out):
        several = len(_asked(run)) > 1
        for role, asked in _asked(run).items():
            title = f"{run.path}: {_name(asked)}" if several else run.path
            folder = run_folder.with_name(f"{run_folder.name}_{_number(role)}") if several else run_folder
            text = _section(run, role, asked, folder, trusted)
            parts += [f"## {escape(title)}", text]
            # Those it shows: an earlier report may have left others.
            drawn += [path for path in sorted(folder.glob("*")) if f"({folder.name}/{path.name})" in text]
    comparison = compare(groups)
    if comparison is not None:
        text, figures = pairwise_section(comparison, out)
        parts.append(text)
        drawn += figures
    page = out / "analysis.md"
    atomic_write(page, lambda stream: stream.write(("\n\n".join(parts) + "\n").encode()))
    return [page, *drawn]


def _asked(run: RunRecord) -> dict[str, Any]:
    """What the run's configuration says of its analyses, by role: see `ActiveConfig.analyses`."""
    found = (run.config.get("active") or {}).get("analysis")
    if isinstance(found, list) and len(found) > 1:
        return {f"analysis[{number}]": item for number, item in enumerate(found)}
    one = found[0] if isinstance(found, list) and found else found
    return {"analysis": one} if one else {}


def _name(asked: Any) -> Any:
    return asked.get("name") if isinstance(asked, dict) else asked


def _number(role: str) -> str:
    return role.partition("[")[2].rstrip("]")


def _folders(runs: Sequence[RunRecord], out: Path) -> list[tuple[RunRecord, Path]]:
    """Each run with a folder for its figures, whose name is its own and can stand in a link."""
    names: list[str] = []
    for run in runs:
        name = "analysis_" + re.sub(r"[^\w.-]+", "_", run.path.resolve().name, flags=re.ASCII)
        number = sum(other == name or other.startswith(f"{name}__") for other in names)
        names.append(f"{name}__{number + 1}" if number else name)
    return [(run, out / name) for run, name in zip(runs, names, strict=True)]


def _section(run: RunRecord, role: str, asked: Any, folder: Path, trusted: bool) -> str:
    """What one of the run's analyses reports, or why it does not."""
    try:
        analysis = _make(run, role, asked, trusted)
        make_folder(folder)
        text = analysis.report(run, folder)
    except Exception as error:  # an analysis may be anyone's code; the page says why its section is missing
        return f"Left out: {escape(reason_of(error))}"
    return text or f"'{escape(analysis.name)}' has nothing to report yet: no training that it watched has finished."


def _make(run: RunRecord, role: str, asked: Any, trusted: bool) -> Any:
    """An analysis of the run, from its configuration; the rest of it need not be valid here (a data set may be elsewhere)."""
    from usb_active.config.choices import Problems, choose
    from usb_active.config.trust import check_plugins, foreign_plugins
    from usb_active.contracts.registry import REGISTRY

    problems = Problems(str(run.path / "config.yaml"))
    names = run.config.get("plugins") or []
    foreign = [] if trusted else foreign_plugins(names, run.path)
    REGISTRY.load_modules([name for name in names if name not in foreign], run.path)
    if _name(asked) not in REGISTRY.names("analysis"):
        check_plugins(run.path, names, trusted)
    choice = choose("analysis", asked, f"active.{role}", run.path, problems, features=True)
    problems.raise_if_any()
    analysis = choice.make()
    analysis.name = choice.name
    analysis.folder = analysis_folder(run.path, role, choice.name)
    return analysis
