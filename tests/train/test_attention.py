"""Attention of a CPU under bfloat16, in the precision that is faster there."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from midway_zoo.train import attention
from midway_zoo.train.attention import MeasuredAttention, attention_of, faster_precision

SHAPE = torch.Size((2, 3, 5, 4))


@contextmanager
def decided(monkeypatch: pytest.MonkeyPatch, precision: str) -> Iterator[list[torch.Size]]:
    measured: list[torch.Size] = []
    monkeypatch.setattr(attention, "faster_precision", lambda queries, keys: measured.append(queries) or precision)
    yield measured


def inputs() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(SHAPE, generator=generator, requires_grad=True) for _ in range(3)]


def attend(*tensors: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(*tensors)


def test_the_first_time_is_measured_and_the_next_ones_follow(monkeypatch: pytest.MonkeyPatch) -> None:
    query, key, value = inputs()
    rounded = [tensor.bfloat16() for tensor in (query, key, value)]
    exact = attend(*(tensor.float() for tensor in rounded)).bfloat16()
    with decided(monkeypatch, "float32") as measured, torch.autocast("cpu", dtype=torch.bfloat16):
        mode = MeasuredAttention()
        for _ in range(3):
            with mode:
                found = attend(*rounded)
    assert measured == [SHAPE]
    assert mode.chosen == {"2x3x5x5x4": "float32"}
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, exact, rtol=0, atol=0)
    with MeasuredAttention(mode.chosen) as resumed, torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(attend(*rounded), exact, rtol=0, atol=0)
    assert resumed.chosen == mode.chosen


def test_where_it_applies() -> None:
    """Not where blocks are computed again: a mode does not reach into the backward pass."""
    config = SimpleNamespace(precision="bf16", cpu_attention="measured", compile=False)
    alone = SimpleNamespace(device=torch.device("cpu"), num_processes=1)
    model = nn.Sequential(nn.Linear(1, 1))

    def applies(config: Any = config, accelerator: Any = alone) -> bool:
        return isinstance(attention_of(config, accelerator, model, {}), MeasuredAttention)

    assert applies()
    for change in ({"precision": "no"}, {"compile": True}, {"cpu_attention": "autocast"}):
        assert not applies(SimpleNamespace(**{**vars(config), **change}))
    for change in ({"device": torch.device("cuda")}, {"num_processes": 2}):
        assert not applies(accelerator=SimpleNamespace(**{**vars(alone), **change}))
    model[0].grad_checkpointing = True
    assert not applies()


def test_other_precisions_and_masks_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = inputs()
    with decided(monkeypatch, "float32") as measured, MeasuredAttention():
        attend(*tensors)
        mask = torch.ones(5, 5, dtype=torch.bool)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            F.scaled_dot_product_attention(*tensors, attn_mask=mask)
    assert measured == []


def test_measuring_leaves_the_random_numbers_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    with torch.no_grad():
        assert faster_precision(SHAPE, SHAPE) in ("float32", "bfloat16")
    assert torch.rand(1) == expected


def test_both_precisions_are_measured_also_under_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    original, met = F.scaled_dot_product_attention, set()

    def watched(*tensors: Tensor) -> Tensor:
        mixed = original(*tensors)
        met.add(mixed.dtype)
        return mixed

    monkeypatch.setattr(F, "scaled_dot_product_attention", watched)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        faster_precision(SHAPE, SHAPE)
    assert met == {torch.float32, torch.bfloat16}
