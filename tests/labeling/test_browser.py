"""The page in a real browser, by keyboard alone: from the first label over a killed server to the second batch."""

from __future__ import annotations

import csv
import threading
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from browser import Person, Server, missing
from desks import NAMES, rows, unread, waiting_run
from run_helpers import command, config_of, settings, write_yaml

from usb_active.labeling.pictures import SamplePictures
from usb_active.labeling.server import local_socket, serve
from usb_active.labeling.service import ServedRun, Service
from usb_active.loop.setup import build_dataset

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.skipif(bool(missing()), reason=missing() or "all is there")]


@pytest.fixture
def run_path(tmp_path) -> Path:
    """A run that waits for 30 labels of digits, and will for 5 more."""
    data = settings(tmp_path, active={"initial": {"name": "random", "size": 30}, "budget": 5, "oracle": "csv"})
    assert command("run", write_yaml(tmp_path / "c.yaml", data)).returncode == 3
    return tmp_path / "run"


@pytest.fixture
def truth(tmp_path) -> dict[str, str]:
    """Key → the digit."""
    dataset = build_dataset(config_of(settings(tmp_path)))
    return {key: dataset.class_names[label] for key, label in zip(dataset.keys, dataset.targets.tolist(), strict=True)}


@pytest.fixture
def person():
    person = Person()
    yield person
    person.close()


def journal(run: Path) -> list[tuple[str, str, str]]:
    with open(run / "labels.csv", newline="", encoding="utf-8") as file:
        return [(row["key"], row["label"], row["status"]) for row in csv.DictReader(file)]


def test_two_batches_with_a_killed_server_between_the_labels(run_path, truth, person):
    server = Server(run_path)
    person.open(server.address)
    given: list[str] = []

    def right(number: int) -> None:
        """Label what is shown as it is."""
        given.append(person.sees_image())
        person.gives(truth[given[-1]], f"{number} of 30")

    for number in range(1, 11):
        right(number)
    # A wrong one, seen and corrected: back to it, and the right key.
    given.append(person.sees_image())
    wrong = str((int(truth[given[-1]]) + 1) % 10)
    person.gives(wrong, "11 of 30")
    person.press("\ue012")
    person.wait(lambda: person.text("key") == given[-1] and person.text("stands") == f"✓ {wrong}", "not back")
    person.sees_image()
    person.press(truth[given[-1]])
    person.wait(lambda: person.text("said") == f"{given[-1]}: {truth[given[-1]]}", "not corrected")
    # A slip, undone.
    slip = person.sees_image()
    person.gives("s", "12 of 30")
    person.gives("u", "11 of 30")
    assert person.sees_image() == slip
    for number in range(12, 16):
        right(number)
    server.kill()
    known = journal(run_path)
    assert {(key, label) for key, label, _ in known if label == truth[key]} == {(key, truth[key]) for key in given}
    assert [row for row in known if row[0] == slip] == [(slip, "", "skipped"), (slip, "", "retracted"), (slip, truth[slip], "labeled")]
    person.press("1")
    person.wait(lambda: "no connection" in person.text("error"), "nothing is said of the server that has gone")
    # On, with training.
    server = Server(run_path, "--loop")
    person.open(server.address)
    assert person.text("counts") == "15 of 30" and journal(run_path) == known
    for number in range(16, 31):
        right(number)
        if number == 20:
            person.press("\ue012")
            person.wait(lambda: person.text("key") == given[-1], "not back")
            person.sees_image()
            person.press("s")
            person.wait(lambda: person.text("said").endswith("skipped"), "not skipped")
    assert len(set(given)) == 30
    person.wait(lambda: person.text("counts").startswith("0 of 5"), "no second batch")
    assert (run_path / "cycle_000" / "done.json").is_file()
    for number in range(1, 6):
        shown = person.sees_image()
        assert shown not in given and person.text("suggestion").startswith("suggestion: ")
        if number < 5:
            person.gives(truth[shown], f"{number} of 5")
        else:
            person.press("\ue007")
    person.wait(lambda: person.text("rest-title") == "The run is done", "the run does not end")
    assert "labels" in person.text("curve-text")
    assert [line for line in person.complaints() if "ERR_CONNECTION_REFUSED" not in line] == []
    person.driver.find_element("id", "finish").send_keys("\ue007")
    assert server.ended() == 0
    # What stands: 29 digits as they are, one skipped, and the second batch.
    standing = {key: label for key, label, _ in journal(run_path)}
    assert len(standing) == 35 and sum(label == "" for label in standing.values()) == 1
    assert all(standing[key] in ("", truth[key]) for key in given)


