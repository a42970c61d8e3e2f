"""The demo's picture: each finding as a titled block."""

import math
from collections.abc import Sequence

import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from midway_zoo import style
from midway_zoo.demo import sheet
from midway_zoo.demo.crossed import CrossedMotion
from midway_zoo.demo.findings import ClipFindings, Findings, flow_errors, track_errors
from midway_zoo.demo.footage import Footage
from midway_zoo.demo.sheet import Block
from midway_zoo.visualize import features_to_image, flow_to_image, flow_wheel, heatmap_overlay

_CELL = 192  # approximate side in pixels of a square frame's picture
_ROW = 1192  # width of a row of frames
_MOST_COLUMNS = 6
_BAR = 60  # approximate width of a colour bar


class Panels:
    """Draws the blocks about one footage, all at the same scale."""

    def __init__(self, footage: Footage, findings: ClipFindings) -> None:
        self.footage, self.findings = footage, findings
        height, width = footage.frames.shape[2:]
        self.factor = max(1, round(_CELL / math.sqrt(height * width)))
        columns = (_ROW + sheet.GAP) // (width * self.factor + sheet.GAP)
        columns = min(max(columns, 2), _MOST_COLUMNS, len(footage))
        self.pair = len(footage) == 2
        # The last frame has no flow.
        self.columns = [0, 1] if self.pair else _spread(len(footage) - 1, columns)
        self.pictures = [sheet.to_picture(frame, self.factor, smooth=True) for frame in footage.frames]

    def blocks(self, findings: Findings, random: Tensor | None = None) -> list[Block]:
        """All blocks, in the order of the sheet.

        Args:
            findings: the same, with what only the whole sheet shows.
            random: (T, D, h, w) features of random weights; None to leave them out.
        """
        untrained = [] if random is None else [self.untrained(random)]
        blocks = [self.frames(), self.features(), *untrained, *self.flows(), self.tracks()]
        similarity = self.similarity(findings.crossed)
        return [*blocks, similarity, self.heat(findings, _ROW - similarity.width - sheet.BETWEEN)]

    def real(self, random: Tensor, differences: tuple[float, float]) -> list[Block]:
        """The blocks of the real clip, which come below those of the generated one.

        Args:
            random: (T, D, h, w) features of random weights.
            differences: result of :func:`~midway_zoo.demo.findings.warp_differences`.
        """
        frames, features, *flows = self.frames(), self.features(), *self.flows()
        before, after = differences
        seen = f"{flows[0].legend}; frames differ by {before:.1f} grey levels, by {after:.1f} after warping"
        return [
            Block("A real clip", frames.legend, frames.picture),
            features,
            self.untrained(random),
            Block(flows[0].title, seen, flows[0].picture, flows[0].key),
            self.tracks(),
        ]

    def untrained(self, random: Tensor) -> Block:
        """Features of random weights, to compare with."""
        return Block("Features of random weights", "the same network, never trained", self._features(random))

    def frames(self) -> Block:
        labels = [self.footage.labels[index] for index in self.columns]
        number = "both" if self.pair else f"{len(self.columns)} of {len(self.footage)}"
        height, width = self.footage.frames.shape[2:]
        legend = f"{number}, {width} x {height} pixels" + (
            f", drawn {self.factor} times as large" if self.factor > 1 else ""
        )
        return Block("Frames", legend, sheet.row([self.pictures[index] for index in self.columns], labels))

    def features(self) -> Block:
        maps = self.findings.features
        legend = (
            f"what is there: patch features of the last block ({maps.shape[2]} x {maps.shape[3]} tokens), their first "
            "three principal components as red, green, blue"
        )
        return Block("Features", legend, self._features(maps))

    def _features(self, maps: Tensor) -> Image.Image:
        size = self.pictures[0].size
        images = features_to_image(maps[self.columns])
        return sheet.row([sheet.to_picture(image).resize(size, Image.Resampling.NEAREST) for image in images])

    def flows(self) -> list[Block]:
        """Predicted flow and, where it is known, the true one, in the same colours."""
        shown = self.columns[:1] if self.pair else self.columns
        truth = self.footage.flow
        lengths = torch.linalg.vector_norm((self.findings.flow if truth is None else truth)[shown], dim=1)
        # A few predicted vectors may be far too long.
        longest = max(float(lengths.flatten().double().quantile(0.99) if truth is None else lengths.max()), 1.0)
        how = {"head": "by the flow head", "perturbation": "zero-shot, by perturbation (no flow head)"}
        legend = f"{'from the first to the second' if self.pair else 'to the next frame'}, {how[self.findings.method]}"
        captions = []
        for index in shown:
            pair = Footage("", self.footage.frames, (0, 0), (), None if truth is None else truth[index : index + 1])
            if errors := flow_errors(pair, self.findings.flow[index : index + 1]):
                captions.append(f"EPE {errors['epe']:.2f}, zero flow {errors['zero']:.2f}")
        first = Block(
            "Predicted flow", legend, self._flow_row(self.findings.flow[shown], longest, captions), _wheel(longest)
        )
        if truth is None:
            return [first]
        return [first, Block("True flow", "in the same colours", self._flow_row(truth[shown], longest, []))]

    def _flow_row(self, flow: Tensor, longest: float, captions: Sequence[str]) -> Image.Image:
        images = flow_to_image(flow, max_flow=longest)
        return sheet.row([sheet.framed(sheet.to_picture(image, self.factor)) for image in images], captions)

    def tracks(self) -> Block:
        findings = self.findings
        last, steps = len(self.footage) - 1, len(self.columns) - 1
        columns = [round(last * column / steps) for column in range(steps + 1)]
        cells = [self._tracked(index) for index in columns]
        captions = [self.footage.labels[index] for index in columns]
        chained = "" if self.pair else ", tracked from frame to frame"
        by = "the predicted flow" if findings.method == "head" else "perturbation, without training for it"
        legend = f"points of the first frame{chained} by {by}"
        if errors := track_errors(findings):
            legend += (
                f"; rings: the truth. Off by {errors['track']:.1f} pixels on average, {errors['still']:.1f} if they "
                "did not move"
            )
        return Block("Tracks", legend, sheet.row(cells, captions))

    def _tracked(self, index: int) -> Image.Image:
        """A frame with each point's path so far."""
        tracks, truth = self.findings.tracks, self.findings.true_tracks

        def paint(draw: ImageDraw.ImageDraw, scale: int) -> None:
            for point in range(tracks.shape[1]):
                colour = style.point_colour(point)
                path = [self._at(xy, scale) for xy in tracks[: index + 1, point].tolist()]
                for width, ink in ((5, (0, 0, 0, 160)), (2.5, (*colour, 255))):
                    if len(path) > 1:
                        draw.line(path, fill=ink, width=round(width * scale), joint="curve")
                if truth is not None and bool(truth[index, point].isfinite().all()):
                    sheet.ring(draw, self._at(truth[index, point].tolist(), scale), 8 * scale, 2 * scale, colour)
                sheet.dot(draw, path[-1], 4.5 * scale, colour)

        return sheet.draw_over(self.pictures[index], paint)

    def heat(self, findings: Findings, width: int) -> Block:
        """The first point in as many later frames as fit."""
        most = max((width - _BAR) // (self.pictures[0].width + sheet.GAP) - 1, 1)
        targets = findings.heat_targets[:most]
        shown = findings.heat[: len(targets)]
        low, high = float(shown.min()), float(shown.max())
        high = max(high, low + 1e-6)
        cells = [self._marked(self.pictures[0], self._at(findings.points[0].tolist(), 1))]
        for heat, index in zip(shown, targets, strict=True):
            size = self.pictures[0].height, self.pictures[0].width
            large = F.interpolate(self.footage.frames[index : index + 1], size, mode="bicubic").clamp(0, 1)[0]
            cell = sheet.to_picture(heatmap_overlay(large, heat, vmin=low, vmax=high))
            if findings.true_tracks is not None and bool(findings.true_tracks[index, 0].isfinite().all()):
                cell = self._marked(cell, self._at(findings.true_tracks[index, 0].tolist(), 1))
            cells.append(cell)
        ramp = heatmap_overlay(torch.zeros(3, 1, 64), torch.linspace(0, 1, 64)[None], alpha=1.0)[:, 0]
        captions = [self.footage.labels[index] for index in (0, *targets)]
        bar = sheet.colour_bar(ramp, cells[0].height, f"{low:.2f}", f"{high:.2f}")
        legend = "how much a change at one point of the first frame (ring) shows at each place of a later one (cosine)"
        legend += "" if findings.true_tracks is None else "; later rings: the truth"
        return Block("Perturbation heat map", legend, sheet.row([*cells, bar], [*captions, ""]))

    def similarity(self, crossed: CrossedMotion) -> Block:
        matrix = crossed.similarity
        factor = max(max(self.pictures[0].height, _CELL) // len(matrix), 1)
        cells = sheet.to_picture(_diverging(matrix), factor)
        ramp = _diverging(torch.linspace(-1, 1, 64)[None])[:, 0]
        bar = sheet.colour_bar(ramp, cells.height, "-1", "1")
        picture = sheet.row([cells, bar], ["right | down | left | up", ""])
        legend = (
            "cosine of motion latents: each of four pictures moves in each direction. Correlation with the true motion "
            f"{crossed.agreement:.2f}; of random weights {crossed.random:.2f}, of pixel differences "
            f"{crossed.pixels:.2f}"
        )
        return Block("Motion similarity", legend, picture)

    def _at(self, xy: Sequence[float], scale: int) -> tuple[float, float]:
        """Where a point of a frame is in its picture."""
        return (xy[0] + 0.5) * self.factor * scale, (xy[1] + 0.5) * self.factor * scale

    def _marked(self, picture: Image.Image, place: tuple[float, float]) -> Image.Image:
        def paint(draw: ImageDraw.ImageDraw, scale: int) -> None:
            sheet.ring(draw, (place[0] * scale, place[1] * scale), 8 * scale, 2.5 * scale, (255, 255, 255))

        return sheet.draw_over(picture, paint)


def draw_sheet(
    heading: str,
    lines: Sequence[str],
    footage: Footage,
    findings: Findings,
    *,
    random: Tensor | None = None,
    further: Sequence[Block] = (),
) -> Tensor:
    """The whole sheet, uint8 (3, H, W).

    Args:
        heading: title.
        lines: what stands below it.
        footage: what was looked at.
        findings: what was found.
        random: as for :meth:`Panels.blocks`.
        further: blocks that come below those of the footage.
    """
    return sheet.compose(heading, lines, [*Panels(footage, findings).blocks(findings, random), *further])


def _spread(count: int, most: int) -> list[int]:
    """At most ``most`` of the indices 0 to ``count`` - 1, equally spaced from the first."""
    most = min(most, count)
    step = (count - 1) // (most - 1) if most > 1 else 1
    return list(range(0, count, step))[:most]


def _diverging(values: Tensor) -> Tensor:
    """Colours uint8 (3, h, w) of cosines (h, w)."""
    palette = torch.tensor(style.DIVERGING).float()
    position = (values.float().clamp(-1, 1) + 1) / 2 * (len(palette) - 1)
    step = position.long().clamp_max(len(palette) - 2)
    colour = torch.lerp(palette[step], palette[step + 1], (position - step)[..., None])
    return colour.round().to(torch.uint8).movedim(-1, 0)


def _wheel(longest: float, side: int = 44) -> Image.Image:
    """The flow colours as a disc, with its scale: the motion shown at a point is its offset from the centre."""
    picture = sheet.to_picture(flow_wheel(side))
    label = f"edge: {longest:.1f} px"
    width = int(style.font(style.CAPTION).getlength(label)) + 9
    result = Image.new("RGB", (width + side, side), style.PAPER)
    result.paste(picture, (width, 0))
    ImageDraw.Draw(result).text((0, side / 2), label, fill=style.GREY, font=style.font(style.CAPTION), anchor="lm")
    return result
