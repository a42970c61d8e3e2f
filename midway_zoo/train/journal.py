"""Reports of a run: log.jsonl, the progress bar, and values read without stalling the device."""

import json
import logging
import math
import platform
import secrets
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from midway_zoo.bars import bar
from midway_zoo.files import atomic, write_png
from midway_zoo.version import __version__

logger = logging.getLogger(__name__)


class StepLog:
    """``log.jsonl``: one line per step, in order, each step once.

    Args:
        path: the file; lines of steps from ``first_step`` on, and an incomplete last line, are removed.
        first_step: the next step.
    """

    def __init__(self, path: Path, first_step: int) -> None:
        kept = [line for line in read_log(path) if line["step"] < first_step]
        with atomic(path, overwrite=True) as temporary:
            temporary.write_text("".join(f"{json.dumps(line)}\n" for line in kept), encoding="utf-8")
        self._file = path.open("a", encoding="utf-8", buffering=1)

    def write(self, line: Mapping[str, Any]) -> None:
        """Append one step; the line is flushed at once. Infinite numbers become null, since JSON has none."""
        finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in line.items()}
        self._file.write(json.dumps(finite) + "\n")

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_log(path: Path) -> list[dict[str, Any]]:
    """Lines of a ``log.jsonl``; an incomplete line, which a kill can leave, is skipped."""
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and isinstance(line.get("step"), int):
            lines.append(line)
    return lines


class Delayed:
    """Numbers of a step, on their way from the device: reading them later does not stall it."""

    def __init__(self, step: int, names: list[str], values: Tensor, extra: dict[str, Any]) -> None:
        self.step, self.names, self.extra = step, names, extra
        self._event: torch.cuda.Event | None = None
        if values.is_cuda:
            self._values = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self._values.copy_(values, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()
        else:
            self._values = values

    def read(self) -> dict[str, float]:
        """The numbers, waiting until they have arrived."""
        if self._event is not None:
            self._event.synchronize()
        return dict(zip(self.names, self._values.tolist(), strict=True))


class Progress:
    """The bar on stderr; shown only in a terminal, and only by the first process."""

    def __init__(self, first_step: int, last_step: int, *, shown: bool, unit: str, values: Sequence[str] = ()) -> None:
        self.unit, self.values = unit, ("loss", *values, "lr")
        self._bar = bar(total=last_step, initial=first_step, unit="step", hidden=not shown, leave=True)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._bar.close()

    def update(self, line: Mapping[str, Any]) -> None:
        """Show one step."""
        shown = {key: f"{line[key]:.3g}" for key in self.values if line.get(key) is not None}
        rate = f"{line[f'{self.unit}_per_s']:.1f} {self.unit}/s, data {line['data_wait']:.0%}"
        self._bar.set_postfix_str(", ".join([*(f"{key} {value}" for key, value in shown.items()), rate]), refresh=False)
        self._bar.update()


def publish_pictures(pictures: Mapping[str, Tensor], step: int, folder: Path, trackers: Sequence[Any]) -> None:
    """Write pictures, uint8 (3, H, W), as PNG and to those of Accelerate's trackers that support pictures."""
    folder.mkdir(exist_ok=True)
    for name, picture in pictures.items():
        write_png(folder / f"{name}_{step + 1:08d}.png", picture, overwrite=True)
    images = {name: picture.cpu().permute(1, 2, 0).numpy() for name, picture in pictures.items()}
    for tracker in trackers:
        if tracker.name == "tensorboard":
            for name, image in images.items():
                tracker.writer.add_image(name, image, step, dataformats="HWC")
        elif hasattr(tracker, "log_images"):
            tracker.log_images({name: [image] for name, image in images.items()}, step=step)


def provenance() -> dict[str, Any]:
    """Versions that made a checkpoint, without asking git."""
    return {
        "midway_zoo": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "command": shlex.join(sys.argv),
        "written": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A flat mapping with dotted keys and values that every tracker accepts."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value if isinstance(value, int | float | str | bool) else str(value)
    return found


def tracker_arguments(out: Path, name: str | None) -> dict[str, dict[str, Any]]:
    """Arguments about a run by tracker: its name, and an identifier that stays the same when the run is resumed.

    Args:
        out: the run folder; the identifier is stored in it.
        name: name of the run; None for that of the folder.
    """
    file = out / "tracker_id.txt"
    if not file.is_file():
        with atomic(file) as temporary:
            temporary.write_text(f"{secrets.token_hex(4)}\n", encoding="utf-8")
    identity, name = file.read_text(encoding="utf-8").strip(), name or out.resolve().name
    return {
        "wandb": {"name": name, "id": identity, "resume": "allow"},
        "trackio": {"name": f"{name}-{identity}", "resume": "allow"},
        "swanlab": {"experiment_name": name, "id": identity, "resume": "allow"},
    }
