"""Progress bars on stderr: one rule for all of them."""

import os
import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

_quiet = False


def silence(quiet: bool = True) -> None:
    """Show no bar of this package from now on, whatever stderr is."""
    global _quiet  # a setting of the process, as of logging
    _quiet = quiet


def _columns() -> int | None:
    """Of the terminal that is stderr, None if it is none."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns
    except (OSError, ValueError, AttributeError):
        return None


def bar(items: Iterable[Any] | None = None, *, hidden: bool = False, **options: Any) -> "tqdm[Any]":
    """A bar with rate and remaining time; shows nothing if stderr is not a terminal, after :func:`silence`, or if
    ``hidden``.

    Args:
        items: what to go through; None for a bar that is updated by hand.
        hidden: show nothing, for work too short to need a bar.
        **options: of tqdm; the bar goes away when it is done unless ``leave`` says otherwise.
    """
    width: dict[str, Any] = {"dynamic_ncols": True}
    if _columns() == 0:  # a terminal that does not know its width, as in some containers: tqdm would show nothing
        width = {"ncols": 80}
    options = {"leave": False, **width, **options}
    return tqdm(items, disable=True if hidden or _quiet else None, **options)
