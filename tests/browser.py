"""A headless Chromium for tests, driven by its own protocol over two pipes, without a library."""

import base64
import json
import os
import pathlib
import shutil
import subprocess
import tempfile
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
    *(
        "--no-first-run",
        "--hide-scrollbars",
        "--disable-extensions",
        "--disable-background-networking",
        "--mute-audio",
    ),
)


class Browser:
    """A Chromium with one page.

    Attributes:
        problems: what the console and the page's policy complained about since the last `open`.
    """

    def __init__(self, program: str):
        self._folder = tempfile.mkdtemp(prefix="toco_jax_chromium_")
        theirs, self._out = os.pipe()
        self._in, answers = os.pipe()
        # Chromium reads commands from descriptor 3 and answers on 4.
        script = f'exec "$@" 3<&{theirs} 4>&{answers}'
        flags = [*_FLAGS, "--remote-debugging-pipe", f"--user-data-dir={self._folder}"]
        self._process = subprocess.Popen(
            ["bash", "-c", script, "bash", program, *flags, "about:blank"],
            pass_fds=(theirs, answers),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs)
        os.close(answers)
        self._number, self._buffer = 0, b""
        self._events: list[dict[str, Any]] = []
        self.problems: list[str] = []
        self._session = None
        pages = self.call("Target.getTargets")["targetInfos"]
        target = next(page["targetId"] for page in pages if page["type"] == "page")
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Sends a command and returns its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]
            self._events.append(answer)

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            if not (more := os.read(self._in, 2**20)):
                raise RuntimeError("Chromium ended")
            self._buffer += more
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    def open(self, page: pathlib.Path, *, width: int = 1280, scheme: str = "light") -> None:
        """Opens a file in a window of a width, for a reader who prefers light or dark."""
        self._events.clear()
        self.problems.clear()
        self.call(
            "Emulation.setDeviceMetricsOverride",
            **{"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600},
        )
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.call("Emulation.setEmulatedMedia", features=[feature])
        self.call("Page.navigate", url=page.absolute().as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self._events):
            self._events.append(self._read())
        self.settle()

    def settle(self) -> None:
        """Waits for all that a frame or a picture has to come for."""
        self.run(
            "Promise.all([...document.images].filter((i) => !i.hidden && i.loading !== 'lazy')"
            ".map((i) => i.decode().catch(() => 0))).then(() => new Promise((done) => "
            "requestAnimationFrame(() => requestAnimationFrame(done))))"
        )

    def run(self, expression: str) -> Any:
        """Returns the value of an expression in the page, of a promise what it becomes."""
        found = self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in found:
            raise RuntimeError(json.dumps(found["exceptionDetails"])[:1000])
        self._note_problems()
        return found["result"].get("value")

    def _note_problems(self) -> None:
        for event in self._events:
            method, params = event["method"], event["params"]
            if method == "Runtime.exceptionThrown":
                self.problems.append(json.dumps(params["exceptionDetails"])[:500])
            elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning"):
                self.problems.append(json.dumps(params["args"])[:500])
            elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
                self.problems.append(params["entry"]["text"])
        self._events.clear()

    def screenshot(self, path: pathlib.Path, *, whole: bool = True) -> None:
        """Writes a picture of the page, or of what the window shows of it."""
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=whole, format="png")
        path.write_bytes(base64.b64decode(shot["data"]))

    def close(self) -> None:
        """Ends the program."""
        self._process.kill()
        self._process.wait()
        os.close(self._out)
        os.close(self._in)
        shutil.rmtree(self._folder, ignore_errors=True)


def program() -> str:
    """Returns the path of a Chromium, or skips the test."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip(f"there is no Chromium: none of {', '.join(NAMES)} is installed")
    return found
