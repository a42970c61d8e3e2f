"""The HTTP layer of the loopback Hub of :mod:`hub_server`: files by range, records of requests, injected faults."""

from __future__ import annotations

import hashlib
import json
import re
import socket
import socketserver
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

if TYPE_CHECKING:
    from tests.weights.hub.hub_server import HubServer

CHUNK = 1 << 20
LFS_SUFFIXES = (".bin", ".ckpt", ".gguf", ".h5", ".npz", ".onnx", ".pt", ".pth", ".safetensors", ".zip")
LFS_SIZE = 10 * 1000 * 1000

KINDS: dict[str, str] = {
    "drop": "close the connection without any reply",
    "status": "reply `status` (500 by default; also `retry_after` seconds, for 429 and 503)",
    "cut": "close the connection (`reset`: by RST) after `at` bytes of the body, with all of it announced",
    "flip": "invert the byte at absolute file offset `at`",
    "truncate": "serve only the first `at` bytes, as if the file ended there",
    "ignore_range": "answer a Range request by 200 and the whole body",
    "swap": "serve `content` instead of the file, under a new ETag or (`keep_etag`) the old one",
    "commit": "commit `content` to the file's path on `main`, then go on: new commit, new ETag",
    "expire": "let the signed URL of this request expire for good: 403, until a new redirect is asked for",
    "slow": "send the body in pieces of `chunk` bytes with `delay` seconds of sleep before each",
}


@dataclass
class Fault:
    """One fault: which requests it hits, how often, and what it does to them (see ``KINDS``).

    Only requests to which the fault can apply are counted: a "cut" counts replies longer than ``at``,
    a "flip" the ranges that contain the byte, "ignore_range" the requests with a Range header.
    """

    kind: str
    match: str = "*"  # substring or glob of "org/name/path/of/file", or of the URL path of an API call
    times: int | None = 1  # number of requests to hit, None for all
    after: int = 0  # number of matching requests to leave alone first
    host: str | None = None  # "hub" or "cdn", None for both
    method: str | None = None  # "GET", "HEAD", ..., None for all
    at: int = 0
    reset: bool = False
    status: int = 500
    retry_after: int | None = None
    content: bytes | Path = b""
    keep_etag: bool = False
    delay: float = 0.05
    chunk: int = 1 << 16
    seen: int = field(default=0, init=False)
    hits: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"unknown fault {self.kind!r}, expected one of {', '.join(KINDS)}")


class Faults:
    """Thread-safe, ordered collection of the faults of a server, to be changed at any time."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []
        self._lock = threading.Lock()

    def add(self, kind: str, **options: Any) -> Fault:
        """Add a fault; `options` are the fields of :class:`Fault`. Watch ``hits`` of the fault returned."""
        fault = Fault(kind, **options)
        with self._lock:
            self._faults.append(fault)
        return fault

    def remove(self, fault: Fault) -> None:
        """Remove one fault; it is no error if it is gone already."""
        with self._lock:
            self._faults = [other for other in self._faults if other is not fault]

    def clear(self) -> None:
        """Remove all faults."""
        with self._lock:
            self._faults.clear()

    def take(
        self, kind: str, host: str, method: str, target: str, applies: Callable[[Fault], bool] = lambda fault: True
    ) -> Fault | None:
        """Return the first fault of `kind` that hits this request, if any, and count the hit."""
        with self._lock:
            for fault in self._faults:
                if (
                    fault.kind != kind
                    or fault.host not in (None, host)
                    or fault.method not in (None, method)
                    or not (fault.match in target or fnmatch(target, fault.match))
                    or (fault.times is not None and fault.hits >= fault.times)
                    or not applies(fault)
                ):
                    continue
                fault.seen += 1
                if fault.seen > fault.after:
                    fault.hits += 1
                    return fault
        return None


@dataclass(frozen=True)
class Blob:
    """The content of a file, in memory or (never loaded) on disk."""

    source: bytes | Path
    size: int
    sha256: str
    lfs: bool

    @classmethod
    def of(cls, content: bytes | str | Path, lfs: bool, sha256: str = "") -> Blob:
        """Make a blob, and compute its `sha256` unless given."""
        source = content if isinstance(content, bytes) else Path(content)
        blob = cls(source, len(source) if isinstance(source, bytes) else source.stat().st_size, sha256, lfs)
        if not sha256:
            digest = hashlib.sha256()
            for chunk in blob.chunks(0, blob.size):
                digest.update(chunk)
            object.__setattr__(blob, "sha256", digest.hexdigest())
        return blob

    def chunks(self, start: int, stop: int, step: int = CHUNK) -> Iterator[bytes]:
        """Yield the bytes of [start, stop) in pieces of `step`."""
        if isinstance(self.source, bytes):
            for offset in range(start, stop, step):
                yield self.source[offset : min(offset + step, stop)]
        else:
            with open(self.source, "rb") as file:
                file.seek(start)
                for offset in range(start, stop, step):
                    chunk = file.read(min(step, stop - offset))
                    if len(chunk) < min(step, stop - offset):
                        raise EOFError(f"{self.source} is shorter than when it was added")
                    yield chunk

    @property
    def pointer(self) -> bytes:
        """The git-lfs pointer file which stands for the content in git."""
        return f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {self.size}\n".encode()

    @cached_property
    def oid(self) -> str:
        """Id of the git blob, which is the pointer for LFS files."""
        digest = hashlib.sha1(b"blob %d\0" % (len(self.pointer) if self.lfs else self.size))
        for chunk in [self.pointer] if self.lfs else self.chunks(0, self.size):
            digest.update(chunk)
        return digest.hexdigest()

    @property
    def linked_oid(self) -> str:
        """What the Hub compares contents by: sha256 of LFS files, git's id of others."""
        return self.sha256 if self.lfs else self.oid

    def etag(self, host: str) -> str:
        """ETag of the content; as in reality, that of the CDN is unrelated to the Hub's X-Linked-Etag."""
        return f'"{hashlib.md5(self.sha256.encode()).hexdigest() if host == "cdn" else self.linked_oid}"'

    def info(self) -> dict[str, Any]:
        """What listings tell of the file."""
        lfs = {"oid": self.sha256, "size": self.size, "pointerSize": len(self.pointer)}
        return {"oid": self.oid, "size": self.size, **({"lfs": lfs} if self.lfs else {})}


