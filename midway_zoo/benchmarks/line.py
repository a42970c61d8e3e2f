"""A file of the Hub behind a line of a given speed: a server on the loopback that answers as the Hub does.

As on the Hub, the address of a file returns its metadata and a redirect to another host, which serves ranges.
"""

import hashlib
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any

REPO, FILE = "lab/benchmark", "benchmark.pth"
_COMMIT = "1" * 40
_PIECE = 1 << 16  # small, so that replies share the line


class Line:
    """The server, a context manager, of one file.

    Args:
        source: the file.
        bits_per_second: speed of all replies together; None for no limit.
        latency: seconds before each reply, doubled for the first on a connection.
    """

    def __init__(self, source: Path, bits_per_second: float | None = None, latency: float = 0.0) -> None:
        self.source, self.rate, self.latency = source, bits_per_second, latency
        self.size = source.stat().st_size
        with source.open("rb") as file:
            self.sha256 = hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else ""
        self.sha256 = self.sha256 or hashlib.sha256(source.read_bytes()).hexdigest()
        self.requests = self.sent = 0
        self._lock, self._free = threading.Lock(), 0.0
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.daemon_threads = True
        self._server.line = self  # type: ignore[attr-defined]
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self.port = self._server.server_address[1]
        self.endpoint = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> "Line":
        self._thread.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def count(self, size: int | None = None) -> None:
        """Count a request, or bytes sent."""
        with self._lock:
            self.requests += size is None
            self.sent += size or 0

    def pace(self, size: int) -> None:
        """Wait until the line has room for so many bytes, in turn with all other replies."""
        if self.rate is None:
            return
        with self._lock:
            begin = max(self._free, time.monotonic())
            self._free = begin + 8 * size / self.rate
        time.sleep(max(self._free - time.monotonic(), 0))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    _first = True

    def log_message(self, *_: Any) -> None:
        """Log nothing; the line itself counts requests."""

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        line: Line = self.server.line  # type: ignore[attr-defined]
        line.count()
        time.sleep(line.latency * (2 if self._first else 1))
        self._first = False
        if re.fullmatch(rf"/{REPO}/resolve/[^/]+/{re.escape(FILE)}", self.path):
            tag = f'"{line.sha256}"'
            headers = {"ETag": tag, "X-Linked-Etag": tag, "X-Linked-Size": line.size, "X-Repo-Commit": _COMMIT}
            self._head(302, 0, headers | {"Location": f"http://localhost:{line.port}/cdn/{line.sha256}"})
        elif self.path == f"/cdn/{line.sha256}":
            self._send(line, body)
        else:
            self._head(404, 0, {"X-Error-Code": "EntryNotFound"})

    def _send(self, line: Line, body: bool) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        start, stop = 0, line.size
        if asked:
            start, stop = int(asked[1]), min(int(asked[2] or line.size) + 1, line.size)
        headers: dict[str, Any] = {"ETag": f'"{line.sha256[:32]}"', "Accept-Ranges": "bytes"}
        if asked:
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{line.size}"
        self._head(206 if asked else 200, stop - start, headers)
        if not body:
            return
        with line.source.open("rb") as file:
            file.seek(start)
            while start < stop:
                piece = file.read(min(_PIECE, stop - start))
                line.pace(len(piece))
                line.count(len(piece))  # before sending: a client may read the count as soon as it has all bytes
                self.wfile.write(piece)
                start += len(piece)

    def _head(self, status: int, length: int, headers: dict[str, Any]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": length}.items():
            self.send_header(name, str(value))
        self.end_headers()
