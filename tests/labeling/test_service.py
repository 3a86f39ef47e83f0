"""From the last answer of a batch to the training, and on: with real processes, of commands that take no time."""

from __future__ import annotations

import pytest
from desks import unread, waiting_run

from usb_active.errors import UsageError
from usb_active.labeling.loop import LOG
from usb_active.labeling.pictures import SamplePictures
from usb_active.labeling.service import GRACE, ServedRun, Service


def service_at(path, *command: str, loop: bool = True) -> Service:
    service = Service(ServedRun(waiting_run(path), unread, lambda: SamplePictures(lambda index: None), command, loop))
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
    told = service.everything(0)
    assert told["problem"] == service.problem and "samples" not in told
    service.train()
    end(service, 0)
    assert service.stage == "failed"
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