def is_lfs(path: str, size: int) -> bool:
    """Tell whether the Hub would keep a file out of git."""
    return size > 0 and (size > LFS_SIZE or path.endswith(LFS_SUFFIXES))


@dataclass
class RequestRecord:
    """What one request asked for and how it was answered."""

    method: str
    host: str  # "hub" or "cdn"
    path: str  # as on the request line, with the query
    target: str  # "org/name/path/of/file" where the request is about a file, else the URL path
    range: str | None  # Range header
    authorized: bool  # whether an Authorization header came with it
    status: int = 0  # 0 while (or if ever) unanswered
    bytes_sent: int = 0  # of the body


def parse_range(header: str | None, size: int) -> tuple[int, int] | None:
    """Return the half-open span that a Range header asks for, or None to serve the whole body.

    As S3 does, anything but one range of bytes is ignored. An empty span cannot be satisfied: 416.
    """
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", (header or "").replace(" ", ""))
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if not first:
        return max(size - int(last), 0), size
    if last and int(last) < int(first):
        return None
    return int(first), min(int(last) + 1, size) if last else size


class HubError(Exception):
    """A reply other than success, with the ``X-Error-Code`` from which the client picks its exception."""

    def __init__(self, status: int, message: str, code: str = "", **headers: str) -> None:
        super().__init__(message)
        self.status = status
        self.headers = {"X-Error-Message": message, **headers, **({"X-Error-Code": code} if code else {})}