@contextmanager
def served(path: Path, names: Sequence[str], probs: np.ndarray):
    """The page of a run that was made without any training; its address."""
    load = lambda index: np.full((40, 40), 30 * index, dtype=np.uint8)  # noqa: E731
    service = Service(ServedRun(waiting_run(path, names, probs), unread, lambda: SamplePictures(load), ["run"]))
    service.open()
    ready = threading.Event()
    with local_socket() as listening:
        thread = threading.Thread(target=serve, args=(service, "token", listening, ready.set))
        thread.start()
        assert ready.wait(60)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/token/"
        service.finish()
        thread.join()
    service.close()


def test_one_of_many_classes_is_found_by_typing_and_names_are_text(tmp_path, person):
    names = ("<img src=x onerror=document.title='broken'>", "sunflower", *(f"class {number}" for number in range(60)), "flower")
    with served(tmp_path / "run", names, np.full((3, len(names)), 1 / len(names))) as address:
        person.open(address)
        assert person.run("document.querySelectorAll('#classes img').length") == 0 and names[0] in person.text("classes")
        # What begins with it comes before what merely holds it.
        person.press("/", "f", "l", "o", "w", "\ue007")
        person.wait(lambda: person.text("counts").startswith("1 of 3"), "nothing was given")
        assert rows(tmp_path / "run")[-1][2] == "flower"
        person.sees_image()
        # The suggestion: of equal ones the first, whose name is markup.
        person.gives("\ue007", "2 of 3")
        assert rows(tmp_path / "run")[-1][2] == names[0] and names[0] in person.text("said")
        assert not person.run("document.title").startswith("broken") and person.complaints() == []


def test_suggestions_by_the_dialog_and_one_undo(tmp_path, person):
    with served(tmp_path / "run", NAMES, np.array([[0.02, 0.97, 0.01], [0.8, 0.1, 0.1], [0.3, 0.3, 0.4]])) as address:
        person.open(address)
        person.driver.find_element("id", "accept-button").send_keys("\ue007")
        person.wait(lambda: person.text("accept-count").startswith("1 of 3 images"), "no count")
        person.driver.find_element("id", "accept-least").send_keys("\ue015" * 20)
        person.wait(lambda: person.text("accept-count").startswith("2 of 3 images"), "no other count")
        assert len(rows(tmp_path / "run")) == 2
        person.driver.find_element("id", "accept-yes").send_keys("\ue007")
        person.wait(lambda: person.text("counts").startswith("2 of 3"), "not accepted")
        person.gives("u", "0 of 3")
        assert [row[3] for row in rows(tmp_path / "run")[2:]] == ["labeled"] * 2 + ["retracted"] * 2


def test_two_people_are_shown_different_images_and_see_what_the_other_says(tmp_path, person):
    other = Person()
    try:
        with served(tmp_path / "run", NAMES, np.full((3, 3), 1 / 3)) as address:
            person.open(address)
            other.open(address)
            assert person.text("key") == "train/5" and other.text("key") == "train/4"
            other.gives("1", "1 of 3")
            # The next of the first one is not what the other looks at now, nor what the other has labelled.
            person.wait(lambda: person.text("counts").startswith("1 of 3"), "the other's answer is not seen")
            assert other.sees_image() == "train/7"
            person.gives("2", "2 of 3")
            person.wait(lambda: person.text("rest-title") == "No image here" or person.text("key") == "train/5", "shown twice")
            other.gives("3", "3 of 3")
            person.wait(lambda: person.text("rest-title") == "The batch is complete", "not complete")
            assert [row[2] for row in rows(tmp_path / "run")[2:]] == ["cat", "dog", "guinea pig"]
    finally:
        other.close()


def test_the_grid(tmp_path, person):
    with served(tmp_path / "run", NAMES, np.full((3, 3), 1 / 3)) as address:
        person.open(address)
        person.driver.find_element("id", "grid-button").send_keys("\ue007")
        person.wait(lambda: person.run("document.querySelectorAll('.tile img').length") == 3, "no grid")
        # To the second, which is labelled; the mark goes on to the third.
        person.press("\ue014", "2")
        selected = "document.querySelector('.tile[aria-selected=true]').getAttribute('aria-label')"
        person.wait(lambda: person.run(selected).startswith("train/7"), "not the next one")
        assert person.run("[...document.querySelectorAll('.tile')].map((tile) => tile.textContent)")[1] == "✓ dog"
        assert rows(tmp_path / "run")[2:] == [(1, 4, "dog", "labeled", "correction")]
