"""The losses against their definitions, term by term."""

import math

import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from midway_zoo.train.tasks.pretrain.losses import DINOHead, DINOLoss, pair_mask


def term_by_term(student, teacher, center) -> tuple[torch.Tensor, int]:
    total, count = torch.zeros(()), 0
    for q in range(4):
        target = F.softmax((teacher[q] - center) / 0.04, dim=-1)
        for v in range(len(student)):
            if v == q or (v < 4 and abs(v - q) == 2):
                continue
            total = total + torch.sum(-target * F.log_softmax(student[v] / 0.1, dim=-1), dim=-1).mean()
            count += 1
    return total / count, count


@pytest.mark.parametrize(("views", "terms"), [(20, 72), (4, 8), (6, 16)])
def test_dino_loss_is_the_mean_over_its_terms(views: int, terms: int) -> None:
    student = torch.randn(views, 3, 32, requires_grad=True)
    teacher, center = torch.randn(4, 3, 32), torch.randn(1, 32) / 10
    dino = DINOLoss(32)
    dino.center.copy_(center)
    loss, entropy = dino(student, teacher)
    (gradient,) = torch.autograd.grad(loss, student)
    expected, count = term_by_term(student, teacher, center)
    assert count == terms == pair_mask(views).sum()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, student)[0])
    targets = F.softmax((teacher - center) / 0.04, dim=-1)
    torch.testing.assert_close(entropy, torch.distributions.Categorical(targets).entropy().mean(), atol=1e-4, rtol=1e-4)
    assert 0 <= entropy <= math.log(32)


def test_dino_loss_in_bfloat16_keeps_its_precision() -> None:
    student, teacher = torch.randn(20, 2, 64), torch.randn(4, 2, 64)
    dino = DINOLoss(64)
    exact, _ = dino(student.bfloat16().float(), teacher.bfloat16().float())
    loss, _ = dino(student.bfloat16(), teacher.bfloat16())
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, exact)


def test_the_center_is_the_mean_of_a_step_whatever_its_micro_batches() -> None:
    teacher, student = torch.randn(4, 6, 16), torch.randn(6, 6, 16)
    whole, parts = DINOLoss(16, center_momentum=0.7), DINOLoss(16, center_momentum=0.7)
    whole(student, teacher)
    for index in range(0, 6, 2):
        parts(student[:, index : index + 2], teacher[:, index : index + 2])
    for dino in (whole, parts):
        dino.update_center()
        torch.testing.assert_close(dino.center, 0.3 * teacher.mean((0, 1))[None])
        assert dino.center_count == 0
    whole.eval()(student, teacher)
    assert whole.center_count == 0
    assert whole.state_dict().keys() == {"center"}


def test_head() -> None:
    head = DINOHead(6, 8, 4, 10)
    logits = head(torch.randn(3, 6))
    assert logits.shape == (3, 10)
    assert logits.abs().max() <= head.last_layer.weight.norm(dim=1).max() + 1e-5
    with torch.autocast("cpu", torch.bfloat16):
        assert head(torch.randn(3, 6)).dtype == torch.float32
    assert head.last_layer.parametrizations.weight.original0.requires_grad
    assert not DINOHead(6, 8, 4, 10, norm_last_layer=True).last_layer.parametrizations.weight.original0.requires_grad


def test_the_product_in_bfloat16_costs_little_of_the_loss() -> None:
    """Same weights: product with the prototypes in float32 and in autocast's bfloat16."""
    torch.manual_seed(0)
    exact, fast = DINOHead(32, 64, 32, 512), DINOHead(32, 64, 32, 512, autocast=True)
    fast.load_state_dict(exact.state_dict())
    cls = torch.randn(2 * 12, 32)
    values = []
    for head in (exact, fast):
        with torch.autocast("cpu", torch.bfloat16):
            logits = head(cls)
        loss, _ = DINOLoss(512)(logits.unflatten(0, (12, 2)), logits[:8].unflatten(0, (4, 2)))
        values.append((logits.dtype, loss.item(), torch.autograd.grad(loss, head.mlp[0].weight)[0]))
    assert [dtype for dtype, *_ in values] == [torch.float32, torch.bfloat16]
    assert values[1][1] == pytest.approx(values[0][1], rel=5e-3)
    assert ((values[1][2] - values[0][2]).norm() / values[0][2].norm()).item() < 0.1
