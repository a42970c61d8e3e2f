"""Where a file of the Hub is: its commit, size and ETag, and the address of its bytes."""

import re
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import urljoin

from huggingface_hub import constants

from midway_zoo.weights.transport import Answer, NetworkError, is_hub, request, request_headers

_REDIRECTS = (301, 302, 303, 307, 308)
_MOST_REDIRECTS = 20
_NO_HEAD = (405, 501)


class Resolved(NamedTuple):
    """What the Hub says of a file."""

    commit: str | None
    etag: str | None
    size: int
    location: str


def plain_etag(etag: str | None) -> str | None:
    """An ETag for weak comparison: without W/ and quotes, nor what some servers append when they compress."""
    if etag is None:
        return None
    return etag.strip().removeprefix("W/").strip('"').removesuffix("-gzip") or None


def no_hub(reason: str) -> NetworkError:
    """The error for an endpoint that answers, but not as a Hub does."""
    return NetworkError(
        f"HF_ENDPOINT={constants.ENDPOINT} does not answer as a Hub: {reason}. Check HF_ENDPOINT, or what proxy "
        "or sign-in page stands in between"
    )


def resolve(url: str, token: str | bool | None, timeout: float) -> Resolved:
    """Ask the Hub for a file, without its bytes.

    Redirects within the Hub are followed with the token. The redirect to the host of the bytes is not, where it
    carries the file's size: it is the answer. Any other redirect to another host is followed without the token.

    Raises:
        PassingError: what may be tried again.
        NetworkError: what may not.
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
                    method = "GET"  # a signed link may be good for that alone
                url = target
                continue
            return _final(answer, commit, etag, size, url)
    raise no_hub(f"it redirects more than {_MOST_REDIRECTS} times")


def _final(answer: Answer, commit: str | None, etag: str | None, size: int | None, url: str) -> Resolved:
    """The facts, from the reply of whoever has the bytes."""
    if answer.status not in (200, 206):
        answer.refuse()
    if commit is None and answer.headers.get("Content-Type", "").startswith("text/html"):
        raise no_hub("it sends a web page in place of the file")
    if size is None and not answer.encoded:
        size = _size(answer.status, answer.headers)
    if size is None:
        raise no_hub("it tells no size of the file")
    return Resolved(commit, etag or plain_etag(answer.headers.get("ETag")), size, url)


def _size(status: int, headers: Mapping[str, str]) -> int | None:
    if status == 206:
        return _number(headers.get("Content-Range", "").rpartition("/")[2])
    return _number(headers.get("Content-Length"))


def _number(text: str | None) -> int | None:
    return int(text) if text and re.fullmatch(r"\d+", text) else None
