"""How good the model is by its audit, what it says of itself, and which stop rules were reached: a section of the report on one run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from usb_active.report.drawing import add_frame, add_legend, add_title, line_style, new_figure, place_ticks, save_figure
from usb_active.report.runs import RunRecord
from usb_active.report.tables import code, escape, number, table
from usb_active.storage.audit_file import samples_at_draw
from usb_active.storage.classes import with_added

_OWN_NOTE = "Own estimate: the mean of the largest probability over the unlabelled pool; it is right only where the model is calibrated."
_AUDIT_NOTE = (
    "Audit: samples drawn at random before anything was chosen, and trained on by nothing; with the exact 95 % interval of a share "
    f"(Clopper and Pearson), each by itself. {_OWN_NOTE}"
)
# Name in metrics.jsonl → the head of its column, the factor it is shown times, and the digits.
_OTHERS = {
    "own_estimate": ("own estimate %", 100, 2),
    "kappa": ("kappa with the model before", 1, 4),
    "uncertainty": ("mean entropy", 1, 4),
}


def audit_section(run: RunRecord, out: Path) -> tuple[str, list[Path]]:
    """The Markdown section and the picture that it shows, written into `out`; nothing of a run with neither an audit nor stop rules."""
    lines = [line for line in run.metrics if line.get("own_estimate") is not None or _has_audit(line)]
    if not lines:
        return "", []
    audited = [line for line in lines if _has_audit(line)]
    parts, drawn = ["## Without a test set"], []
    if audited:
        drawn = [_draw(run, audited, out / "audit.png")]
        parts += [f"![Audit]({drawn[0].name})"]
    parts += [_cycle_table(lines, bool(audited)), _AUDIT_NOTE if audited else _OWN_NOTE]
    if audited and (joined := audited[-1].get("audit_joined")):
        size = samples_at_draw(run.directory)
        known = f"The audit was drawn from the {size} samples that there were"
        parts += [f"{known}: it says nothing of the {joined} that joined the pool later."]
    if audited:
        parts += [f"By class, after cycle {audited[-1]['cycle']}:", _class_table(run, audited[-1])]
    return "\n\n".join([*parts, *_stop_rules(run, lines)]), drawn


def audits_section(runs: Sequence[RunRecord]) -> str:
    """The Markdown section on the audits of several runs, a row for each; nothing where none has an audit."""
    rows = []
    for run in runs:
        audited = [line for line in run.metrics if _has_audit(line)]
        if not audited:
            continue
        line = audited[-1]
        shown = [number(line["audit_accuracy"]), interval_text(line), number(line.get("own_estimate")), _test_accuracy(line)]
        rows.append([run.path, run.config.get("seed", "–"), line["num_labels"], line["audit_samples"], *shown])
    if not rows:
        return ""
    head = ["run", "seed", "labels", "of the audit", "audit %", "95 % interval", "own estimate %", "test %"]
    return "\n\n".join(["## Without a test set", table(head, rows), f"After the last training of each. {_AUDIT_NOTE}"])


def _stop_rules(run: RunRecord, lines: Sequence[dict]) -> list[str]:
    """What each rule has said, or that it has said nothing."""
    said = [(line["cycle"], why) for line in lines for why in line.get("stop") or []]
    reached = "\n".join(f"- cycle {cycle}: {escape(why)}" for cycle, why in said)
    silent = [rule for rule in (run.config.get("active") or {}).get("stop") or [] if not _has_spoken(rule, said)]
    names = ", ".join(code(_rule_text(rule)) for rule in silent)
    return [
        *([f"Stop rules that were reached:\n\n{reached}"] if said else []),
        *([f"Stop rules that have not been reached: {names}."] if silent else []),
    ]


def _has_spoken(rule: dict, said: Sequence[tuple[int, str]]) -> bool:
    return any(why.startswith(f"{rule['name']}: ") for _, why in said)


def _rule_text(rule: dict) -> str:
    """`target, at_least 0.8, of audit`"""
    return ", ".join([rule["name"], *(f"{name} {value}" for name, value in rule.items() if name not in ("name", "then"))])


def interval_text(line: dict, low: str = "audit_low", high: str = "audit_high") -> str:
    """`59.3 to 93.2`, in percent; `–` where there is no audit."""
    return "–" if line.get(low) is None else f"{100 * line[low]:.1f} to {100 * line[high]:.1f}"


def _has_audit(line: dict) -> bool:
    return line.get("audit_accuracy") is not None


def _test_accuracy(line: dict) -> str:
    return number(line["accuracy"] if line["evaluated_on"] == "test" else None)


def _cycle_table(lines: Sequence[dict], has_audit: bool) -> str:
    has_test = any(line["evaluated_on"] == "test" for line in lines)
    others = {name: shown for name, shown in _OTHERS.items() if any(line.get(name) is not None for line in lines)}
    head = ["cycle", "labels", *(["audit %", "95 % interval", "samples", "skipped"] if has_audit else [])]
    head += [*(["test %"] if has_test else []), *(called for called, _, _ in others.values())]
    rows = []
    for line in lines:
        audit = [number(line.get("audit_accuracy")), interval_text(line), line.get("audit_samples", "–"), line.get("audit_skipped", "–")]
        test = [_test_accuracy(line)] if has_test else []
        values = [number(line.get(name), scale, digits) for name, (_, scale, digits) in others.items()]
        rows.append([line["cycle"], line["num_labels"], *(audit if has_audit else []), *test, *values])
    return table(head, rows)


def _class_table(run: RunRecord, line: dict) -> str:
    counts, query = line["audit_class_counts"], run.directory.query(line["cycle"], probs=False)
    # A class that was added while the query waited is not in it.
    known = with_added(run.directory, query.class_names, line["cycle"]) if query else ()
    names = known if len(known) == len(counts) else range(len(counts))
    rows = [
        [name, count, right, number(right / count if count else None), f"{100 * low:.1f} to {100 * high:.1f}" if count else "–"]
        for name, count, right, low, high in zip(
            names, counts, line["audit_class_right"], line["audit_class_low"], line["audit_class_high"], strict=True
        )
    ]
    return table(["class", "samples", "right", "%", "95 % interval"], rows)


def _draw(run: RunRecord, lines: Sequence[dict], path: Path) -> Path:
    """Accuracy with its interval by number of labels, the model's own estimate, and the test accuracy where there is one."""
    figure = new_figure(height=4)
    axes = figure.add_subplot()
    counts = [line["num_labels"] for line in lines]
    values = [100 * line["audit_accuracy"] for line in lines]
    below = [value - 100 * line["audit_low"] for value, line in zip(values, lines, strict=True)]
    above = [100 * line["audit_high"] - value for value, line in zip(values, lines, strict=True)]
    axes.errorbar(counts, values, [below, above], capsize=4, linewidth=1.6, label="audit, with its 95 % interval", **line_style(0))
    tested = [line for line in run.metrics if line["evaluated_on"] == "test" and line["accuracy"] is not None]
    for place, label, name, shown in ((1, "own estimate", "own_estimate", lines), (2, "test set", "accuracy", tested)):
        _plot(axes, [(line["num_labels"], 100 * line[name]) for line in shown if line.get(name) is not None], label, place)
    add_title(axes, "Accuracy without a test set")
    axes.set_xlabel("number of labels, those of the audit among them")
    axes.yaxis.set_major_formatter("{x:g}%")
    axes.set_ylim(max(axes.get_ylim()[0], -1), min(axes.get_ylim()[1], 101))
    place_ticks(axes, sorted(set(counts)))
    add_frame(axes)
    add_legend(axes, beside=False)
    return save_figure(figure, path)


def _plot(axes: Any, points: Sequence[tuple[int, float]], label: str, place: int) -> None:
    if points:
        axes.plot(*zip(*points, strict=True), label=label, linewidth=1.4, markersize=5, **line_style(place))
