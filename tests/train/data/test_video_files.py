"""What a root is found to hold, and frame folders."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from midway_zoo.errors import InputError, MissingFileError
from midway_zoo.inference.folders import frame_files, natural_key
from midway_zoo.inference.image_files import read_image
from midway_zoo.inference.sources import Source, find_sources
from midway_zoo.train.data.video_files import read_images
from tests.train.data.videos import picture, write_folder


def touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def test_videos_and_frame_folders_are_found_in_natural_order(tmp_path: Path) -> None:
    for name in (
        "b/clip10.MOV",
        "b/clip9.mp4",
        "a.txt",
        "b/.clip.mp4",
        ".hidden/x.mp4",
        "c/1.jpg",
        "c/2.jpg",
        "d/e/1.png",
    ):
        touch(tmp_path / name)
    assert find_sources(tmp_path) == [
        Source("b/clip9.mp4", "video"),
        Source("b/clip10.MOV", "video"),
        Source("c", "frames"),
        Source("d/e", "frames"),
    ]


def test_link_to_a_folder_above_ends(tmp_path: Path) -> None:
    touch(tmp_path / "a" / "x.mp4")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    assert find_sources(tmp_path) == [Source("a/x.mp4", "video")]


def test_list_names_any_file_relative_to_itself(tmp_path: Path) -> None:
    touch(tmp_path / "videos" / "odd.name")
    write_folder(tmp_path / "frames", 2)
    (tmp_path / "train.txt").write_text("# mine\nvideos/odd.name\n\nframes # too\nvideos/odd.name\nvideos/gone.mp4\n")
    found = find_sources(tmp_path / "train.txt")
    assert found == [
        Source("frames", "frames"),
        Source("videos/gone.mp4", "video"),
        Source("videos/odd.name", "video"),
    ]


def test_empty_list_and_missing_root_are_errors(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("# nothing\n")
    with pytest.raises(InputError, match="names no file"):
        find_sources(tmp_path / "train.txt")
    with pytest.raises(MissingFileError, match="there is no data"):
        find_sources(tmp_path / "gone")


def test_natural_key_tells_equal_numbers_apart() -> None:
    names = ["f10", "f9", "f09", "e", "10", "9x"]
    assert sorted(names, key=natural_key) == ["9x", "10", "e", "f09", "f9", "f10"]


def test_frames_are_counted_as_people_do(tmp_path: Path) -> None:
    write_folder(tmp_path, 12)
    assert frame_files(tmp_path) == [f"frame{index}.png" for index in range(12)]
    images, failed = read_images(tmp_path, [10, 2, 10], 12)
    assert not failed
    assert sorted(images) == [2, 10]
    assert torch.equal(images[10], torch.from_numpy(picture(10)).permute(2, 0, 1))


def test_folder_that_lost_an_image_is_an_error(tmp_path: Path) -> None:
    write_folder(tmp_path, 4)
    frame_files(tmp_path)
    (tmp_path / "frame1.png").unlink()
    with pytest.raises(InputError, match="3 images instead of 4"):
        read_images(tmp_path, [0], 4)


def test_damaged_image_fails_alone(tmp_path: Path) -> None:
    write_folder(tmp_path, 4)
    (tmp_path / "frame1.png").write_bytes(b"no image")
    images, failed = read_images(tmp_path, [0, 1], 4)
    assert list(images) == [0]
    assert "frame1.png" in failed[1]


def test_image_is_scaled_by_its_shorter_side_and_never_enlarged(tmp_path: Path) -> None:
    Image.fromarray(np.arange(60 * 90, dtype=np.uint8).reshape(60, 90)).save(tmp_path / "grey.png")
    assert read_image(tmp_path / "grey.png", 20).shape == (3, 20, 30)
    image = read_image(tmp_path / "grey.png", 200)
    assert image.shape == (3, 60, 90)
    assert image.dtype == torch.uint8
