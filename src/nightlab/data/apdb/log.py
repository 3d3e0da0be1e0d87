"""Our log of the visits in a prompt database, in a table beside its own.

The database itself cannot tell a visit without sources from one that was never seen, nor whether a visit offered again
has the same content; the log can.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields

import sqlalchemy
from astropy import units as u
from astropy.table import Table
from lsst.dax.apdb import ApdbTables
from lsst.dax.apdb.sql import ApdbSql

from nightlab.data.apdb.connect import engine_of, guarded, sql_table

NAME = "NightLabVisit"


@dataclass(frozen=True, kw_only=True)
class LoggedVisit:
    """One visit in the database.

    Attributes
    ----------
    visit
        Its number.
    detectors
        Detectors with rows, comma-separated.
    midpointMjdTai
        Earliest mid-exposure time of its detectors, TAI [d].
    nDiaObjects, nDiaSources, nDiaForcedSources
        Rows stored.
    nLeftOut
        Sources without a position, which the database cannot hold.
    digest, forcedDigest
        Content of the sources and of the forced sources; empty while unknown.
    """

    visit: int
    detectors: str
    midpointMjdTai: float  # noqa: N815  (columns of a table, named as in the schema)
    nDiaObjects: int  # noqa: N815
    nDiaSources: int  # noqa: N815
    nDiaForcedSources: int  # noqa: N815
    nLeftOut: int  # noqa: N815
    digest: str
    forcedDigest: str  # noqa: N815


def read_log(apdb: ApdbSql) -> Table:
    """List the visits in a prompt database, in time order: one row per visit with the fields of `LoggedVisit`."""
    rows = sorted(logged_visits(apdb).values(), key=lambda row: (row.midpointMjdTai, row.visit))
    kinds = {"int": int, "float": float, "str": "U1"}
    names = [field.name for field in fields(LoggedVisit)]
    types = [kinds[str(field.type)] for field in fields(LoggedVisit)]
    table = Table(
        rows=[tuple(asdict(row).values()) for row in rows] or None, names=names, dtype=None if rows else types
    )
    table["midpointMjdTai"].unit = u.d
    return table


def logged_visits(apdb: ApdbSql) -> dict[int, LoggedVisit]:
    """Read the log; a visit that was stored and not logged, since the process died in between, has no digest."""
    with guarded("reading the log of visits"), engine_of(apdb).begin() as connection:
        table = _table(apdb)
        table.metadata.create_all(connection, checkfirst=True)
        found = {row.visit: LoggedVisit(**row._mapping) for row in connection.execute(sqlalchemy.select(table))}
        for kind in (ApdbTables.DiaSource, ApdbTables.DiaForcedSource):
            rows = sql_table(apdb, kind, "visit", "midpointMjdTai")
            visit, time = rows.c
            query = sqlalchemy.select(visit, sqlalchemy.func.min(time)).group_by(visit)
            for number, midpoint in connection.execute(query):
                if number not in found:
                    found[number] = _unlogged(int(number), float(midpoint))
    return found


def write_log(apdb: ApdbSql, row: LoggedVisit) -> None:
    """Write one visit into the log; an earlier row of it is replaced."""
    table = _table(apdb)
    with guarded(f"logging visit {row.visit}"), engine_of(apdb).begin() as connection:
        connection.execute(table.delete().where(table.c.visit == row.visit))
        connection.execute(table.insert().values(**asdict(row)))


def _unlogged(visit: int, midpoint: float) -> LoggedVisit:
    return LoggedVisit(
        visit=visit,
        detectors="",
        midpointMjdTai=midpoint,
        nDiaObjects=0,
        nDiaSources=0,
        nDiaForcedSources=0,
        nLeftOut=0,
        digest="",
        forcedDigest="",
    )


def _table(apdb: ApdbSql) -> sqlalchemy.Table:
    kinds = {"int": sqlalchemy.BigInteger, "float": sqlalchemy.Double, "str": sqlalchemy.Text}
    columns: list[sqlalchemy.Column] = [
        sqlalchemy.Column(field.name, kinds[str(field.type)], primary_key=field.name == "visit", nullable=False)
        for field in fields(LoggedVisit)
    ]
    return sqlalchemy.Table(NAME, sqlalchemy.MetaData(schema=apdb.config.namespace), *columns)
