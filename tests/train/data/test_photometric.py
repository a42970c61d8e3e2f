"""How often each operation is drawn, in which order they run, and that all ways to run them agree."""

import itertools
from collections import Counter

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torchvision.transforms.v2 import functional as TF  # noqa: N812

from midway_zoo.checks import check_fields
from midway_zoo.errors import ConfigError, InputError, InputTypeError
from midway_zoo.train.data import photometric
from midway_zoo.train.data.photometric import (
    Column,
    PhotometricConfig,
    ViewKind,
    augment,
    denormalise,
    draw_parameters,
    gaussian_blur,
    luma,
    solarize,
)
from tests.train.data.test_colours import picture

MEAN, STD = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))


def plain(number: int) -> Tensor:
    """Parameters that change nothing."""
    params = torch.zeros(number, len(Column))
    params[:, [Column.BRIGHTNESS, Column.CONTRAST, Column.SATURATION]] = 1
    params[:, Column.BRIGHTNESS_RANK : Column.HUE_RANK + 1] = torch.arange(4.0)
    return params


def drawn(number: int, **changes: object) -> Tensor:
    kinds = [ViewKind(i % 3) for i in range(number)]
    return torch.from_numpy(draw_parameters(PhotometricConfig(**changes), kinds, np.random.default_rng(0)))  # type: ignore[arg-type]


compiled = torch.compile(augment, fullgraph=True, backend="eager")
"""As an accelerator runs it: no value is looked at, every operation runs on all views."""


