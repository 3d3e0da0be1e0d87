"""Recognise a field of stars: the similarity that lays one list of positions onto another."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from nightlab.numeric.statistics import chance_of

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

STAGES = ((30, 50), (60, 100), (120, 200), (250, 300))  # how many of the brightest sources and references are tried
MAX_VOTES = 1_000_000  # pairs beyond this number are left out, those of the faintest sources first
CANDIDATES = 25  # fullest cells that are tried out
MIN_LENGTH = 0.15  # shortest pair, in units of the field: shorter ones do not tell the angle


@dataclass(frozen=True, kw_only=True)
class Similarity:
    """A mirror perhaps, then a turn, a scale and a shift: p -> matrix @ p + offset.

    Attributes
    ----------
    matrix
        (2, 2).
    offset
        (2,) [pixel].
    source, reference
        (n,) indices of the pairs that agree with it.
    chance
        Expected number of transforms, in all the space that was searched, with which as many pairs agree by accident.
    """

    matrix: Floats
    offset: Floats
    source: Ints
    reference: Ints
    chance: float

    @property
    def flipped(self) -> bool:
        """Whether the first axis is reversed before the turn."""
        return bool(np.linalg.det(self.matrix) < 0)

    @property
    def scale(self) -> float:
        """Reference units per source unit."""
        return float(np.sqrt(abs(np.linalg.det(self.matrix))))

    @property
    def rotation(self) -> float:
        """Angle of the turn [deg], in (-180, 180]."""
        return float(np.rad2deg(np.arctan2(-self.matrix[0, 1], self.matrix[1, 1])))

    def __call__(self, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        """Give where (n,) sources lie among the references."""
        mapped = np.stack([x, y], axis=-1) @ self.matrix.T + self.offset
        return mapped[..., 0], mapped[..., 1]


def find_similarity(
    x: Floats,
    y: Floats,
    rx: Floats,
    ry: Floats,
    *,
    centre: tuple[float, float],
    tolerance: float,
    max_shift: float,
    max_rotation: float = 180.0,
    max_scale: float = 0.01,
    flips: bool = False,
    max_chance: float = 1e-3,
) -> Similarity | None:
    """Find the similarity between two lists of positions, of which only some are of the same stars.

    Every pair of sources that is as long as a pair of references proposes an angle, a scale and a shift; the true ones
    agree with one another, the others do not. The fullest cells of that vote are tried out, and the one with most
    matches wins, if so many would not arise by accident. Pairs rather than triangles or pinwheels (Tabur 2007, PASA
    24, 189; Morrison 2018, DMTN-031), since two lists may share few stars and none that are neighbours.

    Parameters
    ----------
    x, y
        (n,) source positions, the brightest first.
    rx, ry
        (m,) reference positions, the brightest first.
    centre
        What the shift is measured at: the middle of the sources' field.
    tolerance
        How far a match may be off [pixel].
    max_shift
        Largest shift of the centre [pixel].
    max_rotation
        Largest turn [deg].
    max_scale
        Largest difference of the scale from 1.
    flips
        Whether mirror images are looked at, too.
    max_chance
        Largest `Similarity.chance` that is believed.

    Returns
    -------
    Similarity or None
        None when no similarity is believable.
    """
    here = np.stack([x, y], axis=1) - centre
    there = np.stack([rx, ry], axis=1) - centre
    limits = (max_shift, np.deg2rad(max_rotation), max_scale)
    span = float(np.ptp(here, axis=0).max()) if len(here) else 0.0
    if min(len(here), len(there)) < 3 or span <= 0:
        return None
    best: Similarity | None = None
    for n, m in STAGES:
        for mirror in (False, True) if flips else (False,):
            found = _search(here[:n], there[:m], mirror, tolerance, span, limits)
            if found is not None and (best is None or found.chance < best.chance):
                best = found
        if best is not None and best.chance < 1e-3 * max_chance:
            break
        if n >= len(here) and m >= len(there):
            break
    if best is None or best.chance * (2.0 if flips else 1.0) > max_chance:
        return None
    offset = best.offset + centre - best.matrix @ centre
    return Similarity(
        matrix=best.matrix, offset=offset, source=best.source, reference=best.reference, chance=best.chance
    )


def _search(
    here: Floats, there: Floats, mirror: bool, tolerance: float, span: float, limits: tuple[float, float, float]
) -> Similarity | None:
    mirrored = here * (-1.0, 1.0) if mirror else here
    votes = _votes(mirrored, there, tolerance, span, limits)
    cell = np.array([3.0 * tolerance, 3.0 * tolerance, 6.0 * tolerance / span])
    x, y, z = (np.floor(votes[:, :3] / cell).astype(np.int64) + (1 << 20)).T
    key = (x << 42) | (y << 21) | z
    order = np.argsort(key, kind="stable")
    starts = np.flatnonzero(np.diff(key[order], prepend=-1))
    counts = np.diff(starts, append=key.size)
    tree = cKDTree(there)
    best: Similarity | None = None
    for k in np.argsort(-counts, kind="stable")[:CANDIDATES]:
        if counts[k] < 2:
            break
        dx, dy, turn, scale = np.median(votes[order[starts[k] : starts[k] + counts[k]]], axis=0)
        c, s = np.exp(scale) * np.cos(turn), np.exp(scale) * np.sin(turn)
        found = _refined(mirrored, there, tree, np.array([[c, -s], [s, c]]), np.array([dx, dy]), tolerance)
        if found is not None and (best is None or found[2].size > best.source.size):
            matrix, offset, i, j = found
            chance = _chance(i.size, here, there, tolerance, span, limits)
            best = Similarity(
                matrix=matrix * (-1.0, 1.0) if mirror else matrix, offset=offset, source=i, reference=j, chance=chance
            )
    return best


def _votes(here: Floats, there: Floats, tolerance: float, span: float, limits: tuple[float, float, float]) -> Floats:
    """Give what every pair of pairs of like length proposes: shift x, shift y, turn [rad], logarithm of the scale."""
    max_shift, max_rotation, max_scale = limits
    a, b = np.triu_indices(len(here), 1)
    c, d = np.nonzero(~np.eye(len(there), dtype=bool))  # either end may come first
    ours, theirs = here[b] - here[a], there[d] - there[c]
    long, their_long = np.hypot(*ours.T), np.hypot(*theirs.T)
    enough = long > max(MIN_LENGTH * span, 5.0 * tolerance)
    a, b, ours, long = a[enough], b[enough], ours[enough], long[enough]
    order = np.argsort(their_long, kind="stable")
    c, d, theirs, their_long = c[order], d[order], theirs[order], their_long[order]
    slack = np.log1p(max_scale) + 2.0 * tolerance / long
    low = np.searchsorted(their_long, long * np.exp(-slack))
    high = np.searchsorted(their_long, long * np.exp(slack))
    count = high - low
    # the pairs of the brightest sources come first
    rank = np.argsort(np.maximum(a, b), kind="stable")
    rank = rank[np.cumsum(count[rank]) <= MAX_VOTES]
    one = np.repeat(rank, count[rank])
    starts = np.repeat(low[rank] - np.concatenate([[0], np.cumsum(count[rank])[:-1]]), count[rank])
    two = starts + np.arange(one.size)
    turn = np.arctan2(theirs[two, 1], theirs[two, 0]) - np.arctan2(ours[one, 1], ours[one, 0])
    turn = (turn + np.pi) % (2.0 * np.pi) - np.pi
    near = np.abs(turn) <= max_rotation + tolerance / (0.5 * span)
    one, two, turn = one[near], two[near], turn[near]
    scale = their_long[two] / long[one]
    middle = 0.5 * (here[a[one]] + here[b[one]])
    target = 0.5 * (there[c[two]] + there[d[two]])
    cos, sin = scale * np.cos(turn), scale * np.sin(turn)
    dx = target[:, 0] - cos * middle[:, 0] + sin * middle[:, 1]
    dy = target[:, 1] - sin * middle[:, 0] - cos * middle[:, 1]
    near = np.hypot(dx, dy) <= max_shift + tolerance
    return np.stack([dx, dy, turn, np.log(scale)], axis=1)[near]


def _refined(
    here: Floats, there: Floats, tree: cKDTree, matrix: Floats, offset: Floats, tolerance: float
) -> tuple[Floats, Floats, Ints, Ints] | None:
    """Match and fit in turn; give None when fewer than three pairs agree."""
    for reach in (3.0, 2.0, 1.0, 1.0):
        mapped = here @ matrix.T + offset
        distance, j = tree.query(mapped, distance_upper_bound=reach * tolerance)
        i = np.flatnonzero(np.isfinite(distance))
        # one source to a reference: the nearest
        order = i[np.argsort(distance[i], kind="stable")]
        _, first = np.unique(j[order], return_index=True)
        i = np.sort(order[first])
        if i.size < 3:
            return None
        matrix, offset = _fit_similarity(here[i], there[j[i]])
    return matrix, offset, i, j[i].astype(np.int64)


def _fit_similarity(here: Floats, there: Floats) -> tuple[Floats, Floats]:
    """Fit turn, scale and shift by least squares (Umeyama 1991, IEEE PAMI 13, 376, in the plane)."""
    middle, target = here.mean(axis=0), there.mean(axis=0)
    u, v = here - middle, there - target
    norm = max(float((u**2).sum()), 1e-300)
    c, s = float((u * v).sum()) / norm, float((u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0]).sum()) / norm
    matrix = np.array([[c, -s], [s, c]])
    return matrix, target - matrix @ middle


def _chance(
    n_matches: int, here: Floats, there: Floats, tolerance: float, span: float, limits: tuple[float, float, float]
) -> float:
    """Expected number of accidental transforms with as many matches; the two that fix a transform do not count."""
    max_shift, max_rotation, max_scale = limits
    area = max(float(np.ptp(there, axis=0).prod()), tolerance**2)
    expected = len(here) * len(there) * np.pi * tolerance**2 / area
    trials = (
        max(1.0, np.pi * (max_shift / tolerance) ** 2)
        * max(1.0, max_rotation * span / tolerance)
        * max(1.0, max_scale * span / tolerance)
    )
    return float(trials * chance_of(n_matches - 2, expected))
