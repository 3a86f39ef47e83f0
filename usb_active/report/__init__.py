"""What finished trainings say: learning curves, Markdown tables, and pictures of what was picked.

Runs whose configurations differ only in the seed and in keys without effect on results are one *group*: a method over seeds. The number
reported first is always the last EMA model's; the best over a training's evaluations was chosen on the samples it is measured on, so it is
listed as optimistic, and never drawn.
"""

from __future__ import annotations

from usb_active.report.terminal import summary_table
from usb_active.report.writing import write_report

__all__ = ["summary_table", "write_report"]
