"""Contact sheets: titled pictures on one white page."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from midway_zoo.style import CAPTION, GREY, HEADING, INK, LINE, PAPER, TEXT, TITLE, font

MARGIN = 32
GAP = 8  # between pictures of a block
BETWEEN = 40  # between blocks
_WIDTH = 1280  # largest width of a row, unless a single block is wider
_TEXT_WIDTH = 260  # least width of a title and its legend
_SMOOTH = 4  # marks are drawn at this scale and reduced, since Pillow does not antialias lines


@dataclass(frozen=True)
class Block:
    """A picture under its title."""

    title: str
    legend: str
    picture: Image.Image
    key: Image.Image | None = None
    """A small picture that explains the colours, at the right end of the title."""

    @property
    def width(self) -> int:
        """In pixels: the picture's, unless title and legend need more."""
        return max(self.picture.width, _TEXT_WIDTH + (0 if self.key is None else self.key.width + GAP))


def to_picture(image: Tensor, factor: int = 1, *, smooth: bool = False) -> Image.Image:
    """An image (3, H, W), uint8 or float in [0, 1], enlarged by a whole factor."""
    if image.is_floating_point():
        image = image.mul(255).round().clamp(0, 255).to(torch.uint8)
    picture = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
    size = picture.width * factor, picture.height * factor
    return picture.resize(size, Image.Resampling.BICUBIC if smooth else Image.Resampling.NEAREST)


def from_picture(picture: Image.Image) -> Tensor:
    """An RGB picture as uint8 (3, H, W)."""
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


def framed(picture: Image.Image) -> Image.Image:
    """The picture with a thin line around it, for pictures that may be as white as the page."""
    result = picture.copy()
    ImageDraw.Draw(result).rectangle((0, 0, picture.width - 1, picture.height - 1), outline=LINE)
    return result


def draw_over(picture: Image.Image, paint: Callable[[ImageDraw.ImageDraw, int], None]) -> Image.Image:
    """The picture with a transparent layer on it that ``paint`` draws; its second argument is the scale by which all
    lengths must be multiplied."""
    layer = Image.new("RGBA", (picture.width * _SMOOTH, picture.height * _SMOOTH))
    paint(ImageDraw.Draw(layer), _SMOOTH)
    layer = layer.resize(picture.size, Image.Resampling.BOX)
    return Image.alpha_composite(picture.convert("RGBA"), layer).convert("RGB")


def dot(draw: ImageDraw.ImageDraw, at: tuple[float, float], radius: float, colour: tuple[int, int, int]) -> None:
    """A point in its colour, with a black edge."""
    for size, ink in ((radius * 1.35, (0, 0, 0)), (radius, colour)):
        draw.ellipse((at[0] - size, at[1] - size, at[0] + size, at[1] + size), fill=(*ink, 255))


def ring(
    draw: ImageDraw.ImageDraw, at: tuple[float, float], radius: float, width: float, colour: tuple[int, int, int]
) -> None:
    """A circle with black edges, which does not hide the picture inside it."""
    for size, thick, ink in ((radius + width / 2, 2 * width, (0, 0, 0)), (radius, width, colour)):
        box = (at[0] - size, at[1] - size, at[0] + size, at[1] + size)
        draw.ellipse(box, outline=(*ink, 255), width=round(thick))


def row(pictures: Sequence[Image.Image], captions: Sequence[str] = ()) -> Image.Image:
    """Pictures of one height side by side, each over its caption."""
    height = max(picture.height for picture in pictures)
    width = sum(picture.width for picture in pictures) + GAP * (len(pictures) - 1)
    result = Image.new("RGB", (width, height + (CAPTION + 8 if captions else 0)), PAPER)
    draw = ImageDraw.Draw(result)
    left = 0
    for index, picture in enumerate(pictures):
        result.paste(picture, (left, 0))
        if captions:
            text = shortened(captions[index], CAPTION, picture.width)
            draw.text((left + picture.width / 2, height + 3), text, fill=GREY, font=font(CAPTION), anchor="ma")
        left += picture.width + GAP
    return result


