"""Frames by NVIDIA's decoder, through torchcodec (extra ``nvdec``), for videos that it decodes like PyAV.

Unlike PyAV it does not report damage. It is therefore used only for videos written by ``train prepare``, whose frames
were all sound when written; videos that it might decode differently are read by PyAV.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from midway_zoo.errors import ConfigError, MissingExtraError
from midway_zoo.extras import install_command
from midway_zoo.inference.animations import ANIMATION_SUFFIXES
from midway_zoo.inference.video_file import VideoFile
from midway_zoo.train.data.indexed_video import IndexedVideo, Read
from midway_zoo.train.data.prepare import OPTIONS_FILE

_CODECS = ("h264", "hevc", "vp9", "av1")
_MATRICES = (
    1,
    5,
    6,
)  # H.273: BT.709 and the two of BT.601; without a declared matrix, torchcodec assumes another one than players
_HDR = (16, 18)  # H.273: transfer of PQ and HLG
_CLOSE = 2.0
"""Mean difference allowed between frames in grey levels: decoders agree, but conversions to RGB round."""

_log = logging.getLogger(__name__)


def import_torchcodec() -> Any:
    """torchcodec's ``decoders``.

    Raises:
        MissingExtraError: if it is not installed.
        ConfigError: if it cannot be used, for example because FFmpeg's libraries are not found.
    """
    try:
        from torchcodec import decoders
    except ImportError as error:
        raise MissingExtraError(f"data.decoder=nvdec needs torchcodec: {install_command('nvdec')}") from error
    except (RuntimeError, OSError) as error:
        raise ConfigError(
            f"data.decoder=nvdec: torchcodec cannot be used ({' '.join(str(error).split())[:200]}); it needs FFmpeg's "
            "shared libraries (Debian: apt-get install ffmpeg) and the torch that it was built for. data.decoder=pyav "
            "does without."
        ) from error
    return decoders


def check_decoder(base: Path) -> None:
    """Check before a run that videos in a folder can be decoded on this machine's GPU.

    Raises:
        MissingExtraError, ConfigError: if not, with the reason and a remedy.
    """
    import_torchcodec()
    if not torch.cuda.is_available() or torch.version.cuda is None:
        raise ConfigError("data.decoder=nvdec needs an NVIDIA GPU, and torch sees none; pass data.decoder=pyav.")
    if not (base / OPTIONS_FILE).is_file():
        raise ConfigError(
            f"data.decoder=nvdec reads videos that `midway-zoo train prepare` wrote, and {base} holds none: a GPU's "
            "decoder does not report damaged frames. Prepare them, or pass data.decoder=pyav."
        )


@dataclass(frozen=True)
class Layout:
    """Properties of a video that determine its conversion to RGB."""

    codec: str
    height: int
    width: int
    matrix: int
    range: int
    stream: int
    """Index of the video stream in the file."""


class DeviceReader:
    """Reads frames like :meth:`IndexedVideo.read`, with a device's decoder if both give the same result.

    The first video of each :class:`Layout` is read by both and compared. Videos with B-frames, uneven times, a
    rotation, more than 8 bits, other chroma than 4:2:0, or undeclared colours are read by PyAV, and so are videos
    on which the device fails; each reason is logged once. The time of every frame is compared with the index.

    Args:
        device: such as "cuda:0"; "cpu" uses torchcodec's own decoder, for comparisons.
    """

    def __init__(self, device: str) -> None:
        self.device = device
        self._agrees: dict[Layout, bool] = {}
        self._told: set[str] = set()
        self._look = lru_cache(maxsize=100_000)(_look)

    def __getstate__(self) -> dict[str, Any]:
        """State for a worker, which makes its own comparisons."""
        return {"device": self.device}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def __call__(self, video: IndexedVideo, base: Path, indices: Sequence[int], short_side: int | None = None) -> Read:
        """See :meth:`IndexedVideo.read`.

        Raises:
            InputError, MissingFileError: as that does.
        """
        path = video.unchanged(base)
        moving = video.kind == "video" and path.suffix.lower() not in ANIMATION_SUFFIXES
        layout = self._look(video, path) if moving and short_side is None else None
        if isinstance(layout, str):
            self._tell(path, layout)
        if not isinstance(layout, Layout) or self._agrees.get(layout) is False:
            return video.read(base, indices, short_side)
        try:
            images = self._decoded(video, path, sorted(set(indices)), layout)
        except (RuntimeError, ValueError, IndexError, OSError) as error:
            self._tell(path, f"the decoder of {self.device} fails", f" ({' '.join(str(error).split())[:200]})")
            return video.read(base, indices, short_side)
        if layout not in self._agrees:
            return self._compared(video, base, images, layout)
        return images, {}

    def _decoded(self, video: IndexedVideo, path: Path, indices: Sequence[int], layout: Layout) -> dict[int, Tensor]:
        """Frames by their positions.

        Raises:
            RuntimeError, ValueError, IndexError, OSError: if torchcodec fails, or returns something unexpected.
        """
        decoder = import_torchcodec().VideoDecoder(
            str(path), stream_index=layout.stream, device=self.device, seek_mode="approximate"
        )
        assert video.tick is not None
        seconds = video.pts[list(indices)] * video.tick
        half = video.duration(0.0) / (video.frames - 1) / 2
        found = decoder.get_frames_played_at((seconds + half).tolist())
        if self.device != "cpu" and decoder.cpu_fallback:
            raise ValueError(str(decoder.cpu_fallback))
        apart = (found.pts_seconds.cpu() - torch.from_numpy(seconds)).abs().max().item()
        if apart > 0.8 * half:
            raise ValueError(f"a frame is {apart:.3f} s from where the index has it")
        if found.data.shape[1:] != (3, video.height, video.width) or found.data.dtype != torch.uint8:
            raise ValueError(f"{found.data.dtype} {tuple(found.data.shape)} for {video.height} x {video.width} pixels")
        return dict(zip(indices, found.data.contiguous().cpu().unbind(), strict=True))

    def _compared(self, video: IndexedVideo, base: Path, images: dict[int, Tensor], layout: Layout) -> Read:
        """The same frames read by PyAV, after noting whether the two agree."""
        expected, failed = video.read(base, list(images))
        both = [(images[index].float(), expected[index].float()) for index in expected]
        if both and not failed:
            apart = max((one - other).abs().mean().item() for one, other in both)
            self._agrees[layout] = apart <= _CLOSE
            if apart > _CLOSE:
                reason = f"the decoder of {self.device} gives other pictures of {layout.codec}"
                self._tell(base / video.path, reason, f" (off by {apart:.1f} grey levels on average)")
        return expected, failed

    def _tell(self, path: Path, reason: str, detail: str = "") -> None:
        if reason not in self._told:
            self._told.add(reason)
            _log.warning("PyAV reads %s and others like it: %s%s", path, reason, detail)


def _look(video: IndexedVideo, path: Path) -> Layout | str:
    """The layout of a video, or the reason why a device might decode it differently."""
    if video.steps is not None or video.stored is not None:
        return "its frames are unevenly timed"
    if video.rotation:
        return "it is rotated"
    with VideoFile(path) as file:
        context = file.stream.codec_context
        colours = int(context.colorspace), int(context.color_range)
        if file.reorders:
            return "it has B-frames"
        if context.name not in _CODECS:
            return f"its codec is {context.name}"
        if context.pix_fmt != "yuv420p" or int(context.color_trc) in _HDR:
            return f"its pixels are {context.pix_fmt}, or HDR"
        if colours[0] not in _MATRICES:
            return "it does not declare the matrix of its colours"
        return Layout(context.name, video.height, video.width, *colours, stream=file.stream.index)
