"""Clips: rules of tracking with an oracle, components, retrieval by motion."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

import midway_zoo as mz
import midway_zoo.analysis as analysis
from midway_zoo.analysis import rules, tracking
from midway_zoo.analysis.moved import Motions, ScenePictures, moved_pairs
from midway_zoo.errors import ConfigError, InputError, MissingFileError
from midway_zoo.files import write_png
from midway_zoo.inference.encoded import EncodedFrames
from midway_zoo.results import FlowPrediction
from tests.oracles import shifted


def test_every_rule_moves_by_the_true_number_of_tokens(nano: mz.MidwayNetwork, monkeypatch) -> None:
    """Noise that goes two tokens to the right and one down a frame; what a perfect network answers to each rule."""
    wide = torch.rand(3, 96, 112)
    frames = [wide[:, 16 - 8 * t : 80 - 8 * t, 32 - 16 * t : 96 - 16 * t] for t in range(3)]

    def features(self: EncodedFrames, *, target: bool = False) -> list[Tensor]:
        patches = torch.nn.functional.unfold(self.images, 8, stride=8).transpose(1, 2)
        return [torch.cat([patches[:, :1], patches - patches.mean(2, keepdim=True)], dim=1)] * 4

    def sensitive(network, source, target, grid, *, tokens, **_) -> Tensor:
        return shifted(grid, 2, 1)[tokens][None]

    def flows(network, clip, **_):
        for _ in range(2):
            flow = torch.tensor([16.0, 8.0]).view(1, 2, 1, 1).expand(1, 2, 64, 64)
            yield FlowPrediction(flow, torch.ones(1, 1, 64, 64), "head", (8, 8))

    monkeypatch.setattr(EncodedFrames, "tokens", features)
    monkeypatch.setattr(tracking, "sensitivity_of", sensitive)
    monkeypatch.setattr(rules, "predict_flows", flows)
    network = mz.create_model("midway_nano", flow_head=True)
    points = torch.tensor([[3.0, 4.0], [20.0, 17.0]])
    for rule in analysis.RULES:
        found = analysis.track_by(network, frames, points, rule)
        steps = torch.arange(3)[:, None, None] * torch.tensor([16.0, 8.0])
        torch.testing.assert_close(found.xy, points + steps, atol=1e-3, rtol=0)
        assert found.confidence.shape == (3, 2)
    with pytest.raises(ConfigError, match="needs a flow head"):
        analysis.track_by(nano, frames, points, "flow")
    with pytest.raises(InputError, match="rule='magic'"):
        analysis.track_by(nano, frames, points, "magic")


def test_the_papers_rule_takes_the_likest_of_five(nano: mz.MidwayNetwork) -> None:
    clip = torch.rand(3, 3, 64, 64)
    found = analysis.track_by(nano, clip, (20, 20), "paper", draws=1)
    same = analysis.track(nano, clip, (20, 20), candidates=5, window=0, draws=1)
    torch.testing.assert_close(found.xy, same.xy)


def test_components_split_the_foreground_and_colour_it() -> None:
    """A square that goes through noise: it alone is foreground, and its parts have one colour in all frames."""
    maps = 0.01 * torch.randn(3, 8, 6, 8)
    for frame in range(3):
        maps[frame, 0, 2:4, 1 + frame : 5 + frame] += 5
        maps[frame, 1, 2:4, 1 + frame : 3 + frame] += 1
    found = analysis.components_of(maps)
    for frame in range(3):
        inside = torch.zeros(6, 8, dtype=torch.bool)
        inside[2:4, 1 + frame : 5 + frame] = True
        assert found.foreground[frame].equal(inside)
        assert found.colours[frame][:, ~inside].isnan().all()
        left, right = found.colours[frame, 0, 2, 1 + frame], found.colours[frame, 0, 2, 4 + frame]
        assert abs(float(left - right)) > 0.9
    assert found.colours[found.colours.isfinite()].aminmax() == (0, 1)
    assert found.explained[0] > 0.9
    assert analysis.components_of(maps, foreground=False).foreground.all()
    still = analysis.components_of(torch.ones(1, 4, 2, 2))
    assert still.foreground.all()
    assert still.colours.isfinite().all()
    with pytest.raises(InputError, match="D >= 3"):
        analysis.components_of(maps[:, :2])


def test_components_of_a_clip(nano: mz.MidwayNetwork) -> None:
    found = analysis.principal_components(nano, torch.rand(5, 3, 64, 64), frames=4, batch_size=3)
    assert found.colours.shape == (4, 3, 8, 8)
    back = analysis.principal_components(nano, torch.rand(2, 3, 64, 64), backward=0)
    assert back.grid == (8, 8)
    for options in ({"block": 3, "backward": 1}, {"backward": 5}, {"frames": 0}):
        with pytest.raises(InputError):
            analysis.principal_components(nano, torch.rand(2, 3, 64, 64), **options)


# Retrieval.

MOTIONS, PICTURES = 10, 5


def write_clips(root: Path, pictures: ScenePictures, numbers: range) -> None:
    """Folders of two frames: every picture moved by seven pixels in each of ten directions.

    Shifts alone: zoom and rotation cannot be read off the bundled network's latents (see MODEL_CARD)."""
    angle = torch.arange(MOTIONS) * 2 * torch.pi / MOTIONS
    motions = Motions(
        7 * torch.stack([angle.cos(), angle.sin()], dim=1),
        torch.ones(MOTIONS),
        torch.zeros(MOTIONS),
        torch.zeros(MOTIONS, dtype=torch.int64),
    )
    for number in numbers:
        pairs = moved_pairs(pictures, [number] * MOTIONS, motions, 64)
        for motion in range(MOTIONS):
            folder = root / f"motion{motion}_picture{number}"
            folder.mkdir(parents=True)
            for index, image in enumerate((pairs.source[motion], pairs.target[motion])):
                write_png(folder / f"{index}.png", (image * 255).round().to(torch.uint8))


