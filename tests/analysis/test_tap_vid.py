"""Points of a moving picture: files, queries, trackers and the command."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from midway_zoo.analysis import tap_vid
from midway_zoo.analysis.tap_vid import evaluate_tracking, list_clips, read_points
from midway_zoo.analysis.trackers import follow
from midway_zoo.cli import main
from midway_zoo.errors import ConfigError, InputError, MissingFileError
from midway_zoo.readouts.backbone import load_backbone


def write_clip(root: Path, name: str, frames: int = 6, *, table: bool = False) -> None:
    """Noise that moves two pixels to the right per frame, and two points on it; the second is hidden in frame 1."""
    wide = np.asarray(Image.effect_noise((96 + 2 * frames, 64), 90).convert("RGB").resize((96 + 2 * frames, 64)))
    (root / name).mkdir(parents=True)
    for index in range(frames):
        first = 2 * (frames - index)
        picture = wide[:, first : first + 96].copy()
        picture[0, 0] = 10 * index  # tells the frame
        Image.fromarray(picture).save(root / name / f"{index:05d}.png")
    xy = np.stack([np.array([[30 + 2 * index, 20], [50 + 2 * index, 40]]) for index in range(frames)], 1)
    hidden = np.zeros((2, frames), bool)
    hidden[1, 1] = True
    if table:
        lines = [
            f"{point},{frame},{xy[point, frame, 0]},{xy[point, frame, 1]},{int(hidden[point, frame])}"
            for point in range(2)
            for frame in range(frames)
        ]
        (root / f"{name}.csv").write_text("\n".join(["point,frame,x,y,occluded", *lines]) + "\n")
    else:
        np.savez(root / f"{name}.npz", points=((xy + 0.5) / [96, 64]).astype(np.float32), occluded=hidden)


def test_both_files_say_the_same(tmp_path: Path) -> None:
    write_clip(tmp_path, "a")
    write_clip(tmp_path, "b", table=True)
    (one, other) = (read_points(clip.truth, 6, (64, 96)) for clip in list_clips(tmp_path))
    torch.testing.assert_close(one[0], other[0], atol=1e-4, rtol=0)
    assert torch.equal(one[1], other[1])


@pytest.mark.parametrize("mode", ["first", "strided"])
def test_true_answers_score_one(tmp_path: Path, nano, monkeypatch, mode: str) -> None:
    write_clip(tmp_path, "a", 12)
    asked = []

    def answers(backbone, frames, xy, **_):
        numbers = torch.tensor([round(float(frame[0, 0, 0]) * 25.5) for frame in frames])
        asked.append((int(numbers[0]), int(numbers[-1]), len(xy)))
        moved = (numbers - numbers[0])[:, None, None] * torch.tensor([2.0, 0.0])
        return xy + moved, torch.zeros(len(frames), len(xy), dtype=torch.bool)

    monkeypatch.setattr(tap_vid, "follow", answers)
    scores = evaluate_tracking(nano, tmp_path, mode=mode).mean()
    both_ways = [(0, 11, 2), (5, 11, 2), (5, 0, 2), (10, 11, 2), (10, 0, 2)]
    assert asked == (both_ways if mode == "strided" else [(0, 11, 2)])
    assert scores["position_accuracy"] == 1
    counted, wrong = (66, 3) if mode == "strided" else (22, 1)  # frame 1 of the second point is hidden
    assert scores["occlusion_accuracy"] == pytest.approx(1 - wrong / counted)
    assert scores["average_jaccard"] == pytest.approx(1 - wrong / counted)


def test_similarity_follows_a_moving_picture(tmp_path: Path, nano) -> None:
    write_clip(tmp_path, "a")
    frames = [
        torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1) / 255
        for path in sorted((tmp_path / "a").iterdir())
    ]
    places, hidden = follow(load_backbone(nano), [frames[0]] * 3, torch.tensor([[30.0, 20.0]]), side=64)
    assert (places - places[0]).abs().max() < 8  # a picture that stands still: within a token
    assert not hidden.any()
    with pytest.raises(InputError, match="differ in size"):
        follow(load_backbone(nano), [frames[0], frames[0][:, 1:]], torch.tensor([[3.0, 2.0]]))


@pytest.mark.parametrize("tracker", ["similarity", "perturbation", "flow"])
def test_the_command_measures_every_tracker(tmp_path: Path, capsys, tracker: str) -> None:
    write_clip(tmp_path / "clips", "a", 3, table=True)
    out = tmp_path / "tracking.json"
    arguments = ["eval", "tracking", "midway_nano", "--random", "--root", str(tmp_path / "clips"), "--side", "64"]
    assert main([*arguments, "--tracker", tracker, "-o", str(out)]) == 0
    assert "| mean over clips |" in capsys.readouterr().out
    found = json.loads(out.read_text())
    assert 0 <= found["mean"]["occlusion_accuracy"] <= 1
    assert set(found["clips"]) == {"a"}


def test_what_cannot_be_is_refused(tmp_path: Path, nano) -> None:
    with pytest.raises(MissingFileError, match="holds no points"):
        list_clips(tmp_path)
    write_clip(tmp_path, "a")
    with pytest.raises(InputError, match=r"\(n, 5, 2\)"):
        read_points(tmp_path / "a.npz", 5, (64, 96))
    np.savez(tmp_path / "a.npz", points=np.full((1, 6, 2), 30.0), occluded=np.zeros((1, 6), bool))
    with pytest.raises(InputError, match="fractions of width and height"):
        read_points(tmp_path / "a.npz", 6, (64, 96))
    (tmp_path / "a.csv").write_text("point,frame,x\n1,2,3\n")
    with pytest.raises(InputError, match="columns point, frame, x, y, occluded"):
        read_points(tmp_path / "a.csv", 6, (64, 96))
    with pytest.raises(InputError, match="tracker='magic'"):
        follow(load_backbone(nano), [torch.rand(3, 64, 64)], torch.zeros(1, 2), tracker="magic")
    backbone = load_backbone("timm:vit_tiny_patch16_224", pretrained=False)
    with pytest.raises(ConfigError, match="needs a Midway network"):
        follow(backbone, [torch.rand(3, 64, 64)] * 2, torch.zeros(1, 2), tracker="flow")
    (tmp_path / "b.npz").write_bytes(b"")
    with pytest.raises(MissingFileError, match="no frames beside"):
        list_clips(tmp_path)
