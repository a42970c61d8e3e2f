"""Progress bars on stderr: one rule for all of them."""

from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

_quiet = False


def silence(quiet: bool = True) -> None:
    """Show no bar of this package from now on, whatever stderr is."""
    global _quiet  # a setting of the process, as of logging
    _quiet = quiet


def bar(items: Iterable[Any] | None = None, *, hidden: bool = False, **options: Any) -> "tqdm[Any]":
    """A bar with rate and remaining time; shows nothing if stderr is not a terminal, after :func:`silence`, or if
    ``hidden``.

    Args:
        items: what to go through; None for a bar that is updated by hand.
        hidden: show nothing, for work too short to need a bar.
        **options: of tqdm; the bar goes away when it is done unless ``leave`` says otherwise.
    """
    options = {"leave": False, "dynamic_ncols": True, **options}
    return tqdm(items, disable=True if hidden or _quiet else None, **options)
