"""Who is refused: whoever lacks the token, comes by another name, from another page, or wants something that is not the page's."""

from __future__ import annotations

from typing import Any

import pytest
from asgi import Reply, request

from usb_active.labeling.guard import MOST_BYTES, Guard

TOKEN, HOST = "s3cret-Token_", "127.0.0.1:8000"
JSON = {"content-type": "application/json"}


class Inside:
    """An application that remembers the paths it was asked for."""

    def __init__(self) -> None:
        self.paths: list[str] = []

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        self.paths.append(scope["path"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"in"})


@pytest.fixture
def inside() -> Inside:
    return Inside()


def ask(inside: Inside, method: str = "GET", path: str = f"/{TOKEN}/state", host: str = HOST, body: bytes = b"", **headers: str) -> Reply:
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return request(Guard(inside, TOKEN, [HOST, "localhost:8000"]), method, path, {"host": host, **given}, body)


def test_the_page_itself_may(inside):
    assert ask(inside).body == b"in" and ask(inside, host="localhost:8000").status == 200
    assert ask(inside, path=f"/{TOKEN}/").status == 200
    assert ask(inside, "POST", f"/{TOKEN}/answer", body=b"{}", origin=f"http://{HOST}", **JSON).status == 200
    assert inside.paths == ["/state", "/state", "/", "/answer"]


def test_an_address_without_its_last_slash_leads_to_the_page(inside):
    reply = ask(inside, path=f"/{TOKEN}")
    assert reply.status == 308 and reply.headers["location"] == f"/{TOKEN}/" and inside.paths == []
    assert reply.headers["cache-control"] == "no-store"
    assert ask(inside, path=f"/{TOKEN}", host="evil.example").status == 403


@pytest.mark.parametrize(
    "path",
    ["/", "", "/state", "/s3cret-Token/state", f"/{TOKEN}x/state", f"//{TOKEN}/state", f"/x/{TOKEN}/state", f"/{TOKEN.upper()}/", "/é/"],
)
def test_without_the_token_nothing_is_given(inside, path):
    reply = ask(inside, path=path)
    assert reply.status == 403 and inside.paths == [] and TOKEN.encode() not in reply.body


@pytest.mark.parametrize(
    "host", ["", "evil.example", "evil.example:8000", "127.0.0.1", "127.0.0.1:80", "127.0.0.1:8000.evil.example", "0.0.0.0:8000"]
)
def test_another_host_is_refused(inside, host):
    """As a page does whose own name was lead to 127.0.0.1."""
    assert ask(inside, host=host).status == 403 and inside.paths == []


def test_no_host_is_refused(inside):
    assert request(Guard(inside, TOKEN, [HOST]), "GET", f"/{TOKEN}/", {}).status == 403 and inside.paths == []


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "https://127.0.0.1:8000", "http://127.0.0.1:8001", "http://localhost:8000", ""]
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_another_page_is_refused_even_with_the_token(inside, method, origin):
    assert ask(inside, method, body=b"{}", origin=origin, **JSON).status == 403 and inside.paths == []


def test_what_a_form_of_another_page_can_send_is_refused(inside):
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        assert ask(inside, "POST", body=b"{}", origin=f"http://{HOST}", content_type=kind).status == 403
    # No origin: not sent by a page.
    assert ask(inside, "POST", body=b"{}", **JSON).status == 403
    assert ask(inside, "POST", origin=f"http://{HOST}", body=b" " * (MOST_BYTES + 1), **JSON).status == 403
    for method in ("PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"):
        assert ask(inside, method, origin=f"http://{HOST}", **JSON).status == 403
    assert inside.paths == []


def test_there_is_nothing_but_http(inside):
    guard = Guard(inside, TOKEN, [HOST])
    assert request(guard, "GET", f"/{TOKEN}/state", {"host": HOST}, kind="websocket").status == 1008 and inside.paths == []


def test_every_reply_says_what_a_browser_may_do_with_it(inside):
    for reply in (ask(inside), ask(inside, path="/")):
        policy = dict(part.strip().split(" ", 1) for part in reply.headers["content-security-policy"].split(";"))
        # No script or style within the page, nothing from elsewhere, and no frame around it.
        assert policy["default-src"] == "'none'" and policy["script-src"] == policy["style-src"] == "'self'"
        assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
        assert reply.headers["referrer-policy"] == "no-referrer" and reply.headers["x-content-type-options"] == "nosniff"
        assert reply.headers["cache-control"] == "no-store"
