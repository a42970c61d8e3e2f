"""Re-encoding of a data root for fast access to any frame: small pictures, with frequent keyframes."""

import json
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any, Literal, TypeAlias

from PIL import Image
from torch import Tensor

from midway_zoo.bars import bar
from midway_zoo.errors import ConfigError, InputError, MidwayZooError
from midway_zoo.files import atomic, make_folder, write_json
from midway_zoo.inference.animations import ANIMATION_SUFFIXES, read_animation
from midway_zoo.inference.folders import TIMING_FILE, frame_files
from midway_zoo.inference.image_files import read_image, scaled_size, to_uint8
from midway_zoo.inference.sources import Source, base_folder, find_sources
from midway_zoo.inference.video_file import VideoFile, colour_matrix, import_av, orientation, upright
from midway_zoo.inference.video_writer import Colours, VideoWriter
from midway_zoo.train.data.video_files import read_timing

OPTIONS_FILE = "midway_prepare.json"
"""File in the output folder with the options, which must be the same when the work is resumed."""

Format: TypeAlias = Literal["video", "frames"]
Timed: TypeAlias = "tuple[Any, int]"
"""A picture (PyAV frame or uint8 (3, H, W)) and its time in ticks."""

_KNOWN_MATRICES = {1, 4, 5, 6, 7, 9}
"""Matrix codes of ITU-T H.273 that FFmpeg's converter supports."""


@dataclass
class PrepareReport:
    """Summary of :func:`prepare`."""

    done: int = 0
    """Number of videos written."""
    skipped: int = 0
    """Number of videos that an earlier run had written."""
    failed: list[tuple[str, str]] = field(default_factory=list)
    """(path, reason)"""
    frames: int = 0
    """Number of frames written."""
    damaged: int = 0
    """Number of frames left out, since they are damaged or follow damage up to the next keyframe."""
    bytes_before: int = 0
    """Bytes of the sources of videos written, without those skipped."""
    bytes_after: int = 0
    seconds: float = 0.0
    """Wall-clock time."""

    def __str__(self) -> str:
        speed = self.frames / self.seconds if self.seconds else 0.0
        lines = [
            f"{self.done} videos prepared, {self.skipped} were there already, {len(self.failed)} failed",
            f"{self.frames} frames in {self.seconds:.1f} s ({speed:.0f} frames/s); "
            f"{self.bytes_before / 1e6:.1f} MB became {self.bytes_after / 1e6:.1f} MB",
        ]
        if self.damaged:
            lines.append(f"{self.damaged} damaged frames were left out")
        text = "\n".join(lines + [f"  {path}: {reason}" for path, reason in self.failed])
        return text.encode("utf-8", "backslashreplace").decode()  # names that are not UTF-8 cannot be printed


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

    Outputs keep the folders, names and frame times of their sources, are upright, decode to the same colours (matrix,
    range, primaries and transfer are written) and have no sound. Damaged frames are left out. Each output is written
    under a temporary name and renamed, so a stopped run can be started again and skips what is finished. A
    video that cannot be read is reported and does not stop the others.

    Args:
        root: see :func:`~midway_zoo.inference.sources.find_sources`.
        out: output folder; created if needed.
        height: shorter side in pixels, as in "360p"; smaller videos keep their size. Sides are made even.
        gop: distance of keyframes in frames.
        workers: videos processed at a time; by default the number of cores.
        format: "video" writes H.264 (.mp4), "frames" a folder of JPEG files per video.
        crf: constant rate factor of H.264; lower is better and larger.
        quality: JPEG quality, at most 95.
        frames_fps: assumed rate of frame folders without times.

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
    make_folder(out)
    _check_options(out / OPTIONS_FILE, options)
    report, start = PrepareReport(), time.perf_counter()
    jobs = [(base_folder(root), source, out / name, options) for source, name in _outputs(sources, format)]
    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        results = pool.map(lambda job: _prepare_one(*job), jobs)
        for result in bar(results, total=len(jobs), unit=" videos", desc="prepare"):
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
    """A source's path, changed so that it cannot leave the output folder, whatever a list of files contains."""
    parts = [part for part in PurePosixPath(source.path).parts if part not in ("..", "/")]
    path = PurePosixPath(*parts) if parts else PurePosixPath("frames")
    return str(path if keep_suffix or source.kind == "frames" else path.with_suffix(""))


