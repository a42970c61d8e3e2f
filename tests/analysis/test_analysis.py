"""What is asked about a network: matrices against heat maps, tracks and measures against an oracle and by hand."""

import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import midway_zoo as mz
import midway_zoo.analysis as analysis
from midway_zoo.analysis import flow_at, identity_share, latent_similarity, pck, sensitivity_matrix, tracking
from midway_zoo.errors import ConfigError, InputError, InputTypeError, MissingFileError
from midway_zoo.inference.batches import normaliser
from midway_zoo.inference.frames import Frame, FrameSource, open_frames
from midway_zoo.inference.perturbation import matches
from midway_zoo.results import MotionLatent
from tests.inference.test_video import write_video
from tests.oracles import shifted

NAN = float("nan")


def close(found: Tensor, expected: Any, atol: float = 1e-5) -> None:
    torch.testing.assert_close(found, torch.as_tensor(expected, dtype=found.dtype), rtol=0, atol=atol, equal_nan=True)


class Oracle:
    """Stands in for ``sensitivity_of``: the k-th step sees the k-th matrix (N, N), the last one from then on."""

    def __init__(self, *steps: Tensor) -> None:
        self.steps = steps
        self.asked: list[list[int]] = []
        self.options: list[dict[str, Any]] = []

    def __call__(
        self, network: Any, source: Any, target: Any, grid: Any, *, tokens: list[int], **options: Any
    ) -> Tensor:
        matrix = self.steps[min(len(self.asked), len(self.steps) - 1)]
        self.asked.append(tokens)
        self.options.append(options)
        return matrix[tokens][None]


@pytest.fixture
def oracle(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Oracle]:
    def put(*steps: Tensor) -> Oracle:
        made = Oracle(*steps)
        monkeypatch.setattr(tracking, "sensitivity_of", made)
        return made

    return put


def clip_of(frames: int, height: int = 64, width: int = 64) -> Tensor:
    return torch.rand(frames, 3, height, width)


# The sensitivity matrix.


def test_a_row_of_the_matrix_is_the_heat_map_of_its_token(nano: mz.MidwayNetwork) -> None:
    source, target = clip_of(3, 32, 40), clip_of(3, 32, 40)
    options: dict[str, Any] = {"size": "full", "level": 1, "draws": 1, "seed": 3}
    found = sensitivity_matrix(nano, source, target, batch_size=2, **options)
    assert repr(found) == "SensitivityMatrix(matrix=float32[3, 20, 20], grid=(4, 5), given=(32, 40))"
    heat = mz.perturbation_heatmap(nano, source, target, (17, 9), **options)  # column 2, row 1
    close(found.matrix[:, 7].unflatten(1, (4, 5)), heat.heatmap)
    default = sensitivity_matrix(nano, source[:1], target[:1], size="full")
    highest = sensitivity_matrix(nano, source[:1], target[:1], size="full", level=2, draws=1, seed=0)
    close(default.matrix, highest.matrix)
    assert not default.matrix.requires_grad


def test_given_is_the_size_of_the_images_and_grid_that_of_the_tokens(nano: mz.MidwayNetwork) -> None:
    found = sensitivity_matrix(nano, torch.rand(3, 90, 61), torch.rand(3, 90, 61), size=(32, 24))
    assert (found.given, found.grid, found.matrix.shape) == ((90, 61), (4, 3), (1, 12, 12))


def test_identity_share_counts_rows_that_peak_at_home() -> None:
    matrix = torch.stack([torch.eye(4), torch.eye(4).roll(1, 0), torch.eye(4)])
    matrix[2, :2, 3] = (
        2  # two source tokens of four go to the last place; three target tokens are still fed by their own
    )
    found = identity_share(matrix)
    close(found, [1, 0, 0.5])
    close(identity_share(analysis.SensitivityMatrix(matrix, (2, 2), (16, 16))), found)


# Tracks.


