"""How many datasets become the one argument a stage wants."""

from __future__ import annotations

from collections.abc import Sequence

from astropy.table import Table, vstack


def stack_shards(shards: Sequence[Table]) -> Table:
    """Put the pieces of a catalogue that was cut by sky position together again.

    Parameters
    ----------
    shards
        At least one table; all have the same columns.

    Returns
    -------
    Table
        All rows, in the order of the pieces; ``meta`` of the first piece.
    """
    if len(shards) == 1:
        return shards[0]
    return vstack(list(shards), join_type="exact", metadata_conflicts="silent")
