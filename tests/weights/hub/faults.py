"""Faults of the loopback Hub of :mod:`hub_server`: what each does, and which requests it hits."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

KINDS: dict[str, str] = {
    "drop": "close the connection without any reply",
    "status": "reply `status` (500 by default; also `retry_after` seconds, for 429 and 503, or `ratelimit` seconds as "
    "the Hub's RateLimit header tells them): the Hub as JSON, the CDN as XML, as S3 and CloudFront do",
    "hang": "accept the request and never answer",
    "page": "answer by a web page, 200, as sign-in pages of networks do",
    "cut": "close the connection (`reset`: by RST) after `at` bytes of the body, with all of it announced",
    "flip": "invert the byte at absolute file offset `at`",
    "truncate": "serve only the first `at` bytes, as if the file ended there",
    "ignore_range": "answer a Range request by 200 and the whole body",
    "if_range": "answer a request with If-Range by 200 and the whole body, as an edge of a CDN that knows another "
    "validator than the last one",
    "gzip": "compress the whole body against the client's wish, as nginx with `gzip on`: 200, chunked, ETag weakened",
    "long": "send `extra` bytes more than the range has and announce them; none if `extra` is -1: chunked, without end",
    "short": "answer a range by its first `at` bytes, and say so in Content-Range, as proxies with a limit do",
    "weak_etag": "weaken the ETag, as proxies do that may transform bodies",
    "no_etag": "leave the ETag out, X-Linked-Etag as well",
    "no_commit": "leave X-Repo-Commit out, as mirrors do",
    "redirect": "redirect by `status` (308 by default) to the same path of another origin, without any metadata",
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
    host: str | None = None  # "hub", "twin" or "cdn", None for all
    method: str | None = None  # "GET", "HEAD", ..., None for all
    at: int = 0
    reset: bool = False
    status: int = 0
    retry_after: int | None = None
    ratelimit: int | None = None
    extra: int = 0
    content: bytes | Path = b""
    keep_etag: bool = False
    delay: float = 0.05
    chunk: int = 1 << 16
    seen: int = field(default=0, init=False)
    hits: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"unknown fault {self.kind!r}, expected one of {', '.join(KINDS)}")
        self.status = self.status or (308 if self.kind == "redirect" else 500)


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
        """Remove one fault; it is not an error if it is gone already."""
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
