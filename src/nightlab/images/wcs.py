"""Sky projections: made from a pointing, fitted to stars, and evaluated in degrees."""

from __future__ import annotations

import warnings

import numpy as np
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.wcs import WCS, FITSFixedWarning
from lsst.images import Box, DetectorFrame, SkyProjection, TractFrame
from numpy.typing import ArrayLike, NDArray

from nightlab.errors import BadInput, TooFewStars

Floats = NDArray[np.float64]
type PixelFrame = DetectorFrame | TractFrame


def projection_from_wcs(wcs: WCS, frame: PixelFrame, bbox: Box | None = None) -> SkyProjection:
    """Make a projection of an astropy WCS whose first pixel is (0, 0).

    Parameters
    ----------
    wcs
        Any celestial WCS that AST understands (TAN, SIP, TPV, ...).
    frame
        Whose pixels these are.
    bbox
        Where the projection is valid.
    """
    return SkyProjection.from_fits_wcs(wcs, frame, pixel_bounds=bbox)


def tan_projection(
    ra: float,
    dec: float,
    *,
    x: float,
    y: float,
    scale: float,
    rotation: float = 0.0,
    frame: PixelFrame,
    bbox: Box | None = None,
) -> SkyProjection:
    """Make a gnomonic projection from a pointing.

    Parameters
    ----------
    ra, dec
        Sky position of the reference pixel, ICRS [deg].
    x, y
        Reference pixel.
    scale
        Arcseconds per pixel.
    rotation
        Position angle of the pixel y axis, from north through east [deg]; at 0, x grows to the west.
    frame
        Whose pixels these are.
    bbox
        Where the projection is valid.
    """
    turn = np.deg2rad(rotation)
    degrees = scale / 3600.0
    cd = degrees * np.array([[-np.cos(turn), np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    return projection_from_wcs(_tan_sip(ra, dec, x, y, cd), frame, bbox)


def fit_projection(
    x: ArrayLike,
    y: ArrayLike,
    ra: ArrayLike,
    dec: ArrayLike,
    *,
    frame: PixelFrame,
    bbox: Box,
    order: int = 2,
    weights: ArrayLike | None = None,
) -> SkyProjection:
    """Fit a TAN-SIP projection to matched positions.

    The gnomonic plane is tangent at the middle of the matches; there, intermediate world coordinates are polynomials
    of pixel position, fitted linearly. The SIP convention (Shupe et al. 2005, ADASS XIV) is then filled from the same
    coefficients, so that any FITS reader can use the result.

    Parameters
    ----------
    x, y
        (n,) pixel positions.
    ra, dec
        (n,) sky positions, ICRS [deg].
    frame, bbox
        Whose pixels these are, and where the projection is valid.
    order
        Total degree of the polynomial; 1 is affine.
    weights
        (n,) inverse variances in any common unit.

    Raises
    ------
    TooFewStars
        When there are fewer matches than 1.5 times the terms of one polynomial.
    """
    x, y, ra, dec = (np.asarray(v, dtype=float) for v in (x, y, ra, dec))
    powers = [(i, n - i) for n in range(order + 1) for i in range(n, -1, -1)]
    needed = int(np.ceil(1.5 * len(powers)))
    if x.size < needed:
        raise TooFewStars(
            f"a WCS of order {order} needs {needed} matches, found {x.size}",
            hint="lower the order, or give a deeper reference catalogue",
            found=int(x.size),
            needed=needed,
        )
    x0, y0 = float(bbox.x.center), float(bbox.y.center)
    span = max(bbox.shape) / 2.0
    ra0, dec0 = mean_position(ra, dec)
    design = np.stack([((x - x0) / span) ** i * ((y - y0) / span) ** j for i, j in powers], axis=1)
    root = np.ones_like(x) if weights is None else np.sqrt(np.asarray(weights, dtype=float))
    # The reference pixel of a TAN must map to the tangent point: move the tangent point onto what the fit gives at
    # (x0, y0), until the constant terms vanish.
    for _ in range(3):
        xi, eta = gnomonic(ra, dec, ra0, dec0)
        solution = np.linalg.lstsq(design * root[:, None], np.stack([xi, eta], 1) * root[:, None], rcond=None)[0]
        ra0, dec0 = (float(v) for v in inverse_gnomonic(solution[0, 0], solution[0, 1], ra0, dec0))
    scaled = {ij: solution[k] / span ** sum(ij) for k, ij in enumerate(powers)}
    cd = np.array([scaled[1, 0], scaled[0, 1]]).T
    inverse = np.linalg.inv(cd)
    sip = {ij: inverse @ c for ij, c in scaled.items() if sum(ij) >= 2}
    return projection_from_wcs(_tan_sip(ra0, dec0, x0, y0, cd, sip), frame, bbox)


def pixel_to_radec(projection: SkyProjection, x: ArrayLike, y: ArrayLike) -> tuple[Floats, Floats]:
    """Evaluate a projection: pixels to ICRS degrees, right ascension in [0, 360)."""
    x, y = np.asarray(x, float), np.asarray(y, float)
    if not x.size:  # AST refuses to map nothing
        return np.empty(x.shape), np.empty(y.shape)
    sky = projection.pixel_to_sky_transform.apply_forward(x=x, y=y)
    return np.rad2deg(sky.x) % 360.0, np.rad2deg(sky.y)


def radec_to_pixel(projection: SkyProjection, ra: ArrayLike, dec: ArrayLike) -> tuple[Floats, Floats]:
    """Evaluate the inverse of a projection: ICRS degrees to pixels."""
    ra, dec = np.asarray(ra, float), np.asarray(dec, float)
    if not ra.size:
        return np.empty(ra.shape), np.empty(dec.shape)
    pixel = projection.pixel_to_sky_transform.apply_inverse(x=np.deg2rad(ra), y=np.deg2rad(dec))
    return pixel.x, pixel.y


def pixel_scale(projection: SkyProjection, x: float, y: float) -> float:
    """Give the geometric-mean size of a pixel at one place [arcsec]."""
    return float(np.sqrt(np.abs(np.linalg.det(jacobian(projection, x, y)))) * 3600.0)


def jacobian(projection: SkyProjection, x: float, y: float) -> Floats:
    """Differentiate a projection: (2, 2) rows (ra cos dec, dec) [deg] by columns (x, y) [pixel]."""
    ra, dec = pixel_to_radec(projection, [x - 0.5, x + 0.5, x, x], [y, y, y - 0.5, y + 0.5])
    cos = np.cos(np.deg2rad(dec.mean()))
    d_ra = (np.diff(ra)[[0, 2]] + 180.0) % 360.0 - 180.0
    return np.array([d_ra * cos, np.diff(dec)[[0, 2]]])


def fits_header(projection: SkyProjection, bbox: Box) -> dict[str, str | int | float]:
    """Write a projection as FITS cards, for programs that know nothing else.

    Raises
    ------
    BadInput
        When the projection has no FITS form.
    """
    wcs = projection.as_fits_wcs(bbox)
    if wcs is None:
        raise BadInput("the projection cannot be written as a FITS WCS", hint="fit it with `fit_projection` first")
    return dict(wcs.to_header(relax=True))


def _tan_sip(
    ra: float, dec: float, x: float, y: float, cd: Floats, sip: dict[tuple[int, int], Floats] | None = None
) -> WCS:
    suffix = "-SIP" if sip else ""
    header: dict[str, str | int | float] = {
        "CTYPE1": f"RA---TAN{suffix}",
        "CTYPE2": f"DEC--TAN{suffix}",
        "CUNIT1": "deg",
        "CUNIT2": "deg",
        "RADESYS": "ICRS",
        "CRVAL1": float(ra),
        "CRVAL2": float(dec),
        "CRPIX1": float(x) + 1.0,
        "CRPIX2": float(y) + 1.0,
    }
    header |= {f"CD{i + 1}_{j + 1}": float(cd[i, j]) for i in range(2) for j in range(2)}
    if sip:
        header["A_ORDER"] = header["B_ORDER"] = max(i + j for i, j in sip)
        for (i, j), (a, b) in sip.items():
            header[f"A_{i}_{j}"], header[f"B_{i}_{j}"] = float(a), float(b)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FITSFixedWarning)
        return WCS(header)


def mean_position(ra: Floats, dec: Floats) -> tuple[float, float]:
    """Give the direction of the mean of (n,) positions, ICRS [deg]."""
    mean = SkyCoord(ra, dec, unit="deg").cartesian.mean()
    sky = SkyCoord(mean, frame="icrs").spherical
    return float(sky.lon.to_value(u.deg)), float(sky.lat.to_value(u.deg))


def gnomonic(ra: Floats, dec: Floats, ra0: float, dec0: float) -> tuple[Floats, Floats]:
    """Project ICRS degrees onto the plane tangent at (ra0, dec0), in degrees."""
    a, d, d0 = np.deg2rad(ra - ra0), np.deg2rad(dec), np.deg2rad(dec0)
    cosine = np.sin(d) * np.sin(d0) + np.cos(d) * np.cos(d0) * np.cos(a)
    xi = np.cos(d) * np.sin(a) / cosine
    eta = (np.sin(d) * np.cos(d0) - np.cos(d) * np.sin(d0) * np.cos(a)) / cosine
    return np.rad2deg(xi), np.rad2deg(eta)


def inverse_gnomonic(xi: ArrayLike, eta: ArrayLike, ra0: float, dec0: float) -> tuple[Floats, Floats]:
    """Give the ICRS degrees of positions, in degrees, on the plane tangent at (ra0, dec0)."""
    x, y, d0 = np.deg2rad(np.asarray(xi, float)), np.deg2rad(np.asarray(eta, float)), np.deg2rad(dec0)
    ra = np.arctan2(x, np.cos(d0) - y * np.sin(d0))
    dec = np.arctan2(np.cos(ra) * (y * np.cos(d0) + np.sin(d0)), np.cos(d0) - y * np.sin(d0))
    return (ra0 + np.rad2deg(ra)) % 360.0, np.rad2deg(dec)
