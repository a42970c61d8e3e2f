"""Small data sets in the folders and with the names of the published ones."""

from pathlib import Path

import numpy as np
from PIL import Image


def picture_and_mask(number: int, *, size: tuple[int, int] = (48, 64)) -> tuple[np.ndarray, np.ndarray]:
    """A grey image whose right part is bright, and True there."""
    bright = np.zeros(size, bool)
    bright[:, 24 + 8 * (number % 4) :] = True
    return np.where(bright[..., None], 220, 40).astype(np.uint8).repeat(3, axis=2), bright


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def write_bdd100k(root: Path, count: int = 2) -> None:
    """Each split also has a lone image and a lone mask; dark is road (0), bright is sky (10), a row unknown (255)."""
    for split in ("train", "val"):
        images, masks = root / "images" / "10k" / split, root / "labels" / "sem_seg" / "masks" / split
        for number in range(count):
            image, bright = picture_and_mask(number)
            labels = np.where(bright, 10, 0).astype(np.uint8)
            labels[0] = 255
            save(images / f"0a0a0b1a-{split}{number}.jpg", image)
            save(masks / f"0a0a0b1a-{split}{number}.png", labels)
        save(images / f"lone-image-{split}.jpg", image)
        save(masks / f"lone-mask-{split}.png", labels)
        # The release has coloured masks beside these.
        save(root / "labels" / "sem_seg" / "colormaps" / split / f"0a0a0b1a-{split}0.png", image)


def write_cityscapes(root: Path, count: int = 2) -> None:
    """Dark is road (labelId 7), bright is sky (23), a row the ego vehicle (1), a pixel a licence plate (-1)."""
    for split in ("train", "val"):
        for city in ("aachen", "bochum"):
            for number in range(count):
                image, bright = picture_and_mask(number)
                labels = np.where(bright, 23, 7).astype(np.uint8)
                labels[0], labels[1, 0] = 1, 255
                name = f"{city}_{number:06d}_000019"
                save(root / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png", image)
                save(root / "gtFine" / split / city / f"{name}_gtFine_labelIds.png", labels)
                save(root / "gtFine" / split / city / f"{name}_gtFine_instanceIds.png", labels.astype(np.uint16) * 1000)
                save(root / "gtFine" / split / city / f"{name}_gtFine_color.png", image)
                (root / "gtFine" / split / city / f"{name}_gtFine_polygons.json").write_text("{}")


def write_ade20k(root: Path, count: int = 2) -> None:
    """Dark is wall (1), bright is flag (150), a row other (0)."""
    for split, short in (("training", "train"), ("validation", "val")):
        for number in range(1, count + 1):
            image, bright = picture_and_mask(number)
            labels = np.where(bright, 150, 1).astype(np.uint8)
            labels[0] = 0
            save(root / "images" / split / f"ADE_{short}_{number:08d}.jpg", image)
            save(root / "annotations" / split / f"ADE_{short}_{number:08d}.png", labels)
    (root / "objectInfo150.txt").write_text("Idx\tRatio\tTrain\tVal\tName\n")


def write_wtsem(root: Path, count: int = 2) -> None:
    """A folder for each city, whose files have the same names."""
    for split in ("train", "val"):
        for city in ("Amsterdam", "Venice"):
            for number in range(count):
                image, bright = picture_and_mask(number)
                save(root / "images" / split / city / f"{number:05d}.jpg", image)
                save(root / "masks" / split / city / f"{number:05d}.png", np.where(bright, 2, 6).astype(np.uint8))


def write_folder(root: Path, count: int) -> None:
    """``count`` images of 64 x 48 whose right part is bright and of class 1; one row is to be ignored."""
    for number in range(count):
        image, bright = picture_and_mask(number)
        labels = bright.astype(np.uint8)
        labels[0] = 255
        save(root / "images" / f"{number}.jpg", image)
        save(root / "masks" / f"{number}.png", labels)
