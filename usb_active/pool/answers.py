"""From an oracle's answers to new rows of the journal: only what changes anything, so that nothing is written twice."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from usb_active.contracts.task import Task, valid_numbers
from usb_active.errors import UsageError, name_some
from usb_active.records import CORRECTION, LABELED, RETRACTED, VOLUNTEERED, Answers, LabelRow


def check_answers(answers: Answers, asked: Collection[int], task: Task, who: str) -> None:
    """UsageError when an oracle answers what was not asked, gives a label that does not exist, or labels what it skips."""
    answered = {*answers.labels, *answers.skipped, *answers.retracted}
    foreign = sorted(answered - set(asked))
    if foreign:
        raise UsageError(f"{who}: answers samples that were not asked: {name_some(foreign)}")
    wrong = [f"{index}: {label}" for index, label in answers.labels.items() if not 0 <= label < task.num_labels]
    if wrong:
        valid = f"valid: {valid_numbers(task.num_labels)}"
        raise UsageError(f"{who}: labels that do not exist, as sample: {task.noun}: {name_some(wrong)}; {valid}")
    both = sorted(set(answers.labels) & set(answers.skipped))
    if both:
        raise UsageError(f"{who}: both labelled and skipped: {name_some(both)}")
    both = sorted(set(answers.retracted) & {*answers.labels, *answers.skipped})
    if both:
        raise UsageError(f"{who}: both answered and taken back: {name_some(both)}")


def merge_answers(
    rows: Sequence[LabelRow],
    labels: Mapping[int, int],
    skipped: Collection[int],
    task: Task,
    *,
    emptied: Collection[int] = (),
    retracted: Collection[int] = (),
    asked: Mapping[int, int] | None = None,
    anew: Collection[int] = (),
) -> list[tuple[int, str | None]]:
    """The answers that are news: (dataset index, the label's text; "" for skipped, None for taken back), in the order given.

    An answer is news when it differs from the last one that came from the oracle. A correction made in the journal itself so stands
    against an oracle that merely repeats itself; and where the oracle comes round to a correction, that is written down too, or its
    going back later could not be told from repeating what it said at first. So it is with a retraction: an answer that still stands
    where it was given is no news, and where it has been emptied since, whatever is written there later is.

    Args:
        rows: the journal.
        labels: dataset index → label.
        skipped: refused samples.
        task: what the labels are.
        emptied: samples in whose place for an answer nothing stands.
        retracted: samples of which the oracle says that what stands is to be taken back.
        asked: dataset index → the cycle of the query that asked for it last; only what was answered to that one is compared.
        anew: samples of which every answer is news.
    """
    answered, standing = last_answers(rows, asked), {row.index: row.answer for row in rows}
    given: dict[int, str | None] = {int(index): task.decode(label) for index, label in labels.items()}
    given |= {int(index): "" for index in skipped}
    given |= {index: None for index in sorted(emptied) if answered.get(index) is not None and standing[index] is None}
    given |= {index: None for index in sorted(retracted) if index in answered or standing.get(index) is not None}
    return [(index, label) for index, label in given.items() if index in anew or index not in answered or label != answered[index]]


def last_answers(rows: Sequence[LabelRow], asked: Mapping[int, int] | None = None) -> dict[int, str | None]:
    """Dataset index → what its oracle said last: a label's text, "" for skipped, None where it took back what it had said.

    Corrections are nothing that an oracle said, nor are, with `asked` (dataset index → cycle), answers to earlier queries.
    """
    own = (row for row in rows if row.acquisition not in (CORRECTION, VOLUNTEERED))
    return {row.index: row.answer for row in own if asked is None or asked.get(row.index, row.cycle) == row.cycle}


def volunteered_labels(rows: Iterable[LabelRow], asked: Collection[int]) -> list[int]:
    """For each label that stands and that nobody asked for, the cycle of the last query there was when it was given.

    Args:
        rows: the journal.
        asked: all samples that queries ask for.
    """
    first: dict[int, LabelRow] = {}
    # The row since which a sample has had a label, whatever it was corrected to.
    since: dict[int, LabelRow | None] = {}
    for row in rows:
        first.setdefault(row.index, row)
        since[row.index] = (since.get(row.index) or row) if row.status == LABELED else None
    given = (since[index] for index, row in first.items() if row.acquisition == VOLUNTEERED and index not in asked)
    return [row.cycle for row in given if row is not None]


def charge(volunteered: Sequence[int], cycle: int, budget: int) -> int:
    """By how many labels less the query of a cycle asks for, where labels that nobody asked for are charged to the budget.

    A query takes up to its budget of what was given before it, and leaves the rest to the queries after it.

    Args:
        volunteered: of `volunteered_labels`.
        cycle: the query's.
        budget: of every query but the first, which asks for all of its samples.
    """
    owed = charged = 0
    for number in range(1, cycle + 1):
        owed += sum(before == number - 1 for before in volunteered) - charged
        charged = min(budget, owed)
    return charged


def emptied_answers(rows: Sequence[LabelRow], answers: Answers, asked: Mapping[int, int] | None = None) -> list[LabelRow]:
    """The rows that stand of samples whose answer was given and has been taken away since. `asked` as for `merge_answers`."""
    answered, standing = last_answers(rows, asked), {row.index: row for row in rows}
    gone = [standing[index] for index in sorted(answers.emptied) if answered.get(index) is not None]
    return [row for row in gone if row.status != RETRACTED]
