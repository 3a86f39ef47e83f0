"""benchmarks/*_table.py lay out what packaged studies came to: their rows are those of the pages, and their numbers those of the cells."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from run_helpers import ROOT

from usb_active.config.settings import load_yaml_config
from usb_active.config.study import Cell, read_study
from usb_active.records import LabelRow
from usb_active.storage.artifacts import save_artifact
from usb_active.storage.journal import append_journal, utc_now
from usb_active.storage.run_dir import RunDir


@pytest.fixture(scope="module")
def benchmarks():
    """name → the module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        yield importlib.import_module


def write(tmp_path: Path, name: str, **changes) -> str:
    """A copy of a packaged study, kept in tmp_path, with some keys replaced."""
    study = yaml.safe_load((ROOT / f"yaml_configs/studies/{name}.yaml").read_text(encoding="utf-8"))
    path = tmp_path / f"{name}.yaml"
    path.write_text(yaml.safe_dump({**study, "save_dir": str(tmp_path), **changes}, sort_keys=False), encoding="utf-8")
    return str(path)


def finish(cell: Cell, accuracies: list[float], **more: float) -> None:
    """Leave a cell with a line of metrics for each of its trainings, in percent, ten labels apart."""
    assert len(accuracies) == cell.trainings
    first = cell.config.active.initial.size
    with RunDir.open(cell.run_path, cell.config.stored()) as run:
        for cycle, value in enumerate(accuracies):
            more = {name: percent / 100 for name, percent in more.items()}
            run.append_metrics({"cycle": cycle, "num_labels": first + 10 * cycle, "evaluated_on": "test", "accuracy": value / 100, **more})


def first_columns(text: str) -> list[list[str]]:
    """Of each table, the entries of its first column, header first."""
    found = [[line.split("|")[1].strip() for line in block.splitlines()] for block in re.split(r"\n\s*\n", text) if block.startswith("|")]
    return [[column[0], *column[2:]] for column in found]


def row_of(text: str, name: str, number: int = 0) -> list[str]:
    """The other entries of a row. (`table` escapes a plus that begins an entry.)"""
    rows = [line for line in text.replace("| \\+", "| +").splitlines() if line.startswith(f"| {name} |")]
    return [cell.strip() for cell in rows[number].split("|")[2:-1]]


# ------------------------------------------------------------------------------------------------- rows


def test_the_rows_of_docs_assl(benchmarks):
    made = benchmarks("assl_table")
    page = first_columns((ROOT / "docs/assl.md").read_text(encoding="utf-8"))
    tables = []
    for study in ("assl", "assl_cifar"):
        cells = read_study(study).cells
        for start in (False, True):
            there = [cell for cell in cells if cell.place["active.warm_start"] == start]
            if there:
                rules = [rule for _, rule in benchmarks("evidence").by_place(there, made.place_name)]
                tables.append([made.STARTS[start], *rules])
    # Whatever else has a table there is not of these studies.
    assert [column for column in page if column[0] in made.STARTS.values()] == tables


def test_the_rows_of_docs_jlp(benchmarks):
    made = benchmarks("jlp_table")
    names = [f"{made.training_name(cell.place)}, {cell.place['active.acquisition']}" for cell in read_study("jlp").cells if cell.seed == 0]
    assert len(set(names)) == len(names) == 20
    assert first_columns((ROOT / "docs/jlp.md").read_text(encoding="utf-8"))[0] == ["training, rule", *names]


def test_the_rows_of_docs_as3l(benchmarks):
    made = benchmarks("as3l_table")
    names = [", ".join(made.place_name(cell)) for cell in read_study("as3l").cells if cell.seed == 0]
    page = first_columns((ROOT / "docs/as3l.md").read_text(encoding="utf-8"))[0]
    assert len(set(names)) == len(names) == 29
    assert page == ["labels, sampling, prior", *sorted(names, key=lambda name: int(name.split()[0]))]


ORACLES = ["no prior", "as3l, remove", *(f"as3l_oracle {share} %, remove" for share in (60, 74, 90))]