@pytest.mark.parametrize(
    ("given_size", "size", "grid"), [((64, 64), None, (8, 8)), ((120, 70), (64, 96), (8, 12)), ((50, 90), 32, (4, 7))]
)
def test_a_step_of_a_token_is_one_of_its_pixels(
    nano: mz.MidwayNetwork,
    oracle: Callable[..., Oracle],
    given_size: tuple[int, int],
    size: Any,
    grid: tuple[int, int],
) -> None:
    """(dx, dy) tokens are (dx W / w, dy H / h) pixels of the given frames, wherever on its token a point lies."""
    oracle(shifted(grid, 2, -1), shifted(grid, -1, 1))
    across, down = given_size[1] / grid[1], given_size[0] / grid[0]
    start = torch.tensor([[0.2 * across, 2.1 * down], [1.9 * across, 1.7 * down]])
    found = analysis.track(nano, clip_of(4, *given_size), start, size=size, window=0)
    assert (found.grid, found.xy.shape, found.confidence.shape) == (grid, (4, 2, 2), (4, 2))
    assert (found.xy.dtype, found.confidence.dtype, found.pts_seconds) == (torch.float32, torch.float32, None)
    moves = torch.tensor([[0, 0], [2, -1], [1, 0], [0, 1]]) * torch.tensor([across, down])
    close(found.xy, start + moves[:, None], atol=1e-3)
    close(found.confidence, torch.ones(4, 2))


def test_first_always_starts_in_the_first_frame(nano: mz.MidwayNetwork, oracle: Callable[..., Oracle]) -> None:
    steps = [shifted((8, 8), 1, 0), shifted((8, 8), 3, 1)]
    for mode, last in [("first", (24, 8)), ("chain", (32, 8))]:
        seen = oracle(*steps)
        found = analysis.track(nano, clip_of(3), (20, 20), window=0, mode=mode)
        assert seen.asked == ([[18], [18]] if mode == "first" else [[18], [19]])
        close(found.xy[:, 0], [[20, 20], [28, 20], [20 + last[0], 20 + last[1]]])


def test_positions_between_tokens_are_kept(nano: mz.MidwayNetwork, oracle: Callable[..., Oracle]) -> None:
    """By hand: temperature 0.1, so the neighbour that is lower by 0.1 weighs 1/e; a step on, it is another token."""
    matrix = torch.full((8, 8, 8, 8), -50.0)
    for row in range(8):
        for column in range(7):
            matrix[row, column, row, column], matrix[row, column, row, column + 1] = 0.5, 0.4
    step = 8 * float(np.exp(-1) / (1 + np.exp(-1)))
    seen = oracle(matrix.view(64, 64))
    found = analysis.track(nano, clip_of(4), (22, 20))
    close(found.xy[:, 0, 0], [22, 22 + step, 22 + 2 * step, 22 + 3 * step])
    close(found.xy[:, 0, 1], [20] * 4)
    close(found.confidence[:, 0], [1, 0.5, 0.5, 0.5])
    assert seen.asked == [[18], [19], [19]]
    close(analysis.track(nano, clip_of(2), (22, 20), window=0).xy[1], [[22, 20]])


def test_points_are_held_at_the_border(nano: mz.MidwayNetwork, oracle: Callable[..., Oracle]) -> None:
    """Tokens reach half a pixel further than the centres of the outermost pixels."""
    oracle(shifted((8, 12), 1, 0), shifted((8, 12), -3, -1))
    found = analysis.track(nano, clip_of(3, 64, 96), [(87.4, 7.6), (95, 63), (0, 0)], window=0)
    close(found.xy[1], [[95, 7.6], [95, 63], [8, 0]])
    close(found.xy[2], [[71, 0], [71, 55], [0, 0]])


def test_points_on_one_token_are_asked_once(nano: mz.MidwayNetwork, oracle: Callable[..., Oracle]) -> None:
    seen = oracle(shifted((8, 8), 0, 0))
    points = [(60, 60), (1, 1), (7.4, 0), (7.6, 0), (61, 58)]
    found = analysis.track(nano, clip_of(2), points, level=0, draws=3, seed=5)
    assert seen.asked == [[0, 1, 63]]
    assert seen.options == [{"level": 0, "draws": 3, "seed": 5}]
    close(found.xy, [points, points])


