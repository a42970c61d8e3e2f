"""What is taken for a network, and what stays as it was."""

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F  # noqa: N812

import midway_zoo as mz
from midway_zoo.errors import InputError, InputTypeError, MissingFileError, UnknownModelError
from tests.inference.calls import (
    EVERY_CALL,
    close,
    close_results,
    pair,
    tensors_of,
)


@EVERY_CALL
@pytest.mark.parametrize("model", [None, 5, torch.nn.Identity()], ids=lambda m: type(m).__name__)
def test_a_model_of_another_type_is_refused(call: Callable[..., Any], model: Any) -> None:
    with pytest.raises(InputTypeError, match=rf"{type(model).__name__} is not a Midway network.*create_model"):
        call(model, *pair())


@EVERY_CALL
def test_a_path_that_is_not_there_is_named(call: Callable[..., Any]) -> None:
    with pytest.raises(MissingFileError, match=r"no file midway_vits\. .*create_model"):
        call(Path("midway_vits"), *pair())


@EVERY_CALL
def test_the_bare_encoder_is_refused_with_the_reason(nano: mz.MidwayNetwork, call: Callable[..., Any]) -> None:
    with pytest.raises(InputTypeError, match="encoder alone"):
        call(nano.encoder, *pair())


@EVERY_CALL
def test_an_unknown_name_is_refused_with_the_nearest(call: Callable[..., Any]) -> None:
    with pytest.raises(UnknownModelError, match=r"'midway_vit'.*'midway_vits'"):
        call("midway_vit", *pair())


