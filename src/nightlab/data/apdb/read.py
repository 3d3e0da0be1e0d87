"""Ask a prompt database for objects and light curves."""

from __future__ import annotations

from typing import Any

import lsst.sphgeom as sg
import numpy as np
import pandas
from astropy.table import Table
from astropy.time import Time
from lsst.dax.apdb.sql import ApdbSql

from nightlab.data.apdb.connect import guarded
from nightlab.errors import BadInput
from nightlab.numeric.sphere import separation

LONG_AGO = Time(0.0, format="mjd", scale="tai")


def read_objects(
    apdb: ApdbSql, *, ra: float | None = None, dec: float | None = None, radius: float | None = None
) -> Table:
    """Read the latest version of objects.

    Parameters
    ----------
    apdb
        An open database.
    ra, dec, radius
        A circle on the sky, ICRS [deg]; the whole sky when absent.

    Returns
    -------
    astropy.table.Table
        One row per object, ascending in ``diaObjectId``.

    Raises
    ------
    BadInput
        When only some of `ra`, `dec`, `radius` are given.
    """
    given = [value is not None for value in (ra, dec, radius)]
    if any(given) and not all(given):
        raise BadInput("a circle needs ra, dec and radius; only some of them were given")
    region = sg.Circle.full()
    if ra is not None and dec is not None and radius is not None:
        centre = sg.UnitVector3d(sg.LonLat.fromDegrees(ra % 360.0, dec))
        region = sg.Circle(centre, sg.Angle.fromDegrees(radius))
    with guarded("reading objects"):
        table = _plain(apdb.getDiaObjects(region), "diaObjectId")
    if ra is not None and dec is not None and radius is not None:  # the database answers for whole pixels
        table = table[separation(table["ra"], table["dec"], ra, dec) <= radius * 3600.0]
    return table


def light_curve(apdb: ApdbSql, object_id: int) -> Table:
    """Read all sources of an object (its ``diaObjectId``), in time order."""
    with guarded(f"reading the sources of object {object_id}"):
        found = apdb.getDiaSources(sg.Circle.full(), [int(object_id)], LONG_AGO, LONG_AGO)
    return _plain(found, "midpointMjdTai", "diaSourceId")


def forced_light_curve(apdb: ApdbSql, object_id: int) -> Table:
    """Read all forced sources of an object (its ``diaObjectId``), in time order."""
    with guarded(f"reading the forced sources of object {object_id}"):
        found = apdb.getDiaForcedSources(sg.Circle.full(), [int(object_id)], LONG_AGO, LONG_AGO)
    return _plain(found, "midpointMjdTai", "diaForcedSourceId")


def _plain(frame: pandas.DataFrame, *order: str) -> Table:
    """Turn nullable columns into numpy ones: NaN for missing floats, a mask for other missing values."""
    frame = frame.sort_values(list(order), kind="stable")
    return Table({name: _column(frame[name]) for name in frame.columns})


def _column(series: Any) -> np.ndarray:
    missing = series.isna().to_numpy(dtype=bool)
    kind = str(series.dtype).lower()
    if kind.startswith("float"):
        return np.asarray(series.to_numpy(dtype=np.float64, na_value=np.nan))
    if kind.startswith(("int", "uint", "bool")):
        plain = np.bool_ if kind.startswith("bool") else np.int64
        values = np.asarray(series.fillna(0 if plain is np.int64 else False).to_numpy(dtype=plain))
    else:
        values = np.asarray(series.astype(object).where(~missing, "").astype(str).to_numpy(dtype=str))
    return np.ma.masked_array(values, missing) if missing.any() else values
