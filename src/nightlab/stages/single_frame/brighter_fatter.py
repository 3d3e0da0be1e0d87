"""Brighter-fatter effect: charge that is already there pushes away what comes after it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nightlab.errors import BadInput
from nightlab.stages.single_frame.frame import Bools, Floats

MAX_ITERATIONS = 10
STOP = 1000.0  # summed change at which the iteration has converged [electron]


def remove_brighter_fatter(electrons: Floats, kernel: NDArray[np.float64], usable: Bools) -> Floats:
    """Put the charge back where the light fell.

    The potential of the collected charge is K * I; half of its gradient has pushed at the charge while it came in.
    I_true = I + div(I grad(K * I)) / 2 is solved by iteration. The flow is computed through the borders of pixels,
    so charge is moved and none is made.

    Parameters
    ----------
    electrons
        (ny, nx) charge, before dark and flat [electron].
    kernel
        (k, k) with k odd, as the pipelines of Rubin and HSC use it [1/electron]; negative in the middle.
    usable
        Pixels whose charge is known; others count as having their neighbours' potential and take part in no flow.

    Returns
    -------
    ndarray
        Charge [electron].

    Raises
    ------
    BadInput
        When the kernel is not square, odd and finite, or the iteration runs away.

    References
    ----------
    Coulton et al. 2018, AJ 155, 258; Antilogus et al. 2014, JINST 9, C03048.
    """
    from scipy.signal import oaconvolve  # takes a second to import, and few frames have a kernel

    if kernel.ndim != 2 or kernel.shape[0] != kernel.shape[1] or kernel.shape[0] % 2 == 0:
        raise BadInput(
            f"the brighter-fatter kernel has the shape {kernel.shape}",
            hint="it must be square with an odd number of rows",
            found=kernel.shape,
        )
    if not np.isfinite(kernel).all():
        raise BadInput("the brighter-fatter kernel has values that are not finite", hint="measure it again")
    level = float(np.median(electrons[usable])) if usable.any() else 0.0
    seen = np.where(usable, electrons, level)
    true, change = seen, np.inf
    for _ in range(MAX_ITERATIONS):
        # a constant level pushes nothing; without it the borders of the frame are quiet
        potential = oaconvolve(true - level, kernel, mode="same")
        moved = seen + 0.5 * _divergence(true, potential, usable)
        last, change = change, float(np.abs(moved - true).sum())
        true = moved
        if change < STOP:
            break
        if not change < 10.0 * last:
            raise BadInput(
                "the brighter-fatter correction runs away",
                hint="check that the kernel is in 1/electron and the image in electrons",
                found=change,
            )
    return np.where(usable, true, electrons)


def _divergence(charge: Floats, potential: Floats, usable: Bools) -> Floats:
    """Give div(I grad U) with the flow through every border between two usable pixels."""
    out = np.zeros_like(charge)
    for low, high in (
        ((slice(None, -1), slice(None)), (slice(1, None), slice(None))),
        ((slice(None), slice(None, -1)), (slice(None), slice(1, None))),
    ):
        flow = 0.5 * (charge[low] + charge[high]) * (potential[high] - potential[low])
        flow *= usable[low] & usable[high]
        out[low] += flow
        out[high] -= flow
    return out
