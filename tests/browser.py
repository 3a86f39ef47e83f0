"""A person at the page: a browser without a window, of which only the keyboard is used."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
PATIENCE = 120


def missing() -> str:
    """What is not there of what these tests need; "" if nothing."""
    try:
        import selenium  # noqa: F401
    except ModuleNotFoundError:
        return "no selenium: .ci/browser installs it"
    return "" if BROWSER and DRIVER else "no chromium: .ci/browser installs it"


class Server:
    """`usb-active label RUN` in a process of its own."""

    def __init__(self, run: Path, *more: str):
        command = [sys.executable, "-m", "usb_active", "label", str(run), "--no-browser", *more]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        first = self.process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+/\S+/", first)
        assert found, first + (self.process.communicate(timeout=60)[0] or "")
        self.address = found[0]

    def kill(self) -> None:
        """As by `kill -9`."""
        self.process.kill()
        self.process.wait()

    def ended(self) -> int:
        """The exit code, once it has ended by itself."""
        return self.process.wait(PATIENCE)


class Person:
    """Looks at the page, and presses keys."""

    def __init__(self, size: tuple[int, int] = (1200, 820)):
        from selenium import webdriver
        from selenium.webdriver.chrome.options import Options
        from selenium.webdriver.chrome.service import Service

        options = Options()
        options.binary_location = BROWSER
        for name in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", f"window-size={size[0]},{size[1]}"):
            options.add_argument(f"--{name}")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = webdriver.Chrome(options, Service(DRIVER))

    def open(self, address: str) -> None:
        self.driver.get(address)
        self.sees_image()

    def close(self) -> None:
        self.driver.quit()

    def wait(self, until: Any, what: str) -> Any:
        from selenium.webdriver.support.ui import WebDriverWait

        return WebDriverWait(self.driver, PATIENCE, poll_frequency=0.05).until(lambda _: until(), f"{what}; it says: {self.everything()}")

    def run(self, script: str) -> Any:
        """What JavaScript gives."""
        return self.driver.execute_script(f"return {script}")

    def text(self, name: str) -> str:
        """What an element says."""
        return self.run(f"document.getElementById('{name}').textContent")

    def everything(self) -> str:
        return self.run("document.body.innerText")

    def press(self, *keys: str) -> None:
        from selenium.webdriver.common.action_chains import ActionChains

        for key in keys:
            ActionChains(self.driver).send_keys(key).perform()

    def sees_image(self) -> str:
        """The key of the sample, once its picture is there."""
        there = "(() => { const i = document.getElementById('image'); return i.offsetParent && i.complete && i.naturalWidth > 0 })()"
        self.wait(lambda: self.run(there), "no image")
        return self.text("key")

    def gives(self, key: str, counts: str) -> None:
        """Press a key, and wait until the page says that so much is answered."""
        self.press(key)
        self.wait(lambda: self.text("counts").startswith(counts), f"after {key!r} not {counts!r}")

    def presses_code(self, key: str, code: str) -> None:
        """A key of another keyboard's layout: what it gives there, and where it is."""
        self.driver.execute_script(
            "document.body.dispatchEvent(new KeyboardEvent('keydown', {...arguments[0], bubbles: true}))", {"key": key, "code": code}
        )

    def taps(self, selector: str) -> None:
        """Touch the middle of an element with a finger, on a screen that has no mouse."""
        box = self.run(f"document.querySelector({selector!r}).getBoundingClientRect().toJSON()")
        place = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
        self.driver.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": True, "maxTouchPoints": 1})
        for kind, points in (("touchStart", [place]), ("touchEnd", [])):
            self.driver.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    def hears_news(self) -> None:
        """Wait until the page has asked once more what is new, and has heard it."""
        count = "performance.getEntriesByType('resource').filter((one) => one.name.endsWith('/news')).length"
        before = self.run(count)
        self.wait(lambda: self.run(count) > before + 1, "no news")

    def complaints(self) -> list[str]:
        """What the browser said of scripts and addresses that failed."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]
