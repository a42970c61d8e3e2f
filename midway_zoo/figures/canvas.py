"""What all figures share: the page, pictures and marks on it, and how it is saved."""

import io
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from midway_zoo import style
from midway_zoo.errors import InputError, MissingExtraError
from midway_zoo.extras import install_command
from midway_zoo.files import atomic
from midway_zoo.inference.images import to_tensor
from midway_zoo.reading import METADATA_KEY

PICTURES = (".png", ".svg", ".pdf")
"""Endings that :func:`save_figure` writes."""
WIDTH = 7.0
"""Width of a figure in inches: two columns of a paper, or most of a slide."""
TALLEST = 9.5
"""Largest height of a figure in inches: the text block of a page."""
_DPI = 200
_SETTINGS = {
    "font.size": 9,
    "axes.titlesize": 8.5,
    "axes.labelsize": 8,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "axes.linewidth": 0.6,
    "svg.fonttype": "path",  # text as outlines, so that it does not depend on the reader's fonts
    "svg.hashsalt": "midway-zoo",  # the same figure gives the same bytes
    "pdf.fonttype": 42,
}

_one_at_a_time = threading.RLock()


def import_matplotlib() -> Any:
    """Matplotlib, or :class:`MissingExtraError`."""
    try:
        import matplotlib
        import matplotlib.figure
    except ImportError as error:
        raise MissingExtraError(f"figures need Matplotlib: {install_command('figures')}") from error
    return matplotlib


