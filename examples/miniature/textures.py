"""A folder of texture images for scenes: pictures drawn by formula, and crops of frames of videos.

    python examples/miniature/textures.py OUT [VIDEO ...]

OUT is then given as data.scenes.textures=OUT. Writes 64 pictures of dead leaves, 16 of 1/f noise and 24 crops of every
video, 256 x 256 pixels each. (`textures=natural` draws similar pictures without any folder.)
"""

import argparse
import sys
from pathlib import Path

import av
import numpy as np
from PIL import Image
from tqdm import tqdm

from midway_zoo.scenes.natural import draw

SIDE, LEAVES, NOISE, CROPS = 256, 64, 16, 24


def write_drawn(out: Path) -> None:
    """The pictures drawn by formula."""
    for kind, count, key in (("leaves", LEAVES, 1), ("noise", NOISE, 2)):
        for number in tqdm(range(count), desc=kind, leave=False, disable=None):
            picture = draw(kind, SIDE, np.random.default_rng([key, number]))
            Image.fromarray(picture).save(out / f"{kind}{number:03}.png")


def write_crops(out: Path, videos: list[Path]) -> None:
    """Squares of 40 to 100 % of the shorter side, out of evenly spaced frames of each video."""
    rng = np.random.default_rng(3)
    for video in videos:
        with av.open(str(video)) as container:
            stream = container.streams.video[0]
            wanted = set(np.linspace(0, (stream.frames or 200) - 1, CROPS).astype(int).tolist())
            for number, frame in enumerate(container.decode(stream)):
                if number in wanted:
                    image = frame.to_image()
                    side = int(rng.uniform(0.4, 1) * min(image.size))
                    left, top = (int(rng.integers(0, length - side + 1)) for length in image.size)
                    crop = image.crop((left, top, left + side, top + side))
                    crop.resize((SIDE, SIDE), Image.Resampling.LANCZOS).save(out / f"{video.stem}_{number:04}_0.png")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder to be made")
    parser.add_argument("videos", type=Path, nargs="*", metavar="VIDEO")
    options = parser.parse_args()
    if options.out.exists():
        print(f"textures.py: error: {options.out} exists", file=sys.stderr)
        return 1
    options.out.mkdir(parents=True)
    write_drawn(options.out)
    write_crops(options.out, options.videos)
    return 0


if __name__ == "__main__":
    sys.exit(main())
