"""Label propagation through a clip by the similarity of features (DINO's protocol for DAVIS-2017)."""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from midway_zoo.checks import check_integer
from midway_zoo.errors import InputError
from midway_zoo.inference.images import ImageLike, resize, to_tensor
from midway_zoo.readouts.backbone import BackboneLike, load_backbone


@dataclass(frozen=True)
class PropagationOptions:
    """Options of label propagation; the defaults are DINO's for ViTs with patches of 16."""

    side: int = 480
    """Shorter side in pixels that frames are resized to."""
    context: int = 7
    """Number of previous frames that labels are propagated from, in addition to the first frame."""
    radius: int = 12
    """Labels are propagated from tokens within this many rows and columns."""
    top: int = 5
    """Number of most similar tokens, over all context frames, that labels are propagated from."""
    temperature: float = 0.1
    block: int | None = None
    """Encoder block (0-based) whose normalised tokens are compared; None for the last."""

    def __post_init__(self) -> None:
        for name in ("side", "context", "radius", "top"):
            value, least = getattr(self, name), 1 if name in ("side", "top") else 0
            check_integer(name, value, least)
        if not self.temperature > 0:
            raise InputError(f"temperature={self.temperature!r} must be above 0.")


def propagate_labels(
    model: BackboneLike, frames: Iterable[ImageLike], labels: Tensor, *, options: PropagationOptions | None = None
) -> Iterator[Tensor]:
    """Propagate the label map of the first frame through a clip, without any training.

    Each token averages the soft labels of the ``top`` most similar tokens nearby, in the first frame and the last
    ``context`` frames, weighted by exp(cosine / temperature). The soft labels are enlarged bilinearly and rescaled to
    [0, 1] per label, and the highest wins. Memory does not grow with the clip.

    Args:
        model: a network or a name, of this zoo or of timm ("timm:NAME").
        frames: images of one size, the first one labelled; read one at a time.
        labels: (H, W) integers of the first frame, at its size; 0 is the background.
        options: options of the propagation; None for the defaults.

    Yields:
        (H, W) int64 per frame; for the first one ``labels`` itself.

    Raises:
        InputError: if sizes differ, or labels are not integers (H, W).
    """
    options = options or PropagationOptions()
    if labels.ndim != 2 or labels.is_floating_point() or labels.is_complex():
        raise InputError(f"labels are integers (H, W), not {labels.dtype} {tuple(labels.shape)}.")
    return _propagate(model, frames, labels.long(), options)


@torch.no_grad()
def _propagate(
    model: BackboneLike, frames: Iterable[ImageLike], labels: Tensor, options: PropagationOptions
) -> Iterator[Tensor]:
    backbone = load_backbone(model)
    device = backbone.get_buffer("mean").device
    values = labels.unique()  # labels may have gaps: 1 and 7 stay 1 and 7
    first: tuple[Tensor, Tensor] | None = None
    recent: deque[tuple[Tensor, Tensor]] = deque(maxlen=options.context or None)
    nearby: Tensor | None = None
    for index, frame in enumerate(frames):
        image = to_tensor(frame)
        if image.shape[-2:] != labels.shape:
            raise InputError(
                f"frame {index} has {image.shape[-1]} x {image.shape[-2]} pixels, the labels "
                f"{labels.shape[1]} x {labels.shape[0]}."
            )
        seen = resize(image, _size(image, options.side, backbone.patch_size))[None].to(device)
        grid = backbone.grid_of(seen)
        features = F.normalize(_tokens(backbone.maps(seen, _blocks(options, backbone.depth))[0][0]).float(), dim=1)
        if first is None:
            soft = _soft_labels(labels.to(device), values.to(device), grid)
            nearby = _neighbourhood(grid, options.radius, device)
            first = features, soft
            yield labels
            continue
        assert nearby is not None
        context = [first, *recent] if options.context else [first]
        soft = _carry(features, context, nearby, options)
        if options.context:
            recent.append((features, soft))
        yield _decide(soft, values, grid, (labels.shape[0], labels.shape[1])).cpu()


def _blocks(options: PropagationOptions, depth: int) -> list[int] | None:
    if options.block is not None and not 0 <= options.block < depth:
        raise InputError(f"block={options.block}: the encoder has blocks 0 to {depth - 1}.")
    return None if options.block is None else [options.block]


def _size(image: Tensor, side: int, patch: int) -> tuple[int, int]:
    """(height, width) with the shorter side near ``side``, both multiples of the patch."""
    height, width = image.shape[-2:]
    scale = side / min(height, width)
    return max(round(height * scale / patch), 1) * patch, max(round(width * scale / patch), 1) * patch


def _tokens(feature_map: Tensor) -> Tensor:
    """(D, h, w) -> (h * w, D)."""
    return feature_map.flatten(1).T


def _soft_labels(labels: Tensor, values: Tensor, grid: tuple[int, int]) -> Tensor:
    """One-hot labels of each token, (h * w, K), from the pixel of the label map (H, W) at its centre."""
    small = F.interpolate(labels[None, None].float(), grid, mode="nearest-exact")[0, 0]
    return _tokens((small[None] == values[:, None, None].float()).float())


def _neighbourhood(grid: tuple[int, int], radius: int, device: torch.device) -> Tensor:
    """(N, N) bool: tokens at most ``radius`` rows and columns apart."""
    y, x = (axis.flatten() for axis in torch.meshgrid(*(torch.arange(n, device=device) for n in grid), indexing="ij"))
    return ((y[:, None] - y).abs() <= radius) & ((x[:, None] - x).abs() <= radius)


def _carry(
    features: Tensor, context: list[tuple[Tensor, Tensor]], nearby: Tensor, options: PropagationOptions
) -> Tensor:
    """Soft labels (N, K) of a frame's features (N, D) from those of the context frames."""
    cosines = torch.cat([(features @ other.T).masked_fill(~nearby, -torch.inf) for other, _ in context], dim=1)
    best, where = cosines.topk(min(options.top, cosines.shape[1]), dim=1)
    weights = (best / options.temperature).softmax(dim=1)
    return (torch.cat([soft for _, soft in context])[where] * weights[..., None]).sum(1)


def _decide(soft: Tensor, values: Tensor, grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """The label map (H, W) of soft labels (N, K): enlarged, rescaled to [0, 1] per label, the highest wins."""
    maps = F.interpolate(soft.T.unflatten(1, grid)[None], size, mode="bilinear", align_corners=False)[0]
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    # A label that has disappeared stays at zero: rescaling would turn it into noise.
    rescaled = torch.where(high - low > 1e-6, (maps - low) / (high - low).clamp(min=1e-6), maps)
    return values.to(soft.device)[rescaled.argmax(0)]
