"""Statistics that a few wild values cannot spoil."""

import numpy as np
from numpy.typing import ArrayLike


def robust_width(values: ArrayLike) -> float:
    """Give 1.4826 times the median absolute deviation of (n,) values: sigma for a Gaussian, NaN for no value."""
    values = np.asarray(values)
    if not values.size:
        return float("nan")
    return 1.4826 * float(np.median(np.abs(values - np.median(values))))
