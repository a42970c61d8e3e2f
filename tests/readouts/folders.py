"""Small data sets in the layouts of the real ones."""

from pathlib import Path

import numpy as np
from PIL import Image

from midway_zoo.readouts.davis import davis_palette

COLOURS = {"n01440764": (200, 40, 40), "n01443537": (40, 200, 40), "n01484850": (40, 40, 200)}


def write_classes(root: Path, count: int, *, seed: int = 0) -> None:
    """ImageNet's layout: one folder per class, JPEG files; the classes differ in colour."""
    draw = np.random.default_rng(seed)
    for name, colour in COLOURS.items():
        (root / name).mkdir(parents=True)
        for number in range(count):
            noise = draw.integers(-30, 30, (40, 56, 3))
            image = Image.fromarray((np.array(colour) + noise).clip(0, 255).astype(np.uint8))
            image.save(root / name / f"{name}_{number}.JPEG", format="JPEG")


def write_davis(root: Path, sequences: dict[str, int], *, frames: int = 5, size: tuple[int, int] = (48, 64)) -> None:
    """DAVIS-2017's layout: sequence -> number of objects, squares of their own colour that go to the right."""
    height, width = size
    for name, objects in sequences.items():
        folders = [root / part / "480p" / name for part in ("JPEGImages", "Annotations")]
        for folder in folders:
            folder.mkdir(parents=True)
        for index in range(frames):
            labels = np.zeros((height, width), np.uint8)
            picture = np.full((height, width, 3), 90, np.uint8)
            for number in range(1, objects + 1):
                top, left = 16 * (number - 1) + 2, 8 * index + 4 * number
                labels[top : top + 12, left : left + 14] = number
                picture[labels == number] = ((230, 30, 30), (30, 230, 30), (30, 30, 230))[number - 1]
            Image.fromarray(picture).save(folders[0] / f"{index:05d}.jpg", quality=95)
            mask = Image.fromarray(labels).convert("L")
            mask.putpalette(davis_palette())
            mask.save(folders[1] / f"{index:05d}.png")
    lists = root / "ImageSets" / "2017"
    lists.mkdir(parents=True)
    (lists / "val.txt").write_text("".join(f"{name}\n" for name in sequences))
