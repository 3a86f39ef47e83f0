"""The report on run directories made here: what it groups, what it says, and what it draws."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from usb_active.contracts.dataset import Dataset
from usb_active.errors import UsageError
from usb_active.report import embedding, summary_table, write_report
from usb_active.report.curves import learning_curve
from usb_active.report.galleries import gallery
from usb_active.report.groups import group_runs
from usb_active.report.method_names import method_names, method_settings
from usb_active.report.runs import RunRecord
from usb_active.storage.run_dir import RunDir

CLASSES = ("cat", "dog")


class Pictures(Dataset):
    """Eight pictures of every kind that `load` may give."""

    name = "pictures"

    def prepare(self) -> None:
        self.keys = [f"train/{i}" for i in range(8)]
        self.targets = np.arange(8) % 2
        self.queryable = np.ones(8, dtype=bool)
        self.class_names = CLASSES
        self.img_size, self.in_channels = 16, 3

    def load(self, index: int):
        pixels = np.full((16, 16, 3), 30 * index, dtype=np.uint8)
        kinds = [pixels, pixels[:, :, 0], Image.fromarray(pixels), Image.fromarray(pixels).convert("L")]
        return [*kinds, *(Image.fromarray(pixels).convert(mode) for mode in ("P", "RGBA", "1", "CMYK"))][
            index
        ]


class Shuffled(Pictures):
    """The same pictures in another order: only the key tells which is which."""

    def prepare(self) -> None:
        super().prepare()
        self.keys = self.keys[::-1]

    def load(self, index: int):
        return super().load(7 - index)


def line(cycle: int, labels: int, accuracy: float | None, **more) -> dict:
    base = {
        "cycle": cycle,
        "num_labels": labels,
        "accuracy": accuracy,
        "best_accuracy": None if accuracy is None else accuracy + 0.05,
        "validation_accuracy": None,
        "balanced_accuracy": None if accuracy is None else accuracy - 0.1,
        "class_counts": [labels // 2, labels - labels // 2],
        "selected_class_counts": [1, 3],
        "acquisition": "margin",
        "acquisition_seconds": 2.0,
        "train_seconds": 10.0,
        "evaluated_on": "none" if accuracy is None else "test",
        "log": {},
    }
    return base | more


def config(seed: int = 0, algorithm: str = "fixmatch", acquisition: dict | None = None, **active) -> dict:
    block = {"initial": {"name": "random", "size": 10}, "acquisition": acquisition or {"name": "margin"}}
    block |= {"cycles": 2, "budget": 10, "prior": None}
    usb = {"algorithm": algorithm, "seed": seed, "save_dir": "runs", "save_name": f"run{seed}", "lr": 0.03}
    return usb | {"dataset": {"name": "pictures"}, "active": block | active, "plugins": []}


def make_run(path: Path, settings: dict, metrics: list[dict], labels: list[str] | None = None) -> Path:
    """A run directory as files; `labels`: of one query's samples, "" for skipped and None for pending."""
    path.mkdir(parents=True)
    (path / "config.yaml").write_text(yaml.safe_dump(settings))
    (path / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in metrics))
    if labels is not None:
        keys = [f"train/{i}" for i in range(len(labels))]
        names = {"keys": keys, "acquisition": "margin", "class_names": list(CLASSES), "probs": False}
        (path / "queries").mkdir()
        query = {"cycle": 0, "idx": list(range(len(labels))), **names}
        (path / "queries" / "cycle_000.json").write_text(json.dumps(query))
        rows = ["cycle,index,key,label,status,acquisition,time"]
        for i, label in enumerate(labels):
            if label is not None:
                status = "labeled" if label else "skipped"
                rows.append(f"0,{i},{keys[i]},{label},{status},margin,2024-01-01T00:00:00+00:00")
        (path / "labels.csv").write_text("\n".join(rows) + "\n")
    return path


def curve(*accuracies: float, start: int = 10, step: int = 10) -> list[dict]:
    return [line(i, start + step * i, accuracy) for i, accuracy in enumerate(accuracies)]


def read_table(report: Path, heading: str) -> list[dict[str, str]]:
    """The rows of the Markdown table below a heading, as dicts by column."""
    section = re.split(r"^## ", report.read_text(), flags=re.M)
    text = next(part for part in section if part.startswith(heading))
    cells = [
        [cell.strip() for cell in row.strip("|").split(" | ")]
        for row in text.splitlines()
        if row.startswith("|")
    ]
    header, _, *rows = cells
    assert all(len(row) == len(header) for row in rows)
    return [dict(zip(header, row, strict=True)) for row in rows]


