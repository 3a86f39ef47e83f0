"""Every check of an oracle's suite fails for an oracle that breaks its rule, and for that rule alone."""

from __future__ import annotations

import json
import random

import pytest
from broken_plugins import Broken, UnderAnotherName, assert_complete, assert_fails, failing, suite_for

from usb_active.builtin.oracles import DatasetOracle
from usb_active.contracts.oracle import Oracle
from usb_active.records import Answers
from usb_active.testing import OracleContract


class Sound(Oracle):
    """A JSON file for each query: sample → class, null where there is no answer."""

    def path(self, query):
        return self.run_path / "queries" / f"answers_{query.cycle}.json"

    def ask(self, query):
        if not self.path(query).exists():
            self.path(query).write_text(json.dumps(dict.fromkeys(query.idx.tolist())))

    def collect(self, query):
        found = {int(idx): label for idx, label in json.loads(self.path(query).read_text()).items()}
        labels = {idx: label for idx, label in found.items() if label is not None}
        return Answers(labels, pending=frozenset(found.keys() - labels.keys()))


def answer(self, oracle, query, labels):
    path = oracle.run_path / "queries" / f"answers_{query.cycle}.json"
    found = json.loads(path.read_text())
    path.write_text(json.dumps({**found, **{str(idx): label for idx, label in labels.items()}}))


class Misnamed(UnderAnotherName, Sound):
    pass


class Losing(Sound):
    """Of what is pending, knows nothing."""

    def collect(self, query):
        return Answers(super().collect(query).labels)


class Twofold(Sound):
    def collect(self, query):
        return Answers(super().collect(query).labels, pending=frozenset(query.idx.tolist()))


class Texts(Sound):
    def collect(self, query):
        found = super().collect(query)
        # All three at once: a person has looked through the list.
        labels = found.labels if found.pending else {idx: query.class_names[label] for idx, label in found.labels.items()}
        return Answers(labels, pending=found.pending)


class Guessing(Sound):
    """Where there is no answer yet, the data set has."""

    def collect(self, query):
        found = super().collect(query)
        if found.labels:
            return found
        return Answers({int(idx): int(self.dataset.targets[idx]) for idx in query.idx})


class Correcting(Sound):
    def collect(self, query):
        found = super().collect(query)
        return Answers({idx: 0 if idx == 5 else label for idx, label in found.labels.items()}, pending=found.pending)


class Overwriting(Sound):
    def ask(self, query):
        self.path(query).write_text(json.dumps(dict.fromkeys(query.idx.tolist())))


class Consuming(Sound):
    """Takes an answer once."""

    def collect(self, query):
        found = super().collect(query)
        if 5 in found.labels and found.pending:
            self.path(query).write_text(json.dumps(dict.fromkeys(query.idx.tolist())))
        return found


class Remembering(Sound):
    """Knows in memory alone what it has asked."""

    def ask(self, query):
        super().ask(query)
        self.asked = True

    def collect(self, query):
        found = super().collect(query)
        return found if hasattr(self, "asked") else Answers(pending=frozenset(query.idx.tolist()))


class Confusing(Sound):
    """Speaks of the first query when it is asked of the second."""

    def path(self, query):
        return self.run_path / "queries" / "answers_0.json"


class Mute(Sound):
    def instructions(self, query, pending):
        return ""


class Undecided(Sound):
    def accepts_partial(self):
        return None


class Scattering(Sound):
    def ask(self, query):
        super().ask(query)
        (self.run_path / "asked.txt").write_text("yes")


class Disturbing(Sound):
    def ask(self, query):
        random.random()
        super().ask(query)


class Labelling(Sound):
    def collect(self, query):
        self.dataset.targets[query.idx] = 0
        return super().collect(query)


AGAIN = "test_asking_again_does_no_harm"
BROKEN = [
    Broken("test_it_is_registered", Misnamed),
    Broken("test_every_sample_is_answered_refused_or_pending", Losing, also=["test_a_later_query_is_one_of_its_own"]),
    Broken("test_every_sample_is_answered_refused_or_pending", Twofold),
    Broken("test_labels_are_class_indices", Texts),
    Broken("test_what_was_answered_is_what_is_known", Guessing),
    Broken("test_what_was_answered_is_what_is_known", Correcting),
    Broken("test_asking_again_does_no_harm", Overwriting),
    Broken(
        "test_collecting_changes_nothing", Consuming,
        also=[AGAIN, "test_a_process_that_resumes_finds_the_answers", "test_what_was_answered_is_what_is_known"],
    ),
    Broken("test_a_process_that_resumes_finds_the_answers", Remembering),
    Broken("test_a_later_query_is_one_of_its_own", Confusing),
    Broken("test_it_tells_people_what_to_do", Mute),
    Broken("test_it_tells_people_what_to_do", Undecided),
    Broken("test_it_writes_into_its_own_folder", Scattering),
    Broken("test_pool_and_global_generators_are_unchanged", Disturbing),
    Broken("test_pool_and_global_generators_are_unchanged", Labelling, also=["test_what_was_answered_is_what_is_known"]),
]  # fmt: skip
BROKEN = [one._replace(given={"answer": answer}) for one in BROKEN]


def test_every_check_has_an_oracle_that_fails_it():
    assert_complete(OracleContract, BROKEN)


@pytest.mark.parametrize("one", BROKEN, ids=lambda one: one.id)
def test_a_broken_oracle_fails_its_check(one, tmp_path):
    assert_fails(OracleContract, one, tmp_path)


@pytest.mark.parametrize(("plugin", "given"), [(Sound, {"answer": answer}), (DatasetOracle, {})])
def test_a_sound_oracle_passes(plugin, given, tmp_path):
    assert not failing(suite_for(OracleContract, plugin, given), tmp_path)