@pytest.fixture(scope="module")
def bundled() -> mz.MidwayNetwork:
    return mz.create_model("midway_nano.scenes", pretrained=True)


def test_motion_finds_the_clip_of_the_same_motion_among_fifty(tmp_path: Path, bundled: mz.MidwayNetwork) -> None:
    """Queries show pictures that no clip shows. Ten motions, five clips each: chance is one in ten."""
    pictures = ScenePictures(64, seed=8)
    write_clips(tmp_path / "clips", pictures, range(PICTURES))
    write_clips(tmp_path / "asked", pictures, range(100, 102))
    index = analysis.index_clips(bundled, tmp_path / "clips")
    assert (len(index.clips), len(index)) == (50, 50)
    index.save(tmp_path / "index.safetensors")
    again = analysis.MotionIndex.load(tmp_path / "index.safetensors")
    right = {"motion": 0, "appearance": 0}
    asked = sorted((tmp_path / "asked").iterdir())
    for folder in asked:
        for by in right:
            (first,) = analysis.find_motion(bundled, again, folder / "0.png", folder / "1.png", by=by, top=1)
            right[by] += first.clip.split("_")[0] == folder.name.split("_")[0]
    assert right["motion"] >= 0.4 * len(asked), right
    assert right["motion"] >= 2 * right["appearance"], right


def test_an_index_belongs_to_its_weights_and_is_brought_up_to_date(tmp_path: Path, nano, bundled, caplog) -> None:
    for name in ("a", "b"):
        (tmp_path / "clips" / name).mkdir(parents=True)
        for number in range(3):
            write_png(tmp_path / "clips" / name / f"{number}.png", torch.randint(0, 256, (3, 32, 32)).to(torch.uint8))
    (tmp_path / "clips" / "broken.mp4").write_bytes(b"no video")
    index = analysis.index_clips(nano, tmp_path / "clips")
    assert "broken.mp4 is left out" in caplog.text
    assert (index.clips, index.clip.tolist(), index.frame.tolist()) == (["a", "b"], [0, 0, 1, 1], [0, 1, 0, 1])
    images = [tmp_path / "clips" / "b" / f"{number}.png" for number in range(2)]
    best = analysis.find_motion(nano, index, *images)
    assert (best[0].clip, best[0].frame, best[0].seconds) == ("b", 0, None)
    assert best[0].score == pytest.approx(1, abs=1e-5)
    assert len(best) == 2
    with pytest.raises(InputError, match="other weights"):
        analysis.find_motion(bundled, index, *images)
    write_png(images[0], torch.zeros(3, 32, 32, dtype=torch.uint8), overwrite=True)
    index.motion[:] = 7
    newer = analysis.index_clips(nano, tmp_path / "clips", known=index)
    assert (newer.motion[:2] == 7).all()  # the first clip did not change: it was not read
    assert (newer.motion[2:] != 7).any()
    assert (analysis.index_clips(nano, tmp_path / "clips", gap=2, known=index).motion != 7).any()
    (tmp_path / "no").write_bytes(b"no index")
    for path, error in ((tmp_path / "no", InputError), (tmp_path / "none", MissingFileError)):
        with pytest.raises(error):
            analysis.MotionIndex.load(path)
    with pytest.raises(InputError, match="by='sound'"):
        analysis.find_motion(nano, index, *images, by="sound")
    with pytest.raises(MissingFileError, match="neither videos"):
        analysis.find_clips(
            tmp_path / "clips" / "a" / ".." / ".." / "empty" if (tmp_path / "empty").mkdir() else tmp_path / "empty"
        )


def test_similarity_along_a_clip(nano: mz.MidwayNetwork) -> None:
    found = analysis.clip_similarity(nano, torch.rand(6, 3, 64, 64), gap=2)
    assert (found.similarity.shape, found.gap) == ((4, 4), 2)
    torch.testing.assert_close(found.similarity, analysis.latent_similarity(found.latents))
