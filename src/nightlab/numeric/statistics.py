"""Statistics that a few wild values cannot spoil, and how much a fit may ask of few."""

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import gammainc


def robust_width(values: ArrayLike) -> float:
    """Give 1.4826 times the median absolute deviation of (n,) values: sigma for a Gaussian, NaN for no value."""
    values = np.asarray(values)
    if not values.size:
        return float("nan")
    return 1.4826 * float(np.median(np.abs(values - np.median(values))))


def chance_of(n: int, expected: float) -> float:
    """Probability of `n` or more events where `expected` are, by Poisson's law."""
    return float(gammainc(n, expected)) if n > 0 else 1.0


def affordable_degree(degree: int, n: int, per_term: float) -> int:
    """Lower the total degree of a polynomial in x and y until there are `per_term` of `n` values for each term."""
    while degree > 0 and n < per_term * (degree + 1) * (degree + 2) / 2:
        degree -= 1
    return degree
