"""Headless Chromium through chromedriver: the WebDriver protocol over plain HTTP."""

import base64
import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_QUIET = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-dev-shm-usage",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-default-apps", "--disable-extensions", "--hide-scrollbars",
)  # fmt: skip
_START_S = 30


def missing() -> str | None:
    """The program that is not installed, or None."""
    return next((p for p in ("chromium", "chromedriver") if shutil.which(p) is None), None)


class Browser:
    """One window of `width` CSS pixels."""

    def __init__(self, port: int, folder: Path, width: int, height: int):
        self._root = f"http://127.0.0.1:{port}"
        metrics = {"width": width, "height": height, "pixelRatio": 1.0, "mobile": False}
        options = {
            "args": [*_QUIET, f"--user-data-dir={folder}", f"--window-size={width},{height}"],
            "mobileEmulation": {"deviceMetrics": metrics},
            "binary": shutil.which("chromium"),
        }
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        answer = self._post("/session", {"capabilities": {"alwaysMatch": wanted}})
        self._session = f"/session/{answer['sessionId']}"

    def open(self, path: Path) -> None:
        self._post(f"{self._session}/url", {"url": path.resolve().as_uri()})

    def run(self, script: str) -> Any:
        """The value of a script's `return`."""
        return self._post(f"{self._session}/execute/sync", {"script": script, "args": []})

    def log(self) -> list[dict[str, Any]]:
        """Everything on the console since the last call."""
        return self._post(f"{self._session}/se/log", {"type": "browser"})

    def command(self, name: str, **parameters: Any) -> Any:
        """One command of the DevTools protocol."""
        body = {"cmd": name, "params": parameters}
        return self._post(f"{self._session}/goog/cdp/execute", body)

    def picture(self, path: Path) -> None:
        """A PNG of the whole page."""
        height = self.run("return document.documentElement.scrollHeight")
        width = self.run("return innerWidth")
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        answer = self.command("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
        path.write_bytes(base64.b64decode(answer["data"]))

    def quit(self) -> None:
        request = urllib.request.Request(self._root + self._session, method="DELETE")
        urllib.request.urlopen(request, timeout=30).close()

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        request = urllib.request.Request(
            self._root + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise RuntimeError(error.read().decode()) from error


@contextmanager
def browser(folder: Path, width: int, height: int = 900) -> Iterator[Browser]:
    """Start chromedriver and one window; both end with the block."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder.mkdir(parents=True, exist_ok=True)
    driver = subprocess.Popen(
        ["chromedriver", f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        _wait(port)
        window = Browser(port, folder, width, height)
        try:
            yield window
        finally:
            window.quit()
    finally:
        driver.terminate()
        driver.wait(timeout=10)


def _wait(port: int) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError(f"chromedriver did not answer in {_START_S} s")
