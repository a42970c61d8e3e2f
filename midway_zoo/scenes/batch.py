"""What a scene generator returns."""

from dataclasses import dataclass

from torch import Tensor

from midway_zoo.results import ShapeRepr


@dataclass(frozen=True, repr=False, eq=False)
class SceneBatch(ShapeRepr):
    """B clips of T frames with their ground truth."""

    frames: Tensor
    """(B, T, 3, H, W) float32 in [0, 1], RGB, before normalisation."""
    flow: Tensor
    """(B, T - 1, 2, H, W) float32: displacement in pixels, from frame t to frame t + 1, of the point seen at each
    pixel; channel 0 to the right, 1 down. Finite everywhere, including occluded pixels."""
    occlusion: Tensor
    """(B, T - 1, H, W) bool: the point seen at the pixel in frame t is occluded in frame t + 1 or outside it."""
    labels: Tensor
    """(B, T, H, W) int64: class of what is seen at each pixel's centre; 0 is background."""
    instances: Tensor
    """(B, T, H, W) int64: 0 for background, 1, 2, ... for objects, nearer ones higher; the same object has the
    same number in all frames."""

    def __len__(self) -> int:
        return self.frames.shape[0]