def test_plain_parameters_only_normalise() -> None:
    views = torch.stack([picture(), picture(seed=1)])
    expected = (views / 255 - MEAN) / STD
    torch.testing.assert_close(augment(views, plain(2)), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(compiled(views, plain(2)), expected, atol=1e-5, rtol=0)


def test_each_order_of_the_jitter() -> None:
    image = picture(24, 32)
    operations = (TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation, TF.adjust_hue)
    factors = (1.38, 0.62, 1.2, 0.1)
    params, expected = plain(24), []
    params[:, :4] = torch.tensor(factors)
    for row, order in zip(params, itertools.permutations(range(4)), strict=True):
        reference = image / 255
        for rank, operation in enumerate(order):
            row[Column.BRIGHTNESS_RANK + operation] = rank
            reference = operations[operation](reference, factors[operation])
        expected.append((reference - MEAN) / STD)
    views = image.expand(24, -1, -1, -1)
    assert max(float((a - b).abs().max()) for a, b in itertools.pairwise(expected)) > 0.1  # the order matters
    for result in (augment(views, params), compiled(views, params)):
        # torchvision's luma has 0.2989 where PIL's has 0.299
        torch.testing.assert_close(result, torch.stack(expected), atol=2e-3, rtol=0)


def test_order_of_the_stages() -> None:
    image, params = picture(), plain(1)
    params[0, [Column.BRIGHTNESS, Column.GRAYSCALE, Column.BLUR, Column.SOLARIZE]] = torch.tensor([1.3, 1, 1.5, 1])
    grey = luma((image / 255 * 1.3).clamp(0, 1)).expand(3, -1, -1)
    expected = (solarize(gaussian_blur(grey[None], torch.tensor([1.5])))[0] - MEAN) / STD
    torch.testing.assert_close(augment(image[None], params)[0], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [(48, 48), (20, 37)])
def test_both_ways_to_run_agree(size: tuple[int, int]) -> None:
    params = drawn(60)
    views = torch.stack([picture(*size, seed=i) for i in range(len(params))])
    before = views.clone()
    each, together = augment(views, params), compiled(views, params)
    assert each.dtype == together.dtype == torch.float32
    torch.testing.assert_close(each, together, atol=3e-5, rtol=0)
    assert torch.equal(views, before)


def test_denormalised_views_are_pictures_again() -> None:
    views = torch.stack([picture(), picture(seed=1)])
    torch.testing.assert_close(denormalise(augment(views, plain(2))), views / 255, atol=1e-6, rtol=0)


def test_a_view_does_not_depend_on_its_batch() -> None:
    params, views = drawn(60), torch.stack([picture(seed=i) for i in range(60)])  # more than fit a chunk
    assert torch.equal(augment(views, params)[35:36], augment(views[35:36], params[35:36]))


def test_an_accelerator_is_never_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """On fake CUDA tensors a value that the host asks for, or a tensor of another device, is an error."""
    monkeypatch.setattr(photometric, "_CHUNK", 4)
    with FakeTensorMode():
        views, params = torch.empty(10, 3, 16, 16, dtype=torch.uint8, device="cuda"), torch.empty(10, 11, device="cuda")
        try:
            params[:, :1]
        except RuntimeError:
            pytest.skip(f"torch {torch.__version__} asks for a CUDA driver to slice a fake tensor")
        result = augment(views, params)
        assert (result.shape, result.dtype, result.device.type) == (views.shape, torch.float32, "cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_gives_what_the_cpu_gives() -> None:
    params = drawn(600)
    views = torch.stack([picture(24, 24, seed=i) for i in range(len(params))])
    on_device = views.cuda(), params.cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        result = augment(*on_device)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(result.cpu(), augment(views, params), atol=1e-4, rtol=0)


def test_autocast_around_it_changes_nothing() -> None:
    params, views = drawn(6), torch.stack([picture(16, 16, seed=i) for i in range(6)])
    with torch.autocast("cpu", torch.bfloat16):
        result = augment(views, params)
    assert torch.equal(result, augment(views, params))


def test_how_often_and_how_much() -> None:
    """Within five standard errors of the recipe's shares, over 30 000 views."""
    params = drawn(30_000)

    def share(rows: Tensor, expected: float) -> None:
        slack = 5 * (expected * (1 - expected) / len(rows)) ** 0.5
        assert float(rows.float().mean()) == pytest.approx(expected, abs=slack + 1e-9)

    share(params[:, Column.BRIGHTNESS] != 1, 0.8)
    share(params[:, Column.GRAYSCALE] == 1, 0.2)
    for kind, blur, solarized in zip(ViewKind, (1.0, 0.1, 0.5), (0.0, 0.2, 0.0), strict=True):
        share(params[kind::3, Column.BLUR] > 0, blur)
        share(params[kind::3, Column.SOLARIZE] == 1, solarized)
    jittered = params[params[:, Column.BRIGHTNESS] != 1]
    for column, (low, high) in enumerate([(0.6, 1.4), (0.6, 1.4), (0.8, 1.2), (-0.1, 0.1)]):
        values = jittered[:, column].double()
        assert (float(values.min()), float(values.max())) == pytest.approx((low, high), abs=0.001)
        share(values < (low + high) / 2, 0.5)
    radii = params[:, Column.BLUR][params[:, Column.BLUR] > 0]
    assert (float(radii.min()), float(radii.max())) == pytest.approx((0.1, 2.0), abs=0.005)
    share(radii < 1.05, 0.5)


def test_all_orders_are_equally_likely() -> None:
    ranks = drawn(24_000)[:, Column.BRIGHTNESS_RANK : Column.HUE_RANK + 1].int()
    orders = Counter(map(tuple, ranks.tolist()))
    assert set(orders) == set(itertools.permutations(range(4)))
    assert all(abs(number - 1000) < 5 * 1000**0.5 for number in orders.values())


def test_what_is_not_jittered_is_exactly_as_it_is() -> None:
    params = drawn(50, jitter_p=0.0, grayscale_p=0.0, blur_p=(0.0, 0.0, 0.0), solarize_p=(0.0, 0.0, 0.0))
    columns = [*range(4), Column.GRAYSCALE, Column.BLUR, Column.SOLARIZE]
    assert torch.equal(params[:, columns], plain(50)[:, columns])


def test_config_goes_through_omegaconf() -> None:
    config = OmegaConf.merge(OmegaConf.structured(PhotometricConfig), {"blur_radius": [0.5, 1.0]})
    check_fields(OmegaConf.to_object(config))
    kinds = [ViewKind.LOCAL, ViewKind.TYPE_1]
    params = draw_parameters(config, kinds, np.random.default_rng(3))
    assert 0.5 <= params[1, Column.BLUR] <= 1.0
    values = PhotometricConfig(blur_radius=(0.5, 1.0))
    np.testing.assert_array_equal(params, draw_parameters(values, kinds, np.random.default_rng(3)))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("jitter_p", 1.5),
        ("grayscale_p", -0.1),
        ("blur_p", (0.5, 0.5)),
        ("solarize_p", (0.0, 2.0, 0.0)),
        ("hue", 0.7),
        ("contrast", float("nan")),
        ("saturation", -1.0),
        ("blur_radius", (2.0, 0.1)),
        ("blur_radius", (0.1, float("inf"))),
    ],
)
def test_values_that_cannot_be_drawn_from(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=name):
        check_fields(PhotometricConfig(**{name: value}))  # type: ignore[arg-type]


def test_wrong_inputs() -> None:
    views = picture()[None]
    with pytest.raises(InputError, match=r"\(N, 3, H, W\)"):
        augment(views[0], plain(1))
    with pytest.raises(InputError, match=r"\(1, 11\)"):
        augment(views, plain(2))
    with pytest.raises(InputTypeError, match="uint8"):
        augment(views / 255, plain(1))
