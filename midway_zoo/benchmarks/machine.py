"""Description of the machine, without which the figures mean nothing."""

import os
import platform
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from midway_zoo.version import __version__

_PACKAGES = (
    "torch",
    "torchvision",
    "timm",
    "numpy",
    "pillow",
    "safetensors",
    "huggingface-hub",
    "accelerate",
    "av",
    "ray",
    "opencv-python-headless",
    "opencv-python",
)


@dataclass(frozen=True)
class Machine:
    """Hardware, and versions of the software measured."""

    cpu: str
    capability: str
    """Widest vector instructions that torch uses."""
    cores: int
    """Number of cores that this process may use."""
    threads: int
    """Number of threads that torch uses."""
    load: float | None
    """Load average of the last minute, including this process; None if the system does not provide it."""
    memory_gib: float | None
    device: str
    """The accelerator that was measured, or "cpu"."""
    system: str
    versions: dict[str, str]

    @classmethod
    def here(cls, device: torch.device) -> "Machine":
        """The machine this runs on, in its current state."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return cls(
            cpu=_cpu(),
            capability=torch.backends.cpu.get_cpu_capability(),
            cores=cores,
            threads=torch.get_num_threads(),
            load=round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
            memory_gib=_memory_gib(),
            device=torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
            system=f"{platform.system()} {platform.machine()}",
            versions={"python": platform.python_version(), "midway-zoo": __version__, **_versions()},
        )

    def __str__(self) -> str:
        device = "" if self.device == "cpu" else f", {self.device}"
        shown = ", ".join(f"{name} {self.versions[name]}" for name in ("torch", "timm", "python"))
        load = "" if self.load is None else f", load {self.load:g}"
        return f"{self.cpu} ({self.capability}), {self.cores} core(s), {self.threads} thread(s){load}{device}; {shown}"


def _versions() -> dict[str, str]:
    found: dict[str, Any] = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found | {"torch": str(torch.__version__)}


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(errors="replace").splitlines():
            if line.lower().startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine() or sys.platform


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, ValueError, OSError):
        return None