@pytest.mark.parametrize("mode", ["chain", "first"])
@pytest.mark.parametrize("paired", [False, True])
def test_a_track_is_what_heat_maps_of_its_pairs_say(nano: mz.MidwayNetwork, mode: Any, paired: bool) -> None:
    """The real thing: chosen and encoded as :func:`perturbation_heatmap` does, source and target not mixed up."""
    network = mz.create_model("midway_nano", paired=True) if paired else nano
    if paired:
        network.load_state_dict(nano.state_dict(), strict=False)
        for parameter in network.target_encoder.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
    clip, options = clip_of(3, 32, 40), {"size": "full", "level": 0, "draws": 1, "seed": 4}
    found = analysis.track(network, clip, (30, 20), window=0, mode=mode, **options)
    at = torch.tensor([30.0, 20.0])
    for index in (1, 2):
        start, point = (clip[0], torch.tensor([30.0, 20.0])) if mode == "first" else (clip[index - 1], at)
        heat = mz.perturbation_heatmap(network, start, clip[index], point, **options)
        at = point + heat.target_xy[0] - (heat.source_token[0] * 8 + 3.5)
        at = at.clamp(min=0).minimum(torch.tensor([39.0, 31.0]))
        close(found.xy[index, 0], at, atol=1e-4)
        close(found.confidence[index, 0], heat.heatmap.max())


