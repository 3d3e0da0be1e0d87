"""The card of one object: where it is, how often it was seen, what is the matter with it, all in words."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

import numpy as np
import panel as pn
from astropy.table import Table

from nightlab.dashboards.curves import calendar
from nightlab.dashboards.dia_data import flags_in_words
from nightlab.dashboards.images.sky import sexagesimal
from nightlab.dashboards.rows import significant
from nightlab.dashboards.style import band_style

_CSS = """
:host { color: var(--panel-on-background-color, inherit); font-size: 13px; line-height: 1.45; }
h4 { margin: 0 0 4px; font-size: 14px; font-weight: 600; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 12px; margin: 0;
  font-variant-numeric: tabular-nums; }
dt { opacity: .72; } dd { margin: 0; overflow-wrap: anywhere; }
.band { white-space: nowrap; margin-right: 10px; } .band i { display: inline-block; width: 9px; height: 9px;
  border-radius: 2px; margin-right: 4px; }
.flag { display: inline-block; border: 1px solid color-mix(in srgb, currentColor 30%, transparent); border-radius: 9px;
  padding: 0 8px; margin: 1px 3px 1px 0; font-size: 12px; cursor: help; }
a { color: inherit; } code { font-size: 12px; user-select: all; }
"""


def object_card(name: str, ra: float, dec: float, detections: Table, flags: Sequence[str]) -> pn.pane.HTML:
    """Draw the card.

    Parameters
    ----------
    name
        What it is and its id, such as ``DIAObject 12``.
    ra, dec
        ICRS [deg].
    detections
        Its sources.
    flags
        Columns of flags; one that is set in some source is named in words.
    """
    rows = [
        ("position", f"<code>{sexagesimal(ra, dec)}</code><br><code>{ra:.6f} {dec:+.6f}</code> deg"),
        ("detections", _bands(detections)),
        ("time", _span(detections)),
    ]
    if "reliability" in detections.colnames:
        best = np.asarray(detections["reliability"], float)
        known = best[np.isfinite(best)]
        rows.append(("reliability", f"best {significant(float(known.max()), 2)}" if known.size else "–"))
    rows.append(("flags", _flags(detections, flags)))
    place = f"{ra:.6f}{dec:+.6f}"
    links = (
        (
            "SIMBAD",
            f"https://simbad.cds.unistra.fr/simbad/sim-coo?Coord={ra:.6f}%20{dec:+.6f}&Radius=5&Radius.unit=arcsec",
        ),
        ("NED", f"https://ned.ipac.caltech.edu/conesearch?coordinates={ra:.6f}d%20{dec:+.6f}d&radius=0.1"),
        ("Legacy Survey", f"https://www.legacysurvey.org/viewer?ra={ra:.6f}&dec={dec:.6f}&zoom=15&mark={place}"),
    )
    text = " · ".join(
        f"<a href='{html.escape(url)}' target='_blank' rel='noopener'>{label}</a>" for label, url in links
    )
    rows.append(("elsewhere", text))
    body = "".join(f"<dt>{label}</dt><dd>{value}</dd>" for label, value in rows)
    return pn.pane.HTML(
        f"<section aria-label='object'><h4>{html.escape(name)}</h4><dl>{body}</dl></section>",
        stylesheets=[_CSS], sizing_mode="stretch_width", margin=(4, 10),
    )  # fmt: skip


def _bands(detections: Table) -> str:
    bands, counts = np.unique(np.asarray(detections["band"]).astype(str), return_counts=True)
    pairs = sorted(zip(bands.tolist(), counts.tolist(), strict=True), key=lambda p: ("ugrizy".find(p[0]) % 7, p[0]))
    shown = (
        f"<span class='band'><i style='background:{band_style(band).colour}'></i>{html.escape(band or 'no band')} "
        f"{count}</span>"
        for band, count in pairs
    )
    return "".join(shown) or "none"


def _span(detections: Table) -> str:
    time: Any = np.asarray(detections["midpointMjdTai"], float)
    time = time[np.isfinite(time)]
    if not time.size:
        return "–"
    first, last = float(time.min()), float(time.max())
    if last - first < 1e-6:
        return f"MJD {first:.5f}<br>{calendar(first)}"
    length = last - first
    lasted = f"{significant(length, 3)} d" if length >= 1 else f"{significant(length * 1440, 3)} min"
    return f"MJD {first:.5f} … {last:.5f}<br>{calendar(first)}, over {lasted}"


def _flags(detections: Table, flags: Sequence[str]) -> str:
    found = flags_in_words(detections, flags)
    n = len(detections)
    return (
        "".join(
            f"<span class='flag' tabindex='0' title='{html.escape(sentence)}'>{html.escape(title)}"
            f"{f' {count}/{n}' if n > 1 else ''}</span>"
            for title, sentence, count in found
        )
        or "none set"
    )