def test_the_rows_of_as3ls_oracles_hold_the_study_as3l_to_the_key(benchmarks):
    made = benchmarks("as3l_table")
    studies = ("as3l", "as3l_oracle")
    cells = {study: {made.place_name(cell): cell for cell in read_study(study).cells if cell.seed == 0} for study in studies}
    assert list(cells["as3l_oracle"]) == [("10 labels", "as3l", guide) for guide in ORACLES]

    def plain(cell):
        return {key: value for key, value in cell.config.resolved().items() if key not in ("save_dir", "save_name")}

    both = [place for place in cells["as3l_oracle"] if place in cells["as3l"]]
    assert both == [("10 labels", "as3l", guide) for guide in ORACLES[:2]]
    assert all(plain(cells["as3l"][place]) == plain(cells["as3l_oracle"][place]) for place in both)


# ------------------------------------------------------------------------------------------------- numbers


def test_what_a_rule_is_above_random_is_taken_seed_by_seed(benchmarks, tmp_path):
    matrix = {"active.acquisition": ["random", {"name": "assl", "use": "uncertainty"}], "active.warm_start": [False, True]}
    study = write(tmp_path, "assl", matrix=matrix, seeds=3, include=[{"active.cycles": 2}])
    made = benchmarks("assl_table")
    for cell in read_study(study).cells:
        gain = 0 if cell.place["active.acquisition"] == "random" else 4 + cell.seed
        finish(cell, [40.0, 50 + 10 * cell.seed + gain, 60 + 10 * cell.seed + gain])
    text = made.tables(made.finished_cells(study))
    # Means of 20 and 30 labels: random 55, 65, 75; the other 4, 5 and 6 above. Deviation 10 and 1, over √3, times t = 4.303.
    assert row_of(text, "random") == ["40.0 ± 0.0", "60.0 ± 24.8", "70.0 ± 24.8", "65.0 ± 24.8", ""]
    assert row_of(text, "assl, uncertainty only", 1)[-2:] == ["70.0 ± 27.3", "+5.0 ± 2.5"]
    assert [column[0] for column in first_columns(text)] == ["RandInit", "ConInit"] and "mean of 20–30" in text


def test_what_the_parts_of_jlp_gain(benchmarks, tmp_path, monkeypatch):
    matrix = {"lp_semi": [False, True], "lp_weighting": ["label", "class"], "active.pretrain": [None]}
    matrix["active.acquisition"] = ["random", "jlp"]
    study = write(tmp_path, "jlp", matrix=matrix, exclude=[{"lp_semi": False, "lp_weighting": "class"}], seeds=[3, 5, 7])
    made = benchmarks("jlp_table")
    monkeypatch.setattr(made, "propagation_table", lambda features, truth: "(propagation)")
    for cell in read_study(study).cells:
        base = 50 + 5 * cell.seed + (cell.place["active.acquisition"] == "jlp")
        gain = (cell.seed - 3) * cell.place["lp_semi"] + 10 * (cell.place["lp_weighting"] == "class")
        finish(cell, [0.0, *([base + gain - 10, base + gain + 10] * 2)])
    text = made.tables(made.finished_cells(study))
    assert row_of(text, "supervised, random")[:2] == ["0.0 ± 0.0", "65.0 ± 24.8"]
    # 0, 2 and 4: deviation 2.
    assert row_of(text, "+ SEMI over supervised, random") == ["+2.0 ± 5.0"]
    assert row_of(text, "+ SEMI, classes alike over + SEMI, jlp") == ["+10.0 ± 0.0"]
    assert row_of(text, "jlp over random, supervised") == ["+1.0 ± 0.0"]
    assert "PRE" not in text and text.endswith("(propagation)\n")
    assert made.training_name({"lp_semi": False, "lp_weighting": "class", "active.pretrain": {}}) == "supervised"


def test_last_and_best_of_as3l_and_their_references(benchmarks, tmp_path):
    study = write(tmp_path, "as3l", seeds=3)
    made = benchmarks("as3l_table")
    values = {"stratified": 80, "as3l": 90}
    for cell in read_study(study).cells:
        _, sampler, guide = made.place_name(cell)
        value = values.get(sampler, 50) + cell.seed + (0 if guide == "no prior" else 2 + cell.seed)
        finish(cell, [value], best_accuracy=value + 1)
    text = made.training_table(made.finished_cells(study))
    assert row_of(text, "10 labels, stratified, no prior") == ["81.0 ± 2.5", "", "", "82.0 ± 2.5"]
    # 92, 94 and 96 against 90, 91, 92 and 80, 81, 82.
    assert row_of(text, "40 labels, as3l, llgc, remove") == ["94.0 ± 5.0", "+3.0 ± 2.5", "+13.0 ± 2.5", "95.0 ± 5.0"]
    assert row_of(text, "10 labels, stratified, no prior, five times as long")[1] == "+3.0 ± 2.5"
    assert row_of(text, "10 labels, as3l not fine-tuned, as3l not fine-tuned, remove")[1] == ""


