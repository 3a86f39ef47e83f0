"""From the last answer of a batch to the training, and on: with real processes, of commands that take no time."""

from __future__ import annotations

from dataclasses import replace

import pytest
from desks import rows, waiting_run

from usb_active.commands.labels import unread_answers
from usb_active.errors import UsageError
from usb_active.labeling.loop import LOG
from usb_active.labeling.pictures import SamplePictures
from usb_active.labeling.service import GRACE, Moved, ServedRun, Service
from usb_active.storage.run_dir import RunDir


def service_at(path, *command: str, loop: bool = True) -> Service:
    service = Service(ServedRun(waiting_run(path), unread_answers, lambda: SamplePictures(lambda index: None), command, loop))
    service.open()
    return service


def answer_all(service: Service) -> None:
    for place in range(3):
        service.desk.answer("anna", place, 0)


def end(service: Service, now: float) -> None:
    """Wait for the process that trains, and let the service see it."""
    assert service.stage == "training" and service.desk is None
    service.training._process.wait()
    service.look(now)


def test_a_training_starts_some_seconds_after_the_last_answer(tmp_path):
    service = service_at(tmp_path / "run", "--version")
    service.news("anna", 0, 0)
    service.look(0)
    assert service.starts_at is None
    answer_all(service)
    service.look(10)
    assert service.news("anna", 0, 10)["starts_in"] == GRACE and service.stage == "labeling"
    # A second thought: it is not due any more, and due anew after the next answer.
    service.desk.undo("anna")
    service.look(10 + GRACE)
    assert service.stage == "labeling" and service.starts_at is None
    service.desk.answer("anna", 2, 1)
    service.look(30)
    service.look(30 + GRACE - 0.1)
    assert service.stage == "labeling"
    service.look(30 + GRACE)
    # The run is free for the process that trains, and after it a new round begins.
    end(service, 99)
    assert service.stage == "done" and service.round == 2 and service.desk.is_complete
    assert (tmp_path / "run" / LOG).read_text().startswith("usb-active ")
    service.close()


def test_a_training_that_fails_says_why_and_may_be_tried_again(tmp_path):
    service = service_at(tmp_path / "run", "run", str(tmp_path / "none.yaml"))
    answer_all(service)
    service.train()
    end(service, 0)
    assert service.stage == "failed" and any("none.yaml" in line for line in service.problem)
    assert service.problem[-1] == f"exit code 2; all of it is in {tmp_path / 'run' / LOG}"
    # What made it fail may be a label: they can be looked at and changed, and a label that is taken back is asked for.
    told = service.everything(0)
    assert told["problem"] == service.problem and len(told["samples"]) == 5 and service.round == 2
    service.at(2).answer("anna", 0, 2)
    service.look(GRACE)
    service.look(9 * GRACE)
    assert service.stage == "failed"
    service.at(2).undo("anna")
    service.train()
    end(service, 0)
    assert service.stage == "failed" and service.code == 2
    service.close()


def test_nothing_is_trained_while_labels_are_missing(tmp_path):
    service = service_at(tmp_path / "run", "--version")
    service.desk.answer("anna", 0, 0)
    with pytest.raises(UsageError, match="2 labels are missing"):
        service.train()
    assert service.stage == "labeling" and service.desk is not None
    service.close()


def test_ending_the_page_ends_the_training(tmp_path):
    service = service_at(tmp_path / "run", "doctor")
    answer_all(service)
    service.train()
    training = service.training
    service.close()
    assert training.code is not None


def test_a_run_that_somebody_else_has_taken_is_said(tmp_path):
    path = tmp_path / "run"
    service = service_at(path, "--version")
    answer_all(service)
    service.train()
    other = Service(service.plan)
    other.open()
    end(service, 0)
    assert service.stage == "failed" and "already uses" in service.problem[0]
    other.close()
    service.close()


