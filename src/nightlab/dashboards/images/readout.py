"""What is under the pointer, in all layers, from the pixels themselves."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from nightlab.dashboards.images.fits import region
from nightlab.dashboards.images.layers import Layer
from nightlab.dashboards.images.sky import sexagesimal
from nightlab.images.wcs import pixel_to_radec
from nightlab.numeric.statistics import robust_width


@dataclass(frozen=True)
class Reading:
    """One layer at one place.

    Attributes
    ----------
    name, unit
        Of the layer.
    value, sigma
        In `unit`; the value is that of the array, exactly. None outside the image, and sigma also without variance.
    flags
        Names of the mask planes set.
    """

    name: str
    unit: str
    value: float | None
    sigma: float | None
    flags: tuple[str, ...] = ()

    @property
    def snr(self) -> float | None:
        """Value over sigma."""
        if self.value is None or not self.sigma:
            return None
        return self.value / self.sigma


@dataclass(frozen=True)
class Readout:
    """All layers at one place, and where that is.

    Attributes
    ----------
    x, y
        Pixel coordinates in the layer under the pointer.
    ra, dec
        ICRS [deg]; NaN without a WCS.
    readings
        In the order of the layers.
    """

    x: float
    y: float
    ra: float
    dec: float
    readings: tuple[Reading, ...]


@dataclass(frozen=True)
class BoxStatistics:
    """A layer within a box.

    Attributes
    ----------
    count
        Finite pixels.
    ignored
        Pixels that are not.
    median, sigma
        In the unit of the layer; sigma is 1.4826 times the median absolute deviation.
    chi2
        Mean of (value / noise) squared; NaN without variance.
    """

    name: str
    unit: str
    count: int
    ignored: int
    median: float
    sigma: float
    chi2: float


def read_pixel(name: str, layer: Layer, x: float, y: float) -> Reading:
    """Read one layer at a place in its own pixels."""
    at = layer.index(x, y)
    if at is None:
        return Reading(name, layer.unit, None, None)
    sigma = None
    if layer.variance is not None:
        variance = float(layer.variance[at])
        sigma = float(np.sqrt(variance)) if variance >= 0 else None
    return Reading(name, layer.unit, layer.values[at].item(), sigma, tuple(layer.flags_at(*at)))


def position(layer: Layer, x: float, y: float) -> tuple[float, float]:
    """Sky position of a pixel, ICRS [deg]; NaN without a WCS."""
    if layer.projection is None:
        return float("nan"), float("nan")
    ra, dec = pixel_to_radec(layer.projection, [x], [y])
    return float(ra[0]), float(dec[0])


def box_statistics(name: str, layer: Layer, box: tuple[float, float, float, float]) -> BoxStatistics:
    """Measure a layer within a box of its own pixels: first and last x, first and last y."""
    rows, columns = region(layer, box)
    values = np.asarray(layer.values[rows, columns], dtype=float)
    good = np.isfinite(values)
    chi2 = np.nan
    if layer.variance is not None or layer.kind == "snr":
        variance = np.ones(values.shape) if layer.variance is None else layer.variance[rows, columns].astype(float)
        use = good & np.isfinite(variance) & (variance > 0)
        chi2 = float(np.mean(values[use] ** 2 / variance[use])) if use.any() else np.nan
    finite = values[good]
    median = float(np.median(finite)) if finite.size else np.nan
    return BoxStatistics(
        name, layer.unit, int(good.sum()), int((~good).sum()), median, robust_width(finite), float(chi2)
    )


def readout_html(readout: Readout | None, extra: str = "") -> str:
    """Write a readout as a small table."""
    if readout is None:
        return f"{_CSS}<div class='at dim'>Move over an image</div>"
    rows = []
    for reading in readout.readings:
        value = "outside" if reading.value is None else f"{_digits(reading.value)}"
        sigma = "" if reading.sigma is None else f"± {_digits(reading.sigma)}"
        snr = "" if reading.snr is None or not np.isfinite(reading.snr) else f"{reading.snr:.1f} σ".replace("-", "−")
        flags = " ".join(f"<i>{html.escape(flag)}</i>" for flag in reading.flags)
        rows.append(
            f"<tr><th>{html.escape(reading.name)}</th><td>{value}</td><td>{sigma}</td><td>{snr}</td></tr>"
            + (f"<tr><td colspan=4 class='flags'>{flags}</td></tr>" if flags else "")
        )
    unit = next((reading.unit for reading in readout.readings if reading.unit != "σ"), "")
    sky = "no WCS"
    if np.isfinite(readout.ra):
        degrees = f"{readout.ra:.6f} {readout.dec:+.6f}".replace("-", "−")
        sky = f"{sexagesimal(readout.ra, readout.dec)}<br><span class=dim>{degrees}°</span>"
    return (
        f"{_CSS}<div class='at'>x {readout.x:.1f} &nbsp; y {readout.y:.1f} &emsp;<span class=dim>{html.escape(unit)}"
        f"</span></div><div class='at'>{sky}</div><table>{''.join(rows)}</table>{extra}"
    )


def statistics_html(found: list[BoxStatistics]) -> str:
    """Write statistics of a box as a small table."""
    rows = "".join(
        f"<tr><th>{html.escape(s.name)}</th><td>{s.count:,}</td><td>{_digits(s.median)}</td><td>{_digits(s.sigma)}</td>"
        f"<td>{'–' if np.isnan(s.chi2) else f'{s.chi2:.3f}'}</td></tr>"
        for s in found
    )
    ignored = max((s.ignored for s in found), default=0)
    note = f"<div class=dim>up to {ignored:,} pixels that are not finite were left out</div>" if ignored else ""
    head = "<tr class=dim><th>box</th><td>n</td><td>median</td><td>MAD σ</td><td>χ²/n</td></tr>"
    return f"{_CSS}<table>{head}{rows}</table>{note}"


def _digits(value: float) -> str:
    if isinstance(value, int):
        return f"{value}".replace("-", "−")
    if not np.isfinite(value):
        return "NaN" if np.isnan(value) else ("∞" if value > 0 else "−∞")
    return f"{value:.5g}".replace("-", "−")


_CSS = """<style>
.at { font-variant-numeric: tabular-nums; font-size: 13px; line-height: 1.5; }
.dim { opacity: .75; font-size: 12px; }
table { border-collapse: collapse; width: 100%; font-size: 12px; font-variant-numeric: tabular-nums; margin-top: 4px; }
th { text-align: left; font-weight: 600; } td { text-align: right; padding: 1px 0 1px 6px; white-space: nowrap; }
td.flags { text-align: left; white-space: normal; padding: 0 0 3px 8px; }
i { font-style: normal; border: 1px solid color-mix(in srgb, currentColor 40%, transparent); border-radius: 3px;
  padding: 0 3px; font-size: 12px; }
</style>"""


def read_all(layers: Mapping[str, tuple[Layer, float, float]], name: str) -> Readout:
    """Read all layers, each at a place in its own pixels.

    Parameters
    ----------
    layers
        Layer, x and y by name.
    name
        The layer under the pointer.
    """
    layer, x, y = layers[name]
    ra, dec = position(layer, x, y)
    return Readout(x, y, ra, dec, tuple(read_pixel(key, *place) for key, place in layers.items()))