def test_what_an_oracle_gains_is_beside_how_many_of_its_rows_are_right(benchmarks, tmp_path):
    made = benchmarks("as3l_table")
    for cell in read_study(write(tmp_path, "as3l_oracle", seeds=3)).cells:
        guide = made.place_name(cell)[2]
        gain = 5 + cell.seed if "90 %" in guide else 0
        line = {"cycle": 0, "num_labels": 10, "evaluated_on": "test", "accuracy": (80 + gain) / 100, "best_accuracy": 0.95}
        log = {} if guide == "no prior" else {"log": {"prior_accuracy": 0.7 + 0.01 * cell.seed}}
        with RunDir.open(cell.run_path, cell.config.stored()) as run:
            run.append_metrics({**line, **log})
    text = made.oracle_table(made.finished_cells(str(tmp_path / "as3l_oracle.yaml")))
    assert first_columns(text) == [["labels, sampling, prior", *(f"10 labels, as3l, {guide}" for guide in ORACLES)]]
    assert row_of(text, "10 labels, as3l, no prior") == ["–", "80.0 ± 0.0", "", "95.0 ± 0.0"]
    # 70, 71, 72 and gains of 5, 6, 7: deviation 1, over √3, times t = 4.303.
    assert row_of(text, "10 labels, as3l, as3l_oracle 90 %, remove") == ["71.0 ± 2.5", "86.0 ± 2.5", "+6.0 ± 2.5", "95.0 ± 0.0"]
    assert row_of(text, "10 labels, as3l, as3l, remove")[2] == "+0.0 ± 0.0"


def test_features_of_a_seed_are_those_of_any_run_that_has_them(benchmarks, tmp_path):
    import numpy as np

    made = benchmarks("as3l_table")
    cells = [cell for cell in read_study(write(tmp_path, "as3l", seeds=[4, 2])).cells][:6]
    features = {seed: np.random.default_rng(seed).normal(size=(60, 3)).astype(np.float32) for seed in (2, 4)}
    for cell in cells[2:]:
        (cell.run_path / "pretrain").mkdir(parents=True)
        np.save(cell.run_path / "pretrain" / "backbone_features_60.npy", features[cell.seed])
    assert [(points.features == features[seed]).all() for seed, points in zip((2, 4), made.learned(cells), strict=True)] == [True, True]


def test_what_is_not_finished_is_left_out_and_said(benchmarks, tmp_path, capsys):
    evidence = benchmarks("evidence")
    study = write(tmp_path, "digits", seeds=1)
    with pytest.raises(SystemExit, match=r"no cell of .* is finished in .*digits_study; `usb-active sweep .*` makes them"):
        evidence.finished_cells(study)
    cell = read_study(study).cells[1]
    finish(cell, [50.0] * cell.trainings)
    assert [found.name for found in evidence.finished_cells(study)] == [cell.name]
    assert "1 of 2 cells are finished in" in capsys.readouterr().err
    # What the sweep was given says what a finished cell is.
    more = [f"active.cycles={cell.config.active.cycles + 1}"]
    with pytest.raises(SystemExit, match="no cell of"):
        evidence.finished_cells(study, more)
    with pytest.raises(SystemExit, match="no packaged study has this name; did you mean 'as3l'"):
        evidence.finished_cells("as31")


def test_two_cells_of_one_row_are_no_table(benchmarks, tmp_path):
    cells = read_study(write(tmp_path, "digits", seeds=1)).cells
    with pytest.raises(SystemExit, match=r"acquisition=random,seed=0 and acquisition=margin,seed=0 are one row of the table \(x\)"):
        benchmarks("evidence").by_place(cells, lambda cell: "x")


