"""A headless Chromium, controlled through its debugging pipe, and the data inside an explain page."""

import base64
import fcntl
import json
import os
import re
import select
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
TIMEOUT = 60  # seconds to wait for one answer

# Chromium reads commands from file descriptor 3 and answers on 4.
LAUNCH = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.dup2(int(sys.argv[2]), 4)
os.execvp(sys.argv[3], sys.argv[3:])
"""
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run")

CODES = {"Tab": 9, "Enter": 13, "Escape": 27, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}


def find() -> str | None:
    """The path of a Chromium, or None."""
    return next(filter(None, map(shutil.which, NAMES)), None)


KINDS = {"u1": np.uint8, "u2": "<u2", "u4": "<u4", "f4": "<f4"}


def data_of(page: str) -> dict[str, Any]:
    """The data inside an explain page, with its arrays decoded."""
    data = json.loads(re.search(r'<script id="data" type="application/json">(.*?)</script>', page, re.DOTALL)[1])
    arrays = re.findall(r'data-array="(.*?)" data-kind="(.*?)" data-axes="(.*?)">(.*?)</script>', page)
    data["arrays"] = {
        name: np.frombuffer(base64.b64decode(numbers), KINDS[kind]).reshape([*map(int, axes.split())])
        for name, kind, axes, numbers in arrays
    }
    return data


class Browser:
    """A running Chromium."""

    def __init__(self, executable: str) -> None:
        self.folder = tempfile.mkdtemp()
        (theirs_in, ours_out), (ours_in, theirs_out) = os.pipe(), os.pipe()
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (theirs_in, theirs_out)]  # LAUNCH overwrites 3 and 4
        for end in (theirs_in, theirs_out):
            os.close(end)
        flags = [*FLAGS, "--remote-debugging-pipe", f"--user-data-dir={self.folder}", "about:blank"]
        command = [sys.executable, "-c", LAUNCH, *map(str, ends), executable, *flags]
        self.process = subprocess.Popen(
            command, pass_fds=ends, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        for end in ends:
            os.close(end)
        self.out, self.incoming, self.buffer = ours_out, ours_in, b""
        self.n_sent = 0
        self.pages: dict[str, Page] = {}

    def call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """Send a command and wait for its result. Events that arrive before it go to their pages."""
        self.n_sent += 1
        message = {"id": self.n_sent, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        os.write(self.out, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + TIMEOUT
        while True:
            answer = self.receive(deadline)
            if answer.get("id") == self.n_sent:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]

    def receive(self, deadline: float) -> dict[str, Any]:
        """The next message from the browser. An event also goes to its page."""
        while b"\0" not in self.buffer:
            if not select.select([self.incoming], [], [], max(0, deadline - time.monotonic()))[0]:
                raise TimeoutError("the browser does not answer")
            data = os.read(self.incoming, 1 << 16)
            if not data:
                raise EOFError("the browser has ended")
            self.buffer += data
        line, self.buffer = self.buffer.split(b"\0", 1)
        message = json.loads(line)
        if message.get("sessionId") in self.pages and "method" in message:
            self.pages[message["sessionId"]].take(message["method"], message["params"])
        return message

    def open(self, url: str, width: int = 1280, height: int = 900, dark: bool = False) -> "Page":
        """Open a page in a window of this size, and wait until it has loaded."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = self.pages[session] = Page(self, session, target)
        for domain in ("Page", "Runtime", "Log", "Network"):
            page.call(f"{domain}.enable")
        page.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        theme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        page.call("Emulation.setEmulatedMedia", features=[theme])
        page.call("Page.navigate", url=url)
        deadline = time.monotonic() + TIMEOUT
        while not page.loaded:
            self.receive(deadline)
        return page

    def close(self) -> None:
        """End the browser."""
        os.close(self.out)  # the browser quits when this pipe is closed
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        os.close(self.incoming)
        shutil.rmtree(self.folder, ignore_errors=True)


class Page:
    """An open page. `problems` are its exceptions and console errors, `requests` the addresses that it requested."""

    def __init__(self, browser: Browser, session: str, target: str) -> None:
        self.browser, self.session, self.target = browser, session, target
        self.problems: list[str] = []
        self.requests: list[str] = []
        self.loaded = False

    def take(self, event: str, parameters: dict[str, Any]) -> None:
        """Record an event."""
        if event == "Page.loadEventFired":
            self.loaded = True
        elif event == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])
        elif event == "Runtime.exceptionThrown":
            self.problems.append(json.dumps(parameters["exceptionDetails"]))
        elif event == "Log.entryAdded" and parameters["entry"]["level"] in ("error", "warning"):
            self.problems.append(parameters["entry"]["text"])
        elif event == "Runtime.consoleAPICalled" and parameters["type"] in ("error", "warning", "assert"):
            self.problems.append(json.dumps(parameters["args"]))

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command about this page."""
        return self.browser.call(method, self.session, **parameters)

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(json.dumps(answer["exceptionDetails"]))
        return answer["result"].get("value")

    def press(self, key: str) -> None:
        """Press a key, such as ArrowDown or Tab, on the focused element."""
        text = {"text": "\r"} if key == "Enter" else {}  # without it, a button is not clicked
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, windowsVirtualKeyCode=CODES[key], **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=CODES[key])

    def point(self, x: float, y: float) -> None:
        """Move the mouse to this point of the window."""
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def click(self, x: float, y: float) -> None:
        """Click at this point of the window."""
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def screenshot(self, path: Path, x: int, y: int, width: int, height: int) -> None:
        """Save a part of the page as PNG."""
        clip = {"x": x, "y": y, "width": width, "height": height, "scale": 1}
        answer = self.call("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
        path.write_bytes(base64.b64decode(answer["data"]))

    def close(self) -> None:
        """Close the page."""
        self.browser.call("Target.closeTarget", targetId=self.target)
        del self.browser.pages[self.session]


# ---- what a page shows


def text_of(page, selector):
    return page.evaluate(f"document.querySelector({json.dumps(selector)}).textContent")


def shown_text(page):
    """All text on the page. `innerText` leaves out long tables that are not near the window."""
    return page.evaluate(
        "[document.querySelector('main').innerText,"
        " ...[...document.querySelectorAll('.tall :is(td, th)')].map(x => x.textContent)].join('\\n')"
    )


def cells_of(page, selector):
    """The text of a table's cells, row by row."""
    rows = f"document.querySelector({json.dumps(selector)}).rows"
    return page.evaluate(f"[...{rows}].map(x => [...x.cells].map(y => y.textContent))")


def change(page, selector, value, event="change"):
    """Set a control as a user would."""
    field = f"document.querySelector({json.dumps(selector)})"
    page.evaluate(f"{field}.value = {json.dumps(value)}; {field}.dispatchEvent(new Event({json.dumps(event)}))")


def minus(text):
    return text.replace("-", "−")


def written(x, digits=3):
    """A number as the page writes it."""
    text = f"{x:.2e}".replace("e-0", "e-") if 0 < abs(x) < 10**-digits else f"{x:,.{digits}f}"
    return minus(text)
