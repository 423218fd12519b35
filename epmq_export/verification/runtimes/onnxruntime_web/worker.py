"""A headless browser that opens a page which runs a model, in a process of its own.

    python worker.py REQUEST

This program uses Python's own library alone, and its memory is bounded from outside with the browser's.
REQUEST is a JSON file: `browser`, the program; `options`, its own besides those of here; `folders`, what is
served under each first name of a path; `page` and perhaps `outputs`, two files that are served; `asked`, what
the page is given; `result`, the file to write, as the page sends it. Errors go to stderr.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import Any

FLAGS = (
    "--headless",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--no-default-browser-check",
)
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript",
    ".mjs": "text/javascript",
    ".json": "application/json",
    ".wasm": "application/wasm",
}


class Handler(BaseHTTPRequestHandler):
    """The server of the page. `request` and `told` are set on a class of each run."""

    request_: Mapping[str, Any]
    told: "Queue[tuple[str, bytes]]"

    def do_GET(self) -> None:
        """Send a file, or what the page is asked."""
        if self.path == "/request":
            self._send(json.dumps(self.request_["asked"]).encode(), ".json")
            return
        path = self._file(self.path.partition("?")[0])
        if path is None:
            self.send_error(404)
        else:
            self._send(path.read_bytes(), path.suffix)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        """Take the answer, or the error."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self._send(b"", ".json")
        self.told.put((self.path, body))

    def _file(self, path: str) -> Path | None:
        """Return the file that a path of the page names, or None where there is none."""
        if path == "/":
            return Path(self.request_["page"])
        if path == "/outputs.mjs" and "outputs" in self.request_:
            return Path(self.request_["outputs"])
        first, _, rest = path.removeprefix("/").partition("/")
        if first not in self.request_["folders"]:
            return None
        folder = Path(self.request_["folders"][first])
        found = folder / rest
        return found if ".." not in found.parts and found.is_file() else None

    def _send(self, body: bytes, ending: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", TYPES.get(ending, "application/octet-stream"))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        """Write nothing: what is told on stderr is what went wrong."""


def main(request: Mapping[str, Any]) -> None:
    """Open the page in the browser and write what it sends. Raises ValueError with its error."""
    told: Queue[tuple[str, bytes]] = Queue()
    handler = type("Own", (Handler,), {"request_": request, "told": told})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    Thread(target=server.serve_forever, daemon=True).start()
    profile = Path(request["result"]).with_name("profile")
    # A browser refuses to guard pages from root, and this one opens no page but ours.
    guard = ("--no-sandbox",) if hasattr(os, "getuid") and os.getuid() == 0 else ()
    address = f"http://127.0.0.1:{server.server_port}/"
    browser = subprocess.Popen(
        [request["browser"], *FLAGS, *request["options"], *guard, f"--user-data-dir={profile}", address],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    try:
        kind, body = _answer(browser, told)
    finally:
        browser.kill()
        browser.wait()
    if kind != "/result":
        raise ValueError(body.decode("utf-8", "replace"))
    Path(request["result"]).write_bytes(body)


def _answer(browser: "subprocess.Popen[bytes]", told: "Queue[tuple[str, bytes]]") -> tuple[str, bytes]:
    """Wait for what the page tells. Raises ValueError where the browser ends before, or who asks for it."""
    asking = os.getppid()
    while True:
        try:
            return told.get(timeout=1)
        except Empty:
            if (code := browser.poll()) is not None:
                raise ValueError(f"the browser ended with {code} and no answer") from None
            if os.getppid() != asking:
                raise ValueError("the command that asks has ended") from None


if __name__ == "__main__":
    try:
        main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    except Exception as error:  # The system raises whatever it likes.
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(1)
