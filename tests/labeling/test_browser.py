"""The page in a real browser, by keyboard alone: from the first label over a killed server to the second batch."""

from __future__ import annotations

import csv
import threading
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from browser import Person, Server, missing
from desks import NAMES, rows, waiting_run
from run_helpers import command, config_of, settings, write_yaml

from usb_active.commands.labels import unread_answers
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


def grey(index: int) -> np.ndarray:
    """A square as bright as its index says."""
    return np.full((40, 40), 30 * index, dtype=np.uint8)


@contextmanager
def served(path: Path, names: Sequence[str], probs: np.ndarray, load: Callable[[int], np.ndarray] = grey):
    """The page of a run that was made without any training; its address."""
    service = Service(ServedRun(waiting_run(path, names, probs), unread_answers, lambda: SamplePictures(load), ["run"]))
    service.open()
    ready = threading.Event()
    with local_socket() as listening:
        thread = threading.Thread(target=serve, args=(service, "token", listening, ready.set))
        thread.start()
        assert ready.wait(60)
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}/token/"
        finally:
            # Of a test that fails too: nothing else ends the thread.
            service.finish()
            thread.join()
    service.close()


def test_one_of_many_classes_is_found_by_typing_and_names_are_text(tmp_path, person):
    names = ("<img src=x onerror=document.title='broken'>", "sunflower", *(f"class {number}" for number in range(60)), "flower")
    with served(tmp_path / "run", names, np.full((3, len(names)), 1 / len(names))) as address:
        person.open(address)
        assert person.run("document.querySelectorAll('#classes img').length") == 0 and names[0] in person.text("classes")
        assert person.text("more-classes") == "60 of 63 shown; type to find others"
        # What begins with it comes before what merely holds it, for those who see the page, hear it, or go by Tab.
        person.press("/", "f", "l", "o", "w")
        person.wait(lambda: person.text("heard") == "Enter gives flower; 2 found", "the first is not heard")
        visible = "[...document.querySelectorAll('#classes button')].filter((one) => one.offsetParent).map((one) => one.textContent)"
        assert person.run(visible) == ["flower", "sunflower"] and person.text("more-classes") == ""
        person.press("\ue007")
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
        # What is no confidence is none, and said where it is typed.
        least = person.driver.find_element("id", "accept-least")
        least.send_keys("\ue003" * 5)
        least.send_keys("\ue007")
        assert person.text("accept-count") == "from which confidence? 0 to 100 %" and person.run("document.getElementById('accept').open")
        least.send_keys("150", "\ue007")
        assert person.text("accept-count") == "from which confidence? 0 to 100 %" and len(rows(tmp_path / "run")) == 2
        least.send_keys("\ue003" * 3)
        least.send_keys("75")
        person.wait(lambda: person.text("accept-count").startswith("2 of 3 images"), "no count of what is typed last")
        # A key that is held down presses nothing a second time, here and on the page.
        event = "new KeyboardEvent('keydown', {key: 'Enter', repeat: true, bubbles: true, cancelable: true})"
        for where in ("#accept-yes", "#accept-least", "#classes button"):
            assert person.run(f"document.querySelector('{where}').dispatchEvent({event})") is False
            assert person.run(f"document.querySelector('{where}').dispatchEvent({event.replace('true', 'false', 1)})") is True
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
        seen = "[...document.querySelectorAll('.tile img')].filter((one) => one.complete && one.naturalWidth > 0).length"
        person.wait(lambda: person.run(seen) == 3, "no grid")
        # To the second, which is labelled; the mark goes on to the third.
        person.press("\ue014", "2")
        selected = "document.querySelector('.tile[aria-selected=true]').getAttribute('aria-label')"
        person.wait(lambda: person.run(selected).startswith("train/7"), "not the next one")
        assert person.run("[...document.querySelectorAll('.tile')].map((tile) => tile.textContent)")[1] == "✓ dog"
        assert rows(tmp_path / "run")[2:] == [(1, 4, "dog", "labeled", "correction")]


def test_the_grid_shows_what_others_do_and_leaves_theirs_alone(tmp_path, person):
    def load(index: int) -> np.ndarray:
        if index == 7:
            raise OSError("broken")
        return grey(index)

    other = Person()
    try:
        with served(tmp_path / "run", NAMES, np.full((3, 3), 1 / 3), load) as address:
            other.open(address)
            assert other.text("key") == "train/5"
            person.open(address)
            person.driver.find_element("id", "grid-button").send_keys("\ue007")
            labels = "[...document.querySelectorAll('.tile')].map((tile) => tile.textContent)"
            person.wait(lambda: person.run(labels) == ["somebody else", "cat (33 %)", "cannot be shown"], "not what others do")
            # The mark is on the first that may be labelled.
            selected = "document.querySelector('.tile[aria-selected=true]').getAttribute('aria-label')"
            assert person.run(selected).startswith("train/4 ")
            seen = "document.querySelectorAll('.tile')[1].querySelector('img').naturalWidth > 0"
            person.wait(lambda: person.run(seen), "no image")
            person.gives("2", "1 of 3")
            # What cannot be seen gets no class; what the other looks at, nothing; what the other says, is shown without a key.
            person.press("1")
            person.wait(lambda: person.text("said") == "what cannot be seen can only be skipped: s", "it was answered")
            person.press("\ue012", "\ue012", "1")
            person.wait(lambda: person.text("said") == "somebody else looks at this image", "it was answered")
            assert [row[2] for row in rows(tmp_path / "run")[2:]] == ["dog"]
            other.gives("3", "2 of 3")
            person.wait(lambda: person.run(labels)[0] == "✓ guinea pig", "not what the other says")
    finally:
        other.close()


