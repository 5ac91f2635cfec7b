"""A browser for tests: Chromium without a window, driven through its DevTools protocol over two pipes."""

import base64
import contextlib
import itertools
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

PROGRAMS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")


def program() -> str | None:
    """The browser's program, None if there is none."""
    return next(filter(None, map(shutil.which, PROGRAMS)), None)


class Page:
    """An open page. Commands: https://chromedevtools.github.io/devtools-protocol/."""

    def __init__(self, send, receive):
        self._send, self._receive = send, receive
        self._numbers = itertools.count(1)
        self.session = None
        self.events: list[dict] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.call("Page.setLifecycleEventsEnabled", enabled=True)

    def call(self, method: str, **parameters) -> dict:
        """Run a command and wait for its answer; what happens meanwhile is kept in `events`."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        self._send(message | ({"sessionId": self.session} if self.session else {}))
        while True:
            found = self._receive()
            if found.get("id") == number:
                if "error" in found:
                    raise RuntimeError(f"{method}: {found['error']}")
                return found["result"]
            self.events.append(found)

    def open(self, path: Path, width: int, height: int = 900) -> None:
        """Open a file in a window of this size; below 600 pixels it is a phone."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        loader = self.call("Page.navigate", url=path.resolve().as_uri())["loaderId"]
        # Until then an expression may yet be about the page that was open before.
        while not any(self._is_load(event, loader) for event in self.events):
            self.events.append(self._receive())
        self.wait("document.readyState === 'complete' && document.querySelectorAll('section').length > 0")

    @staticmethod
    def _is_load(event: dict, loader: str) -> bool:
        """Whether an event says that a page is loaded."""
        what = event.get("params", {})
        return (event.get("method"), what.get("name"), what.get("loaderId")) == (
            "Page.lifecycleEvent",
            "load",
            loader,
        )

    def run(self, code: str):
        """Value of an expression in the page."""
        found = self.call("Runtime.evaluate", expression=code, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in found:
            raise RuntimeError(f"{code}: {found['exceptionDetails']}")
        return found["result"].get("value")

    def wait(self, condition: str, seconds: float = 300) -> None:
        """Wait until an expression is true."""
        end = time.monotonic() + seconds
        while not self.run(condition):
            if time.monotonic() > end:
                raise TimeoutError(condition)
            time.sleep(0.05)

    def complaints(self) -> list[str]:
        """What the page has reported: exceptions, errors in the console, refused or failed requests."""
        names = {"Runtime.exceptionThrown", "Log.entryAdded", "Network.loadingFailed"}
        found = [json.dumps(each["params"]) for each in self.events if each.get("method") in names]
        return [each for each in found if '"level": "verbose"' not in each]

    def requests(self) -> list[str]:
        """What was asked for over the network, the page itself and embedded data left out."""
        sent = [each for each in self.events if each.get("method") == "Network.requestWillBeSent"]
        urls = [each["params"]["request"]["url"] for each in sent]
        return [each for each in urls if not each.startswith(("file:", "data:", "about:"))]

    def picture(self, target: Path, whole: bool = True) -> None:
        """Save what is shown, or the whole page, as PNG."""
        found = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        target.write_bytes(base64.b64decode(found["data"]))


@contextlib.contextmanager
def browser() -> Iterator[Page]:
    """A page in a browser of its own, which ends with the block."""
    ours_in, theirs_out = os.pipe()
    theirs_in, ours_out = os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--mute-audio"]
        options += ["--disable-background-networking", "--no-first-run", f"--user-data-dir={profile}"]
        # Chromium reads commands from its file 3 and writes answers to its file 4.
        shell = 'exec "$@" 3<&"$IN" 4>&"$OUT"'
        process = subprocess.Popen(
            ["bash", "-c", shell, "browser", program(), "--remote-debugging-pipe", *options, "about:blank"],
            pass_fds=(theirs_in, theirs_out),
            env=os.environ | {"IN": str(theirs_in), "OUT": str(theirs_out)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        buffer = b""

        def send(message: dict) -> None:
            os.write(ours_out, json.dumps(message).encode() + b"\0")

        def receive() -> dict:
            nonlocal buffer
            while b"\0" not in buffer:
                if not select.select([ours_in], [], [], 300)[0]:
                    raise TimeoutError("the browser does not answer")
                part = os.read(ours_in, 1 << 20)
                if not part:
                    raise EOFError("the browser has ended")
                buffer += part
            message, buffer = buffer.split(b"\0", 1)
            return json.loads(message)

        try:
            yield Page(send, receive)
        finally:
            process.terminate()
            process.wait(120)
            os.close(ours_in)
            os.close(ours_out)
