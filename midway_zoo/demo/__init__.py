"""What ``midway-zoo demo`` does: footage, what a network makes of it, and one picture of that."""

MODEL = "midway_nano.scenes"
"""That which is part of the package."""
CAUTION = (
    "what this model does not show: the colours of its features do not follow objects, as those of random weights do; "
    "its heat maps point the right way and miss more often than they hit"
)
"""Of :data:`MODEL`; MODEL_CARD.md has the figures."""
