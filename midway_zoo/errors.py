"""Every error that the package raises on purpose.

All derive from :class:`MidwayZooError` and from the built-in that they resemble, so that
``except ValueError`` keeps working for callers who do not know this package.
"""

import difflib
from collections.abc import Iterable


class MidwayZooError(Exception):
    """Base of every error that midway-zoo raises on purpose."""


class ConfigError(MidwayZooError, ValueError):
    """A model configuration that is incomplete, contradictory or unknown."""


class UnknownModelError(MidwayZooError, ValueError):
    """A model name that is not in the zoo."""


class InputError(MidwayZooError, ValueError):
    """An image, clip or argument whose content cannot be used."""


class InputTypeError(MidwayZooError, TypeError):
    """An argument of a type that is not accepted."""


class MissingFileError(MidwayZooError, FileNotFoundError):
    """A file or folder that is not where it was looked for."""


class OutputExistsError(MidwayZooError, FileExistsError):
    """A result that would overwrite something without being asked to."""


class DataError(MidwayZooError, RuntimeError):
    """Training data of which too much cannot be read."""


class ExportError(MidwayZooError, RuntimeError):
    """A part of a network that cannot be exported, or a file that does not do what the network does."""


class InterruptedWorkError(MidwayZooError, InterruptedError):
    """Work that was stopped by Ctrl-C. What it had done by then is kept; the message says how far it got."""


class DiskFullError(MidwayZooError, OSError):
    """There is no room for a result. What was written before it is whole; the same command goes on from there."""


class DeviceLostError(MidwayZooError, RuntimeError):
    """An accelerator that does not work any more in this process."""


class MissingExtraError(MidwayZooError, ImportError):
    """An optional dependency that is not installed."""


class CheckpointError(MidwayZooError, ValueError):
    """A weights file that is damaged, incomplete or not what it should be."""


class SingleEncoderError(CheckpointError, ConfigError):
    """Both encoders are asked of weights that hold one."""


class UnsafeFileError(CheckpointError):
    """A pickled file that asks for something outside the allow-list. Nothing of it was run."""


class WeightsUnavailableError(MidwayZooError, OSError):
    """Pretrained weights that cannot be had from here."""


def nearest(name: str, known: Iterable[str]) -> str:
    """``" Did you mean 'a' or 'b'?"`` for the closest known names, or an empty string."""
    close = difflib.get_close_matches(name, list(known), n=3, cutoff=0.4)
    return f" Did you mean {' or '.join(repr(match) for match in close)}?" if close else ""
