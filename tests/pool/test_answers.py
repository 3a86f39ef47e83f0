"""From an oracle's answers to rows of the journal: only news, and a correction stands."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usb_active.contracts.task import Classification, OpenTask
from usb_active.errors import UsageError
from usb_active.pool.answers import check_answers, emptied_answers, merge_answers
from usb_active.records import CORRECTION, Answers, LabelRow, status_of

NAMES = ("cat", "dog", "cow")


def row(index, label, acquisition="random", cycle=0):
    return LabelRow(cycle, index, f"k{index}", label or "", status_of(label), acquisition, "")


def merge(rows, labels=(), skipped=(), **more):
    return merge_answers(rows, dict(labels), skipped, Classification(NAMES), **more)


@pytest.mark.parametrize(
    ("task", "label", "message"),
    [
        (Classification(NAMES), 3, "labels that do not exist, as sample: class: 4: 3; valid: 0 to 2"),
        (Classification(NAMES), -1, "labels that do not exist, as sample: class: 4: -1; valid: 0 to 2"),
        (OpenTask(), 0, "labels that do not exist, as sample: label: 4: 0; valid: none, as long as the task has encoded no text"),
    ],
)
def test_a_label_that_the_task_does_not_know_is_one_line(task, label, message):
    with pytest.raises(UsageError, match=f"^x: {message}$"):
        check_answers(Answers({4: label}, []), [4, 5], task, "x")


def test_an_answer_that_is_taken_back_is_none():
    with pytest.raises(UsageError, match="^x: both answered and taken back: 4, 5$"):
        check_answers(Answers({4: 1}, frozenset({5}), retracted=frozenset({4, 5})), [4, 5], Classification(NAMES), "x")
    with pytest.raises(UsageError, match="^x: answers samples that were not asked: 6$"):
        check_answers(Answers(retracted=frozenset({6})), [4, 5], Classification(NAMES), "x")


def test_all_is_news_at_first():
    assert merge([], {4: 1, 2: 0}, {7}) == [(4, "dog"), (2, "cat"), (7, "")]


def test_what_is_known_is_not_written_twice():
    assert merge([row(4, "dog"), row(7, "")], {4: 1}, {7}) == []


def test_a_changed_mind_is_news():
    rows = [row(4, "dog"), row(7, ""), row(2, "cat")]
    assert merge(rows, {4: 2, 7: 0}, {2}) == [(4, "cow"), (7, "cat"), (2, "")]
    assert merge([*rows, row(4, "cow")], {4: 1}) == [(4, "dog")], "the last answer counts, not any before it"


def test_a_correction_stands_against_an_oracle_that_repeats_itself():
    rows = [row(4, "dog"), row(4, "cow", CORRECTION)]
    assert merge(rows, {4: 1}) == [], "the oracle says what it always said"
    assert merge(rows, {4: 0}) == [(4, "cat")], "but it may change its mind"
    agreed = merge(rows, {4: 2})
    assert agreed == [(4, "cow")], "and that it agrees is written down,"
    assert merge([*rows, row(*agreed[0])], {4: 2}) == [], "once:"
    assert merge([*rows, row(*agreed[0])], {4: 1}) == [(4, "dog")], "going back later is a change of mind"
    assert merge([row(4, "dog"), row(4, "", CORRECTION)], {4: 1}) == []


def test_a_correction_of_what_was_never_answered_stands_until_an_answer_differs():
    assert merge([row(4, "cow", CORRECTION)], {4: 2}) == [(4, "cow")]
    assert merge([row(4, "cow", CORRECTION)], {4: 1}) == [(4, "dog")]


def test_what_was_taken_back_is_no_news_until_an_answer_differs():
    rows = [row(4, "dog"), row(4, None, CORRECTION)]
    assert merge(rows, {4: 1}) == [] and merge(rows, {4: 1}, emptied={5}) == [], "it still stands where it was given"
    assert merge(rows, {4: 0}) == [(4, "cat")] and merge(rows, (), {4}) == [(4, "")]
    assert merge(rows, {4: 1}, anew={4}) == [(4, "dog")], "an oracle that answers a second question"


def test_an_emptied_place_agrees_with_a_retraction_once():
    rows = [row(4, "dog"), row(7, "cat"), row(4, None, CORRECTION)]
    assert merge(rows, emptied={4, 7}) == [(4, None)], "of 7 nothing was taken back"
    agreed = [*rows, row(4, None)]
    assert merge(agreed, emptied={4}) == [] and merge(agreed, {4: 1}) == [(4, "dog")], "what is written there now is an answer"


def test_the_word_takes_back_what_stands_once():
    assert merge([], retracted={4}) == [], "nothing stands"
    assert merge([row(4, "dog")], retracted={4}) == [(4, None)] == merge([row(4, "", CORRECTION)], retracted={4})
    taken = [row(4, "dog"), row(4, None)]
    assert merge(taken, retracted={4}) == []
    # A correction stands against an oracle that repeats itself, whatever it says.
    corrected = [*taken, row(4, "cat", CORRECTION)]
    assert merge(corrected, retracted={4}) == [] and merge(corrected, emptied={4}) == [] and merge(corrected, {4: 1}) == [(4, "dog")]
    assert emptied_answers(corrected, Answers(emptied=frozenset({4}))) == []


def test_answers_to_an_earlier_query_are_none_to_a_later_one():
    rows = [row(4, "dog"), row(4, None, CORRECTION)]
    assert merge(rows, {4: 1}, asked={4: 3}) == [(4, "dog")]
    assert merge(rows, asked={4: 3}, emptied={4}) == []
    assert emptied_answers(rows[:1], Answers(emptied=frozenset({4})), {4: 3}) == []
    assert [one.index for one in emptied_answers(rows[:1], Answers(emptied=frozenset({4})), {4: 0})] == [4]
    rows.append(row(4, "dog", cycle=3))
    assert merge(rows, {4: 1}, asked={4: 3}) == []


def test_a_sample_labelled_and_skipped_at_once_is_skipped():
    assert merge([], {4: 1}, {4}) == [(4, "")]


labels = st.dictionaries(st.integers(0, 5), st.integers(0, 2))


@given(st.lists(labels, max_size=5))
def test_the_journal_ends_with_the_last_answers_and_repeating_them_adds_nothing(rounds):
    rows, last = [], {}
    for given_now in rounds:
        rows += [row(index, label) for index, label in merge(rows, given_now)]
        last.update({index: NAMES[label] for index, label in given_now.items()})
        assert merge(rows, given_now) == []
    assert {r.index: r.label for r in rows} == last