def as_runs(paths: list[Path]) -> list[RunRecord]:
    directories = [RunDir.read(path) for path in paths]
    return [RunRecord(found.path, found, found.config, found.metrics()) for found in directories]


def no_dataset(run: RunDir) -> Dataset:
    raise UsageError("data_dir: no folder /data/moved")


def test_seeds_are_averaged_and_methods_kept_apart(tmp_path):
    runs = [make_run(tmp_path / f"margin{s}", config(s), curve(0.5, 0.6 + 0.02 * s)) for s in (0, 1, 2)]
    runs.append(make_run(tmp_path / "random", config(0, acquisition={"name": "random"}), curve(0.5, 0.55)))
    files = write_report(runs, tmp_path / "out")
    assert files == [tmp_path / "out" / name for name in ("learning_curve.png", "report.md", "cells.csv")]
    rows = read_table(files[1], "Accuracy (%)")
    # 60, 62, 64: mean 62, sample variance (4 + 0 + 4) / 2 = 4.
    assert rows == [
        {"method": "margin", "10": "50.00 ± 0.00 (3)", "20": "62.00 ± 2.00 (3)"},
        {"method": "random", "10": "50.00 (1)", "20": "55.00 (1)"},
    ]
    assert Image.open(files[0]).size[0] > 800


def test_the_end_lists_last_best_and_balanced_apart_and_sums_the_seconds(tmp_path):
    runs = [make_run(tmp_path / str(s), config(s), curve(0.5, 0.6 + 0.02 * s)) for s in (0, 1)]
    [row] = read_table(write_report(runs, tmp_path / "out")[1], "At the end")
    assert row == {
        "method": "margin",
        "labels": "20",
        # 60 and 62: mean 61, standard deviation sqrt(2) = 1.41. Best is 5 above, balanced 10 below.
        "accuracy on test": "61.00 ± 1.41 (2)",
        "best on test (optimistic)": "66.00 ± 1.41 (2)",
        "balanced accuracy": "51.00 ± 1.41 (2)",
        "acquisition s": "4.0 ± 0.0 (2)",
        "train s": "20.0 ± 0.0 (2)",
    }


def test_unequal_lengths_say_how_many_runs_stand_behind_each_number(tmp_path):
    runs = [make_run(tmp_path / "long", config(0, cycles=2), curve(0.5, 0.6, 0.9))]
    runs.append(make_run(tmp_path / "short", config(1, cycles=1), curve(0.52, 0.62)))
    report = write_report(runs, tmp_path / "out")[1]
    [row] = read_table(report, "Accuracy (%)")
    assert row == {"method": "margin", "10": "51.00 ± 1.41 (2)", "20": "61.00 ± 1.41 (2)", "30": "90.00 (1)"}
    [end] = read_table(report, "At the end")
    assert (end["labels"], end["accuracy on test"], end["train s"]) == (
        "20",
        "61.00 ± 1.41 (2)",
        "20.0 ± 0.0 (2)",
    )
    assert "- margin: the runs stop at different numbers of labels (20, 30)." in report.read_text()


def test_runs_without_a_common_number_of_labels(tmp_path):
    runs = [make_run(tmp_path / str(s), config(s), curve(0.5, 0.6, start=10 + s)) for s in (0, 1)]
    report = write_report(runs, tmp_path / "out")[1]
    [row] = read_table(report, "Accuracy (%)")
    assert row == {
        "method": "margin",
        "10": "50.00 (1)",
        "11": "50.00 (1)",
        "20": "60.00 (1)",
        "21": "60.00 (1)",
    }


def test_the_same_directory_counts_once_and_the_same_seed_is_said(tmp_path):
    one = make_run(tmp_path / "one", config(7), curve(0.5))
    other = make_run(tmp_path / "other", config(7), curve(0.6))
    report = write_report([one, one, other], tmp_path / "out")[1]
    [row] = read_table(report, "Accuracy (%)")
    assert row["10"] == "55.00 ± 7.07 (2)"
    assert "several runs with seed 7" in report.read_text()


