"""What the tests of the released layout share: parts of a file, and edits of it."""

import re
from collections.abc import Callable
from typing import Any

HEADS = {"num_heads": 3, "midway_heads": 3, "backward_heads": 6, "forward_heads": 6}

PARTS = ("student", "teacher", "motion_loss", "dino_loss")

Edit = Callable[[dict[str, Any]], Any]


def settings(**overrides: Any) -> dict[str, Any]:
    """``args_overrides`` for the switches of the dynamics."""
    return {"midway_model_configs": overrides}


def put(part: str, name: str, value: Any) -> Edit:
    """Replace a tensor, by a value or by a function of the old one."""

    def edit(checkpoint: dict[str, Any]) -> None:
        old = checkpoint[part].get(name)
        checkpoint[part][name] = value(old) if callable(value) else value

    return edit


def remove(part: str, *patterns: str) -> Edit:
    """Remove the tensors whose names match."""

    def edit(checkpoint: dict[str, Any]) -> None:
        checkpoint[part] = {
            name: value
            for name, value in checkpoint[part].items()
            if not any(re.search(pattern, name) for pattern in patterns)
        }

    return edit
