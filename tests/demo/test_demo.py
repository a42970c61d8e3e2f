"""``midway-zoo demo``: what it reads, prints, draws, and how it fails."""

import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import midway_zoo as mz
from midway_zoo.analysis import untrained
from midway_zoo.cli import main
from midway_zoo.demo import sheet
from midway_zoo.demo.crossed import crossed_motion, crossed_pairs
from midway_zoo.demo.findings import last_features, notable_points, true_tracks, warp_differences
from midway_zoo.demo.footage import SIDE, Footage, generated_clip, packaged_clip, read_clip, read_pair
from midway_zoo.demo.sheet import Block
from midway_zoo.inference.video_writer import write_video
from tests.cli.test_cli import failure


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, str]:
    """Folders with and without a flow head, of random weights."""
    folder = tmp_path_factory.mktemp("models")
    small = {"embed_dim": 24, "num_heads": 3, "motion_dim": 12, "backward_heads": 3, "forward_heads": 3}
    for name, head in (("head", (8, 8, 8, 8, 16)), ("plain", None)):
        torch.manual_seed(0)
        mz.create_model("midway_nano", flow_head=head, flow_size=(64, 64), **small).save_pretrained(folder / name)
    return {name: str(folder / name) for name in ("head", "plain")}


@pytest.fixture
def images(tmp_path) -> list[str]:
    paths = []
    for index in range(2):
        paths.append(str(tmp_path / f"{index}.png"))
        Image.effect_noise((96, 48), 60 + index).convert("RGB").save(paths[-1])
    return paths


def bands(path: Path) -> int:
    """How many horizontal stripes of a sheet are separated by white."""
    page = np.asarray(Image.open(path))
    assert (page[0] == 255).all()
    assert (page[:, 0] == 255).all()
    busy = (page < 250).any(axis=(1, 2))
    return int((busy[1:] & ~busy[:-1]).sum())