def test_labels_that_brought_nothing_new_count_once(tmp_path):
    run = make_run(tmp_path / "run", config(), [line(0, 10, 0.5), line(1, 10, 0.7)])
    report = write_report([run], dataset_of=no_dataset)[1]
    assert read_table(report, "Accuracy (%)") == [{"method": "margin", "10": "70.00 (1)"}]
    assert read_table(report, "At the end")[0]["train s"] == "20.0 (1)"
    assert [row["accuracy on test"] for row in read_table(report, "Cycles")] == ["50.00", "70.00"]


@pytest.mark.parametrize(
    ("settings", "labels"),
    [
        ([config(), config(1)], ["margin", "margin"]),
        ([config(), config(algorithm="flexmatch")], ["fixmatch", "flexmatch"]),
        (
            [config(), config(algorithm="flexmatch", acquisition={"name": "random"})],
            ["fixmatch · margin", "flexmatch · random"],
        ),
        ([config(), config(budget=20)], ["budget 10", "budget 20"]),
        ([config(), config(cycles=9) | {"num_workers": 8, "data_dir": "/elsewhere"}], ["margin", "margin"]),
        (
            [
                config(acquisition={"name": "assl", "alpha": 0.5}),
                config(acquisition={"name": "assl", "alpha": 0.8}),
                config(acquisition={"name": "random", "balanced": True}),
            ],
            ["assl · alpha=0.5", "assl · alpha=0.8", "random"],
        ),
        ([config(), config(prior={"name": "as3l", "until_iter": 3})], ["prior none", "prior as3l"]),
        ([config(), config() | {"lr": 0.1}], ["lr=0.03", "lr=0.1"]),
        ([config(acquisition="margin"), config()], ["margin", "margin"]),
        # Watched or not, it is the same training.
        ([config(), config(analysis={"name": "any", "interval": 3}), config(analysis="any")], ["margin"] * 3),
    ],
)
def test_labels_name_what_differs(tmp_path, settings, labels):
    runs = [make_run(tmp_path / str(i), of_run, curve(0.5)) for i, of_run in enumerate(settings)]
    groups = group_runs(as_runs(runs))
    found = {run.path: group.label for group in groups for run in group.runs}
    assert [found[run] for run in runs] == labels
    assert len(groups) == len(set(labels))


def test_groups_are_in_the_order_of_their_numbers(tmp_path):
    runs = [make_run(tmp_path / str(b), config(budget=b), curve(0.5)) for b in (20, 5, 10)]
    assert [group.label for group in group_runs(as_runs(runs))] == ["budget 5", "budget 10", "budget 20"]


def test_labels_of_distinct_settings_are_distinct():
    names = [
        {"algorithm": a, "active.acquisition.name": q, "lr": r} for a in "xy" for q in "pq" for r in (1, 2)
    ]
    labels = method_names(names)
    assert len(set(labels)) == 8
    assert labels[0] == "x · p · lr=1"


def test_settings_that_differ_are_listed_even_if_the_label_does_not_need_them(tmp_path):
    runs = [make_run(tmp_path / "a", config(), curve(0.5))]
    runs.append(make_run(tmp_path / "b", config(acquisition={"name": "random"}) | {"lr": 0.1}, curve(0.5)))
    rows = read_table(write_report(runs, tmp_path / "out")[1], "Settings")
    assert {"setting": "`lr`", "margin": "0.03", "random": "0.1"} in rows


def test_held_out_labels_are_named_and_not_mixed_with_test(tmp_path):
    held_out = [line(0, 10, None, evaluated_on="validation", validation_accuracy=0.75)]
    run = make_run(tmp_path / "held", config(), held_out)
    report = write_report([run], dataset_of=no_dataset)[1]
    [row] = read_table(report, "At the end")
    assert row["accuracy on held-out labels"] == "75.00 (1)"
    assert row["best over evaluations (optimistic)"] == "–"
    assert "last % (held-out labels)" in summary_table(held_out)

    other = make_run(tmp_path / "test", config(1), curve(0.9))
    both = write_report([run, other], tmp_path / "both")[1]
    rows = read_table(both, "Accuracy (%)")
    assert [(row["method"], row["10"]) for row in rows] == [
        ("margin · on held-out labels", "75.00 (1)"),
        ("margin · on test", "90.00 (1)"),
    ]
    assert "not comparable" in both.read_text()


