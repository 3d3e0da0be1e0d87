"""Hold a run on simulated data against the truth: completeness and purity of its DIAObjects."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from nightlab.errors import BadInput
from nightlab.numeric.sphere import unit_vectors


@dataclass(frozen=True, kw_only=True)
class Recovery:
    """Counts behind completeness and purity.

    Attributes
    ----------
    injected, recovered
        By kind (``transient``, ``variable``, ``mover``): objects above the S/N limit in enough visits, and those of
        them found.
    objects, genuine
        DIAObjects with enough detections, and those of them that a true change of the sky explains.
    table
        One row per injected object: id, kind, n_visible, n_detected, recovered.
    """

    injected: dict[str, int]
    recovered: dict[str, int]
    objects: int
    genuine: int
    table: Table

    def completeness(self, kind: str) -> float:
        """Fraction of the injected objects of a kind that were recovered; NaN when none was injected."""
        return self.recovered[kind] / self.injected[kind] if self.injected.get(kind) else float("nan")

    @property
    def purity(self) -> float:
        """Fraction of DIAObjects that are genuine; NaN when there is none."""
        return self.genuine / self.objects if self.objects else float("nan")


def recover(
    truth: Table,
    dia_source: Table,
    dia_object: Table,
    *,
    snr_min: float = 10.0,
    n_min: int = 2,
    radius: float = 1.0,
) -> Recovery:
    """Match true changes of the sky with what a run found.

    A transient or a variable counts when its difference flux reaches `snr_min` in at least `n_min` visits, and is
    recovered when one DIAObject holds at least `n_min` detections of it. A mover is at each place only once, so it
    counts when it reaches `snr_min` in any visit and is recovered when each such appearance has a DIASource. A
    DIAObject with `n_min` or more detections is genuine when at least half of its detections lie on a true change
    that was predicted above 3 sigma.

    Parameters
    ----------
    truth
        One row per true change per visit: id, kind, visit, ra, dec [deg], snr_difference.
    dia_source, dia_object
        What the run found; `dia_source` with diaObjectId.
    snr_min, n_min
        What counts as detectable.
    radius
        Matching radius [arcsec].

    Raises
    ------
    BadInput
        When a column is missing.
    """
    for table, columns in ((truth, ("id", "kind", "visit", "ra", "dec", "snr_difference")),
                           (dia_source, ("diaObjectId", "visit", "ra", "dec")),
                           (dia_object, ("diaObjectId", "nDiaSources"))):  # fmt: skip
        missing = sorted(set(columns) - set(table.colnames))
        if missing:
            raise BadInput(f"the table has no column {', '.join(missing)}; it has {', '.join(table.colnames)}")
    changing = truth[np.abs(np.asarray(truth["snr_difference"])) > 3.0]
    owner = _match_per_visit(dia_source, changing, radius)
    object_of = np.asarray(dia_source["diaObjectId"])
    snr = np.abs(np.asarray(changing["snr_difference"]))
    rows = []
    for truth_id in np.unique(np.asarray(changing["id"])):
        mine = np.asarray(changing["id"]) == truth_id
        kind = str(changing["kind"][mine][0])
        bright = np.flatnonzero(mine & (snr > snr_min))
        needed = 1 if kind == "mover" else n_min
        if bright.size < needed:
            continue
        hits = np.isin(owner, np.flatnonzero(mine))
        found = np.unique(object_of[hits & (object_of != 0)], return_counts=True)[1]
        detected = int(np.isin(bright, owner).sum())
        recovered = detected == bright.size if kind == "mover" else bool((found >= n_min).any())
        rows.append((truth_id, kind, bright.size, detected, recovered))
    table = Table(rows=rows or None, names=("id", "kind", "n_visible", "n_detected", "recovered"),
                  dtype=(int, str, int, int, bool))  # fmt: skip
    kinds = sorted({str(kind) for kind in truth["kind"]} & {"transient", "variable", "mover"})
    large = np.asarray(dia_object["diaObjectId"])[np.asarray(dia_object["nDiaSources"]) >= n_min]
    genuine = sum(bool(np.mean(owner[object_of == number] >= 0) >= 0.5) for number in large)
    kind_column = np.asarray(table["kind"])
    return Recovery(
        injected={kind: int((kind_column == kind).sum()) for kind in kinds},
        recovered={kind: int(np.asarray(table["recovered"])[kind_column == kind].sum()) for kind in kinds},
        objects=len(large),
        genuine=genuine,
        table=table,
    )


def _match_per_visit(found: Table, true: Table, radius: float) -> NDArray[np.int64]:
    """For each row of `found`, the row of the nearest truth of the same visit within `radius`, or -1."""
    from scipy.spatial import cKDTree

    owner = np.full(len(found), -1, dtype=np.int64)
    limit = 2.0 * np.sin(np.deg2rad(radius / 3600.0) / 2.0)
    for visit in np.unique(np.asarray(found["visit"])):
        rows = np.flatnonzero(np.asarray(found["visit"]) == visit)
        truths = np.flatnonzero(np.asarray(true["visit"]) == visit)
        if not truths.size:
            continue
        tree = cKDTree(unit_vectors(true["ra"][truths], true["dec"][truths]))
        vectors = unit_vectors(found["ra"][rows], found["dec"][rows])
        good = np.isfinite(vectors).all(axis=1)
        distance, nearest = tree.query(np.where(good[:, None], vectors, 9.0), distance_upper_bound=limit)
        close = np.isfinite(distance) & good
        owner[rows[close]] = truths[nearest[close]]
    return owner
