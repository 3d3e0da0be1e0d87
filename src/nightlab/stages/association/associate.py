"""Link difference-image sources to objects, visit after visit, in the order in which the telescope saw them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from astropy.table import Table, vstack
from numpy.typing import NDArray
from pydantic import Field
from scipy.sparse import csr_array
from scipy.sparse.csgraph import min_weight_full_bipartite_matching
from scipy.spatial import cKDTree

from nightlab.config import Config
from nightlab.errors import BadInput
from nightlab.numeric.sphere import unit_vectors
from nightlab.report import Metric, report
from nightlab.stages.association.light_curves import floats, object_statistics

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

ARCSEC = np.deg2rad(1.0 / 3600.0)
NEEDED = ("diaSourceId", "visit", "detector", "band", "midpointMjdTai", "ra", "dec", "psfFlux", "psfFluxErr")

METRICS = {
    "n_dia_sources": Metric("difference-image sources offered"),
    "n_dia_objects": Metric("objects made of them"),
    "n_unassociated": Metric("sources that belong to no object"),
    "n_nan_positions": Metric("sources without a finite position; kept, never associated"),
    "n_not_starting": Metric("unmatched sources with a position that were not allowed to start an object"),
    "n_detectors_refused": Metric("detector images that wanted to start more objects than `max_new_objects`"),
    "fraction_repeated": Metric("objects with two sources or more, over all objects"),
    "median_separation": Metric("median distance of a matched source from its object", unit="arcsec"),
}


class AssociateConfig(Config):
    """Which sources are the same object, and which may be the first of a new one."""

    radius: float = Field(
        default=1.0, gt=0, le=60, description="largest distance of a source from its object [arcsec]"
    )
    error_floor: float = Field(default=0.05, gt=0, description="smallest position error used, per axis [arcsec]")
    error_fallback: float = Field(
        default=0.2, gt=0, description="position error of a source that has none, per axis [arcsec]"
    )
    reject_flags: tuple[str, ...] = Field(
        default=(
            "centroid_flag",
            "pixelFlags_cr",
            "pixelFlags_edge",
            "pixelFlags_nodata",
            "pixelFlags_saturated",
            "pixelFlags_streak",
        ),
        description="flag columns; a source with any of them may join an object but not start one",
    )
    new_from_negative: bool = Field(
        default=True, description="whether sources fainter than the template may start objects"
    )
    new_from_dipoles: bool = Field(default=False, description="whether dipoles may start objects")
    min_change: float = Field(
        default=0.02,
        ge=0,
        lt=1,
        description="a source fainter than this fraction of the light beneath it may not start an object: residuals "
        "of PSF matching on bright stars are of that size",
    )
    max_new_objects: int = Field(
        default=50_000,
        ge=0,
        description="an image that wants to start more objects is a failed subtraction and starts none [count]",
    )


@dataclass(frozen=True, kw_only=True)
class Association:
    """What association makes.

    Attributes
    ----------
    dia_source
        All sources in the order (time, visit, detector, diaSourceId), with ``diaObjectId``; 0 where there is none.
    dia_object
        One row per object, ascending in ``diaObjectId``, with the statistics of its light curves.
    metrics
        See `METRICS`.
    """

    dia_source: Table
    dia_object: Table
    metrics: xr.Dataset


@dataclass(frozen=True, kw_only=True)
class _Links:
    first: Ints  # per source: row of the first source of its object, -1 without object
    separation: Floats  # per source: distance from the object it joined [arcsec], NaN for others
    n_not_starting: int
    n_detectors_refused: int


def associate(dia_source_unassociated: Sequence[Table], config: AssociateConfig = AssociateConfig()) -> Association:
    """Link the sources of many detector images to objects.

    Detector images are taken in the order (time, visit, detector). The sources of each are matched to the objects
    known by then, among them those that another detector of the same visit has just started, so that a source in the
    overlap of two detectors makes one object. An object lies at the mean of its sources' unit vectors and bears the
    id of its first source. Neither the order of the tables nor that of their rows matters, and adding later visits
    changes nothing about earlier ones.

    Parameters
    ----------
    dia_source_unassociated
        Tables of sources, one or many detector images each: positions in ICRS degrees, ``raErr`` and ``decErr`` on the
        great circle [deg], ``midpointMjdTai`` [d], fluxes [nJy].
    config
        Gate, errors, and which sources may start objects.

    Raises
    ------
    BadInput
        When there is no table, a needed column is missing, an id occurs twice or a time is not finite.
    """
    sources = _in_time_order(_stack(dia_source_unassociated, config))
    links = _link(sources, config)
    ids = np.asarray(sources["diaSourceId"], dtype=np.int64)
    sources["diaObjectId"] = np.where(links.first >= 0, ids[links.first], 0)
    objects = object_statistics(sources)
    n_objects, n_sources = len(objects), len(sources)
    separation = links.separation[np.isfinite(links.separation)]
    values = {
        "n_dia_sources": n_sources,
        "n_dia_objects": n_objects,
        "n_unassociated": int((links.first < 0).sum()),
        "n_nan_positions": int((~_has_position(sources)).sum()),
        "n_not_starting": links.n_not_starting,
        "n_detectors_refused": links.n_detectors_refused,
        "fraction_repeated": float(np.mean(objects["nDiaSources"] >= 2)) if n_objects else None,
        "median_separation": float(np.median(separation)) if separation.size else None,
    }
    return Association(dia_source=sources, dia_object=objects, metrics=report(METRICS, values, room="association"))


def assign(
    sources: Floats,
    source_errors: Floats,
    objects: Floats,
    object_errors: Floats,
    config: AssociateConfig = AssociateConfig(),
) -> Ints:
    """Match the sources of one image to objects, one to one, by maximum likelihood.

    Every pair inside the gate has the score ``chi^2 / 2 + ln(var_ra var_dec) / 2`` with variances added per axis.
    The sum of scores is minimised; a source left without a partner costs one more than the worst pair, so that any
    pair inside the gate beats no match. Only sources that compete for an object enter the linear assignment
    (Jonker & Volgenant 1987, Computing 38, 325, in its sparse form); the others have but one choice.

    Parameters
    ----------
    sources, objects
        (n, 3) and (m, 3) unit vectors.
    source_errors, object_errors
        (n, 2) and (m, 2) errors along right ascension (on the great circle) and declination [arcsec]; NaN or
        non-positive ones are replaced by ``config.error_fallback``.
    config
        Gate, floor and fallback.

    Returns
    -------
    numpy.ndarray
        (n,) index of the object of each source, -1 where there is none.
    """
    found = np.full(len(sources), -1, dtype=np.int64)
    if not len(sources) or not len(objects):
        return found
    chord = 2.0 * np.sin(config.radius * ARCSEC / 2.0)
    pairs = cKDTree(sources).sparse_distance_matrix(cKDTree(objects), chord, output_type="ndarray")
    order = np.lexsort((pairs["j"], pairs["i"]))
    i, j = pairs["i"][order].astype(np.int64), pairs["j"][order].astype(np.int64)
    if not i.size:
        return found
    variance = _usable(source_errors, config)[i] ** 2 + _usable(object_errors, config)[j] ** 2
    offset = _tangent_offsets(sources[i], objects[j])
    score = 0.5 * (offset**2 / variance).sum(axis=1) + 0.5 * np.log(variance.prod(axis=1))
    return _cheapest(i, j, score, found)


def _cheapest(i: Ints, j: Ints, score: Floats, found: Ints) -> Ints:
    alone = (np.bincount(i)[i] == 1) & (np.bincount(j)[j] == 1)
    found[i[alone]] = j[alone]
    if alone.all():
        return found
    cost = score - score.min() + 1.0  # the solver takes a zero for an absent edge
    rows, r = np.unique(i[~alone], return_inverse=True)
    columns, c = np.unique(j[~alone], return_inverse=True)
    nobody = np.arange(rows.size)  # a column of its own for every source: no match
    graph = csr_array(
        (
            np.concatenate([cost[~alone], np.full(rows.size, cost.max() + 1.0)]),
            (np.concatenate([r, nobody]), np.concatenate([c, columns.size + nobody])),
        ),
        shape=(rows.size, columns.size + rows.size),
    )
    row, column = min_weight_full_bipartite_matching(graph)
    matched = column < columns.size
    found[rows[row[matched]]] = columns[column[matched]]
    return found


def _link(sources: Table, config: AssociateConfig) -> _Links:
    vectors = unit_vectors(floats(sources, "ra"), floats(sources, "dec"))
    errors = np.stack([floats(sources, name) * 3600.0 for name in ("raErr", "decErr")], axis=1)
    placed, starts = _has_position(sources), _may_start(sources, config)
    n = len(sources)
    first, separation = np.full(n, -1, dtype=np.int64), np.full(n, np.nan)
    # per object, in the order of creation; there are never more objects than sources
    birth, count = np.empty(n, np.int64), np.zeros(n, np.int64)
    total, mean, variance = np.zeros((n, 3)), np.zeros((n, 3)), np.zeros((n, 2))
    n_objects = n_refused = n_not_starting = 0
    for begin, end in _groups(sources):
        rows = begin + np.flatnonzero(placed[begin:end])
        if not rows.size:
            continue
        near = _near(mean[:n_objects], vectors[rows], config.radius)
        object_errors = np.sqrt(variance[near]) / count[near, None]
        found = assign(vectors[rows], errors[rows], mean[near], object_errors, config)
        old, known = rows[found >= 0], near[found[found >= 0]]
        separation[old] = _angle(vectors[old], mean[known])
        unmatched = rows[found < 0]
        new = unmatched[starts[unmatched]]
        if new.size > config.max_new_objects:
            n_refused += 1
            new = new[:0]
        n_not_starting += unmatched.size - new.size
        born = np.arange(n_objects, n_objects + new.size)
        n_objects += new.size
        birth[born] = new
        joined, where = np.concatenate([old, new]), np.concatenate([known, born])
        total[where] += vectors[joined]
        variance[where] += _usable(errors[joined], config) ** 2
        count[where] += 1
        mean[where] = total[where] / np.linalg.norm(total[where], axis=1, keepdims=True)
        first[joined] = birth[where]
    return _Links(first=first, separation=separation, n_not_starting=n_not_starting, n_detectors_refused=n_refused)


def _near(objects: Floats, sources: Floats, radius: float) -> Ints:
    """Preselect the objects in the cap that covers one image: a dot product each, cheaper than a tree of them all."""
    centre = sources.sum(axis=0)
    length = np.linalg.norm(centre)
    if length < 1e-3 * len(sources):  # spread over the whole sky: no cap to speak of
        return np.arange(len(objects))
    centre = centre / length
    widest = np.arccos(np.clip((sources @ centre).min(), -1.0, 1.0)) + 1.1 * radius * ARCSEC + 1e-7
    return np.flatnonzero(objects @ centre >= np.cos(min(widest, np.pi)))


def _usable(errors: Floats, config: AssociateConfig) -> Floats:
    known = np.isfinite(errors) & (errors > 0)
    return np.maximum(np.where(known, errors, config.error_fallback), config.error_floor)


def _tangent_offsets(sources: Floats, objects: Floats) -> Floats:
    """Give (n, 2) offsets of objects to the east and north of sources [arcsec]; exact enough at the poles too."""
    x, y, z = sources.T
    rho = np.hypot(x, y)
    # at the very pole every direction is east of something: take the x axis as meridian
    cos, sin = np.where(rho > 0, x, 1.0) / np.where(rho > 0, rho, 1.0), y / np.where(rho > 0, rho, 1.0)
    step = objects - sources
    east = -sin * step[:, 0] + cos * step[:, 1]
    north = -z * cos * step[:, 0] - z * sin * step[:, 1] + rho * step[:, 2]
    return np.stack([east, north], axis=1) / ARCSEC


def _angle(a: Floats, b: Floats) -> Floats:
    return 2.0 * np.arcsin(np.clip(np.linalg.norm(a - b, axis=1) / 2.0, 0.0, 1.0)) / ARCSEC


def _has_position(sources: Table) -> Bools:
    ra, dec = floats(sources, "ra"), floats(sources, "dec")
    return np.isfinite(ra) & np.isfinite(dec) & (np.abs(dec) <= 90.0)


def _may_start(sources: Table, config: AssociateConfig) -> Bools:
    rejected = np.zeros(len(sources), dtype=bool)
    for name in config.reject_flags:
        rejected |= np.asarray(sources[name], dtype=bool)
    if not config.new_from_negative:
        rejected |= np.asarray(sources["isNegative"], dtype=bool)
    if not config.new_from_dipoles:
        rejected |= np.asarray(sources["isDipole"], dtype=bool)
    return ~(rejected | _is_residual(sources, config.min_change))


def _is_residual(sources: Table, min_change: float) -> Bools:
    """Say which sources change the light beneath them by less than a fraction; unknown fluxes are no residuals."""
    beneath = np.zeros(len(sources))
    for name in ("scienceFlux", "templateFlux"):
        if name in sources.colnames:
            beneath = np.fmax(beneath, floats(sources, name))
    return np.abs(floats(sources, "psfFlux")) < min_change * beneath


def _stack(tables: Sequence[Table], config: AssociateConfig) -> Table:
    if not len(tables):
        raise BadInput("association was given no table of sources", hint="run detection on at least one image first")
    needed = {*NEEDED, "raErr", "decErr", *config.reject_flags}
    needed |= set() if config.new_from_negative else {"isNegative"}
    needed |= set() if config.new_from_dipoles else {"isDipole"}
    for table in tables:
        missing = sorted(needed - set(table.colnames))
        if missing:
            raise BadInput(
                f"a table of sources lacks {', '.join(missing)}",
                hint="take flags that were not measured out of `reject_flags`",
                missing=missing,
            )
    filled = [table for table in tables if len(table)] or [tables[0]]
    return vstack(filled, join_type="outer", metadata_conflicts="silent") if len(filled) > 1 else filled[0].copy()


def _in_time_order(sources: Table) -> Table:
    sources.meta.clear()  # it described single images
    ids = np.asarray(sources["diaSourceId"], dtype=np.int64)
    times = floats(sources, "midpointMjdTai")
    if ids.size and ids.min() < 1:
        raise BadInput(f"diaSourceId {ids.min()} is not positive; 0 is kept for 'no object'")
    values, counts = np.unique(ids, return_counts=True)
    if (counts > 1).any():
        twice = int(values[counts > 1][0])
        raise BadInput(
            f"{int((counts > 1).sum())} diaSourceIds occur more than once, {twice} is the first",
            hint="was one image given twice?",
            diaSourceId=twice,
        )
    if not np.isfinite(times).all():
        raise BadInput(f"{int((~np.isfinite(times)).sum())} sources have no finite midpointMjdTai")
    visit, detector = (np.asarray(sources[name], dtype=np.int64) for name in ("visit", "detector"))
    _, image = np.unique(np.stack([visit, detector]), axis=1, return_inverse=True)
    image = np.reshape(image, -1)
    start = np.full(image.max(initial=-1) + 1, np.inf)
    np.minimum.at(start, image, times)
    return sources[np.lexsort((ids, detector, visit, start[image]))]


def _groups(sources: Table) -> list[tuple[int, int]]:
    if not len(sources):
        return []
    visit, detector = (np.asarray(sources[name], dtype=np.int64) for name in ("visit", "detector"))
    edges = np.flatnonzero((np.diff(visit) != 0) | (np.diff(detector) != 0)) + 1
    return list(zip([0, *edges.tolist()], [*edges.tolist(), len(sources)], strict=True))
