"""What may be dropped, and what is said of the rest. None of it needs Gradio."""

from pathlib import Path

import pytest
from PIL import Image

from midway_zoo.app.settings import AppSettings
from midway_zoo.app.uploads import check_upload, read_uploads
from midway_zoo.errors import InputError
from tests.app.files import write_bomb, write_clip, write_pictures

SETTINGS = AppSettings()


def refusal(paths: list[Path], settings: AppSettings = SETTINGS) -> str:
    with pytest.raises(InputError) as caught:
        read_uploads(paths, settings)
    message = str(caught.value)
    assert str(paths[0].parent) not in message  # where the server keeps files is not the visitor's business
    return message


def test_pictures_come_in_the_order_of_their_names(tmp_path) -> None:
    paths = write_pictures(tmp_path, 11, names="f{}.png")
    footage, said = read_uploads(paths[::-1], SETTINGS)
    assert list(footage.labels) == [f"f{index}.png" for index in range(8)]  # natural order: f10 is the last
    assert "the first 8 of 11 by name" in said
    footage, said = read_uploads([paths[1], paths[0]], SETTINGS, by_name=False)
    assert list(footage.labels) == ["A: f1.png", "B: f0.png"]
    assert said == "f1.png and f0.png: 64 x 48 pixels."


@pytest.mark.parametrize("kind", ["mp4", "mov", "mkv", "avi", "webm", "mpg", "ts", "flv", "wmv"])
def test_clips_are_taken_from_their_start(kind, tmp_path) -> None:
    footage, said = read_uploads([write_clip(tmp_path / f"clip.{kind}", 12)], AppSettings(frames=4))
    assert footage.frames.shape == (4, 3, 48, 64)
    assert said == f"clip.{kind}: the first 4 frames at 5 per second, 64 x 48 pixels."


def test_large_frames_are_reduced_and_that_is_said(tmp_path) -> None:
    footage, said = read_uploads(write_pictures(tmp_path, height=480, width=640), AppSettings(side=96))
    assert footage.frames.shape == (2, 3, 96, 128)
    assert "640 x 480 pixels, reduced to 128 x 96" in said


def test_an_animation_is_a_clip(tmp_path) -> None:
    pictures = [Image.open(path) for path in write_pictures(tmp_path, 3)]
    pictures[0].save(tmp_path / "a.gif", save_all=True, append_images=pictures[1:], duration=200)
    footage, _ = read_uploads([tmp_path / "a.gif"], SETTINGS)
    assert len(footage) == 3
    # A photograph with its preview (MPO, as phones write) is one picture.
    pictures[0].save(tmp_path / "photo.jpg", format="MPO", save_all=True, append_images=pictures[1:])
    assert not check_upload(tmp_path / "photo.jpg", SETTINGS)


def test_what_is_neither(tmp_path) -> None:
    for name, content in {
        "notes.txt": b"hello " * 100,
        "notes.png": b"hello " * 100,
        "paper.pdf": b"%PDF-1.7\n" + b"x" * 1000,
        "list.mp4": b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n",  # FFmpeg would open what it names
        "list.txt": b"ffconcat version 1.0\nfile /etc/passwd\n",
        "figure.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",  # Pillow would start Ghostscript
    }.items():
        path = tmp_path / name
        path.write_bytes(content)
        assert "neither a picture nor a video" in refusal([path, path]), name
    (tmp_path / "empty.png").touch()
    assert "is empty" in refusal([tmp_path / "empty.png"])
    (tmp_path / "iphone.heic").write_bytes(b"\0\0\0\x24ftypheic" + b"\0" * 100)
    assert "Most Compatible" in refusal([tmp_path / "iphone.heic"])
    assert "drop it again" in refusal([tmp_path / "gone.png"])


def test_truncated_files(tmp_path) -> None:
    first, second = write_pictures(tmp_path)
    first.write_bytes(first.read_bytes()[:-800])
    # The words that the page is looked at for in a browser, where a change of them would be noticed late.
    assert "frame0.png cannot be read as an image: image file is truncated" in refusal([first, second])
    clip = write_clip(tmp_path / "clip.mp4")
    whole = clip.read_bytes()
    for share, reason in ((0.5, "cannot be decoded"), (0.01, "cannot be decoded")):
        clip.write_bytes(whole[: int(share * len(whole))])
        assert reason in refusal([clip])


def test_too_large(tmp_path) -> None:
    bomb = write_bomb(tmp_path / "bomb.png", 8000)
    assert bomb.stat().st_size < 100_000
    assert "8000 x 8000 = 64.0 million pixels; at most 25 million" in refusal([bomb, bomb])
    assert "hundreds of million pixels" in refusal(
        [write_bomb(tmp_path / "huge.png", 24000)]
    )  # over Pillow's own limit
    clip = write_clip(tmp_path / "clip.mp4")
    assert "64 x 48 = 0.0 million pixels" in refusal([clip], AppSettings(max_megapixels=0.002))
    assert f"has {clip.stat().st_size / 2**20:.1f} MB" in refusal([clip], AppSettings(max_upload_mb=1e-3))


def test_what_does_not_go_together(tmp_path) -> None:
    first, second = write_pictures(tmp_path)
    clip = write_clip(tmp_path / "clip.mp4")
    assert "is a clip: drop it alone" in refusal([clip, first])
    assert "single picture" in refusal([first])
    Image.open(second).resize((32, 32)).save(second)
    assert "frame0.png has 64 x 48 pixels and frame1.png has 32 x 32" in refusal([first, second])
    assert "gave 1 frame" in refusal([write_clip(tmp_path / "short.mp4", 1)])


@pytest.mark.parametrize(
    "wrong", [{"frames": 1}, {"frames": 100}, {"fps": 0}, {"max_upload_mb": -1}, {"models": ()}, {"queue": 0}]
)
def test_settings_that_make_no_sense(wrong) -> None:
    with pytest.raises(InputError):
        AppSettings(**wrong)