def test_a_page_that_is_loaded_again_has_its_image_and_its_undo(tmp_path, person):
    with served(tmp_path / "run", NAMES, np.full((3, 3), 1 / 3)) as address:
        person.open(address)
        person.gives("1", "1 of 3")
        shown = person.sees_image()
        person.driver.refresh()
        assert person.sees_image() == shown == "train/4"
        person.gives("u", "0 of 3")
        # Without the last slash it is the same page.
        person.open(address.rstrip("/"))
        assert person.text("counts").startswith("0 of 3")


def test_what_cannot_be_seen_is_only_skipped_and_a_clicked_class_keeps_no_key(tmp_path, person):
    def load(index: int) -> np.ndarray:
        if index == 5:
            raise OSError("a bad file")
        return grey(index)

    with served(tmp_path / "run", NAMES, np.array([[0.1, 0.8, 0.1]] * 3), load) as address:
        person.driver.get(address)
        person.wait(lambda: "a bad file" in person.text("no-image"), "no reason")
        person.press("1")
        person.wait(lambda: person.text("said") == "what cannot be seen can only be skipped: s", "it was answered")
        assert len(rows(tmp_path / "run")) == 2
        # On a keyboard whose letters are others: the key at the place of s.
        person.presses_code("ы", "KeyS")
        person.wait(lambda: person.text("counts").startswith("1 of 3"), "not skipped")
        assert person.sees_image() == "train/4" and person.text("heard") == "train/4, suggestion dog (80 %)"
        person.driver.find_element("css selector", "#classes button").click()
        person.wait(lambda: person.text("counts").startswith("2 of 3"), "not given")
        assert person.sees_image() == "train/7"
        person.gives("\ue007", "3 of 3")
        assert [row[2] for row in rows(tmp_path / "run")[2:]] == ["", "cat", "dog"]
        person.driver.execute_script("document.getElementById('has-keys').click()")
        # Off it stays, in this tab.
        person.driver.refresh()
        person.wait(lambda: person.text("counts").startswith("3 of 3"), "not there again")
        person.press("u")
        person.hears_news()
        assert len(rows(tmp_path / "run")) == 5 and person.text("counts").startswith("3 of 3")


def test_a_finger_answers_and_takes_back(tmp_path, person):
    """On a screen as small as a telephone's, without a key."""
    person.driver.set_window_size(500, 800)
    with served(tmp_path / "run", NAMES, np.full((3, 3), 1 / 3)) as address:
        person.open(address)
        # Nothing is wider than the screen, and what a finger is for is as high as one.
        assert person.run("document.documentElement.scrollWidth <= window.innerWidth")
        heights = "[...document.querySelectorAll('#classes button')].map((one) => one.getBoundingClientRect().height)"
        assert min(person.run(heights)) >= 40
        person.taps("#classes button")
        person.wait(lambda: person.text("counts").startswith("1 of 3"), "a tap gives nothing")
        person.sees_image()
        person.taps("#skip")
        person.wait(lambda: person.text("counts").startswith("2 of 3"), "a tap does not skip")
        person.taps("#undo")
        person.wait(lambda: person.text("counts").startswith("1 of 3"), "a tap takes nothing back")
        assert [(row[2], row[3]) for row in rows(tmp_path / "run")[2:]] == [("cat", "labeled"), ("", "skipped"), ("", "retracted")]


def test_what_can_be_operated_has_a_name_for_screen_readers(tmp_path, person):
    def nameless(within: str) -> list[str]:
        # As the browser computes names for them, from labels, texts and attributes. A picture without one is of a tile that has it.
        found = person.driver.find_elements("css selector", f"{within} :is(button, input, select, img:not(.tile img), [role])")
        shown = [one for one in found if one.is_displayed() and one.aria_role not in ("status", "alert")]
        assert len(shown) > 2
        return [one.get_attribute("outerHTML")[:120] for one in shown if not one.accessible_name]

    with served(tmp_path / "run", NAMES, np.full((3, 3), 1 / 3)) as address:
        person.open(address)
        person.driver.find_element("id", "filter-button").send_keys("\ue007")
        assert nameless("body") == []
        person.driver.find_element("id", "grid-button").send_keys("\ue007")
        person.wait(lambda: person.run("document.querySelectorAll('.tile img').length") == 3, "no grid")
        assert nameless("body") == []
        # What lies behind a dialog is nothing to a screen reader while it is open.
        person.driver.find_element("id", "accept-button").send_keys("\ue007")
        person.wait(lambda: person.text("accept-count"), "no dialog")
        assert nameless("#accept") == []


def test_what_was_not_saved_is_said_until_something_is(tmp_path, person):
    with served(tmp_path / "run", NAMES, np.full((3, 3), 1 / 3)) as address:
        person.open(address)
        journal_path, kept = tmp_path / "run" / "labels.csv", tmp_path / "kept.csv"
        journal_path.rename(kept)
        journal_path.mkdir()
        person.press("1")
        person.wait(lambda: "labels.csv" in person.text("error"), "nothing is said")
        person.hears_news()
        assert "labels.csv" in person.text("error") and person.text("counts").startswith("0 of 3")
        journal_path.rmdir()
        kept.rename(journal_path)
        person.gives("1", "1 of 3")
        assert person.text("error") == ""
