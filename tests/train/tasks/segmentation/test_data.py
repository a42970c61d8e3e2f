"""Crops of labelled files, and rendered labels."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from midway_zoo.readouts.labelled import find_labelled
from midway_zoo.scenes import ScenesConfig
from midway_zoo.train.data.photometric import UNIFORMS, augment, denormalise
from midway_zoo.train.tasks.segmentation.config import JitterConfig, SegmentationDataConfig
from midway_zoo.train.tasks.segmentation.data import (
    LabelledCrops,
    LabelledScenes,
    distortion,
    held_out_scenes,
    random_crop,
)
from tests.readouts.labelled_files import write_folder


def test_samples_of_files(tmp_path: Path) -> None:
    write_folder(tmp_path, 3)
    config, files = SegmentationDataConfig(crop=32, max_class_share=1.0), find_labelled("folder", tmp_path)
    first, second = LabelledCrops(config, files, 3, 0), LabelledCrops(config, files, 3, 0)
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


def test_images_are_scaled_as_published() -> None:
    """To (2048, 512) times a factor: an ordinary image by its shorter side, a very wide one by its longer."""
    rng = np.random.default_rng(0)
    for size, scale, shown in (((128, 72), 1.0, (57, 32)), ((320, 40), 1.0, (128, 16)), ((320, 40), 2.0, (256, 32))):
        config = SegmentationDataConfig(crop=32, scale=(scale, scale), max_class_share=1.0, flip_p=0)
        labels = np.zeros(size[::-1], np.uint8)
        labels[:, -1:] = 1
        rows = {int((random_crop(Image.new("RGB", size), Image.fromarray(labels), config, rng)[1] != 255).all(1).sum())
                for _ in range(4)}  # fmt: skip
        assert rows == {min(32, shown[1])}


def test_each_distortion_happens_by_itself() -> None:
    uniform = np.random.default_rng(0).random((UNIFORMS + 4, 4000))
    parameters = distortion(JitterConfig(), uniform)
    off = parameters[:, :4] == [1, 1, 1, 0]
    assert (abs(off.mean(0) - 0.5) < 0.03).all()
    assert abs((off[:, 0] & off[:, 1]).mean() - 0.25) < 0.03
    assert abs(parameters[:, 1] - 1).max() <= 0.5
    image = torch.randint(0, 256, (1, 3, 8, 8), dtype=torch.uint8)
    still = torch.from_numpy(distortion(JitterConfig(jitter_p=0), uniform[:, :1]))
    torch.testing.assert_close(denormalise(augment(image, still)), image.float() / 255, atol=1e-5, rtol=0)
