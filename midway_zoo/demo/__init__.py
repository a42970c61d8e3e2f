"""The parts of ``midway-zoo demo``: footage, the findings of a network on it, and one picture of them."""

MODEL = "midway_nano.scenes"
"""The model that is part of the package."""
CAUTION = (
    "limits of this model: the colours of its features follow objects, on the generated clip no better than those of "
    "random weights; its heat maps point in the right direction but miss more often than they hit"
)
"""Limits of :data:`MODEL`; MODEL_CARD.md has the figures."""
