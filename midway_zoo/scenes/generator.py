"""Renders scenes in batches, on the CPU or where the training runs."""

from collections.abc import Sequence
from dataclasses import fields

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from midway_zoo.checks import is_integer
from midway_zoo.errors import InputError, InputTypeError
from midway_zoo.scenes.batch import SceneBatch
from midway_zoo.scenes.config import ScenesConfig
from midway_zoo.scenes.layout import Layout, draw_layout
from midway_zoo.scenes.paint import Lookup, add_noise, cast_shadows, light_up, paint
from midway_zoo.scenes.raster import Coverage, Outlines
from midway_zoo.scenes.textures import Images, Procedural, Texture

# Pixels rendered at once: few enough for a CPU's cache, or enough to keep another device busy.
_CHUNK = {"cpu": 2**17}
_CHUNK_ELSEWHERE = 2**24


class SceneGenerator:
    """An endless supply of scenes; scene ``index`` is a pure function of (configuration, seed, index).

    It does not depend on the batch it is rendered in, and on the device only up to rounding.

    Args:
        config: what scenes look like.
        seed: a whole number; another one gives other scenes.
        device: where scenes are rendered and results are stored.

    Raises:
        MissingFileError: if ``config.textures`` is not a folder.
        InputError: if it holds no image that can be read.
    """

    def __init__(self, config: ScenesConfig, seed: int, device: str | torch.device = "cpu") -> None:
        if not is_integer(seed):
            raise InputTypeError(f"seed={seed!r}: an integer is expected.")
        self.config = config
        self.seed = seed
        self.device = torch.device(device)
        self._texture: Texture = Procedural(config) if config.procedural else Images.load(config, self.device)

    @torch.no_grad()
    def render(self, indices: Sequence[int] | Tensor) -> SceneBatch:
        """The scenes of these indices.

        Args:
            indices: B whole numbers of at least 0, in any order.

        Raises:
            InputError: if there is none, or if one is not such a number.
        """
        numbers = _indices(indices)
        step = self._scenes_at_once()
        result = self._empty(len(numbers))
        for start in range(0, len(numbers), step):
            part = self._render(numbers[start : start + step])
            for field in fields(SceneBatch):  # copied while still in the cache, unlike by torch.cat at the end
                getattr(result, field.name)[start : start + step] = getattr(part, field.name)
        return result

    @torch.no_grad()
    def frames(self, indices: Sequence[int] | Tensor) -> Tensor:
        """The same as ``render(indices).frames`` for less work: (B, T, 3, H, W) float32 in [0, 1].

        Raises:
            InputError: as :meth:`render`.
        """
        numbers, step = _indices(indices), self._scenes_at_once()
        parts = (numbers[start : start + step] for start in range(0, len(numbers), step))
        return torch.cat([self._draw(part)[0].clamp_(0, 1) for part in parts])

    @torch.no_grad()
    def sample(self, indices: Sequence[int] | Tensor, frame: int, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """What is visible at any points of one frame, also between pixels, without lighting changes or noise.

        ``sample(i, t + 1, x + flow_x, y + flow_y)`` is the next frame warped back without interpolation. Away from
        edges and occlusions it equals ``sample(i, t, x, y)``.

        Args:
            indices: B, as for :meth:`render`.
            frame: 0 to T - 1.
            x: (B, H', W') columns, in pixels; 0 is the centre of the first.
            y: (B, H', W') rows.

        Returns:
            (B, 3, H', W') float32 colours in [0, 1] and (B, H', W') int64 instances. Points outside
            the frame show the scene as it continues there.

        Raises:
            InputError: for a frame or shapes that do not fit.
        """
        if not 0 <= frame < self.config.frames:
            raise InputError(f"frame={frame}: the scenes have frames 0 to {self.config.frames - 1}.")
        numbers = _indices(indices)
        if x.shape != y.shape or x.ndim != 3 or len(x) != len(numbers):
            raise InputError(f"x {list(x.shape)} and y {list(y.shape)}: both [{len(numbers)}, H, W] are expected.")
        layout = draw_layout(self.config, self._texture, self.seed, numbers)
        x = x.to(self.device, torch.float32)[:, None] - (self.config.width - 1) / 2
        y = y.to(self.device, torch.float32)[:, None] - (self.config.height - 1) / 2
        frames = slice(frame, frame + 1)
        coverage = Outlines(layout, self.device).cover(frames, x, y, antialias=self.config.antialias)
        (instances,) = Lookup(coverage.owner, layout.shapes.shape[1])(layout.instances[:, None, :, None], torch.int64)
        colours = paint(layout, self._texture, coverage, frames, x, y)[:, 0]
        return colours, instances.reshape(coverage.owner.shape)[:, 0]

    def _scenes_at_once(self) -> int:
        pixels = self.config.frames * self.config.height * self.config.width
        return max(1, _CHUNK.get(self.device.type, _CHUNK_ELSEWHERE) // pixels)

    def _empty(self, count: int) -> SceneBatch:
        config, device = self.config, self.device
        clip, steps, size = (count, config.frames), (count, config.frames - 1), (config.height, config.width)
        return SceneBatch(
            frames=torch.empty(*clip, 3, *size, device=device),
            flow=torch.empty(*steps, 2, *size, device=device),
            occlusion=torch.empty(*steps, *size, dtype=torch.bool, device=device),
            labels=torch.empty(*clip, *size, dtype=torch.int64, device=device),
            instances=torch.empty(*clip, *size, dtype=torch.int64, device=device),
        )

    def _draw(self, indices: npt.NDArray[np.int64]) -> tuple[Tensor, Layout, Outlines, Tensor]:
        """Frames, and what they were made from: layout, outlines, and the layer that each pixel's centre shows."""
        config = self.config
        layout = draw_layout(config, self._texture, self.seed, indices)
        outlines = Outlines(layout, self.device)
        x, y = self._centred()
        everything = slice(0, config.frames)
        coverage = outlines.cover(everything, x, y, antialias=config.antialias)
        frames = self._exposed(layout, outlines, coverage)
        if config.lighting:
            light_up(frames, layout.light)
        if config.noise:
            add_noise(frames, layout.noise_keys, config.noise)
        return frames, layout, outlines, coverage.owner

    def _exposed(self, layout: Layout, outlines: Outlines, coverage: Coverage) -> Tensor:
        """Colours of all frames with shadows: at one moment, or the mean over the moments of the exposure."""
        everything = slice(0, self.config.frames)
        x, y = self._centred()
        if not layout.exposures:
            frames = paint(layout, self._texture, coverage, everything, x, y)
            return cast_shadows(frames, layout, outlines, coverage.owner, x, y, self.config.shadow)
        total: Tensor | None = None
        for moment in layout.exposures:
            edges = Outlines(moment, self.device)
            covered = edges.cover(everything, x, y, antialias=self.config.antialias)
            seen = paint(moment, self._texture, covered, everything, x, y)
            seen = cast_shadows(seen, moment, edges, covered.owner, x, y, self.config.shadow)
            total = seen if total is None else total.add_(seen)
        assert total is not None
        return total.div_(len(layout.exposures))

    def _render(self, indices: npt.NDArray[np.int64]) -> SceneBatch:
        frames, layout, outlines, owner = self._draw(indices)
        flow, occlusion = self._motion(layout, outlines, owner[:, :-1], *self._centred())
        table = np.repeat(layout.labels[:, None, :, None], self.config.frames, axis=1)
        numbers = np.repeat(layout.instances[:, None, :, None], self.config.frames, axis=1)
        table = np.concatenate([table, numbers], axis=-1)
        labels, instances = Lookup(owner, outlines.layers)(table, torch.int64)
        shape = owner.shape
        return SceneBatch(frames.clamp_(0, 1), flow, occlusion, labels.reshape(shape), instances.reshape(shape))

    def _centred(self) -> tuple[Tensor, Tensor]:
        """x (1, 1, 1, W) and y (1, 1, H, 1) of the pixels, relative to the frame's centre."""
        sides = (self.config.width, self.config.height)
        x, y = (torch.arange(side, device=self.device) - (side - 1) / 2 for side in sides)
        return x.reshape(1, 1, 1, -1), y.reshape(1, 1, -1, 1)

    def _motion(self, layout: Layout, outlines: Outlines, owner: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        # Displacements rather than positions, so that float32 rounds the flow itself.
        change = layout.motion - np.eye(2, 3)
        a, b, c, d, e, f = (
            column.reshape(owner.shape)
            for column in Lookup(owner, outlines.layers)(change.reshape(*change.shape[:3], 6), torch.float32)
        )
        flow = torch.stack([a.mul_(x).add_(b.mul_(y)).add_(c), d.mul_(x).add_(e.mul_(y)).add_(f)], dim=2)
        there_x, there_y = flow[:, :, 0] + x, flow[:, :, 1] + y
        occlusion = outlines.covered(slice(1, self.config.frames), there_x, there_y, owner)
        occlusion |= there_x.abs_() > self.config.width / 2
        occlusion |= there_y.abs_() > self.config.height / 2
        return flow, occlusion


def _indices(indices: Sequence[int] | Tensor) -> npt.NDArray[np.int64]:
    if isinstance(indices, Tensor):
        indices = indices.flatten().tolist()
    numbers = list(indices)
    if not numbers or not all(is_integer(number, 0, 2**63 - 1) for number in numbers):
        raise InputError(f"indices={indices!r}: at least one integer is expected, from 0 to 2**63 - 1.")
    return np.array(numbers, dtype=np.int64)
