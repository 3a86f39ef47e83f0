"""Who may talk to the page: whoever knows the token, in a browser of this machine, from the page itself."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

# No script or style but the page's own files, no frames, nothing from elsewhere; and no address of it goes elsewhere.
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
# Of what a page sends; places of ten thousand images are less.
MOST_BYTES = 200_000


class Guard:
    """An ASGI application around another one, which sees only requests that may be, without the token in their path.

    The token is the first part of every path, and no cookie: those of one port are sent to all ports of a machine, and another user of it
    may have one of them.
    """

    def __init__(self, app: App, token: str, hosts: Iterable[str]):
        """What is guarded, and how.

        Args:
            app: what is guarded.
            token: a secret.
            hosts: what the header `Host` may be, `127.0.0.1:8000`: a page that has its own name lead here (DNS rebinding) sends its name.
        """
        self._app = app
        self._token = token.encode()
        self._hosts = frozenset(host.encode() for host in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request of ASGI."""
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        reason = "only HTTP" if scope["type"] != "http" else self._refusal(scope)
        if reason:
            return await _refuse(send, scope["type"], reason)
        if "/" not in scope["path"][1:]:
            # The page's addresses are relative to the folder that the token is.
            return await _answer(send, 308, "the address ends with a slash", [(b"location", f"{scope['path']}/".encode())])
        rest = scope["path"].partition("/")[2].partition("/")[2]
        inner = {**scope, "path": f"/{rest}", "raw_path": f"/{rest}".encode(), "root_path": ""}
        await self._app(inner, receive, _with_headers(send))

    def _refusal(self, scope: Scope) -> str:
        """Why a request may not be; "" if it may."""
        given: dict[bytes, list[bytes]] = {}
        for name, value in scope["headers"]:
            given.setdefault(name.lower(), []).append(value)
        host = given.get(b"host", [])
        if len(host) != 1 or host[0] not in self._hosts:
            return "this host is not served here"
        # Always compared, and in constant time.
        token = scope["path"].split("/")[1] if "/" in scope["path"] else ""
        if not hmac.compare_digest(token.encode("utf-8", "surrogateescape"), self._token):
            return "the address is not complete: open the one that the terminal shows"
        origin, own = given.get(b"origin", []), [b"http://" + host[0]]
        if origin and origin != own:
            return "another page may not ask for this"
        if scope["method"] == "POST":
            kind = given.get(b"content-type", [b""])[0].partition(b";")[0].strip()
            if not origin or kind != b"application/json":
                return "only the page itself may send something"
            length = given.get(b"content-length", [b""])[0]
            if not length.isdigit() or int(length) > MOST_BYTES:
                return "too much"
        elif scope["method"] not in ("GET", "HEAD"):
            return "not a thing to do here"
        return ""


async def _refuse(send: Send, kind: str, reason: str) -> None:
    if kind == "websocket":
        return await send({"type": "websocket.close", "code": 1008})
    await _answer(send, 403, reason, [])


async def _answer(send: Send, status: int, line: str, more: list[tuple[bytes, bytes]]) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"cache-control", b"no-store"), *more]
    headers += [(name.encode(), value.encode()) for name, value in HEADERS.items()]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": f"{line}\n".encode()})


def _with_headers(send: Send) -> Send:
    async def sent(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            more = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
            names = {name for name, _ in message["headers"]}
            more += [] if b"cache-control" in names else [(b"cache-control", b"no-store")]
            message = {**message, "headers": [*message["headers"], *more]}
        await send(message)

    return sent