def test_the_redundancy_of_picks_is_by_their_nearest(benchmarks):
    redundancy = benchmarks("revival_table").redundancy
    images = np.array([[0.0, 0.0], [1.0, 0.0], [10.0, 0.0], [11.0, 0.0], [13.0, 0.0]])
    assert redundancy(images, np.array([1, 1, 2, 3, 3])) == pytest.approx(3 / 5)  # 0 and 1 have each other, 4 has 3; 2 and 3 differ
    assert redundancy(images, np.zeros(5, dtype=int)) == 1
    assert redundancy(images, np.arange(5)) == 0


def test_first_labels_are_no_round_of_a_rule(benchmarks, tmp_path):
    (cell, *_) = read_study(write(tmp_path, "revival", seeds=1)).cells
    finish(cell, [50.0] * cell.trainings)
    labeled, skipped = ("1", "labeled", "random", utc_now()), ("", "skipped", "random", utc_now())
    rows = [(0, 5, "a", *labeled), (1, 3, "b", *labeled), (1, 4, "c", *skipped), (1, 9, "d", *labeled), (2, 7, "e", *labeled)]
    append_journal(cell.run_path / "labels.csv", [LabelRow(*row) for row in rows])
    assert [its.tolist() for its in benchmarks("revival_table").rounds(cell)] == [[3, 9], [7]]


def test_rounds_are_grouped_by_how_many_virtual_labels_were_right(benchmarks, tmp_path):
    made = benchmarks("revival_table")
    changes = {"matrix": {"active.acquisition": ["random", "revival"]}, "include": [{"active.cycles": 3}], "seeds": 3}
    study = write(tmp_path, "revival", **changes)
    for cell in read_study(study).cells:
        finish(cell, [50.0, 60, 70, 80 - cell.seed])
        if cell.place["active.acquisition"] == "revival":
            path = cell.run_path / "metrics.jsonl"
            lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            for line, right, gain in zip(lines[1:], (0.7, 0.95, 1.0), (-0.02, 0.01, 0.03), strict=True):
                line["log"], line["accuracy"] = {made.RIGHT: right}, line["accuracy"] + gain
            path.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    text = made.condition_table(benchmarks("evidence").by_place(made.finished_cells(study), made.place_name))
    assert first_columns(text) == [["virtual labels right", "0 to 80 %", "80 to 90 %", "90 to 95 %", "95 to 100 %"]]
    # Of 1, 1, 1, 3, 3 and 3: a deviation of 1.095, over √6, times t = 2.571.
    assert [row_of(text, name) for name in ("0 to 80 %", "80 to 90 %", "95 to 100 %")] == [["-2.0 ± 0.0 (3)"], ["–"], ["+2.0 ± 1.1 (6)"]]


# ------------------------------------------------------------------------------------------------- ASSL's premise


def leave_observations(cell: Cell, orders: list[list[float]], visits: int = 12) -> None:
    """Leave a cell whose two trainings saw these uncertainties (four samples, idx 1 to 4) at steps 500, 1,000, 1,500 and 2,000."""
    length = cell.config.usb["num_train_iter"]
    finish(cell, [40.0 + cell.seed, 50.0])
    folder = cell.run_path / "analysis"
    training = {"num_train_iter": np.array(length), "visits": np.full(6, visits, dtype=np.int32)}
    rest = {"labels": np.zeros(4, dtype=np.uint8), "confident": np.ones(4, dtype=bool)}
    for cycle in range(2):
        save_artifact(folder / f"cycle_{cycle:03d}_unlabeled", np.arange(1, 5))
        save_artifact(folder / f"cycle_{cycle:03d}_training", training)
        for step, order in zip(range(500, 2001, 500), orders, strict=True):
            save_artifact(folder / f"cycle_{cycle:03d}_step_{step:08d}", {**rest, "uncertainty": np.array(order, dtype=np.float32)})


