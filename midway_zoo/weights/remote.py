"""A file on the Hub: its commit, size and ETag, and its bytes, read by HTTP ranges of one version of it."""

import io
import logging
import re
import threading
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from urllib.parse import urljoin, urlsplit

from huggingface_hub import constants, hf_hub_url

from midway_zoo.errors import CheckpointError
from midway_zoo.weights.transport import (
    ATTEMPTS,
    Answer,
    NetworkError,
    PassingError,
    Patience,
    StoppedError,
    is_hub,
    request,
    request_headers,
)

log = logging.getLogger(__name__)

_REDIRECTS = (301, 302, 303, 307, 308)
_MOST_REDIRECTS = 20
_NO_HEAD = (405, 501)


class Resolved(NamedTuple):
    """What the Hub reports about a file."""

    commit: str | None
    etag: str | None
    size: int
    location: str


def plain_etag(etag: str | None) -> str | None:
    """An ETag for weak comparison: without W/, quotes, and the suffix that some servers append when compressing."""
    if etag is None:
        return None
    return etag.strip().removeprefix("W/").strip('"').removesuffix("-gzip") or None


def no_hub(reason: str) -> NetworkError:
    """The error for an endpoint that does not behave like a Hub."""
    return NetworkError(
        f"HF_ENDPOINT={constants.ENDPOINT} does not answer as a Hub: {reason}. Check HF_ENDPOINT, or whether a "
        "proxy or sign-in page is in between"
    )


def resolve(url: str, token: str | bool | None, timeout: float) -> Resolved:
    """Ask the Hub about a file, without its bytes.

    Redirects within the Hub are followed with the token. A redirect to the host of the bytes that
    carries the file's size is the answer; any other redirect to another host is followed without the token.

    Raises:
        PassingError: for a failure that may be retried.
        NetworkError: for any other failure.
    """
    method = "HEAD"
    commit = etag = size = None
    for _ in range(_MOST_REDIRECTS):
        headers = request_headers(url, token)
        if method == "GET":
            headers["Range"] = "bytes=0-0"
        with request(method, url, headers, timeout, follow=False) as answer:
            if method == "HEAD" and answer.status in _NO_HEAD:
                method = "GET"
                continue
            found = answer.headers
            commit = commit or found.get(constants.HUGGINGFACE_HEADER_X_REPO_COMMIT)
            etag = etag or plain_etag(found.get(constants.HUGGINGFACE_HEADER_X_LINKED_ETAG))
            size = size if size is not None else _number(found.get(constants.HUGGINGFACE_HEADER_X_LINKED_SIZE))
            target = found.get("Location")
            if answer.status in _REDIRECTS and target:
                target = urljoin(url, target)
                if not is_hub(target):
                    if size is not None:
                        return Resolved(commit, etag or plain_etag(found.get("ETag")), size, target)
                    method = "GET"  # a signed link may be valid for GET only
                url = target
                continue
            return _final(answer, commit, etag, size, url)
    raise no_hub(f"it redirects more than {_MOST_REDIRECTS} times")


def _final(answer: Answer, commit: str | None, etag: str | None, size: int | None, url: str) -> Resolved:
    """The facts, from the reply of the host that has the bytes."""
    if answer.status not in (200, 206):
        answer.refuse()
    if commit is None and answer.headers.get("Content-Type", "").startswith("text/html"):
        raise no_hub("it sends a web page in place of the file")
    if size is None and not answer.encoded:
        size = _size(answer.status, answer.headers)
    if size is None:
        raise no_hub("it does not tell the file's size")
    return Resolved(commit, etag or plain_etag(answer.headers.get("ETag")), size, url)


def _size(status: int, headers: Mapping[str, str]) -> int | None:
    if status == 206:
        return _number(headers.get("Content-Range", "").rpartition("/")[2])
    return _number(headers.get("Content-Length"))


def _number(text: str | None) -> int | None:
    return int(text) if text and re.fullmatch(r"\d+", text) else None


_BLOCK = 2**18  # of the buffer: the zip directory and data.pkl of a released file take one or two each
_COMMIT = re.compile(r"[0-9a-f]{40}")
_NO_RANGES = (400, 405, 501)  # what proxies answer to a Range that they do not know


class RangesRefusedError(Exception):
    """Range requests are not supported; the caller falls back to a download."""


class _LinkRefusedError(Exception):
    """The host of the bytes refuses the link, which may have expired."""

    def __init__(self, reason: str, generation: int) -> None:
        super().__init__(reason)
        self.generation = generation


class _UnguardedError(Exception):
    """The server answered a request with If-Range by the whole file: retry without."""


def is_commit(revision: str | None) -> bool:
    """Whether a revision is a full commit id, which never changes its content."""
    return revision is not None and _COMMIT.fullmatch(revision) is not None


