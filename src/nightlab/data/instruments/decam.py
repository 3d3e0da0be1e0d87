"""DECam: images of the Community Pipeline with their masks and weights, and exposures the LSST pipelines calibrated.

The Community Pipeline writes three files, found beside each other by their names, here with one CCD each::

    c4d_<date>_<time>_ooi_<band>_<version>.<ccd>.fits   image, sky included [adu]
    c4d_<date>_<time>_ood_<band>_<version>.<ccd>.fits   data quality, a code in every pixel
    c4d_<date>_<time>_oow_<band>_<version>.<ccd>.fits   weight, the inverse variance of the sky

The meaning of the codes is that of the NOAO Data Handbook from version 3.5 of the pipeline on.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from lsst.images import Box, DetectorFrame, SkyProjection, VisitImage
from numpy.typing import NDArray

from nightlab.data.instruments.base import DetectorRecord, Instrument, RawRecord, fits_file
from nightlab.data.instruments.calexp import is_calexp, read_calexp, read_facts
from nightlab.data.instruments.frames import check_camera, corners_of, frame_image, number, tai, wcs_of
from nightlab.errors import BadInput, MissingData, ShapeError
from nightlab.images.wcs import pixel_to_radec, projection_from_wcs

PIXEL_SCALE = 0.2623  # arcsec
CHIP = Box.from_shape((4096, 2048))
FILTERS = {f"decam_{name}": name for name in ("u", "g", "r", "i", "z", "VR")} | {"decam_Y": "y"}
FILTERS |= {f"decam_{name}": name for name in ("N419", "N501", "N540", "N673", "N708", "N964")}
#: Mask plane of each data-quality code.
CODES = {
    1: "BAD",
    2: "NO_DATA",
    3: "SATURATED",
    4: "SATURATED",  # bleed trail
    5: "COSMIC_RAY",
    6: "SUSPECT",  # low weight
    7: "SUSPECT",  # differs from other exposures
    8: "SUSPECT",  # long streak
}
OLDEST = (3, 5)  # before this version the codes were bits
# names of the CCDs 1 to 62, row by row from south to north
_ROWS = ((29, 31), (25, 28), (20, 24), (14, 19), (8, 13), (1, 7))
NAMES = tuple(f"S{n}" for first, last in _ROWS for n in range(first, last + 1)) + tuple(
    f"N{n}" for first, last in reversed(_ROWS) for n in range(first, last + 1)
)


def read_record(path: str | Path) -> RawRecord:
    """Tell what the header of an image says; pixels are not read."""
    path = Path(path)
    with fits_file(path, needed="the header of a DECam image") as hdus:
        check_camera(hdus[0].header, ["DECam"], "DECam", path)
        if is_calexp(hdus):
            facts = read_facts(hdus)
            projection = _projection(facts.header, facts.wcs, facts.bbox)
            return _record(facts.header, projection, facts.bbox, facts.begin)
        header = _header(hdus, path)
        bbox = Box.from_shape((int(header["NAXIS2"]), int(header["NAXIS1"])))
        return _record(header, _projection(header, wcs_of(header), bbox), bbox, _begin(header))


def _header(hdus: fits.HDUList, path: Path) -> fits.Header:
    """Give the header of the one CCD in a file, with what it inherits."""
    images = [hdu for hdu in hdus if hdu.is_image and len(hdu.shape) == 2]
    if len(images) != 1:
        raise BadInput(
            f"{path} holds {len(images)} CCDs", hint="write one file per CCD and name it so", path=str(path)
        )
    header = hdus[0].header.copy()
    header.update(images[0].header)
    if images[0] is not hdus[0] and "RADESYS" not in images[0].header:
        # the positions are those of Gaia; the primary header has what the telescope was told
        header["RADESYS"] = "ICRS"
    return header


def _begin(header: fits.Header) -> float:
    return tai(float(header["MJD-OBS"]), str(header.get("TIMESYS", "UTC")).strip())


def _record(header: fits.Header, projection: SkyProjection, bbox: Box, begin: float) -> RawRecord:
    visit, detector, seconds = int(header["EXPNUM"]), int(header["CCDNUM"]), float(header["EXPTIME"])
    if not 1 <= detector <= len(NAMES):
        raise BadInput(f"the header speaks of CCD {detector}", hint="DECam has 1 to 62", found=detector)
    ra, dec = number(header, "CENTRA", "BORE-RA"), number(header, "CENTDEC", "BORE-DEC")
    if not np.isfinite([ra, dec]).all():
        (ra,), (dec,) = pixel_to_radec(projection, [bbox.x.center], [bbox.y.center])
    return RawRecord(
        exposure=visit,
        visit=visit,
        detector=detector,
        physical_filter=f"decam_{_filter(header)}",
        mjd_begin=begin,
        mjd_end=begin + seconds / 86400.0,
        exposure_time=seconds,
        ra=float(ra),
        dec=float(dec),
        airmass=number(header, "AIRMASS", "BORE-AIRMASS"),
        corners=corners_of(projection, bbox),
        target=str(header.get("OBJECT", "")).strip(),
        sequence=visit,
    )


def _filter(header: fits.Header) -> str:
    words = str(header["FILTER"]).split()
    return words[0] if words else ""


def _projection(header: fits.Header, wcs: WCS, bbox: Box) -> SkyProjection:
    frame = DetectorFrame(instrument="DECam", visit=int(header["EXPNUM"]), detector=int(header["CCDNUM"]), bbox=bbox)
    return projection_from_wcs(wcs, frame, bbox)


def read_raw(path: str | Path) -> VisitImage:
    """Read the image of one CCD.

    Parameters
    ----------
    path
        An ``ooi`` file of the Community Pipeline with ``ood`` and ``oow`` beside it, or an exposure calibrated by the
        LSST pipelines.

    Returns
    -------
    VisitImage
        In adu. Of the Community Pipeline: with sky, without PSF; the variance is that of the weight map, and where
        that is zero the noise of the sky and of the pixel's own light. `metadata` has ``gain`` [electron/adu],
        ``saturation`` [adu], ``fwhm`` [pixel] as the pipeline measured it, and ``zeroPoint`` (magnitude of 1 adu in
        this exposure) where it is known.

    Raises
    ------
    BadInput
        When the file is of another camera, holds several CCDs, or comes from a version of the pipeline whose codes
        mean something else.
    ShapeError
        When mask or weight are of another size.
    MissingData, CorruptFile
        When a file is absent or damaged.
    """
    path = Path(path)
    record = read_record(path)
    if record.physical_filter not in FILTERS:
        raise BadInput(
            f"{path} was taken through {record.physical_filter!r}",
            hint=f"known are {', '.join(FILTERS)}",
            path=str(path),
        )
    with fits_file(path, needed="a DECam image") as hdus:
        if is_calexp(hdus):
            return _calibrated(hdus, record)
        header = _header(hdus, path)
        pixels = _plane(hdus)
    return _community(path, header, pixels, record)


def _plane(hdus: fits.HDUList) -> NDArray:
    return np.asarray(next(hdu.data for hdu in hdus if hdu.is_image and len(hdu.shape) == 2))


def _calibrated(hdus: fits.HDUList, record: RawRecord) -> VisitImage:
    found = read_calexp(hdus)
    facts = {
        "gain": _mean(found.header, "GAINA", "GAINB"),
        "saturation": number(found.header, "SATURATE", "SATURATA"),
        "zeroPoint": found.zero_point,
    }
    return frame_image(
        found.pixels,
        instrument="DECam",
        band=FILTERS[record.physical_filter],
        record=record,
        name=NAMES[record.detector - 1],
        assembled=CHIP,
        projection=_projection(found.header, found.wcs, found.bbox),
        pixel_scale=PIXEL_SCALE,
        bbox=found.bbox,
        variance=found.variance,
        planes=found.planes,
        psf=None if found.psf is None else found.psf.to_piff(),
        metadata={name: value for name, value in facts.items() if np.isfinite(value)},
    )


def _community(path: Path, header: fits.Header, pixels: NDArray, record: RawRecord) -> VisitImage:
    version = re.match(r"V(\d+)\.(\d+)", str(header.get("PLVER", "")).strip())
    if version is None or (int(version[1]), int(version[2])) < OLDEST:
        raise BadInput(
            f"{path} was made by version {header.get('PLVER')!r} of the Community Pipeline",
            hint="its data-quality codes are known from version 3.5 on",
            path=str(path),
        )
    codes = _companion(path, "ood", "data-quality mask", pixels.shape)
    weight = _companion(path, "oow", "weight map", pixels.shape).astype(np.float64)
    bbox = Box.from_shape(pixels.shape)
    gain = _mean(header, "GAINA", "GAINB")
    planes = {
        plane: np.isin(codes, [code for code, name in CODES.items() if name == plane])
        for plane in sorted(set(CODES.values()))
    }
    planes["BAD"] |= ((codes < 0) | (codes > max(CODES))) | ((weight <= 0) & (codes == 0))
    facts = {
        "gain": gain,
        "saturation": number(header, "SATURATE"),
        "fwhm": number(header, "FWHM"),
        "zeroPoint": number(header, "MAGZERO"),
    }
    return frame_image(
        pixels,
        instrument="DECam",
        band=FILTERS[record.physical_filter],
        record=record,
        name=NAMES[record.detector - 1],
        # a CCD loses some columns and rows in the pipeline, and a piece of one has no place on it
        assembled=bbox,
        projection=_projection(header, wcs_of(header), bbox),
        pixel_scale=PIXEL_SCALE,
        variance=_variance(pixels, weight, gain),
        planes=planes,
        metadata={name: value for name, value in facts.items() if np.isfinite(value)},
    )


def _companion(path: Path, kind: str, what: str, shape: tuple[int, ...]) -> NDArray:
    """Read the mask or weight that belongs to an image."""
    if "_ooi_" not in path.name:
        raise BadInput(
            f"{path.name} is not the name of an image of the Community Pipeline, so its {what} is not found",
            hint="keep the names c4d_<date>_<time>_ooi_<band>_<version>...",
            path=str(path),
        )
    other = path.with_name(path.name.replace("_ooi_", f"_{kind}_"))
    if not other.is_file():
        raise MissingData(
            f"the {what} of {path.name} is missing: {other}",
            hint="fetch it and put it beside the image",
            path=str(other),
        )
    with fits_file(other, needed=f"the {what} of a DECam image") as hdus:
        plane = _plane(hdus)
    if plane.shape != shape:
        raise ShapeError(
            f"the {what} {other} is {plane.shape} but the image is {shape}", hint="fetch both again", path=str(other)
        )
    return plane


def _variance(pixels: NDArray, weight: NDArray[np.float64], gain: float) -> NDArray[np.float64]:
    """Give 1 / weight; where there is none, the median variance and the noise of what is above the median."""
    known = weight > 0
    if not known.any():
        return np.full(pixels.shape, np.inf)
    variance = np.divide(1.0, weight, out=np.zeros(weight.shape), where=known)
    above = np.maximum(np.nan_to_num(pixels - np.median(pixels[known])), 0.0)
    estimate = np.median(variance[known]) + (above / gain if gain > 0 else 0.0)
    return np.where(known, variance, estimate)


def _mean(header: fits.Header, *names: str) -> float:
    values = [number(header, name) for name in names]
    finite = [value for value in values if np.isfinite(value)]
    return float(np.mean(finite)) if finite else float("nan")


INSTRUMENT = Instrument(
    name="DECam",
    class_name="nightlab.data.instruments.decam.INSTRUMENT",
    detectors=tuple(DetectorRecord(id=k + 1, full_name=name) for k, name in enumerate(NAMES)),
    filters=FILTERS,
    read_raw=read_raw,
    read_record=read_record,
)
