"""Pairs of frames with known motion, made from any pictures: generated scenes or frames of real clips.

Each picture is seen through a window that moves, rotates and zooms. On it lie discs that show other pictures; some of
them move independently. Motion and appearance are thus independent, and the truth is known for real frames too.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from midway_zoo.analysis.probes import MIN_GROUPS
from midway_zoo.errors import InputError
from midway_zoo.inference.frames import ClipLike, open_frames
from midway_zoo.inference.images import resize
from midway_zoo.results import ShapeRepr
from midway_zoo.scenes import SceneGenerator, ScenesConfig

DISCS = 3
"""Discs per pair; the first ``movers`` of them move independently, the others with their background."""
MIN_CLIPS = 20
"""With at least so many clips, the pictures of a clip form one group; a fifth of fewer clips is too few to test on."""
_SHARE = 0.6  # side of a window, as a fraction of the frame's shorter side: it can move without leaving the frame


class Pictures(Protocol):
    """Pictures that windows are cut from; any whole number names a picture."""

    def sample(self, numbers: Sequence[int], x: Tensor, y: Tensor) -> Tensor:
        """Colours (B, 3, H, W) in [0, 1] of B pictures at points (B, H, W), in pixels from their centres."""

    def group(self, number: int) -> int:
        """The group of a picture; pictures that show the same things share a group."""


class ScenePictures:
    """Generated scenes, sampled without interpolation."""

    def __init__(self, side: int, *, textures: str = "natural", seed: int = 0) -> None:
        config = ScenesConfig(
            height=side,
            width=side,
            frames=1,
            objects=(1, 4),
            textures=textures,
            natural=None if textures == "procedural" else 16,
            texture_size=256,
        )
        self._generator, self._middle = SceneGenerator(config, seed), (side - 1) / 2

    def sample(self, numbers: Sequence[int], x: Tensor, y: Tensor) -> Tensor:
        return self._generator.sample(list(numbers), 0, x + self._middle, y + self._middle)[0]

    def group(self, number: int) -> int:
        return number


class FramePictures:
    """Frames of clips, sampled bicubically; picture ``number`` is a window into frame ``number`` modulo their count.

    Args:
        clips: each as in :func:`~midway_zoo.infer_motion_latents`.
        side: side of the windows in pixels; frames are reduced so that a window shows about a third of them.
        frames: largest number of frames per clip.
        stride: distance of these frames.
        seed: seed of the positions of windows.

    Raises:
        InputError: for clips of fewer than five frames together.
    """

    def __init__(
        self, clips: Sequence[ClipLike], side: int, *, frames: int = 48, stride: int = 1, seed: int = 0
    ) -> None:
        taken: list[tuple[int, Tensor]] = []
        for number, clip in enumerate(clips):
            for frame in islice(open_frames(clip, stride=stride), frames):
                height, width = frame.image.shape[1:]
                scale = side / (_SHARE * min(height, width))
                taken.append((number, resize(frame.image, (round(height * scale), round(width * scale)))))
        if len(taken) < MIN_GROUPS:
            raise InputError(f"the clips hold {len(taken)} frame(s); at least {MIN_GROUPS} are needed: pass more.")
        # Shuffled, so that even a few pictures come from many clips.
        order = torch.randperm(len(taken), generator=_generator(seed, 0)).tolist()
        self._clips, self._frames = [taken[place][0] for place in order], [taken[place][1] for place in order]
        self._by_clip = len(set(self._clips)) >= MIN_CLIPS
        self._side, self._seed = side, seed

    def __len__(self) -> int:
        return len(self._frames)

    def sample(self, numbers: Sequence[int], x: Tensor, y: Tensor) -> Tensor:
        seen = []
        for number, across, down in zip(numbers, x, y, strict=True):
            frame = self._frames[number % len(self)]
            height, width = frame.shape[1:]
            drawn = torch.rand(2, generator=_generator(self._seed, number)) - 0.5
            # Room for the window's own motion, so that it does not leave the frame.
            room = torch.tensor([width, height]) - 1.3 * self._side
            centre = torch.tensor([width - 1, height - 1]) / 2 + drawn * room.clamp(min=0)
            at = torch.stack(
                [(2 * (across + centre[0]) + 1) / width - 1, (2 * (down + centre[1]) + 1) / height - 1], -1
            )
            seen.append(F.grid_sample(frame[None], at[None], "bicubic", "reflection", align_corners=False)[0])
        return torch.stack(seen).clamp(0, 1)

    def group(self, number: int) -> int:
        place = number % len(self)
        return self._clips[place] if self._by_clip else place


@dataclass(frozen=True, repr=False, eq=False)
class Motions(ShapeRepr):
    """B motions of windows: a point p, in pixels from the centre, goes to ``zoom * R(angle) p + shift``."""

    shift: Tensor
    """(B, 2) pixels, x right and y down."""
    zoom: Tensor
    """(B,) factor; above 1 things get larger."""
    angle: Tensor
    """(B,) radians, clockwise as seen."""
    movers: Tensor
    """(B,) int64 from 0 to :data:`DISCS`: how many discs move independently."""

    def __len__(self) -> int:
        return len(self.shift)

    def __getitem__(self, rows: Tensor) -> "Motions":
        return Motions(self.shift[rows], self.zoom[rows], self.angle[rows], self.movers[rows])

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Where points (B, ...) go."""
        cosine, sine = (_like(self.zoom * part, x) for part in (self.angle.cos(), self.angle.sin()))
        shift_x, shift_y = (_like(part, x) for part in self.shift.unbind(1))
        return cosine * x - sine * y + shift_x, sine * x + cosine * y + shift_y

    def back(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Where points (B, ...) come from."""
        cosine, sine = (_like(part / self.zoom, x) for part in (self.angle.cos(), self.angle.sin()))
        shift_x, shift_y = (_like(part, x) for part in self.shift.unbind(1))
        return cosine * (x - shift_x) + sine * (y - shift_y), -sine * (x - shift_x) + cosine * (y - shift_y)


@dataclass(frozen=True, repr=False, eq=False)
class MovedPairs(ShapeRepr):
    """B pairs and their motion."""

    source: Tensor
    """(B, 3, S, S) float32 in [0, 1]."""
    target: Tensor
    """(B, 3, S, S)."""
    flow: Tensor
    """(B, 2, S, S) float32, source to target, in pixels; finite everywhere."""
    motions: Motions
    pictures: Tensor
    """(B,) int64: number of the picture in the background of each pair."""


def draw_motions(count: int, side: int, *, seed: int = 0, longest: float = 0.12, movers: bool = True) -> Motions:
    """Motions of B pairs: shifts up to ``longest`` sides, zoom from 1 / 1.15 to 1.15, up to 12 degrees either way."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.rand(count, 5, generator=generator)
    length, direction = drawn[:, 0].sqrt() * longest * side, 2 * math.pi * drawn[:, 1]
    shift = length[:, None] * torch.stack([direction.cos(), direction.sin()], dim=1)
    number = (drawn[:, 4] * (DISCS + 1)).long() if movers else torch.zeros(count, dtype=torch.int64)
    return Motions(
        shift, torch.exp((2 * drawn[:, 2] - 1) * math.log(1.15)), (2 * drawn[:, 3] - 1) * math.radians(12), number
    )


def circle_of_shifts(count: int, side: int, *, length: float = 0.11) -> Motions:
    """B shifts of ``length`` sides, evenly spread over all directions, without zoom, rotation or moving discs."""
    angle = 2 * math.pi * torch.arange(count) / count
    shift = length * side * torch.stack([angle.cos(), angle.sin()], dim=1)
    return Motions(shift, torch.ones(count), torch.zeros(count), torch.zeros(count, dtype=torch.int64))


def moved_pairs(
    pictures: Pictures, numbers: Sequence[int], motions: Motions, side: int, *, seed: int = 0
) -> MovedPairs:
    """B pairs of pictures, each seen before and after a motion.

    Args:
        pictures: pictures that windows are cut from.
        numbers: numbers of B pictures.
        motions: B motions.
        side: S, side of the windows in pixels.
        seed: seed of the discs, whose positions depend on nothing but it and the picture.
    """
    steps = torch.arange(side) - (side - 1) / 2
    y, x = (part.expand(len(numbers), -1, -1) for part in torch.meshgrid(steps, steps, indexing="ij"))
    source, target = pictures.sample(numbers, x, y), pictures.sample(numbers, *motions.back(x, y))
    there_x, there_y = motions.forward(x, y)
    flow = torch.stack([there_x - x, there_y - y], dim=1)
    drawn = torch.stack([torch.rand(DISCS, 5, generator=_generator(seed, number)) for number in numbers])
    for disc in range(DISCS):
        place, radius, push = _disc(drawn[:, disc], side)
        ground = torch.stack(motions.forward(place[:, 0], place[:, 1]), dim=1) - place
        own = (motions.movers > disc).float()[:, None] * push
        step = ground + own
        others = [number + 7919 * (disc + 1) for number in numbers]
        for image, at in ((source, place), (target, place + step)):
            near_x, near_y = x - _like(at[:, 0], x), y - _like(at[:, 1], y)
            inside = (torch.hypot(near_x, near_y) < _like(radius, x))[:, None]
            image.copy_(torch.where(inside, pictures.sample(others, near_x, near_y), image))
        here = torch.hypot(x - _like(place[:, 0], x), y - _like(place[:, 1], y)) < _like(radius, x)
        flow = torch.where(here[:, None], step[:, :, None, None], flow)
    return MovedPairs(source, target, flow, motions, torch.tensor(list(numbers)))


def crossed_pairs(
    pictures: Pictures, numbers: Sequence[int], motions: Motions, side: int, *, seed: int = 0
) -> MovedPairs:
    """:func:`moved_pairs` of every picture under every motion, ordered by picture, then by motion."""
    each = torch.arange(len(motions)).repeat(len(numbers))
    return moved_pairs(
        pictures, [number for number in numbers for _ in range(len(motions))], motions[each], side, seed=seed
    )


def _disc(drawn: Tensor, side: int) -> tuple[Tensor, Tensor, Tensor]:
    """Centres (B, 2), radii (B,) and own pushes (B, 2) of a disc of each pair, from numbers (B, 5) in [0, 1)."""
    place = (drawn[:, :2] - 0.5) * 0.8 * side
    direction = 2 * math.pi * drawn[:, 3]
    push = (0.06 + 0.09 * drawn[:, 4:]) * side * torch.stack([direction.cos(), direction.sin()], dim=1)
    return place, (0.08 + 0.08 * drawn[:, 2]) * side, push


def _generator(seed: int, number: int) -> torch.Generator:
    return torch.Generator().manual_seed((seed * 1_000_003 + number) % 2**63)


def _like(values: Tensor, x: Tensor) -> Tensor:
    """View (B,) so that it broadcasts against ``x`` (B, ...)."""
    return values.view(-1, *[1] * (x.ndim - 1))
