"""The views of a network on the page: each is a picture, a sentence and the numbers behind them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from midway_zoo import analysis, figures
from midway_zoo.analysis.rules import RuleName
from midway_zoo.demo import sheet
from midway_zoo.demo.findings import flow_errors, flow_options, working_size
from midway_zoo.demo.footage import Footage
from midway_zoo.inference.flow import predict_flow
from midway_zoo.models.network import MidwayNetwork
from midway_zoo.style import INK, PAPER, TEXT, font
from midway_zoo.visualize import above_legend, flow_legend, flow_to_image, side_by_side

DRAWS = 4
"""Number of perturbations per token to average."""
_SIDE = 288  # height in pixels of pictures of flow


@dataclass(frozen=True)
class Moment:
    """The frames and points that the views show."""

    footage: Footage
    source: int
    """Index of the source frame."""
    target: int
    """Index of the target frame."""
    points: tuple[tuple[float, float], ...]
    """(x, y) in pixels of the source."""

    @property
    def pair(self) -> tuple[Tensor, Tensor]:
        """Source and target (3, H, W)."""
        return self.footage.frames[self.source], self.footage.frames[self.target]


@dataclass(frozen=True)
class Picture:
    """The result of a view."""

    image: Tensor
    """uint8 (3, H, W)."""
    said: str
    """A sentence about it."""
    tensors: dict[str, Tensor] = field(default_factory=dict)
    """The numbers behind it."""


@dataclass(frozen=True)
class View:
    """One kind of picture."""

    name: str
    """Name of its part of the page and of its files."""
    title: str
    what: str
    """Explanation for first-time visitors."""
    of: Literal["points", "pair", "clip"]
    """Whether it depends on the points, on the pair of frames, or only on the clip."""
    draw: Callable[[MidwayNetwork, Moment], Picture]


def _heat(network: MidwayNetwork, moment: Moment) -> Picture:
    source, target = moment.pair
    size = working_size(network, moment.footage.frames)
    found = analysis.heat_maps(network, source, target, list(moment.points), size=size, draws=DRAWS)
    figure = figures.heat_figure(source, [target], found, [moment.footage.labels[moment.target]])
    peak = ", ".join(f"({x:.0f}, {y:.0f})" for x, y in found.target_xy[0].tolist())
    return Picture(
        figures.figure_to_tensor(figure),
        f"Most sensitive at {peak}; tokens of a {found.grid[0]} x {found.grid[1]} grid.",
        {"heatmaps": found.heatmaps, "heat_xy": found.xy, "heat_target_xy": found.target_xy},
    )


def _tracks(network: MidwayNetwork, moment: Moment) -> Picture:
    step = 1 if moment.target >= moment.source else -1
    last = len(moment.footage) - 1 if step > 0 else 0
    order = list(range(moment.source, last + step, step))
    frames = moment.footage.frames[order]
    rules: tuple[RuleName, ...] = ("paper",) if network.flow_head is None else ("flow", "paper")
    size = working_size(network, frames)
    ways = {
        rule: analysis.track_by(network, frames, list(moment.points), rule, size=size, draws=DRAWS).xy.cpu()
        for rule in rules
    }
    names = {"flow": "flow head", "paper": "perturbation"}
    figure = figures.tracks_figure(
        list(frames),
        {names[rule]: xy for rule, xy in ways.items()},
        labels=[moment.footage.labels[index] for index in order],
    )
    ends = "; ".join(f"{names[rule]}: {_places(xy[-1])}" for rule, xy in ways.items())
    return Picture(
        figures.figure_to_tensor(figure),
        f"Over {len(order)} frames to {ends}.",
        {f"track_{rule}": xy for rule, xy in ways.items()},
    )


def _flow(network: MidwayNetwork, moment: Moment) -> Picture:
    found = predict_flow(network, *moment.pair, **flow_options(network))
    assert isinstance(found.flow, Tensor)
    assert isinstance(found.confidence, Tensor)
    flow = found.flow[0].cpu()
    lengths = torch.linalg.vector_norm(flow, dim=0)
    longest = max(float(lengths.max()), 1.0)
    known = moment.footage.flow if moment.target == moment.source + 1 else None
    fields = [flow] if known is None else [flow, known[moment.source]]
    longest = max(longest, *(float(torch.linalg.vector_norm(one, dim=0).max()) for one in fields))
    picture = side_by_side([flow_to_image(one, max_flow=longest) for one in fields], side=_SIDE)
    picture = above_legend(picture, flow_legend(picture.shape[2], longest, longest=float(lengths.max())))
    how = "by the flow head" if found.method == "head" else "zero-shot, by perturbation: this model has no flow head"
    said = f"{how[0].upper()}{how[1:]}; {float(lengths.mean()):.1f} px on average, {float(lengths.max()):.1f} at most."
    if known is not None:
        pair = replace(moment.footage, flow=known[moment.source :][:1])
        if errors := flow_errors(pair, flow[None]):
            said += (
                f" Left predicted, right true: {errors['epe']:.1f} px apart on average; zero is {errors['zero']:.1f}."
            )
    return Picture(picture, said, {"flow": flow, "flow_confidence": found.confidence[0].cpu()})


def _components(network: MidwayNetwork, moment: Moment) -> Picture:
    frames = moment.footage.frames
    found = analysis.principal_components(network, frames, frames=len(frames), size=working_size(network, frames))
    figure = figures.components_figure(list(frames), found, labels=list(moment.footage.labels))
    share = 100 * float(found.foreground.float().mean())
    return Picture(
        figures.figure_to_tensor(figure),
        f"{share:.0f} % of the tokens are on the foreground's side of component 1.",
        {"pca_colours": found.colours, "pca_first": found.first, "pca_foreground": found.foreground},
    )


def _gates(network: MidwayNetwork, moment: Moment) -> Picture:
    source, target = moment.pair
    found = analysis.gate_maps(network, source, target, size=working_size(network, moment.footage.frames))
    means = ", ".join(f"level {level}: {float(gates.mean()):.2f}" for level, gates in found.mean.items())
    return Picture(
        figures.figure_to_tensor(figures.gates_figure(source, target, found)),
        f"On average {means}.",
        {f"gates_level{level}": gates[0] for level, gates in found.mean.items()},
    )


def _similarity(network: MidwayNetwork, moment: Moment) -> Picture:
    frames, said = moment.footage.frames, ""
    if len(frames) == 2:
        # A single pair has only one motion: it is compared with no motion and with the reverse.
        frames = frames[[0, 0, 1, 1, 0]]
        said = "Pairs 0 and 2 stand still, pair 1 goes from A to B and pair 3 back. "
    found = analysis.clip_similarity(network, frames, size=working_size(network, frames))
    lengths = torch.linalg.vector_norm(found.latents.tokens.float(), dim=-1).mean(-1).tolist()
    return Picture(
        figures.figure_to_tensor(figures.similarity_figure(found, list(frames))),
        f"{said}Lengths of the latents: {', '.join(f'{length:.1f}' for length in lengths)}.",
        {"similarity": found.similarity, "latents": found.latents.tokens},
    )


def _places(xy: Tensor) -> str:
    return ", ".join(f"({x:.0f}, {y:.0f})" for x, y in xy.tolist())


_ALL = (
    View(
        "heat-map",
        "Perturbation heat map",
        "How much a change at the point of the source affects each place of the target. Rings mark the largest value.",
        "points",
        _heat,
    ),
    View(
        "tracks",
        "Tracks",
        "Where the point goes after the source frame: by the flow head if the model has one, and by perturbation, "
        "which needs no training (the paper's rule).",
        "points",
        _tracks,
    ),
    View(
        "flow",
        "Flow",
        "Where every pixel of the source goes: hue shows the direction, saturation the distance, and white means no "
        "motion. The disc is the legend.",
        "pair",
        _flow,
    ),
    View(
        "pca",
        "Features (PCA)",
        "Principal components of the features of the last block. Similar colours mean similar features; the first "
        "component separates a foreground.",
        "clip",
        _components,
    ),
    View(
        "gates",
        "Gates",
        "Where the prediction of the target keeps the source (bright, towards 1) and where it replaces it (dark).",
        "pair",
        _gates,
    ),
    View(
        "latents",
        "Similarity of motions",
        "Cosine between the motion latents of pairs of neighbouring frames: red means the same motion, blue the "
        "opposite.",
        "clip",
        _similarity,
    ),
)
VIEWS: dict[str, View] = {view.name: view for view in _ALL}


def above(upper: Picture, lower: Picture, *names: str) -> Picture:
    """Results of two models, each picture below the name of its model; the second one's numbers become
    "against_..."."""
    width = max(upper.image.shape[2], lower.image.shape[2])
    rows = [part for name, one in zip(names, (upper, lower), strict=True) for part in (_headed(name, width), one.image)]
    picture = rows[0]
    for row in rows[1:]:
        picture = above_legend(picture, row)
    said = "; ".join(f"{name}: {one.said}" for name, one in zip(names, (upper, lower), strict=True))
    return Picture(picture, said, upper.tensors | {f"against_{name}": one for name, one in lower.tensors.items()})


def _headed(name: str, width: int) -> Tensor:
    size = max(TEXT, width // 50)  # pictures are scaled to the width of a column
    strip = Image.new("RGB", (width, size + size // 2), PAPER)
    ImageDraw.Draw(strip).text((4, size // 4), sheet.shortened(name, size, width - 8), fill=INK, font=font(size))
    return sheet.from_picture(strip)


def ordered(network: MidwayNetwork, kinds: Sequence[str]) -> list[View]:
    """Views of some kinds in the order in which they are computed: zero-shot flow, which is slowest, last."""
    chosen = [view for view in VIEWS.values() if view.of in kinds]
    if network.flow_head is None:
        chosen.sort(key=lambda view: view.name == "flow")
    return chosen
