"""What the terminal shows of a run."""

from __future__ import annotations

from usb_active.report.runs import metric
from usb_active.report.tables import SECONDS, number


def summary_table(metrics: list[dict]) -> str:
    """A plain-text table of a run's cycles, for the terminal. Accuracies in percent."""
    kinds = {line["evaluated_on"] for line in metrics} - {"none"}
    suffix = " (held-out labels)" if kinds == {"validation"} else ""
    header = ["cycle", "labels", f"last %{suffix}", "best % (optimistic)", "balanced %", *SECONDS.values()]
    rows = [
        [
            str(line["cycle"]),
            str(line["num_labels"]),
            *(number(metric(line, name)) for name in ("accuracy", "best_accuracy", "balanced_accuracy")),
            *(number(line.get(name), 1, 1) for name in SECONDS),
        ]
        for line in metrics
    ]
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [map(str.rjust, row, widths) for row in (header, *rows)]
    return "\n".join("  ".join(line) for line in lines)
