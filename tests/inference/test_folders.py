"""Frames of a folder: which files they are, in what order, and the number that changes with them."""

import os
from pathlib import Path

import pytest
import torch
from PIL import Image

import midway_zoo as mz
from midway_zoo.errors import InputError, MissingFileError
from midway_zoo.inference.folders import folder_stamp, frame_files, is_image, natural_key
from midway_zoo.inference.image_files import image_size, read_image, read_labels
from midway_zoo.inference.images import to_tensor

STRAYS = ("._frame_1.png", ".DS_Store", "Thumbs.db", "data.h5", "clip.mpg", "notes.pdf", "icon.ico", "frames.json")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """frame_1.png to frame_12.png, brighter and brighter, among files that are not frames."""
    for number in range(1, 13):
        Image.new("RGB", (32, 32), (20 * number,) * 3).save(tmp_path / f"frame_{number}.png")
    for name in STRAYS:
        (tmp_path / name).write_bytes(b"stray")
    (tmp_path / "folder.png").mkdir()
    return tmp_path


def test_frames_come_in_natural_order_without_strays(folder: Path) -> None:
    assert frame_files(folder) == [f"frame_{number}.png" for number in range(1, 13)]
    assert not any(is_image(name) for name in STRAYS)
    assert is_image("A.JPG")


def test_inference_reads_a_folder_by_the_same_rule(folder: Path, nano: mz.MidwayNetwork) -> None:
    frames = [to_tensor(folder / f"frame_{number}.png") for number in range(1, 13)]
    expected = mz.infer_motion_latents(nano, frames)
    torch.testing.assert_close(mz.infer_motion_latents(nano, folder).tokens, expected.tokens)


@pytest.mark.parametrize("names", [["f1", "f2", "f10"], ["1", "2", "11"], ["a1b2", "a1b10", "a2b1"], ["f9", "f09x"]])
def test_numbers_count_as_numbers(names: list[str]) -> None:
    shuffled = names[::-1]
    assert sorted(shuffled, key=natural_key) == names


def test_the_stamp_is_that_of_the_frames(folder: Path) -> None:
    before = folder_stamp(folder)
    (folder / "another.txt").touch()
    (folder / "Thumbs.db").unlink()
    assert folder_stamp(folder) == before
    (folder / "frame_3.png").rename(folder / "frame_30.png")
    assert folder_stamp(folder) != before


def test_a_folder_that_is_gone_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="gone is not there"):
        frame_files(tmp_path / "gone")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_reader_turns_pictures_by_their_exif_orientation(tmp_path: Path, orientation: int) -> None:
    image = Image.new("L", (40, 24))
    image.paste(200, (0, 0, 20, 8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / "a.png", exif=exif)
    steps = {
        1: [],
        2: [Image.Transpose.FLIP_LEFT_RIGHT],
        3: [Image.Transpose.ROTATE_180],
        4: [Image.Transpose.FLIP_TOP_BOTTOM],
        5: [Image.Transpose.TRANSPOSE],
        6: [Image.Transpose.ROTATE_270],
        7: [Image.Transpose.TRANSVERSE],
        8: [Image.Transpose.ROTATE_90],
    }[orientation]
    upright = image
    for step in steps:
        upright = upright.transpose(step)
    expected = to_tensor(upright)
    assert torch.equal(to_tensor(tmp_path / "a.png"), expected)
    assert torch.equal(read_image(tmp_path / "a.png"), (expected * 255).round().to(torch.uint8))
    assert torch.equal(torch.from_numpy(read_labels(tmp_path / "a.png")), (expected[0] * 255).round().to(torch.uint8))
    assert image_size(tmp_path / "a.png") == tuple(expected.shape[1:])


def test_masks_of_several_channels_are_refused(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"a\.png: the mask has shape \(4, 4, 3\)"):
        read_labels(tmp_path / "a.png")


def test_pictures_beyond_pillows_limit_say_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    for read in (to_tensor, read_image, read_labels, image_size):
        with pytest.raises(InputError, match=r"a\.png has more pixels than Pillow opens.*MAX_IMAGE_PIXELS"):
            read(tmp_path / "a.png")


def test_values_a_little_beyond_the_range_are_clamped_and_others_are_named() -> None:
    image = torch.rand(3, 8, 8)
    image[1, 2, 3], image[0, 0, 0] = 1.0009, -0.0009
    found = to_tensor(image)
    assert found.max() == 1
    assert found.min() == 0
    image[2, 5, 6] = 1.02
    with pytest.raises(InputError, match=r"the maximum 1\.02 is in channel 2, row 5, column 6"):
        to_tensor(image)
    image[2, 5, 6], image[1, 7, 0] = 1, -0.5
    with pytest.raises(InputError, match=r"the minimum -0\.5 is in channel 1, row 7, column 0"):
        to_tensor(image)


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    name = os.fsdecode(b"caf\xe9.png")
    (tmp_path / "a.png").rename(tmp_path / name)
    assert frame_files(tmp_path) == [name]
    assert read_image(tmp_path / name).shape == (3, 8, 8)
    folder_stamp(tmp_path)


def test_link_to_nothing_beside_frames(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "1.png")
    before = folder_stamp(tmp_path)
    (tmp_path / "2.png").symlink_to(tmp_path / "gone.png")
    assert folder_stamp(tmp_path) == before
