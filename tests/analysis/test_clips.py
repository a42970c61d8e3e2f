"""Clips: rules of tracking with an oracle, components, retrieval by motion."""

import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

import midway_zoo as mz
import midway_zoo.analysis as analysis
from midway_zoo.analysis import retrieved, rules, tracking
from midway_zoo.analysis.moved import MovedPairs, crossed_pairs
from midway_zoo.errors import ConfigError, InputError, MissingFileError
from midway_zoo.files import write_png
from midway_zoo.inference.encoded import EncodedFrames
from midway_zoo.results import FlowPrediction, MotionLatent
from tests.oracles import PerfectNetwork, shifted


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

SHIFTS = [(4, 0), (3, 3), (0, 4), (-3, 3), (-4, 0), (-3, -3), (0, -4), (3, -3), (8, 2), (-2, 8)]
LOOKS = 5


def write_clip(folder: Path, look: int, shift: tuple[int, int], seed: int) -> None:
    """Three frames of 32 x 32: noise of one colour that goes round, by (dx, dy) pixels a frame."""
    generator = torch.Generator().manual_seed(seed)
    colour = torch.tensor([[0, 0, 0], [90, 0, 0], [0, 90, 0], [0, 0, 90], [90, 90, 0]])[look]
    picture = torch.randint(0, 160, (1, 32, 32), generator=generator) + colour[:, None, None]
    folder.mkdir(parents=True)
    for number in range(3):
        moved = picture.roll((number * shift[0], number * shift[1]), (2, 1))
        write_png(folder / f"{number}.png", moved.to(torch.uint8))


@pytest.fixture(scope="module")
def fifty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("fifty")
    for look in range(LOOKS):
        for number, shift in enumerate(SHIFTS):
            write_clip(root / f"motion{number}_look{look}", look, shift, seed=100 * look + number)
    return root


def test_the_clip_of_the_same_motion_is_found_among_fifty(fifty: Path, tmp_path: Path) -> None:
    """With a network that knows: by motion the five of that motion come first, by appearance the ten of that look."""
    network = PerfectNetwork()
    index = analysis.index_clips(network, fifty, size=32)
    assert (len(index.clips), len(index)) == (50, 100)
    index.save(tmp_path / "index.safetensors")
    again = analysis.MotionIndex.load(tmp_path / "index.safetensors")
    right = {"motion": 0, "appearance": 0}
    for number, shift in enumerate(SHIFTS):
        look = number % LOOKS
        write_clip(tmp_path / str(number), look, shift, seed=9000 + number)
        pair = (tmp_path / str(number) / "1.png", tmp_path / str(number) / "2.png")
        found = {by: analysis.find_motion(network, again, *pair, by=by, top=10) for by in right}
        assert {match.clip.split("_")[0] for match in found["motion"][:5]} == {f"motion{number}"}
        assert {match.clip.split("_")[1] for match in found["appearance"]} == {f"look{look}"}
        assert found["motion"][0].score == pytest.approx(1, abs=1e-4)
        for by, matches in found.items():
            right[by] += matches[0].clip.startswith(f"motion{number}_")
    assert right["motion"] == 10
    assert right["appearance"] < 5
    source, target = again.pair_of(found["motion"][0])
    torch.testing.assert_close(source.roll(SHIFTS[-1], (2, 1)), target)


def test_the_level_of_an_index_is_kept(fifty: Path, nano: mz.MidwayNetwork, tmp_path: Path) -> None:
    """The oracle's other levels know no motion; a real network's index holds what its latents of that level are."""
    network = PerfectNetwork()
    index = analysis.index_clips(network, fifty, size=32, level=1)
    pair = (fifty / "motion3_look2" / "0.png", fifty / "motion3_look2" / "1.png")
    found = analysis.find_motion(network, index, *pair, top=10)
    assert {match.clip.split("_")[1] for match in found} == {"look2"}
    clips = tmp_path / "clips"
    shutil.copytree(fifty / "motion3_look2", clips / "one")
    latents = mz.infer_motion_latents(nano, clips / "one")
    for level in (None, 1, 0):
        kept = analysis.index_clips(nano, clips, level=level)
        assert kept.options["level"] == (2 if level is None else level)
        torch.testing.assert_close(kept.motion, latents.levels[kept.options["level"]].flatten(1), atol=1e-5, rtol=1e-4)
    with pytest.raises(InputError, match="level"):
        analysis.index_clips(nano, clips, level=3)


