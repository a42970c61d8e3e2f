"""What the latent carries, and tracking against the truth: the truth itself, measures by hand, and one small report."""

import math

import pytest
import torch

import midway_zoo as mz
import midway_zoo.analysis as analysis
from midway_zoo.analysis.carries import PROBES, REPLAYS, neighbours
from midway_zoo.analysis.moved import FramePictures, Motions, ScenePictures, draw_motions, moved_pairs
from midway_zoo.analysis.probes import explained, linear_probe, ridge, split_by
from midway_zoo.analysis.truth import _Truth
from midway_zoo.config import architecture_config, override
from midway_zoo.errors import ConfigError, InputError
from midway_zoo.inference.refinement import warp
from midway_zoo.scenes import SceneBatch


@pytest.fixture(scope="module")
def small() -> mz.MidwayNetwork:
    """A midway_nano of 16 tokens, with weights large enough that every path matters."""
    torch.manual_seed(1)
    network = mz.MidwayNetwork(override(architecture_config("midway_nano"), {"grid": (4, 4)})).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1:
                parameter.copy_(torch.randn_like(parameter) / parameter[0].numel() ** 0.5)
    return network


class Smooth:
    """Pictures without edges, so that interpolation is all that a warp may be off by."""

    def sample(self, numbers, x, y):
        phase = torch.tensor([float(number % 7) for number in numbers]).view(-1, 1, 1)
        waves = [torch.sin(x / 9 + phase), torch.cos(y / 8 - phase), torch.sin((x + y) / 11 + 2 * phase)]
        return torch.stack(waves, dim=1) / 2 + 0.5

    def group(self, number):
        return number


def test_the_flow_of_moved_pairs_leads_from_source_to_target() -> None:
    """Discs hide some of the ground, and what leaves is not seen: most pixels are as the flow says, nearly exactly."""
    motions = draw_motions(6, 48, seed=1)
    pairs = moved_pairs(Smooth(), range(6), motions, 48)
    apart = (warp(pairs.target, pairs.flow) - pairs.source).abs().mean(1)
    y, x = torch.meshgrid(torch.arange(48), torch.arange(48), indexing="ij")
    there = torch.stack([x, y]) + pairs.flow
    inside = ((there >= 0) & (there <= 47)).all(1)
    still = (torch.zeros_like(apart) + (pairs.target - pairs.source).abs().mean(1))[inside].mean()
    assert (apart[inside] < 0.02).float().mean() > 0.8
    assert apart[inside].mean() < 0.3 * still
    assert len({int(number) for number in draw_motions(100, 48).movers}) == 4


def test_a_motion_is_undone_by_its_way_back() -> None:
    motions = draw_motions(5, 64)
    x, y = torch.rand(2, 5, 4, 4) * 60 - 30
    back = motions.back(*motions.forward(x, y))
    torch.testing.assert_close(back[0], x, atol=1e-4, rtol=0)
    torch.testing.assert_close(back[1], y, atol=1e-4, rtol=0)
    grown = Motions(torch.zeros(1, 2), torch.tensor([2.0]), torch.tensor([math.pi / 2]), torch.tensor([0]))
    there = grown.forward(torch.tensor([1.0]), torch.tensor([0.0]))
    torch.testing.assert_close(torch.stack(there), torch.tensor([[0.0], [2.0]]), atol=1e-6, rtol=0)  # turned to below


def test_only_movers_leave_their_ground() -> None:
    motions = draw_motions(2, 48, seed=3)
    held = Motions(motions.shift * 0, motions.zoom * 0 + 1, motions.angle * 0, torch.tensor([0, 3]))
    pairs = moved_pairs(Smooth(), [5, 5], held, 48)
    assert (pairs.flow[0] == 0).all()
    assert pairs.source[0].equal(pairs.target[0])
    moved = pairs.flow[1].norm(dim=0)
    assert 0.02 < float((moved > 0).float().mean()) < 0.3
    assert len(moved.unique()) == 4  # rest and three discs


def test_frames_are_pictures_of_clips() -> None:
    clips = [torch.rand(3, 3, 60, 80) for _ in range(2)]
    pictures = FramePictures(clips, 32, frames=3)
    assert len(pictures) == 6
    assert len({pictures.group(number) for number in range(20)}) == 6
    many = FramePictures([torch.rand(2, 3, 60, 80) for _ in range(20)], 32)
    assert {many.group(number) for number in range(40)} == set(range(20))
    pairs = moved_pairs(pictures, range(6), draw_motions(6, 32), 32)
    assert pairs.source.shape == (6, 3, 32, 32)
    assert pairs.source.isfinite().all()
    with pytest.raises(InputError, match=r"4 frame\(s\)"):
        FramePictures(clips, 32, frames=2)


