"""One HTTP request as huggingface_hub makes it, its failures, and how long to retry.

The session (with its proxies, certificates and offline switch), the headers, the time-outs and the errors are the
client's. This module and its neighbours add what no version of the client has:

- ranges: the client downloads whole files. It cannot request many ranges of one file, require one version of it
  for all (If-Range, ETag), or renew a link that expires in between;
- retries that resume where the last try stopped: ``http_backoff`` restarts a request, knows the Hub's RateLimit
  header only since 1.2, and writes the signed link to the log;
- metadata from mirrors: ``get_hf_file_metadata`` follows a redirect to another origin only in the newest versions,
  uses HEAD only, and in some versions has a backoff of its own inside the caller's.
"""

import email.utils
import logging
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NoReturn
from urllib.parse import urlsplit

from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

from midway_zoo.version import __version__

log = logging.getLogger(__name__)

ATTEMPTS = 6
"""Consecutive tries of one request without receiving a byte."""
ATTEMPTS_WITHOUT_NETWORK = 3
"""Tries if no connection can be made at all: that rarely passes, and should be reported soon."""
BACKOFF_SECONDS = 0.5
SILENCE_SECONDS = 19.0
"""How long a request may go without a byte, all tries together."""
LONGEST_WAIT_SECONDS = 300.0
"""The longest wait that a server may ask for; the Hub counts requests over windows of five minutes."""
_SHOWN = 300  # characters of a refusal's body in messages
_HUBS = ("https://huggingface.co", "https://hf.co")  # the client sends its token to these as well as to the endpoint


class NetworkError(Exception):
    """A request that failed for good. Not an OSError, which zipfile would take for a damaged file.

    The text never contains the query of an address, which holds signatures.
    """

    def __init__(self, text: str, *, status: int | None = None, cause: BaseException | None = None) -> None:
        super().__init__(text)
        self.status, self.cause = status, cause


class PassingError(Exception):
    """A request that failed in a way that may pass: lost connections, HTTP 408, 429 and 5xx."""

    def __init__(
        self, reason: str, *, wait: float | None = None, status: int | None = None, attempts: int = ATTEMPTS
    ) -> None:
        super().__init__(reason)
        self.wait, self.status, self.attempts = wait, status, attempts


class StoppedError(Exception):
    """The fetch that this request belongs to was aborted."""


def origin(url: str) -> str:
    """Scheme, host and port of an address."""
    parts = urlsplit(url)
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme, 0)
    return f"{parts.scheme}://{(parts.hostname or '').lower()}:{port}"


def is_hub(url: str) -> bool:
    """Whether an address is the Hub's own, so that the token may be sent; signed links need none."""
    return origin(url) in {origin(known) for known in (constants.ENDPOINT, *_HUBS)}


def clean(text: str) -> str:
    """A text in one line, without the queries of the addresses in it, which hold signatures."""
    return re.sub(r"(?<![<\s])\?[^\s'\")>\]]+", "?...", " ".join(text.split()))


def request_headers(url: str, token: str | bool | None) -> dict[str, str]:
    """The client's headers; the token for the Hub alone. No compression, which does not work with ranges."""
    headers: dict[str, str] = build_hf_headers(
        token=token if is_hub(url) else False, library_name="midway-zoo", library_version=__version__
    )
    return headers | {"Accept-Encoding": "identity"}


class Answer:
    """A reply whose body has not been read yet."""

    def __init__(self, response: Any, chunks: Iterator[bytes]) -> None:
        self.response, self.chunks = response, chunks
        self.status: int = response.status_code
        self.headers: Mapping[str, str] = response.headers
        self.url = str(response.url)

    @property
    def encoded(self) -> bool:
        """Whether the body is compressed despite our request: its offsets are then meaningless."""
        return self.headers.get("Content-Encoding", "identity").lower() not in ("", "identity")

    def text(self) -> str:
        """The beginning of the body in one line, for messages."""
        body = b""
        for chunk in self.chunks:
            body += chunk
            if len(body) >= 2 * _SHOWN:
                break
        return clean(body.decode("utf-8", "replace"))[:_SHOWN]

    def refuse(self) -> NoReturn:
        """Raise the error that an unexpected reply stands for."""
        host = urlsplit(self.url).netloc
        if self.status in (408, 429) or self.status >= 500:
            reason = f"{host} answered with HTTP {self.status}"
            if self.status == 429:
                reason += ", it limits requests: a token (HF_TOKEN, or token=) raises the limit"
            raise PassingError(reason, wait=_asked_wait(self.status, self.headers), status=self.status)
        if is_hub(self.url) and self.status >= 400:
            try:
                hf_raise_for_status(self.response)
            except HfHubHTTPError as error:
                raise NetworkError(clean(str(error)), status=self.status, cause=error) from error
        raise NetworkError(f"{host} answered with HTTP {self.status}: {self.text()}", status=self.status)


