"""What the terminal shows of a run."""

from __future__ import annotations

from collections.abc import Sequence

from usb_active.contracts.task import Classification
from usb_active.records import Metric
from usb_active.report.audit import interval_text
from usb_active.report.runs import metric
from usb_active.report.tables import SECONDS, number


def summary_table(metrics: list[dict], measures: Sequence[Metric] = Classification.metrics) -> str:
    """A plain-text table of a run's cycles, for the terminal. `measures`: the task's metrics, the headline first.

    Where something was trained and nothing evaluated, metrics have no columns.
    """
    headline, *others = measures
    kinds = {line["evaluated_on"] for line in metrics} - {"none"}
    suffix = " (held-out labels)" if kinds == {"validation"} else ""
    shown: dict[str, tuple[str, Metric]] = {}
    if kinds or not metrics:
        shown = {
            headline.key: (f"last {headline.column}{suffix}", headline),
            f"best_{headline.key}": (f"best {headline.column} (optimistic)", headline),
            **{other.key: (other.column, other) for other in others},
        }
    audited = ["audit %", "95 % interval"] if any(line.get("audit_accuracy") is not None for line in metrics) else []
    header = ["cycle", "labels", *(column for column, _ in shown.values()), *audited, *SECONDS.values()]
    rows = [
        [
            str(line["cycle"]),
            str(line["num_labels"]),
            *(number(metric(line, name, headline.key), each.factor, each.digits) for name, (_, each) in shown.items()),
            *([number(line.get("audit_accuracy")), interval_text(line)] if audited else []),
            *(number(line.get(name), 1, 1) for name in SECONDS),
        ]
        for line in metrics
    ]
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [map(str.rjust, row, widths) for row in (header, *rows)]
    return "\n".join("  ".join(line) for line in lines)
