"""What the ``analyse`` commands share: checking outputs before the work, and writing them."""

import argparse
import sys
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from torch import Tensor

from midway_zoo.cli.readouts import network_of
from midway_zoo.cli.work.inputs import check_not_inputs
from midway_zoo.cli.work.outputs import check_suffix, description
from midway_zoo.errors import InputError
from midway_zoo.figures import PICTURES, save_figure
from midway_zoo.figures.canvas import import_matplotlib
from midway_zoo.files import check_output, write_json
from midway_zoo.inference.frames import Frame, open_frames
from midway_zoo.inference.spool import SUFFIXES, TensorSpool
from midway_zoo.inference.video_file import import_av
from midway_zoo.inference.video_writer import write_video
from midway_zoo.models.network import MidwayNetwork

FILM = ".mp4"
_FPS = 10.0  # of a folder of frames, which have no times


def prepared(options: argparse.Namespace, *inputs: Path) -> MidwayNetwork:
    """The network, after a check that every output can be written: failing late would waste the work."""
    for number, path in enumerate(options.outputs):
        check_suffix(path, options.endings, "results of this command")
        check_not_inputs([path], *inputs, options.model)
        check_output(path, overwrite=options.force)
        if any(path.absolute() == other.absolute() for other in options.outputs[:number]):
            raise InputError(f"{path} is the name of two outputs; give each its own.")
        if path.suffix.lower() in (*PICTURES, FILM):
            import_matplotlib()
        if path.suffix.lower() == FILM:
            import_av()
    options.output = None  # `load` looks at it
    return network_of(options)


def write(
    options: argparse.Namespace,
    network: MidwayNetwork,
    *,
    figure: Callable[[], Any] | None = None,
    tensors: Mapping[str, Tensor] | None = None,
    numbers: Mapping[str, Any] | None = None,
    film: Callable[[], Iterable[tuple[Tensor, float, float]]] | None = None,
    said: str = "",
    **facts: Any,
) -> None:
    """Write every output according to its ending, and report the result on stdout."""
    options.command = f"analyse {options.task}"
    about = description(options, network, **facts)
    for path in options.outputs:
        kind = path.suffix.lower()
        if kind in PICTURES:
            assert figure is not None
            save_figure(figure(), path, metadata=about, overwrite=options.force)
        elif kind == FILM:
            assert film is not None
            write_video(path, film(), overwrite=options.force)
        elif kind in SUFFIXES:
            assert tensors is not None
            with TensorSpool(path) as spool:
                for name, values in tensors.items():
                    spool.add(name, values)
                spool.write(about, overwrite=options.force)
        else:
            write_json(path, {**about, **(numbers or {})}, overwrite=options.force)
    if not options.quiet:
        lines = [said] if said else []
        lines += [f"wrote {path}" for path in options.outputs]
        sys.stdout.write("\n".join(lines) + "\n")


def clip_frames(path: Path, options: argparse.Namespace) -> list[Frame]:
    """At most ``--frames`` frames of a clip, or one image."""
    clip: Any = path
    if path.is_file() and path.suffix.lower() in (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"):
        clip = [path]
    return list(islice(open_frames(clip, stride=options.stride, fps=options.fps), options.frames))


def again(frames: list[Frame]) -> Any:
    """A clip of frames that were read before."""
    return iter(frames)


def labels_of(frames: list[Frame]) -> list[str]:
    """Captions of frames in pictures."""
    return [
        f"frame {number}" if frame.pts_seconds is None else f"{frame.pts_seconds:.2f} s"
        for number, frame in enumerate(frames)
    ]


def shown_times(frames: list[Frame]) -> list[tuple[float, float]]:
    """Seconds from and to which frames are shown; frames without times are shown at ten per second."""
    starts = [number / _FPS if frame.pts_seconds is None else frame.pts_seconds for number, frame in enumerate(frames)]
    last = starts[-1] - starts[-2] if len(starts) > 1 else 1 / _FPS
    return list(zip(starts, [*starts[1:], starts[-1] + last], strict=True))
