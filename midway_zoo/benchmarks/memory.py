"""Peak memory of a call: what a device allocated, or what the process had resident."""

import contextlib
import ctypes
import gc
from collections.abc import Callable
from pathlib import Path

import torch

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_mib(run: Callable[[], object], device: torch.device) -> float | None:
    """Most memory in use while ``run`` ran, beyond what was in use before, in MiB.

    On a CPU it is resident memory of the whole process, which only Linux lets one measure from anew; elsewhere None.
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
    with contextlib.suppress(OSError, AttributeError):  # glibc keeps what was freed, and would hand it out again unseen
        ctypes.CDLL(None).malloc_trim(0)
    try:
        _CLEAR.write_text("5")  # the peak starts anew from what is held now
    except OSError:
        return None
    held = _peak_kib()
    run()
    return (_peak_kib() - held) / 1024


def _peak_kib() -> int:
    lines = _STATUS.read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def resident_mib() -> float:
    """Memory that this process has resident now; not a number where the system does not tell."""
    if not _STATUS.exists():
        return float("nan")
    lines = _STATUS.read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024
