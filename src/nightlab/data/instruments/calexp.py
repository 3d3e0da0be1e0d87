"""Exposures that the LSST Science Pipelines calibrated and wrote as FITS files ("calexp"), of any camera.

Image, mask and variance are the first three extensions; an archive of tables behind them holds what else is known.
Read here are the mask planes that the header names, the WCS, the zero point (``PhotoCalib``, or ``FLUXMAG0`` in older
files) and a PSF of principal components (``PcaPsf``). Other PSFs are left to be measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from lsst.images import Box, get_legacy_visit_image_mask_planes
from numpy.polynomial import chebyshev
from numpy.typing import NDArray

from nightlab.data.instruments.frames import number, tai, wcs_of
from nightlab.images.psf import PolynomialPsf

Floats = NDArray[np.float64]
NANOJANSKY = 31.4  # AB magnitude of 1 nJy
PSF_GRID = 7  # points per axis at which a PSF is sampled


@dataclass(frozen=True, kw_only=True, eq=False)
class Facts:
    """What the headers of one file say.

    Attributes
    ----------
    header
        Of the file and of the image, together.
    wcs
        Its first pixel is that of `bbox`.
    bbox
        Place of the pixels on the detector.
    begin
        Start of the exposure [MJD TAI]; NaN when unknown.
    seconds
        Exposure time [s]; NaN when unknown.
    """

    header: fits.Header
    wcs: WCS
    bbox: Box
    begin: float
    seconds: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Calexp(Facts):
    """What one file says.

    Attributes
    ----------
    pixels, variance
        ``(ny, nx)`` in adu and its square.
    planes
        Mask planes by our names, each ``(ny, nx)``.
    psf
        None when the file has none of a kind that is read.
    zero_point
        Magnitude of one unit of the image in this exposure; NaN when unknown.
    """

    pixels: NDArray[np.float32]
    variance: NDArray[np.float32]
    planes: dict[str, NDArray[np.bool_]]
    psf: PolynomialPsf | None
    zero_point: float


def is_calexp(hdus: fits.HDUList) -> bool:
    """Say whether a file has the planes of a calibrated exposure."""
    return {"IMAGE", "MASK", "VARIANCE"} <= {_kind(hdu) for hdu in hdus}


def _kind(hdu: Any) -> str:
    return str(hdu.header.get("EXTTYPE", "")).strip()


def _plane(hdus: fits.HDUList, kind: str) -> Any:
    for hdu in hdus:
        if _kind(hdu) == kind:
            return hdu
    raise LookupError(f"there is no HDU of EXTTYPE {kind}")


def read_facts(hdus: fits.HDUList) -> Facts:
    """Tell what the headers of an open file say; pixels are not read."""
    image = _plane(hdus, "IMAGE")
    header = hdus[0].header.copy()
    header.update(image.header)
    x0, y0 = (_origin(image.header, axis) for axis in (1, 2))
    shape = int(image.header["NAXIS2"]), int(image.header["NAXIS1"])
    seconds = number(hdus[0].header, "EXPTIME")
    seconds = seconds if seconds > 0 else float("nan")
    return Facts(
        header=header,
        wcs=wcs_of(image.header, x0, y0),
        bbox=Box.from_shape(shape, start=(y0, x0)),
        begin=_begin(hdus[0].header, seconds),
        seconds=seconds,
    )


def _origin(header: fits.Header, axis: int) -> int:
    """Give the first pixel: by the linear WCS "A", else by the offset, else 0."""
    first, offset = number(header, f"CRVAL{axis}A"), number(header, f"LTV{axis}")
    return round(first if np.isfinite(first) else np.nan_to_num(-offset))


def _begin(header: Mapping[str, Any], seconds: float) -> float:
    """Give the start of the exposure.

    DATE-AVG is TAI, TIME-MID is UTC. Times from the camera's own header are not used: files are known whose TIMESYS
    says TAI while their DATE-OBS and MJD-OBS still are UTC.
    """
    half = 0.5 * seconds / 86400.0
    if header.get("DATE-AVG"):
        return tai(str(header["DATE-AVG"]), "tai") - half
    middle = str(header.get("TIME-MID", "")).strip()
    # a time that was never set is the epoch of 1970
    return float("nan") if middle < "1971" else tai(middle.removesuffix("Z")) - half


def read_calexp(hdus: fits.HDUList) -> Calexp:
    """Read an open file.

    Raises
    ------
    LookupError, ValueError
        When it lacks a plane, or the planes differ in size.
    """
    facts = read_facts(hdus)
    pixels = np.asarray(_plane(hdus, "IMAGE").data, dtype=np.float32)
    variance = np.asarray(_plane(hdus, "VARIANCE").data, dtype=np.float32)
    mask = _plane(hdus, "MASK")
    bits = np.asarray(mask.data).astype(np.int64)
    if not pixels.shape == variance.shape == bits.shape:
        raise ValueError(f"the planes are {pixels.shape}, {bits.shape} and {variance.shape}")
    archive = _Archive(hdus)
    return Calexp(
        **vars(facts),
        pixels=pixels,
        variance=variance,
        planes=_planes(bits, mask.header),
        psf=_pca_psf(archive, number(hdus[0].header, "PSF_ID"), facts.bbox),
        zero_point=_zero_point(archive, hdus[0].header),
    )


def _planes(bits: NDArray[np.int64], header: fits.Header) -> dict[str, NDArray[np.bool_]]:
    """Find our planes by the names of theirs; planes that we lack are left out."""
    known = get_legacy_visit_image_mask_planes()
    named = {key.removeprefix("MP_"): int(header[key]) for key in header if key.startswith("MP_")}
    return {known[name].name: (bits >> bit) & 1 == 1 for name, bit in named.items() if name in known}


def _zero_point(archive: _Archive, header: fits.Header) -> float:
    mean = float("nan")
    number_of = number(header, "PHOTOCALIB_ID")
    if np.isfinite(number_of):
        rows = archive.rows(int(number_of), "PhotoCalib")
        mean = float(rows["calibrationMean"][0]) if rows is not None else mean
    if mean > 0:
        return NANOJANSKY - 2.5 * float(np.log10(mean))
    # counts of a star of magnitude 0
    counts = number(header, "FLUXMAG0")
    return 2.5 * float(np.log10(counts)) if counts > 0 else float("nan")


class _Archive:
    """Objects by number, each a few rows in one of the tables behind the image."""

    def __init__(self, hdus: fits.HDUList) -> None:
        index = number(hdus[0].header, "AR_HDU")
        self._tables = hdus[int(index) - 1 :] if np.isfinite(index) else []
        self._entries = self._tables[0].data if self._tables else []

    def rows(self, identifier: int, name: str) -> fits.FITS_rec | None:
        """Give the rows of an object when it is of the class `name`, else None."""
        for entry in self._entries:
            if int(entry["id"]) == identifier and str(entry["name"]).strip() == name:
                first = int(entry["row0"])
                rows: fits.FITS_rec = self._tables[int(entry["cat.archive"])].data[first : first + int(entry["nrows"])]
                return rows
        return None


def _pca_psf(archive: _Archive, identifier: float, bbox: Box) -> PolynomialPsf | None:
    """Turn a PSF of components, weighted by Chebyshev polynomials of position, into its pixels' polynomials."""
    found = archive.rows(int(identifier), "PcaPsf") if np.isfinite(identifier) else None
    kernel = archive.rows(int(found["kernel"][0]), "LinearCombinationKernel") if found is not None else None
    if kernel is None:
        return None
    components, weights = [], []
    for image_id, weight_id in zip(kernel["components"][0], kernel["spatialfunctions"][0], strict=True):
        image = archive.rows(int(image_id), "FixedKernel")
        weight = archive.rows(int(weight_id), "Chebyshev1Function2D")
        if image is None or weight is None:
            return None
        components.append(np.asarray(image["image"][0], float).reshape(image["dimensions_y"][0], -1))
        weights.append(weight[0])
    ends = (weights[0]["min_x"], weights[0]["max_x"]), (weights[0]["min_y"], weights[0]["max_y"])
    x, y = (grid.ravel() for grid in np.meshgrid(*(np.linspace(*end, PSF_GRID) for end in ends)))
    factors = np.array([_chebyshev(weight, x, y) for weight in weights])
    stamps = np.tensordot(factors.T, np.array(components), axes=1)
    order = _order(len(weights[0]["coefficients"]))
    return PolynomialPsf.fit(x, y, stamps, order=order, bbox=bbox)


def _order(terms: int) -> int:
    """Give the degree of a polynomial in two variables with so many terms."""
    return round((np.sqrt(8 * terms + 1) - 3) / 2)


def _chebyshev(row: Any, x: Floats, y: Floats) -> Floats:
    """Evaluate sum c_k T_i(x') T_j(y'), the terms by degree and, within one, by falling power of x."""
    coefficients = np.asarray(row["coefficients"], float)
    order = _order(len(coefficients))
    grid = np.zeros((order + 1, order + 1))
    terms = [(n - j, j) for n in range(order + 1) for j in range(n + 1)]
    for (i, j), value in zip(terms, coefficients, strict=True):
        grid[i, j] = value
    scaled_x, scaled_y = (
        2.0 * (position - row[f"min_{axis}"]) / (row[f"max_{axis}"] - row[f"min_{axis}"]) - 1.0
        for axis, position in (("x", x), ("y", y))
    )
    return np.asarray(chebyshev.chebval2d(scaled_x, scaled_y, grid), float)
