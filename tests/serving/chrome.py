"""Drives a real Chromium over its DevTools protocol; the standard library suffices for that.

https://chromedevtools.github.io/devtools-protocol/
"""

from __future__ import annotations

import base64
import json
import os
import re
import socket
import struct
import subprocess
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.report.browser import chromium
from tests.serving.running import until


class WebSocket:
    """A client of RFC 6455 for text messages, as far as DevTools needs it."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._socket = socket.create_connection((str(parts.hostname), parts.port or 80), timeout=60)
        key = base64.b64encode(os.urandom(16)).decode()
        self._socket.sendall(
            f"GET {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
            .encode()
        )  # fmt: skip
        self._stream = self._socket.makefile("rb")
        assert b"101" in self._stream.readline()
        while self._stream.readline().strip():
            pass

    def send(self, text: str) -> None:
        data, mask = text.encode(), os.urandom(4)
        size = len(data)
        length = (
            struct.pack("!B", 0x80 | size) if size < 126
            else struct.pack("!BH", 0x80 | 126, size) if size < 1 << 16
            else struct.pack("!BQ", 0x80 | 127, size)
        )  # fmt: skip
        masked = bytes(byte ^ mask[i % 4] for i, byte in enumerate(data))
        self._socket.sendall(b"\x81" + length + mask + masked)

    def receive(self) -> str:
        message = b""
        while True:
            first, second = self._stream.read(2)
            size = second & 0x7F
            if size >= 126:
                size = int.from_bytes(self._stream.read(2 if size == 126 else 8), "big")
            part = self._stream.read(size)
            if first & 0x0F in (0, 1):  # text or its continuation; DevTools sends no other
                message += part
                if first & 0x80:
                    return message.decode()

    def close(self) -> None:
        self._stream.close()
        self._socket.close()


class Tab:
    """One page.

    Attributes:
        complaints: errors of scripts, of the policy and of the console.
        urls: of everything that the page asked for.
    """

    def __init__(self, address: str) -> None:
        self._socket = WebSocket(address)
        self._number = 0
        self.complaints: list[str] = []
        self.urls: list[str] = []
        for domain in ("Page", "Runtime", "Log", "Network", "DOM"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The result of a command."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        self._socket.send(json.dumps(message))
        while True:
            answer = json.loads(self._socket.receive())
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return dict(answer["result"])
            self._notice(answer)

    def _notice(self, event: dict[str, Any]) -> None:
        method, given = event.get("method"), event.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.complaints.append(str(given["exceptionDetails"]))
        elif method == "Log.entryAdded" and given["entry"]["level"] == "error":
            self.complaints.append(given["entry"]["text"])
        elif method == "Runtime.consoleAPICalled":
            self.complaints.append(str(given["args"]))
        elif method == "Network.requestWillBeSent":
            self.urls.append(given["request"]["url"])

    def run(self, script: str) -> Any:
        """The value of an expression, also of a promise."""
        result = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def until(self, condition: str) -> None:
        """Waits until an expression is true."""
        until(lambda: self.run(f"Boolean({condition})"))

    def open(self, url: str) -> None:
        self.call("Page.navigate", url=url)
        self.until("document.readyState === 'complete'")

    def choose(self, selector: str, file: Path) -> None:
        """Puts a file into an input."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(file)])

    def drop(self, file: Path, x: float, y: float) -> None:
        """Drags a file into the page and lets it fall."""
        data = {"items": [], "files": [str(file)], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.call("Input.dispatchDragEvent", type=kind, x=x, y=y, data=data)

    def press(self, *keys: str) -> None:
        """Keys by name: Tab, Enter, ArrowRight, …; one character types itself."""
        codes = {"Tab": 9, "Enter": 13, " ": 32, "Home": 36, "End": 35, "ArrowRight": 39}
        for key in keys:
            text = {"Enter": "\r"}.get(key, key if len(key) == 1 else "")
            self.call("Input.dispatchKeyEvent", type="keyDown", key=key, text=text,
                      windowsVirtualKeyCode=codes.get(key, 0), code=key)  # fmt: skip
            self.call("Input.dispatchKeyEvent", type="keyUp", key=key, code=key)

    def screenshot(self, path: Path) -> None:
        data = self.call("Page.captureScreenshot", format="png")["data"]
        path.write_bytes(base64.b64decode(data))

    def close(self) -> None:
        self._socket.close()


@contextmanager
def tab(folder: Path, options: Sequence[str] = ()) -> Iterator[Tab]:
    """A new browser with an empty page; its profile lies in `folder`. Skips without Chromium."""
    command = [
        chromium(), "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
        "--remote-debugging-port=0", f"--user-data-dir={folder}", "--no-first-run",
        "--window-size=1280,900", *options, "about:blank",
    ]  # fmt: skip
    with subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        encoding="utf-8",
        errors="replace",
    ) as browser:
        try:
            assert browser.stderr is not None
            found = None
            while found is None:
                line = browser.stderr.readline()
                assert line, "the browser ended"
                found = re.search(r"ws://([\d.:]+)/", line)
            with urllib.request.urlopen(f"http://{found[1]}/json/list", timeout=60) as answer:
                pages = [t for t in json.load(answer) if t["type"] == "page"]
            page = Tab(pages[0]["webSocketDebuggerUrl"])
            try:
                yield page
            finally:
                page.close()
        finally:
            browser.terminate()
            browser.stderr.close()