def test_the_checkpoint_chosen_on_held_out_labels_has_a_column(tmp_path):
    metrics = [line(0, 10, 0.8, validation_accuracy=0.9, selected_accuracy=0.82)]
    report = write_report([make_run(tmp_path / "run", config(), metrics)], dataset_of=no_dataset)[1]
    [row] = read_table(report, "At the end")
    assert row["accuracy on test"] == "80.00 (1)"
    assert row["on test, checkpoint chosen on held-out labels"] == "82.00 (1)"


def test_a_run_without_evaluation_has_its_cycles_and_no_curve(tmp_path):
    run = make_run(tmp_path / "run", config(), [line(0, 10, None), line(1, 20, None)])
    files = write_report([run], dataset_of=no_dataset)
    assert files == [run / "report" / "report.md"]
    text = files[0].read_text()
    assert "margin: not evaluated" in text
    assert "learning_curve" not in text
    # Nothing but rulers would be in the tables of what is measured.
    assert "Accuracy (%)" not in text and "At the end" not in text
    assert [row["labels"] for row in read_table(files[0], "Cycles")] == ["10", "20"] and "optimistic" not in text
    assert [row["train s"] for row in read_table(files[0], "Cycles")] == ["10.0", "10.0"]


def test_runs_without_a_finished_training(tmp_path):
    fresh = make_run(tmp_path / "fresh", config(1), [])
    with pytest.raises(UsageError, match="fresh: no training has finished yet$"):
        write_report([fresh])
    done = make_run(tmp_path / "done", config(), curve(0.5))
    report = write_report([fresh, done], tmp_path / "out", dataset_of=no_dataset)[1]
    assert f"- {fresh}: no training has finished yet; left out." in report.read_text()
    assert read_table(report, "Accuracy (%)") == [{"method": "margin", "10": "50.00 (1)"}]


def test_bad_input_is_one_line(tmp_path):
    with pytest.raises(UsageError, match="nothing to report: no run given"):
        write_report([])
    with pytest.raises(UsageError, match="is not a run directory"):
        write_report([tmp_path])
    (tmp_path / "file").write_text("")
    run = make_run(tmp_path / "run", config(), curve(0.5))
    with pytest.raises(UsageError, match="file") as caught:
        write_report([run], tmp_path / "file" / "report")
    assert "\n" not in str(caught.value)


def test_cycles_of_one_run(tmp_path):
    metrics = [line(0, 4, 0.5, log={"entropy|mean": 1.5}), line(1, 8, 0.6, selected_class_counts=[0, 4])]
    run = make_run(tmp_path / "run", config(), metrics, labels=["cat", "dog", "dog", "dog"])
    report = write_report([run], dataset_of=lambda _: Pictures())[1]
    rows = read_table(report, "Cycles")
    assert [(row["cycle"], row["labels"], row["accuracy on test"]) for row in rows] == [
        ("0", "4", "50.00"),
        ("1", "8", "60.00"),
    ]
    # The second cycle has no query here, so its classes have no names.
    assert [row["selected, by class"] for row in rows] == ["cat 1, dog 3", "0 0, 1 4"]
    assert r"| cycle | entropy\|mean |" in report.read_text()


def test_many_classes_are_summed_up(tmp_path):
    counts = [0] * 40
    counts[7], counts[3] = 5, 2
    run = make_run(tmp_path / "run", config(), [line(0, 7, 0.5, selected_class_counts=counts)])
    report = write_report([run], dataset_of=no_dataset)[1]
    assert read_table(report, "Cycles")[0]["selected, by class"] == "7 5, 3 2; 38 of 40 classes none"


def test_gallery_of_every_kind_of_picture(tmp_path):
    labels = ["cat", "dog", "", None, "cat", "dog", "cat", "dog"]
    run = make_run(tmp_path / "run", config(), curve(0.5), labels)
    files = write_report([run], dataset_of=lambda _: Pictures())
    picture = run / "report" / "gallery_cycle_000.png"
    assert files[2:] == [picture]
    assert "![gallery cycle 000](gallery_cycle_000.png)" in files[1].read_text()
    assert len(np.unique(np.asarray(Image.open(picture).convert("L")))) > 6


def test_gallery_goes_by_keys_not_by_positions(tmp_path):
    run = RunDir.read(make_run(tmp_path / "run", config(), curve(0.5), ["cat"] * 8))
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one = gallery(run, Pictures(), 0, tmp_path / "a")
    other = gallery(run, Shuffled(), 0, tmp_path / "b")
    np.testing.assert_array_equal(np.asarray(Image.open(one)), np.asarray(Image.open(other)))


