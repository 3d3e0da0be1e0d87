"""Crosstalk: the faint ghosts that one amplifier's signal leaves in the others, read at the same moment."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from astropy.table import Table

from nightlab.errors import BadInput, ShapeError
from nightlab.stages.single_frame.frame import Floats

COLUMNS = ("victim", "source", "linear")


def crosstalk_matrices(table: Table, names: Sequence[str]) -> tuple[Floats, Floats]:
    """Lay the coefficients of a table out as matrices.

    Parameters
    ----------
    table
        Rows of ``victim`` and ``source`` (names of amplifiers), ``linear`` and optionally ``quadratic`` [1/adu]
        coefficients; pairs that are absent have none.
    names
        Amplifiers in the order wanted.

    Returns
    -------
    tuple of ndarray
        (n, n) linear and quadratic coefficients, victim along the first axis.

    Raises
    ------
    BadInput
        When a column is missing, an amplifier is unknown, or a coefficient is not finite.
    """
    missing = [name for name in COLUMNS if name not in table.colnames]
    if missing:
        raise BadInput(
            f"the crosstalk table lacks {', '.join(missing)}",
            hint=f"it has {', '.join(table.colnames)}",
            found=missing,
        )
    index = {name: k for k, name in enumerate(names)}
    unknown = sorted({str(name) for c in ("victim", "source") for name in table[c]} - set(index))
    if unknown:
        raise BadInput(
            f"the crosstalk table names the amplifiers {', '.join(unknown)}, which the detector does not have",
            hint=f"it has {', '.join(names)}; is this the table of another detector?",
            found=unknown,
        )
    victim, source = ([index[str(name)] for name in table[column]] for column in ("victim", "source"))
    matrices = []
    for column in ("linear", "quadratic"):
        matrix = np.zeros((len(names), len(names)))
        if column in table.colnames:
            matrix[victim, source] = np.asarray(table[column], float)
        if not np.isfinite(matrix).all():
            raise BadInput(f"a {column} crosstalk coefficient is not finite", hint="mend the table")
        matrices.append(matrix)
    return matrices[0], matrices[1]


def remove_crosstalk(sections: Sequence[Floats], linear: Floats, quadratic: Floats) -> list[Floats]:
    """Take the ghosts of all amplifiers off each other: I_a - sum_b (c_ab I_b + d_ab I_b^2).

    One pass suffices: what a pass leaves is of second order in coefficients of a few 1e-4.

    Parameters
    ----------
    sections
        (ny, nx) data sections in readout order, without their overscan level [adu]. Pixels that are not finite leave
        no ghost.
    linear, quadratic
        (n, n) coefficients, victim along the first axis; the quadratic ones [1/adu].

    Returns
    -------
    list of ndarray
        The sections without ghosts.

    Raises
    ------
    ShapeError
        When the sections differ in shape: their pixels are then not read at the same moments.
    """
    shapes = {section.shape for section in sections}
    if len(shapes) > 1:
        raise ShapeError(
            "crosstalk needs amplifiers of one shape, which are read in step",
            hint="leave the crosstalk table out for this camera",
            found=tuple(sorted(shapes)),
            needed=sections[0].shape,
        )
    signal = np.nan_to_num(np.stack([section.ravel() for section in sections]), nan=0.0, posinf=0.0, neginf=0.0)
    ghosts = linear @ signal
    if quadratic.any():
        ghosts += quadratic @ signal**2
    return [section - ghost.reshape(section.shape) for section, ghost in zip(sections, ghosts, strict=True)]
