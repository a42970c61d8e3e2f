"""The HTTP layer of the loopback Hub of :mod:`hub_server`: files by range, records of requests, injected faults."""

from __future__ import annotations

import gzip
import itertools
import json
import re
import socket
import socketserver
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

from tests.weights.hub.blobs import CHUNK, Blob, parse_range
from tests.weights.hub.faults import Fault

if TYPE_CHECKING:
    from tests.weights.hub.hub_server import HubServer


@dataclass
class RequestRecord:
    """What one request asked for and how it was answered."""

    method: str
    host: str  # "hub" or "cdn"
    path: str  # as on the request line, with the query
    target: str  # "org/name/path/of/file" where the request is about a file, else the URL path
    range: str | None  # Range header
    authorized: bool  # whether an Authorization header came with it
    client: str  # address and port: one for each connection
    status: int = 0  # 0 while (or if ever) unanswered
    bytes_sent: int = 0  # of the body


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
    connected = False  # whether this connection has had a request

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
        authorized, client = "Authorization" in self.headers, "{}:{}".format(*self.client_address)
        self.record = RequestRecord(self.command, self.host, self.path, target, span, authorized, client)
        with self.hub.lock:
            self.hub.records.append(self.record)
        self.body = b""
        try:
            self.read_body()
            self.fail()
            if (file := self.file()) and (fault := self.take("commit")):
                self.hub.add_file(*file, fault.content)
            self.route()
        except HubError as error:
            self.send_error_body(error)
        except ConnectionError:
            self.close_connection = True
            hang_up(self.connection)
        except Exception as error:
            self.hub.errors.append(error)
            self.close_connection = True
            if not self.record.status:
                self.send_json({"error": repr(error)}, 500)

    def fail(self) -> None:
        """Answer otherwise, or not at all, as the faults say."""
        self.hub.wait(self.hub.latency if self.connected else 2 * self.hub.latency)
        self.connected = True
        if self.take("drop"):
            raise ConnectionAbortedError("fault: drop")
        if self.take("hang"):
            self.hub.closing.wait()
            raise ConnectionAbortedError("fault: hang")
        if fault := self.take("redirect"):
            raise HubError(fault.status, "fault: redirect", Location=self.hub.twin_endpoint + self.path)
        if self.take("page"):
            raise HubError(200, "<!doctype html><title>Sign in</title>")
        if fault := self.take("status"):
            headers = {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
            if fault.ratelimit is not None:
                headers["RateLimit"] = f'"resolvers";r=0;t={fault.ratelimit}'
                headers["RateLimit-Policy"] = '"fixed window";"resolvers";q=3000;w=300'
            raise HubError(fault.status, "fault: status", **headers)

    def send_error_body(self, error: HubError) -> None:
        """The reply that an error is: JSON of the Hub, XML of the CDN."""
        if error.status == 200:
            self.send_bytes(200, str(error).encode(), {"Content-Type": "text/html; charset=utf-8"})
        elif self.host == "cdn":
            xml = f"<Error><Code>AccessDenied</Code><Message>{error}</Message></Error>"
            xml = f'<?xml version="1.0" encoding="UTF-8"?>{xml}'
            self.send_bytes(error.status, xml.encode(), {**error.headers, "Content-Type": "application/xml"})
        elif "Location" in error.headers:  # a plain one, without anything of the Hub's
            self.send_bytes(error.status, b"", {"Location": error.headers["Location"]})
        else:
            self.send_json({"error": str(error)}, error.status, error.headers)

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
        headers = dict(headers)
        if self.take("no_commit", lambda fault: "X-Repo-Commit" in headers):
            del headers["X-Repo-Commit"]
        if self.take("no_etag", lambda fault: "ETag" in headers):
            headers = {name: value for name, value in headers.items() if name not in ("ETag", "X-Linked-Etag")}
        if self.take("weak_etag", lambda fault: "ETag" in headers):
            headers["ETag"] = f"W/{headers['ETag']}"
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, str(value))
        self.end_headers()

    def write(self, data: bytes) -> None:
        """Send a piece of the body. It is counted first: when the client has it all, so does the record."""
        self.record.bytes_sent += len(data)
        self.hub.pace(len(data))
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
        guard = self.headers.get("If-Range")
        if span and ((guard or etag) != etag or self.take("ignore_range")):
            span = None
        if span and guard and self.take("if_range"):
            span = None
        headers = {"Content-Type": "binary/octet-stream", "Accept-Ranges": "bytes", "ETag": etag, **(headers or {})}
        if self.command == "GET" and self.take("gzip"):
            return self.send_compressed(blob, headers)
        start, stop = span or (0, size)
        if span and start >= stop:
            raise HubError(416, "The requested range is not satisfiable", **{"Content-Range": f"bytes */{size}"})
        short = self.take("short", lambda fault: span is not None and fault.at < stop - start)
        stop = start + short.at if short else stop
        if span:
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        if span and (long := self.take("long")):
            return self.send_long(blob, start, stop, long, headers)
        get = self.command == "GET"
        flip = self.take("flip", lambda fault: get and start <= fault.at < stop)
        cut = self.take("cut", lambda fault: get and fault.at < stop - start)
        slow = self.take("slow", lambda fault: get)
        self.begin(206 if span else 200, {**headers, "Content-Length": stop - start})
        offset = start
        for chunk in (
            blob.chunks(start, start + cut.at if cut else stop, slow.chunk if slow else self.hub.chunk) if get else ()
        ):
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

    def send_compressed(self, blob: Blob, headers: Mapping[str, Any]) -> None:
        """The whole file as nginx compresses it: ranges are off, the length unknown, the ETag weak."""
        kept = {name: value for name, value in headers.items() if name != "Accept-Ranges"}
        kept |= {"Content-Encoding": "gzip", "Transfer-Encoding": "chunked", "ETag": f"W/{headers['ETag']}"}
        self.begin(200, kept)
        self.write_chunks([gzip.compress(b"".join(blob.chunks(0, blob.size)), 1)])

    def send_long(self, blob: Blob, start: int, stop: int, long: Fault, headers: Mapping[str, Any]) -> None:
        """A range with more behind it than was asked for."""
        if long.extra >= 0:
            self.begin(206, {**headers, "Content-Length": stop - start + long.extra})
            for chunk in itertools.chain(blob.chunks(start, stop), itertools.repeat(b"x" * 2**16, long.extra >> 16)):
                self.write(chunk)
            self.close_connection = True
        else:
            self.begin(206, {**headers, "Transfer-Encoding": "chunked"})
            self.write_chunks(itertools.chain(blob.chunks(start, stop), itertools.repeat(b"x" * 2**16)))

    def write_chunks(self, chunks: Iterable[bytes]) -> None:
        """A body in HTTP's chunks."""
        for chunk in chunks:
            self.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
        self.write(b"0\r\n\r\n")