class Listener(ThreadingHTTPServer):
    """One port of the server, which answers as `host`."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, hub: HubServer, host: str, handler: type[Handler]) -> None:
        self.hub, self.host = hub, host
        self.connections: set[socket.socket] = set()
        super().__init__(("127.0.0.1", 0), handler)

    def server_bind(self) -> None:
        """Bind the port, without the DNS look-up of HTTPServer."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "127.0.0.1", self.socket.getsockname()[1]

    def start(self) -> int:
        """Serve in a thread and return the port."""
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()
        return self.server_port

    def stop(self) -> None:
        """Stop serving, hang up on all clients and wait for the handlers to end."""
        self.shutdown()
        for connection in list(self.connections):
            hang_up(connection)
        deadline = time.monotonic() + 5
        while self.connections and time.monotonic() < deadline:
            time.sleep(0.005)
        self.server_close()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Keep track of the connection, then handle it in a thread."""
        self.connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Close the connection and forget it."""
        super().shutdown_request(request)
        self.connections.discard(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Keep errors, but for those of clients that went away, instead of printing them."""
        error = sys.exc_info()[1]
        if error is not None and not isinstance(error, ConnectionError):
            self.hub.errors.append(error)


def hang_up(connection: socket.socket) -> None:
    """End a connection: the peer still gets what was sent, then the end of the stream."""
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass


class Handler(BaseHTTPRequestHandler):
    """Reads requests, records them, injects faults; what the replies are is up to subclasses."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and body are written apart: spare clients the delayed ACK
    server: Listener

    def route(self) -> None:
        """Answer the request."""
        raise NotImplementedError

    def file(self) -> tuple[str, str] | None:
        """Return the repository and path of the file that the request is about, if any."""
        raise NotImplementedError

    def respond(self) -> None:
        """Answer the request or fail as the faults say."""
        self.hub, self.host = self.server.hub, self.server.host
        self.url = urlsplit(self.path)
        self.query = dict(parse_qsl(self.url.query))
        target, span = "/".join(self.file() or [self.url.path]), self.headers.get("Range")
        authorized = "Authorization" in self.headers
        self.record = RequestRecord(self.command, self.host, self.path, target, span, authorized)
        with self.hub.lock:
            self.hub.records.append(self.record)
        self.body = b""
        try:
            self.read_body()
            if self.take("drop"):
                raise ConnectionAbortedError("fault: drop")
            if fault := self.take("status"):
                retry = {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
                raise HubError(fault.status, "fault: status", **retry)
            if (file := self.file()) and (fault := self.take("commit")):
                self.hub.add_file(*file, fault.content)
            self.route()
        except HubError as error:
            self.send_json({"error": str(error)}, error.status, error.headers)
        except ConnectionError:
            self.close_connection = True
            hang_up(self.connection)
        except Exception as error:
            self.hub.errors.append(error)
            self.close_connection = True
            if not self.record.status:
                self.send_json({"error": repr(error)}, 500)

    do_GET = do_HEAD = do_POST = do_PUT = respond

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing."""

    def take(self, kind: str, applies: Callable[[Fault], bool] = lambda fault: True) -> Fault | None:
        """Return the fault of this kind, if any, which hits this request."""
        return self.hub.faults.take(kind, self.host, self.command, self.record.target, applies)

    def body_parts(self) -> Iterator[bytes]:
        """Yield the body of the request piece by piece."""
        if "chunked" in self.headers.get("Transfer-Encoding", "").lower():
            while size := int(self.rfile.readline().split(b";")[0], 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            while self.rfile.readline().strip():  # trailers
                pass
        left = int(self.headers.get("Content-Length") or 0)
        while left > 0:
            part = self.rfile.read(min(left, CHUNK))
            if not part:
                raise ConnectionAbortedError("the client went away")
            left -= len(part)
            yield part

    def read_body(self) -> None:
        """Read the body of the request: an upload into the file `upload`, others to memory."""
        if self.command == "PUT":
            with tempfile.NamedTemporaryFile(dir=self.hub.uploads, delete=False) as file:
                self.upload = Path(file.name)
                file.writelines(self.body_parts())
        else:
            self.body = b"".join(self.body_parts())

    def begin(self, status: int, headers: Mapping[str, Any]) -> None:
        """Send the status and headers."""
        self.record.status = status
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, str(value))
        self.end_headers()

    def write(self, data: bytes) -> None:
        """Send a piece of the body. It is counted first: when the client has it all, so does the record."""
        self.record.bytes_sent += len(data)
        try:
            self.wfile.write(data)
        except ConnectionError:
            self.record.bytes_sent -= len(data)
            raise

    def send_bytes(self, status: int, data: bytes, headers: Mapping[str, Any]) -> None:
        """Send a whole reply."""
        self.begin(status, {**headers, "Content-Length": len(data)})
        if self.command != "HEAD":
            self.write(data)

    def send_json(self, value: Any, status: int = 200, headers: Mapping[str, Any] | None = None) -> None:
        """Send a whole reply as JSON."""
        headers = {"Content-Type": "application/json; charset=utf-8", **(headers or {})}
        self.send_bytes(status, json.dumps(value).encode(), headers)

    def send_blob(self, blob: Blob, headers: Mapping[str, Any] | None = None) -> None:
        """Send a file or the range asked for, as far as the faults let it."""
        etag = blob.etag(self.host)
        if swap := self.take("swap"):
            blob = blob.of(swap.content, blob.lfs)
            etag = etag if swap.keep_etag else blob.etag(self.host)
        truncate = self.take("truncate", lambda fault: fault.at < blob.size)
        size = truncate.at if truncate else blob.size
        if self.headers.get("If-Match", "*") != "*" and etag not in re.split(r"\s*,\s*", self.headers["If-Match"]):
            raise HubError(412, "At least one of the pre-conditions you specified did not hold", "PreconditionFailed")
        span = parse_range(self.headers.get("Range"), size)
        if span and (self.headers.get("If-Range", etag) != etag or self.take("ignore_range")):
            span = None
        start, stop = span or (0, size)
        headers = {"Content-Type": "binary/octet-stream", "Accept-Ranges": "bytes", "ETag": etag, **(headers or {})}
        if span and start >= stop:
            raise HubError(416, "The requested range is not satisfiable", **{"Content-Range": f"bytes */{size}"})
        if span:
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        get = self.command == "GET"
        flip = self.take("flip", lambda fault: get and start <= fault.at < stop)
        cut = self.take("cut", lambda fault: get and fault.at < stop - start)
        slow = self.take("slow", lambda fault: get)
        self.begin(206 if span else 200, {**headers, "Content-Length": stop - start})
        offset = start
        for chunk in blob.chunks(start, start + cut.at if cut else stop, slow.chunk if slow else CHUNK) if get else ():
            if slow and self.hub.closing.wait(slow.delay):
                raise ConnectionAbortedError("the server is closing")
            if flip and offset <= flip.at < offset + len(chunk):
                index = flip.at - offset
                chunk = chunk[:index] + bytes([chunk[index] ^ 0xFF]) + chunk[index + 1 :]
            self.write(chunk)
            offset += len(chunk)
        if cut and cut.reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.rfile.close()  # or else the socket stays open
            self.connection.close()
        if cut:
            raise ConnectionAbortedError("fault: cut")