def test_gallery_shows_the_correction_and_text_as_it_is(tmp_path):
    path = make_run(tmp_path / "run", config(), curve(0.5), ["cat", "dog"])
    before = gallery(RunDir.read(path), Pictures(), 0, tmp_path).read_bytes()
    with open(path / "labels.csv", "a") as file:
        # Not mathematics: a label may hold anything.
        file.write("0,0,train/0,$\\\\frac{$ cost,labeled,margin,2024-01-01T00:00:01+00:00\n")
    assert gallery(RunDir.read(path), Pictures(), 0, tmp_path).read_bytes() != before


def test_names_are_not_read_as_formulas(tmp_path):
    # Two dollars make a formula of matplotlib's, and this one does not parse.
    name = r"$\frac{$"
    settings = config(acquisition={"name": name}) | {"dataset": {"name": name}}
    run = make_run(tmp_path / "run", settings, curve(0.5), ["cat", name])
    query = json.loads((run / "queries" / "cycle_000.json").read_text())
    (run / "queries" / "cycle_000.json").write_text(json.dumps(query | {"acquisition": name, "class_names": ["cat", name]}))
    files = write_report([run], dataset_of=lambda _: Pictures())
    assert [path.name for path in files] == ["learning_curve.png", "report.md", "gallery_cycle_000.png"]


@pytest.mark.filterwarnings("error")
def test_characters_that_the_font_lacks_are_named_in_one_line(tmp_path, caplog):
    settings = config(acquisition={"name": "\u3042"}) | {"dataset": {"name": "\u3044"}}
    run = make_run(tmp_path / "run", settings, curve(0.5), ["\u3042\u3046", "cat"])
    files = write_report([run], dataset_of=lambda _: Pictures())
    assert [path.name for path in files] == ["learning_curve.png", "report.md", "gallery_cycle_000.png"]
    [record] = caplog.records
    assert record.levelname == "WARNING"
    assert set(re.findall(r"U\+\w+", record.getMessage())) == {"U+3042", "U+3044", "U+3046"}


def test_other_warnings_while_drawing_go_their_way(tmp_path):
    def dataset_of(run: RunDir) -> Dataset:
        warnings.warn("the disk is nearly full", stacklevel=1)
        return Pictures()

    run = make_run(tmp_path / "run", config(), curve(0.5), ["\u3042", "cat"])
    with pytest.warns(UserWarning) as caught:
        write_report([run], dataset_of=dataset_of)
    assert [str(warning.message) for warning in caught] == ["the disk is nearly full"]


def test_the_report_comes_without_a_gallery_that_cannot_be_drawn(tmp_path):
    run = make_run(tmp_path / "run", config(), curve(0.5), ["cat"] * 8)
    files = write_report([run], dataset_of=no_dataset)
    assert [path.name for path in files] == ["learning_curve.png", "report.md"]
    assert (
        "- The gallery is left out: the dataset is not available: data_dir: no folder /data/moved"
        in files[1].read_text()
    )
    assert read_table(files[1], "Accuracy (%)") == [{"method": "margin", "10": "50.00 (1)"}]


def test_a_gallery_with_a_vanished_sample_is_left_out(tmp_path):
    run = make_run(tmp_path / "run", config(), curve(0.5), ["cat"] * 9)
    files = write_report([run], dataset_of=lambda _: Pictures())
    assert len(files) == 2
    reason = "- The gallery of cycle 0 is left out: dataset 'pictures' no longer has the samples train/8"
    assert reason in files[1].read_text()
    with pytest.raises(UsageError, match="cycle 3 has no query"):
        gallery(RunDir.read(run), Pictures(), 3, tmp_path)


def test_the_dataset_is_built_from_the_configuration_of_the_run(tmp_path):
    run = make_run(tmp_path / "run", config() | {"dataset": {"name": "no_such_set"}}, curve(0.5), ["cat"])
    text = write_report([run])[1].read_text()
    assert re.search(r"- The gallery is left out: .*unknown dataset 'no_such_set'", text)


def drawn_points(groups, monkeypatch, path: Path) -> dict[str, tuple[list, list]]:
    """What `learning_curve` puts on the canvas: x and y of every line that has an entry in the legend."""
    from matplotlib.figure import Figure

    figures = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *args, **more: (figures.append(self), save(self, *args, **more))
    )
    learning_curve(groups, path)
    handles, labels = figures[0].axes[0].get_legend_handles_labels()
    return {name: tuple(map(list, handle.get_data())) for name, handle in zip(labels, handles, strict=True)}


