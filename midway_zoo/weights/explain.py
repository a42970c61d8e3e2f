"""The error for weights that could not be fetched: what, where, and what to do."""

import errno

from huggingface_hub import constants
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from midway_zoo.errors import WeightsUnavailableError
from midway_zoo.weights.transport import NetworkError, clean, transport_errors

_WRITE_FAILURES = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "it is read-only",
    errno.EACCES: "no permission to write there",
    errno.EPERM: "no permission to write there",
}


def network_errors() -> tuple[type[BaseException], ...]:
    """What a request can raise: refusals, lost connections, names that the Hub does not allow."""
    return (NetworkError, HFValidationError, *transport_errors())


def write_failure(error: BaseException) -> bool:
    """Whether an error is the disk's, not the network's."""
    return getattr(error, "errno", None) in _WRITE_FAILURES


def unwritable(folder: object, error: BaseException) -> WeightsUnavailableError:
    """The error for a cache that is not writable."""
    reason = _WRITE_FAILURES.get(getattr(error, "errno", None) or 0)
    return WeightsUnavailableError(
        f"the weights cannot be kept in {folder}: {f'{reason} ({error})' if reason else error}. Nothing partial was "
        "left there. Free some space, or pass cache_dir= or set HF_ASSETS_CACHE to a writable folder."
    )


def explain(error: BaseException, name: str, where: str, repo: str) -> WeightsUnavailableError:
    """The error for weights that could not be fetched.

    Args:
        error: what was raised.
        name: of the weights, for commands.
        where: what was requested and where.
        repo: "org/name".
    """
    by_hand = (
        f"On a connected machine run `hf download {repo}` and copy the Hub's cache (HF_HOME), or pass the path of a "
        "folder with its files in place of the name."
        if name == repo
        else f"On a connected machine run `midway-zoo download {name}` and copy the cache, or pass cache_dir= with a "
        "folder that has it, or give the path of the downloaded file to midway_zoo.load_checkpoint."
    )
    status = getattr(error, "status", None) or getattr(getattr(error, "response", None), "status_code", None)
    cause = error.cause or error if isinstance(error, NetworkError) else error
    token = "Check the token (HF_TOKEN, or token=)."
    if isinstance(cause, GatedRepoError):
        reason, remedy = "the repository is gated", f"Accept its terms at {constants.ENDPOINT}/{repo} and pass token=."
    elif isinstance(cause, OfflineModeIsEnabled) or constants.HF_HUB_OFFLINE:
        reason, remedy = "it is not cached, and huggingface_hub is offline (HF_HUB_OFFLINE=1)", by_hand
    elif isinstance(cause, RepositoryNotFoundError):
        reason, remedy = "there is no such repository, or it is private", "Check the name, or pass token=."
    elif isinstance(cause, RevisionNotFoundError):
        reason, remedy = "there is no such revision", "Pass another revision=."
    elif isinstance(cause, EntryNotFoundError) and not isinstance(cause, LocalEntryNotFoundError):
        reason, remedy = "there is no such file in the repository", "Check file and revision=."
    elif isinstance(cause, HFValidationError):
        reason, remedy = str(cause), "A repository is called org/name."
    elif status == 429:
        reason = f"the Hub limits requests ({error})"
        remedy = "Wait a few minutes; a token (HF_TOKEN, or token=) raises the limit."
    elif status is not None and 400 <= status < 500:
        reason, remedy = f"it was refused ({clean(str(error))})", token if status in (401, 403) else by_hand
    else:
        kind = "" if isinstance(error, NetworkError) else f"{type(error).__name__}: "
        reason, remedy = f"the Hub cannot be reached ({kind}{clean(str(error))})", by_hand
    return WeightsUnavailableError(f"{where}: {reason}. {remedy}")
