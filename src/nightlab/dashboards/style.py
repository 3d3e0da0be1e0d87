"""Colours, markers and figures of the house, the same in every explorer, in light and dark."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import panel as pn
from bokeh.plotting import figure as bokeh_figure


@dataclass(frozen=True)
class BandStyle:
    """How a band looks: never by colour alone.

    Attributes
    ----------
    colour
        Readable on white and on black, and for colour-blind eyes.
    marker
        Bokeh's name of it.
    dash
        Bokeh's name of the dash of its lines.
    """

    colour: str
    marker: str
    dash: str


#: Every band by name.
BANDS: dict[str, BandStyle] = {
    "u": BandStyle("#56869f", "circle", "solid"),
    "g": BandStyle("#009e73", "square", "dashed"),
    "r": BandStyle("#d55e00", "triangle", "dotted"),
    "i": BandStyle("#cc79a7", "diamond", "dotdash"),
    "z": BandStyle("#8a6fd1", "inverted_triangle", "dashdot"),
    "y": BandStyle("#a08400", "hex", "solid"),
}
#: Whatever has no band, or an unknown one.
NO_BAND = BandStyle("#7f8c8d", "circle", "solid")

#: Verdicts, readable on both backgrounds; always beside the word itself.
VERDICTS = {"pass": "#2e8b57", "fail": "#d1493f", "unknown": "#b8860b", "none": "#7f8c8d"}

#: Maps by purpose: flux; difference and residual (zero is white); counts and depth.
GRAY, DIVERGING, SEQUENTIAL = "gray", "RdBu_r", "viridis"

ACCENT = "#2a6f97"

#: What is written in a figure in the colour of a verdict, on a light and on a dark page.
_INKS = {
    "default": {"pass": "#1f6b41", "fail": "#b02a22", "unknown": "#7a5a05", "none": "#5a6566"},
    "dark": {"pass": "#74c596", "fail": "#f08f86", "unknown": "#e0b64a", "none": "#a9b4b5"},
}


def wrapping(*parts: Any, gap: str = "0", align: str = "normal", **look: Any) -> pn.Row:
    """Put parts beside each other, on further lines where the page is narrow.

    Panel's own box for that leaves figures without a size until the window is resized (seen with Panel 1.9.4).
    """
    styles = {"flex-wrap": "wrap", "gap": gap, "align-items": align}
    return pn.Row(*parts, styles=styles, **{"sizing_mode": "stretch_width", "margin": 0, **look})


def band_style(band: str) -> BandStyle:
    """Look of a band, also of one nobody knows."""
    return BANDS.get(band, NO_BAND)


def readable(colour: str) -> str:
    """Mix a colour with that of the text around it, as CSS: words in it are readable in light and dark."""
    return f"color-mix(in srgb, {colour} 60%, currentColor)"


def ink(verdict: str) -> str:
    """Colour of what is written in a figure about a verdict, on the page as it is now."""
    return _INKS["dark" if pn.config.theme == "dark" else "default"][verdict]


def described(alt: str) -> dict[str, str]:
    """Attributes of the element of a figure: what it is, in words."""
    return {"role": "figure", "aria-label": alt}


def figure(alt: str, **options: Any) -> Any:
    """Make a Bokeh figure in house style.

    Background and text colours are left to the theme, so that light and dark both work. Pan by drag and zoom by wheel
    are on; the logo is off.

    Parameters
    ----------
    alt
        What the figure shows, for those who do not see it.
    **options
        Passed on to `bokeh.plotting.figure`.
    """
    defaults: dict[str, Any] = {
        "tools": "pan,wheel_zoom,box_zoom,reset,save",
        "active_drag": "pan",
        "active_scroll": "wheel_zoom",
        "sizing_mode": "stretch_width",
        "height": 300,
        "output_backend": "canvas",
        "html_attributes": described(alt),
    }
    made = bokeh_figure(**{**defaults, **options})
    made.toolbar.logo = None
    made.toolbar.autohide = True
    made.grid.grid_line_alpha = 0.25
    made.axis.axis_label_text_font_style = "normal"
    made.axis.axis_label_text_font_size = "12px"
    made.axis.major_label_text_font_size = "12px"
    made.title.text_font_size = "13px"  # type: ignore[union-attr]
    made.min_border = 4
    return made
