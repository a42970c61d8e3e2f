"""Flow metrics and consistency against numbers worked out by hand and against torchvision's reference definitions."""

import math

import pytest
import torch
from torch import Tensor

from midway_zoo.errors import InputError
from midway_zoo.flow import FlowMetrics, consistency_mask

NAN = float("nan")


def field(*vectors: tuple[float, float]) -> Tensor:
    """(1, 2, 1, N) from (u, v) pairs."""
    return torch.tensor(vectors).T[None, :, None, :]


def test_every_measure_by_hand() -> None:
    # length of the target, error: 0, 0.5 | 5, 2 | 10, 4 | 39, 6 | 40, 1.5 | 200, 8 (4 % of it) | invalid
    target = field((0, 0), (3, 4), (6, 8), (39, 0), (0, 40), (200, 0), (NAN, 0))
    error = field((0.5, 0), (0, 2), (0, -4), (6, 0), (0, 1.5), (8, 0), (NAN, 99))
    metrics = FlowMetrics()
    metrics.update(target + error, target)
    expected = {
        "epe": 22 / 6,
        "px1": 100 * 5 / 6,
        "px3": 100 * 3 / 6,
        "px5": 100 * 2 / 6,
        "fl_all": 100 * 2 / 6,  # the error of 8 is below 5 % of 200
        "s0_10": (0.5 + 2) / 2,
        "s10_40": (4 + 6) / 2,
        "s40_plus": (1.5 + 8) / 2,
    }
    found = metrics.compute()
    assert found == pytest.approx(expected | {f"{name}_per_image": value for name, value in expected.items()})


def test_bounds_belong_to_the_better_side() -> None:
    metrics = FlowMetrics()
    target = field((100, 0), (100, 0), (100, 0), (20, 0))
    metrics.update(target + field((1, 0), (3, 0), (5, 0), (0, 3)), target)
    found = metrics.compute()
    assert [found[name] for name in ("px1", "px3", "px5", "fl_all")] == [75.0, 25.0, 0.0, 0.0]


def test_pooled_and_per_image_differ_as_they_should() -> None:
    """One image has a single valid pixel, the other four."""
    target = torch.zeros(2, 2, 2, 2)
    target[0, :, :, 1] = target[0, :, 1, :] = NAN
    prediction = torch.zeros(2, 2, 2, 2)
    prediction[0, 0], prediction[1, 0] = 10, 2
    metrics = FlowMetrics()
    metrics.update(prediction, target)
    found = metrics.compute()
    assert found["epe"] == pytest.approx((10 + 4 * 2) / 5)
    assert found["epe_per_image"] == pytest.approx((10 + 2) / 2)
    assert found["px3"] == pytest.approx(20)
    assert found["px3_per_image"] == pytest.approx(50)
    assert math.isnan(found["s40_plus"])
    assert math.isnan(found["s40_plus_per_image"])


def test_an_image_without_valid_pixels_does_not_count() -> None:
    target = torch.zeros(2, 2, 3, 3)
    target[1] = NAN
    metrics = FlowMetrics()
    metrics.update(target.nan_to_num() + 1, target)
    assert metrics.compute()["epe_per_image"] == pytest.approx(2**0.5)


def test_agrees_with_torchvisions_reference() -> None:
    """The definitions of references/optical_flow/utils.py; its 1px, 3px and 5px are shares below."""
    torch.manual_seed(3)
    target = torch.randn(1, 2, 20, 30) * 20
    prediction = target + torch.randn(1, 2, 20, 30) * 3
    valid = torch.rand(1, 20, 30) > 0.3
    epe = ((prediction - target) ** 2).sum(dim=1).sqrt()
    norm = (target**2).sum(dim=1).sqrt()[valid]
    epe = epe[valid]
    metrics = FlowMetrics()
    metrics.update(prediction, target.where(valid[:, None], NAN))
    found = metrics.compute()
    assert found["epe"] == pytest.approx(epe.mean().item(), rel=1e-5)
    for bound in (1, 3, 5):
        assert found[f"px{bound}"] == pytest.approx(100 - 100 * (epe < bound).float().mean().item(), abs=1e-3)
    f1 = ((epe > 3) & (epe / norm > 0.05)).float().mean() * 100
    assert found["fl_all"] == pytest.approx(f1.item(), abs=1e-3)