def test_the_curve_is_the_mean_of_the_last_accuracy_where_all_runs_are(tmp_path, monkeypatch):
    runs = [
        make_run(tmp_path / "a", config(0), curve(0.5, 0.6, 0.9)),
        make_run(tmp_path / "b", config(1), curve(0.7, 0.8)),
    ]
    points = drawn_points(group_runs(as_runs(runs)), monkeypatch, tmp_path / "curve.png")
    assert list(points) == ["margin (2 runs)"]
    x, y = points["margin (2 runs)"]
    assert x == [10, 20]
    np.testing.assert_allclose(y, [60, 70])


# ---------------------------------------------------------------------------------------------- what a prior did
def with_prior(run: Path, cycle: int, *records: dict) -> None:
    folder = run / f"cycle_{cycle:03d}"
    folder.mkdir()
    (folder / "prior.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


def figures_of(monkeypatch) -> list:
    """The figures that are saved from here on."""
    from matplotlib.figure import Figure

    figures, save = [], Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *args, **more: (figures.append(self), save(self, *args, **more))
    )
    return figures


def test_what_a_prior_did_is_drawn_over_the_steps(tmp_path, monkeypatch):
    run = make_run(tmp_path / "run", config() | {"num_train_iter": 20}, curve(0.5, 0.6))
    for cycle, accuracy in ((0, 0.5), (1, 0.75)):
        with_prior(
            run, cycle,
            {"iteration": 0, "when": "start", "log": {"prior_accuracy": accuracy, "prior_rank": 9.0}},
            {"iteration": 10, "changed": 3, "rows": 12},
            {"iteration": 15, "when": "step", "log": {"updated_prior_accuracy": accuracy + 0.25, "updated_prior_new": 0.1}},
            {"iteration": 20, "changed": 1, "rows": 4 + 4 * cycle},
        )  # fmt: skip
    figures = figures_of(monkeypatch)
    files = write_report([run], tmp_path / "out", dataset_of=no_dataset)
    assert [path.name for path in files] == ["learning_curve.png", "report.md", "prior.png"]
    changed, logged = figures[1].axes
    # The second cycle continues where the first ended; a training's line ends with it.
    shares = [tuple(map(list, line.get_data())) for line in changed.get_lines()[:2]]
    assert shares == [([10, 20], [25, 25]), ([30, 40], [25, 12.5])]
    # A number that is no share is left out; an updated one continues the line that it began.
    handles, labels = logged.get_legend_handles_labels()
    assert labels == ["accuracy", "new"]
    assert tuple(map(list, handles[0].get_data())) == ([0, 15], [50, 75])
    assert tuple(map(list, logged.get_lines()[1].get_data())) == ([20, 35], [75, 100])
    rows = read_table(files[1], "Prior")
    expected = [("0", "16", "25.00", "2"), ("1", "20", "20.00", "2")]
    names = ("cycle", "pseudo-labels with a prior", "changed by it (%)", "tables")
    assert rows == [dict(zip(names, row, strict=True)) for row in expected]
    assert "![Prior](prior.png)" in files[1].read_text()


def test_a_prior_that_logs_nothing_has_its_changes_drawn(tmp_path, monkeypatch):
    run = make_run(tmp_path / "run", config(), curve(0.5))
    with_prior(run, 0, {"iteration": 0, "when": "start", "log": {}}, {"iteration": 5, "changed": 0, "rows": 3})
    figures = figures_of(monkeypatch)
    write_report([run], dataset_of=no_dataset)
    assert [len(figure.axes) for figure in figures] == [1, 1]


def test_a_run_without_a_prior_has_no_such_section(tmp_path):
    files = write_report([make_run(tmp_path / "run", config(), curve(0.5))], dataset_of=no_dataset)
    assert "prior.png" not in {path.name for path in files} and "## Prior" not in files[1].read_text()


# ---------------------------------------------------------------------------------------------- the map
def mapped_run(tmp_path: Path, features: np.ndarray | None = None, size: int = 8, picks: int = 3) -> Path:
    run = make_run(tmp_path / "run", config(seed=3), curve(0.5), ["cat", "dog", ""][:picks])
    (run / "keys.txt").write_text("".join(json.dumps(f"train/{i}") + "\n" for i in range(size)))
    if features is not None:
        (run / "pretrain").mkdir()
        np.save(run / "pretrain" / "features.npy", features)
    return run


