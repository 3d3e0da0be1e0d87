"""Ways to go to a place on an image without a mouse: steps, zoom, coordinates as one types them."""

from __future__ import annotations

import re

from nightlab.dashboards.dia_data import read_search
from nightlab.dashboards.images.layers import Layer
from nightlab.errors import BadInput
from nightlab.images.wcs import radec_to_pixel

View = tuple[float, float, float]


def stepped(view: View | None, layer: Layer, across: float = 0.0, up: float = 0.0, zoom: float = 1.0) -> View:
    """Give the next view: centre and width [pixel].

    Parameters
    ----------
    view
        The one before; None for all of the image.
    layer
        What is looked at.
    across, up
        Steps, as fractions of the width that is seen.
    zoom
        How much closer.
    """
    x, y, width = view or (*layer.middle, float(layer.shape[1]))
    return float(x + across * width), float(y + up * width), float(max(width / zoom, 4.0))


def find_place(text: str, layer: Layer) -> tuple[float, float]:
    """Find the pixel (x, y) of what was typed: RA and Dec where these are on the image, else pixels.

    Raises
    ------
    BadInput
        When it is neither, or not on the image.
    """
    pixel = re.fullmatch(r"\s*(-?[\d.]+)[\s,]+(-?[\d.]+)\s*", text)
    try:
        found = read_search(text)
    except BadInput:
        found = None
    if not isinstance(found, tuple) and pixel is None:
        raise BadInput(f"cannot read {text!r} as a place", hint="give RA Dec, or x y in pixels")
    if isinstance(found, tuple) and layer.projection is not None:
        (x,), (y,) = radec_to_pixel(layer.projection, [found[0]], [found[1]])
        if layer.index(float(x), float(y)) is not None:
            return float(x), float(y)
    if pixel is not None and layer.index(float(pixel[1]), float(pixel[2])) is not None:
        return float(pixel[1]), float(pixel[2])
    raise BadInput(f"{text} is not on this image", hint="give RA Dec, or x y in pixels")