def test_a_desk_that_cannot_be_opened_is_given_back_and_its_places_hold_no_more(tmp_path):
    """As when somebody deletes an image while the run is trained."""
    path = tmp_path / "run"
    service = service_at(path, "--version")
    answer_all(service)
    service.train()

    def broken() -> SamplePictures:
        raise UsageError("photos/5.png is gone")

    good, service.plan = service.plan, replace(service.plan, pictures=broken)
    end(service, 0)
    assert service.stage == "failed" and service.problem == ["photos/5.png is gone"]
    with pytest.raises(Moved):
        service.at(1)
    with pytest.raises(Moved):
        service.at(service.round)
    # The lock is free, for others and for another try.
    RunDir.open(path, RunDir.read(path).config).close()
    service.plan = good
    service.train()
    end(service, 0)
    assert service.stage == "done" and service.problem == [] and service.round == 3
    with pytest.raises(UsageError, match="the run is done"):
        service.train()
    service.close()


def test_one_training_at_a_time(tmp_path):
    service = service_at(tmp_path / "run", "--version")
    answer_all(service)
    service.train()
    first = service.training
    service.train()
    assert service.training is first
    end(service, 0)
    service.close()


def test_a_training_that_was_interrupted_goes_on(tmp_path):
    path = waiting_run(tmp_path / "run")
    with RunDir.open(path, {"seed": 1}) as run:
        run.write_json("cycle_001/start.json", {"cycle": 1, "journal_rows": 2, "pending": 3, "samples": 8})
    service = Service(ServedRun(path, unread_answers, lambda: SamplePictures(lambda index: None), ["--version"], loop=True))
    service.open()
    service.news("anna", 0, 0)
    service.look(0)
    assert service.stage == "labeling" and service.starts_at == GRACE
    service.look(GRACE)
    end(service, 99)
    service.close()


def test_the_count_begins_with_a_page_and_anew_with_every_change(tmp_path):
    service = service_at(tmp_path / "run", "--version")
    answer_all(service)
    service.look(0)
    service.everything(0)
    service.look(10 * GRACE)
    assert service.stage == "labeling" and service.starts_at is None
    service.news("anna", 0, 100)
    service.look(100)
    assert service.starts_at == 100 + GRACE
    service.desk.answer("anna", 0, 2)
    service.look(105)
    service.look(100 + GRACE)
    assert service.stage == "labeling" and service.starts_at == 105 + GRACE
    service.look(105 + GRACE)
    end(service, 120)
    service.close()


def test_a_log_that_cannot_be_written_is_said_and_labels_can_be_given(tmp_path):
    path = tmp_path / "run"
    service = service_at(path, "--version")
    answer_all(service)
    (path / LOG).mkdir()
    service.news("anna", 0, 0)
    service.look(0)
    service.look(GRACE)
    assert service.stage == "failed" and LOG in service.problem[0] and service.problem[0].startswith("the training cannot start: ")
    service.desk.answer("anna", 0, 1)
    assert rows(path)[-1][2] == "dog"
    (path / LOG).rmdir()
    service.train()
    end(service, 0)
    assert service.stage == "done"
    service.close()


@pytest.mark.parametrize("line", ["{", '{"cycles": 0}', '{"cycle": 0, "accuracy": "high"}'])
def test_a_damaged_curve_is_said_and_nothing_else_fails(tmp_path, line):
    path = tmp_path / "run"
    service = service_at(path)
    answer_all(service)
    (path / "metrics.jsonl").write_text(line + "\n")
    told = service.everything(0)
    assert "curve" not in told and "metrics.jsonl" in told["problem"][0] and len(told["samples"]) == 5
    assert len(service.news("anna", 0, 0)["problem"]) == len(told["problem"]) and service.problem == []
    service.close()


@pytest.mark.parametrize(
    ("stage", "code", "expected"),
    [
        ("labeling", None, 3), ("labeling", 3, 3), ("done", 0, 0), ("failed", 2, 2), ("failed", 1, 1), ("failed", -9, 137),
        ("failed", None, 2), ("failed", 0, 2), ("failed", 3, 2), ("training", None, 3), ("training", 3, 3),
    ],
)  # fmt: skip
def test_the_exit_code_says_where_the_run_is(tmp_path, stage, code, expected):
    plan = ServedRun(tmp_path, unread_answers, lambda: SamplePictures(lambda index: None))
    assert Service(plan, stage=stage, code=code).exit_code == expected


def test_nothing_begins_once_the_page_is_to_end(tmp_path):
    service = service_at(tmp_path / "run", "--version")
    answer_all(service)
    service.news("anna", 0, 0)
    service.look(0)
    service.finish()
    service.look(GRACE)
    assert service.stage == "labeling" and service.training is None
    service.close()
