"""Folders of images and masks, and rendered labels."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from midway_zoo.errors import DataError, InputError, MissingFileError
from midway_zoo.scenes import ScenesConfig
from midway_zoo.train.tasks.segmentation.config import SegmentationDataConfig
from midway_zoo.train.tasks.segmentation.data import (
    LabelledFiles,
    LabelledScenes,
    find_files,
    held_out_scenes,
    random_crop,
    read_pair,
)
from tests.train.tasks.segmentation.folders import write_folder


def test_files_belong_together_by_stem(tmp_path: Path) -> None:
    write_folder(tmp_path, 3)
    (tmp_path / "masks" / "0.png").unlink()
    (tmp_path / "images" / "2.jpg").unlink()
    assert [(image.name, mask.name) for image, mask in find_files(tmp_path)] == [("1.jpg", "1.png")]
    (tmp_path / "masks" / "deep").mkdir()
    (tmp_path / "masks" / "1.png").rename(tmp_path / "masks" / "deep" / "1.png")
    assert find_files(tmp_path)[0][1].parent.name == "deep"
    (tmp_path / "images" / "1.png").write_bytes((tmp_path / "images" / "1.jpg").read_bytes())
    with pytest.raises(DataError, match="same stem"):
        find_files(tmp_path)
    with pytest.raises(MissingFileError, match="images"):
        find_files(tmp_path / "nowhere")
    (tmp_path / "empty" / "images").mkdir(parents=True)
    (tmp_path / "empty" / "masks").mkdir()
    with pytest.raises(DataError, match="no image of 0"):
        find_files(tmp_path / "empty")


def test_samples_of_files(tmp_path: Path) -> None:
    write_folder(tmp_path, 3)
    config = SegmentationDataConfig(root=str(tmp_path), classes=3, crop=32, max_class_share=1.0)
    first, second = LabelledFiles(config, 0), LabelledFiles(config, 0)
    samples = [first[number] for number in range(6)]
    again = second[4]
    assert all(torch.equal(samples[4][key], again[key]) for key in again)
    assert samples[0]["image"].shape == (3, 32, 32)
    assert samples[0]["labels"].shape == (32, 32)
    # Image and mask are cut alike: the right part of the picture is bright and of class 1.
    for sample in samples:
        bright = sample["image"].float().mean(0) > 128
        known = sample["labels"] != 255
        assert (bright == (sample["labels"] == 1))[known].float().mean() > 0.9


def test_crops_avoid_a_single_class_and_pad() -> None:
    labels = np.zeros((40, 400), np.uint8)
    labels[:, 300:] = 1
    picture, mask = Image.new("RGB", (400, 40)), Image.fromarray(labels)
    rng = np.random.default_rng(0)

    def seen(share: float) -> int:
        config = SegmentationDataConfig(crop=32, scale=(0.8, 0.8), max_class_share=share)
        crops = [random_crop(picture, mask, config, rng)[1] for _ in range(60)]
        assert all((crop[26:] == 255).all() or (crop[:26] != 255).all() for crop in crops)
        return sum(int((crop == 0).any() and (crop == 1).any()) for crop in crops)

    assert seen(0.75) > 2 * seen(1.0) > 0


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.full((48, 64), 9, np.uint8), r"value 9: 0 to 2, or 255"),
        (np.zeros((48, 60), np.uint8), "size"),
        (np.zeros((48, 64, 3), np.uint8), "one channel"),
    ],
)
def test_bad_masks_are_named(tmp_path: Path, mask: np.ndarray, message: str) -> None:
    write_folder(tmp_path, 1)
    Image.fromarray(mask).save(tmp_path / "masks" / "0.png")
    data = LabelledFiles(SegmentationDataConfig(root=str(tmp_path), classes=3, crop=32), 0)
    with pytest.raises(InputError, match=rf"0\.png.*{message}"):
        data[0]


def test_scenes_for_training_and_validation_differ() -> None:
    config = SegmentationDataConfig(source="scenes", scenes=ScenesConfig(height=32, width=32, frames=1), val_scenes=6)
    data = LabelledScenes(config, 0)
    batch = data.__getitems__(range(6))
    assert batch["image"].shape == (6, 3, 32, 32)
    assert batch["labels"].unique().numel() > 3
    alone = data.__getitems__([4])
    assert all(torch.equal(batch[key][4:5], alone[key]) for key in batch)
    held = list(held_out_scenes(config, torch.device("cpu"), batch_size=4))
    assert [len(labels) for _, labels in held] == [4, 2]
    assert not torch.equal(held[0][0][0], batch["image"][0])
    assert not torch.equal(LabelledScenes(config, 1).__getitems__([0])["image"], batch["image"][:1])


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_picture_and_mask_stay_together_when_a_picture_is_turned_by_its_exif(tmp_path: Path, orientation: int) -> None:
    upright = np.zeros((24, 40), np.uint8)
    upright[:8, :20] = 1
    turned = Image.fromarray(upright * 200)
    back = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
    stored = turned.transpose(back[orientation]) if orientation in back else turned
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "a.jpg", exif=exif, quality=95)
    Image.fromarray(upright).save(tmp_path / "a.png")
    picture, mask = read_pair(tmp_path / "a.jpg", tmp_path / "a.png", 2)
    assert ((np.asarray(picture)[..., 0] > 100) == (np.asarray(mask) == 1)).mean() > 0.98


def test_pictures_of_16_bits_are_not_clipped(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 32 * 32).astype(np.uint16).reshape(32, 32)
    Image.fromarray(ramp).save(tmp_path / "a.png")
    Image.fromarray(np.zeros((32, 32), np.uint8)).save(tmp_path / "b.png")
    picture, _ = read_pair(tmp_path / "a.png", tmp_path / "b.png", 2)
    np.testing.assert_allclose(np.asarray(picture)[..., 0], ramp / 257, atol=1)


def test_stray_files_are_left_out(tmp_path: Path) -> None:
    write_folder(tmp_path, 2)
    for name in ("._0.jpg", "Thumbs.db", "0.pdf", ".DS_Store"):
        (tmp_path / "images" / name).write_bytes(b"stray")
    assert [image.name for image, _ in find_files(tmp_path)] == ["0.jpg", "1.jpg"]
