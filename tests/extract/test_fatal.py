"""Which errors end an extraction, and which only fail one item: told by class and errno, never by their text."""

import errno

import pytest
import torch

from midway_zoo.errors import DeviceLostError, DiskFullError, MissingExtraError
from midway_zoo.extract.places import is_disk_full
from midway_zoo.extract.work import raise_if_fatal

CPU = torch.device("cpu")


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


def while_handling(error: Exception, first: Exception) -> Exception:
    """As torch.save does: its own error, raised while that of the file was handled."""
    error.__context__ = first
    return error


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (OSError(errno.ENOSPC, "Kein Platz"), True),
        (OSError(errno.EDQUOT, "Quota"), True),
        (DiskFullError("no room"), True),
        (caused(ValueError("could not be written"), OSError(errno.ENOSPC, "")), True),
        (while_handling(RuntimeError("unexpected pos 704 vs 598"), OSError(errno.ENOSPC, "")), True),
        (OSError(errno.EIO, "Input/output error"), False),
        (ValueError("the title is 'No space left on device'"), False),
    ],
    ids=repr,
)
def test_a_full_disk_is_told_by_errno(error: Exception, full: bool) -> None:
    assert is_disk_full(error) is full
    if full:
        with pytest.raises(type(error)):
            raise_if_fatal(error, CPU)
    else:
        raise_if_fatal(error, CPU)


def test_a_text_about_the_device_is_not_fatal() -> None:
    raise_if_fatal(RuntimeError("CUDA error: of another library"), CPU)
    raise_if_fatal(torch.OutOfMemoryError("CUDA error: out of memory"), CPU)


def test_a_missing_extra_is_fatal() -> None:
    with pytest.raises(MissingExtraError):
        raise_if_fatal(MissingExtraError("PyAV"), CPU)


@pytest.mark.skipif(not hasattr(torch, "AcceleratorError"), reason="torch >= 2.8")
def test_an_error_of_the_accelerator_is_fatal() -> None:
    with pytest.raises(DeviceLostError, match="Start the same command again"):
        raise_if_fatal(torch.AcceleratorError("device-side assert triggered"), CPU)
