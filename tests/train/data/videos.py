"""Small videos whose frames say which they are."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from midway_zoo.train.data.frame_pairs import PairDataset
from midway_zoo.train.data.loading import Sample

STEP = 8
"""Grey levels between neighbouring frames more than a codec's error."""
CYCLE = 31


def picture(index: int, height: int = 48, width: int = 64) -> np.ndarray:
    """Frame ``index``: flat grey, with a bright upper left corner."""
    image = np.full((height, width, 3), STEP * (index % CYCLE), np.uint8)
    image[: height // 4, : width // 4] = 255
    return image


def shown(image: Tensor) -> int:
    """Which :func:`picture` a frame (3, H, W) shows, modulo ``CYCLE``."""
    height, width = image.shape[1:]
    return round(
        float(image[:, height // 2 - 4 : height // 2 + 4, width // 2 - 4 : width // 2 + 4].float().mean()) / STEP
    )


def write_video(
    path: Path,
    frames: int = 40,
    *,
    rate: int | Fraction = 20,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    size: tuple[int, int] = (48, 64),
    gop: int = 8,
    bframes: int = 0,
    milliseconds: Sequence[int] | None = None,
    noise: bool = False,
) -> Path:
    """Encode :func:`picture` 0, 1, ...; ``noise`` makes packets large enough to damage."""
    path.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    options = {"movflags": "+faststart"} if path.suffix == ".mp4" else {}
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = size
        stream.pix_fmt = pixels
        stream.codec_context.thread_count = 1
        if codec == "libx264":
            keys = {
                "g": str(gop),
                "keyint_min": str(gop),
                "sc_threshold": "0",
                "bf": str(bframes),
                "preset": "ultrafast",
            }
            stream.codec_context.options = keys if noise else {**keys, "crf": "4"}
        elif codec == "mpeg4":
            stream.codec_context.gop_size = gop
        if milliseconds is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        container.start_encoding()
        for index in range(frames):
            image = picture(index, *size)
            if noise:
                image[: size[0] // 4] = random.integers(0, 256, (size[0] // 4, size[1], 3))
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            if milliseconds is not None:
                frame.pts, frame.time_base = milliseconds[index], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_audio(path: Path) -> Path:
    """A file with sound and no picture."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_folder(folder: Path, frames: int = 40, size: tuple[int, int] = (48, 64)) -> Path:
    """:func:`picture` 0, 1, ... as frame0.png, frame1.png, ..., whose names sort wrongly as text."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(frames):
        Image.fromarray(picture(index, *size)).save(folder / f"frame{index}.png")
    return folder


def damage(path: Path, first: float, last: float) -> None:
    """Overwrite a part of a file, given as shares of its length."""
    content = bytearray(path.read_bytes())
    begin, end = int(first * len(content)), int(last * len(content))
    content[begin:end] = np.random.default_rng(1).bytes(end - begin)
    path.write_bytes(content)


def which(source: Tensor, target: Tensor, rng: np.random.Generator) -> dict[str, Tensor]:
    """Stands for the views: what the frames show, and one draw."""
    return {"frames": torch.tensor([shown(source), shown(target)]), "draw": torch.tensor(rng.random())}


def drawn(dataset: PairDataset, numbers: Sequence[int]) -> list[tuple[int, int, float, list[tuple[str, str]]]]:
    """What the samples are, in a form that compares."""

    def plain(sample: Sample) -> tuple[int, int, float, list[tuple[str, str]]]:
        return (*sample["frames"].tolist(), float(sample["draw"]), sample["failures"])

    return [plain(sample) for sample in dataset.__getitems__(list(numbers))]
