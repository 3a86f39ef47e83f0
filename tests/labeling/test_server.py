"""The routes of the page: what is given, what is taken, and that nothing is found by a path."""

from __future__ import annotations

import io
import json
import re
import socket
from typing import Any

import numpy as np
import pytest
from asgi import Reply, request
from desks import rows, waiting_run
from PIL import Image

from usb_active.commands.labels import unread_answers
from usb_active.errors import UsageError
from usb_active.labeling.desk import PENDING
from usb_active.labeling.pictures import LARGE, SMALL, SamplePictures
from usb_active.labeling.server import local_socket, make_app, page_files
from usb_active.labeling.service import ServedRun, Service

NAMES = ("<img src=x onerror=alert(1)>", "dog", '</script>"&')


class Site:
    """A page and its server."""

    def __init__(self, path, load: Any, loop: bool = False):
        self.path = waiting_run(path, NAMES)
        self.service = Service(ServedRun(self.path, unread_answers, lambda: SamplePictures(load), ["--version"], loop))
        self.service.open()
        self.now = 100.0
        self.app = make_app(self.service, "token", 8000, lambda: self.now)

    def get(self, path: str) -> Reply:
        return request(self.app, "GET", f"/token/{path}", {"host": "127.0.0.1:8000"})

    def post(self, what: str, client: str = "anna-1234", **message: Any) -> Reply:
        headers = {"host": "127.0.0.1:8000", "origin": "http://127.0.0.1:8000", "content-type": "application/json"}
        body = json.dumps({"client": client, "round": 1, **message}).encode()
        return request(self.app, "POST", f"/token/{what}", headers, body)


def load(index: int) -> Any:
    """A grey square as bright as its index says; a wide photograph; and one that cannot be read."""
    if index == 4:
        raise OSError("a bad file /secret/place")
    if index == 7:
        return Image.new("RGB", (4000, 1000), (255, 0, 0))
    return np.full((8, 8), index, dtype=np.uint8)


@pytest.fixture
def site(tmp_path):
    site = Site(tmp_path / "run", load)
    yield site
    site.service.close()


def picture(reply: Reply) -> Image.Image:
    assert reply.status == 200
    return Image.open(io.BytesIO(reply.body))


def test_the_page_and_its_files(site):
    page = site.get("")
    assert page.status == 200 and page.headers["content-type"].startswith("text/html")
    for name in re.findall(r'(?:src|href)="(page/[^"]+)"', page.body.decode()):
        assert site.get(name).status == 200, name
    # All that scripts import is there, and nothing comes from elsewhere.
    for name, (_, data) in page_files().items():
        text = data.decode()
        assert all(f"{module}" in page_files() for module in re.findall(r'from "\./([^"]+)"', text)), name
        assert set(re.findall(r"https?://[^\s\"']+", text)) <= {"http://www.w3.org/2000/svg"}, name
        # Texts of people never become markup.
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b", text), name
    assert not re.search(r"<script(?![^>]*src=)|\son\w+=|<style|\sstyle=", page.body.decode())


@pytest.mark.parametrize(
    "path",
    [
        "../config.yaml", "page/../desk.py", "page/..%2fdesk.py", "page/../../config.yaml", "page//etc/passwd", "page/desk.py",
        "labels.csv", "image/1/../../config.yaml", "image/1/train/5", "image/1/-1", "image/1/5", "image/1/99999999999999999999",
        "image/2/0", "image/0/0", "small/1/5", "image/1/1e0", "image/1/config.yaml",
    ],
)  # fmt: skip
def test_nothing_is_found_by_a_path(site, path):
    reply = site.get(path)
    assert reply.status == 404 and b"seed" not in reply.body and b"class Desk" not in reply.body