def _asked_wait(status: int, headers: Mapping[str, str]) -> float | None:
    """Seconds that the server asks to wait: ``t`` of the Hub's RateLimit, or Retry-After as a number or a date."""
    limit = re.search(r"\bt\s*=\s*(\d+)", headers.get("RateLimit", ""))
    if status == 429 and limit:
        return min(max(float(limit[1]), BACKOFF_SECONDS), LONGEST_WAIT_SECONDS)
    text = headers.get("Retry-After", "").strip()
    if text.isdigit():
        return min(float(text), LONGEST_WAIT_SECONDS)
    try:
        moment = email.utils.parsedate_to_datetime(text).timestamp()
    except (TypeError, ValueError):
        return None
    return min(max(moment - time.time(), 0.0), LONGEST_WAIT_SECONDS)


@contextmanager
def request(method: str, url: str, headers: Mapping[str, str], timeout: float, *, follow: bool) -> Iterator[Answer]:
    """An open request: huggingface_hub has httpx since 1.0, requests before.

    The body arrives in pieces as received, so that none is lost if the rest fails.

    Raises:
        PassingError: for errors of the network, also while reading the body.
        NetworkError: if huggingface_hub is offline.
    """
    if constants.HF_HUB_OFFLINE:  # before 1.0 the client checks it only when it creates a session
        raise NetworkError("huggingface_hub is offline (HF_HUB_OFFLINE=1)")
    session: Any = get_session()
    try:
        if callable(getattr(session, "stream", None)):  # of requests it is a flag
            with session.stream(method, url, headers=headers, timeout=timeout, follow_redirects=follow) as response:
                yield Answer(response, response.iter_raw())
        else:
            options: dict[str, Any] = {"headers": headers, "timeout": timeout, "allow_redirects": follow}
            with session.request(method, url, stream=True, **options) as response:
                # urllib3 throws a piece away that a lost connection leaves incomplete: small ones lose little.
                yield Answer(response, response.iter_content(2**13))
    except OfflineModeIsEnabled as error:
        raise NetworkError(clean(str(error)), cause=error) from None
    except transport_errors() as error:
        raise _passing(error, url) from None  # the original error shows the signed link


def transport_errors() -> tuple[type[BaseException], ...]:
    """What the HTTP library behind huggingface_hub (requests, httpx or httpx2, by version) raises."""
    for base in type(get_session()).__mro__:
        error = getattr(sys.modules[base.__module__.partition(".")[0]], "HTTPError", None)
        if isinstance(error, type):
            return (OSError, error)
    return (OSError,)


def _passing(error: BaseException, url: str) -> PassingError:
    """The error for an exception of httpx, or of requests (which wraps urllib3's), recognised by its type's name."""
    reason = getattr(error.args[0] if error.args else None, "reason", None)
    kinds = {kind.__name__ for kind in (*type(error).__mro__, *type(reason).__mro__)}
    absent = kinds & {"ConnectError", "NewConnectionError", "SSLError", "ProxyError"} and "ConnectTimeout" not in kinds
    text = f"{urlsplit(url).netloc}: {type(error).__name__}: {clean(str(error))}"
    return PassingError(text, attempts=ATTEMPTS_WITHOUT_NETWORK if absent else ATTEMPTS)


class Patience:
    """Decides when to retry a request, and when to give up.

    Args:
        what: what is fetched, for messages.
        timeout: of one try in seconds, as the user set it.
        attempts: at most.
        stop: ends any wait.
        say: logs a line.
    """

    def __init__(
        self, what: str, timeout: float, attempts: int, stop: threading.Event, say: Callable[[str], object]
    ) -> None:
        self._what, self._configured, self._attempts, self._stop, self._say = what, timeout, attempts, stop, say
        self._failed, self._waited, self._since = 0, 0.0, time.monotonic()

    @property
    def timeout(self) -> float:
        """Seconds for the next try: as configured, within the limit of silence for all tries together."""
        left = max(SILENCE_SECONDS, self._configured) - (time.monotonic() - self._since)
        return max(min(self._configured, left), 0.1)

    def moved(self) -> None:
        """Bytes were received: start counting anew."""
        self._failed, self._since = 0, time.monotonic()

    def spend(self, failure: PassingError) -> None:
        """Wait before the next try.

        Raises:
            NetworkError: if there should be no further try.
            StoppedError: if the fetch was aborted meanwhile.
        """
        self._failed += 1
        pause = min(BACKOFF_SECONDS * 2 ** (self._failed - 1), 8.0) if failure.wait is None else failure.wait
        silent = time.monotonic() - self._since
        if failure.wait is None:
            over = silent + pause >= max(SILENCE_SECONDS, self._configured)
        else:
            over = self._waited + pause > 2 * LONGEST_WAIT_SECONDS
        attempts = min(self._attempts, failure.attempts)
        if over or self._failed >= attempts:
            tries = f"{self._failed} tries" if self._failed > 1 else "one try"
            raise NetworkError(
                f"{clean(str(failure))} (given up after {tries} in {silent:.0f} s)", status=failure.status
            )
        self._say(f"{self._what}: {failure}; trying again in {pause:.1f} s ({self._failed + 1} of {attempts})")
        if self._stop.wait(pause):
            raise StoppedError
        if failure.wait is not None:
            self._waited += pause
            self._since += pause
