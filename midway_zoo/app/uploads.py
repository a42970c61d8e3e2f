"""Files that visitors drop: checked before they are decoded, then read as footage."""

import warnings
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from midway_zoo.app.settings import AppSettings
from midway_zoo.demo.footage import Footage, read_clip, read_images
from midway_zoo.errors import InputError, MidwayZooError, MissingExtraError
from midway_zoo.inference.animations import ANIMATION_SUFFIXES
from midway_zoo.inference.folders import natural_key
from midway_zoo.inference.video_file import VideoFile

PICTURES = ("JPEG", "PNG", "WEBP", "GIF", "AVIF", "TIFF", "BMP", "PPM", "JPEG2000")
"""Formats that are opened, by Pillow's names. Other formats that it knows call programs (EPS) or are not pictures."""
_HEIC = (b"heic", b"heix", b"heim", b"hevc", b"mif1", b"msf1")
_MOVING = ("GIF", "PNG", "WEBP")
_WANTED = "JPEG, PNG, WebP, AVIF, TIFF or BMP; MP4, MOV, WebM, MKV, AVI, MPEG or GIF"


def read_uploads(paths: Sequence[Path], settings: AppSettings, *, by_name: bool = True) -> tuple[Footage, str]:
    """Read two or more pictures, or one clip, and describe in a sentence what was taken.

    Args:
        paths: the dropped files, with the visitor's names.
        settings: limits, and how frames are taken from a clip.
        by_name: order pictures by their names; False keeps the order given.

    Raises:
        InputError: if a file cannot be used; the message names it without its path.
        MissingExtraError: for a video without PyAV.
    """
    try:
        return _read(paths, settings, by_name)
    except MissingExtraError:
        raise
    except MidwayZooError as error:
        message = str(error)
        for path in paths:  # the server's paths mean nothing to visitors
            message = message.replace(str(path), path.name)
        raise InputError(message) from error


def _read(paths: Sequence[Path], settings: AppSettings, by_name: bool) -> tuple[Footage, str]:
    clips = [path for path in paths if check_upload(path, settings)]
    if clips and len(paths) > 1:
        raise InputError(f"{clips[0].name} is a clip: drop it alone, or two pictures instead.")
    if not paths:
        raise InputError("Nothing was dropped: two pictures of one scene, or one clip.")
    if clips:
        footage = read_clip(clips[0], settings.frames, settings.fps, settings.side)
        taken = f"the first {len(footage)} frames at {settings.fps:g} per second"
    elif len(paths) == 1:
        raise InputError(f"{paths[0].name} is a single picture, which shows no motion: drop two pictures, or a clip.")
    else:
        ordered = sorted(paths, key=lambda path: natural_key(path.name)) if by_name else list(paths)
        footage = read_images(ordered[: settings.frames], settings.side)
        taken = "" if len(ordered) <= settings.frames else f"the first {settings.frames} of {len(ordered)} by name"
    height, width = footage.frames.shape[2:]
    given = f"{footage.given[1]} x {footage.given[0]} pixels"
    if footage.given != (height, width):
        given += f", reduced to {width} x {height}"
    return footage, f"{footage.name}: {taken}{', ' if taken else ''}{given}."


def check_upload(path: Path, settings: AppSettings) -> bool:
    """Whether a file is a clip rather than a picture. Only headers are read.

    Raises:
        InputError: if it is neither, or too large.
    """
    try:
        size = path.stat().st_size
    except OSError as error:
        raise InputError(f"{path.name} is no longer available: drop it again.") from error
    if size == 0:
        raise InputError(f"{path.name} is empty.")
    if size > settings.max_bytes:
        raise InputError(
            f"{path.name} has {size / 2**20:.1f} MB; at most {settings.max_upload_mb:g} MB are allowed. Reduce "
            "or cut it."
        )
    picture = _picture(path, settings)
    if picture is not None:
        return picture
    with path.open("rb") as file:
        head = file.read(512)
    if head[4:8] == b"ftyp" and head[8:12] in _HEIC:
        raise InputError(
            f"{path.name} is an HEIC picture, which this page cannot read: save it as JPEG (on an iPhone: "
            "Settings, Camera, Formats, Most Compatible)."
        )
    # FFmpeg also opens playlists and scripts, which name other files and addresses: only videos are passed to it.
    if not _is_video(head):
        raise InputError(f"{path.name} is neither a picture nor a video of a known format: {_WANTED}.")
    with VideoFile(path) as video:
        codec = video.stream.codec_context
        _check_pixels(path, codec.width, codec.height, settings)
    return True


def _picture(path: Path, settings: AppSettings) -> bool | None:
    """Whether a picture is animated; None if it is not a picture."""
    Image.init()
    known = [kind for kind in PICTURES if kind in Image.OPEN]  # not every build has AVIF
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the page's own limit is checked below
            with Image.open(path, formats=known) as image:
                _check_pixels(path, image.width, image.height, settings)
                return (
                    image.format in _MOVING
                    and path.suffix.lower() in ANIMATION_SUFFIXES
                    and bool(getattr(image, "is_animated", False))
                )
    except InputError:
        raise
    except Image.DecompressionBombError as error:
        raise InputError(_too_many(path, "hundreds of", settings)) from error
    except (OSError, SyntaxError, ValueError):
        return None


def _check_pixels(path: Path, width: int, height: int, settings: AppSettings) -> None:
    if width * height > settings.max_megapixels * 1e6:
        raise InputError(_too_many(path, f"{width} x {height} = {width * height / 1e6:.1f}", settings))


def _too_many(path: Path, count: str, settings: AppSettings) -> str:
    return (
        f"{path.name} has {count} million pixels; at most {settings.max_megapixels:g} million are allowed. Reduce "
        f"it: frames are reduced to a shorter side of {settings.side} anyway."
    )


def _is_video(head: bytes) -> bool:
    """Whether a file begins like MP4 and its relatives, Matroska, AVI, MPEG streams, Ogg, FLV or ASF."""
    return (
        head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")
        or head.startswith((b"\x1aE\xdf\xa3", b"OggS", b"FLV", b"\x00\x00\x01\xba", b"\x00\x00\x01\xb3"))
        or head.startswith(b"0&\xb2u\x8ef\xcf\x11")
        or (head.startswith(b"RIFF") and head[8:12] == b"AVI ")
        or (len(head) > 376 and head[0] == head[188] == head[376] == 0x47)
    )