def test_a_name_is_loaded_once(nano: mz.MidwayNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[tuple[Any, ...]] = []

    def create(name: str, pretrained: bool = False) -> mz.MidwayNetwork:
        loaded.append((name, pretrained))
        return nano

    monkeypatch.setattr("midway_zoo.weights.registry.create_model", create)
    image = torch.rand(3, 32, 32)
    first, second = (mz.extract_features("a name of this test alone", image) for _ in range(2))
    assert loaded == [("a name of this test alone", True)]
    close_results(first, second, atol=0)


@pytest.fixture
def part_in_training(nano: mz.MidwayNetwork) -> mz.MidwayNetwork:
    """A copy in training mode, except for its encoder, of which one block is in training mode again."""
    network = copy.deepcopy(nano).train()
    network.encoder.eval()
    network.encoder.blocks[3].train()
    return network


@EVERY_CALL
@pytest.mark.parametrize(
    ("brightest", "outcome"), [(1, nullcontext()), (2, pytest.raises(InputError))], ids=["result", "error"]
)
def test_modes_of_all_parts_are_put_back(
    part_in_training: mz.MidwayNetwork,
    call: Callable[..., Any],
    brightest: float,
    outcome: AbstractContextManager[Any],
) -> None:
    """The error comes in the second batch, when the network has already run."""
    source, target = pair()
    source[1, 0, 0, 0] = brightest
    during: list[bool] = []
    part_in_training.dynamics.source_embed.register_forward_hook(lambda part, *_: during.append(part.training))
    part_in_training.encoder.blocks[3].register_forward_hook(lambda part, *_: during.append(part.training))
    before = {name: module.training for name, module in part_in_training.named_modules()}
    with outcome:
        call(part_in_training, source, target, batch_size=1)
    assert {name: module.training for name, module in part_in_training.named_modules()} == before
    assert during
    assert not any(during)


@EVERY_CALL
@pytest.mark.parametrize("brightest", [1, 2], ids=["result", "error"])
@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_gradient_mode_is_put_back(
    nano: mz.MidwayNetwork, call: Callable[..., Any], mode: Callable[[], Any], brightest: float
) -> None:
    source, target = pair()
    source[1, 0, 0, 0] = brightest
    with mode():
        before = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        with nullcontext() if brightest == 1 else pytest.raises(InputError):
            call(nano, source, target, batch_size=1)
        assert (torch.is_grad_enabled(), torch.is_inference_mode_enabled()) == before


@EVERY_CALL
def test_results_carry_no_gradient_and_parameters_get_none(nano: mz.MidwayNetwork, call: Callable[..., Any]) -> None:
    source, target = pair()
    found = list(tensors_of(call(nano, source.requires_grad_(), target)))
    assert found
    assert not any(value.requires_grad for value in found)
    assert all(parameter.grad is None for parameter in nano.parameters())


@EVERY_CALL
def test_pictures_and_weights_are_not_changed(nano: mz.MidwayNetwork, call: Callable[..., Any]) -> None:
    source, target = pair(30, 45)
    images = source.clone(), target.clone()
    weights = {name: value.clone() for name, value in nano.state_dict().items()}
    call(nano, source, target)
    assert source.equal(images[0])
    assert target.equal(images[1])
    assert all(value.equal(weights[name]) for name, value in nano.state_dict().items())


@EVERY_CALL
@pytest.mark.parametrize(
    ("dtype", "atol"), [(torch.float64, 1e-4), (torch.bfloat16, None)], ids=["float64", "bfloat16"]
)
def test_networks_of_other_precision_give_the_same_in_theirs(
    nano: mz.MidwayNetwork, call: Callable[..., Any], dtype: torch.dtype, atol: float | None
) -> None:
    """Features and latents in the network's precision; pixels and cosines in float32."""
    source, target = pair()
    found, expected = call(copy.deepcopy(nano).to(dtype), source, target), call(nano, source, target)
    own = isinstance(found, mz.Features | mz.MotionLatent)
    for one, other in zip(tensors_of(found), tensors_of(expected), strict=True):
        assert one.shape == other.shape
        if one.is_floating_point():
            assert one.dtype == (dtype if own else torch.float32)
            assert one.isfinite().all()
        if atol is not None:
            close(one.float(), other.float(), atol=atol)
        elif own:
            assert F.cosine_similarity(one.float().flatten(), other.flatten(), dim=0) > 0.98


class PeftLike(torch.nn.Module):
    """The shape of PEFT's wrapper: ``base_model.model`` is the network, its adapters inside it."""

    def __init__(self, network: mz.MidwayNetwork) -> None:
        super().__init__()
        self.base_model = torch.nn.Module()
        self.base_model.model = network


@EVERY_CALL
@pytest.mark.parametrize("wrap", [torch.compile, PeftLike, torch.nn.DataParallel], ids=["compiled", "PEFT", "parallel"])
def test_wrapped_networks_are_taken_as_they_are(
    nano: mz.MidwayNetwork, call: Callable[..., Any], wrap: Callable[..., Any]
) -> None:
    source, target = pair()
    close_results(call(wrap(nano), source, target), call(nano, source, target), atol=0)


@EVERY_CALL
def test_the_default_dtype_changes_nothing(nano: mz.MidwayNetwork, call: Callable[..., Any]) -> None:
    source, target = pair()
    expected = call(nano, source, target)
    torch.set_default_dtype(torch.float64)
    try:
        found = call(nano, source, target)
    finally:
        torch.set_default_dtype(torch.float32)
    for one, other in zip(tensors_of(found), tensors_of(expected), strict=True):
        assert one.dtype == other.dtype
    close_results(found, expected, atol=1e-4)  # tables resampled in double precision round otherwise


def test_create_model_of_a_path_says_what_loads_it(tmp_path: Path) -> None:
    folder = str(tmp_path / "mine")
    with pytest.raises(UnknownModelError) as wrong:
        mz.create_model(folder)
    assert "load_checkpoint" not in str(wrong.value)  # there is nothing to load
    mz.create_model("midway_nano").save_pretrained(folder)
    with pytest.raises(UnknownModelError) as found:
        mz.create_model(folder)
    assert f"midway_zoo.load_checkpoint({folder!r})" in str(found.value)
    mz.load_checkpoint(folder)