def test_generated_clip(models, tmp_path, capsys) -> None:
    out = tmp_path / "a" / "b"
    assert main(["demo", "--model", models["head"], "--frames", "4", "--out", str(out)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("model: head, 0.")
    assert "flow head" in lines[0]
    assert lines[1] == "footage: generated clip, 4 frames of 96 x 96 pixels"
    assert lines[2].startswith("flow: head; EPE ")
    assert "of zero flow " in lines[2]
    assert lines[3].startswith("motion latents: 3 x 10 x 12, norm ")
    assert lines[4].startswith("tracks: 4 points, off by ")
    assert lines[5].startswith("real clip: neighbouring frames differ by ")
    assert all(f" {name} " in lines[7] for name in ("features", "flow", "heat map", "track"))
    assert lines[8].startswith(f"wrote {out / 'demo.png'} (")
    page = Image.open(out / "demo.png")
    assert f"({page.width} x {page.height} pixels)" in lines[8]
    assert 600 < page.width < 1300
    # The heading's lines; frames, features twice, flow, truth, tracks, heat; frames, features twice, flow, tracks.
    assert bands(out / "demo.png") >= 6 + 2 * 7 + 2 * 5


def test_the_packaged_clip_is_small_and_moves() -> None:
    footage = packaged_clip()
    assert footage.frames.shape == (6, 3, 96, 144)
    assert footage.labels[:2] == ["0.0 s", "0.2 s"]
    assert footage.frames.diff(dim=0).abs().mean() > 0.03
    folder = files("midway_zoo.demo") / "clip"
    assert sum(len(entry.read_bytes()) for entry in folder.iterdir()) < 300_000
    assert "CC0" in (folder / "README.md").read_text()


def test_warp_differences_count_what_stays_inside() -> None:
    frame = torch.rand(3, 16, 24, generator=torch.Generator().manual_seed(0))
    frames = torch.stack([frame, frame.roll(2, dims=2)])
    flow = torch.zeros(1, 2, 16, 24)
    flow[:, 0] = 2
    before, after = warp_differences(frames, flow)
    assert before > 50
    assert after < 0.01
    assert warp_differences(frames, torch.zeros_like(flow))[1] == pytest.approx(warp_differences(frames, 0 * flow)[0])


def test_untrained_features_are_the_same_every_time() -> None:
    torch.manual_seed(1)
    network = mz.create_model("midway_nano")
    frames, state = torch.rand(2, 3, 64, 64), torch.random.get_rng_state()
    one, other = last_features(untrained(network), frames), last_features(untrained(network), frames)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert one.shape == (2, 96, 8, 8)
    assert torch.equal(one, other)
    assert not torch.allclose(one, last_features(network, frames), atol=0.1)


def test_two_images_without_a_head(models, images, tmp_path, capsys) -> None:
    out = tmp_path / "out"
    assert main(["demo", "--images", *images, "--model", models["plain"], "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert "footage: 0.png and 1.png, 2 frames of 96 x 48 pixels\n" in text
    assert "flow: perturbation (the model has no flow head); length " in text
    assert "tracks:" not in text
    assert (out / "demo.png").is_file()


def test_frames_of_a_video(tmp_path) -> None:
    pytest.importorskip("av")
    path = tmp_path / "clip.mp4"
    write_video(path, torch.randint(0, 255, (6, 3, 96, 320), dtype=torch.uint8), fps=10)
    footage = read_clip(path, 3, 5.0)
    assert footage.labels == ["0.00 s", "0.20 s", "0.40 s"]
    assert footage.frames.shape == (3, 3, 96, 320)
    with pytest.raises(mz.MidwayZooError, match=r"gave 1 frame at 1 frames per second; pass a higher --fps"):
        read_clip(path, 3, 1.0)


def test_large_frames_are_reduced(tmp_path) -> None:
    for index in range(3):
        Image.new("RGB", (640, 320), (index, 0, 0)).save(tmp_path / f"{index}.png")
    footage = read_clip(tmp_path, 2, None)
    assert footage.frames.shape == (2, 3, SIDE, 2 * SIDE)
    assert footage.given == (320, 640)
    assert footage.labels == ["frame 0", "frame 1"]


def test_failures(models, images, tmp_path, capsys, monkeypatch) -> None:
    out = ["--out", str(tmp_path / "out"), "--model", models["plain"]]
    assert "there is no video" in failure(capsys, "demo", "--video", str(tmp_path / "none.mp4"), *out)
    assert "there is no image" in failure(capsys, "demo", "--images", images[0], str(tmp_path / "none.png"), *out)
    Image.new("RGB", (32, 48)).save(tmp_path / "small.png")
    assert "Crop or resize" in failure(capsys, "demo", "--images", images[0], str(tmp_path / "small.png"), *out)
    assert "all must have one size" in failure(capsys, "demo", "--video", str(tmp_path), *out)
    Image.new("RGB", (500, 48)).save(tmp_path / "small.png")
    long = [str(tmp_path / "small.png")] * 2
    assert "Crop it" in failure(capsys, "demo", "--images", *long, *out)
    assert "2 to 16" in failure(capsys, "demo", "--frames", "17", *out)
    assert "--frames is for clips" in failure(capsys, "demo", "--frames", "4", "--images", *images, *out)
    assert "--fps is for a video" in failure(capsys, "demo", "--fps", "4", *out)
    assert "unknown model" in failure(capsys, "demo", "--images", *images, *out[:2], "--model", "midway_nanoo")
    (tmp_path / "clip.mp4").write_bytes(b"no video at all")
    monkeypatch.setitem(sys.modules, "av", None)
    assert "pip install" in failure(capsys, "demo", "--video", str(tmp_path / "clip.mp4"), *out)
    assert not (tmp_path / "out").exists()


def test_unreadable_video(models, tmp_path, capsys) -> None:
    pytest.importorskip("av")
    (tmp_path / "clip.mp4").write_bytes(b"no video at all")
    assert "fps=0" in failure(capsys, "demo", "--fps", "0", "--video", str(tmp_path / "clip.mp4"))
    assert "cannot be decoded" in failure(capsys, "demo", "--video", str(tmp_path / "clip.mp4"))


def test_nothing_is_overwritten(tmp_path, capsys) -> None:
    (tmp_path / "demo.png").write_text("mine")
    assert "--force" in failure(capsys, "demo", "--out", str(tmp_path))
    assert (tmp_path / "demo.png").read_text() == "mine"
    assert "is a file" in failure(capsys, "demo", "--out", str(tmp_path / "demo.png"))


def test_generated_clip_knows_where_its_points_go() -> None:
    footage = generated_clip(5)
    assert footage.points is not None
    tracks = true_tracks(footage, footage.points)
    assert tracks is not None
    assert tracks.shape == (5, 4, 2)
    moved = (tracks[-1] - tracks[0]).norm(dim=-1)
    assert moved.isfinite().sum() >= 3
    assert moved.nan_to_num().max() > 8
    # The colour of an object at its true places stays about the same.
    column, row = tracks.nan_to_num(0).round().long().unbind(-1)
    colours = torch.stack([frame[:, y, x] for frame, y, x in zip(footage.frames, row, column, strict=True)])
    change = (colours - colours[0]).abs().mean(dim=1)[tracks.isfinite().all(dim=-1)]
    assert change.median() < 0.1


def test_places_outside_are_not_known() -> None:
    """Also where the pixel under a point is still seen in the next frame, and from then on."""
    flow = torch.tensor([2.0, -3.0]).view(1, 2, 1, 1).expand(3, 2, 32, 48).clone()
    flow[1:] *= -1
    hidden = torch.zeros(3, 32, 48, dtype=torch.bool)
    footage = Footage("x", torch.rand(4, 3, 32, 48), (32, 48), ["0", "1", "2", "3"], flow, hidden)
    tracks = true_tracks(footage, torch.tensor([[45.4, 20.0], [44.0, 3.0], [20.0, 2.4]]))
    assert tracks is not None
    assert tracks.isnan().all(-1).tolist() == [
        [False] * 3,
        [True, False, True],
        [True, False, True],
        [True, False, True],
    ]
    torch.testing.assert_close(tracks[:, 1], torch.tensor([[44.0, 3.0], [46, 0], [44, 3], [42, 6]]))


def test_points_have_texture_and_move() -> None:
    torch.manual_seed(0)
    frame = torch.full((3, 64, 64), 0.5)
    frame[:, 24:40, 32:48] = torch.rand(3, 16, 16)
    flow = torch.zeros(2, 64, 64)
    flow[0, :, 32:] = 3
    first = notable_points(frame, flow)[0]
    assert 24 <= first[1] < 40
    assert 32 <= first[0] < 48
    assert len(notable_points(torch.zeros(3, 8, 8), torch.zeros(2, 8, 8))) >= 1  # nothing to be seen is not a failure


def test_pair_of_one_size(images) -> None:
    footage = read_pair(Path(images[0]), Path(images[1]))
    assert isinstance(footage, Footage)
    assert footage.labels == ["A: 0.png", "B: 1.png"]


def test_blocks_fill_rows_and_long_words_are_cut() -> None:
    blocks = [
        Block("t" * 100, "a legend of a few words " * 20, Image.new("RGB", (width, 50))) for width in (500, 600, 300)
    ]
    page = sheet.compose("heading", ["line"], blocks)
    assert page.shape[2] == 500 + 600 + 40 + 2 * sheet.MARGIN
    assert (page[:, :, -sheet.MARGIN :] == 255).all()
    assert "\n" not in sheet.printable("naïve 画像")


def test_scenes_need_no_extra_and_the_library_no_demo() -> None:
    code = """
import sys
import midway_zoo
assert not [name for name in sys.modules if name.startswith("midway_zoo.demo")]
sys.modules.update(dict.fromkeys(("omegaconf", "accelerate", "av", "h5py")))
import midway_zoo.demo.panels
from midway_zoo.demo.footage import generated_clip
assert len(generated_clip(2)) == 2
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_crossed_pairs_hold_every_picture_in_every_direction() -> None:
    sources, targets, motions = crossed_pairs()
    assert len(sources) == len(targets) == len(motions) == 16
    for source, target, (x, y) in zip(sources, targets, motions.long().tolist(), strict=True):
        inner = slice(5, -5)
        moved = target[:, 5 + y : target.shape[1] - 5 + y, 5 + x : target.shape[2] - 5 + x]
        assert torch.equal(moved, source[:, inner, inner])  # what was at (x, y) is at (x, y) + motion


def test_motion_is_told_from_content() -> None:
    network = mz.create_model("midway_nano.scenes", pretrained=True)
    found = crossed_motion(network, untrained(network))
    assert found.agreement > 0.25
    assert max(found.random, found.pixels) < 0.1


def test_titles_have_room_over_narrow_pictures() -> None:
    block = Block("Predicted flow", "legend", Image.new("RGB", (40, 60)), Image.new("RGB", (130, 44)))
    assert block.width > 40 + 130
    assert sheet.compose("heading", [], [block]).shape[2] >= block.width
