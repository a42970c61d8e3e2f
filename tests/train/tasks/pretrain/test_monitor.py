"""Collapse is noticed, once it lasts, with a remedy."""

import math

import pytest

from midway_zoo.train.tasks.pretrain.monitor import PATIENCE, Health

HEALTHY = {"teacher_entropy": 0.5 * math.log(100), "cls_std": 0.6, "token_std": 0.7}


@pytest.mark.parametrize(
    ("sign", "remedy"),
    [
        ({"teacher_entropy": 0.01}, "teacher_temperature"),
        ({"teacher_entropy": math.log(100)}, "Lower objective.teacher_temperature"),
        ({"cls_std": 0.001}, "optim.base_lr"),
        ({"token_std": 0.001}, "token_std"),
    ],
)
def test_signs(sign: dict[str, float], remedy: str) -> None:
    health = Health(prototypes=100, warmup=5)
    told = [health(HEALTHY | sign, step) for step in range(5, 5 + 12 * PATIENCE)]
    steps = [step for step, text in enumerate(told) if text]
    assert steps[0] == PATIENCE - 1
    assert len(steps) <= 3
    assert remedy in told[steps[0]]


def test_healthy_and_passing_values_are_quiet() -> None:
    health = Health(prototypes=100, warmup=50)
    flat = HEALTHY | {"teacher_entropy": math.log(100)}
    assert not any(health(flat, step) for step in range(50))
    for step in range(50, 500):
        assert health(HEALTHY if step % 10 else flat, step) is None
    assert Health(prototypes=100, warmup=0)({"loss": 1.0}, 3) is None
