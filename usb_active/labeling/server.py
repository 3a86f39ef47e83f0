"""The routes of the page, on Starlette; nothing is looked up by a path or a name that a request brings."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from usb_active.environment.signals import LINES
from usb_active.errors import UsageError
from usb_active.labeling.guard import MOST_BYTES, Guard
from usb_active.labeling.pictures import LARGE, SMALL
from usb_active.labeling.service import Moved, Service

_KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
# How often it is looked whether a training has ended, in seconds.
_TICK = 0.5


def page_files() -> dict[str, tuple[str, bytes]]:
    """The page's own files, by name: media type and bytes. There are no others."""
    folder = Path(__file__).parent / "page"
    return {path.name: (_KINDS[path.suffix], path.read_bytes()) for path in sorted(folder.iterdir()) if path.suffix in _KINDS}


class _Message(BaseModel):
    """What a page sends with whatever it wants."""

    model_config = ConfigDict(strict=True, extra="forbid")

    client: str = Field(min_length=8, max_length=64)
    round: int = 0
    # What it knows, and the images that it would show next.
    version: int = Field(-1, ge=-1)
    wants: list[int] = Field([], max_length=20_000)
    most: int = Field(0, ge=0)
    place: int = -1
    label: int = -1
    least: float = 2.0


class _Routes:
    """What each address does. `clock`: seconds that never go back."""

    def __init__(self, service: Service, clock: Callable[[], float]):
        self._service, self._clock = service, clock
        self._files = page_files()

    def routes(self) -> list[Route]:
        posts = {"hold": self._hold, "answer": self._answer, "undo": self._undo, "sure": self._sure, "accept": self._accept}
        posts |= {"news": self._news, "drop": self._drop, "train": self._train, "finish": self._finish}
        return [
            Route("/", self._file, methods=["GET"]),
            Route("/page/{name}", self._file, methods=["GET"]),
            Route("/state", self._state, methods=["GET"]),
            Route("/image/{round:int}/{place:int}", self._image, methods=["GET"]),
            Route("/small/{round:int}/{place:int}", self._image, methods=["GET"]),
            *(Route(f"/{name}", partial(self._posted, act), methods=["POST"]) for name, act in posts.items()),
        ]

    async def _file(self, request: Request) -> Response:
        found = self._files.get(request.path_params.get("name", "page.html"))
        if found is None:
            return Response("there is no such file\n", 404, media_type="text/plain")
        return Response(found[1], media_type=found[0])

    async def _state(self, request: Request) -> Response:
        return JSONResponse(self._service.everything(self._clock()))

    async def _image(self, request: Request) -> Response:
        service, place = self._service, request.path_params["place"]
        desk, pictures = service.desk, service.pictures
        if desk is None or pictures is None or request.path_params["round"] != service.round or place >= len(desk.samples):
            return Response("there is no such image\n", 404, media_type="text/plain")
        side = SMALL if request.url.path.startswith("/small") else LARGE
        try:
            kind, data = await run_in_threadpool(pictures.picture, desk.samples[place].index, side)
        except UsageError as error:
            return Response(f"{error}\n", 415, media_type="text/plain")
        return Response(data, media_type=kind, headers={"cache-control": "private, max-age=3600"})

    # What is sent: each gives the news, and what came of it.
    def _news(self, sent: _Message) -> dict[str, Any]:
        self._service.look(self._clock())
        return {}

    def _drop(self, sent: _Message) -> dict[str, Any]:
        self._service.drop(sent.client)
        return {}

    def _hold(self, sent: _Message) -> dict[str, Any]:
        self._service.at(sent.round)
        return {"held": self._held(sent)}

    def _answer(self, sent: _Message) -> dict[str, Any]:
        self._service.at(sent.round).answer(sent.client, sent.place, sent.label)
        return {"saved": sent.place, "held": self._held(sent)}

    def _undo(self, sent: _Message) -> dict[str, Any]:
        return {"undone": self._service.at(sent.round).undo(sent.client)}

    def _sure(self, sent: _Message) -> dict[str, Any]:
        return {"sure": len(self._service.at(sent.round).sure(sent.client, sent.least, self._clock()))}

    def _accept(self, sent: _Message) -> dict[str, Any]:
        return {"accepted": len(self._service.at(sent.round).accept_above(sent.client, sent.least, self._clock()))}

    def _train(self, sent: _Message) -> dict[str, Any]:
        self._service.train()
        return {}

    def _finish(self, sent: _Message) -> dict[str, Any]:
        self._service.finish()
        return {}

    def _held(self, sent: _Message) -> list[int]:
        return self._service.hold(sent.client, sent.wants, sent.most, self._clock())

    async def _posted(self, act: Callable[[_Message], dict[str, Any]], request: Request) -> Response:
        data = b""
        async for part in request.stream():
            data += part
            if len(data) > MOST_BYTES:
                return JSONResponse({"error": "too much"}, 413)
        return self._reply(act, data)

    def _reply(self, act: Callable[[_Message], dict[str, Any]], data: bytes) -> Response:
        """What comes of a message, with the news; in one thread, one after the other."""
        try:
            sent = _Message.model_validate_json(data)
            done = act(sent)
            now = self._clock()
            if act != self._news:
                # Such as the last answer, after which a training is due.
                self._service.look(now)
            # Who says that it goes is not there.
            client = "" if act == self._drop else sent.client
            return JSONResponse({**self._service.news(client, sent.version, now), **done})
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            return JSONResponse({"error": f"{'.'.join(map(str, first['loc']))}: {first['msg']}"}, 400)
        except Moved:
            return JSONResponse({"error": "the page is of an earlier batch", "moved": True}, 409)
        except UsageError as error:
            return JSONResponse({"error": str(error)}, 422)