class RemoteFile(io.RawIOBase):
    """A seekable file on the Hub; small reads go through a buffer of 256 KiB blocks.

    Args:
        repo_id: "org/name".
        filename: path in the repository.
        revision: branch, tag or commit; resolved once; all reads are from that commit.
        token: as everywhere in huggingface_hub.
        attempts: tries of the first request; the later ones have :data:`~midway_zoo.weights.transport.ATTEMPTS`.

    Attributes:
        commit: id of the commit; for a mirror that does not tell it, "etag-" and the file's ETag.
        revision: the revision with this content: the commit, if known.
        etag: the file's, from the Hub: for large files their SHA-256.
        size: in bytes.
        received: bytes received so far.
        stop: once set, ends all requests.

    Raises:
        NetworkError: here and from reads, if the Hub refuses or cannot be reached.
        CheckpointError: from reads, if the file changes in between; here, if the commit differs.
        RangesRefusedError: from reads, if range requests are not supported.
    """

    def __init__(
        self,
        repo_id: str,
        filename: str,
        revision: str | None = None,
        token: str | bool | None = None,
        attempts: int = ATTEMPTS,
    ) -> None:
        self.repo_id, self.filename, self.token = repo_id, filename, token
        self.name = filename
        self.stop = threading.Event()
        self.received = 0
        self._lock = threading.Lock()
        self._said: str | None = None
        self._blocks: dict[int, bytes] = {}
        self._position = 0
        self._generation = 0  # of the location
        self._etag: str | None = None  # of the host that serves the bytes; unrelated to the Hub's
        self._guard: str | None = None  # the same as a header If-Range, unless the host ignores that
        self._guarded = True
        found = self._resolve(revision, attempts)
        self.size = found.size
        self.etag = found.etag
        self.commit = self._key(found, revision)
        # Without a commit the same branch is asked again, and the ETag compared.
        self.revision = self.commit if is_commit(self.commit) else revision
        self._location = found.location

    @property
    def sha256(self) -> str | None:
        """SHA-256 of the whole file as the Hub knows it; None for files that it keeps in git."""
        return self.etag if self.etag and re.fullmatch(r"[0-9a-f]{64}", self.etag) else None

    def _key(self, found: Resolved, revision: str | None) -> str:
        """The cache key of the content: never a name whose content may change."""
        if found.commit is not None:
            if is_commit(revision) and found.commit != revision:
                raise CheckpointError(
                    f"{self.filename} in {self.repo_id}: commit {revision} was asked for, {constants.ENDPOINT} has "
                    f"{found.commit}. Check HF_ENDPOINT."
                )
            return found.commit
        if revision is not None and is_commit(revision):
            return revision
        if found.etag is None:
            raise no_hub("it tells neither the file's commit nor its ETag")
        return "etag-" + re.sub(r"[^0-9A-Za-z]+", "-", found.etag)[:80]

    def _say(self, text: str) -> None:
        """Log a line, once if several requests report the same."""
        if text != self._said:
            self._said = text
            log.warning("%s", text)

    def _patience(self, timeout: float, attempts: int = ATTEMPTS) -> Patience:
        return Patience(self.filename, timeout, attempts, self.stop, self._say)

    def _resolve(self, revision: str | None, attempts: int = ATTEMPTS) -> Resolved:
        patience = self._patience(constants.HF_HUB_ETAG_TIMEOUT, attempts)
        url = hf_hub_url(self.repo_id, self.filename, revision=revision, endpoint=constants.ENDPOINT)
        while True:
            try:
                return resolve(url, self.token, patience.timeout)
            except PassingError as failure:
                patience.spend(failure)

    def _renew(self, generation: int) -> None:
        """Get a new signed location; only once, however many threads saw the old one expire."""
        with self._lock:
            if generation != self._generation:
                return
            found = self._resolve(self.revision)
            if found.size != self.size or (found.etag and self.etag and found.etag != self.etag):
                raise self._changed(self.etag, found.etag)
            self._location, self._etag, self._guard = found.location, None, None
            self._generation += 1

    def _changed(self, before: object, after: object) -> CheckpointError:
        return CheckpointError(
            f"{self.filename} in {self.repo_id} changed on the server while it was read (ETag {before}, now {after}). "
            "Nothing of it was kept; try again."
        )

    def fetch(self, start: int, stop: int, progress: Callable[[int], object] = lambda count: None) -> bytearray:
        """The bytes of [start, stop); after an interruption only the rest is requested."""
        data = bytearray()
        patience = self._patience(constants.HF_HUB_DOWNLOAD_TIMEOUT)
        renewed = False
        while len(data) < stop - start:
            before = len(data)
            failure: Exception | None = None
            try:
                self._receive(data, start, stop, patience.timeout, progress)
            except (PassingError, _LinkRefusedError, _UnguardedError) as error:
                failure = error
            if len(data) > before:  # progress was made: continue at once
                patience.moved()
                renewed = False
            elif isinstance(failure, PassingError):
                patience.spend(failure)
            elif isinstance(failure, _LinkRefusedError):
                if renewed:
                    raise RangesRefusedError(str(failure))
                self._renew(failure.generation)
                renewed = True
        return data

    def _receive(
        self, data: bytearray, start: int, stop: int, timeout: float, progress: Callable[[int], object]
    ) -> None:
        """One request for the missing bytes, which are added to ``data`` as they arrive."""
        begin = start + len(data)
        left = stop - begin
        with self._lock:
            location, generation, guard = self._location, self._generation, self._guard if self._guarded else None
        headers = request_headers(location, self.token) | {"Range": f"bytes={begin}-{stop - 1}"}
        if guard:
            headers["If-Range"] = guard
        with request("GET", location, headers, timeout, follow=True) as answer:
            self._check(answer, begin, stop, generation, guarded=guard is not None)
            # A body of the right length is read to its end, so that its connection is used again; a longer one
            # is left as soon as there is enough.
            exact = answer.headers.get("Content-Length") == str(left)
            for chunk in answer.chunks:
                if self.stop.is_set():
                    raise StoppedError
                piece = chunk[:left]
                data += piece
                left -= len(piece)
                progress(len(piece))
                with self._lock:
                    self.received += len(piece)
                if not left and not exact:
                    break
        if begin == start + len(data):
            raise PassingError(f"{urlsplit(location).netloc} sent nothing")

    def _check(self, answer: Answer, start: int, stop: int, generation: int, *, guarded: bool) -> None:
        """Raise unless the reply is the requested range."""
        status, own = answer.status, is_hub(answer.url)
        if status == 416:
            raise CheckpointError(f"{self.filename} is shorter on the server than the {self.size} bytes announced.")
        if not own and 400 <= status < 500 and status not in (404, 408, 429):
            host = urlsplit(answer.url).netloc
            raise _LinkRefusedError(f"{host} refuses the link to it (HTTP {status}: {answer.text()})", generation)
        if own and status in _NO_RANGES:
            raise RangesRefusedError(f"{urlsplit(answer.url).netloc} refuses range requests (HTTP {status})")
        if status not in (200, 206):
            answer.refuse()
        if status == 200 and guarded:
            self._guarded = False
            raise _UnguardedError
        if status == 200 or answer.encoded:
            what = "compresses" if answer.encoded else "sends the whole file in place of"
            raise RangesRefusedError(f"{urlsplit(answer.url).netloc} {what} the ranges that are asked for")
        self._check_version(answer.headers.get("ETag"), generation)
        match = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", answer.headers.get("Content-Range", ""))
        if match is None or int(match[1]) != start or match[3] not in ("*", str(self.size)):
            raise CheckpointError(
                f"{self.filename}: bytes {start}-{stop - 1} of {self.size} were asked for, the server sent "
                f"{answer.headers.get('Content-Range')!r}: the file is truncated or changed. Try again."
            )

    def _check_version(self, found: str | None, generation: int) -> None:
        """Compare ETags, weakly, since caches in between weaken them; some replies have none."""
        with self._lock:
            if generation != self._generation or found is None:
                return
            if self._etag is None:
                self._etag = plain_etag(found)
                self._guard = None if found.startswith("W/") else found  # If-Range wants a strong one
            elif plain_etag(found) != self._etag:
                raise self._changed(self._etag, plain_etag(found))

    # What io.RawIOBase needs; zipfile and TorchArchive read through these.

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = offset + (0, self._position, self.size)[whence]
        if self._position < 0:
            raise ValueError(f"negative seek position {self._position}")
        return self._position

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        start, stop = self._position, min(self._position + len(view), self.size)
        if start >= stop:
            return 0
        first, last = start // _BLOCK, (stop - 1) // _BLOCK
        missing = [block for block in range(first, last + 1) if block not in self._blocks]
        if missing:
            self._fill(missing[0], missing[-1])
        data = b"".join(self._blocks[block] for block in range(first, last + 1))
        view[: stop - start] = data[start - first * _BLOCK : stop - first * _BLOCK]
        self._position = stop
        return stop - start

    def _fill(self, first: int, last: int) -> None:
        """Fetch blocks; with a short last one also that before it, for the zip's directory is in both."""
        if first > 0 and first == last == self.size // _BLOCK and self.size % _BLOCK < _BLOCK // 2:
            first -= first - 1 not in self._blocks
        offset = first * _BLOCK
        data = bytes(self.fetch(offset, min((last + 1) * _BLOCK, self.size)))
        for block in range(first, last + 1):
            self._blocks[block] = data[block * _BLOCK - offset : (block + 1) * _BLOCK - offset]
