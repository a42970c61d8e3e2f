"""Re-encoding a data root once so that any frame is cheap to reach: small pictures, a keyframe every few frames."""

import json
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path, PurePosixPath
from typing import Any, Literal, TypeAlias

from PIL import Image
from torch import Tensor
from tqdm import tqdm

from midway_zoo.errors import ConfigError, InputError, MidwayZooError
from midway_zoo.files import atomic, write_json
from midway_zoo.train.data.decoding import frame_time, import_av, quarter_turns, upright
from midway_zoo.train.data.sources import (
    TIMING_FILE,
    Source,
    base_folder,
    find_sources,
    frame_files,
    read_image,
    read_timing,
    scaled_size,
)

OPTIONS_FILE = "midway_prepare.json"
"""In the output folder, how it was prepared: a run that is taken up again must go on the same way."""

Format: TypeAlias = Literal["video", "frames"]
Timed: TypeAlias = "tuple[Any, int]"
"""A picture (PyAV frame or uint8 (3, H, W)) and its time in ticks."""


@dataclass
class PrepareReport:
    """What :func:`prepare` did."""

    done: int = 0
    """Videos written."""
    skipped: int = 0
    """Videos that an earlier run had written."""
    failed: list[tuple[str, str]] = field(default_factory=list)
    """(path, reason)"""
    frames: int = 0
    """Written."""
    bytes_before: int = 0
    """Of the videos written, not of those skipped."""
    bytes_after: int = 0
    seconds: float = 0.0
    """Wall clock."""

    def __str__(self) -> str:
        speed = self.frames / self.seconds if self.seconds else 0.0
        lines = [
            f"{self.done} videos prepared, {self.skipped} were there already, {len(self.failed)} failed",
            f"{self.frames} frames in {self.seconds:.1f} s ({speed:.0f} frames/s); "
            f"{self.bytes_before / 1e6:.1f} MB became {self.bytes_after / 1e6:.1f} MB",
        ]
        return "\n".join(lines + [f"  {path}: {reason}" for path, reason in self.failed])


@dataclass(frozen=True)
class _Options:
    height: int
    gop: int
    format: Format
    crf: int
    quality: int
    frames_fps: float


def prepare(
    root: str | os.PathLike[str],
    out: str | os.PathLike[str],
    height: int = 360,
    gop: int = 15,
    workers: int | None = None,
    *,
    format: Format = "video",
    crf: int = 20,
    quality: int = 90,
    frames_fps: float = 30.0,
) -> PrepareReport:
    """Re-encode every video of a root for fast random access.

    Outputs keep the folders, names and frame times of their sources, are upright, and have no sound. Each is
    written under a temporary name and renamed, so a run that was stopped can be started again and skips
    what is finished. A video that cannot be read is reported and does not stop the others.

    Args:
        root: see :func:`~midway_zoo.train.data.sources.find_sources`.
        out: output folder, made if need be.
        height: shorter side in pixels, as in "360p"; smaller videos keep their size. Sides are made even.
        gop: frames from keyframe to keyframe.
        workers: videos at a time; by default the number of cores.
        format: "video" writes H.264 (.mp4), "frames" a folder of JPEG files per video.
        crf: constant rate factor of H.264; lower is better and larger.
        quality: of JPEG, to 95.
        frames_fps: rate of frame folders that do not know theirs.

    Raises:
        ConfigError: for options that make no sense, or an ``out`` that was prepared with others.
        MissingFileError: if there is no such root.
        InputError: if it holds no videos, or ``out`` lies in it.
        MissingExtraError: if PyAV is not installed.
    """
    if min(height, gop) < 1 or format not in ("video", "frames") or not 0 < frames_fps < float("inf"):
        raise ConfigError(
            f"height={height}, gop={gop}, format={format!r}, frames_fps={frames_fps}: positive numbers and the format "
            "'video' or 'frames' are expected."
        )
    import_av()
    root, out = Path(root), Path(out)
    sources = find_sources(root)
    if not sources:
        raise InputError(f"{root} holds no videos and no folders of frames.")
    if root.is_dir() and out.resolve().is_relative_to(root.resolve()):
        raise InputError(f"the output folder {out} lies in the data folder {root}; choose one outside.")
    options = _Options(height, gop, format, crf, quality, frames_fps)
    out.mkdir(parents=True, exist_ok=True)
    _check_options(out / OPTIONS_FILE, options)
    report, start = PrepareReport(), time.perf_counter()
    jobs = [(base_folder(root), source, out / name, options) for source, name in _outputs(sources, format)]
    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        results = pool.map(lambda job: _prepare_one(*job), jobs)
        for result in tqdm(results, total=len(jobs), unit=" videos", desc="prepare", leave=False, disable=None):
            _add(report, result)
    report.seconds = time.perf_counter() - start
    return report


def _check_options(path: Path, options: _Options) -> None:
    if not path.exists():
        write_json(path, vars(options))
        return
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path} is damaged; prepare into a new folder.") from error
    if before != vars(options):
        raise ConfigError(f"{path.parent} was prepared with {before}, not {vars(options)}; choose another folder.")


def _outputs(sources: list[Source], format_: Format) -> list[tuple[Source, str]]:
    """Each source with the relative path of its output; a.mov beside a.mp4 becomes a.mov.mp4."""
    suffix = ".mp4" if format_ == "video" else ""
    short = [_inside(source, keep_suffix=False) + suffix for source in sources]
    long = [_inside(source, keep_suffix=True) + suffix for source in sources]
    counts = Counter(short)
    names = [brief if counts[brief] == 1 else full for brief, full in zip(short, long, strict=True)]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise InputError(f"several sources would be written to {twice[0]}; prepare them from separate lists.")
    return list(zip(sources, names, strict=True))


