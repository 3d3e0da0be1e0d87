"""Astrometric calibration: where the pointing was off, which source is which star, and the projection they define."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from astropy.table import Table
from lsst.images import Box, SkyProjection
from pydantic import Field
from scipy.ndimage import uniform_filter
from scipy.spatial import cKDTree

from nightlab.config import Config
from nightlab.errors import FalseMatch, NoOverlap, TooFewStars
from nightlab.images.wcs import fit_projection, pixel_scale, pixel_to_radec, radec_to_pixel
from nightlab.numeric.patterns import find_similarity
from nightlab.numeric.sphere import separation
from nightlab.numeric.statistics import affordable_degree, chance_of
from nightlab.stages.single_frame.frame import Bools, Floats, Ints
from nightlab.stages.single_frame.measure import Sources

GRID = 21  # per axis, where the corrected projection is sampled before it is written as TAN-SIP
DAYS_PER_YEAR = 365.25
MAX_CHANCE = 1e-3  # of a match that is believed


class AstrometryConfig(Config):
    """Knobs of the astrometric calibration."""

    min_snr: float = Field(default=10.0, gt=0, description="faintest source matched [sigma]")
    n_bright: int = Field(
        default=200, gt=0, description="brightest sources and references that look for the pointing error"
    )
    search_radius: float = Field(default=10.0, gt=0, description="pointing error looked for first [arcsec]")
    max_rotation: float = Field(default=0.3, ge=0, description="rotation error looked for first [deg]")
    wide_radius: float = Field(
        default=90.0,
        ge=0,
        description="pointing error looked for, with any rotation and mirrored, when the first search fails [arcsec]",
    )
    pattern_tolerance: float = Field(
        default=1.0, gt=0, description="how far a star may be off in the search for the pointing [arcsec]"
    )
    match_radius: float = Field(default=1.0, gt=0, description="radius of the last match [arcsec]")
    min_matches: int = Field(default=6, ge=3, description="fewer matches than this are an error")
    clip: float = Field(default=3.0, gt=0, description="clipping of the fit [sigma]")
    order: int = Field(
        default=2, ge=0, le=7, description="degree of the correction to the projection, when there are matches enough"
    )
    matches_per_term: float = Field(
        default=6.0, ge=1, description="matches needed per polynomial term, else the order is lowered"
    )
    max_corner_error: float = Field(
        default=0.3,
        gt=0,
        description="a correction less certain than this at a corner of the detector gets a lower degree [arcsec]",
    )
    error_floor: float = Field(
        default=0.02, ge=0, description="added in quadrature to centroid errors for weights [arcsec]"
    )


@dataclass(frozen=True, kw_only=True)
class Astrometry:
    """A fitted projection and the matches behind it.

    Attributes
    ----------
    projection
        Of detector pixels.
    source, reference
        (n,) indices of matched sources and of rows of the reference, clipped ones included.
    used
        (n,) True for the matches that survived clipping.
    residual
        (n, 2) source minus reference along ra cos(dec) and dec [arcsec].
    shift
        Pointing error that was found [arcsec].
    corner_error
        Error of the projection at the worst corner of the detector, from the scatter and the places of the matches
        [arcsec].
    """

    projection: SkyProjection
    source: Ints
    reference: Ints
    used: Bools
    residual: Floats
    shift: float
    corner_error: float


def reference_positions(reference: Table, mjd_tai: float) -> tuple[Floats, Floats]:
    """Move the reference to an epoch.

    Parameters
    ----------
    reference
        ``ra``, ``dec`` [deg]; optional ``pmRa``, ``pmDec`` [mas / yr] with ``epoch`` [MJD] as column or in ``meta``.
    mjd_tai
        The epoch.
    """
    ra, dec = _column(reference, "ra"), _column(reference, "dec")
    names = reference.colnames
    if "pmRa" not in names or "pmDec" not in names or not ("epoch" in names or "epoch" in reference.meta):
        return ra, dec
    epoch = _column(reference, "epoch") if "epoch" in names else float(reference.meta["epoch"])
    years = (mjd_tai - epoch) / DAYS_PER_YEAR
    step = years / 3.6e6
    east, north = (np.nan_to_num(_column(reference, name)) * np.nan_to_num(step) for name in ("pmRa", "pmDec"))
    return (ra + east / np.cos(np.deg2rad(dec))) % 360.0, dec + north


def _column(table: Table, name: str) -> Floats:
    values = table[name]
    if getattr(values, "mask", None) is not None:
        values = values.filled(np.nan)
    return np.asarray(values, dtype=float)


def calibrate_astrometry(
    sources: Sources,
    reference: Table,
    nominal: SkyProjection,
    box: Box,
    mjd_tai: float,
    band: str,
    config: AstrometryConfig,
) -> Astrometry:
    """Fit the projection of a detector to reference stars.

    The pointing error is the peak of the histogram of offsets between the brightest sources and references; matches
    within a shrinking radius then define a polynomial correction to the nominal projection, clipped at `clip` sigma.
    When that is not believable, the pattern of the stars is looked for farther away, turned and mirrored in any way.
    Nominal projection and correction together are written as one TAN-SIP.

    Parameters
    ----------
    sources
        Measured sources.
    reference
        Reference catalogue.
    nominal
        The projection to start from.
    box
        The detector.
    mjd_tai
        Epoch of the exposure.
    band
        Ranks the references by this band's flux where they have it.
    config
        Knobs.

    Raises
    ------
    NoOverlap
        When no reference lies on the detector.
    TooFewStars
        When fewer than `min_matches` sources match.
    FalseMatch
        When as many would match by accident.
    """
    ra, dec = reference_positions(reference, mjd_tai)
    scale = pixel_scale(nominal, box.x.center, box.y.center)
    chosen = np.flatnonzero(sources.clean() & (sources.snr > config.min_snr))
    if chosen.size < config.min_matches:  # take what there is
        chosen = np.flatnonzero(~(sources.centroid_flag | sources.flux_flag) & (sources.snr > 5.0))
    if chosen.size < config.min_matches:
        raise _too_few(int(chosen.size), config, "usable sources")
    x, y = sources.x[chosen], sources.y[chosen]
    weight = 1.0 / (
        np.hypot(sources.x_err[chosen], sources.y_err[chosen]) ** 2 / 2 + (config.error_floor / scale) ** 2
    )
    weight = np.where(np.isfinite(weight), weight, 0.0)
    field = _Field(
        x=x, y=y, weight=weight, rank=np.argsort(-sources.flux[chosen], kind="stable"), box=box, scale=scale
    )
    brightness = _column(reference, f"{band}_flux") if f"{band}_flux" in reference.colnames else None
    found = _search(field, nominal, ra, dec, brightness, config)
    projection = _compose(nominal, found.fit, box)
    sky = pixel_to_radec(projection, x[found.source], y[found.source])
    rows = found.reference
    east = ((sky[0] - ra[rows] + 180.0) % 360.0 - 180.0) * np.cos(np.deg2rad(dec[rows]))
    middle = np.array([box.x.center]), np.array([box.y.center])
    return Astrometry(
        projection=projection,
        source=chosen[found.source],
        reference=rows,
        used=found.used,
        residual=np.stack([east, sky[1] - dec[rows]], axis=1) * 3600.0,
        corner_error=found.fit.corner_error * scale,
        shift=float(separation(*pixel_to_radec(nominal, *middle), *pixel_to_radec(projection, *middle))[0]),
    )


@dataclass(frozen=True, kw_only=True)
class _Field:
    """The sources that are matched, and where they are."""

    x: Floats
    y: Floats
    weight: Floats
    rank: Ints  # the brightest first
    box: Box
    scale: float  # arcsec per pixel

    @property
    def centre(self) -> tuple[float, float]:
        return self.box.x.center, self.box.y.center


@dataclass(frozen=True, kw_only=True)
class _Solution:
    """Matches by index into the field and the reference, and the polynomial that they define."""

    source: Ints
    reference: Ints
    used: Bools
    fit: _Polynomial


@dataclass(frozen=True, kw_only=True)
class _Correction:
    """What must be added to measured positions to land on the nominal projection, per source at the start."""

    x: Floats
    y: Floats
    centre: tuple[float, float]
    span: float
    corners: Floats  # (4, 2) of the detector, from `centre` in units of `span`
    max_corner_error: float  # pixel


@dataclass(frozen=True, kw_only=True)
class _Polynomial:
    coefficients: Floats  # (n_terms, 2)
    powers: list[tuple[int, int]]
    centre: tuple[float, float]
    span: float
    corner_error: float  # pixel

    def __call__(self, x: Floats, y: Floats) -> Floats:
        u, v = (x - self.centre[0]) / self.span, (y - self.centre[1]) / self.span
        return np.stack([u**a * v**b for a, b in self.powers], axis=-1) @ self.coefficients


def _too_few(found: int, config: AstrometryConfig, what: str) -> TooFewStars:
    return TooFewStars(
        f"astrometric calibration needs {config.min_matches} {what}, found {found}",
        hint="widen `astrometry.search_radius`, give a deeper reference catalogue, or pass none to keep the pointing",
        found=found,
        needed=config.min_matches,
    )


def _on_detector(
    projection: SkyProjection, ra: Floats, dec: Floats, box: Box, margin: float
) -> tuple[Ints, Floats, Floats]:
    """Give the reference rows that may lie on the detector, and their nominal pixels."""
    centre_ra, centre_dec = pixel_to_radec(projection, [box.x.center], [box.y.center])
    scale = pixel_scale(projection, box.x.center, box.y.center)
    reach = 0.55 * np.hypot(*box.shape) * scale + margin * scale
    # a coarse cut first: a projection need not be defined on the far side of the sky
    near = np.flatnonzero(separation(ra, dec, centre_ra[0], centre_dec[0]) < 1.2 * reach)  # False for NaN
    x, y = radec_to_pixel(projection, ra[near], dec[near])
    inside = (x > box.x.min - margin) & (x < box.x.max + margin) & (y > box.y.min - margin) & (y < box.y.max + margin)
    if not inside.any():
        raise NoOverlap(
            f"none of the {ra.size} reference objects lies on the detector around "
            f"ra {centre_ra[0]:.4f}, dec {centre_dec[0]:.4f}",
            hint="use a reference catalogue that covers this field, or pass none to keep the pointing",
            ra=float(centre_ra[0]),
            dec=float(centre_dec[0]),
        )
    return near[inside], x[inside], y[inside]


def _search(
    field: _Field,
    nominal: SkyProjection,
    ra: Floats,
    dec: Floats,
    brightness: Floats | None,
    config: AstrometryConfig,
) -> _Solution:
    """Look near the nominal pointing, and, when nothing believable is there, far from it."""
    near = config.search_radius / field.scale
    far = config.wide_radius / field.scale + 0.5 * float(np.hypot(*field.box.shape))
    try:
        return _solve(field, nominal, ra, dec, brightness, near, _near_pointing, config)
    except (TooFewStars, FalseMatch):
        if config.wide_radius <= 0:
            raise
        with contextlib.suppress(TooFewStars, FalseMatch):
            return _solve(field, nominal, ra, dec, brightness, far, _far_pointing, config)
        raise  # what went wrong in the first search says more


def _solve(
    field: _Field,
    nominal: SkyProjection,
    ra: Floats,
    dec: Floats,
    brightness: Floats | None,
    margin: float,
    point: Callable[[_Field, Floats, Floats, Ints, AstrometryConfig], tuple[Floats, Floats]],
    config: AstrometryConfig,
) -> _Solution:
    rows, rx, ry = _on_detector(nominal, ra, dec, field.box, margin)
    rank = np.arange(rows.size)
    if brightness is not None:
        rank = np.argsort(-np.nan_to_num(brightness[rows]), kind="stable")
    px, py = point(field, rx, ry, rank, config)
    span = max(field.box.shape) / 2.0
    start = _Correction(
        x=px - field.x,
        y=py - field.y,
        centre=field.centre,
        span=span,
        corners=np.array([(x, y) for x in (-1, 1) for y in (-1, 1)]) * 0.5 * np.array(field.box.shape[::-1]) / span,
        max_corner_error=config.max_corner_error / field.scale,
    )
    i, j, used, fit = _match_and_fit(field.x, field.y, rx, ry, field.weight, start, field.scale, config)
    shift = fit(field.x[i], field.y[i])
    miss = np.hypot(field.x[i] + shift[:, 0] - rx[j], field.y[i] + shift[:, 1] - ry[j])
    _check_believable(miss[used], len(fit.powers), field, rx, ry, margin, config)
    return _Solution(source=i, reference=rows[j], used=used, fit=fit)


def _check_believable(
    miss: Floats, n_terms: int, field: _Field, rx: Floats, ry: Floats, margin: float, config: AstrometryConfig
) -> None:
    """Refuse matches of which as many would arise by accident: where references are dense, everything matches."""
    reach = min(3.0 * float(np.median(miss)) + 0.1, config.match_radius / field.scale)
    n_close = int((miss < reach).sum())
    area = max(float(np.ptp(rx) * np.ptp(ry)), 1.0)
    expected = field.x.size * rx.size * np.pi * reach**2 / area
    trials = max(1.0, np.pi * (margin / reach) ** 2)
    if trials * chance_of(n_close - n_terms, expected) > MAX_CHANCE:
        raise FalseMatch(
            f"{n_close} sources lie within {reach * field.scale:.2f} arcsec of a reference star, "
            f"and {expected:.1f} would by accident",
            hint="widen `astrometry.wide_radius`, give a reference catalogue of this depth, or pass none",
            found=n_close,
            expected=float(expected),
        )


def _far_pointing(
    field: _Field, rx: Floats, ry: Floats, rank: Ints, config: AstrometryConfig
) -> tuple[Floats, Floats]:
    """Recognise the pattern of the stars, turned and mirrored in any way."""
    found = find_similarity(
        field.x[field.rank],
        field.y[field.rank],
        rx[rank],
        ry[rank],
        centre=field.centre,
        tolerance=config.pattern_tolerance / field.scale,
        max_shift=config.wide_radius / field.scale,
        flips=True,
    )
    if found is None:
        raise _too_few(0, config, "matches")
    return found(field.x, field.y)


def _near_pointing(
    field: _Field, rx: Floats, ry: Floats, rank: Ints, config: AstrometryConfig
) -> tuple[Floats, Floats]:
    """Find shift and small rotation by the fullest bin of offsets between the brightest sources and references."""
    bright, top = field.rank[: config.n_bright], np.sort(rank[: config.n_bright])
    x0, y0 = field.centre
    turn, dx, dy = _pointing_error(
        field.x[bright],
        field.y[bright],
        rx[top],
        ry[top],
        field.centre,
        config.search_radius / field.scale,
        config.max_rotation,
    )
    px, py = _rotate(field.x - x0 - dx, field.y - y0 - dy, -turn)
    return px + x0, py + y0


def _rotate(x: Floats, y: Floats, angle: float) -> tuple[Floats, Floats]:
    c, s = np.cos(angle), np.sin(angle)
    return c * x - s * y, s * x + c * y


def _pointing_error(
    x: Floats, y: Floats, rx: Floats, ry: Floats, centre: tuple[float, float], radius: float, max_rotation: float
) -> tuple[float, float, float]:
    """Find rotation [rad] and shift [pixel] that bring references onto sources, by the fullest bin of offsets."""
    steps = np.deg2rad(np.linspace(-max_rotation, max_rotation, 7)) if max_rotation > 0 else np.zeros(1)
    best = (-1.0, 0.0, 0.0, 0.0)
    bins = max(5, int(np.ceil(2.0 * radius)))
    edges = np.linspace(-radius, radius, bins + 1)
    for turn in steps[np.argsort(np.abs(steps), kind="stable")]:
        px, py = _rotate(rx - centre[0], ry - centre[1], turn)
        dx = (x[:, None] - centre[0] - px[None, :]).ravel()
        dy = (y[:, None] - centre[1] - py[None, :]).ravel()
        near = (np.abs(dx) < radius) & (np.abs(dy) < radius)
        dx, dy = dx[near], dy[near]
        counts = uniform_filter(np.histogram2d(dx, dy, bins=[edges, edges])[0], size=3, mode="constant") * 9.0
        peak = np.unravel_index(int(np.argmax(counts)), counts.shape)
        height = float(counts[peak])
        if height > best[0] * 1.2:  # a rotation must earn its place against a smaller one
            middle = [0.5 * (edges[k] + edges[k + 1]) for k in peak]
            close = np.hypot(dx - middle[0], dy - middle[1]) < 3.0
            shift = (float(np.median(dx[close])), float(np.median(dy[close]))) if close.any() else (0.0, 0.0)
            best = (height, float(turn), *shift)
    return best[1], best[2], best[3]


def _match_and_fit(
    x: Floats,
    y: Floats,
    rx: Floats,
    ry: Floats,
    weight: Floats,
    start: _Correction,
    scale: float,
    config: AstrometryConfig,
) -> tuple[Ints, Ints, Bools, _Polynomial]:
    px, py = x + start.x, y + start.y
    for radius in (3.0, 2.0, config.match_radius, config.match_radius, config.match_radius):
        i, j = _mutual(px, py, rx, ry, max(radius, config.match_radius) / scale)
        if i.size < config.min_matches:
            raise _too_few(int(i.size), config, "matches")
        used = np.ones(i.size, dtype=bool)
        target = np.stack([rx[j] - x[i], ry[j] - y[i]], axis=1)
        fit = _fit_polynomial(x[i], y[i], target, weight[i], start, config)
        for _ in range(5):
            miss = target - fit(x[i], y[i])
            width = 1.4826 * np.median(np.abs(miss[used] - np.median(miss[used], axis=0)), axis=0)
            new = (np.abs(miss) < config.clip * np.maximum(width, 1e-3)).all(axis=1)
            if new.sum() < config.min_matches or (new == used).all():
                break
            used = new
            fit = _fit_polynomial(x[i][used], y[i][used], target[used], weight[i][used], start, config)
        shift = fit(x, y)
        px, py = x + shift[:, 0], y + shift[:, 1]
    return i, j, used, fit


def _mutual(x: Floats, y: Floats, rx: Floats, ry: Floats, radius: float) -> tuple[Ints, Ints]:
    here, there = np.stack([x, y], axis=1), np.stack([rx, ry], axis=1)
    distance, j = cKDTree(there).query(here)
    _, back = cKDTree(here).query(there)
    i = np.flatnonzero((distance < radius) & (back[j] == np.arange(x.size)))
    return i, j[i].astype(np.int64)


def _fit_polynomial(
    x: Floats, y: Floats, target: Floats, weight: Floats, start: _Correction, config: AstrometryConfig
) -> _Polynomial:
    """Fit a polynomial of the highest degree that the number of matches allows and that holds up to the corners."""
    order = affordable_degree(config.order, x.size, config.matches_per_term)
    fit = _polynomial(x, y, target, weight, start, order)
    while order > 0 and not fit.corner_error <= start.max_corner_error:
        order -= 1
        fit = _polynomial(x, y, target, weight, start, order)
    return fit


def _polynomial(x: Floats, y: Floats, target: Floats, weight: Floats, start: _Correction, order: int) -> _Polynomial:
    powers = [(n - k, k) for n in range(order + 1) for k in range(n + 1)]

    def terms(u: Floats, v: Floats) -> Floats:
        return np.stack([u**a * v**b for a, b in powers], axis=1)

    design = terms((x - start.centre[0]) / start.span, (y - start.centre[1]) / start.span)
    root = np.sqrt(weight)[:, None]
    coefficients = np.linalg.lstsq(design * root, target * root, rcond=None)[0]
    pull = (target - design @ coefficients) * root
    spread = (pull**2).sum(axis=0) / max(x.size - len(powers), 1)
    # matches in one part of the detector say little about the others
    corners = terms(start.corners[:, 0], start.corners[:, 1])
    leverage = np.einsum("ct,tu,cu->c", corners, np.linalg.pinv((design * root).T @ (design * root)), corners)
    return _Polynomial(
        coefficients=coefficients,
        powers=powers,
        centre=start.centre,
        span=start.span,
        corner_error=float(np.sqrt(spread.max() * leverage.max())),
    )


def _compose(nominal: SkyProjection, correction: _Polynomial, box: Box) -> SkyProjection:
    """Write correction and nominal projection as one TAN-SIP, by sampling both."""
    y, x = (
        g.ravel()
        for g in np.meshgrid(
            np.linspace(box.y.min, box.y.max, GRID), np.linspace(box.x.min, box.x.max, GRID), indexing="ij"
        )
    )
    shift = correction(x, y)
    ra, dec = pixel_to_radec(nominal, x + shift[:, 0], y + shift[:, 1])
    order = max(3, *(a + b for a, b in correction.powers))
    return fit_projection(x, y, ra, dec, frame=nominal.pixel_frame, bbox=box, order=order)
