"""What is compared with what: methods and settings, the range in common, and the reference."""

from __future__ import annotations

import pytest
from study_runs import groups_of, seeds, study_run

from usb_active.errors import UsageError
from usb_active.report.compared import find_compared


def test_data_and_numbers_of_labels_are_the_setting_and_all_else_the_method(tmp_path):
    paths = []
    for budget in (10, 20):
        for rate in (0.1, 0.3):
            for rule in ("margin", "random"):
                where = tmp_path / f"{budget}-{rate}-{rule}"
                paths.append(study_run(where, [0.5, 0.6], acquisition=rule, step=budget, lr=rate, num_labels=10 * budget))
    found = find_compared(groups_of(*paths))
    assert found.methods == ("margin · lr=0.1", "margin · lr=0.3", "random · lr=0.1", "random · lr=0.3")
    # The number of labels says no more than the budget does.
    assert [(each.label, each.start, each.stop) for each in found.found] == [("budget 10", 10, 20), ("budget 20", 10, 30)]
    # Measured against the random that differs in nothing but the acquisition.
    assert [each.references for each in found.found] == [{0: 2, 1: 3, 2: 2, 3: 3}] * 2 and found.notes == ()


def test_another_algorithm_or_pretraining_is_another_method_in_the_same_setting(tmp_path):
    paths = [
        study_run(tmp_path / "a", [0.5], acquisition="assl", active={"pretrain": {"name": "rotation"}}),
        study_run(tmp_path / "b", [0.5]),
        study_run(tmp_path / "c", [0.5], algorithm="flexmatch", acquisition="margin"),
    ]
    found = find_compared(groups_of(*paths))
    [setting] = found.found
    assert len(found.methods) == 3 and setting.label == ""
    # The only random is the reference of all.
    [anchor] = set(setting.references.values())
    assert "random" in found.methods[anchor] and len(setting.references) == 3


def test_the_range_is_what_all_have_and_who_ends_before_is_named(tmp_path):
    paths = seeds(tmp_path, "m", [0.5, 0.6, 0.7], acquisition="margin") + seeds(tmp_path, "r", [0.5, 0.6], start=20)
    paths += [study_run(tmp_path / "short", [0.5], seed=7, acquisition="margin", active={"initial": {"name": "random", "size": 20}})]
    short = tmp_path / "short"
    # As if all had begun with the same configuration: some runs of before began with fewer labels.
    for path in paths:
        text = (path / "config.yaml").read_text()
        (path / "config.yaml").write_text(text.replace("size: 20", "size: 10"))
    [setting] = find_compared(groups_of(*paths)).found
    # margin has 10, 20, 30; random 20, 30: from 20 to 30.
    assert (setting.start, setting.stop) == (20, 30)
    assert {place: len(runs) for place, runs in setting.runs.items()} == {0: 3, 1: 3}
    [note] = find_compared(groups_of(*paths)).notes
    assert str(short) in note and "without all of 20 to 30 labels" in note
    # Between 0.6 and 0.7 with no further gap.
    assert setting.areas(0)[0] == pytest.approx(0.65)


def test_no_range_in_common(tmp_path):
    groups = groups_of(*seeds(tmp_path, "m", [0.5, 0.6], acquisition="margin"), *seeds(tmp_path, "r", [0.5], active={"budget": 10}))
    assert find_compared(groups).found[0].stop == 10
    late = study_run(tmp_path / "late", [0.5], start=50, acquisition="entropy", active={"initial": {"name": "random", "size": 10}})
    found = find_compared([*groups, *groups_of(late)])
    [setting] = found.found
    assert setting.start > setting.stop and setting.areas(0) == {} and set(setting.runs.values()) == {()}
    assert found.notes == ("no range of labels that entropy, margin, random have in common; no areas.",)


def test_a_seed_with_two_runs_is_not_paired(tmp_path):
    paths = seeds(tmp_path, "m", [0.5, 0.6]) + [study_run(tmp_path / "again", [0.7, 0.8], seed=1)]
    found = find_compared(groups_of(*paths))
    assert set(found.found[0].areas(0)) == {0, 2}
    assert found.notes == ("random: several runs with seed 1: which one to pair is open; not in differences and ranks.",)


def test_values_on_test_and_on_held_out_labels_do_not_meet(tmp_path):
    held = study_run(tmp_path / "held", [None], acquisition="margin", line={"evaluated_on": "validation", "validation_accuracy": 0.5})
    found = find_compared(groups_of(held, study_run(tmp_path / "test", [0.5])))
    assert sorted(each.label for each in found.found) == ["on held-out labels", "on test"]


def test_a_reference_of_ones_own(tmp_path):
    groups = groups_of(study_run(tmp_path / "m", [0.5], acquisition="margin"), study_run(tmp_path / "r", [0.5]))
    assert find_compared(groups, "margin").found[0].references == {0: 0, 1: 0}
    with pytest.raises(UsageError, match="^--reference: no method 'margn' among the runs; did you mean 'margin'\\?$"):
        find_compared(groups, "margn")


def test_plugins_imported_from_elsewhere_are_no_other_method(tmp_path):
    found = find_compared(groups_of(study_run(tmp_path / "a", [0.5], plugins=["x.py"]), study_run(tmp_path / "b", [0.5], seed=1)))
    assert len(found.methods) == 1 and len(found.found[0].runs[0]) == 2