def test_retrieval_against_the_truth(monkeypatch: pytest.MonkeyPatch, nano: mz.MidwayNetwork) -> None:
    """A latent that is the motion is always right and one that is the picture never; a real network is in between."""
    drawn: list[MovedPairs] = []

    def pairs(*args, **options) -> MovedPairs:
        drawn.append(crossed_pairs(*args, **options))
        return drawn[-1]

    def latents(network, source, target, **_) -> MotionLatent:
        moved = drawn[-1].motions
        motion = torch.cat([moved.shift, 20 * moved.zoom[:, None], 20 * moved.angle[:, None]], dim=1)[:, None]
        return MotionLatent(motion, {2: motion, 0: source[:, :1, 0, :4] * 1e3}, motion[:, 0], (8, 8))

    monkeypatch.setattr(retrieved, "crossed_pairs", pairs)
    with monkeypatch.context() as patched:
        patched.setattr(retrieved, "infer_motion_latent", latents)
        found = analysis.retrieval_truth(nano, motions=4, pictures=2, asked=2, rounds=2, textures="procedural")
    assert (found.clips, found.asked, found.chance) == (8, 16, 25)
    for scores in found.right.values():
        assert scores["level 2"] == 100
        assert scores["level 0"] == scores["appearance"] == 25  # sources alone: the same clip whatever the motion
    shown = {number for one in drawn[0::2] for number in one.pictures.tolist()}
    assert not shown & {number for one in drawn[1::2] for number in one.pictures.tolist()}
    real = analysis.retrieval_truth(nano, motions=3, pictures=1, asked=1, rounds=1, textures="procedural")
    for scores in real.right.values():
        assert set(scores) == {"level 2", "level 1", "level 0", *retrieved.BASELINES}
        assert all(0 <= value <= 100 for value in scores.values())
    with pytest.raises(InputError, match="rounds=0"):
        analysis.retrieval_truth(nano, rounds=0)


def test_an_index_belongs_to_its_weights_and_is_brought_up_to_date(tmp_path: Path, nano, caplog) -> None:
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
        analysis.find_motion(analysis.untrained(nano), index, *images)
    write_png(images[0], torch.zeros(3, 32, 32, dtype=torch.uint8), overwrite=True)
    index.motion[:] = 7
    newer = analysis.index_clips(nano, tmp_path / "clips", known=index)
    assert (newer.motion[:2] == 7).all()  # the first clip did not change: it was not read
    assert (newer.motion[2:] != 7).any()
    assert (analysis.index_clips(nano, tmp_path / "clips", gap=2, known=index).motion != 7).any()
    newer.clip[0] = 5
    newer.save(tmp_path / "torn")
    with pytest.raises(InputError, match="do not fit together"):
        analysis.MotionIndex.load(tmp_path / "torn")
    (tmp_path / "no").write_bytes(b"no index")
    for path, error in ((tmp_path / "no", InputError), (tmp_path / "none", MissingFileError)):
        with pytest.raises(error):
            analysis.MotionIndex.load(path)
    with pytest.raises(InputError, match="by='sound'"):
        analysis.find_motion(nano, index, *images, by="sound")
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingFileError, match="neither videos"):
        analysis.find_clips(tmp_path / "empty")


def test_similarity_along_a_clip(nano: mz.MidwayNetwork) -> None:
    found = analysis.clip_similarity(nano, torch.rand(6, 3, 64, 64), gap=2)
    assert (found.similarity.shape, found.gap) == ((4, 4), 2)
    torch.testing.assert_close(found.similarity, analysis.latent_similarity(found.latents))
