"""How long the page of `usb-active label` takes: from an answer to its acknowledgement, and for what it needs to show its first image.

    python benchmarks/labeling.py --pending 10000 --answers 300

A run is made in a temporary folder, with as many samples asked as `--pending` says and predictions for ten classes; its images are grey
ones of 64 × 64 pixels. The server is the real one, in a process of its own; requests go over a socket of this machine, and every answer is
synced to the disk that holds `--folder`.
"""

from __future__ import annotations

import argparse
import http.client
import json
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

SERVER = """
import sys
from pathlib import Path
import numpy as np
from usb_active.commands.labels import unread_answers
from usb_active.labeling.pictures import SamplePictures
from usb_active.labeling.server import local_socket, serve
from usb_active.labeling.service import ServedRun, Service
image = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
service = Service(ServedRun(Path(sys.argv[1]), unread_answers, lambda: SamplePictures(lambda index: image)))
service.open()
with local_socket() as listening:
    serve(service, "token", listening, lambda: print(listening.getsockname()[1], flush=True))
"""


def make_run(path: Path, pending: int) -> None:
    """A run that waits for so many labels, with the CSV that asks for them."""
    from usb_active.records import Query
    from usb_active.storage.run_dir import RunDir

    names = tuple(f"class {number}" for number in range(10))
    with RunDir.open(path, {"seed": 1}) as run:
        keys = [f"unlabeled/photo_{number:06d}.jpg" for number in range(pending)]
        run.write_keys(keys)
        probs = np.random.default_rng(0).dirichlet(np.ones(10), size=pending)
        run.save_query(Query(0, np.arange(pending), tuple(keys), "random", names, probs))
    lines = [f"{number},{key},/photos/{key},,class 1,0.5" for number, key in enumerate(keys)]
    (path / "queries" / "cycle_000.csv").write_text("\n".join(["index,key,file,label,suggestion,confidence", *lines, ""]))


class Page:
    """Requests as the page makes them, on one connection."""

    def __init__(self, port: int):
        self._host = f"127.0.0.1:{port}"
        self._connection = http.client.HTTPConnection(self._host)
        self._connection.connect()
        # As browsers do: a body that follows its head is not held back.
        self._connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def get(self, path: str) -> tuple[float, bytes]:
        return self._timed("GET", path)

    def post(self, what: str, **message: object) -> tuple[float, bytes]:
        headers = {"origin": f"http://{self._host}", "content-type": "application/json"}
        return self._timed("POST", what, json.dumps({"client": "benchmark", "round": 1, **message}).encode(), headers)

    def _timed(self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> tuple[float, bytes]:
        started = time.perf_counter()
        self._connection.request(method, f"/token/{path}", body, headers or {})
        reply = self._connection.getresponse()
        data = reply.read()
        took = time.perf_counter() - started
        assert reply.status == 200, data
        return 1000 * took, data


def measure(page: Page, pending: int, answers: int) -> None:
    """Print the table."""
    files = [page.get(name)[0] for name in ("", "page/page.css", "page/main.js", "page/samples.js", "page/talk.js", "page/zoom.js")]
    state, data = page.get("state")
    wants = list(range(500))
    hold, _ = page.post("hold", wants=wants, most=1, version=0)
    image, _ = page.get("image/1/0")
    total = sum(files) + state + hold + image
    print(f"| first image: files of the page, state ({len(data) / 1e6:.2f} MB), lease, image | {total:.0f} ms |")
    took = []
    for place in range(answers):
        message = {"place": place, "label": place % 10, "version": place, "wants": list(range(place + 1, place + 501)), "most": 1}
        took.append(page.post("answer", **message)[0])
    show("an answer to its acknowledgement", took)
    accepted, data = page.post("accept", least=0.0, version=answers)
    print(f"| all {json.loads(data)['accepted']} others accepted at once | {accepted:.0f} ms |")
    undone, data = page.post("undo", version=pending)
    print(f"| and taken back | {undone:.0f} ms |")
    version = json.loads(data)["version"]
    page.post("accept", least=0.0, version=version)
    took = [page.post("answer", place=place, label=(place + 5) % 10, version=version + pending)[0] for place in range(answers)]
    show(f"a correction, with {3 * pending} rows in labels.csv", took)


def look(address: str) -> None:
    """The same in chromium, if selenium and it are there: when something is painted, when the image is there, and what the page holds."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from browser import Person, missing

    if missing():
        return print(f"| in a browser | not measured: {missing()} |")
    person = Person()
    try:
        for _ in range(2):
            # The second time the browser itself has warmed up.
            person.open(address)
        painted = person.run("performance.getEntriesByName('first-contentful-paint')[0].startTime")
        there = person.run("performance.getEntriesByType('resource').find(one => one.name.includes('/image/')).responseEnd")
        print(f"| in chromium: first paint, first image there | {painted:.0f}, {there:.0f} ms |")
        person.driver.find_element("id", "grid-button").click()
        person.wait(lambda: person.run("document.querySelectorAll('.tile img').length") > 0, "no grid")
        for _ in range(30):
            page = person.text("page-number")
            person.driver.find_element("id", "page-on").click()
            person.wait(lambda before=page: person.text("page-number") != before, "no next page")
        elements = person.run("document.querySelectorAll('*').length")
        heap = person.run("performance.memory.usedJSHeapSize") / 2**20
        print(f"| after 30 pages of the grid: elements of the page, its JavaScript memory | {elements}, {heap:.0f} MB |")
    finally:
        person.close()


def show(what: str, took: list[float]) -> None:
    median, high, most = np.percentile(took, [50, 95, 100])
    print(f"| {what}: median, 95 %, most of {len(took)} | {median:.1f}, {high:.1f}, {most:.1f} ms |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pending", type=int, default=10_000)
    parser.add_argument("--answers", type=int, default=300)
    parser.add_argument("--folder", type=Path, help="where the run is made (default: the temporary folder)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        path = Path(folder) / "run"
        make_run(path, args.pending)
        server = subprocess.Popen([sys.executable, "-c", SERVER, str(path)], stdout=subprocess.PIPE, text=True)
        try:
            port = int(server.stdout.readline())
            look(f"http://127.0.0.1:{port}/token/")
            measure(Page(port), args.pending, args.answers)
            status = Path(f"/proc/{server.pid}/status").read_text()
            print(f"| memory of the server, at most | {int(status.split('VmHWM:')[1].split()[0]) / 1024:.0f} MB |")
        finally:
            server.terminate()
            server.wait()


if __name__ == "__main__":
    main()
