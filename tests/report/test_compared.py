"""What is compared with what: methods and settings, the range in common, and the reference."""

from __future__ import annotations

from collections import Counter

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
    note, begins = find_compared(groups_of(*paths)).notes
    assert str(short) in note and "without all of 20 to 30 labels" in note
    assert begins == f"compared from 20 labels, where random begins ({tmp_path / 'r-0'}); others are there from 10."
    # Between 0.6 and 0.7 with no further gap.
    assert setting.areas(0)[0] == pytest.approx(0.65)


def test_who_ends_first_is_named(tmp_path):
    paths = seeds(tmp_path, "m", [0.5, 0.6, 0.7], acquisition="margin") + seeds(tmp_path, "r", [0.5, 0.6, 0.7])
    paths += seeds(tmp_path, "e", [0.5, 0.6], acquisition="entropy", active={"cycles": 1})
    found = find_compared(groups_of(*paths))
    assert [(each.start, each.stop) for each in found.found] == [(10, 20)]
    assert found.notes == (f"compared to 20 labels, where entropy ends ({tmp_path / 'e-0'}); others are there to 30.",)


def test_a_method_under_way_shortens_the_range_of_no_other(tmp_path):
    asked = {"active": {"cycles": 2}}
    paths = seeds(tmp_path, "m", [0.5, 0.6, 0.7], acquisition="margin", **asked) + seeds(tmp_path, "r", [0.5, 0.6, 0.7], **asked)
    paths += seeds(tmp_path, "e", [0.5], acquisition="entropy", **asked)
    found = find_compared(groups_of(*paths))
    [setting] = found.found
    assert found.methods == ("margin", "random") and (setting.start, setting.stop) == (10, 30)
    some = ", ".join(str(tmp_path / f"e-{seed}") for seed in range(3))
    assert found.notes == (f"entropy: under way (1 of 3 trainings): {some}; the method is compared with no other.",)
    # To be measured against it is no mistake.
    assert find_compared(groups_of(*paths), "entropy").found[0].references == {}
    with pytest.raises(UsageError, match="no method 'badge'"):
        find_compared(groups_of(*paths), "badge")


def test_most_runs_of_a_method_under_way_shorten_no_range_either(tmp_path):
    asked = {"active": {"cycles": 3}}
    paths = seeds(tmp_path, "r", [0.5, 0.6, 0.65, 0.7], **asked)
    for seed, count in enumerate((4, 2, 2)):
        paths.append(study_run(tmp_path / f"m-{seed}", [0.5, 0.6, 0.7, 0.8][:count], seed=seed, acquisition="margin", **asked))
    found = find_compared(groups_of(*paths))
    [setting] = found.found
    assert (setting.start, setting.stop) == (10, 40) and {place: len(runs) for place, runs in setting.runs.items()} == {0: 1, 1: 3}
    left_out = f"{tmp_path / 'm-1'}, {tmp_path / 'm-2'}"
    assert found.notes == (f"margin: under way (2 of 4 trainings): {left_out}; compared with no other.",)


def test_all_runs_under_way(tmp_path):
    found = find_compared(groups_of(*seeds(tmp_path, "m", [0.5], active={"cycles": 2})))
    assert found.methods == () == found.found and "random: under way (1 of 3 trainings)" in found.notes[0]


def test_settings_of_the_same_data(tmp_path):
    paths = [
        study_run(tmp_path / f"{name}{budget}{size}", [0.5, 0.6], dataset={"name": name}, step=budget, num_labels=size)
        for name in ("digits", "cifar10")
        for budget in (10, 20)
        for size in (10, 40)
    ]
    found = find_compared(groups_of(*paths)).found
    assert len(found) == 8 and sorted(Counter(each.data for each in found).values()) == [4, 4]


def test_several_references_fit(tmp_path):
    paths = [study_run(tmp_path / f"r{rate}", [0.5], lr=rate) for rate in (0.1, 0.3)]
    paths.append(study_run(tmp_path / "m", [0.5], acquisition="margin", lr=0.2))
    found = find_compared(groups_of(*paths))
    assert found.methods == ("margin", "random · lr=0.1", "random · lr=0.3")
    assert found.found[0].references == {1: 1, 2: 2} and found.found[0].undecided == {0: [1, 2]}
    assert find_compared(groups_of(*paths), "random · lr=0.3").found[0].references == {0: 2, 1: 2, 2: 2}


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
