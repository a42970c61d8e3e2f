"""Small videos for the trainer's tests: textured squares that move over a textured background."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np


def write_video(path: Path, *, frames: int = 40, size: tuple[int, int] = (72, 96), seed: int = 0) -> Path:
    """An H.264 video (height, width) at 30 fps with a key frame every 10 frames."""
    rng = np.random.default_rng(seed)
    height, width = size
    background = np.kron(rng.integers(0, 255, (height // 8, width // 8, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    patch = rng.integers(0, 255, (16, 16, 3)).astype(np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"g": "10"})
        stream.width, stream.height, stream.pix_fmt, stream.time_base = width, height, "yuv420p", Fraction(1, 30)
        for number in range(frames):
            image = np.roll(background, number // 2, axis=1).copy()
            top, left = (seed * 7 + number) % (height - 16), (number * 2) % (width - 16)
            image[top : top + 16, left : left + 16] = patch
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path
