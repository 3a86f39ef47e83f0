"""The page in a real browser, by keyboard alone: from the first label over a killed server to the second batch."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from browser import Person, Server, missing
from run_helpers import command, config_of, settings, write_yaml

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
