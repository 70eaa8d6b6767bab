"""A headless Chromium, asked over its two pipes: DevTools' protocol, JSON between zero bytes. Nothing to install beside it."""

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
PIPES = "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); os.execv(sys.argv[3], sys.argv[3:])"
SECONDS = 60.0
KEYS = {"ArrowLeft": 37, "ArrowRight": 39, "ArrowDown": 40, "Escape": 27}


@contextmanager
def opened(folder):
    """A browser with its profile in this folder, which keeps what it downloads in `folder`/downloads."""
    there, back = os.pipe(), os.pipe()
    options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--remote-debugging-pipe",
    ]
    command = [
        sys.executable,
        "-c",
        PIPES,
        str(there[0]),
        str(back[1]),
        PROGRAM,
        *options,
        f"--user-data-dir={folder / 'profile'}",
    ]
    environment = os.environ | {"HOME": str(folder)}
    process = subprocess.Popen(
        command, pass_fds=(there[0], back[1]), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
    )
    os.close(there[0])
    os.close(back[1])
    try:
        yield Browser(there[1], back[0], folder / "downloads")
    finally:
        os.close(there[1])  # at which it ends
        os.close(back[0])
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class Browser:
    """call(method, …) is DevTools'; pages are opened one at a time."""

    def __init__(self, to, back, downloads):
        self._to, self._back, self._rest, self._number = to, back, b"", 0
        self.downloads, self.events, self.session = downloads, [], None
        self.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(downloads))

    def call(self, method, **parameters):
        self._number += 1
        asked = {"id": self._number, "method": method, "params": parameters}
        if self.session:
            asked["sessionId"] = self.session
        os.write(self._to, json.dumps(asked).encode() + b"\0")
        while (answer := self._next()).get("id") != self._number:
            self.events.append(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def _next(self):
        end = time.monotonic() + SECONDS
        while b"\0" not in self._rest:
            assert select.select([self._back], [], [], max(end - time.monotonic(), 0))[0], "the browser does not answer"
            piece = os.read(self._back, 1 << 20)
            assert piece, "the browser has ended"
            self._rest += piece
        one, _, self._rest = self._rest.partition(b"\0")
        return json.loads(one)

    def open(self, file, *, width=1200, height=900, dark=False):
        """The page of a file in a new tab of this size."""
        self.session, self.events = None, []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url=file.as_uri())
        self.until("document.readyState === 'complete'")

    def ask(self, expression):
        """The value of JavaScript; what it throws is an error here."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True, userGesture=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def until(self, expression):
        """Wait until it is true."""
        end = time.monotonic() + SECONDS
        while not self.ask(expression):
            assert time.monotonic() < end, expression
            time.sleep(0.02)

    def key(self, name):
        """A key, pressed and let go, as the browser gets it from a keyboard."""
        about = {"key": name, "windowsVirtualKeyCode": KEYS.get(name, ord(name[0].upper()))}
        if len(name) == 1:
            about["text"] = name
        self.call("Input.dispatchKeyEvent", type="keyDown", **about)
        self.call("Input.dispatchKeyEvent", type="keyUp", **{k: v for k, v in about.items() if k != "text"})

    def click(self, expression):
        """The middle of an element, with a mouse."""
        x, y = self.ask(
            f"(() => {{ const e = {expression}; e.scrollIntoView({{block: 'center'}}); const b = e.getBoundingClientRect(); "
            "return [b.x + b.width / 2, b.y + b.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def shot(self, file):
        """A picture of what is seen."""
        file.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def complaints(self):
        """What the page's code or the browser has to complain of, and addresses that were asked for beside files."""
        self.ask("0")
        found = [event for event in self.events if event["method"] in ("Runtime.exceptionThrown", "Log.entryAdded")]
        asked = [event["params"]["request"]["url"] for event in self.events if event["method"] == "Network.requestWillBeSent"]
        return [json.dumps(one) for one in found] + [url for url in asked if not url.startswith(("file:", "blob:", "data:"))]

    def downloaded(self):
        """The one file that was saved."""
        end = time.monotonic() + SECONDS
        while not (files := list(self.downloads.glob("*.json")) if self.downloads.exists() else []):
            assert time.monotonic() < end, "nothing was saved"
            time.sleep(0.02)
        (file,) = files
        return file
