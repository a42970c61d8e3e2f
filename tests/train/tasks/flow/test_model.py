"""The loss of flow fine-tuning, against the formula written out."""

import math

import pytest
import torch

from midway_zoo.train.tasks.flow.model import flow_loss, valid_pixels


def test_loss_is_the_formula() -> None:
    output = torch.randn(2, 3, 4, 5)
    flow = 3 * torch.randn(2, 2, 4, 5)
    flow[0, 0, 1, 2] = math.nan
    flow[1, 1, 0, 0] = math.inf
    flow[1, :, 3, 3] = 9000.0  # longer than 10 000 pixels
    flow[1, 0, 3, 4] = 9000.0
    terms, errors = [], []
    for b in range(2):
        for y in range(4):
            for x in range(5):
                u, v = flow[b, :, y, x].tolist()
                if not (math.isfinite(u) and math.isfinite(v) and math.hypot(u, v) < 1e4):
                    continue
                du, dv = output[b, 0, y, x].item() - u, output[b, 1, y, x].item() - v
                s = 0.25 + 3.75 / (1 + math.exp(-output[b, 2, y, x].item()))
                terms.append((abs(du) + abs(dv)) / s + math.log(s))
                errors.append(math.hypot(du, dv))
    assert len(terms) == 37
    found = flow_loss(output, flow)
    assert found["loss"].item() == pytest.approx(sum(terms) / 37, rel=1e-5)
    assert found["epe"].item() == pytest.approx(sum(errors) / 37, rel=1e-5)
    whole = flow_loss(output, flow, pixels=torch.tensor(74.0))
    assert whole["loss"].item() == pytest.approx(sum(terms) / 74, rel=1e-5)
    assert valid_pixels(flow).sum() == 37


def test_invalid_pixels_give_no_gradient() -> None:
    output = torch.randn(1, 3, 2, 2, requires_grad=True)
    flow = torch.zeros(1, 2, 2, 2)
    flow[0, 1, 0, 0] = math.nan
    flow_loss(output, flow)["loss"].backward()
    assert output.grad is not None
    assert output.grad.isfinite().all()
    assert (output.grad[0, :, 0, 0] == 0).all()
    assert (output.grad[0, :, 1, 1] != 0).all()


def test_nothing_valid_is_no_nan() -> None:
    output = torch.randn(1, 3, 2, 2, requires_grad=True)
    found = flow_loss(output, torch.full((1, 2, 2, 2), math.nan))
    found["loss"].backward()
    assert found["loss"] == found["epe"] == 0
    assert output.grad is not None
    assert (output.grad == 0).all()


def test_half_precision_output_is_compared_in_full() -> None:
    output = torch.tensor([300.0, 0.0, 0.0]).view(1, 3, 1, 1).bfloat16()
    flow = torch.tensor([300.25, 0.0]).view(1, 2, 1, 1)
    assert flow_loss(output, flow)["epe"].item() == 0.25