def test_pictures_by_place_of_what_is_asked(site):
    # Places 0 and 3: samples 5 and 0.
    assert np.asarray(picture(site.get("image/1/0"))).tolist() == np.full((8, 8), 5).tolist()
    assert np.asarray(picture(site.get("small/1/3"))).max() == 0
    assert picture(site.get("image/1/2")).size == (LARGE, LARGE // 4) and picture(site.get("small/1/2")).size == (SMALL, SMALL // 4)
    unreadable = site.get("image/1/1")
    assert unreadable.status == 415 and unreadable.body == b"sample 4: OSError: a bad file /secret/place\n"
    assert unreadable.headers["content-type"].startswith("text/plain")


def test_the_state_is_json_whatever_names_hold(site):
    reply = site.get("state")
    told = reply.json
    assert reply.headers["content-type"] == "application/json" and told["classes"] == list(NAMES)
    assert told["samples"][0] == ["train/5", 1, 1, 0.97] and told["samples"][3] == ["train/0", 0, None, None]
    assert told["answers"] == [PENDING, PENDING, PENDING, 0, 1]
    assert (told["stage"], told["batch"], told["round"], told["complete"], told["keys"]) == ("labeling", 3, 1, False, ["1", "2", "3"])


def test_an_answer_is_in_the_journal_before_the_page_says_so(site):
    reply = site.post("answer", place=0, label=0, wants=[1, 2], most=1)
    assert rows(site.path)[2:] == [(1, 5, NAMES[0], "labeled", "correction")]
    assert reply.status == 200 and reply.json["saved"] == 0 and reply.json["held"] == [1] and reply.json["version"] == 1
    assert site.post("news", version=0).json["changes"] == [[0, 0]]
    assert site.post("undo").json["undone"] == [0]
    assert [row[3] for row in rows(site.path)[2:]] == ["labeled", "retracted"]


def test_two_people(site):
    assert site.post("hold", wants=[0, 1], most=1).json["held"] == [0]
    held = site.post("hold", "ben-12345", wants=[0, 1], most=1).json
    assert held["held"] == [1] and held["others"] == [0]
    # Ben answers, and Anna's page hears of it.
    site.post("answer", "ben-12345", place=1, label=2)
    news = site.post("news", version=0).json
    assert news["changes"] == [[1, 2]] and news["others"] == []
    # A minute without a word from Anna's page.
    site.now += 61
    assert site.post("hold", "ben-12345", wants=[0], most=1).json["held"] == [0]


def test_a_page_that_is_closed_holds_nothing_and_may_undo_when_it_is_there_again(site):
    site.post("hold", wants=[0], most=1)
    site.post("answer", place=0, label=0, wants=[1], most=1)
    assert site.post("hold", "ben-12345", wants=[1], most=1).json["held"] == []
    assert site.post("drop").status == 200
    assert site.post("hold", "ben-12345", wants=[1], most=1).json["held"] == [1]
    assert site.post("undo").json["undone"] == [0]


def test_a_damaged_line_of_the_curve_is_said_and_answers_are_taken(site):
    (site.path / "metrics.jsonl").write_text("{\n")
    for place in range(3):
        reply = site.post("answer", place=place, label=0)
        assert reply.status == 200 and reply.json["saved"] == place
    assert "metrics.jsonl:1" in reply.json["problem"][0] and site.get("state").json["problem"] == reply.json["problem"]


def test_suggestions(site):
    assert site.post("sure", least=0.8).json["sure"] == 2
    assert site.post("accept", least=0.8).json["accepted"] == 2
    assert [row[1:3] for row in rows(site.path)[2:]] == [(5, "dog"), (4, NAMES[0])]
    assert site.post("accept").status == 422


@pytest.mark.parametrize(
    ("message", "status"),
    [
        ({"place": 9}, 422), ({"place": 0, "label": 3}, 422), ({"place": "0"}, 400), ({"place": 0, "path": "x"}, 400),
        ({"client": ""}, 400), ({"place": 0, "round": 0}, 409), ({"place": 0.5}, 400), ({"most": -1}, 400), ({"wants": [[0]]}, 400),
    ],
)  # fmt: skip
def test_what_makes_no_sense_changes_nothing(site, message, status):
    before = rows(site.path)
    reply = site.post("answer", **message)
    assert reply.status == status and "\n" not in reply.json["error"] and rows(site.path) == before


def test_what_is_no_json_is_refused(site):
    headers = {"host": "127.0.0.1:8000", "origin": "http://127.0.0.1:8000", "content-type": "application/json"}
    for body in (b"{", b"[]", b"\xff", b"null"):
        assert request(site.app, "POST", "/token/answer", headers, body).status == 400


def test_a_get_changes_nothing(site):
    for what in ("answer", "undo", "accept", "train", "finish"):
        assert site.get(what).status == 405
    assert not site.service.is_over
    site.post("finish")
    assert site.service.is_over


def test_without_loop_nothing_is_trained(site):
    for place in range(3):
        site.post("answer", place=place, label=0)
    told = site.get("state").json
    assert told["complete"] and told["stage"] == "labeling" and "starts_in" not in told
    reply = site.post("train")
    assert reply.status == 422 and reply.json["error"].endswith("and then: usb-active --version")


def test_a_port_that_is_taken_is_one_line():
    with local_socket() as listening:
        host, port = listening.getsockname()
        # TCP by name: otherwise asyncio does not switch Nagle's algorithm off, and every reply comes 40 ms late.
        assert host == "127.0.0.1" and listening.proto == socket.IPPROTO_TCP
        listening.listen()
        with pytest.raises(UsageError, match=f"--port {port}: .*; leave it out for a free one"), local_socket(port):
            pass
    with pytest.raises(UsageError, match="--port 70000"), local_socket(70000):
        pass
