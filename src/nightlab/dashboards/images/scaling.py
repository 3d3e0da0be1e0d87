"""From pixel values to the 8-bit indices that travel to the browser: limits, stretches, colours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nightlab.errors import BadInput
from nightlab.numeric.statistics import robust_width

type Stretch = Literal["linear", "sqrt", "log", "asinh"]
type Rule = Literal["z-scale", "percentile", "sigma", "manual"]

STRETCHES: tuple[Stretch, ...] = ("linear", "sqrt", "log", "asinh")
RULES: tuple[Rule, ...] = ("z-scale", "percentile", "sigma", "manual")
COLOUR_MAPS = ("gray", "gray_r", "RdBu_r", "viridis", "cividis", "inferno")

#: Indices of pixels without a value; two, so that they are hatched and never look like a level of the map.
HATCH = (254, 255)
HATCH_COLOURS = ("#6d5a78", "#8f7a9b")
#: Levels of brightness kept under a mask's colour, and the one more for pixels without a value.
SHADES = 7
#: Mask planes with a colour of their own at one time; further ones share the last.
MAX_COLOURS = 10


@dataclass(frozen=True)
class Look:
    """How a layer is drawn.

    Attributes
    ----------
    stretch
        What is done to values between the limits.
    softening
        Where asinh turns from linear to logarithmic, as a fraction of the range.
    rule
        How the limits are found.
    percent
        Of the pixels within the limits, for the rule ``percentile``.
    sigmas
        Half width of the limits in robust standard deviations, for the rule ``sigma``.
    low, high
        The limits, for the rule ``manual``.
    colours
        One of `COLOUR_MAPS`.
    symmetric
        Limits are as far below zero as above.
    """

    stretch: Stretch = "asinh"
    softening: float = 0.1
    rule: Rule = "percentile"
    percent: float = 99.5
    sigmas: float = 5.0
    low: float = 0.0
    high: float = 1.0
    colours: str = "gray"
    symmetric: bool = False


@dataclass(frozen=True)
class Limits:
    """Limits that were found.

    Attributes
    ----------
    low, high
        In the unit of the image; low < high.
    ignored
        Fraction of the pixels that are not finite.
    note
        Empty, or what is odd about them.
    """

    low: float
    high: float
    ignored: float = 0.0
    note: str = ""


def look_for(kind: str) -> Look:
    """Give the look that suits a kind of layer."""
    if kind == "flux":
        return Look()
    if kind == "snr":
        return Look(stretch="linear", rule="manual", low=-10.0, high=10.0, colours="RdBu_r", symmetric=True)
    return Look(stretch="linear", rule="sigma", sigmas=3.0, colours="RdBu_r", symmetric=True)


def changes(usual: Look, look: Look) -> dict[str, Any]:
    """Tell in plain values what is different in a look."""
    return {name: value for name, value in asdict(look).items() if value != getattr(usual, name)}


def changed(usual: Look, different: Mapping[str, Any]) -> Look:
    """Make a look of what is different in it.

    Raises
    ------
    BadInput
        When that is nothing a look has, or not of its kind.
    """
    choices = {"stretch": STRETCHES, "rule": RULES, "colours": COLOUR_MAPS}
    if not isinstance(different, Mapping):
        raise BadInput(f"{different!r} is no look", hint=f"it has {', '.join(asdict(usual))}")
    for name, value in different.items():
        known = getattr(usual, name, None)
        fits = value in choices[name] if name in choices else isinstance(value, bool) == isinstance(known, bool)
        number = name in choices or (isinstance(value, bool | int | float) and np.isfinite(value))
        if known is None or not fits or not number:
            raise BadInput(
                f"{name} = {value!r} is no look", hint=f"{name} is one of {choices.get(name, 'the numbers')}"
            )
    return replace(usual, **different)


def find_limits(values: ArrayLike, look: Look) -> Limits:
    """Find limits for drawing.

    Parameters
    ----------
    values
        Pixels of any shape; those that are not finite are ignored, and counted.
    look
        By which rule.
    """
    values = np.asarray(values, dtype=float).ravel()
    good = values[np.isfinite(values)]
    ignored = 1.0 - good.size / values.size if values.size else 0.0
    if not good.size:
        return Limits(-1.0, 1.0, ignored, "no finite pixel")
    if look.rule == "manual":
        low, high = sorted((look.low, look.high))
    elif good.min() == good.max():
        low = high = float(good[0])
    else:
        low, high = _by_rule(good, look)
    if look.symmetric and look.rule != "manual" and low < high:
        high = max(abs(low), abs(high))
        low = -high
    if not low < high:
        constant = good.min() == good.max()
        note = f"constant image: all pixels are {low:.6g}" if constant else "no spread between the limits"
        return Limits(low - 0.5, low + 0.5, ignored, note)
    return Limits(low, high, ignored)


def to_indices(
    values: NDArray, look: Look, limits: Limits, *, levels: int = HATCH[0] - 1, origin: tuple[int, int] = (0, 0)
) -> NDArray[np.uint8]:
    """Turn pixels into indices of a palette.

    Parameters
    ----------
    values
        (ny, nx).
    look, limits
        Stretch, and the values that get the first and the last colour.
    levels
        Indices 0 to ``levels - 1`` are used.
    origin
        Row and column of the first pixel, so that the hatch stays in place while panning.

    Returns
    -------
    numpy.ndarray
        (ny, nx); pixels that are not finite have the indices `HATCH`, in diagonal stripes.
    """
    bad = ~np.isfinite(values)
    fraction = (np.where(bad, limits.low, values).astype(np.float32) - np.float32(limits.low)) / np.float32(
        limits.high - limits.low
    )
    drawn = stretch(np.clip(fraction, 0, 1), look)
    indices = (drawn * (levels - 1) + 0.5).astype(np.uint8)
    if bad.any():
        rows = np.arange(origin[0], origin[0] + values.shape[0])[:, None]
        columns = np.arange(origin[1], origin[1] + values.shape[1])[None, :]
        stripes = ((rows + columns) // 3) % 2
        indices[bad] = (HATCH[0] + stripes).astype(np.uint8)[bad]
    return indices


def stretch(fraction: NDArray[np.floating], look: Look) -> NDArray[np.floating]:
    """Bend fractions of the range, 0 to 1; about the middle when the limits are symmetric."""
    if look.stretch == "linear":
        return fraction
    if look.symmetric:
        signed = 2 * fraction - 1
        return (1 + np.sign(signed) * _bend(np.abs(signed), look)) / 2
    return _bend(fraction, look)


def unstretch(drawn: ArrayLike, look: Look, limits: Limits) -> NDArray[np.float64]:
    """Invert `stretch`: the values that are drawn at fractions 0 to 1 of the colour map."""
    drawn = np.asarray(drawn, dtype=float)
    table = np.linspace(0, 1, 4001)
    fraction = np.interp(drawn, stretch(table, look), table)
    return limits.low + fraction * (limits.high - limits.low)


def cover(
    indices: NDArray[np.uint8], mask: NDArray[np.unsignedinteger], bits: tuple[int, ...], levels: int
) -> NDArray[np.uint8]:
    """Tint the pixels under mask planes, in place.

    Parameters
    ----------
    indices
        Of `to_indices` with `levels` levels.
    mask
        (ny, nx) bits.
    bits
        Planes to show, -1 for one that this mask lacks; where several are set the first is seen.
    levels
        As `levels_beside` gives it.
    """
    colours = min(len(bits), MAX_COLOURS)
    for k in reversed(range(len(bits))):
        if bits[k] < 0:
            continue
        here = (mask >> bits[k] & 1).astype(bool)
        if here.any():
            below = indices[here]
            base = levels + min(k, colours - 1) * (SHADES + 1)
            # what an earlier plane has tinted keeps its shade
            tinted = (below >= levels) & (below < HATCH[0])
            shade = np.where(tinted, (below.astype(int) - levels) % (SHADES + 1), below.astype(int) * SHADES // levels)
            indices[here] = base + np.where(below >= HATCH[0], SHADES, np.minimum(shade, SHADES))
    return indices


def levels_beside(planes: int) -> int:
    """Count the levels left for brightness when `planes` mask planes are shown; odd, so that zero is one of them."""
    return HATCH[0] - 1 - min(planes, MAX_COLOURS) * (SHADES + 1)


@lru_cache(maxsize=64)
def palette(colours: str, masks: tuple[str, ...] = (), opacity: float = 0.5) -> list[str]:
    """Give the 256 colours that the indices of `to_indices` and `cover` stand for.

    Parameters
    ----------
    colours
        One of `COLOUR_MAPS`.
    masks
        Colours of the mask planes shown.
    opacity
        Of these colours over the image.
    """
    masks = masks[:MAX_COLOURS]
    levels = levels_beside(len(masks))
    plain = ramp(colours, levels)
    shades = [plain[round((k + 0.5) * levels / SHADES)] if k < SHADES else HATCH_COLOURS[0] for k in range(SHADES + 1)]
    tinted = [_blend(mask, shade, opacity) for mask in masks for shade in shades]
    return [*plain, *tinted, HATCH_COLOURS[0], *HATCH_COLOURS]  # 253 stands for nothing


def ramp(colours: str, count: int) -> list[str]:
    """Give `count` colours of a map, as #rrggbb."""
    table = _colour_table(colours)
    places = np.linspace(0, len(table) - 1, count)
    rgb = np.stack([np.interp(places, np.arange(len(table)), table[:, k]) for k in range(3)], axis=1)
    return [f"#{r:02x}{g:02x}{b:02x}" for r, g, b in np.rint(rgb).astype(int)]


