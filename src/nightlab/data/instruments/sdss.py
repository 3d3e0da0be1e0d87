"""SDSS imaging: corrected frames (fpC) with the mask, PSF, astrometry and calibration that were published beside them.

The files and their meaning are those of the SDSS data model up to DR7. A frame is one field of a drift scan seen by
one CCD. It arrives flat-fielded and debiased with its sky kept in; DN here are adu. Companions are found in the
standard folders relative to the frame::

    <rerun>/corr/<camcol>/fpC-<run>-<filter><camcol>-<field>.fit.gz       pixels
    <rerun>/objcs/<camcol>/fpM-<run>-<filter><camcol>-<field>.fit         mask
    <rerun>/objcs/<camcol>/psField-<run>-<camcol>-<field>.fit             PSF, gain, dark variance
    <rerun>/astrom/asTrans-<run>.fit                                      astrometry
    <rerun>/calibChunks/<camcol>/tsField-<run>-<camcol>-<rerun>-<field>.fit  photometric calibration

SDSS counts rows and columns from the outer corner of the first pixel, whose centre is at 0.5; here x = column - 0.5
and y = row - 0.5.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import comb
from pathlib import Path

import numpy as np
from astropy.io import fits
from lsst.images import Box, DetectorFrame, SkyProjection, VisitImage
from numpy.typing import NDArray

from nightlab.data.instruments.base import DetectorRecord, Instrument, RawRecord, fits_file
from nightlab.data.instruments.frames import observed
from nightlab.errors import BadInput, CorruptFile, MissingData
from nightlab.images.build import visit_image
from nightlab.images.camera import make_detector
from nightlab.images.psf import PolynomialPsf, polynomial_powers
from nightlab.images.wcs import fit_projection, pixel_to_radec

Floats = NDArray[np.float64]

BANDS = "ugriz"  # order of the arrays in psField and tsField, and of the last digit of a visit
CAMERA_ROWS = "riuzg"  # order in which a star drifts over the filters
CAMCOLS = range(1, 7)
PIXEL_SCALE = 0.396  # arcsec
POSITION_UNIT = 0.001  # psField polynomials are in thousands of pixels
PLANES = {"INTERP": "INTERPOLATED", "SATUR": "SATURATED", "CR": "COSMIC_RAY", "GHOST": "SUSPECT"}
GRID_POINTS = 25  # per axis, where the published astrometry is sampled
FRAME_NAME = re.compile(r"fpC-(\d{6})-([ugriz])([1-6])-(\d{4})\.fits?(\.gz)?")


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One frame and the files that belong to it."""

    run: int
    band: str
    camcol: int
    field: int
    pixels: Path
    mask: Path
    psf: Path
    astrometry: Path
    photometry: Path

    @property
    def visit(self) -> int:
        """Visit and exposure number: run, field and filter."""
        return self.run * 100_000 + self.field * 10 + BANDS.index(self.band)

    @property
    def detector(self) -> int:
        """Detector number."""
        return detector_id(self.band, self.camcol)


def detector_id(band: str, camcol: int) -> int:
    """Detector number of one CCD of the camera: `camcol` 1 to 6 of the row that carries filter `band`."""
    return camcol - 1 + 6 * CAMERA_ROWS.index(band)


def find_frame(path: str | Path) -> Frame:
    """Frame of an fpC file, with the companions its folder layout promises.

    Raises
    ------
    BadInput
        When the name is not that of an fpC file.
    MissingData
        When the frame or a companion is absent.
    """
    path = Path(path).absolute()
    named = FRAME_NAME.fullmatch(path.name)
    if named is None:
        raise BadInput(
            f"{path.name} is not the name of an SDSS corrected frame",
            hint="give fpC-<run>-<filter><camcol>-<field>.fit, gzipped or not",
            path=str(path),
        )
    run, band, camcol, field = named[1], named[2], named[3], named[4]
    if not path.is_file():
        raise MissingData(f"the frame {path} is missing", hint="check the path", path=str(path))
    rerun = path.parents[2]
    objects = rerun / "objcs" / camcol
    return Frame(
        run=int(run),
        band=band,
        camcol=int(camcol),
        field=int(field),
        pixels=path,
        mask=_companion(objects, f"fpM-{run}-{band}{camcol}-{field}.fit", "mask"),
        psf=_companion(objects, f"psField-{run}-{camcol}-{field}.fit", "PSF and gain"),
        astrometry=_companion(rerun / "astrom", f"asTrans-{run}.fit", "astrometric solution"),
        photometry=_companion(
            rerun / "calibChunks" / camcol, f"tsField-{run}-{camcol}-*-{field}.fit", "photometric calibration"
        ),
    )


