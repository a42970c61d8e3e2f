"""Outputs for the flow of a clip, written pair by pair. Each is a context manager: ``finish`` completes the file, also
after an interruption, and leaving the context without it removes the file."""

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from midway_zoo.errors import InputError
from midway_zoo.files import atomic, check_output, write_json
from midway_zoo.flow.formats import write_flow
from midway_zoo.inference.frames import FrameSource
from midway_zoo.inference.spool import TensorSpool
from midway_zoo.inference.video_writer import TimedWriter
from midway_zoo.results import FlowPrediction
from midway_zoo.visualize import above_legend, flow_legend, flow_to_image

FOLDER_FPS = 10.0
"""Frames per second for a folder of frames, which have no times."""
INDEX = "index.json"


class FlowTable:
    """One .npz or .safetensors: flow, confidence, times and concealed frames."""

    def __init__(self, path: Path, facts: Mapping[str, Any], *, overwrite: bool) -> None:
        self._spool, self._facts, self._overwrite = TensorSpool(path), dict(facts), overwrite

    def __enter__(self) -> "FlowTable":
        return self

    def __exit__(self, *error: object) -> None:
        self._spool.__exit__(*error)

    def add(self, prediction: FlowPrediction) -> None:
        """One pair."""
        self._spool.add("flow", prediction.flow)
        self._spool.add("confidence", prediction.confidence)
        if prediction.pts_seconds is not None and prediction.concealed is not None:
            self._spool.add("pts_seconds", prediction.pts_seconds)
            self._spool.add("concealed", prediction.concealed)
        self._facts |= {"method": prediction.method, "grid": prediction.grid}

    def finish(self, pairs: int) -> None:
        """Write the first pairs."""
        self._spool.write(self._facts, rows=pairs, overwrite=self._overwrite)


class FlowFolder:
    """A flow file for every pair, and index.json: the list of files, and how they were made."""

    def __init__(self, folder: Path, kind: str, facts: Mapping[str, Any], *, overwrite: bool) -> None:
        self._folder, self._kind, self._facts, self._overwrite = folder, kind, dict(facts), overwrite
        self._made = not folder.exists()
        self._pairs: list[dict[str, Any]] = []
        self._finished = False

    def __enter__(self) -> "FlowFolder":
        if not self._folder.parent.is_dir():
            check_output(self._folder)
        self._folder.mkdir(exist_ok=True)
        return self

    def __exit__(self, *error: object) -> None:
        if self._finished or self._overwrite:
            return
        for pair in self._pairs:  # an incomplete folder must not block the same command
            (self._folder / pair["file"]).unlink(missing_ok=True)
        if self._made:
            self._folder.rmdir()

    def add(self, prediction: FlowPrediction) -> None:
        """One pair."""
        name = f"{len(self._pairs):06d}.{self._kind}"
        write_flow(self._folder / name, prediction.flow[0], overwrite=self._overwrite)
        pair: dict[str, Any] = {"file": name}
        if prediction.pts_seconds is not None and prediction.concealed is not None:
            pair["pts_seconds"], pair["concealed"] = (
                prediction.pts_seconds[0].tolist(),
                prediction.concealed[0].tolist(),
            )
        self._pairs.append(pair)
        self._facts |= {"method": prediction.method, "grid": prediction.grid}

    def finish(self, pairs: int) -> None:
        """Write the index."""
        write_json(self._folder / INDEX, {**self._facts, "pairs": self._pairs[:pairs]}, overwrite=self._overwrite)
        self._finished = True


class FlowVideo:
    """Source frames and flow side by side, at the source's times, above a legend; one scale for all frames.

    Args:
        path: the .mp4 to write.
        frames: the frames that the flow is computed from.
        max_flow: length in pixels at full saturation.
        facts: stored in the file as its comment.
        overwrite: replace an existing file.
    """

    def __init__(
        self, path: Path, frames: FrameSource, max_flow: float, facts: Mapping[str, Any], *, overwrite: bool
    ) -> None:
        self._path, self._frames, self._max_flow, self._overwrite = path, iter(frames), max_flow, overwrite
        self._facts = {**facts, "max_flow": max_flow}
        self._stack = ExitStack()
        self._legend: Tensor | None = None
        self._last: tuple[Tensor, float, float] | None = None
        self._number = 0

    def __enter__(self) -> "FlowVideo":
        temporary = self._stack.enter_context(atomic(self._path, overwrite=self._overwrite))
        self._writer = self._stack.enter_context(TimedWriter(temporary, metadata=self._facts))
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def add(self, prediction: FlowPrediction) -> None:
        """One pair."""
        image = next(self._frames).image.mul(255).round().to(torch.uint8)
        flow = prediction.flow[0].cpu()
        picture = torch.cat([image, flow_to_image(flow, max_flow=self._max_flow)], dim=2)
        if self._legend is None:
            self._legend = flow_legend(picture.shape[2], self._max_flow)
        start, stop = self._number / FOLDER_FPS, (self._number + 1) / FOLDER_FPS
        if prediction.pts_seconds is not None:
            start, stop = prediction.pts_seconds[0].tolist()
        if self._last is not None:
            self._writer.add(*self._last)
        self._last = above_legend(picture, self._legend), start, stop
        self._number += 1

    def finish(self, pairs: int) -> None:
        """Complete the video. The last picture also stands for the last frame, which has no flow, so that the duration
        is that of the source."""
        if self._last is None:
            raise InputError(f"there are no frames to write to {self._path.name}.")
        picture, start, stop = self._last
        self._writer.add(picture, start, 2 * stop - start)


Output: TypeAlias = FlowTable | FlowFolder | FlowVideo