def _by_rule(good: NDArray[np.float64], look: Look) -> tuple[float, float]:
    if look.rule == "percentile":
        tail = (100.0 - look.percent) / 2
        low, high = np.percentile(good, [tail, 100.0 - tail])
    elif look.rule == "sigma":
        middle, width = float(np.median(good)), robust_width(good)
        width = width or float(np.std(good))
        low, high = middle - look.sigmas * width, middle + look.sigmas * width
    else:
        from astropy.visualization import ZScaleInterval

        low, high = ZScaleInterval(n_samples=10_000).get_limits(good)
    return float(low), float(high)


def _bend(fraction: NDArray[np.floating], look: Look) -> NDArray[np.floating]:
    if look.stretch == "sqrt":
        return np.sqrt(fraction)
    if look.stretch == "log":
        return np.log1p(np.float32(1000) * fraction) / np.float32(np.log1p(1000))
    if look.stretch == "asinh":
        soft = np.float32(max(look.softening, 1e-4))
        return np.arcsinh(fraction / soft) / np.arcsinh(1 / soft)
    return fraction


@lru_cache(maxsize=16)
def _colour_table(colours: str) -> NDArray[Any]:
    from bokeh import palettes

    named = {
        "gray": ["#000000", "#ffffff"],
        "gray_r": ["#ffffff", "#000000"],
        "RdBu_r": list(palettes.RdBu[11]),
        "viridis": list(palettes.Viridis256),
        "cividis": list(palettes.Cividis256),
        "inferno": list(palettes.Inferno256),
    }[colours]
    return np.array([[int(colour[k : k + 2], 16) for k in (1, 3, 5)] for colour in named], dtype=float)


def _blend(over: str, under: str, opacity: float) -> str:
    pairs = [(int(over[k : k + 2], 16), int(under[k : k + 2], 16)) for k in (1, 3, 5)]
    return "#" + "".join(f"{round(a * opacity + b * (1 - opacity)):02x}" for a, b in pairs)
