"""Metrics of flow: end-point error, outliers, and both by length of motion and by occlusion."""

import torch
from torch import Tensor

from midway_zoo.errors import InputError

_OUTLIERS = {"px1": 1.0, "px3": 3.0, "px5": 5.0}
_LENGTHS = {"s0_10": (0.0, 10.0), "s10_40": (10.0, 40.0), "s40_plus": (40.0, float("inf"))}
_NAMES = ("epe", *_OUTLIERS, "fl_all", *_LENGTHS, "epe_occ", "epe_noc")
_PERCENT = (*_OUTLIERS, "fl_all")


class FlowMetrics:
    """Measures of flow over a data set.

    Each is taken twice: pooled over all valid pixels (Sintel, FlyingThings), and with the suffix ``_per_image`` as the
    mean over images of the image's own mean (KITTI's end-point error); images without such a pixel do not count.

    - ``epe``: mean end-point error in pixels, |prediction - target|.
    - ``px1``, ``px3``, ``px5``: percent of pixels whose error is above 1, 3, 5 pixels. (RAFT and torchvision's
      reference report the complement, pixels below.)
    - ``fl_all``: percent with an error above 3 pixels and above 5 % of the target's length (KITTI).
    - ``s0_10``, ``s10_40``, ``s40_plus``: end-point error where the target is shorter than 10 pixels, from 10 to below
      40, and from 40 (Sintel).
    - ``epe_occ``, ``epe_noc``: end-point error where the pixel is occluded and where it is not; absent unless occlusion
      masks were given.

    A pixel is valid where both components of the target are finite. A prediction that is not finite there is an error,
    not an outlier: it is counted in :meth:`update`, without waiting for the device, and :meth:`compute` raises.

    On several processes each updates its own, and the states are summed:
    ``metrics.load_state(accelerator.reduce(metrics.state(), "sum"))``, or with any other sum over processes.

    Args:
        max_flow: leave out pixels whose target is as long as this or longer, in pixels (GMFlow's FlyingThings numbers
            cut at 400 and compare with no others); None keeps all.

    Raises:
        InputError: if ``max_flow`` is not positive.
    """

    def __init__(self, *, max_flow: float | None = None) -> None:
        if max_flow is not None and not max_flow > 0:
            raise InputError(f"max_flow={max_flow!r}: a positive number of pixels is expected.")
        self.max_flow = max_flow
        self._state: Tensor
        self.reset()

    def reset(self) -> None:
        """Reset all sums."""
        # Per measure: sum and number of pixels, sum of the images' means and number of images; a last row whose first
        # item counts predictions that are not finite.
        self._state = torch.zeros(len(_NAMES) + 1, 4, dtype=torch.float64)

    @torch.no_grad()
    def update(self, prediction: Tensor, target: Tensor, *, occlusion: Tensor | None = None) -> None:
        """Add image pairs.

        Args:
            prediction: (B, 2, H, W) in pixels.
            target: (B, 2, H, W); NaN = invalid.
            occlusion: (B, 1, H, W) or (B, H, W), nonzero where the source pixel is not seen in the target frame.

        Raises:
            InputError: for other shapes.
        """
        if target.ndim != 4 or target.shape[1] != 2 or prediction.shape != target.shape:
            raise InputError(
                f"prediction {tuple(prediction.shape)} and target {tuple(target.shape)}: both (B, 2, H, W) expected."
            )
        prediction, target = prediction.float().flatten(2), target.to(prediction.device).float().flatten(2)
        valid = target.isfinite().all(dim=1)
        length = _length(target.where(valid[:, None], 0))
        if self.max_flow is not None:
            valid &= length < self.max_flow
        broken = valid & ~prediction.isfinite().all(dim=1)
        error = _length((prediction - target).where((valid & ~broken)[:, None], 0))
        measures = {"epe": (error, valid)}
        measures |= {name: ((error > bound).float(), valid) for name, bound in _OUTLIERS.items()}
        measures["fl_all"] = (((error > 3) & (error > 0.05 * length)).float(), valid)
        for name, (low, high) in _LENGTHS.items():
            measures[name] = (error, valid & (length >= low) & (length < high))
        if occlusion is not None:
            hidden = _mask(occlusion, target.shape[0], valid.shape[1], prediction.device)
            measures |= {"epe_occ": (error, valid & hidden), "epe_noc": (error, valid & ~hidden)}
        rows = torch.zeros(self._state.shape, dtype=torch.float64, device=prediction.device)
        for name, (values, where) in measures.items():
            count, total = where.sum(dim=1), (values * where).sum(dim=1, dtype=torch.float64)
            means = total / count.clamp_min(1)
            rows[_NAMES.index(name)] = torch.stack([item.sum().double() for item in (total, count, means, count > 0)])
        rows[-1, 0] = broken.sum()
        self._state = self._state.to(rows.device) + rows

    def compute(self) -> dict[str, float]:
        """All measures by name; NaN if there were no pixels.

        Raises:
            InputError: if a prediction was not finite where the target is valid, or no pixel was valid.
        """
        if broken := int(self._state[-1, 0]):
            raise InputError(f"{broken} pixel(s) of the predictions are NaN or infinite where the target is valid.")
        if not self._state[0, 1]:
            raise InputError("no valid pixel was seen: update() was not called, or every target is invalid.")
        pooled, per_image = {}, {}
        rows = dict(zip(_NAMES, self._state[:-1].tolist(), strict=True))
        for name, (total, count, means, images) in rows.items():
            if name in ("epe_occ", "epe_noc") and not rows["epe_occ"][1] + rows["epe_noc"][1]:
                continue
            factor = 100 if name in _PERCENT else 1
            pooled[name] = factor * total / count if count else float("nan")
            per_image[f"{name}_per_image"] = factor * means / images if images else float("nan")
        return pooled | per_image

    def state(self) -> Tensor:
        """The accumulated sums: float64, on the predictions' device. The sum of two is that of both data sets."""
        return self._state.clone()

    def load_state(self, state: Tensor) -> None:
        """Replace the accumulated sums by a (summed) :meth:`state`.

        Raises:
            InputError: for another shape.
        """
        if state.shape != self._state.shape:
            raise InputError(f"state of shape {tuple(state.shape)}: {tuple(self._state.shape)} is expected.")
        self._state = state.detach().double().clone()

    def merge(self, other: "FlowMetrics") -> None:
        """Add the sums of another one."""
        self._state = self._state + other._state.to(self._state.device)


def _mask(occlusion: Tensor, batch: int, pixels: int, device: torch.device) -> Tensor:
    flat = occlusion.to(device).flatten(1)
    if occlusion.ndim not in (3, 4) or flat.shape != (batch, pixels):
        raise InputError(f"occlusion {tuple(occlusion.shape)}: (B, 1, H, W) or (B, H, W) of the flow is expected.")
    return flat != 0


def _length(vectors: Tensor) -> Tensor:
    """Lengths (B, H, W) of vectors (B, 2, H, W): on a CPU many times faster than a norm over two channels."""
    return torch.hypot(vectors[:, 0], vectors[:, 1])
