"""What a report, the terminal and cells.csv show of an audit, of the model's own estimate and of stop rules."""

from __future__ import annotations

import csv
import json
import shutil

import pytest
from run_helpers import settings, train

from usb_active.report import summary_table, write_report
from usb_active.report.audit import audit_section, audits_section, interval_text
from usb_active.report.runs import read_runs
from usb_active.report.under_way import is_under_way
from usb_active.storage.classes import CLASSES_FILE

END = {"name": "overall_uncertainty", "below": 100, "then": "end"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run with an audit of 12, and one that a stop rule ended after the first of three trainings."""
    folder = tmp_path_factory.mktemp("runs")
    train(settings(folder, "audited", active={"audit": 12, "stop": [{"name": "target", "at_least": 1e-9, "of": "test"}]}))
    train(settings(folder, "ended", active={"cycles": 2, "stop": [END]}))
    train(settings(folder, "plain"))
    return folder


def record(path):
    (found,), _ = read_runs([path])
    return found


def test_the_section_of_a_run_with_an_audit(folder, tmp_path):
    run = record(folder / "audited")
    text, (picture,) = audit_section(run, tmp_path)
    assert picture == tmp_path / "audit.png" and picture.read_bytes().startswith(b"\x89PNG")
    assert "![Audit](audit.png)" in text
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in text.splitlines() if line.startswith("| ")]
    head, _, first, second = rows[:4]
    assert head[:7] == ["cycle", "labels", "audit %", "95 % interval", "samples", "skipped", "test %"]
    for line, shown in zip(run.metrics, (first, second), strict=True):
        expected = [line["cycle"], line["num_labels"], f"{100 * line['audit_accuracy']:.2f}", interval_text(line), 12, 0]
        assert shown[:6] == list(map(str, expected))
    # A row for each class; those of which the audit has none are not left out.
    assert [row[0] for row in rows[-10:]] == list("0123456789")
    assert sum(int(row[1]) for row in rows[-10:]) == 12
    assert [line for line in text.splitlines() if line.startswith("- ")] == [
        f"- cycle {line['cycle']}: target: the test accuracy is {100 * line['accuracy']:.1f} % (at least 1e-07 %)" for line in run.metrics
    ]


def test_classes_that_were_added_are_called_by_their_names(folder, tmp_path):
    shutil.copytree(folder / "audited", tmp_path / "run")
    added = {"added": [{"name": "ten", "cycle": 1, "time": "2024-05-01T12:00:00+00:00"}]}
    (tmp_path / "run" / CLASSES_FILE).write_text(json.dumps(added))
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    for name, more in (("counts", 0), ("right", 0), ("low", 0.0), ("high", 1.0)):
        lines[1][f"audit_class_{name}"].append(more)
    (tmp_path / "run/metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    text, _ = audit_section(record(tmp_path / "run"), tmp_path)
    by_class = text.split("By class, after cycle 1:")[1]
    assert [line.split("|")[1].strip() for line in by_class.splitlines() if line.startswith("| ")][2:] == [*"0123456789", "ten"]


def test_the_section_of_a_run_with_rules_alone(folder, tmp_path):
    text, pictures = audit_section(record(folder / "ended"), tmp_path)
    assert pictures == []
    assert "own estimate %" in text and "audit %" not in text and "By class" not in text
    assert "- cycle 0: overall\\_uncertainty: the mean entropy" in text or "- cycle 0: overall_uncertainty: the mean entropy" in text


def test_rules_that_have_said_nothing_are_named(folder, tmp_path):
    run = record(folder / "audited")
    kappa = {"name": "kappa", "at_least": 0.99, "last": 3, "then": "say"}
    run.config["active"]["stop"] = [kappa, {"name": "target", "at_least": 0.9, "of": "audit", "then": "end"}]
    text, _ = audit_section(run, tmp_path)
    # The rule that has spoken is of the same name as the last of these.
    assert "Stop rules that have not been reached: `kappa, at_least 0.99, last 3`." in text
    run.config["active"]["stop"] = []
    assert "not been reached" not in audit_section(run, tmp_path)[0]


def test_several_runs_have_a_row_each(folder, tmp_path):
    text = audits_section([record(folder / name) for name in ("audited", "plain", "ended")])
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in text.splitlines() if line.startswith("| ")]
    last = record(folder / "audited").metrics[-1]
    audited, own, test = (f"{100 * last[name]:.2f}" for name in ("audit_accuracy", "own_estimate", "accuracy"))
    assert rows[2:] == [[str(folder / "audited"), "3", str(last["num_labels"]), "12", audited, interval_text(last), own, test]]
    assert audits_section([record(folder / "plain")]) == ""
    write_report([folder / "audited", folder / "plain"], tmp_path / "out")
    assert text in (tmp_path / "out/report.md").read_text()


def test_what_measured_nothing_has_no_tables_of_it(folder, tmp_path):
    shutil.copytree(folder / "audited", tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    for line in lines:
        line |= {"accuracy": None, "best_accuracy": None, "balanced_accuracy": None, "evaluated_on": "none"}
    (tmp_path / "run/metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    write_report([tmp_path / "run"], tmp_path / "out")
    text = (tmp_path / "out/report.md").read_text()
    heads = [line for line in text.splitlines() if line.startswith("## ")]
    assert heads[:3] == ["## Without a test set", "## Runs", "## Cycles"]
    cycles = text.split("## Cycles\n\n")[1].splitlines()
    assert cycles[0].startswith("| cycle | labels | of the audit | acquisition | selected, by class | ")
    assert "optimistic" not in cycles[0] and "balanced" not in cycles[0] and cycles[2].split("|")[3].strip() == "12"
    assert summary_table(lines).split()[:4] == ["cycle", "labels", "audit", "%"]


def test_a_run_without_either_has_no_section(folder, tmp_path):
    assert audit_section(record(folder / "plain"), tmp_path) == ("", [])


def test_the_whole_report(folder, tmp_path):
    written = write_report([folder / "audited"], tmp_path / "out")
    assert tmp_path / "out/audit.png" in written
    assert "## Without a test set" in (tmp_path / "out/report.md").read_text()


def test_the_terminal(folder):
    audited, plain = (summary_table(record(folder / name).metrics).splitlines()[0] for name in ("audited", "plain"))
    assert "audit %  95 % interval" in audited
    assert "audit" not in plain


def test_the_rows_for_statistics_of_ones_own(folder, tmp_path):
    write_report([folder / "audited", folder / "plain"], tmp_path / "out")
    with open(tmp_path / "out/cells.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["run"] == str(folder / "audited")]
    lines = record(folder / "audited").metrics
    assert [float(row["audit_accuracy"]) for row in rows] == [line["audit_accuracy"] for line in lines]
    assert [float(row["own_estimate"]) for row in rows] == [line["own_estimate"] for line in lines]


def test_a_run_that_a_rule_has_ended_is_not_under_way(folder, tmp_path):
    ended = record(folder / "ended")
    assert len(ended.metrics) == 1
    assert not is_under_way(ended)
    # What a rule has not ended, although it lacks trainings, is.
    shutil.copytree(folder / "ended", tmp_path / "ended")
    (tmp_path / "ended/state.json").unlink()
    assert is_under_way(record(tmp_path / "ended"))


@pytest.mark.parametrize(("line", "text"), [({}, "–"), ({"audit_low": 0.5934, "audit_high": 0.9317}, "59.3 to 93.2")])
def test_an_interval_as_text(line, text):
    assert interval_text(line) == text
