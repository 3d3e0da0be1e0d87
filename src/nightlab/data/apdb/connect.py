"""Make and open a prompt database; turn what it raises into errors of ours."""

from __future__ import annotations

import os
import sqlite3
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import pandas
import sqlalchemy
from lsst.dax.apdb import ApdbTables
from lsst.dax.apdb.config import ApdbConfig
from lsst.dax.apdb.sql import ApdbSql, ApdbSqlConfig

from nightlab.errors import BadInput, CorruptFile, DatabaseFailed, MissingData, WriteFailed

DATABASE, SETTINGS = "apdb.sqlite3", "apdb.yaml"


def create_apdb(where: str | Path) -> ApdbSql:
    """Create an empty prompt database.

    Parameters
    ----------
    where
        A folder, which then holds ``apdb.sqlite3`` and ``apdb.yaml`` (readable by Rubin's own tools), or an SQLAlchemy
        URL such as ``postgresql://host/night``.

    Raises
    ------
    BadInput
        When there is one already.
    WriteFailed
        When the folder cannot be written.
    DatabaseFailed
        When the server refuses.
    """
    if exists(where):
        raise BadInput(f"there is a prompt database at {where} already", hint="open it, or choose another place")
    if _is_url(where):
        with guarded(f"creating a prompt database at {where}"):
            return ApdbSql(ApdbSql.init_database(str(where)))
    folder = Path(where).absolute()
    made = folder / f".{DATABASE}.{uuid.uuid4().hex}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with guarded(f"creating a prompt database in {folder}"):
            settings = ApdbSql.init_database(_sqlite_url(made, "rwc"))
        _write_settings(folder, settings)
        made.replace(folder / DATABASE)  # last, so that a database is whole or absent
    except OSError as error:
        raise WriteFailed(f"cannot create a prompt database in {folder}: {error}") from error
    finally:
        made.unlink(missing_ok=True)
    return open_apdb(folder)


def open_apdb(where: str | Path) -> ApdbSql:
    """Open a prompt database; a folder may have been moved or copied since it was made.

    Parameters
    ----------
    where
        Its folder or URL.

    Raises
    ------
    MissingData
        When there is none.
    CorruptFile
        When the file in the folder is no prompt database.
    DatabaseFailed
        When the server refuses, or its schema is of an incompatible version.
    """
    if not exists(where):
        raise MissingData(f"there is no prompt database at {where}", hint="make one with `create_apdb`")
    if _is_url(where):
        with guarded(f"opening the prompt database at {where}"):
            return ApdbSql(ApdbSqlConfig(db_url=str(where)))
    folder = Path(where).absolute()
    url = _sqlite_url(folder / DATABASE, "rw")
    settings = ApdbSqlConfig(db_url=url)
    if (folder / SETTINGS).exists():
        settings = ApdbConfig.from_uri(str(folder / SETTINGS))
    if settings.db_url != url:
        # the settings hold an absolute path: the folder has moved
        settings = settings.model_copy(update={"db_url": url})
        if os.access(folder, os.W_OK):
            _write_settings(folder, settings)
    try:
        with guarded(f"opening the prompt database in {folder}"):
            return ApdbSql(settings)
    except DatabaseFailed as error:
        raise CorruptFile(
            f"{folder / DATABASE} is no prompt database: {error.message}", hint="delete the folder and fill it again"
        ) from error


def exists(where: str | Path) -> bool:
    """Say whether there is a prompt database in a folder or at a URL."""
    if not str(where):
        raise BadInput("no place was given for the prompt database", hint="set `uri` to a folder or an SQLAlchemy URL")
    if not _is_url(where):
        return (Path(where) / DATABASE).exists()
    with guarded(f"looking for a prompt database at {where}"):
        engine = sqlalchemy.create_engine(str(where), poolclass=sqlalchemy.NullPool)
        return bool(sqlalchemy.inspect(engine).has_table(ApdbTables.DiaObject.table_name()))


@contextmanager
def guarded(doing: str) -> Iterator[None]:
    """Run statements of the database library: silence its deprecations, rename its errors."""
    with warnings.catch_warnings():
        for category in (DeprecationWarning, PendingDeprecationWarning, FutureWarning):
            warnings.simplefilter("ignore", category)
        try:
            yield
        except (sqlalchemy.exc.SQLAlchemyError, pandas.errors.DatabaseError, sqlite3.Error, RuntimeError) as error:
            if isinstance(error, DatabaseFailed):
                raise
            cause = _root(error)
            raise DatabaseFailed(
                f"{doing} failed: {cause}",
                hint="nothing of this step was stored; it can be repeated",
                doing=doing,
                cause=type(cause).__name__,
            ) from error


def _root(error: BaseException) -> BaseException:
    """Find what the database itself said under the wrappings, which repeat statements and rows."""
    while (inner := error.__cause__ or getattr(error, "orig", None)) is not None:
        error = inner
    return error


def engine_of(apdb: ApdbSql) -> sqlalchemy.Engine:
    """Give the connection that the database library made, with its credentials and timeouts."""
    return apdb._engine


def sql_table(apdb: ApdbSql, table: ApdbTables, *columns: str) -> sqlalchemy.TableClause:
    """Name a table of the database and some of its columns, for statements of our own."""
    name = table.table_name(prefix=apdb.config.prefix)
    return sqlalchemy.table(name, *map(sqlalchemy.column, columns), schema=apdb.config.namespace)


def _is_url(where: str | Path) -> bool:
    return "://" in str(where)


def _sqlite_url(path: Path, mode: str) -> str:
    # as a URI inside the URL, so that blanks, '#' and '?' in folder names survive
    url = sqlalchemy.URL.create("sqlite", database=f"file:{quote(str(path))}", query={"mode": mode, "uri": "true"})
    return url.render_as_string(hide_password=False)


def _write_settings(folder: Path, settings: ApdbSqlConfig) -> None:
    draft = folder / f".{SETTINGS}.{uuid.uuid4().hex}.yaml"
    settings.model_copy(update={"db_url": _sqlite_url(folder / DATABASE, "rw")}).save(str(draft))
    draft.replace(folder / SETTINGS)
