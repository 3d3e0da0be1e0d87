"""Linearity: from the signal that was read to the signal that light made."""

from __future__ import annotations

import numpy as np
from astropy.table import Table
from scipy.interpolate import CubicSpline

from nightlab.errors import BadInput
from nightlab.stages.single_frame.frame import Floats

POLYNOMIAL = ("amplifier", "power", "coefficient")
CURVE = ("amplifier", "signal", "deviation")


def linearize(signal: Floats, table: Table, amplifier: str) -> Floats:
    """Undo the non-linearity of one amplifier.

    Two kinds of table are understood. A polynomial has rows of ``power`` k >= 2 and ``coefficient`` c_k, and gives
    I + sum c_k I^k (the coefficient of a squared lineariser is c_2). A curve has rows of ``signal`` and ``deviation``
    [adu], read minus true, and gives I - s(I) with a cubic spline s through the points, constant beyond them (two or
    three points are joined by straight lines).

    Parameters
    ----------
    signal
        Signal of the amplifier without overscan and bias [adu], any shape.
    table
        Of all amplifiers of the detector.
    amplifier
        Name of the amplifier.

    Returns
    -------
    ndarray
        Linear signal [adu], of the same shape.

    Raises
    ------
    BadInput
        When the table is of neither kind, does not know the amplifier, has values that are not finite, or a curve
        whose signals do not rise.
    """
    kind = next((kind for kind in (POLYNOMIAL, CURVE) if set(kind) <= set(table.colnames)), None)
    if kind is None:
        raise BadInput(
            f"the linearity table has the columns {', '.join(table.colnames)}",
            hint=f"it needs {', '.join(POLYNOMIAL)}, or {', '.join(CURVE)}",
        )
    rows = table[np.asarray(table["amplifier"]).astype(str) == amplifier]
    first, second = (np.asarray(rows[name], float) for name in kind[1:])
    if not len(rows) or not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise BadInput(
            f"the linearity table has no finite values for amplifier {amplifier}",
            hint="use the table of this detector, or none",
            amplifier=amplifier,
        )
    if kind is POLYNOMIAL:
        if (first < 2).any():
            raise BadInput(
                "the linearity table has powers below 2, which are overscan level and gain",
                hint="give powers of 2 and more",
                found=float(first.min()),
                needed=2,
            )
        return signal + sum(c * signal**k for k, c in zip(first.astype(int), second, strict=True))
    if (np.diff(first) <= 0).any():
        raise BadInput(f"the signals of amplifier {amplifier} do not rise in the linearity table", hint="sort them")
    inside = np.clip(signal, first[0], first[-1])
    if first.size < 4:
        return signal - np.interp(inside, first, second)
    return signal - CubicSpline(first, second)(inside)