def _inside(source: Source, *, keep_suffix: bool) -> str:
    """A source's path as one that cannot leave the output folder, whatever a list of files says."""
    parts = [part for part in PurePosixPath(source.path).parts if part not in ("..", "/")]
    path = PurePosixPath(*parts) if parts else PurePosixPath("frames")
    return str(path if keep_suffix or source.kind == "frames" else path.with_suffix(""))


def _prepare_one(base: Path, source: Source, out: Path, options: _Options) -> PrepareReport:
    if out.exists():
        return PrepareReport(skipped=1)
    av = import_av()
    path = base / source.path
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        before = _size(path)
        write = _write_video if options.format == "video" else _write_frames
        if source.kind == "frames":
            frames = write(out, *_from_folder(path, options), options)
        else:
            with av.open(str(path)) as container:
                frames = write(out, *_from_video(container, options), options)
        return PrepareReport(done=1, frames=frames, bytes_before=before, bytes_after=_size(out))
    except (av.FFmpegError, OSError, ValueError, MidwayZooError) as error:
        return PrepareReport(failed=[(source.path, str(error))])


def _from_video(container: Any, options: _Options) -> tuple[Iterator[Timed], Fraction, Fraction]:
    """(upright frames with times, time base, rate)"""
    if not container.streams.video:
        raise InputError("no video stream")
    stream = container.streams.video[0]
    stream.codec_context.thread_count = 1
    rate = Fraction(stream.average_rate or stream.guessed_rate or 25)
    base = Fraction(stream.time_base) if stream.time_base else 1 / rate

    def frames() -> Iterator[Timed]:
        last, step = None, max(1, round(1 / (rate * base)))
        for packet in container.demux(stream):
            if packet.is_corrupt:
                raise InputError("damaged, or breaks off in the middle of a frame")
            for frame in packet.decode():
                time_ = frame_time(frame)
                if time_ is None:  # raw streams have no times
                    time_ = 0 if last is None else last + step
                if last is None or time_ > last:
                    last = time_
                    yield (upright(frame, options.height) if quarter_turns(frame) else frame), time_

    return frames(), base, rate


def _from_folder(folder: Path, options: _Options) -> tuple[Iterator[Timed], Fraction, Fraction]:
    names, timing = frame_files(folder), read_timing(folder)
    rate = Fraction(options.frames_fps).limit_denominator(1001)
    base, pts = 1 / rate, list(range(len(names)))
    if timing is not None:
        base, pts = Fraction(timing["tick"]).limit_denominator(1_000_000), timing["pts"]
    if len(pts) != len(names):
        raise InputError(f"{TIMING_FILE} has {len(pts)} times for {len(names)} images")
    return ((read_image(folder / name), time_) for name, time_ in zip(names, pts, strict=True)), base, rate


def _write_video(out: Path, frames: Iterator[Timed], base: Fraction, rate: Fraction, options: _Options) -> int:
    av = import_av()
    count = 0
    with atomic(out) as temporary, av.open(str(temporary), "w", format="mp4", options={"movflags": "+faststart"}) as to:
        stream = to.add_stream("libx264", rate=rate)
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = base
        stream.codec_context.thread_count = 1
        # A keyframe exactly every gop frames; no B-frames, so that no frame waits for later ones.
        keys = {"g": str(options.gop), "keyint_min": str(options.gop), "sc_threshold": "0", "bf": "0"}
        stream.codec_context.options = {"crf": str(options.crf), "preset": "veryfast", **keys}
        for picture, time_ in frames:
            frame = _as_frame(av, picture)
            if count == 0:
                height, width = scaled_size(frame.height, frame.width, options.height)
                stream.height, stream.width = _even(height), _even(width)
            frame = frame.reformat(
                width=stream.width, height=stream.height, format="yuv420p", interpolation="BICUBIC", threads=1
            )
            frame.pts, frame.time_base, frame.pict_type = time_, base, av.video.frame.PictureType.NONE
            to.mux(stream.encode(frame))
            count += 1
        if not count:
            raise InputError("no frames")
        to.mux(stream.encode())
    return count


def _write_frames(out: Path, frames: Iterator[Timed], base: Fraction, rate: Fraction, options: _Options) -> int:
    with _atomic_folder(out) as folder:
        pts: list[int] = []
        for picture, time_ in frames:
            image = picture if isinstance(picture, Tensor) else upright(picture)
            height, width = scaled_size(image.shape[1], image.shape[2], options.height)
            photo = Image.fromarray(image.permute(1, 2, 0).numpy())
            photo = photo.resize((_even(width), _even(height)), Image.Resampling.BICUBIC)
            photo.save(folder / f"{len(pts):06d}.jpg", quality=options.quality)
            pts.append(time_)
        if not pts:
            raise InputError("no frames")
        write_json(folder / TIMING_FILE, {"tick": float(base), "pts": pts})
    return len(pts)


@contextmanager
def _atomic_folder(out: Path) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".part", dir=out.parent))
    try:
        yield folder
        folder.chmod(0o755)
        folder.rename(out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _as_frame(av: Any, picture: Any) -> Any:
    if isinstance(picture, Tensor):
        return av.VideoFrame.from_ndarray(picture.permute(1, 2, 0).contiguous().numpy(), format="rgb24")
    return picture


def _even(side: int) -> int:
    return max(2, round(side / 2) * 2)


def _size(path: Path) -> int:
    if path.is_dir():
        return sum(entry.stat().st_size for entry in path.iterdir() if entry.is_file())
    return path.stat().st_size


def _add(report: PrepareReport, result: PrepareReport) -> None:
    report.done += result.done
    report.skipped += result.skipped
    report.failed += result.failed
    report.frames += result.frames
    report.bytes_before += result.bytes_before
    report.bytes_after += result.bytes_after