def _prepare_one(base: Path, source: Source, out: Path, options: _Options) -> PrepareReport:
    if out.exists():
        return PrepareReport(skipped=1)
    path = base / source.path
    report = PrepareReport(done=1)
    write = _write_video if options.format == "video" else _write_frames
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        report.bytes_before = _size(path)
        if source.kind == "frames":
            report.frames = write(out, *_from_folder(path, options), options)
        elif path.suffix.lower() in ANIMATION_SUFFIXES:
            report.frames = write(out, *_from_animation(path), options)
        else:
            with VideoFile(path) as video:
                report.frames = write(out, _from_video(video, report), video.tick, video.rate, options)
                video.warn()
        report.bytes_after = _size(out)
        return report
    except (import_av().FFmpegError, OSError, ValueError, MidwayZooError) as error:
        return PrepareReport(failed=[(source.path, str(error))])


def _from_video(video: VideoFile, report: PrepareReport) -> Iterator[Timed]:
    """Sound frames with their times."""
    for frame in video.frames():
        if frame.concealed:
            report.damaged += 1
        else:
            yield frame.picture, frame.ticks


def _from_animation(path: Path) -> tuple[Iterator[Timed], Fraction, Fraction]:
    frames = ((to_uint8(image), round(seconds * 1000)) for image, seconds in read_animation(path))
    return frames, Fraction(1, 1000), Fraction(10)


def _from_folder(path: Path, options: _Options) -> tuple[Iterator[Timed], Fraction, Fraction]:
    names, timing = frame_files(path), read_timing(path)
    rate = Fraction(options.frames_fps).limit_denominator(1001)
    base, pts = 1 / rate, list(range(len(names)))
    if timing is not None:
        base, pts = Fraction(timing["tick"]).limit_denominator(1_000_000), timing["pts"]
    if len(pts) != len(names):
        raise InputError(f"{TIMING_FILE} has {len(pts)} times for {len(names)} images")
    return ((read_image(path / name), time_) for name, time_ in zip(names, pts, strict=True)), base, rate


def _write_video(out: Path, frames: Iterator[Timed], tick: Fraction, rate: Fraction, options: _Options) -> int:
    # A keyframe exactly every gop frames, also at scene changes.
    keys = {"g": str(options.gop), "keyint_min": str(options.gop), "sc_threshold": "0"}
    encoder = {"crf": str(options.crf), "preset": "veryfast", **keys}
    first = next(frames, None)
    if first is None:
        raise InputError("no frames")
    height, width = scaled_size(*_sides(first[0]), options.height)
    colours = _colours(first[0])
    with (
        atomic(out) as temporary,
        VideoWriter(temporary, rate=rate, tick=tick, colours=colours, options=encoder, threads=1) as writer,
    ):
        for picture, ticks in chain([first], frames):
            writer.add(_converted(picture, (_even(height), _even(width)), colours), ticks)
    return writer.frames


def _sides(picture: Any) -> tuple[int, int]:
    """Upright (height, width)."""
    if isinstance(picture, Tensor):
        return picture.shape[1], picture.shape[2]
    transposed, _, _ = orientation(picture)
    return (picture.width, picture.height) if transposed else (picture.height, picture.width)


def _colours(picture: Any) -> Colours:
    """How a picture is stored so that it decodes to the same colours."""
    if isinstance(picture, Tensor):
        return Colours()
    known = Colours(primaries=int(picture.color_primaries), transfer=int(picture.color_trc))
    if not _converts(picture):
        return known
    full_range = picture.color_range == Colours(full_range=True).range or picture.format.name.startswith("yuvj")
    return replace(known, matrix=colour_matrix(picture), full_range=full_range)


def _converts(picture: Any) -> bool:
    """Whether FFmpeg can convert a frame to the output's format without RGB: YUV with a supported matrix."""
    return picture.format.name.startswith("yuv") and colour_matrix(picture) in _KNOWN_MATRICES


def _converted(picture: Any, size: tuple[int, int], colours: Colours) -> Any:
    """A picture in the output's format: its values are kept if possible, or else converted through RGB."""
    to = {"dst_colorspace": colours.matrix, "dst_color_range": colours.range}
    if (
        isinstance(picture, Tensor)
        or any(orientation(picture))
        or not _converts(picture)
        or _colours(picture) != colours
    ):
        image = picture if isinstance(picture, Tensor) else upright(picture)
        picture = import_av().VideoFrame.from_ndarray(image.permute(1, 2, 0).contiguous().numpy(), format="rgb24")
    else:
        to |= {"src_colorspace": colours.matrix, "src_color_range": colours.range}
    height, width = size
    return picture.reformat(height=height, width=width, format="yuv420p", interpolation="BICUBIC", threads=1, **to)


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
    report.damaged += result.damaged
    report.bytes_before += result.bytes_before
    report.bytes_after += result.bytes_after