def colour_bar(colours: Tensor, height: int, low: str, high: str) -> Image.Image:
    """A vertical scale: colours (3, n) uint8 from the lowest value to the highest, with labels for both."""
    strip = to_picture(colours.flip(1)[:, :, None]).resize((14, height), Image.Resampling.BILINEAR)
    width = 20 + int(max(font(CAPTION).getlength(text) for text in (low, high))) + 1
    result = Image.new("RGB", (width, height), PAPER)
    result.paste(strip, (0, 0))
    draw = ImageDraw.Draw(result)
    draw.text((20, 0), high, fill=GREY, font=font(CAPTION), anchor="la")
    draw.text((20, height - 1), low, fill=GREY, font=font(CAPTION), anchor="ld")
    return result


def compose(heading: str, lines: Sequence[str], blocks: Sequence[Block]) -> Tensor:
    """The page: uint8 (3, H, W). Blocks go from left to right in rows, in their order.

    Args:
        heading: title of the page.
        lines: text below the heading.
        blocks: at least one.
    """
    rows = _rows(blocks)
    width = max(sum(block.width for block in part) + BETWEEN * (len(part) - 1) for part in rows)
    texts = [text for line in lines for text in wrapped(line, TEXT, width)]
    top = HEADING + 14 + len(texts) * (TEXT + 5)
    drawn = [_draw_row(part) for part in rows]
    height = top + sum(picture.height + BETWEEN * 2 // 3 for picture in drawn)
    page = Image.new("RGB", (width + 2 * MARGIN, height + MARGIN * 2), PAPER)
    draw = ImageDraw.Draw(page)
    draw.text((MARGIN, MARGIN), shortened(heading, HEADING, width), fill=INK, font=font(HEADING))
    for index, text in enumerate(texts):
        draw.text((MARGIN, MARGIN + HEADING + 10 + index * (TEXT + 5)), text, fill=GREY, font=font(TEXT))
    y = MARGIN + top
    for picture in drawn:
        y += BETWEEN * 2 // 3
        page.paste(picture, (MARGIN, y))
        y += picture.height
    return from_picture(page)


def _rows(blocks: Sequence[Block]) -> list[list[Block]]:
    rows: list[list[Block]] = []
    left = 0
    for block in blocks:
        if not rows or left + block.width > _WIDTH:
            rows.append([])
            left = 0
        rows[-1].append(block)
        left += block.width + BETWEEN
    return rows


def _draw_row(blocks: Sequence[Block]) -> Image.Image:
    """Blocks side by side, with their pictures aligned at the top."""
    legends = [wrapped(block.legend, TEXT, _text_width(block)) for block in blocks]
    top = TITLE + 8 + max(len(legend) for legend in legends) * (TEXT + 4) + 6
    width = sum(block.width for block in blocks) + BETWEEN * (len(blocks) - 1)
    result = Image.new("RGB", (width, top + max(block.picture.height for block in blocks)), PAPER)
    draw = ImageDraw.Draw(result)
    left = 0
    for block, legend in zip(blocks, legends, strict=True):
        draw.text((left, 0), shortened(block.title, TITLE, _text_width(block)), fill=INK, font=font(TITLE))
        for index, text in enumerate(legend):
            draw.text((left, TITLE + 6 + index * (TEXT + 4)), text, fill=GREY, font=font(TEXT))
        if block.key is not None:
            result.paste(block.key, (left + block.width - block.key.width, max(top - 6 - block.key.height, 0)))
        result.paste(block.picture, (left, top))
        left += block.width + BETWEEN
    return result


def _text_width(block: Block) -> int:
    return block.width - (0 if block.key is None else block.key.width + GAP)


def wrapped(text: str, size: int, width: int) -> list[str]:
    """The text in lines of at most ``width`` pixels; a longer word gets a line of its own and is shortened."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font(size).getlength(printable(longer)) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return [shortened(line, size, width) for line in lines]


def shortened(text: str, size: int, width: int) -> str:
    """The text, cut at its end if it is wider than ``width`` pixels."""
    text = printable(text)
    if font(size).getlength(text) <= width:
        return text
    while text and font(size).getlength(f"{text}...") > width:
        text = text[:-1]
    return f"{text}..."


def printable(text: str) -> str:
    """The text in ASCII, since Pillow's own font has few other characters."""
    return text.encode("ascii", "replace").decode("ascii")
