"""Every error that the package raises deliberately.

All derive from :class:`MidwayZooError` and from the closest built-in exception, so that
``except ValueError`` keeps working for callers who do not know this package.
"""

import difflib
from collections.abc import Iterable


class MidwayZooError(Exception):
    """Base of every error that midway-zoo raises deliberately."""


class ConfigError(MidwayZooError, ValueError):
    """A model configuration that is incomplete, contradictory or unknown."""


class UnknownModelError(MidwayZooError, ValueError):
    """A model name that is not in the zoo."""


class InputError(MidwayZooError, ValueError):
    """An image, clip or argument whose content cannot be used."""


class InputTypeError(MidwayZooError, TypeError):
    """An argument of a type that is not accepted."""


class MissingFileError(MidwayZooError, FileNotFoundError):
    """A file or folder that does not exist."""


class OutputExistsError(MidwayZooError, FileExistsError):
    """An output that exists and may not be overwritten."""


class DataError(MidwayZooError, RuntimeError):
    """Training data too much of which is unreadable."""


class ExportError(MidwayZooError, RuntimeError):
    """A part of a network that cannot be exported, or an exported file whose outputs differ from the network's."""


class InterruptedWorkError(MidwayZooError, InterruptedError):
    """Work that was stopped by Ctrl-C. What it had done by then is kept; the message says how far it got."""


class DiskFullError(MidwayZooError, OSError):
    """The disk is full. What was written before is intact; the same command resumes from there."""


class DeviceLostError(MidwayZooError, RuntimeError):
    """An accelerator that has stopped working in this process."""


class MissingExtraError(MidwayZooError, ImportError):
    """An optional dependency that is not installed."""


class CheckpointError(MidwayZooError, ValueError):
    """A weights file that is damaged, incomplete or not what it should be."""


class SingleEncoderError(CheckpointError, ConfigError):
    """Both encoders were requested from weights that hold only one."""


class UnsafeFileError(CheckpointError):
    """A pickled file that asks for something outside the allow-list. Nothing in it was run."""


class WeightsUnavailableError(MidwayZooError, OSError):
    """Pretrained weights that are not available."""


def nearest(name: str, known: Iterable[str]) -> str:
    """``" Did you mean 'a' or 'b'?"`` for the closest known names, or an empty string."""
    close = difflib.get_close_matches(name, list(known), n=3, cutoff=0.4)
    return f" Did you mean {' or '.join(repr(match) for match in close)}?" if close else ""
