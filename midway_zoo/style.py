"""Colours and fonts of all pictures that the package draws: `visualize`, the demo's sheet and `figures` share them."""

import colorsys
from functools import cache

from PIL import ImageFont

INK, GREY, LINE, PAPER = (31, 35, 40), (101, 109, 118), (208, 215, 222), (255, 255, 255)
"""Colours (RGB, 0 to 255) of titles, of text beside pictures, of thin lines and of the page."""
TITLE, TEXT, CAPTION, HEADING = 20, 15, 14, 28
"""Font sizes in pixels."""

HEAT = (
    (0, 0, 4),
    (40, 11, 84),
    (101, 21, 110),
    (159, 42, 99),
    (212, 72, 66),
    (245, 125, 21),
    (250, 193, 39),
    (252, 255, 164),
)
"""Anchors of the dark-to-light palette of heat maps, evenly spaced."""
DIVERGING = ((33, 102, 172), (146, 197, 222), (247, 247, 247), (244, 165, 130), (178, 24, 43))
"""Anchors of the palette of cosines from -1 to 1, evenly spaced."""
SERIES = ((0, 90, 156), (213, 94, 0), (120, 120, 120), (0, 158, 115), (204, 121, 167))
"""Colours of bars and lines, in this order; they can be told apart by the colour-blind and in grayscale."""

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@cache
def font(size: int) -> Font:
    """Pillow's own font, which is the same on every machine."""
    return ImageFont.load_default(size)


def point_colour(index: int) -> tuple[int, int, int]:
    """RGB from 0 to 255 of point ``index``, different from those of its neighbours."""
    red, green, blue = colorsys.hsv_to_rgb((0.02 + index * 0.382) % 1, 0.75, 1.0)
    return round(red * 255), round(green * 255), round(blue * 255)
