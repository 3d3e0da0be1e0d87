"""Astrometry of a whole visit: rigid detectors behind one smooth optical distortion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from astropy.table import Table
from lsst.images import Box, SkyProjection
from pydantic import Field
from scipy.spatial import cKDTree

from nightlab.config import Config
from nightlab.errors import NoOverlap, TooFewStars
from nightlab.images.wcs import fit_projection, gnomonic, inverse_gnomonic, mean_position, pixel_scale, pixel_to_radec
from nightlab.numeric.patterns import find_similarity
from nightlab.numeric.sphere import separation
from nightlab.stages.single_frame.astrometry import reference_positions
from nightlab.stages.single_frame.frame import Bools, Floats, Ints

ARCSEC = 3600.0
GRID = 25  # per axis, where a solution is sampled before it is written as TAN-SIP
N_BRIGHT = 60  # sources of a detector that look for their pattern; twice as many references
ANCHORS = 12  # positions per detector that hold it, weakly, where it is expected
ANCHOR_WEIGHT = 0.3  # arcsec^-1, of an anchor
MIN_STARS = 3  # on a detector, for a place of its own


class VisitAstrometryConfig(Config):
    """Knobs of the astrometry of a visit."""

    order: int = Field(default=7, ge=1, le=11, description="degree of the distortion over the focal plane")
    sip_order: int = Field(default=5, ge=2, le=7, description="degree of the TAN-SIP each detector is written as")
    search_radius: float = Field(default=10.0, gt=0, description="largest pointing error looked for [arcsec]")
    max_rotation: float = Field(default=1.0, ge=0, description="largest rotation error looked for [deg]")
    pattern_tolerance: float = Field(
        default=0.4, gt=0, description="how far a star may be off in the first match of a detector [arcsec]"
    )
    match_radius: float = Field(default=0.15, gt=0, description="radius of the last match [arcsec]")
    clip: float = Field(default=4.0, gt=0, description="clipping of the fit [sigma]")
    error_floor: float = Field(default=0.01, ge=0, description="added in quadrature to centroid errors [arcsec]")
    min_matches: int = Field(default=50, ge=10, description="fewer matches over the whole visit are an error")


@dataclass(frozen=True, kw_only=True)
class DetectorPositions:
    """What one detector saw.

    Attributes
    ----------
    x, y
        (n,) positions [pixel], the brightest first.
    error
        (n,) errors of a coordinate [pixel].
    projection
        The nominal one, good to some arcseconds.
    bbox
        The detector.
    """

    x: Floats
    y: Floats
    error: Floats
    projection: SkyProjection
    bbox: Box


@dataclass(frozen=True, kw_only=True)
class VisitAstrometry:
    """Projections of all detectors of a visit, and the matches behind them.

    Attributes
    ----------
    projections
        By detector.
    matches
        One row per match: ``detector``, ``source`` and ``reference`` (indices into what was given), ``x``, ``y``
        [pixel], ``east``, ``north`` (source minus reference) [arcsec], ``used`` (False where clipped or reserved).
    """

    projections: dict[int, SkyProjection]
    matches: Table


def solve_visit(
    positions: Mapping[int, DetectorPositions],
    reference: Table,
    mjd_tai: float,
    *,
    reserved: Bools | None = None,
    config: VisitAstrometryConfig = VisitAstrometryConfig(),
) -> VisitAstrometry:
    """Solve a visit: where every detector sits, and how the optics distort.

    Seen from the sky, the optics map the tangent plane smoothly onto the focal plane, where each detector has a place,
    an angle and a scale: D(xi, eta) = s_d R_d (x, y) + t_d, with D the identity plus terms of degree 2 to `order`.
    That is linear in all unknowns, and no camera model is needed: the nominal projections only find the first matches.

    Parameters
    ----------
    positions
        By detector.
    reference
        Reference catalogue, see `calibrate_astrometry`; the brightest first where it has no order of its own.
    mjd_tai
        Epoch of the exposure.
    reserved
        (m,) rows of the reference that are matched and take no part in the fit, for an honest test.
    config
        Knobs.

    Raises
    ------
    NoOverlap
        When no reference lies on the visit.
    TooFewStars
        When fewer than `min_matches` sources match.
    """
    ra, dec = reference_positions(reference, mjd_tai)
    sky = _Plane.of(positions, ra, dec, config)
    stars = _Stars.of(positions, sky)
    model = _start(stars, sky, config)
    held = np.zeros(ra.size, dtype=bool) if reserved is None else np.asarray(reserved, dtype=bool)
    for radius in (0.6, 0.4, 0.3, 0.2, config.match_radius, config.match_radius):
        plane = model.to_sky(stars)
        i, j = _nearest(plane, sky.position, max(radius, config.match_radius))
        if i.size < config.min_matches:
            raise TooFewStars(
                f"the astrometry of a visit needs {config.min_matches} matches, found {i.size}",
                hint="widen `search_radius`, or give a deeper reference catalogue",
                found=int(i.size),
                needed=config.min_matches,
            )
        model, used = _fit_clipped(stars, sky, plane, i, j, ~held[sky.row[j]], config)
    return _result(positions, stars, sky, model, i, j, used, config)


@dataclass(frozen=True, kw_only=True)
class _Plane:
    """References on the plane that is tangent at the middle of the visit [arcsec]."""

    ra: float
    dec: float
    span: float
    position: Floats  # (m, 2)
    row: Ints  # of the catalogue

    @classmethod
    def of(
        cls, positions: Mapping[int, DetectorPositions], ra: Floats, dec: Floats, config: VisitAstrometryConfig
    ) -> _Plane:
        corners = [
            pixel_to_radec(p.projection, [b.x.min, b.x.max, b.x.min, b.x.max], [b.y.min, b.y.min, b.y.max, b.y.max])
            for p in positions.values()
            for b in [p.bbox]
        ]
        corner_ra, corner_dec = (np.concatenate(values) for values in zip(*corners, strict=True))
        ra0, dec0 = mean_position(corner_ra, corner_dec)
        reach = float(separation(corner_ra, corner_dec, ra0, dec0).max()) + config.search_radius
        row = np.flatnonzero(separation(ra, dec, ra0, dec0) < reach)
        if not row.size:
            raise NoOverlap(
                f"none of the {ra.size} reference objects lies on the visit around ra {ra0:.4f}, dec {dec0:.4f}",
                hint="use a reference catalogue that covers this field",
                ra=ra0,
                dec=dec0,
            )
        position = np.stack(gnomonic(ra[row], dec[row], ra0, dec0), axis=1) * ARCSEC
        return cls(ra=ra0, dec=dec0, span=reach, position=position, row=row)

    def nominal(self, projection: SkyProjection, x: Floats, y: Floats) -> Floats:
        """Give where pixels should be on the plane: (n, 2)."""
        return np.stack(gnomonic(*pixel_to_radec(projection, x, y), self.ra, self.dec), axis=1) * ARCSEC


@dataclass(frozen=True, kw_only=True)
class _Stars:
    """Sources of all detectors in one list."""

    detectors: Sequence[int]
    member: Ints  # (n,) position of the source's detector in `detectors`
    index: Ints  # (n,) of the source on its detector
    local: Floats  # (n, 2) pixels off the middle of the detector
    error: Floats  # (n,) arcsec
    nominal: Floats  # (n, 2) on the plane

    @classmethod
    def of(cls, positions: Mapping[int, DetectorPositions], sky: _Plane) -> _Stars:
        local, nominal, error = [], [], []
        for p in positions.values():
            middle = np.array([p.bbox.x.center, p.bbox.y.center])
            local.append(np.stack([p.x, p.y], axis=1) - middle)
            nominal.append(sky.nominal(p.projection, p.x, p.y))
            error.append(p.error * pixel_scale(p.projection, *middle))
        sizes = [len(part) for part in local]
        return cls(
            detectors=list(positions),
            member=np.repeat(np.arange(len(sizes)), sizes),
            index=np.concatenate([np.arange(n) for n in sizes]),
            local=np.concatenate(local),
            error=np.concatenate(error),
            nominal=np.concatenate(nominal),
        )


@dataclass(frozen=True, kw_only=True)
class _Model:
    """The fitted optics and places of detectors."""

    distortion: Floats  # (n_terms, 2), of degree 2 and more
    place: Floats  # (n_detectors, 4): a, b, tx, ty of (a x - b y + tx, b x + a y + ty), x reversed where flipped
    parity: Floats  # (n_detectors,) +1 or -1
    order: int
    span: float

    def focal(self, local: Floats, member: Ints) -> Floats:
        """Map pixels off the middle of their detectors into the focal plane."""
        a, b, tx, ty = self.place[member].T
        x, y = local[:, 0] * self.parity[member], local[:, 1]
        return np.stack([a * x - b * y + tx, b * x + a * y + ty], axis=1)

    def to_sky(self, stars: _Stars) -> Floats:
        return self.undistorted(self.focal(stars.local, stars.member))

    def undistorted(self, focal: Floats) -> Floats:
        """Invert xi + sum c_k terms_k(xi) = focal by iteration, which the smallness of the terms allows."""
        plane = focal.copy()
        for _ in range(30):
            new = focal - _terms(plane / self.span, self.order) @ self.distortion
            change = float(np.abs(new - plane).max()) if new.size else 0.0
            plane = new
            if change < 1e-7:
                break
        return plane


def _terms(plane: Floats, order: int) -> Floats:
    """Give the monomials of degree 2 to `order` at (n, 2) positions: (n, n_terms)."""
    u, v = plane[:, 0], plane[:, 1]
    return np.stack([u ** (n - k) * v**k for n in range(2, order + 1) for k in range(n + 1)], axis=1)


def _start(stars: _Stars, sky: _Plane, config: VisitAstrometryConfig) -> _Model:
    """Recognise the stars of each detector on its own, and let the detectors agree on where all of them point."""
    source, found = [], []
    for d in range(len(stars.detectors)):
        mine = np.flatnonzero(stars.member == d)[:N_BRIGHT]
        here = stars.nominal[mine]
        if mine.size < MIN_STARS:
            continue
        low, high = here.min(axis=0) - config.search_radius, here.max(axis=0) + config.search_radius
        near = np.flatnonzero(((sky.position > low) & (sky.position < high)).all(axis=1))[: 2 * N_BRIGHT]
        match = find_similarity(
            *here.T,
            *sky.position[near].T,
            centre=(float(here[:, 0].mean()), float(here[:, 1].mean())),
            tolerance=config.pattern_tolerance,
            max_shift=config.search_radius,
            max_rotation=config.max_rotation,
            max_scale=0.005,
            max_chance=1e-6,
        )
        if match is not None:
            source.append(mine[match.source])
            found.append(near[match.reference])
    if not source:
        raise TooFewStars(
            f"none of the {len(stars.detectors)} detectors shows a pattern of reference stars",
            hint="widen `search_radius` and `max_rotation`, or look at the nominal projections",
            found=0,
            needed=1,
        )
    i, j = np.concatenate(source), np.concatenate(found)
    design = np.concatenate([np.ones((len(stars.nominal), 1)), stars.nominal / sky.span], axis=1)
    kept = np.ones(i.size, dtype=bool)
    for _ in range(10):
        shift = np.linalg.lstsq(design[i[kept]], (sky.position[j] - stars.nominal[i])[kept], rcond=None)[0]
        miss = sky.position[j] - stars.nominal[i] - design[i] @ shift
        kept = (np.abs(miss) < 3.0 * np.maximum(_width(miss[kept]), 1e-3)).all(axis=1)
    return _solve(stars, stars.nominal + design @ shift, i[kept], sky.position[j[kept]], sky.span, 3)


def _solve(
    stars: _Stars, expected: Floats, i: Ints, target: Floats, span: float, order: int, floor: float = 0.01
) -> _Model:
    """Solve for optics and places by linear least squares; `expected` holds detectors without stars, weakly."""
    n_detectors, n_terms = len(stars.detectors), sum(n + 1 for n in range(2, order + 1))
    on = [stars.member == d for d in range(n_detectors)]
    parity = np.array([_parity(stars.local[mine], expected[mine]) for mine in on])
    anchors = np.flatnonzero(stars.index % np.maximum(np.bincount(stars.member)[stars.member] // ANCHORS, 1) == 0)
    rows = np.concatenate([i, anchors])
    plane = np.concatenate([target, expected[anchors]])
    weight = np.concatenate([1.0 / np.hypot(stars.error[i], floor), np.full(anchors.size, ANCHOR_WEIGHT)])
    terms = _terms(plane / span, order)
    x, y = stars.local[rows, 0] * parity[stars.member[rows]], stars.local[rows, 1]
    column = 2 * n_terms + 4 * stars.member[rows]
    size = rows.size
    design = np.zeros((2, size, 2 * n_terms + 4 * n_detectors))
    design[0, :, :n_terms] = terms
    design[1, :, n_terms : 2 * n_terms] = terms
    k = np.arange(size)
    for axis, values in ((0, (-x, y, -1.0, 0.0)), (1, (-y, -x, 0.0, -1.0))):
        for offset, value in enumerate(values):
            design[axis, k, column + offset] = value
    flat = (design * weight[None, :, None]).reshape(2 * size, -1)
    right = -(plane.T * weight).ravel()
    scale = np.maximum(np.linalg.norm(flat, axis=0), 1e-300)
    flat /= scale
    solution = np.linalg.solve(flat.T @ flat + 1e-13 * np.eye(scale.size), flat.T @ right) / scale
    return _Model(
        distortion=solution[: 2 * n_terms].reshape(2, n_terms).T,
        place=solution[2 * n_terms :].reshape(n_detectors, 4),
        parity=parity,
        order=order,
        span=span,
    )


def _parity(local: Floats, plane: Floats) -> float:
    """Give the sign of the determinant of the affine between pixels and plane: whether a detector is mirrored."""
    if len(local) < 3:
        return 1.0
    u, v = local - local.mean(axis=0), plane - plane.mean(axis=0)
    return float(np.sign(np.linalg.det(np.linalg.lstsq(u, v, rcond=None)[0])) or 1.0)


def _fit_clipped(
    stars: _Stars, sky: _Plane, expected: Floats, i: Ints, j: Ints, free: Bools, config: VisitAstrometryConfig
) -> tuple[_Model, Bools]:
    used = free.copy()
    target = sky.position[j]
    for _ in range(4):
        model = _solve(stars, expected, i[used], target[used], sky.span, config.order, config.error_floor)
        miss = model.to_sky(stars)[i] - target
        new = free & (np.abs(miss) < config.clip * np.maximum(_width(miss[used]), 1e-3)).all(axis=1)
        if (new == used).all():
            break
        used = new
    return model, used


def _nearest(plane: Floats, references: Floats, radius: float) -> tuple[Ints, Ints]:
    distance, j = cKDTree(references).query(plane)
    _, back = cKDTree(plane).query(references)
    i = np.flatnonzero((distance < radius) & (back[j] == np.arange(len(plane))))
    return i, j[i].astype(np.int64)


def _width(values: Floats) -> Floats:
    return 1.4826 * np.median(np.abs(values - np.median(values, axis=0)), axis=0)


def _result(
    positions: Mapping[int, DetectorPositions],
    stars: _Stars,
    sky: _Plane,
    model: _Model,
    i: Ints,
    j: Ints,
    used: Bools,
    config: VisitAstrometryConfig,
) -> VisitAstrometry:
    projections = {}
    for d, (detector, p) in enumerate(positions.items()):
        b = p.bbox
        grid = np.meshgrid(np.linspace(b.y.min, b.y.max, GRID), np.linspace(b.x.min, b.x.max, GRID), indexing="ij")
        y, x = (axis.ravel() for axis in grid)
        local = np.stack([x - b.x.center, y - b.y.center], axis=1)
        plane = model.undistorted(model.focal(local, np.full(x.size, d))) / ARCSEC
        ra, dec = inverse_gnomonic(plane[:, 0], plane[:, 1], sky.ra, sky.dec)
        projections[detector] = fit_projection(
            x, y, ra, dec, frame=p.projection.pixel_frame, bbox=b, order=config.sip_order
        )
    miss = model.to_sky(stars)[i] - sky.position[j]
    middle = np.array([[p.bbox.x.center, p.bbox.y.center] for p in positions.values()])
    pixel = stars.local[i] + middle[stars.member[i]]
    matches = Table(
        {
            "detector": np.array(stars.detectors)[stars.member[i]],
            "source": stars.index[i],
            "reference": sky.row[j],
            "x": pixel[:, 0],
            "y": pixel[:, 1],
            "east": miss[:, 0],
            "north": miss[:, 1],
            "used": used,
        }
    )
    return VisitAstrometry(projections=projections, matches=matches)
