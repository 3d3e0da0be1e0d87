"""The prompt database: what Rubin keeps of every visit within a minute of it, in one SQLite file or a server.

The database is `lsst-dax-apdb` with its own schema; beside its tables we keep a log of the visits that were stored.
"""

from nightlab.data.apdb.connect import create_apdb, open_apdb
from nightlab.data.apdb.fill import ApdbConfig, ApdbFill, fill_apdb
from nightlab.data.apdb.log import read_log
from nightlab.data.apdb.read import forced_light_curve, light_curve, read_objects

__all__ = [
    "ApdbConfig",
    "ApdbFill",
    "create_apdb",
    "fill_apdb",
    "forced_light_curve",
    "light_curve",
    "open_apdb",
    "read_log",
    "read_objects",
]
