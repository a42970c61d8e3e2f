"""A file on the Hub, read by HTTP ranges: its directory first, then only the tensors that are wanted.

Everything goes through huggingface_hub's own session, so its endpoint, token, proxies and offline switch hold.
"""

import email.utils
import io
import logging
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

import torch
from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
from huggingface_hub.utils import are_progress_bars_disabled, build_hf_headers, get_session, hf_raise_for_status
from tqdm import tqdm

from midway_zoo.errors import CheckpointError, MidwayZooError
from midway_zoo.version import __version__
from midway_zoo.weights.archive import TorchArchive, local_header_size, tensor_from_bytes
from midway_zoo.weights.pickles import TensorRef

log = logging.getLogger(__name__)

ATTEMPTS = 6
"""Tries of one request in a row without any progress."""
BACKOFF_SECONDS = 0.5
LONGEST_WAIT_SECONDS = 60.0
CONNECTIONS = 4
TIMEOUT_SECONDS = 30.0
_BLOCK = 2**18  # of the buffer: the zip directory and data.pkl of a released file take one or two each
_RUN = 2**24  # bytes asked for at once: large enough for few requests, small enough to repeat after a cut
_GAP = 2**15  # fetching this many unwanted bytes costs less than one more request
_COMMIT = re.compile(r"[0-9a-f]{40}")
_T = TypeVar("_T")


class RangesRefusedError(Exception):
    """The server sends the whole file whatever range is asked for; the caller takes another way."""


class NetworkError(Exception):
    """Wraps what the network raised under a read: many of these are OSError, which zipfile takes for damage."""


class _RetryError(Exception):
    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


def is_commit(revision: str | None) -> bool:
    """Whether a revision is a full commit id, which never changes its content."""
    return revision is not None and _COMMIT.fullmatch(revision) is not None


def transport_errors() -> tuple[type[BaseException], ...]:
    """What the HTTP library behind huggingface_hub (requests, httpx or httpx2, by version) raises."""
    for base in type(get_session()).__mro__:
        error = getattr(sys.modules[base.__module__.partition(".")[0]], "HTTPError", None)
        if isinstance(error, type):
            return (OSError, error)
    return (OSError,)


