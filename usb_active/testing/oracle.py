"""The suite of an oracle: it asks once, knows what was answered and nothing else, and does people's work no harm."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from usb_active.contracts.dataset import Dataset
from usb_active.contracts.oracle import Oracle
from usb_active.records import Answers, Query
from usb_active.storage.run_dir import RunDir
from usb_active.testing.contract import Contract, copies, files_below, generators_untouched, unchanged
from usb_active.testing.pool import CLASSES, Pictures


class OracleContract(Contract):
    """What the core relies on in any oracle.

    An oracle that asks people says in `answer` what they do.
    """

    kind = "oracle"

    def answer(self, oracle: Oracle, query: Query, labels: Mapping[int, int]) -> None:
        """What people do when they give `labels` (dataset index → label) for samples of `query`. Simulated oracles need it not."""
        if not oracle.simulated:
            raise NotImplementedError("answer: what do people do to answer?")

    # ------------------------------------------------------------------------------------------ helpers
    @pytest.fixture
    def asking(self, tmp_path: Path) -> Asking:
        return Asking(self, tmp_path)

    def oracle(self, folder: Path, dataset: Dataset) -> Oracle:
        """An instance that has been set up, as a process that begins or resumes a run makes it."""
        oracle = self.make(self.config)
        oracle.setup(dataset, folder)
        return oracle

    # ------------------------------------------------------------------------------------------ answers
    def test_it_is_registered(self, asking: Asking) -> None:
        """A run finds it by its name alone."""
        assert isinstance(asking.oracle, self.registered()) and asking.oracle.name == self.shown_name

    def test_every_sample_is_answered_refused_or_pending(self, asking: Asking) -> None:
        """A sample that is none of these would be asked for ever, or never again; one that is two would be both."""
        query = asking.ask([5, 12, 27])
        asking.answer(query, {5: 2})
        found = asking.oracle.collect(query)
        states = [set(found.labels), set(found.skipped), set(found.pending)]
        assert set().union(*states) == {5, 12, 27}, f"asked for 5, 12 and 27; the answers speak of {sorted(set().union(*states))}"
        assert sum(map(len, states)) == 3, "a sample is answered, refused or pending, and one of these alone"
        assert set(found.emptied) <= set(found.pending), "what was emptied is pending"
        assert set(found.retracted) <= set(found.pending) - set(found.emptied), "what was taken back is pending"

    def test_labels_are_class_indices(self, asking: Asking) -> None:
        """The journal writes the class's name."""
        query = asking.ask([5, 12, 27])
        asking.answer(query, {5: 2, 12: 0, 27: 1})
        labels = asking.oracle.collect(query).labels
        wrong = {idx: label for idx, label in labels.items() if not (isinstance(label, int | np.integer) and 0 <= label < CLASSES)}
        assert not wrong, f"labels must be integers from 0 to {CLASSES - 1}: {wrong}"

    def test_what_was_answered_is_what_is_known(self, asking: Asking) -> None:
        """No label may be made up, and none may be lost. A simulated oracle answers at once, with the data set's labels."""
        query = asking.ask([5, 12, 27])
        targets = asking.dataset.targets
        if asking.oracle.simulated:
            expected = {idx: int(targets[idx]) for idx in (5, 12, 27)}
        else:
            assert not asking.oracle.collect(query).labels, "labels without an answer"
            # Other ones than the data set's: people are right.
            expected = {idx: (int(targets[idx]) + 1) % CLASSES for idx in (5, 27)}
        asking.answer(query, expected)
        assert dict(asking.oracle.collect(query).labels) == expected

    # ------------------------------------------------------------------------------------------ again
    def test_asking_again_does_no_harm(self, asking: Asking) -> None:
        """After a crash the same query is put again: what people did meanwhile stays."""
        query = asking.ask([5, 12, 27])
        asking.answer(query, {5: 2})
        found, files = known(asking.oracle.collect(query)), files_below(asking.run)
        for oracle in (asking.oracle, asking.again()):
            oracle.ask(query)
            assert files_below(asking.run) == files, "asking again has changed files"
            assert known(oracle.collect(query)) == found, "asking again has changed what was answered"

    def test_collecting_changes_nothing(self, asking: Asking) -> None:
        """It is done whenever a run is given again, and by commands that only look."""
        query = asking.ask([5, 12, 27])
        asking.answer(query, {5: 2})
        files, found = files_below(asking.run), known(asking.oracle.collect(query))
        assert known(asking.oracle.collect(query)) == found, "another answer the second time"
        assert files_below(asking.run) == files, "collecting has changed files"

    def test_a_process_that_resumes_finds_the_answers(self, asking: Asking) -> None:
        """People take days, and no process waits for them."""
        query = asking.ask([5, 12, 27])
        asking.answer(query, {5: 2, 12: 0})
        assert known(asking.again().collect(query)) == known(asking.oracle.collect(query)), "a new process knows something else"

    def test_a_later_query_is_one_of_its_own(self, asking: Asking) -> None:
        """Answers of an earlier query may be told again, as they were; they do not stand for those of the later."""
        first = asking.ask([5, 12])
        asking.answer(first, {5: 2, 12: 0})
        before = dict(asking.oracle.collect(first).labels)
        second = asking.ask([27, 1], cycle=1)
        found = asking.oracle.collect(second)
        spoken = {*found.labels, *found.skipped, *found.pending}
        assert {27, 1} <= spoken <= {5, 12, 27, 1}, f"speaks of {sorted(spoken)} after 5, 12 and then 27, 1 were asked"
        assert all(found.labels.get(idx, label) == label for idx, label in before.items()), "an earlier answer has changed"

    # ------------------------------------------------------------------------------------------ people
    def test_it_tells_people_what_to_do(self, asking: Asking) -> None:
        """It is all that a person reads when a run stops to wait."""
        query = asking.ask([5, 12, 27])
        text = asking.oracle.instructions(query, 3)
        assert isinstance(text, str) and text.strip() and len(text.splitlines()) <= 3, f"up to three lines, not {text!r}"
        assert isinstance(asking.oracle.accepts_partial(), bool), "accepts_partial must be True or False"

    # ------------------------------------------------------------------------------------------ what it leaves alone
    def test_it_writes_into_its_own_folder(self, asking: Asking) -> None:
        """`queries` of the run's directory is the oracle's; all else is the core's."""
        foreign = {path: data for path, data in files_below(asking.run).items() if not path.startswith("queries/")}
        query = asking.ask([5, 12, 27])
        asking.answer(query, {5: 2})
        asking.oracle.collect(query)
        now = {path: data for path, data in files_below(asking.run).items() if not path.startswith("queries/")}
        assert now == foreign, f"has written {sorted(path for path in now if now[path] != foreign.get(path))}"

    def test_pool_and_global_generators_are_unchanged(self, asking: Asking) -> None:
        """Whoever is asked, and when, must not change what is trained."""
        arrays = {"targets": asking.dataset.targets, "queryable": asking.dataset.queryable, "images": asking.dataset.images}
        before = copies(arrays)
        with generators_untouched("the oracle"):
            query = asking.ask([5, 12, 27])
            asking.answer(query, {5: 2})
            asking.oracle.collect(query)
        assert not unchanged(arrays, before), f"has changed {unchanged(arrays, before)}"


class Asking:
    """A run's directory, a pool, and an oracle that has been set up on them."""

    def __init__(self, suite: OracleContract, folder: Path):
        self._suite, self.run, self.dataset = suite, folder / "run", Pictures()
        with RunDir.open(self.run, {}):
            pass
        self.oracle = self.again()

    def again(self) -> Oracle:
        """The oracle of a process that resumes."""
        return self._suite.oracle(self.run, self.dataset)

    def ask(self, idx: list[int], cycle: int = 0) -> Query:
        """A query as the core puts it: on disk before the oracle is asked."""
        keys = tuple(self.dataset.keys[i] for i in idx)
        query = Query(cycle, np.array(idx), keys, "suite", self.dataset.class_names)
        with RunDir.open(self.run, {}) as run:
            run.save_query(query)
        self.oracle.ask(query)
        return query

    def answer(self, query: Query, labels: Mapping[int, int]) -> None:
        """People answer."""
        self._suite.answer(self.oracle, query, labels)


def known(answers: Answers) -> tuple:
    """All that is in the answers, to be compared."""
    return dict(answers.labels), set(answers.skipped), set(answers.pending), set(answers.emptied)