def make_app(service: Service, token: str, port: int, clock: Callable[[], float] = time.monotonic) -> Guard:
    """The whole application: routes, and the guard before them."""
    app = Starlette(routes=_Routes(service, clock).routes())
    return Guard(app, token, [f"127.0.0.1:{port}", f"localhost:{port}"])


@contextlib.contextmanager
def local_socket(port: int = 0) -> Iterator[socket.socket]:
    """A socket of this machine alone. `port`: 0 takes a free one.

    Raises:
        UsageError: the port is taken, or may not be used.
    """
    # By the protocol's name asyncio knows that short replies are not to be held back (Nagle: 40 ms each).
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind(("127.0.0.1", port))
        except (OSError, OverflowError) as error:
            raise UsageError(f"--port {port}: {getattr(error, 'strerror', None) or error}; leave it out for a free one") from error
        yield listening


class _Server(uvicorn.Server):
    """Ends in peace when a signal comes; the program gets the signal when it has."""

    def __init__(self, config: uvicorn.Config):
        super().__init__(config)
        self.received: list[int] = []

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle those that end a program, but for what is ignored (nohup)."""
        is_main = threading.current_thread() is threading.main_thread()
        numbers = [number for number in LINES if signal.getsignal(number) is not signal.SIG_IGN] if is_main else []
        before = {number: signal.signal(number, self.handle_exit) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal has come."""
        self.received.append(sig)
        self.should_exit = True


def serve(service: Service, token: str, listening: socket.socket, ready: Callable[[], None]) -> None:
    """Serve until the page or a signal ends it. `ready` is called once it answers."""
    app = make_app(service, token, listening.getsockname()[1])
    options = {"log_config": None, "access_log": False, "server_header": False, "lifespan": "off", "timeout_graceful_shutdown": 2}
    server = _Server(uvicorn.Config(app, ws="none", **options))
    asyncio.run(_serve(server, service, listening, ready))
    for number in server.received[:1]:
        signal.raise_signal(number)


async def _serve(server: _Server, service: Service, listening: socket.socket, ready: Callable[[], None]) -> None:
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    said = False
    while not serving.done():
        await asyncio.wait([serving], timeout=_TICK if said else 0.05)
        if server.started and not said:
            said = True
            ready()
        server.should_exit |= service.is_over
        # Nothing begins any more once it is to end.
        if not server.should_exit:
            service.look(time.monotonic())
    await serving