def _companion(folder: Path, name: str, what: str) -> Path:
    found = sorted([*folder.glob(name), *folder.glob(name + ".gz")])
    if found:
        return found[-1]
    raise MissingData(
        f"the {what} of the frame is missing: {folder / name}",
        hint="fetch it from the SDSS archive server and keep the folders as they are there",
        path=str(folder / name),
    )


def read_record(path: str | Path) -> RawRecord:
    """Facts about a frame from its header and astrometric solution; pixels are not read.

    Row r of a drift scan is read out r row times after the first, and every row collects light for the same time:
    begin and end are those of the middle row.
    """
    frame = find_frame(path)
    with fits_file(frame.pixels, needed="the header of an SDSS frame") as hdus:
        header = hdus[0].header
        shape = (int(header["NAXIS2"]), int(header["NAXIS1"]))
        seconds = float(header["EXPTIME"])
        middle = float(header["TAI"]) + 0.5 * shape[0] * float(header["C_OBS"]) * 1e-6
    height, width = shape
    x = np.array([-0.5, width - 0.5, width - 0.5, -0.5, (width - 1) / 2, (width - 1) / 2])
    y = np.array([-0.5, -0.5, height - 0.5, height - 0.5, (height - 1) / 2, height - 0.5])
    ra, dec = published_positions(frame, x, y)
    east = ((ra[5] - ra[4] + 180.0) % 360.0 - 180.0) * np.cos(np.deg2rad(dec[4]))
    return RawRecord(
        exposure=frame.visit,
        visit=frame.visit,
        detector=frame.detector,
        physical_filter=f"sdss_{frame.band}",
        mjd_begin=(middle - seconds) / 86400.0,
        mjd_end=middle / 86400.0,
        exposure_time=seconds,
        ra=float(ra[4]),
        dec=float(dec[4]),
        rotation=float(np.rad2deg(np.arctan2(east, dec[5] - dec[4]))),
        airmass=_calibration(frame)["airmass"],
        corners=np.stack([ra[:4], dec[:4]], axis=1),
        target=f"run {frame.run} field {frame.field}",
        sequence=frame.field,
    )


def read_raw(path: str | Path) -> VisitImage:
    """Read a corrected frame with everything published beside it.

    Parameters
    ----------
    path
        An fpC file in the standard folder layout.

    Returns
    -------
    VisitImage
        In adu, sky included; with mask, variance, PSF and the published astrometry. Its `metadata` carries
        ``zeroPoint`` (magnitude of 1 adu in this exposure), ``zeroPointErr``, ``gain`` [electron/adu],
        ``darkVariance`` [adu^2] and ``saturation`` [adu]. SDSS has interpolated over saturated pixels and bleed
        trails: they are flagged, and far below the saturation level.

    Raises
    ------
    MissingData
        When the frame or a companion is absent.
    CorruptFile
        When one of them is truncated, or does not speak of this frame.
    """
    frame = find_frame(path)
    record = read_record(path)
    pixels = _read_pixels(frame)
    bbox = Box.from_shape(pixels.shape)
    calibration = _calibration(frame)
    psf, gain, dark_variance = _read_psf(frame, bbox)
    # Poisson noise of everything collected, sky included, plus what dark current and read-out add
    variance = np.maximum(pixels, 0.0) / gain + dark_variance
    zero_point = calibration["zeroPoint"] + 2.5 * np.log10(record.exposure_time)
    return visit_image(
        pixels,
        variance=variance,
        planes=_read_mask(frame, pixels.shape),
        unit="adu",
        projection=published_projection(frame, bbox),
        psf=psf.to_piff(),
        detector=make_detector(
            "SDSS",
            frame.detector,
            f"{frame.band}{frame.camcol}",
            bbox,
            pixel_scale=PIXEL_SCALE,
            visit=frame.visit,
        ),
        band=frame.band,
        info=observed("SDSS", record),
        metadata={
            "zeroPoint": float(zero_point),
            "zeroPointErr": calibration["zeroPointErr"],
            "gain": gain,
            "darkVariance": dark_variance,
            "saturation": calibration["saturation"],
        },
    )


def _read_pixels(frame: Frame) -> NDArray[np.float32]:
    with fits_file(frame.pixels, needed="the pixels of an SDSS frame") as hdus:
        soft_bias = float(hdus[0].header["SOFTBIAS"])
        data = np.asarray(hdus[0].data, dtype=np.float32)
        if data.ndim != 2:
            raise ValueError(f"the image has {data.ndim} axes")
    return data - np.float32(soft_bias)


