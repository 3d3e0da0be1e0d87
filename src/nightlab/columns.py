"""What the columns of our tables mean, in the words of documentation, tooltips and headings alike.

A flag's title says what is wrong when it is set.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Words(NamedTuple):
    """A column in words: a short title, and one plain sentence."""

    title: str
    sentence: str


#: Flags: what is the matter when one is true.
FLAGS: dict[str, Words] = {
    "pixelFlags_edge": Words("at the edge", "The footprint touches the border of the image or leaves it."),
    "pixelFlags_saturated": Words("saturated", "A pixel of the footprint is saturated in the science image."),
    "pixelFlags_saturatedCenter": Words("saturated centre", "One of the 3 x 3 central pixels is saturated."),
    "pixelFlags_saturatedTemplate": Words("saturated template", "The footprint is saturated in the template."),
    "pixelFlags_bad": Words("bad pixel", "The footprint holds a pixel that the detector's defect list calls bad."),
    "pixelFlags_interpolated": Words("interpolated", "A pixel of the footprint was filled in from its neighbours."),
    "pixelFlags_interpolatedCenter": Words(
        "interpolated centre", "One of the 3 x 3 central pixels was filled in from its neighbours."
    ),
    "pixelFlags_suspect": Words("suspect pixel", "A pixel is bright enough for the detector not to be linear there."),
    "pixelFlags_nodata": Words("no data", "A pixel has no data in the science image or the template."),
    "pixelFlags_highVariance": Words("noisy template", "The template is unusually noisy: few visits went into it."),
    "pixelFlags_streak": Words("on a streak", "The source lies on a straight trail, of a satellite or an aeroplane."),
    "pixelFlags_cr": Words("cosmic ray", "A cosmic-ray hit, found as one before or sharper than any star could be."),
    "centroid_flag": Words("no centroid", "The position is that of the peak: its fit did not converge."),
    "psfFlux_flag": Words("no PSF flux", "PSF photometry failed: too few usable pixels."),
    "psfFlux_flag_edge": Words("PSF over the edge", "A part of the PSF lies outside the image."),
    "shape_flag": Words("no shape", "The second moments are not those of a positive source."),
    "scienceFlux_flag": Words("no total flux", "PSF photometry on the science image failed: too few usable pixels."),
    "isDipole": Words("dipole", "A positive and a negative lobe: it moved, or was subtracted out of place."),
    "isNegative": Words("negative", "The source is fainter than in the template."),
}  # fmt: skip

#: All other columns people meet.
COLUMNS: dict[str, Words] = {
    "diaSourceId": Words("source", "Number of the DIASource; unique for all time."),
    "diaObjectId": Words("object", "Number of the DIAObject that the source belongs to; 0 where it belongs to none."),
    "diaForcedSourceId": Words("forced source", "Number of the forced measurement."),
    "visit": Words("visit", "Number of the exposure."),
    "detector": Words("detector", "Number of the detector."),
    "band": Words("band", "Passband."),
    "midpointMjdTai": Words("time", "Middle of the exposure, MJD, TAI."),
    "x": Words("x", "Column of the centroid; the lower left pixel has its centre at 0."),
    "y": Words("y", "Row of the centroid; the lower left pixel has its centre at 0."),
    "ra": Words("RA", "Right ascension, ICRS."),
    "dec": Words("Dec", "Declination, ICRS."),
    "raErr": Words("RA error", "Error of the right ascension as an angle on the sky."),
    "decErr": Words("Dec error", "Error of the declination."),
    "psfFlux": Words("difference flux", "PSF flux on the difference image: science minus template."),
    "psfFluxErr": Words("error", "Error of the difference flux."),
    "apFlux": Words("aperture flux", "Flux of the difference image in an aperture."),
    "scienceFlux": Words("total flux", "PSF flux on the science image at the place of the source."),
    "scienceFluxErr": Words("error", "Error of the total flux."),
    "templateFlux": Words("template flux", "PSF flux on the template at the place of the source."),
    "snr": Words("S/N", "Significance of the detection on the difference image; positive also for negative sources."),
    "reliability": Words("reliability", "Probability that the source is real, by a classifier; 0 to 1."),
    "dipoleLength": Words("dipole length", "Distance between the two lobes of a dipole."),
    "dipoleAngle": Words("dipole angle", "From negative to positive lobe, counted from the x axis to the y axis."),
    "nDiaSources": Words("detections", "Number of DIASources of the object."),
    "firstDiaSourceMjdTai": Words("first seen", "Time of the first detection, MJD, TAI."),
    "lastDiaSourceMjdTai": Words("last seen", "Time of the last detection, MJD, TAI."),
    "psfFluxMean": Words("mean flux", "Mean difference flux, weighted by inverse variance."),
    "psfFluxSigma": Words("scatter", "Scatter of the difference fluxes about their mean."),
    "psfFluxNdata": Words("detections", "Number of detections that entered the statistics."),
    "scienceFluxMean": Words("mean total flux", "Mean flux on the science images, weighted by inverse variance."),
}  # fmt: skip

BANDS = ("u", "g", "r", "i", "z", "y")


def words(column: str) -> Words:
    """Say what a column means; a prefix such as ``g_`` becomes "g-band", an unknown name stands for itself."""
    known = FLAGS.get(column) or COLUMNS.get(column)
    if known:
        return known
    band, _, rest = column.partition("_")
    if band in BANDS and rest in COLUMNS:
        return Words(f"{band} {COLUMNS[rest].title}", f"{band} band: {COLUMNS[rest].sentence}")
    return Words(column, "")


def is_flag(column: str) -> bool:
    """Whether a column is a flag by its name, known to us or not."""
    return column in FLAGS or column.startswith("pixelFlags") or column.endswith("_flag") or "_flag_" in column


def flags_among(columns: Iterable[str]) -> list[str]:
    """Pick the flags, in the order given."""
    return [column for column in columns if is_flag(column)]
