"""What ``midway-zoo demo`` does: footage, what a network makes of it, and one picture of that."""

MODEL = "midway_nano.scenes"
"""That which is part of the package."""
CAUTION = (
    "what this model does not show: heat maps stay where the point was; features follow objects worse than random ones"
)
"""Of :data:`MODEL`; MODEL_CARD.md has the figures."""