class RemoteFile(io.RawIOBase):
    """A seekable file on the Hub; small reads go through a buffer of 256 KiB blocks.

    Args:
        repo_id: "org/name".
        filename: path in the repository.
        revision: branch, tag or commit; resolved once, all reads are of that commit.
        token: as everywhere in huggingface_hub.
        attempts: tries of the first request; the later ones have :data:`ATTEMPTS`.

    Raises:
        HfHubHTTPError: (and its subclasses) if the Hub refuses; OSError or the HTTP library's error without network.
        CheckpointError: from reads, if the file changes in between.
        NetworkError: from ``read``, around what the network raised.
        RangesRefusedError: from reads, if the server ignores ranges.
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
        self._lock = threading.Lock()
        self._generation = 0
        self._blocks: dict[int, bytes] = {}
        self._position = 0
        self._etag: str | None = None  # of the host that serves the bytes; unrelated to the Hub's
        found = _retrying(lambda: self._metadata(revision), attempts)
        if found.size is None or found.location is None:
            raise CheckpointError(f"the Hub tells no size of {filename} in {repo_id}; download the file by hand.")
        self.size: int = found.size
        self.commit: str = found.commit_hash or revision or constants.DEFAULT_REVISION
        self.etag: str | None = found.etag
        self._location: str = found.location

    @property
    def sha256(self) -> str | None:
        """SHA-256 of the whole file as the Hub knows it; None for files that it keeps in git."""
        return self.etag if self.etag and re.fullmatch(r"[0-9a-f]{64}", self.etag) else None

    def _metadata(self, revision: str | None) -> Any:
        url = hf_hub_url(self.repo_id, self.filename, revision=revision)
        return get_hf_file_metadata(url, token=self.token, library_name="midway-zoo", library_version=__version__)

    def _resolve_again(self, generation: int) -> None:
        """Get a new signed location; once, however many threads saw the old one expire."""
        with self._lock:
            if generation != self._generation:
                return
            found = self._metadata(self.commit)
            if found.etag != self.etag or found.size != self.size:
                raise self._changed(self.etag, found.etag)
            self._location, self._etag = found.location, None
            self._generation += 1

    def _changed(self, before: object, after: object) -> CheckpointError:
        return CheckpointError(
            f"{self.filename} in {self.repo_id} changed on the server while it was read (ETag {before}, now {after}). "
            "Nothing was kept; try again."
        )

    def fetch(self, start: int, stop: int, progress: Callable[[int], object] = lambda count: None) -> bytearray:
        """The bytes of [start, stop); what came before an interruption is not asked for again."""
        data = bytearray()

        def attempt() -> bytearray:
            before = len(data)
            try:
                with self._get(start + before, stop) as chunks:
                    for chunk in chunks:
                        data.extend(chunk)
                        progress(len(chunk))
            except _RetryError:
                raise
            except MidwayZooError:
                raise
            except transport_errors() as error:
                if isinstance(error, HfHubHTTPError | OfflineModeIsEnabled) or len(data) == before:
                    raise
                raise _RetryError(str(error), wait=0) from error  # it moves: go on at once
            if len(data) > stop - start:
                raise CheckpointError(f"the server sent more of {self.filename} than was asked for; try again.")
            if len(data) < stop - start:
                raise _RetryError(f"{self.filename} ended early", wait=0 if len(data) > before else None)
            return data

        return _retrying(attempt, ATTEMPTS, lambda: len(data))

    @contextmanager
    def _get(self, start: int, stop: int) -> Iterator[Iterator[bytes]]:
        with self._lock:
            location, etag, generation = self._location, self._etag, self._generation
        own = urlsplit(location)[:2] == urlsplit(hf_hub_url(self.repo_id, self.filename))[:2]
        # The token is for the Hub alone: the signature in the location is what opens it elsewhere.
        headers = build_hf_headers(
            token=self.token if own else False, library_name="midway-zoo", library_version=__version__
        )
        headers |= {"Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
        if etag and not etag.startswith("W/"):
            headers["If-Range"] = etag
        with _stream(location, headers) as (response, chunks):
            status, found = response.status_code, response.headers.get("ETag")
            if status == 403 and not own:
                self._resolve_again(generation)
                raise _RetryError(f"the link to {self.filename} expired")
            if status == 416:
                raise CheckpointError(f"{self.filename} is shorter on the server than the {self.size} bytes announced.")
            if status not in (200, 206):
                _raise_for_status(response)
            with self._lock:
                if generation == self._generation:
                    self._etag = self._etag or found
                    etag = self._etag
            if etag and found != etag:
                raise self._changed(etag, found)
            if status == 200:
                raise RangesRefusedError(self.filename)
            match = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", response.headers.get("Content-Range", ""))
            if match is None or int(match[1]) != start or match[3] not in ("*", str(self.size)):
                raise CheckpointError(
                    f"{self.filename}: bytes {start}-{stop - 1} of {self.size} were asked for, the server sent "
                    f"{response.headers.get('Content-Range')!r}: the file is truncated or changed. Try again."
                )
            yield chunks

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
            offset = missing[0] * _BLOCK
            try:
                data = bytes(self.fetch(offset, min((missing[-1] + 1) * _BLOCK, self.size)))
            except transport_errors() as error:
                raise NetworkError from error
            for block in range(missing[0], missing[-1] + 1):
                self._blocks[block] = data[block * _BLOCK - offset : (block + 1) * _BLOCK - offset]
        data = b"".join(self._blocks[block] for block in range(first, last + 1))
        view[: stop - start] = data[start - first * _BLOCK : stop - first * _BLOCK]
        self._position = stop
        return stop - start


def _raise_for_status(response: Any) -> None:
    if response.status_code in (408, 429) or response.status_code >= 500:
        raise _RetryError(f"HTTP {response.status_code}", _retry_after(response))
    _ = response.read() if hasattr(response, "read") else response.content  # the message is in the body
    hf_raise_for_status(response)
    raise CheckpointError(f"the server answered a request for a range with HTTP {response.status_code}; try again.")


def _retry_after(response: Any) -> float | None:
    """Seconds that the server asks to wait, from a number or a date."""
    text = response.headers.get("Retry-After", "").strip()
    if text.isdigit():
        return min(float(text), LONGEST_WAIT_SECONDS)
    try:
        moment = email.utils.parsedate_to_datetime(text).timestamp()
    except (TypeError, ValueError):
        return None
    return min(max(moment - time.time(), 0.0), LONGEST_WAIT_SECONDS)


@contextmanager
def _stream(url: str, headers: Mapping[str, str]) -> Iterator[tuple[Any, Iterator[bytes]]]:
    """An open GET and its body as it comes: huggingface_hub has httpx since 1.0, requests before."""
    session: Any = get_session()
    if hasattr(session, "stream"):
        with session.stream("GET", url, headers=headers, timeout=TIMEOUT_SECONDS, follow_redirects=True) as response:
            yield response, response.iter_raw(2**20)
    else:
        with session.get(url, headers=headers, timeout=TIMEOUT_SECONDS, stream=True) as response:
            yield response, response.iter_content(2**20)


def _retrying(action: Callable[[], _T], attempts: int, progress: Callable[[], int] = lambda: 0) -> _T:
    """Run ``action`` again after what may pass by itself: lost connections, 429 and 5xx."""
    failed, done = 0, progress()
    while True:
        wait: float | None = None
        try:
            return action()
        except (MidwayZooError, OfflineModeIsEnabled, RangesRefusedError):
            raise
        except HfHubHTTPError as error:
            status = error.response.status_code if error.response is not None else 0
            if status not in (408, 429) and status < 500:
                raise
            wait, caught = _retry_after(error.response), error
        except _RetryError as error:
            wait, caught = error.wait, ConnectionError(str(error))  # type: ignore[assignment]
        except transport_errors() as error:
            caught = error  # type: ignore[assignment]
        failed, done = (1, progress()) if progress() > done else (failed + 1, done)
        if failed >= attempts:
            raise caught
        pause = min(BACKOFF_SECONDS * 2 ** (failed - 1), 8.0) if wait is None else wait
        log.info("%s; trying again in %.1f s", caught, pause)
        time.sleep(pause)


class _Run(NamedTuple):
    start: int
    stop: int
    names: list[str]  # of the tensors whose storages lie in it


def plan(archive: TorchArchive, refs: Mapping[str, TensorRef]) -> list[_Run]:
    """Ranges to fetch for some tensors: entries that lie together are one range, up to 16 MiB.

    An entry ends where the next begins, so that its local header, whose length only the file knows, comes with it.
    """
    offsets = sorted(info.header_offset for info in archive.all_entries)
    ends = dict(zip(offsets, [*offsets[1:], archive.directory_offset], strict=True))
    wanted = sorted((archive.storage_entry(ref.storage).header_offset, name) for name, ref in refs.items())
    runs: list[_Run] = []
    for start, name in wanted:
        last = runs[-1] if runs else None
        near = last is not None and start - last.stop <= _GAP and ends[start] - last.start <= _RUN
        if last is not None and (near or start < last.stop):
            runs[-1] = _Run(last.start, max(last.stop, ends[start]), [*last.names, name])
        else:
            runs.append(_Run(start, ends[start], [name]))
    return runs


def read_tensors(file: RemoteFile, archive: TorchArchive, refs: Mapping[str, TensorRef]) -> dict[str, torch.Tensor]:
    """Fetch tensors over a few connections, with a progress bar, each storage checked by its CRC-32."""
    runs = plan(archive, refs)
    total = sum(run.stop - run.start for run in runs)
    quiet = True if are_progress_bars_disabled() else None  # None: no bar unless on a terminal
    tensors: dict[str, torch.Tensor] = {}
    with (
        tqdm(total=total, unit="B", unit_scale=True, desc=file.filename, disable=quiet) as bar,
        ThreadPoolExecutor(CONNECTIONS) as pool,
    ):

        def read(run: _Run) -> dict[str, torch.Tensor]:
            data = file.fetch(run.start, run.stop, bar.update)
            return {name: _cut(data, run.start, archive, refs[name]) for name in run.names}

        futures = [pool.submit(read, run) for run in runs]
        try:
            for future in futures:
                tensors |= future.result()
        except BaseException:
            for future in futures:
                future.cancel()
            raise
    return tensors


def _cut(data: bytearray, start: int, archive: TorchArchive, ref: TensorRef) -> torch.Tensor:
    """One tensor out of the bytes that were fetched from offset ``start`` on."""
    info = archive.storage_entry(ref.storage)
    offset = info.header_offset - start
    first = offset + local_header_size(bytes(data[offset : offset + 30]), info, archive.name)
    if first + info.file_size > len(data):
        raise CheckpointError(f"{archive.name} is damaged: {info.filename} runs into the next entry. Try again.")
    raw = torch.empty(info.file_size, dtype=torch.uint8)
    raw.numpy()[:] = memoryview(data)[first : first + info.file_size]
    return tensor_from_bytes(raw, ref, info, archive.name)