def test_the_cut_leaves_long_vectors_out() -> None:
    target = field((399, 0), (400, 0), (0, 1000))
    metrics = FlowMetrics(max_flow=400)
    metrics.update(target + 3, target)
    found = metrics.compute()
    assert found["epe"] == found["s40_plus"] == pytest.approx(3 * 2**0.5)
    assert metrics.state()[0, 1] == 1


@pytest.mark.parametrize("shape", [(1, 1, 1, 4), (1, 1, 4)])
@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.float32])
def test_occlusion_splits_the_error(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    target = field((0, 0), (0, 0), (0, 0), (NAN, NAN))
    metrics = FlowMetrics()
    metrics.update(
        field((1, 0), (2, 0), (6, 0), (0, 0)), target, occlusion=torch.tensor([0, 0, 1, 1]).view(shape).to(dtype)
    )
    found = metrics.compute()
    assert (found["epe_noc"], found["epe_occ"], found["epe"]) == (1.5, 6, 3)


def test_without_masks_there_is_no_split() -> None:
    metrics = FlowMetrics()
    metrics.update(torch.zeros(1, 2, 2, 2), torch.zeros(1, 2, 2, 2))
    assert not {name for name in metrics.compute() if "occ" in name or "noc" in name}


def batches() -> list[tuple[Tensor, Tensor]]:
    torch.manual_seed(5)
    return [(torch.randn(b, 2, 4, 6) * 30, torch.randn(b, 2, 4, 6) * 30) for b in (1, 3, 2)]


def test_states_of_processes_are_summed() -> None:
    whole, parts = FlowMetrics(), [FlowMetrics() for _ in range(3)]
    for part, (prediction, target) in zip(parts, batches(), strict=True):
        whole.update(prediction, target)
        part.update(prediction, target)
    reduced = FlowMetrics()
    reduced.load_state(sum(part.state() for part in parts))
    assert reduced.compute() == pytest.approx(whole.compute())
    parts[0].merge(parts[1])
    parts[0].merge(parts[2])
    assert parts[0].compute() == pytest.approx(whole.compute())


def test_a_state_is_a_copy() -> None:
    metrics = FlowMetrics()
    metrics.update(*batches()[0])
    before = metrics.compute()
    state = metrics.state()
    metrics.load_state(state)
    state.zero_()
    assert metrics.compute() == before
    metrics.reset()
    with pytest.raises(InputError, match="no valid pixel"):
        metrics.compute()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_measured_in_single(dtype: torch.dtype) -> None:
    metrics, reference = FlowMetrics(), FlowMetrics()
    prediction, target = (value.to(dtype) for value in batches()[1])
    metrics.update(prediction, target)
    reference.update(prediction.float(), target.float())
    assert metrics.compute() == pytest.approx(reference.compute())


@pytest.mark.parametrize("value", [NAN, float("inf")])
def test_a_prediction_that_is_not_finite_is_an_error_where_the_target_is_valid(value: float) -> None:
    prediction, target = torch.zeros(1, 2, 3, 3), torch.zeros(1, 2, 3, 3)
    prediction[0, 0, 1, 1] = value
    metrics = FlowMetrics()
    metrics.update(prediction, target)
    with pytest.raises(InputError, match="1 pixel"):
        metrics.compute()
    target[0, 1, 1, 1] = NAN
    metrics.reset()
    metrics.update(prediction, target)
    assert metrics.compute()["epe"] == 0


@pytest.mark.parametrize(
    ("prediction", "target", "occlusion"),
    [
        ((1, 2, 3, 4), (1, 2, 3, 5), None),
        ((1, 3, 3, 4), (1, 3, 3, 4), None),
        ((2, 3, 4), (2, 3, 4), None),
        ((1, 2, 3, 4), (1, 2, 3, 4), (1, 1, 3, 5)),
        ((1, 2, 3, 4), (1, 2, 3, 4), (1, 12)),
    ],
)
def test_shapes_that_do_not_fit_are_named(prediction: tuple, target: tuple, occlusion: tuple | None) -> None:
    mask = None if occlusion is None else torch.zeros(occlusion)
    with pytest.raises(InputError, match=r"\("):
        FlowMetrics().update(torch.zeros(prediction), torch.zeros(target), occlusion=mask)


def test_other_arguments_that_make_no_sense() -> None:
    with pytest.raises(InputError, match="max_flow=0"):
        FlowMetrics(max_flow=0)
    with pytest.raises(InputError, match="state of shape"):
        FlowMetrics().load_state(torch.zeros(3, 4))


def test_consistency_of_a_shift() -> None:
    """Everything moves 3 to the right and 1 down: what leaves the image is not consistent, the rest is."""
    forward = torch.tensor([3.0, 1.0]).view(1, 2, 1, 1).expand(1, 2, 8, 10)
    mask = consistency_mask(forward, -forward)
    expected = torch.zeros(1, 1, 8, 10, dtype=torch.bool)
    expected[..., :7, :7] = True
    assert mask.dtype == torch.bool
    assert torch.equal(mask, expected)
    assert torch.equal(consistency_mask(forward[0], -forward[0]), expected[0])


def test_consistency_tolerance_is_that_of_sundaram() -> None:
    """|f + b|^2 < 0.01 (|f|^2 + |b|^2) + 0.5, read between pixels."""
    for gap, expected in ((0.8, True), (0.9, False)):
        forward = torch.zeros(1, 2, 5, 20)
        forward[:, 0] = 3.5
        backward = torch.zeros(1, 2, 5, 20)
        backward[:, 0] = gap - 3.5
        bound = 0.01 * (3.5**2 + (gap - 3.5) ** 2) + 0.5
        assert (gap**2 < bound) is expected
        assert consistency_mask(forward, backward)[0, 0, 2, 5].item() is expected


def test_consistency_samples_where_the_flow_leads() -> None:
    forward, backward = torch.zeros(1, 2, 4, 6), torch.full((1, 2, 4, 6), 50.0)
    forward[:, 0, 1, 1], forward[:, 1, 1, 1] = 3, 2  # from (x=1, y=1) to (4, 3)
    backward[:, 0, 3, 4], backward[:, 1, 3, 4] = -3, -2
    mask = consistency_mask(forward, backward)
    assert mask.nonzero().tolist() == [[0, 0, 1, 1]]


def test_consistency_is_false_for_invalid_flow() -> None:
    forward = torch.zeros(2, 4, 4)
    forward[0, 2, 2] = NAN
    assert (~consistency_mask(forward, torch.zeros(2, 4, 4))).nonzero().tolist() == [[0, 2, 2]]
    assert not consistency_mask(torch.zeros(2, 4, 4), torch.full((2, 4, 4), NAN)).any()
    with pytest.raises(InputError, match="expected"):
        consistency_mask(torch.zeros(2, 4, 4), torch.zeros(2, 4, 5))


@pytest.mark.parametrize("shift", [0.0, 0.5, 1.0, 2.25])
def test_an_invalid_backward_pixel_fails_the_one_that_leads_to_it_alone(shift: float) -> None:
    forward = torch.zeros(1, 2, 8, 12)
    forward[:, 0] = shift
    backward = -forward
    whole = consistency_mask(forward, backward)
    backward[:, :, 4, 6] = math.nan
    failed = (whole & ~consistency_mask(forward, backward))[0, 0].nonzero().tolist()
    assert failed == [[4, 6 - math.floor(shift + 0.5)]]


def test_a_default_of_double_precision_changes_nothing() -> None:
    forward = torch.rand(1, 2, 8, 12, generator=torch.Generator().manual_seed(0))
    expected = consistency_mask(forward, -forward)
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(consistency_mask(forward, -forward), expected)
    finally:
        torch.set_default_dtype(torch.float32)
