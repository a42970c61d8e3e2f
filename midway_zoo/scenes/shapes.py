"""Shapes of objects as signed distances, and the classes that shapes and textures make together."""

from typing import NamedTuple

import torch
from torch import Tensor


class Shape(NamedTuple):
    """A formula and its parameters; see :func:`signed_distance`."""

    formula: str
    numbers: tuple[float, float, float]


SHAPES = {
    "disc": Shape("radial", (0.0, 0.9, 0.0)),
    "square": Shape("folded", (1.0, 0.0, 0.8)),
    "star": Shape("folded", (0.394, 0.919, 0.394)),
    "ring": Shape("radial", (0.7, 0.3, 0.0)),
    "triangle": Shape("triangle", (0.6, 0.0, 0.0)),
    "cross": Shape("folded", (0.0, 1.0, 0.3)),
}
"""In coordinates where the object's radius is 1."""

TEXTURES = ("stripes", "checks", "dots", "waves", "noise")

FORMULAS = ("radial", "folded", "triangle")


def class_names(classes: int, *, procedural: bool = True) -> list[str]:
    """Names by class id: "background", then e.g. "disc stripes" (with images as textures e.g. "disc").

    Class ``c`` (counted from 0 without the background) has shape ``c mod 6`` and texture ``c mod 5``:
    6 and 5 share no factor, so the first 30 differ, and from 7 classes on neither shape nor texture alone
    tells them all apart.
    """
    shapes = list(SHAPES)
    names = [
        f"{shapes[c % len(shapes)]} {TEXTURES[c % len(TEXTURES)]}" if procedural else shapes[c % len(shapes)]
        for c in range(classes)
    ]
    return ["background", *names]


def signed_distance(formula: str, u: Tensor, v: Tensor, numbers: Tensor) -> Tensor:
    """How far points (u, v) are outside (> 0) or inside (< 0) a shape.

    The zero line is the outline; close to it the value grows by 1 per unit of length, as antialiasing
    needs. ``u`` and ``v`` are overwritten.

    Args:
        formula: of ``FORMULAS``: "radial": | |p| - a | - b; "folded": a star, cross or square with the symmetry
            of the square, max(a hi + b lo - c, hi - 1) for hi, lo the larger and smaller of |u|, |v|;
            "triangle": three half-planes at a from the centre.
        u: (N, ...) coordinates.
        v: as ``u``.
        numbers: (3, N, 1, ...): a, b and c.

    Returns:
        The shape of ``u``.
    """
    a, b, c = numbers
    if formula == "radial":
        return u.square_().addcmul_(v, v).sqrt_().sub_(a).abs_().sub_(b)
    u.abs_()
    if formula == "triangle":
        return torch.maximum(u.mul_(3**0.5 / 2).add_(v, alpha=0.5), v.neg_()).sub_(a)
    v.abs_()
    high, low = torch.maximum(u, v), torch.minimum(u, v)
    return torch.maximum(low.mul_(b).addcmul_(high, a).sub_(c), high.sub_(1))
