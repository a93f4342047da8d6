"""Chromium without a window, driven through a pipe by its DevTools protocol.

The rule: what a page does is asked of the browser, never guessed from its text; and whatever the browser complains of
is kept. The program is that of the machine, else the one of `make servers`.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn, Self

from tests.servers.fetch import CACHE, Program, program

PATIENCE = 60.0  # s: to start, and to answer, on a machine that is busy with other things
# It speaks on descriptors 3 and 4, which may be anything here.
ON_3_AND_4 = """
import fcntl, os, sys
given = [int(each) for each in sys.argv[1:3]]
kept = [fcntl.fcntl(each, fcntl.F_DUPFD_CLOEXEC, 10) for each in given]
for each in given:
    os.close(each)
for place, each in zip((3, 4), kept):
    os.dup2(each, place)
os.execv(sys.argv[3], sys.argv[3:])
"""
FONTS = """<?xml version="1.0"?><!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig><dir>{fonts}</dir><dir>/usr/share/fonts</dir><cachedir>{cache}</cachedir>
<alias><family>system-ui</family><prefer><family>DejaVu Sans</family></prefer></alias>
<alias><family>sans-serif</family><prefer><family>DejaVu Sans</family></prefer></alias>
<alias><family>monospace</family><prefer><family>DejaVu Sans Mono</family></prefer></alias></fontconfig>"""


class Browser:
    """One browser with one page, in a folder of its own; ended when the block is left."""

    def __init__(self) -> None:
        self.complaints: list[str] = []  # errors, warnings and exceptions of the page
        self.requests: list[str] = []  # what it fetched
        self._folder = Path(tempfile.mkdtemp(prefix="browser-"))
        found = program("chromium")
        to_read, self._write = os.pipe()
        self._read, to_write = os.pipe()
        self._errors = open(self._folder / "errors", "wb")  # noqa: SIM115 - closed with the browser
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-c", ON_3_AND_4, str(to_read), str(to_write)),
                *(*found.before, str(found.path), "--headless=new", "--no-sandbox"),
                *("--remote-debugging-pipe", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"),
                *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
                *(f"--user-data-dir={self._folder / 'profile'}", "about:blank"),
            ],
            pass_fds=(to_read, to_write),
            stdin=subprocess.DEVNULL,
            stdout=self._errors,
            stderr=self._errors,
            env={**os.environ, **found.environment, **self._fonts(found), "HOME": str(self._folder)},
            process_group=0,
        )
        os.close(to_read)
        os.close(to_write)
        self._rest = b""
        self._number = 0
        self._session = ""
        self._seen: list[Mapping[str, Any]] = []

    def _fonts(self, found: Program) -> dict[str, str]:
        """An unpacked one finds its fonts beside it."""
        if not found.path.is_relative_to(CACHE):
            return {}
        tree = found.path.parents[3]
        file = self._folder / "fonts.conf"
        file.write_text(FONTS.format(fonts=tree / "usr/share/fonts", cache=self._folder / "fonts"), encoding="utf-8")
        return {"FONTCONFIG_FILE": str(file)}

    def __enter__(self) -> Self:
        try:
            target = self.ask("Target.createTarget", url="about:blank")["targetId"]
            self._session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            for domain in ("Page", "Runtime", "Log", "Network"):
                self.ask(f"{domain}.enable")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(ProcessLookupError):  # it has ended by itself
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._write)
        os.close(self._read)
        self._errors.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    # -- what it is asked --------------------------------------------------------------------------------

    def open(self, url: str, *, width: int = 1280, height: int = 900, dark: bool = False, script: bool = True) -> None:
        """Show a page, and wait until it is loaded."""
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme])
        self.ask("Emulation.setScriptExecutionDisabled", value=not script)
        self.complaints.clear()
        self.requests.clear()
        self._seen.clear()
        self.ask("Page.navigate", url=url)
        self._until(lambda event: event.get("method") == "Page.loadEventFired")

    def value(self, expression: str) -> Any:
        """What an expression is in the page."""
        answer = self.ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def press(self, key: str) -> None:
        """One key."""
        for kind in ("keyDown", "keyUp"):
            self.ask("Input.dispatchKeyEvent", type=kind, key=key, code=key)

    def point(self, x: float, y: float) -> None:
        """Move the pointer."""
        self.ask("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def picture(self, path: Path) -> None:
        """The whole page as an image."""
        size = self.ask("Page.getLayoutMetrics")["cssContentSize"]
        width = self.value("Math.max(innerWidth, document.documentElement.scrollWidth)")
        clip = {"x": 0, "y": 0, "width": width, "height": min(size["height"], 4000), "scale": 1}
        answer = self.ask("Page.captureScreenshot", format="png", clip=clip, captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(answer["data"]))

    # -- the pipe ----------------------------------------------------------------------------------------

    def ask(self, method: str, **parameters: object) -> dict[str, Any]:
        """One call of the protocol, and its answer."""
        self._number += 1
        number = self._number
        message: dict[str, object] = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        try:
            os.write(self._write, json.dumps(message).encode() + b"\0")
        except BrokenPipeError:
            self._gone()
        answer = self._until(lambda event: event.get("id") == number)
        assert "error" not in answer, (method, answer["error"])
        result: dict[str, Any] = answer["result"]
        return result

    def _until(self, wanted: Any) -> Mapping[str, Any]:
        end = time.monotonic() + PATIENCE
        while True:
            for number, event in enumerate(self._seen):
                if wanted(event):
                    return self._seen.pop(number)
            self._hear(end - time.monotonic())

    def _hear(self, seconds: float) -> None:
        ready, _, _ = select.select([self._read], [], [], max(0.0, seconds))
        more = os.read(self._read, 1 << 20) if ready else b""
        if not more:
            self._gone()
        *messages, self._rest = (self._rest + more).split(b"\0")
        for message in messages:
            event = json.loads(message)
            self._note(event.get("method"), event.get("params", {}))
            if "id" in event or event.get("method") == "Page.loadEventFired":
                self._seen.append(event)

    def _gone(self) -> NoReturn:
        said = (self._folder / "errors").read_text(errors="replace")[-2000:]
        raise AssertionError(f"the browser does not answer; it said:\n{said}")

    def _note(self, method: str | None, told: Mapping[str, Any]) -> None:
        if method == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(told["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled":
            self.complaints.append(json.dumps(told["args"]))
        elif method == "Log.entryAdded":
            self.complaints.append(told["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            self.requests.append(told["request"]["url"])