def test_a_probe_reads_what_is_linear_and_nothing_else() -> None:
    features = torch.randn(400, 12)
    split = split_by(torch.arange(400))
    assert int(split.fit.sum() + split.choose.sum() + split.test.sum()) == 400
    values = features @ torch.randn(12, 2) + 3
    assert explained(linear_probe(features, values, split), values[split.test]) > 0.999
    noise = torch.randn(400, 2)
    assert abs(explained(linear_probe(features, noise, split), noise[split.test])) < 0.3
    groups = split_by(torch.arange(400) % 10)
    assert not set((torch.arange(400) % 10)[groups.fit].tolist()) & set((torch.arange(400) % 10)[groups.test].tolist())
    with pytest.raises(InputError, match="4 groups"):
        split_by(torch.arange(4))


def test_a_ridge_is_the_minimum_whether_rows_or_columns_are_more() -> None:
    for rows, width in ((5, 9), (9, 5)):
        features, values = torch.randn(rows, width).double(), torch.randn(rows, 2).double()
        found = ridge(features, values, 3.0)
        slope = features.T @ (features @ found - values) + 3.0 * found
        torch.testing.assert_close(slope, torch.zeros_like(slope), atol=1e-9, rtol=0)


def test_neighbours_tell_motion_from_pictures() -> None:
    motion, picture = torch.eye(4).repeat(6, 1), torch.eye(6).repeat_interleave(4, 0)
    noise = 0.01 * torch.randn(24, 10)
    for weight, answer in ((3.0, (0, 100)), (0.1, (100, 0))):
        found = neighbours(torch.cat([weight * motion, picture], dim=1) + noise, 4)
        assert (found["same_picture"], found["same_motion"]) == answer
    assert found["chance_picture"] == pytest.approx(100 * 3 / 23)
    assert found["chance_motion"] == pytest.approx(100 * 5 / 23)


def test_the_report_has_every_figure_beside_random_weights(small: mz.MidwayNetwork) -> None:
    clip = torch.rand(6, 3, 60, 80)
    found = analysis.latent_report(small, [clip], pairs=40, pictures=3, motions=2, textures="procedural")
    assert set(found.figures) == {"scenes", "clips"}
    for answers in found.figures.values():
        assert set(answers) == {"weights", "random", "pixels"}
        for who, figures in answers.items():
            assert set(figures["probes"]) == set(PROBES)
            assert all(math.isfinite(value) for value in figures["leakage"].values())
            if who != "pixels":
                assert set(figures["replay"][2]) == {*REPLAYS, "transfer"}
                assert all(0 <= figures["replay"][0][name] <= 4 for name in REPLAYS)
        assert answers["weights"]["replay"] != answers["random"]["replay"]
    with pytest.raises(InputError, match="pairs=4"):
        analysis.latent_report(small, pairs=4)
    with pytest.raises(ConfigError, match="encoder alone"):
        analysis.latent_report(mz.create_model("midway_nano", dynamics=False))


# Tracking against the truth.


def test_scores_of_tokens_by_hand() -> None:
    """Four by four tokens of 8 pixels, all moved by 10 pixels to the right; one is hidden."""
    flow = torch.zeros(1, 1, 2, 32, 32)
    flow[:, :, 0] = 10
    hidden = torch.zeros(1, 1, 32, 32, dtype=torch.bool)
    hidden[..., :8, :8] = True
    pictures = torch.zeros(1, 2, 3, 32, 32)
    truth = _Truth.of(SceneBatch(pictures, flow, hidden, pictures[:, :, 0].long(), pictures[:, :, 0].long()), 8)
    assert int(truth.followed.sum()) == 11  # a step of 1.25 tokens ends on one of four but for the last column
    assert truth.moved.equal(truth.followed)
    perfect = truth.score(truth.end)
    assert perfect == {"pck_1": 11, "moved_pck_1": 11, "pck_2": 11, "moved_pck_2": 11, "hits": 11, "copies": 0}
    still = truth.score(truth.start.expand(1, -1, -1))
    assert (still["pck_1"], still["pck_2"], still["hits"], still["copies"]) == (0, 11, 0, 11)


def test_a_network_that_rests_copies_and_every_variant_is_compared(small: mz.MidwayNetwork) -> None:
    variants = analysis.truth_variants(small, "nano")
    assert list(variants) == ["nano", "nano, gates open", "nano, untrained", "nano, untrained, gates open"]
    found = analysis.tracking_truth(small, pairs=6, textures="procedural")
    assert set(found.rules) == {"paper", "sensitivity", "similarity", "still"}
    assert found.rules["still"]["copies"] == 100
    assert found.rules["still"]["hits"] == 0
    assert 0 < found.moved <= found.tokens <= 96
    assert found.chance == 100 / 16
    for values in found.rules.values():
        assert all(0 <= value <= 100 for value in values.values())
        assert values["pck_1"] <= values["pck_2"]


def test_scene_pictures_are_the_generators() -> None:
    pictures = ScenePictures(32, textures="procedural", seed=2)
    steps = torch.arange(32) - 15.5
    y, x = (part[None] for part in torch.meshgrid(steps, steps, indexing="ij"))
    assert pictures.sample([3], x, y).equal(pictures.sample([3], x.clone(), y.clone()))
    assert not pictures.sample([4], x, y).equal(pictures.sample([3], x, y))
