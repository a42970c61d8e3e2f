"""Peak memory of a call: allocated on a device, or resident memory of the process."""

import contextlib
import ctypes
import gc
from collections.abc import Callable
from pathlib import Path

import torch

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_mib(run: Callable[[], object], device: torch.device) -> float | None:
    """Peak memory while ``run`` ran, beyond what was in use before, in MiB.

    On a CPU it is the resident memory of the whole process, whose peak only Linux can reset; None elsewhere.
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        torch.cuda.synchronize(device)
        return float(torch.cuda.max_memory_allocated(device) - before) / 2**20
    if not _CLEAR.exists():
        return None
    with contextlib.suppress(OSError, AttributeError):  # glibc keeps freed memory, and reusing it would not be visible
        ctypes.CDLL(None).malloc_trim(0)
    try:
        _CLEAR.write_text("5")  # reset the peak to the current value
    except OSError:
        return None
    held = _peak_kib()
    run()
    return (_peak_kib() - held) / 1024


def _peak_kib() -> int:
    lines = _STATUS.read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def resident_mib() -> float:
    """Resident memory of this process; NaN if the system does not provide it."""
    if not _STATUS.exists():
        return float("nan")
    lines = _STATUS.read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024
