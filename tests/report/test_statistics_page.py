"""The section "Statistics" of the report of several runs, and the folders of runs that a report takes."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from scipy import stats
from study_runs import ERROR, groups_of, seeds, study_run, table_below

from usb_active import cli
from usb_active.errors import UsageError
from usb_active.records import CLASS_METRICS
from usb_active.report import write_report
from usb_active.report.statistics_page import mean_text, round_targets, statistics_section

ACCURACY = CLASS_METRICS[0]


def no_dataset(run):
    raise UsageError("not here")


def study(folder, gaps=(0.0, 0.01, 0.02)):
    """margin and random over three numbers of labels."""
    paths = seeds(folder, "margin", [0.5, 0.7, 0.8], gaps, acquisition="margin", line={"acquisition_seconds": 6.0})
    return paths + seeds(folder, "random", [0.5, 0.6, 0.7], gaps)


def test_means_with_the_intervals_of_t(tmp_path):
    text, drawn = statistics_section(groups_of(*study(tmp_path)), tmp_path)
    rows = table_below(text, "Accuracy (%), mean and interval")
    # 50, 51, 52: deviation 1 over √3, times Student's quantile for 2 degrees of freedom.
    half = stats.t.ppf(0.975, 2) / np.sqrt(3)
    means = {"10": 51, "20": 71, "30": 81}
    assert rows[0] == {"method": "margin", **{count: f"{mean:.2f} ± {half:.2f} (3)" for count, mean in means.items()}}
    assert drawn == [] and "[cells.csv](cells.csv)" in text


def test_areas_and_paired_differences(tmp_path):
    rows = table_below(statistics_section(groups_of(*study(tmp_path)), tmp_path)[0], "Area")
    # (50 + 70) / 2 · 10 + (70 + 80) / 2 · 10 over 20 is 67.5; random 60. One point more in the mean of the seeds.
    assert [row["area"].split(" ±")[0] for row in rows] == ["68.50", "61.00"] and rows[0]["labels"] == "10–30"
    # Every seed has the same difference.
    assert [row["difference from random"] for row in rows] == ["+7.50 ± 0.00 (3)", "–"]


def test_labels_needed_and_label_efficiency(tmp_path):
    text, _ = statistics_section(groups_of(*study(tmp_path)), tmp_path, targets=[61, 76, 40, 90])
    margin, random = table_below(text, "Labels needed")
    # Mean curves 51, 71, 81 and 51, 61, 71: 61 at 15 and 20 labels, 76 at 25 and never, 71 at 20 and 30.
    assert list(margin.values()) == ["margin", "3", "15 (1.33×)", "25 (≥1.20×)", "≤ 10", r"\> 30", "20 (1.50×)"]
    assert list(random.values()) == ["random", "3", "20", r"\> 30", "≤ 10", r"\> 30", "30"]
    assert list(margin) == ["method", "runs", "61 %", "76 %", "40 %", "90 %", "what random ends with"]


def test_another_reference(tmp_path):
    text, _ = statistics_section(groups_of(*study(tmp_path)), tmp_path, reference="margin")
    assert table_below(text, "Area")[1]["difference from margin"] == "-7.50 ± 0.00 (3)"
    # Random needs twice as many labels and more for what it never reaches.
    assert table_below(text, "Labels needed")[1]["what margin ends with"] == r"\> 30 (≤1.00×)"


def test_seconds_and_how_many_times_those_of_the_reference(tmp_path):
    rows = table_below(statistics_section(groups_of(*study(tmp_path)), tmp_path)[0], "Cost")
    # Three trainings of 9 s; acquisitions of 6 and 1 s.
    assert list(rows[0].values()) == ["margin", "30", "27.0 ± 0.0 (3)", "18.0 ± 0.0 (3)", "45.0 ± 0.0 (3)", "1.50"]
    assert rows[1]["both s"] == "30.0 ± 0.0 (3)" and rows[1]["× reference"] == "1.00"


def test_a_run_under_way_is_named_and_left_out_of_areas_and_seconds(tmp_path):
    paths = [*study(tmp_path), study_run(tmp_path / "fresh", [0.5], seed=3, acquisition="margin")]
    text, _ = statistics_section(groups_of(*paths), tmp_path)
    assert table_below(text, "Area")[0]["area"].endswith("(3)") and table_below(text, "Area")[0]["labels"] == "10–30"
    assert table_below(text, "Cost")[0]["training s"] == "27.0 ± 0.0 (3)" and table_below(text, "Accuracy")[0]["10"].endswith("(4)")
    assert f"- margin: {tmp_path / 'fresh'} without all of 10 to 30 labels; not in areas and differences." in text


def test_few_runs_have_no_interval(tmp_path):
    text, _ = statistics_section(groups_of(*study(tmp_path, gaps=(0.0, 0.02))), tmp_path)
    assert table_below(text, "Accuracy")[0]["10"] == "51.00 (2)" and table_below(text, "Area")[0]["difference from random"] == "+7.50 (2)"
    assert "none for fewer than 3 runs" in text and "nothing is claimed" in text
    assert mean_text([], 1, 1) == "–"


def test_lower_is_better(tmp_path):
    paths = seeds(tmp_path, "m", [0.4, 0.2], (0, 0, 0), acquisition="margin", metric="absolute_error")
    paths += seeds(tmp_path, "r", [0.4, 0.3], (0, 0, 0), metric="absolute_error")
    text, _ = statistics_section(groups_of(*paths, measures=ERROR), tmp_path, targets=[0.34])
    margin, random = table_below(text, "Labels needed")
    # From 0.4 to 0.2 and to 0.3 in ten labels.
    assert (margin["0.34"], random["0.34"]) == ("13 (1.23×)", "16") and margin["what random ends with"] == "15 (1.33×)"
    assert text.count("Lower is better") >= 3 and table_below(text, "Absolute error, mean")[1]["20"] == "0.300 ± 0.000 (3)"


def test_settings_have_a_column_and_their_own_range(tmp_path):
    paths = study(tmp_path / "ten") + [
        path for rule in ("margin", "random") for path in seeds(tmp_path / "one", rule, [0.6], acquisition=rule, active={"budget": 0})
    ]
    text, _ = statistics_section(groups_of(*paths), tmp_path)
    assert {(row["setting"], row["labels"]) for row in table_below(text, "Area")} == {("budget 10", "10–30"), ("budget 0", "10")}
    # Of one number of labels nothing can be looked up.
    assert {row["setting"] for row in table_below(text, "Labels needed")} == {"budget 10"}


@pytest.mark.parametrize(
    ("scores", "measure", "expected"),
    [
        ([[0.5, 0.9]], ACCURACY, [60, 70, 80, 90]),
        ([[0.81, 0.83], [0.8, 0.85]], ACCURACY, [82, 84]),
        ([[0.5, 0.5]], ACCURACY, []),
        ([[0.4, 0.1]], ERROR[0], [0.3, 0.2, 0.1]),
    ],
)
def test_round_targets(scores, measure, expected):
    found = round_targets([(np.arange(len(of)), np.array(of)) for of in scores], measure)
    assert sorted(found) == pytest.approx(sorted(expected))


# ------------------------------------------------------------------------------------------ the report
def test_the_report_of_several_runs_has_the_section_and_that_of_one_has_not(tmp_path):
    paths = study(tmp_path / "runs")
    for seed in range(3):
        for rule in ("entropy", "margin"):
            step = {"step": 5, "acquisition": rule}
            paths.append(study_run(tmp_path / "runs" / f"{rule}5-{seed}", [0.55, 0.7 + 0.01 * seed], seed=seed, **step))
    files = write_report(paths, tmp_path / "out")
    text = files[1].read_text(encoding="utf-8")
    assert text.index("## Runs") < text.index("## Statistics") < text.index("### Cost")
    assert len((tmp_path / "out" / "cells.csv").read_text().splitlines()) == 1 + 18 + 12
    one = write_report([paths[0]], tmp_path / "one", dataset_of=no_dataset)
    assert "Statistics" not in one[1].read_text(encoding="utf-8") and not (tmp_path / "one" / "cells.csv").exists()


def test_runs_that_were_not_evaluated_have_no_statistics(tmp_path):
    paths = [study_run(tmp_path / str(seed), [None, None], seed=seed) for seed in (0, 1)]
    [page, cells] = write_report(paths, tmp_path / "out")
    assert "Statistics" not in page.read_text(encoding="utf-8") and cells.is_file()
    with pytest.raises(UsageError, match="none of these was evaluated"):
        write_report(paths, tmp_path / "out", targets=[80])


def test_a_folder_stands_for_the_runs_in_it(tmp_path, capsys):
    study(tmp_path / "study")
    (tmp_path / "study" / "notes").mkdir()
    (tmp_path / "study" / "study.yaml").write_text("anything")
    assert cli.main(["report", str(tmp_path / "study")]) == 0
    out = tmp_path / "study" / "report"
    assert capsys.readouterr().out.splitlines() == [str(out / name) for name in ("learning_curve.png", "report.md", "cells.csv")]
    first = (out / "report.md").read_text(encoding="utf-8")
    assert len(table_below(first, "Area")) == 2
    # The report in the folder is no run; a run that is named beside its folder counts once.
    runs = [tmp_path / "study", tmp_path / "study" / "margin-0"]
    again = write_report(runs, tmp_path / "out")[1].read_text(encoding="utf-8")
    assert again.partition("## Statistics")[2] == first.partition("## Statistics")[2]


def test_a_folder_without_runs_is_refused_in_one_line(tmp_path, capsys):
    (tmp_path / "empty" / "notes").mkdir(parents=True)
    assert cli.main(["report", str(tmp_path / "empty")]) == 2
    line = f"usb-active: error: {tmp_path / 'empty'} is not a run directory: it has no config.yaml, nor has any folder in it\n"
    assert capsys.readouterr().err == line
    assert cli.main(["report", str(tmp_path / "nowhere")]) == 2
    assert "nowhere is not a run directory" in capsys.readouterr().err


def test_a_damaged_run_in_a_folder_is_named(tmp_path, capsys):
    study(tmp_path / "study")
    (tmp_path / "study" / "margin-1" / "metrics.jsonl").write_text("[1\n")
    assert cli.main(["report", str(tmp_path / "study")]) == 2
    assert "margin-1/metrics.jsonl:1" in capsys.readouterr().err


def test_options_of_the_command(tmp_path, capsys):
    study(tmp_path / "study")
    command = ["report", str(tmp_path / "study"), "--out", str(tmp_path / "out")]
    assert cli.main([*command, "--target", "61", "--reference", "margin"]) == 0
    assert table_below((tmp_path / "out" / "report.md").read_text(encoding="utf-8"), "Labels needed")[1]["61 %"] == "20 (0.75×)"
    capsys.readouterr()
    for wrong, said in ((["--reference", "none"], "no method 'none'"), (["--target", "nan"], "must be a number ('nan')")):
        try:
            assert cli.main([*command, *wrong]) == 2
        except SystemExit as left:
            assert left.code == 2
        assert said in capsys.readouterr().err
    shutil.rmtree(tmp_path / "out")
    assert cli.main(["report", str(tmp_path / "study" / "margin-0"), "--out", str(tmp_path / "out"), "--target", "61"]) == 2
    assert "are for several runs: one was given" in capsys.readouterr().err and not (tmp_path / "out").exists()