@pytest.mark.parametrize("paired", [False, True])
def test_of_the_most_sensitive_tokens_the_most_similar_one(
    nano: mz.MidwayNetwork, oracle: Callable[..., Oracle], paired: bool
) -> None:
    """The paper's rule, by hand: features are the last ones of each frame's own encoder."""
    torch.manual_seed(0)
    network = mz.create_model("midway_nano", paired=True) if paired else nano
    matrix, clip = torch.rand(64, 64), clip_of(2)
    oracle(matrix)
    points = torch.tensor([[3.0, 3.0], [43.0, 20.0], [60.0, 60.0]])
    images = normaliser(network)(clip)
    with torch.no_grad():
        own, others = (network.encode(images[i : i + 1], target=i == 1)[-1][0, 1:] for i in (0, 1))
    expected = {1: [], 5: [], 64: [], 100: []}
    for x, y in points.tolist():
        token = int(y // 8) * 8 + int(x // 8)
        order = matrix[token].argsort(descending=True).tolist()
        alike = torch.cosine_similarity(own[token][None], others, dim=1)
        for count, ends in expected.items():
            best = max(order[:count], key=lambda one, alike=alike: float(alike[one]))
            ends.append([x + 8 * (best % 8 - token % 8), y + 8 * (best // 8 - token // 8), float(matrix[token, best])])
    for count, ends in expected.items():
        found = analysis.track(network, clip, points, window=0, candidates=count)
        close(torch.cat([found.xy[1], found.confidence[1][:, None]], dim=1), ends, atol=1e-4)
    assert expected[1] != expected[5] != expected[64]


def test_the_square_lies_around_the_most_similar_token() -> None:
    matrix = torch.zeros(1, 1, 9)
    matrix[0, 0, [3, 4, 5]] = torch.tensor([0.5, 0.4, -50])
    position, peak = matches(matrix, (3, 3), best=torch.tensor([[4]]))
    weights = (matrix[0, 0] / 0.1).softmax(0).view(3, 3)
    close(position[0, 0, 0], float((weights.sum(0) * torch.arange(3)).sum()))
    close(peak, [[0.4]])


@pytest.mark.parametrize("mode", ["chain", "first"])
def test_frames_are_encoded_once_and_let_go(
    nano: mz.MidwayNetwork, monkeypatch: pytest.MonkeyPatch, oracle: Callable[..., Oracle], mode: Any
) -> None:
    oracle(shifted((8, 8), 0, 0))
    encoded: list[Tensor] = []
    encode = mz.MidwayNetwork.encode
    monkeypatch.setattr(
        mz.MidwayNetwork, "encode", lambda self, images, **kw: encoded.append(images) or encode(self, images, **kw)
    )
    alive: list[weakref.ref[Tensor]] = []
    most = 0

    def decoded() -> Iterator[Frame]:
        nonlocal most
        for index in range(12):
            frame = torch.rand(3, 64, 64)
            alive.append(weakref.ref(frame))
            most = max(most, sum(ref() is not None for ref in alive))
            yield Frame(frame, index / 25)
            del frame

    monkeypatch.setattr(tracking, "open_frames", lambda *_, **__: FrameSource(decoded()))
    found = analysis.track(nano, "a video", (5, 5), mode=mode)
    assert [image.shape[0] for image in encoded] == [1] * 12
    assert most <= 3
    assert found.xy.shape == (12, 1, 2)
    close(found.pts_seconds, torch.arange(12) / 25)
    assert found.pts_seconds.dtype == torch.float64


def test_videos_and_strides(nano: mz.MidwayNetwork, oracle: Callable[..., Oracle], tmp_path: Path) -> None:
    oracle(shifted((8, 8), 1, 0))
    video = tmp_path / "clip.mp4"
    write_video(video, [np.full((64, 64, 3), 40 * index, np.uint8) for index in range(6)])
    times = [frame.pts_seconds for frame in open_frames(video, stride=2)]
    found = analysis.track(nano, video, (5, 5), size=64, stride=2)
    close(found.pts_seconds, times)
    assert len(found.xy) == 3
    assert len(analysis.track(nano, clip_of(5), (5, 5), stride=3).xy) == 2


def test_the_caller_s_modes_are_left_alone(nano: mz.MidwayNetwork) -> None:
    nano.train()
    try:
        with torch.inference_mode():
            found = analysis.track(nano, clip_of(2), (5, 5), draws=1)
            sensitivity_matrix(nano, clip_of(1), clip_of(1), size=(16, 16))
        assert nano.encoder.training
    finally:
        nano.eval()
    again = [analysis.track(nano, torch.zeros(2, 3, 64, 64), (5, 5), draws=1, seed=1).confidence for _ in range(2)]
    assert torch.equal(*again)
    assert found.xy.isfinite().all()


# Measures.


def test_pck_by_hand() -> None:
    true = torch.tensor([[0.0, 0], [0, 0], [5, 5], [NAN, 1], [0, 0], [1, float("inf")]])
    predicted = torch.tensor([[0.0, 1], [3, 4], [5, 5], [0, 0], [0, 20], [0, 0]])  # 1, 5, 0, -, 20, - pixels away
    assert pck(predicted, true) == {"pck_1": 50, "pck_2": 50, "pck_4": 50, "pck_8": 75, "pck_16": 75, "mean": 60}
    visible = torch.tensor([1, 1, 0, 1, 1, 1])
    found = pck(predicted.view(2, 3, 2), true.view(2, 3, 2), thresholds=(0.5, 5), visible=visible.view(2, 3))
    assert found == pytest.approx({"pck_0.5": 0, "pck_5": 200 / 3, "mean": 100 / 3})


def test_a_prediction_that_does_not_count_may_be_anything() -> None:
    predicted, true = torch.tensor([[NAN, 0], [1, 1]]), torch.tensor([[NAN, 0], [1, 1]])
    assert pck(predicted, true)["mean"] == 100
    assert pck(predicted, true.nan_to_num(), visible=torch.tensor([False, True]))["mean"] == 100
    with pytest.raises(InputError, match=r"1 predicted point\(s\) are NaN"):
        pck(predicted, true.nan_to_num())
    for options in ({"visible": torch.zeros(2)}, {}):
        with pytest.raises(InputError, match="no point counts"):
            pck(predicted, true if options else true * NAN, **options)


def test_flow_at_is_bilinear_between_the_centres_of_pixels() -> None:
    x, y = torch.arange(6.0), torch.arange(5.0)[:, None]
    flow = torch.stack([3 * x + 10 * y, -x * y])[None].repeat(2, 1, 1, 1)
    flow[1] *= 2
    points = torch.tensor([[0, 0], [5, 4], [2.5, 1.25], [0.1, 4]])
    expected = torch.stack([3 * points[:, 0] + 10 * points[:, 1], -points[:, 0] * points[:, 1]], dim=1)
    found = flow_at(flow, points.expand(2, -1, -1))
    close(found, torch.stack([expected, 2 * expected]))
    close(flow_at(flow[1], points), 2 * expected)
    outside = torch.tensor([[-0.1, 0], [5.01, 0], [0, 4.5], [NAN, 1], [2, 2]])
    assert flow_at(flow[0], outside).isnan().all(dim=1).tolist() == [True, True, True, True, False]


def test_flow_at_leaves_out_invalid_pixels_that_weigh_nothing() -> None:
    flow = torch.ones(2, 4, 4)
    flow[:, 1, 2] = NAN
    found = flow_at(flow, torch.tensor([[1, 1], [1.5, 1], [1, 1.5], [2, 2], [2, 1], [3, 1]]))
    close(found[:, 0], [1, NAN, 1, 1, NAN, 1])


def latents(tokens: Tensor) -> MotionLatent:
    return MotionLatent(tokens, {0: tokens}, tokens.mean(dim=1), (8, 8))


def test_latent_similarity_by_hand() -> None:
    """Around a mean of (5, 5): one way, the opposite way, across, and the way back."""
    tokens = 5 + torch.tensor([[1.0, 0], [-1, 0], [0, 2], [0, -2]])
    expected = [[1, -1, 0, 0], [-1, 1, 0, 0], [0, 0, 1, -1], [0, 0, -1, 1]]
    close(latent_similarity(latents(tokens[:, None])), expected)
    close(latent_similarity(latents(tokens[:, :, None])), expected)  # two motion tokens of one number: all count
    pair = torch.tensor([[[3.0, 4]], [[4, 3]]])
    close(latent_similarity(latents(pair)), [[1, 0.96], [0.96, 1]])  # two are not centred: they would be opposites
    close(latent_similarity(latents(pair[:1])), [[1]])


def test_a_still_clip_has_no_similarities() -> None:
    still = torch.rand(1, 10, 48).expand(5, -1, -1) * (1 + 1e-7 * torch.randn(5, 1, 1))
    close(latent_similarity(latents(still)), torch.eye(5))


def test_latent_similarity_of_a_clip(nano: mz.MidwayNetwork) -> None:
    found = latent_similarity(mz.infer_motion_latents(nano, clip_of(5)))
    assert (found.shape, found.dtype) == ((4, 4), torch.float32)
    close(found, found.T)
    close(found.diagonal(), torch.ones(4))


# Refusals.

A, B = torch.zeros(3, 64, 64), torch.zeros(2, 3, 64, 64)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda net: analysis.track(net, B, (64, 0)), r"xy\[0\]=\(64, 0\) is outside the image of 64 x 64"),
        (lambda net: analysis.track(net, B, [(1, 1), (1, -0.5)]), r"xy\[1\]=\(1, -0.5\) is outside"),
        (lambda net: analysis.track(net, B, (NAN, 0)), "outside the image"),
        (lambda net: analysis.track(net, B, (1, 2, 3)), r"xy has shape \(3,\).*\(n, 2\)"),
        (lambda net: analysis.track(net, B, torch.zeros(0, 2)), r"xy has shape \(0, 2\)"),
        (lambda net: analysis.track(net, B, torch.zeros(2, 2, 2)), "xy has shape"),
        (lambda net: analysis.track(net, B, 5), "xy has shape"),
        (lambda net: analysis.track(net, B, [(1, 2), (3,)]), "xy="),
        (lambda net: analysis.track(net, B, (1, 1), mode="last"), "mode='last'"),
        (lambda net: analysis.track(net, B, (1, 1), level=3), "level"),
        (lambda net: analysis.track(net, B, (1, 1), draws=0), "draws=0"),
        (lambda net: analysis.track(net, B, (1, 1), seed=-1), "seed=-1"),
        (lambda net: analysis.track(net, B, (1, 1), window=-1), "window=-1"),
        (lambda net: analysis.track(net, B, (1, 1), candidates=0), "candidates=0: a positive"),
        (lambda net: analysis.track(net, B, (1, 1), stride=0), "stride=0"),
        (lambda net: analysis.track(net, B, (1, 1), fps=5), "fps needs a video"),
        (lambda net: analysis.track(net, B, (1, 1), size=(60, 64)), "does not fit patches"),
        (lambda net: analysis.track(net, B[:1], (1, 1)), r"1 frame\(s\).*at least two"),
        (lambda net: analysis.track(net, [], (1, 1)), "no images"),
        (lambda net: analysis.track(net, [A, A[:, 1:]], (1, 1)), "mixes frames"),
        (lambda net: sensitivity_matrix(net, [A, A[:, 8:]], [A, A[:, 8:]], size=(16, 16)), "once per size"),
        (lambda net: sensitivity_matrix(net, A, B), "1 source and 2 target"),
        (lambda net: sensitivity_matrix(net, A, A, level=-1), "level"),
        (lambda net: sensitivity_matrix(net, A, A, draws=1.5), "draws=1.5"),
        (lambda net: sensitivity_matrix(net, A, A, batch_size=0), "batch_size=0"),
        (lambda net: identity_share(torch.zeros(4, 4)), r"\(4, 4\): \(B, N, N\)"),
        (lambda net: identity_share(torch.zeros(1, 4, 5)), r"\(1, 4, 5\): \(B, N, N\)"),
        (lambda net: pck(torch.zeros(4, 2), torch.zeros(3, 2)), r"predicted \(4, 2\) and true \(3, 2\)"),
        (lambda net: pck(torch.zeros(4, 3), torch.zeros(4, 3)), "both"),
        (lambda net: pck(torch.zeros(4, 2), torch.zeros(4, 2), thresholds=()), "thresholds"),
        (lambda net: pck(torch.zeros(4, 2), torch.zeros(4, 2), thresholds=(1, 0)), "thresholds"),
        (lambda net: pck(torch.zeros(4, 2), torch.zeros(4, 2), visible=torch.ones(3)), r"visible \(3,\)"),
        (lambda net: flow_at(torch.zeros(1, 3, 8, 8), torch.zeros(1, 4, 2)), r"flow \(1, 3, 8, 8\)"),
        (lambda net: flow_at(torch.zeros(2, 2, 8, 8), torch.zeros(1, 4, 2)), "are expected"),
        (lambda net: flow_at(torch.zeros(2, 8, 8), torch.zeros(1, 4, 2)), "are expected"),
    ],
)
def test_what_cannot_be_used_is_refused(
    nano: mz.MidwayNetwork, call: Callable[[mz.MidwayNetwork], Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        call(nano)


def test_other_errors_keep_their_kind(nano: mz.MidwayNetwork, tmp_path: Path) -> None:
    with pytest.raises(InputTypeError, match="a clip is"):
        analysis.track(nano, A, (1, 1))
    with pytest.raises(MissingFileError, match="no video"):
        analysis.track(nano, tmp_path / "none.mp4", (1, 1))
    alone = mz.create_model("midway_nano", dynamics=False)
    for call in (lambda: analysis.track(alone, B, (1, 1)), lambda: sensitivity_matrix(alone, A, A)):
        with pytest.raises(ConfigError, match="encoder alone"):
            call()


def test_every_name_is_documented() -> None:
    assert mz.analysis is analysis
    for name in analysis.__all__:
        assert getattr(analysis, name).__doc__, name


def test_chained_flow_carries_points_and_stops_at_the_border() -> None:
    flow = torch.zeros(3, 2, 6, 10)
    flow[:, 0], flow[1, 1] = 2.5, -1.0
    paths = mz.analysis.chain_flow(flow, torch.tensor([[1.0, 3.0], [6.0, 0.5]]))
    assert paths.shape == (4, 2, 2)
    assert paths[:, 0].tolist() == [[1.0, 3.0], [3.5, 3.0], [6.0, 2.0], [8.5, 2.0]]
    assert paths[:, 1].tolist() == [[6.0, 0.5], [8.5, 0.5], [9.0, 0.0], [9.0, 0.0]]
    flow[1, :, 3, 3:5] = torch.nan
    paths = mz.analysis.chain_flow(flow, torch.tensor([[1.0, 3.0], [6.0, 0.5]]))
    assert paths[2:, 0].isnan().all()
    assert paths[:, 1].isfinite().all()
    with pytest.raises(InputError, match=r"flow \(2, 6, 10\) and xy \(1, 2\): \(T - 1, 2, H, W\)"):
        mz.analysis.chain_flow(flow[0], torch.zeros(1, 2))