def test_the_premise_of_assl_is_shown_by_training_and_rule(benchmarks, tmp_path):
    made = benchmarks("assl_premise_table")
    # 400 steps more than there are observations of.
    study = yaml.safe_load((ROOT / "yaml_configs/studies/assl_premise.yaml").read_text(encoding="utf-8"))
    longer = [{**study["include"][0], "num_train_iter": 2400}]
    cells = read_study(write(tmp_path, "assl_premise", include=longer)).cells
    up, down, swapped = [0.1, 0.2, 0.3, 0.4], [0.4, 0.3, 0.2, 0.1], [0.2, 0.1, 0.3, 0.4]
    for cell in cells:
        leave_observations(cell, [up, up, down, swapped if cell.seed else up])
    text = made.premise_table(cells)
    # The first training is one, whatever rule comes after it.
    assert first_columns(text) == [["labels, rule", "100 labels", "110 labels, assl", "110 labels, pseudo_el2n"]]
    # One swap of neighbours among four: 1 − 6·2 / (4·15) = 0.8.
    kept, turned = "1.00 (1.00 to 1.00)", "-1.00 (-1.00 to -1.00)"
    back, overall = "-0.90 (-1.00 to -0.80)", "0.90 (0.80 to 1.00)"
    row = [cell.replace("\\", "") for cell in row_of(text, "110 labels, assl")]
    # 12 visits in 2,400 steps.
    assert row == [kept, turned, back, overall, "2.5", "50.0 (50.0 to 50.0)"]
    assert row_of(text, "100 labels")[-1] == "40.5 (40.0 to 41.0)"


def test_trainings_that_were_observed_at_other_steps_are_no_table(benchmarks, tmp_path):
    cells = read_study(write(tmp_path, "assl_premise", seeds=1)).cells[:1]
    leave_observations(cells[0], [[0.1, 0.2, 0.3, 0.4]] * 4)
    path = cells[0].run_path / "analysis" / "cycle_001_training.npz"
    path.unlink()
    save_artifact(path.with_suffix(""), {"num_train_iter": np.array(1000), "visits": np.full(6, 1, dtype=np.int32)})
    with pytest.raises(SystemExit, match="expected the same two or more observed steps in all trainings"):
        benchmarks("assl_premise_table").premise_table(cells)
    with pytest.raises(SystemExit, match="expected `active.analysis` to be temporal_instability in acquisition=random.*another study"):
        benchmarks("assl_premise_table").premise_table(read_study(write(tmp_path, "assl")).cells[:1])


# ------------------------------------------------------------------------------------------------- ASSAL


def assal_cells(tmp_path: Path, **changes) -> list[Cell]:
    matrix = {"active.acquisition": ["random", "margin", {"name": "vaal", "epochs": 30, "latent": 16, "width": 16}, "assal"]}
    matrix |= {"active.pretrain": [None], "assal_target": ["rotation"]}
    return read_study(write(tmp_path, "assal", matrix=matrix, seeds=3, **changes)).cells


def leave_log(cell: Cell, accuracy: float, logs: list[dict[str, float]]) -> None:
    with RunDir.open(cell.run_path, cell.config.stored()) as run:
        for cycle, log in enumerate(logs):
            value = accuracy / 100 if cycle else 0.4
            line = {"cycle": cycle, "num_labels": 20 + 10 * cycle, "evaluated_on": "test", "accuracy": value, "log": log}
            run.append_metrics(line)


def test_rules_of_assal_are_measured_by_random_of_their_own_start_and_by_their_sampler(benchmarks, tmp_path, monkeypatch):
    made = benchmarks("assal_table")
    monkeypatch.setattr(made, "cheap", lambda cell: dict.fromkeys(made.CHEAP, {20 + 10 * cycle: 30.0 + cell.seed for cycle in range(5)}))
    more = [{"active.acquisition": rule, "assal_target": "pseudo_label"} for rule in ("random", "assal")]
    cells = assal_cells(tmp_path, include=more)
    gains = {"random": 0, "margin": 5, "vaal": 1, "assal": 2, "random, h_U pseudo_label": 20, "assal, h_U pseudo_label": 17}
    for cell in cells:
        gain = gains[made.place_name(cell)]
        trained = {"assal/sampler_accuracy": 0.6 + 0.01 * cell.seed}
        chosen = {"vaal/balanced_accuracy": 0.9} if cell.config.active.acquisition.name == "vaal" else {}
        leave_log(cell, 50 + 10 * cell.seed + gain + (gain > 0) * cell.seed, [trained, *[trained | chosen] * 4])
    text = made.rule_table(benchmarks("evidence").by_place(cells, made.place_name))
    assert first_columns(text) == [["rule", *gains, *made.CHEAP.values()]]
    # Random 50, 60, 70; deviation 10, times 4.303 / √3.
    assert row_of(text, "random") == ["40.0 ± 0.0", *["60.0 ± 24.8"] * 4, "", "", "(61.0 ± 2.5)", "3"]
    # 5, 6 and 7 above.
    assert row_of(text, "margin")[-4:] == ["+6.0 ± 2.5", "+6.0 ± 2.5", "(61.0 ± 2.5)", "3"]
    assert row_of(text, "vaal")[-2:] == ["90.0 ± 0.0", "3"] and row_of(text, "assal")[-2:] == ["61.0 ± 2.5", "3"]
    # Against random labels with the same target: 17 − 20.
    assert [cell.replace("\\", "") for cell in row_of(text, "assal, h_U pseudo_label")[-4:-2]] == ["-3.0 ± 0.0"] * 2
    assert row_of(text, "1-NN")[:2] == ["31.0 ± 2.5"] * 2


