"""How many samples could not be read, and when that is too many."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from midway_zoo.errors import ConfigError, DataError

_log = logging.getLogger(__name__)

GRACE = 500
"""Samples below which the share is taken of this many: one bad file must not stop a run that has just begun."""
_NAMED = 5


class FailureCounter:
    """Counts the samples that failed and stops a run when they are too many.

    Each file is logged once. The count belongs into checkpoints.

    Args:
        max_share: of the samples tried, in [0, 1].

    Raises:
        ConfigError: for a share outside [0, 1].
    """

    def __init__(self, max_share: float) -> None:
        if not 0 <= max_share <= 1:
            raise ConfigError(f"max_failure_share={max_share} must lie between 0 and 1.")
        self.max_share = max_share
        self.tried = 0
        self.failed = 0
        self.files: dict[str, list[Any]] = {}
        """{path: [failures, first reason]}"""

    def update(self, failures: Sequence[tuple[str, str]], pairs: int) -> None:
        """Count a batch: ``batch["failures"]`` and the number of its pairs.

        Raises:
            DataError: if the share of failures is above the limit.
        """
        self.tried += pairs + len(failures)
        self.failed += len(failures)
        for path, reason in failures:
            if path not in self.files:
                _log.warning("cannot be read and is replaced by another sample: %s (%s)", path, reason)
                self.files[path] = [0, reason]
            self.files[path][0] += 1
        if self.failed > self.max_share * max(self.tried, GRACE):
            raise DataError(self._complaint())

    def state_dict(self) -> dict[str, Any]:
        """What :meth:`load_state_dict` takes; plain JSON values."""
        return {
            "tried": self.tried,
            "failed": self.failed,
            "files": {path: list(at) for path, at in self.files.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on counting from :meth:`state_dict`."""
        self.tried, self.failed = int(state["tried"]), int(state["failed"])
        self.files = {path: list(at) for path, at in state["files"].items()}

    def _complaint(self) -> str:
        worst = sorted(self.files.items(), key=lambda item: -item[1][0])[:_NAMED]
        named = "; ".join(f"{path} ({count} times: {reason})" for path, (count, reason) in worst)
        return (
            f"{self.failed} of {self.tried} samples could not be read, more than max_failure_share={self.max_share} "
            f"allows. In {len(self.files)} files, the worst: {named}. Restore or remove them and index the data again, "
            "or raise data.max_failure_share."
        )