def _read_mask(frame: Frame, shape: tuple[int, ...]) -> dict[str, NDArray[np.bool_]]:
    with fits_file(frame.mask, needed="the mask of an SDSS frame") as hdus:
        if (int(hdus[0].header["MASKROWS"]), int(hdus[0].header["MASKCOLS"])) != tuple(shape):
            raise ValueError(f"the mask is not of the size of the frame, {shape}")
        numbers = {str(row["attributeName"]).strip(): int(row["Value"]) for row in hdus[-1].data}
        sdss = {name: _paint(hdus[1 + numbers[f"S_MASK_{name}"]].data, shape) for name in (*PLANES, "NOTCHECKED")}
    planes = {PLANES[name]: sdss[name] for name in PLANES}
    # Nothing was searched for in the outermost rows and columns, nor in the cores of the brightest stars
    unchecked = sdss["NOTCHECKED"]
    edge = unchecked & (unchecked.all(axis=0)[None, :] | unchecked.all(axis=1)[:, None])
    planes["DETECTION_EDGE"] = edge
    planes["SUSPECT"] = planes["SUSPECT"] | (unchecked & ~edge)
    return planes


def _paint(objects: fits.FITS_rec, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Fill the pixels of a list of objects given as runs (row, first column, last column) of big-endian int16."""
    texts = [np.asarray(spans, dtype=np.uint8).tobytes() for spans in objects["s"]] if len(objects) else []
    runs = np.frombuffer(b"".join(texts), dtype=">i2").reshape(-1, 3).astype(np.intp)
    height, width = shape
    row, first, last = runs.T
    inside = (row >= 0) & (row < height) & (first < width) & (last >= 0)
    row, first, last = row[inside], np.clip(first[inside], 0, width), np.clip(last[inside], 0, width - 1)
    steps = np.zeros((height, width + 1), dtype=np.int32)
    np.add.at(steps, (row, first), 1)
    np.add.at(steps, (row, last + 1), -1)
    filled: NDArray[np.bool_] = np.cumsum(steps, axis=1)[:, :width] > 0
    return filled


def _read_psf(frame: Frame, bbox: Box) -> tuple[PolynomialPsf, float, float]:
    """PSF, gain [electron/DN] and dark variance [DN^2] of one filter of a psField file."""
    index = BANDS.index(frame.band)
    with fits_file(frame.psf, needed="the PSF of an SDSS frame") as hdus:
        components = hdus[1 + index].data
        if components is None or len(components) == 0:
            raise ValueError(f"there is no PSF for filter {frame.band}")
        n_row, n_col = int(components["nrow_b"][0]), int(components["ncol_b"][0])
        size = (int(components["RNROW"][0]), int(components["RNCOL"][0]))
        images = np.array([np.asarray(image, float).reshape(size) for image in components["RROWS"]])
        # the first index of the file's coefficients counts powers of the row
        weights = np.asarray(components["c"], float).reshape(len(images), 5, 5)[:, :n_row, :n_col]
        # six digits hold all of a float32
        gain = round(float(hdus[6].data["gain"][0][index]), 6)
        dark_variance = round(float(hdus[6].data["dark_variance"][0][index]), 6)
    return karhunen_loeve_psf(images, weights, bbox), gain, dark_variance


def karhunen_loeve_psf(images: Floats, weights: Floats, bbox: Box) -> PolynomialPsf:
    """Turn a Karhunen-Loeve PSF into its pixels' polynomials; the two are the same function.

    The PSF at (row, column) is the sum over k of image k times the sum over i, j of
    ``weights[k, i, j] (row / 1000)^i (column / 1000)^j`` (Lupton et al. 2001, ASP Conf. Ser. 238, 269).

    Parameters
    ----------
    images
        ``(n, size, size)`` components.
    weights
        ``(n, n_row, n_col)`` polynomial coefficients.
    bbox
        Pixels for which the PSF holds.
    """
    _, n_row, n_col = weights.shape
    # row = y + 0.5: expand the powers of the shifted coordinate
    half = 0.5 * POSITION_UNIT
    shift = np.array([[comb(p, i) * half ** (p - i) if i <= p else 0.0 for i in range(5)] for p in range(5)])
    in_xy = np.einsum("kpq,pj,qi->kij", weights, shift[:n_row, :n_row], shift[:n_col, :n_col])
    order = n_row + n_col - 2
    terms = [
        np.tensordot(in_xy[:, i, j], images, axes=1) if i < n_col and j < n_row else np.zeros(images.shape[1:])
        for i, j in polynomial_powers(order)
    ]
    return PolynomialPsf(coefficients=np.array(terms), order=order, bbox=bbox)


def published_positions(frame: Frame, x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Positions by the astrometric solution of SDSS (asTrans; Pier et al. 2003, AJ 125, 1559).

    The terms in the colour of the object are left out, which places objects of colour 0 in the SDSS definition; in
    Stripe 82 they amount to about 0.06 pixel per magnitude of colour in g, 0.04 in u, 0.02 in r and i, 0.006 in z.

    Parameters
    ----------
    frame
        The frame.
    x, y
        Pixels, any shape.

    Returns
    -------
    ra, dec
        ICRS [degree].
    """
    with fits_file(frame.astrometry, needed="the astrometric solution of an SDSS run") as hdus:
        node, inclination = (np.deg2rad(float(hdus[0].header[key])) for key in ("NODE", "INCL"))
        camcols = hdus[0].header["CAMCOLS"].split()
        filters = hdus[0].header["FILTERS"].split()
        hdu = hdus[1 + camcols.index(str(frame.camcol)) * len(filters) + filters.index(frame.band)]
        rows = hdu.data[hdu.data["field"] == frame.field]
        if len(rows) != 1 or hdu.header["FILTER"].strip() != frame.band:
            raise ValueError(f"there is no row for filter {frame.band}, camcol {frame.camcol}, field {frame.field}")
        terms = {name: float(rows[name][0]) for name in rows.names}
    row, column = np.asarray(y, float) + 0.5, np.asarray(x, float) + 0.5
    bent_row = row + np.polynomial.polynomial.polyval(column, [terms[f"dRow{k}"] for k in range(4)])
    bent_column = column + np.polynomial.polynomial.polyval(column, [terms[f"dCol{k}"] for k in range(4)])
    mu = np.deg2rad(terms["a"] + terms["b"] * bent_row + terms["c"] * bent_column) - node
    nu = np.deg2rad(terms["d"] + terms["e"] * bent_row + terms["f"] * bent_column)
    along, across, up = np.cos(mu) * np.cos(nu), np.sin(mu) * np.cos(nu), np.sin(nu)
    ra = np.arctan2(across * np.cos(inclination) - up * np.sin(inclination), along) + node
    dec = np.arcsin(across * np.sin(inclination) + up * np.cos(inclination))
    return np.rad2deg(ra) % 360.0, np.rad2deg(dec)


def published_projection(frame: Frame, bbox: Box) -> SkyProjection:
    """Projection fitted to the published astrometry, with which it agrees to better than a milliarcsecond.

    Raises
    ------
    CorruptFile
        When it does not: the solution is then no smooth cubic.
    """
    x, y = (grid.ravel() for grid in bbox.meshgrid(GRID_POINTS))
    ra, dec = published_positions(frame, x, y)
    pixel_frame = DetectorFrame(instrument="SDSS", visit=frame.visit, detector=frame.detector, bbox=bbox)
    projection = fit_projection(x, y, ra, dec, frame=pixel_frame, bbox=bbox, order=3)
    fitted_ra, fitted_dec = pixel_to_radec(projection, x, y)
    east = ((fitted_ra - ra + 180.0) % 360.0 - 180.0) * np.cos(np.deg2rad(dec))
    worst = float(np.hypot(east, fitted_dec - dec).max() * 3.6e6)
    if not worst < 1.0:
        raise CorruptFile(
            f"a cubic misses the astrometric solution in {frame.astrometry} by {worst:.2g} mas; 1 is allowed",
            hint="the file is damaged; fetch it again",
            path=str(frame.astrometry),
            worst_mas=worst,
        )
    return projection


def _calibration(frame: Frame) -> dict[str, float]:
    """Zero point [mag of 1 DN/s], its error, airmass and saturation level [DN] of one filter of a tsField file."""
    index = BANDS.index(frame.band)
    with fits_file(frame.photometry, needed="the photometric calibration of an SDSS frame") as hdus:
        table = hdus[1].data
        rows = table[table["field"] == frame.field]
        if len(rows) != 1:
            raise ValueError(f"there is no row for field {frame.field}")
        values = {name: float(rows[name][0][index]) for name in ("aa", "aaErr", "kk", "airmass", "saturation_level")}
    return {
        "zeroPoint": -(values["aa"] + values["kk"] * values["airmass"]),
        "zeroPointErr": values["aaErr"],
        "airmass": values["airmass"],
        "saturation": values["saturation_level"],
    }


INSTRUMENT = Instrument(
    name="SDSS",
    class_name="nightlab.data.instruments.sdss.INSTRUMENT",
    detectors=tuple(
        DetectorRecord(id=detector_id(band, camcol), full_name=f"{band}{camcol}")
        for band in CAMERA_ROWS
        for camcol in CAMCOLS
    ),
    filters={f"sdss_{band}": band for band in BANDS},
    read_raw=read_raw,
    read_record=read_record,
)