def test_samplers_are_shown_by_epoch_in_the_mean_over_the_rounds(benchmarks, tmp_path):
    made = benchmarks("assal_table")
    cells = assal_cells(tmp_path, include=[{"active.cycles": 4}])
    for cell in cells:
        # The algorithm's own sampler is there whatever chooses; the last training's has chosen nothing.
        for name in ("assal_training", *(["vaal"] if made.place_name(cell) == "vaal" else [])):
            for cycle in range(cell.trainings - (name == "vaal")):
                epochs = np.array([0.5, 0.6, 0.7, 0.8]) + (0.05 if name == "vaal" else 0.01 * cell.seed)
                save_artifact(cell.run_path / f"artifacts/{name}_epochs_{cycle + (name == 'vaal'):03d}", epochs + 0.001 * (cycle - 1.5))
    text = made.epoch_table(benchmarks("evidence").by_place(cells, made.place_name))
    assert first_columns(text) == [["sampler (%)", "vaal", "assal"]]
    assert row_of(text, "vaal") == ["4", "55.0 ± 0.0", "55.0 ± 0.0", "65.0 ± 0.0", "75.0 ± 0.0", "85.0 ± 0.0", "3"]
    # 51, 52 and 53: deviation 1, times 4.303 / √3.
    assert row_of(text, "assal")[1] == "51.0 ± 2.5"


def test_rows_of_assal_say_what_is_not_as_usual(benchmarks):
    cells = read_study("assal").cells
    rows = [benchmarks("assal_table").place_name(cell) for cell in cells if cell.seed == 0]
    usual = ["random", "margin", "coreset", "badge", "vaal", "sraal", "assal"]
    warm, first = "pretrained by assal", ("assal_kmeans", "coreset", "typiclust", "as3l")
    warmed = [f"{rule}, {warm}" for rule in ("random", "assal")]
    cold = [f"random, {warm}, first labels by assal_kmeans", *(f"assal, {warm}, first labels by {name}" for name in first)]
    assert rows == [*usual, "assal, h_U pseudo_label", *warmed, *cold]
    supervised = [*usual[:-1], "assal, beside", "assal, beside, with its entropy"]
    mnist = [*usual, "assal, h_U pseudo_label", *warmed, *cold[1:]]
    for study, expected in (("assal_supervised", supervised), ("assal_mnist", mnist)):
        assert [benchmarks("assal_table").place_name(cell) for cell in read_study(study).cells if cell.seed == 0] == expected


def test_both_studies_of_assal_ask_for_the_same_labels():
    blocks = {}
    for name in ("assal", "assal_supervised"):
        for cell in read_study(name).cells:
            active = cell.config.active
            blocks.setdefault((active.initial.size, active.cycles, active.budget), set()).add(name)
    assert list(blocks.values()) == [{"assal", "assal_supervised"}]


def test_the_rows_of_docs_revival(benchmarks):
    rows = [benchmarks("revival_table").place_name(cell) for cell in read_study("revival").cells if cell.seed == 0]
    cheap = list(benchmarks("revival_table").CHEAP.values())
    assert len(set(rows)) == len(rows)
    assert ["rule", *rows, *cheap] in first_columns((ROOT / "docs/revival.md").read_text(encoding="utf-8"))


# ------------------------------------------------------------------------------------------------- faster trainings

FASTER = ["exact", "vectorized", "amp", "compile", "weak_no_grad", "fast", "fast and weak_no_grad"]


