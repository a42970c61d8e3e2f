"""Golden outputs: what bundled weights gave when they were bundled, to be had again on any machine."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from midway_zoo.errors import CheckpointError
from midway_zoo.inference.features import extract_features
from midway_zoo.inference.flow import predict_flow
from midway_zoo.inference.heatmap import perturbation_heatmap
from midway_zoo.inference.motion import infer_motion_latent
from midway_zoo.manifest import bundled_file
from midway_zoo.models.network import MidwayNetwork

TOLERANCE = 1e-3
"""Largest difference from a golden output that is accepted, relative to that output's largest absolute value.

Sums in another order move float32 outputs by little: measured on a midway_nano, two threads instead of one, attention
not fused and convolutions without oneDNN changed none by more than 2e-6 of its scale. What is wrong shows more: one
matrix a hundredth too large 2e-3 to 2e-2, position tables transposed 3e-2, BGR instead of RGB 2. The tolerance lies
between, with room for other processors.
"""

_SIZES = {"square": (64, 64), "wide": (72, 104)}
_SHIFT = (3.0, -2.0)
_CHANNELS, _PIXELS = 8, 4  # one channel of 8 and one pixel of 4 x 4 are kept: enough to notice, small in the wheel


def golden_pair(height: int, width: int) -> tuple[Tensor, Tensor]:
    """Two images (1, 3, H, W) in [0, 1] by formula: waves of several directions and the same waves moved by (3, -2)
    pixels, x right and y down."""
    y, x = torch.meshgrid(
        torch.arange(height, dtype=torch.float64), torch.arange(width, dtype=torch.float64), indexing="ij"
    )
    return _waves(x, y), _waves(x - _SHIFT[0], y - _SHIFT[1])


def _waves(x: Tensor, y: Tensor) -> Tensor:
    channels = []
    for channel in range(3):
        total = torch.zeros_like(x)
        for wave, (period, angle) in enumerate(((23.0, 0.4), (13.0, 1.7), (9.0, 2.6), (31.0, 5.1))):
            along = x * math.cos(angle + 0.5 * channel) + y * math.sin(angle + 0.5 * channel)
            total += torch.sin(2 * math.pi * along / period + wave + 2.0 * channel)
        channels.append(0.5 + total / 8)
    return torch.stack(channels)[None].float()


def golden_outputs(network: MidwayNetwork) -> dict[str, Tensor]:
    """Outputs of every public function on the two pairs, thinned: a few hundred numbers each."""
    found: dict[str, Tensor] = {}
    for size, (height, width) in _SIZES.items():
        source, target = golden_pair(height, width)
        features = extract_features(network, source, blocks=network.config.feature_blocks, backward=True, size="full")
        maps = {f"block{block}": value for block, value in features.maps.items()}
        maps |= {f"backward{level}": value for level, value in (features.backward or {}).items()}
        for name, value in maps.items():
            found[f"{size}.{name}"] = _tensor(value)[:, ::_CHANNELS]
        found[f"{size}.cls"] = features.cls
        found[f"{size}.motion"] = infer_motion_latent(network, source, target, size="full").tokens
        at = (width / 2, height / 2)
        found[f"{size}.heatmap"] = perturbation_heatmap(network, source, target, at, size="full", draws=1).heatmap
        if network.config.flow_head is not None:
            prediction = predict_flow(network, source, target, overlap=0.4)
            found[f"{size}.flow"] = _tensor(prediction.flow)[:, :, ::_PIXELS, ::_PIXELS]
            found[f"{size}.confidence"] = _tensor(prediction.confidence)[..., ::_PIXELS, ::_PIXELS]
    return {name: value.detach().clone().contiguous() for name, value in found.items()}


def _tensor(value: Tensor | list[Tensor]) -> Tensor:
    return value if isinstance(value, Tensor) else torch.cat(value)


def golden_file(entry: Mapping[str, Any]) -> Path:
    """Where the golden outputs of a bundled entry are: beside its weights."""
    return bundled_file(entry).with_suffix(".golden.safetensors")


def compare(found: Mapping[str, Tensor], golden: Mapping[str, Tensor]) -> dict[str, float]:
    """Largest difference of every output, relative to the largest absolute golden value.

    Raises:
        CheckpointError: if they are not the same outputs, by name and shape.
    """
    shapes = [{name: tuple(value.shape) for name, value in outputs.items()} for outputs in (found, golden)]
    if shapes[0] != shapes[1]:
        wrong = sorted(
            name for name in shapes[0].keys() | shapes[1].keys() if shapes[0].get(name) != shapes[1].get(name)
        )
        raise CheckpointError(f"the golden outputs belong to another version of the package: {', '.join(wrong[:4])}.")
    scales = {name: max(float(value.abs().max()), 1e-12) for name, value in golden.items()}
    return {name: float((found[name] - golden[name]).abs().max()) / scales[name] for name in golden}


def check_golden(name: str, entry: Mapping[str, Any], network: MidwayNetwork) -> float:
    """Compare a bundled network's outputs with the golden ones; returns the largest relative difference.

    Raises:
        CheckpointError: if the golden outputs are missing or damaged, or one differs by more than ``TOLERANCE``.
    """
    path = golden_file(entry)
    try:
        golden = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{name}: {path} cannot be read ({error}). Reinstall midway-zoo.") from error
    differences = compare(golden_outputs(network), golden)
    worst = max(differences, key=lambda key: (differences[key] != differences[key], differences[key]))  # NaN first
    if not differences[worst] <= TOLERANCE:
        raise CheckpointError(
            f"{name}: the output {worst} differs from the golden one by {differences[worst]:.1e} of its scale, "
            f"{TOLERANCE:.0e} is allowed. Check this installation of torch and timm; the weights themselves are good."
        )
    return differences[worst]
