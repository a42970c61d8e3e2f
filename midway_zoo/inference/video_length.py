"""How many frames a video will give, for progress bars: what its container says, which may be wrong."""

import math
from pathlib import Path

from midway_zoo.errors import MidwayZooError
from midway_zoo.inference.video_file import VideoFile


def estimated_frames(path: Path, *, stride: int = 1, fps: float | None = None) -> int | None:
    """The number of frames that are taken, about; None if the container does not say."""
    try:
        with VideoFile(path) as video:
            count, seconds = video.stream.frames, video.stream.duration
            length = float(seconds * video.tick) if seconds else 0.0
            length = length or (video.container_seconds or (count / float(video.rate) if count else 0.0))
            count = count or round(length * float(video.rate))
    except (MidwayZooError, OSError):
        return None  # whoever reads it says why
    if fps is not None:
        count = min(count, math.ceil(length * fps))
    return math.ceil(count / stride) or None
