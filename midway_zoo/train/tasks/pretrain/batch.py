"""From a batch of the data loader to the views that the model takes."""

from collections.abc import Mapping

import torch
from torch import Tensor

from midway_zoo.train.data.photometric import augment


@torch.no_grad()
def normalised_views(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Photometric augmentation and normalisation of uint8 views, on whatever device they are.

    Args:
        batch: "dynamics" (B, 2, 3, S, S), "globals" (B, 4, 3, G, G), "locals" (B, 2 * n, 3, L, L) uint8, and
            "photometric" (B, V, K) with the parameters of all V = 2 + 4 + 2 * n views in that order.

    Returns:
        Float tensors (views, B, 3, H, W), normalised with ImageNet's mean and standard deviation.
    """
    first, results = 0, {}
    for key in ("dynamics", "globals", "locals"):
        views = batch[key]
        count = views.shape[1]
        if count:
            params = batch["photometric"][:, first : first + count]
            images = augment(views.transpose(0, 1).flatten(0, 1), params.transpose(0, 1).flatten(0, 1))
            results[key] = images.unflatten(0, (count, -1))
        first += count
    return results
