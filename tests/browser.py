"""A real Chromium, driven over a pipe: no driver, no port, no network."""

import base64
import itertools
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

FLAGS = (
    "--headless",
    "--no-startup-window",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-ipc-flooding-protection",  # a test asks for more than a person would
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)


class Tab:
    """One page: what it says of itself, and what it asked for and complained of meanwhile."""

    def __init__(self, write: int, read: int) -> None:
        self._write = write
        self._read = os.fdopen(read, "rb", buffering=0)
        self._left = b""
        self._numbers = itertools.count(1)
        self._session: str | None = None
        self._is_loaded = False
        self.requests: list[str] = []
        self.complaints: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """The browser's answer to one command; what happens meanwhile is noted."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]
            self._note(answer)

    def open(self, page: Path, width: int = 1280, scheme: str = "light", link: str = "") -> None:
        """Load a file as a window of that width would show it, and wait until it is there."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=900,
            deviceScaleFactor=1,
            mobile=width < 500,
        )
        self.call(
            "Emulation.setEmulatedMedia",
            features=[{"name": "prefers-color-scheme", "value": scheme}],
        )
        self.requests.clear()
        self.complaints.clear()
        # From elsewhere, as a link within the page that is open would not load it anew.
        self._load("about:blank")
        self.requests.clear()
        self._load(page.as_uri() + link)

    def _load(self, address: str) -> None:
        self._is_loaded = False
        self.call("Page.navigate", url=address)
        while not self._is_loaded:
            self._note(self._next())

    def run(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        result = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def press(self, key: str) -> None:
        """Press a key and let it go, as a person would where the focus is."""
        typed = {"text": key} if len(key) == 1 else {}
        codes = {"ArrowDown": 40, "ArrowUp": 38, "End": 35, "Home": 36, "Escape": 27, "Tab": 9}
        code = {"windowsVirtualKeyCode": codes[key]} if key in codes else {}
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, **typed, **code)

    def shot(self, out: Path, *, full: bool = False) -> None:
        """Write a PNG of what the window shows, or of the whole page."""
        clip = {}
        if full:
            size = self.call("Page.getLayoutMetrics")["cssContentSize"]
            clip = {"clip": {**size, "scale": 1}, "captureBeyondViewport": True}
        data = self.call("Page.captureScreenshot", format="png", **clip)["data"]
        out.write_bytes(base64.b64decode(data))

    def wait(self, expression: str, seconds: float = 20) -> None:
        """Wait until a JavaScript expression holds."""
        end = time.monotonic() + seconds
        while not self.run(f"Boolean({expression})"):
            assert time.monotonic() < end, f"still not: {expression}"
            time.sleep(0.01)  # the page works on the same cores

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._left:
            chunk = self._read.read(65536)
            assert chunk, "the browser is gone"
            self._left += chunk
        message, self._left = self._left.split(b"\0", 1)
        return json.loads(message)

    def _note(self, event: dict[str, Any]) -> None:
        params = event.get("params", {})
        match event.get("method"):
            case "Page.loadEventFired":
                self._is_loaded = True
            case "Network.requestWillBeSent":
                self.requests.append(params["request"]["url"])
            case "Log.entryAdded":
                self.complaints.append(params["entry"]["text"])
            case "Runtime.consoleAPICalled" | "Runtime.exceptionThrown":
                self.complaints.append(json.dumps(params))


@contextmanager
def chromium() -> Iterator[Tab]:
    """A fresh headless Chromium; skips the test where there is none."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("needs Chromium: `apt-get install chromium`")
    ours_read, theirs_write = os.pipe()
    theirs_read, ours_write = os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        # It reads commands from descriptor 3 and writes answers to 4.
        command = f'exec "$@" 3<&{theirs_read} 4>&{theirs_write}'
        with subprocess.Popen(
            ["bash", "-c", command, "chromium", program, *FLAGS, f"--user-data-dir={profile}"],
            pass_fds=(theirs_read, theirs_write),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as process:
            os.close(theirs_read)
            os.close(theirs_write)
            tab = Tab(ours_write, ours_read)
            try:
                yield tab
            finally:
                os.close(ours_write)
                tab._read.close()
                process.terminate()
                process.wait(timeout=20)