def test_rows_of_faster_trainings_are_called_by_their_keys(benchmarks):
    for study in ("faster", "faster_cifar"):
        assert [benchmarks("faster_table").place_name(cell) for cell in read_study(study).cells if cell.seed == 0] == FASTER


def test_what_a_key_costs_is_taken_seed_by_seed(benchmarks, tmp_path, monkeypatch):
    made = benchmarks("faster_table")
    monkeypatch.setattr(made, "cheap", lambda cell: dict.fromkeys(made.CHEAP, dict.fromkeys(range(10, 60, 10), 30.0 + cell.seed)))
    cells = read_study(write(tmp_path, "faster", seeds=3)).cells
    for cell in cells:
        gain = 5 + cell.seed if made.place_name(cell) == "fast" else 0
        finish(cell, [50.0 + 10 * cell.seed] * 4 + [60.0 + 10 * cell.seed + gain])
    text = made.option_table(benchmarks("evidence").by_place(cells, made.place_name))
    assert first_columns(text) == [["keys", *FASTER, *made.CHEAP.values()]]
    # 60, 70, 80: deviation 10, times 4.303 / √3; 5, 6, 7 above, a fifth of it in the mean over five trainings.
    assert row_of(text, "exact")[-4:] == ["70.0 ± 24.8", "", "", "3"]
    assert row_of(text, "fast")[-4:] == ["76.0 ± 27.3", "+6.00 ± 2.48", "+1.20 ± 0.50", "3"]
    assert row_of(text, "amp")[-3:] == ["+0.00 ± 0.00"] * 2 + ["3"]
    assert row_of(text, "1-NN")[:2] == ["31.0 ± 2.5"] * 2


# ------------------------------------------------------------------------------------------------- jLP's two forms

FORMS = [f"{form}, {alike}" for form in ("as printed", "as the authors' code") for alike in ("labels alike", "classes alike")]


def test_the_forms_of_the_study_are_those_of_the_configurations(benchmarks):
    keys = ("lp_graph", "lp_weighted_loss", "lp_replacement")
    forms = {"mnist_b10_semi": "as printed", "mnist_b10_semi_authors": "as the authors' code"}
    shipped = {form: tuple(load_yaml_config(f"jlp/{name}", []).usb[key] for key in keys) for name, form in forms.items()}
    cells = [cell for cell in read_study("jlp_mnist").cells if cell.seed == 0]
    assert [", ".join(benchmarks("jlp_forms_table").place_of(cell)) for cell in cells] == FORMS
    for cell in cells:
        form, _ = benchmarks("jlp_forms_table").place_of(cell)
        assert tuple(cell.config.usb[key] for key in keys) == shipped[form]
        assert (cell.config.usb["lp_supervised_epochs"] == 0) == (form == "as the authors' code")


def test_what_a_form_and_a_weighting_gain_is_taken_seed_by_seed(benchmarks, tmp_path, monkeypatch):
    made = benchmarks("jlp_forms_table")
    monkeypatch.setattr(made, "cheap", lambda cell: dict.fromkeys(made.CHEAP, dict.fromkeys((10, 20, 30), 30.0 + cell.seed)))
    cells = read_study(write(tmp_path, "jlp_mnist", seeds=3)).cells
    for cell in cells:
        gain = 4 + cell.seed if cell.place["lp_weighting"] == "class" else 0
        gain += 10 if cell.place["lp_graph"] == "sum" else 0
        finish(cell, [99.0, 60.0 + 10 * cell.seed + gain, 80.0 + 10 * cell.seed + gain])
    text = made.forms_table(benchmarks("evidence").by_place(cells, made.place_of))
    assert first_columns(text) == [["SEMI", *FORMS, *made.CHEAP.values()]]
    # 4, 5, 6: deviation 1, times 4.303 / √3. The first training had no part in it.
    assert row_of(text, FORMS[0])[-3:] == ["", "", "3"]
    assert row_of(text, FORMS[1])[-3:] == ["+5.0 ± 2.5", "", "3"]
    assert row_of(text, FORMS[2])[-3:] == ["", "+10.0 ± 0.0", "3"]
    assert row_of(text, FORMS[3])[-3:] == ["+5.0 ± 2.5", "+10.0 ± 0.0", "3"]
    assert row_of(text, "1-NN")[:2] == ["31.0 ± 2.5"] * 2