def styled(draw: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a drawing function to use this module's font sizes. Matplotlib's settings belong to the whole process,
    so one figure is drawn at a time."""

    @wraps(draw)
    def drawn(*args: Any, **options: Any) -> Any:
        with _one_at_a_time, import_matplotlib().rc_context(_SETTINGS):
            return draw(*args, **options)

    return drawn


def page(
    rows: int, columns: int, *, height: float, width: float = WIDTH, tallest: float = TALLEST, **options: Any
) -> tuple[Any, Any]:
    """A figure of ``width`` x ``height`` inches, scaled down if it would be taller than ``tallest``, and its axes, an
    array (rows, columns)."""
    scale = min(1.0, tallest / height)
    width, height = max(3.0, scale * width), scale * height
    figure = import_matplotlib().figure.Figure(figsize=(width, height), layout="constrained", facecolor="white")
    axes = figure.subplots(rows, columns, squeeze=False, **options)
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.03, wspace=0.02, hspace=0.02)
    return figure, axes


def cell_height(picture: Tensor, columns: int, width: float = WIDTH, *, titled: bool = True) -> float:
    """Height in inches of one of ``columns`` pictures (..., H, W) side by side, with room for a title if ``titled``."""
    return width / columns * picture.shape[-2] / picture.shape[-1] + (0.25 if titled else 0.06)


def short(name: str, most: int = 22) -> str:
    """A name shortened in its middle to ``most`` letters: names in a folder often share their beginning and end."""
    half = (most - 1) // 2
    return name if len(name) <= most else f"{name[: most - 1 - half]}…{name[-half:]}"


def colour(rgb: Sequence[int]) -> tuple[float, ...]:
    """RGB from 0 to 255 as Matplotlib expects it, from 0 to 1."""
    return tuple(value / 255 for value in rgb)


def palette(anchors: Sequence[Sequence[int]]) -> Any:
    """A colour map through evenly spaced anchors; NaN is light grey."""
    import_matplotlib()
    from matplotlib.colors import LinearSegmentedColormap

    made = LinearSegmentedColormap.from_list("midway", [colour(anchor) for anchor in anchors])
    return made.with_extremes(bad=colour(style.LINE))


def show(axes: Any, picture: Tensor, title: str = "") -> None:
    """Draw a picture (3, H, W), uint8 or float in [0, 1], without ticks; pixel centres are at integers."""
    values = picture.detach().cpu()
    values = values.float() / 255 if values.dtype == torch.uint8 else values.float().clamp(0, 1)
    axes.imshow(values.permute(1, 2, 0).numpy(), interpolation="nearest")
    bare(axes, title)


def heat(axes: Any, picture: Tensor | None, values: Tensor, low: float, high: float, title: str = "") -> Any:
    """Draw values (h, w) over a picture (3, H, W) in grayscale, so that colours stand for the values alone."""
    shape = values.shape if picture is None else picture.shape[-2:]
    extent = (-0.5, shape[1] - 0.5, shape[0] - 0.5, -0.5)
    if picture is not None:
        gray = picture.detach().cpu().float().mean(0)
        axes.imshow(gray.numpy(), cmap="gray", vmin=0, vmax=1)
    alpha = 1.0 if picture is None else 0.62
    options = {"vmin": low, "vmax": high, "extent": extent, "alpha": alpha, "interpolation": "nearest"}
    drawn = axes.imshow(values.detach().cpu().float().numpy(), cmap=palette(style.HEAT), **options)
    bare(axes, title)
    return drawn


def bare(axes: Any, title: str = "") -> None:
    """Leave out the ticks and draw a thin frame."""
    axes.set_xticks([])
    axes.set_yticks([])
    for side in axes.spines.values():
        side.set_edgecolor(colour(style.LINE))
    if title:
        axes.set_title(title, color=colour(style.INK), pad=3)


def point(axes: Any, xy: Sequence[float], index: int, *, ring: bool = False, size: float = 6.0) -> None:
    """Mark point ``index`` in its colour with a dot ``size`` typographic points wide, or with a ring half as wide
    again, which does not hide the picture."""
    ink = colour(style.point_colour(index))
    if ring:
        hollow = {"marker": "o", "markersize": 1.5 * size, "markerfacecolor": "none"}
        axes.plot(*xy, **hollow, markeredgecolor="black", markeredgewidth=0.5 * size)
        axes.plot(*xy, **hollow, markeredgecolor=ink, markeredgewidth=0.27 * size)
    else:
        edge = {"markeredgecolor": "black", "markeredgewidth": 0.13 * size}
        axes.plot(*xy, marker="o", markersize=size, markerfacecolor=ink, **edge)


def row_labels(axes: Sequence[Any], texts: Sequence[str]) -> None:
    """Label each row of pictures beside its first one, in a font size at which all labels fit the height of a row."""
    longest = max(len(line) for text in texts for line in text.splitlines())
    figure = axes[0].figure
    height = min(one.get_position().height for one in axes) * figure.get_figheight() * 72
    size = min(8.0, max(5.0, 1.6 * height / longest))  # a letter is about 0.6 times as wide as its font size
    for one, text in zip(axes, texts, strict=True):
        one.set_ylabel(text, color=colour(style.INK), fontsize=size)


def bar_of(figure: Any, drawn: Any, axes: Any, label: str, **options: Any) -> None:
    """A colour bar beside axes."""
    found = figure.colorbar(drawn, ax=axes, fraction=0.03, pad=0.01, aspect=30, **options)
    found.set_label(label, color=colour(style.GREY))
    found.outline.set_linewidth(0.4)
    found.solids.set_alpha(1)


@styled
def save_figure(
    figure: Any, path: str | Path, *, metadata: Mapping[str, Any] | None = None, overwrite: bool = False
) -> None:
    """Write a figure by its ending: .png (200 dots per inch), .svg or .pdf.

    Args:
        figure: as returned by the functions of :mod:`midway_zoo.figures`.
        path: file to write.
        metadata: stored in the file as JSON: in a PNG text chunk, the description of an SVG or the subject of a PDF.
        overwrite: replace an existing file.

    Raises:
        InputError: for another ending.
        OutputExistsError: if the file exists and ``overwrite`` is false.
    """
    path = Path(path)
    kind = path.suffix.lower()
    if kind not in PICTURES:
        raise InputError(f"{path}: figures are written to {', '.join(PICTURES)}, not {path.suffix or 'such a name'}.")
    text = None if metadata is None else json.dumps(metadata, sort_keys=True)
    facts: dict[str, Any] = {".png": {METADATA_KEY: text}, ".svg": {"Description": text, "Date": None}}.get(
        kind, {"Subject": text, "CreationDate": None}
    )
    known = {name: value for name, value in facts.items() if value or "Date" in name}
    with atomic(path, overwrite=overwrite) as temporary:
        figure.savefig(temporary, format=kind[1:], dpi=_DPI, metadata=known)


@styled
def figure_to_tensor(figure: Any, *, dpi: int = 150) -> Tensor:
    """A figure's pixels, uint8 (3, H, W)."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=dpi)
    file.seek(0)
    with Image.open(file) as picture:
        return (to_tensor(picture.convert("RGB")) * 255).round().to(torch.uint8)
