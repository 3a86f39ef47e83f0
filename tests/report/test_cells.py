"""cells.csv: a row for each run and number of labels."""

from __future__ import annotations

import csv

from study_runs import ERROR, groups_of, study_run

from usb_active.report.cells import write_cells


def rows_of(path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_a_row_for_each_run_and_number_of_labels(tmp_path):
    scores, line = [0.5, 1 / 3], {"balanced_accuracy": 0.25, "best_accuracy": 0.75}
    paths = [study_run(tmp_path / f"{rule}{seed}", scores, seed=seed, acquisition=rule, line=line) for rule in "mr" for seed in (0, 1)]
    rows = rows_of(write_cells(groups_of(*paths), tmp_path / "cells.csv"))
    assert [(row["run"], row["num_labels"]) for row in rows] == [(str(path), count) for path in paths for count in ("10", "20")]
    assert rows[3] == {
        "run": str(paths[1]), "method": "m", "active.acquisition.name": "m", "seed": "1", "cycle": "1", "num_labels": "20",
        "evaluated_on": "test", "accuracy": repr(1 / 3), "best_accuracy": "0.75", "selected_accuracy": "", "balanced_accuracy": "0.25",
        "acquisition_seconds": "1.0", "train_seconds": "9.0", "cpu_seconds": "",
    }  # fmt: skip


def test_where_a_cycle_brought_no_label_the_later_training_counts_and_seconds_add_up(tmp_path):
    path = study_run(tmp_path / "run", [0.5, 0.6, 0.7], step=0)
    [row] = rows_of(write_cells(groups_of(path), tmp_path / "cells.csv"))
    assert (row["cycle"], row["accuracy"], row["train_seconds"], row["acquisition_seconds"]) == ("2", "0.7", "27.0", "3.0")


def test_held_out_labels_other_metrics_and_nothing_measured(tmp_path):
    held = study_run(tmp_path / "held", [None], line={"evaluated_on": "validation", "validation_accuracy": 0.5, "train_seconds": None})
    [row] = rows_of(write_cells(groups_of(held), tmp_path / "cells.csv"))
    assert (row["evaluated_on"], row["accuracy"], row["train_seconds"]) == ("validation", "0.5", "")
    other = study_run(tmp_path / "other", [0.25], metric="absolute_error")
    [row] = rows_of(write_cells(groups_of(other, measures=ERROR), tmp_path / "cells.csv"))
    assert row["absolute_error"] == "0.25" and "accuracy" not in row
    blind = study_run(tmp_path / "blind", [None])
    assert rows_of(write_cells(groups_of(blind), tmp_path / "cells.csv"))[0]["accuracy"] == ""


def test_no_text_is_a_formula(tmp_path):
    paths = [study_run(tmp_path / "run", [0.5], acquisition="=1+1"), study_run(tmp_path / "b", [0.5], acquisition="a,b")]
    write_cells(groups_of(*paths), tmp_path / "cells.csv")
    text = (tmp_path / "cells.csv").read_text(encoding="utf-8")
    assert "'=1+1" in text and ",=1+1" not in text
    assert {row["method"] for row in rows_of(tmp_path / "cells.csv")} == {"'=1+1", "a,b"}


def test_all_metrics_that_some_run_has_and_what_methods_logged(tmp_path):
    live = {"live_accuracy": 0.25, "live_balanced_accuracy": 0.125, "validation_accuracy": 0.75, "log": {"gap": 0.5, "=1+1": 2.0}}
    paths = [study_run(tmp_path / "a", [0.5], seed=0, line=live)]
    labeled = {"labeled_accuracy": 0.9, "live_labeled_accuracy": 0.8, "log": {"radius": 3.0}}
    paths.append(study_run(tmp_path / "b", [0.5], seed=1, line=labeled))
    one, other = rows_of(write_cells(groups_of(*paths), tmp_path / "cells.csv"))
    names = [*live, *labeled][:3] + ["labeled_accuracy", "live_labeled_accuracy", "log.gap", "log.=1+1", "log.radius"]
    assert [one[name] for name in names] == ["0.25", "0.125", "0.75", "", "", "0.5", "2.0", ""]
    assert [other[name] for name in names] == ["", "", "", "0.9", "0.8", "", "", "3.0"]
    # Another task's live metric; and of what nobody has, there is no column.
    path = study_run(tmp_path / "other", [0.25], metric="absolute_error", line={"live_absolute_error": 0.5})
    [row] = rows_of(write_cells(groups_of(path, measures=ERROR), tmp_path / "cells.csv"))
    assert row["live_absolute_error"] == "0.5" and not {name for name in row if name.startswith(("labeled", "validation", "log."))}
