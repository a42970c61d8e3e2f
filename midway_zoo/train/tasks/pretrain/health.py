"""Signs that pretraining collapses, and what to do about each."""

import math
from collections.abc import Mapping

# Over many steps of healthy runs the teacher's entropy stays between these shares of log K. At the very start it
# is near 1 (nothing is learned yet), so the upper bound counts only after the warm-up.
LOWEST_ENTROPY, HIGHEST_ENTROPY = 0.02, 0.995
LOWEST_STD = 0.02
PATIENCE = 50
"""Steps in a row before a sign is believed."""


class Health:
    """Watches the logged values of each step.

    Args:
        prototypes: K of the projection head.
        warmup: steps before which a flat teacher is normal.
    """

    def __init__(self, prototypes: int, warmup: int) -> None:
        self.limit = math.log(max(2, prototypes))
        self.warmup = warmup
        self.counts: dict[str, int] = {}

    def __call__(self, values: Mapping[str, float], step: int) -> str | None:
        """A warning once a sign has held for :data:`PATIENCE` steps (and again each ten times as long), or None."""
        signs = {}
        entropy = values.get("teacher_entropy")
        if entropy is not None:
            signs["low"] = entropy < LOWEST_ENTROPY * self.limit
            signs["flat"] = step >= self.warmup and entropy > HIGHEST_ENTROPY * self.limit
        for key in ("cls_std", "token_std"):
            if key in values:
                signs[key] = values[key] < LOWEST_STD
        for sign, present in signs.items():
            self.counts[sign] = self.counts.get(sign, 0) + 1 if present else 0
            if self.counts[sign] >= PATIENCE and self.counts[sign] % (10 * PATIENCE) in (PATIENCE, 0):
                return self._remedy(sign, values)
        return None

    def _remedy(self, sign: str, values: Mapping[str, float]) -> str:
        if sign == "low":
            return (
                f"the teacher's entropy is {values['teacher_entropy']:.3g} nats of {self.limit:.3g}: it picks one "
                "prototype for everything. Raise objective.teacher_temperature or lower objective.center_momentum."
            )
        if sign == "flat":
            return (
                f"the teacher's entropy is {values['teacher_entropy']:.4g} nats of {self.limit:.4g}: it tells nothing "
                "apart. Lower objective.teacher_temperature, or lower optim.base_lr and lengthen optim.warmup_epochs."
            )
        return (
            f"{sign} is {values[sign]:.3g}: features are nearly the same for every input. Lower optim.base_lr, "
            "lengthen optim.warmup_epochs, or raise batch_size."
        )