def test_the_map_is_of_the_features_kept_and_marks_the_picks(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    # Two clusters far apart: also on the map.
    features = rng.normal(size=(60, 5)).astype(np.float32)
    features[30:] += 50
    run, figures = mapped_run(tmp_path, features, size=60), figures_of(monkeypatch)
    files = write_report([run], embed=True, dataset_of=no_dataset)
    assert files[2].name == "embed.png" and Image.open(files[2]).size[0] > 800
    caption = "t-SNE of the features of pretraining: 60 of 60 samples, 3 of them picked."
    assert "![Map of the pool](embed.png)" in files[1].read_text() and caption in files[1].read_text()
    [axes] = figures[1].axes
    points, picked = (np.asarray(group.get_offsets()) for group in axes.collections)
    assert np.array_equal(points[:3], picked)
    inside = max(np.linalg.norm(half - half.mean(axis=0), axis=1).mean() for half in (points[:30], points[30:]))
    assert np.linalg.norm(points[:30].mean(axis=0) - points[30:].mean(axis=0)) > 2 * inside
    # Without the dataset only the answers have a class: cat, dog, and a skipped one.
    colors = [tuple(color) for color in axes.collections[0].get_facecolors()]
    assert len(set(colors[:3])) == 3 and set(colors[3:]) == {colors[2]}
    texts = [text.get_text() for text in axes.get_legend().get_texts()]
    assert texts == ["picked, cycle 0", "cat", "dog", "class unknown"]


@pytest.mark.parametrize("role", ["initial", None])
@pytest.mark.parametrize("kind", ["file", "timm"])
def test_the_map_is_of_what_the_selection_chose_by(tmp_path, role, kind):
    """Not of the pretraining beside it."""
    run = mapped_run(tmp_path, np.zeros((8, 5), dtype=np.float32))
    features = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
    path = tmp_path / "own.npy" if kind == "file" else run / "artifacts" / f"timm_resnet18_{zlib.crc32(b'weights.pth'):08x}_8.npy"
    path.parent.mkdir(exist_ok=True)
    np.save(path, features)
    # Another network's, which another part of the run uses.
    (run / "artifacts").mkdir(exist_ok=True)
    np.save(run / "artifacts" / f"timm_a_{zlib.crc32(b'weights.pth'):08x}_8.npy", features + 1)
    loaded = as_runs([run])[0]
    choice = {"name": kind, **({"path": str(path)} if kind == "file" else {"model": "resnet18", "path": "weights.pth"})}
    loaded.config["active"].update({"initial": {"name": "coreset", "size": 3, "features": choice}} if role else {"features": choice})
    kept, source = embedding.kept_features(loaded, 8)
    assert np.array_equal(kept, features) and source == ("features in own.npy" if kind == "file" else "features of resnet18")
    # Of another pool: those of the pretraining.
    np.save(path, features[:7])
    assert embedding.kept_features(loaded, 8)[1] == "features of pretraining"


def test_the_same_run_has_the_same_map(tmp_path, monkeypatch):
    features = np.random.default_rng(1).normal(size=(30, 60)).astype(np.float32)
    run, figures = mapped_run(tmp_path, features, size=30), figures_of(monkeypatch)
    for name in ("one", "other"):
        write_report([run], tmp_path / name, embed=True, dataset_of=no_dataset)
    one, other = (np.asarray(figures[place].axes[0].collections[0].get_offsets()) for place in (1, 3))
    assert np.array_equal(one, other)


@pytest.mark.parametrize("dataset", [Pictures, Shuffled])
def test_without_features_the_map_is_of_the_pixels(tmp_path, monkeypatch, dataset):
    run, figures = mapped_run(tmp_path), figures_of(monkeypatch)
    files = write_report([run], embed=True, dataset_of=lambda _: dataset())
    assert "t-SNE of the pixels: 8 of 8 samples, 3 of them picked." in files[1].read_text()
    [axes] = figures[1].axes
    colors = [tuple(color) for color in axes.collections[0].get_facecolors()]
    # The classes are those of the keys, in whatever order the dataset has them.
    targets = dataset().targets if dataset is Pictures else dataset().targets[::-1]
    assert [colors.index(color) for color in colors] == [list(targets).index(target) for target in targets]


def test_a_large_pool_is_drawn_in_part_with_all_picks(tmp_path, monkeypatch):
    monkeypatch.setattr(embedding, "MAP_SIZE", 10)
    features = np.random.default_rng(1).normal(size=(40, 4)).astype(np.float32)
    run, figures = mapped_run(tmp_path, features, size=40), figures_of(monkeypatch)
    files = write_report([run], embed=True, dataset_of=no_dataset)
    assert ": 10 of 40 samples, 3 of them picked." in files[1].read_text()
    assert [len(group.get_offsets()) for group in figures[1].axes[0].collections] == [10, 3]
    loaded = as_runs([run])[0]
    assert {0, 1, 2} <= set(embedding._sample(40, {0: np.arange(3)}, loaded).tolist())
    assert set(embedding._sample(40, {0: np.arange(30)}, loaded).tolist()) < set(range(30))


def test_many_cycles_share_the_markers(tmp_path):
    from matplotlib.figure import Figure

    axes, picks = Figure().add_subplot(), {cycle: np.array([cycle]) for cycle in range(25)}
    handles = embedding._draw_picks(axes, np.arange(25), np.zeros((25, 2)), picks, np.ones((25, 4)))
    assert len({handle.get_marker() for handle in handles}) == len(handles) == 11
    assert handles[0].get_label() == "picked, cycles 0–2" and handles[-1].get_label() == "picked, cycles 23–24"
    assert sum(len(group.get_offsets()) for group in axes.collections) == 25


def test_a_map_that_cannot_be_drawn_is_one_line(tmp_path):
    run = mapped_run(tmp_path / "bare")
    reason = r"--embed: no features: none of this pool in .*pretrain, and the dataset is not available: data_dir: no folder"
    broken = np.zeros((8, 3), dtype=np.float32)
    broken[5, 1] = np.nan
    other = mapped_run(tmp_path / "broken", broken)
    few = mapped_run(tmp_path / "few", np.zeros((3, 3), dtype=np.float32), size=3)
    nameless = make_run(tmp_path / "nameless", config(), curve(0.5))
    for paths, message in (
        ([run], reason),
        ([other], r"--embed: features of pretraining are not finite for samples 5"),
        ([few], r"--embed: a map needs 4 samples and 2 features at least, got 3 and 3"),
        ([nameless], r"--embed: keys.txt, .* is gone"),
        ([run, other], r"--embed draws the picks of one run: 2 were given"),
    ):
        with pytest.raises(UsageError, match=message) as caught:
            write_report(paths, tmp_path / "out", embed=True, dataset_of=no_dataset)
        assert "\n" not in str(caught.value)


# ---------------------------------------------------------------------------------------------- the terminal, the imports
def test_summary_table_on_the_terminal():
    text = summary_table([line(0, 10, 0.5), line(1, 200, None, train_seconds=None)])
    header, first, second = text.splitlines()
    assert len({len(row) for row in (header, first, second)}) == 1
    assert first.split() == ["0", "10", "50.00", "55.00", "40.00", "2.0", "10.0"]
    assert second.split() == ["1", "200", "–", "–", "–", "2.0", "–"]
    assert "best % (optimistic)" in header
    assert summary_table([]).startswith("cycle")


def test_a_report_needs_neither_torch_nor_semilearn(tmp_path):
    runs = [make_run(tmp_path / str(s), config(s), curve(0.5, 0.6)) for s in (0, 1)]
    code = (
        "import sys; from pathlib import Path; from usb_active.report import write_report\n"
        "assert 'matplotlib' not in sys.modules\n"
        f"write_report([Path(p) for p in {[str(run) for run in runs]}], Path({str(tmp_path / 'out')!r}))\n"
        "assert not {'torch', 'semilearn', 'matplotlib.pyplot'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert (tmp_path / "out" / "report.md").is_file()


def test_a_key_that_came_later_is_called_by_its_default_where_a_run_has_none():
    """Such a run keeps no value (`later_key`), which is not that its views are "none"."""
    blocks = ["image_folder", {"name": "image_folder", "augmentation": "none"}]
    settings = [method_settings({"algorithm": "flexmatch", "dataset": block, "active": {"acquisition": "random"}}) for block in blocks]
    assert [of_run["dataset.augmentation"] for of_run in settings] == ["usb", "none"]
    assert method_names(settings) == ["augmentation=usb", "augmentation=none"]
