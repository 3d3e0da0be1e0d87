"""Tables of sources and objects to explore, made up."""

import astropy.units as u
import numpy as np
from astropy.table import Table

BIG = 2**60 + 1  # an id that JavaScript's numbers cannot hold


def some_sources(n_objects=4, epochs=3, seed=1):
    """Sources of a few objects around RA 0, in g and r; the first object is a fading one, the last is flagged."""
    rng = np.random.default_rng(seed)
    n = n_objects * epochs
    which = np.repeat(np.arange(n_objects), epochs)
    epoch = np.tile(np.arange(epochs), n_objects)
    flux = 5000.0 - 2000.0 * epoch + 100.0 * which
    return Table(
        {
            "diaSourceId": BIG + 1000 + np.arange(n),
            "diaObjectId": BIG + which,
            "visit": 100 + epoch,
            "detector": np.zeros(n, dtype=int),
            "band": np.where(epoch % 2 == 0, "g", "r"),
            "midpointMjdTai": (60000.0 + epoch) * u.d,
            "ra": (359.9 + 0.05 * which + rng.normal(0, 1e-6, n)) % 360 * u.deg,
            "dec": (1.0 + 0.01 * which) * u.deg,
            "x": 100.0 + 10 * which,
            "y": 200.0 + 10 * which,
            "psfFlux": flux * u.nJy,
            "psfFluxErr": np.full(n, 100.0) * u.nJy,
            "scienceFlux": (flux + 20000.0) * u.nJy,
            "scienceFluxErr": np.full(n, 120.0) * u.nJy,
            "snr": np.abs(flux) / 100.0,
            "pixelFlags_saturated": which == n_objects - 1,
            "isDipole": np.zeros(n, dtype=bool),
            "isNegative": flux < 0,
        }
    )


def many_sources(n=1_000_000, seed=2):
    """As many sources as a survey's first nights give, two of each object."""
    rng = np.random.default_rng(seed)
    return Table(
        {
            "diaSourceId": BIG + np.arange(n),
            "diaObjectId": BIG + np.arange(n) // 2,
            "visit": rng.integers(1, 500, n),
            "detector": rng.integers(0, 189, n),
            "band": rng.choice(list("ugrizy"), n),
            "midpointMjdTai": rng.uniform(61000, 61300, n),
            "ra": rng.uniform(50, 70, n),
            "dec": rng.uniform(-40, -25, n),
            "psfFlux": rng.normal(0, 5000, n),
            "psfFluxErr": np.full(n, 500.0),
            "snr": rng.exponential(10, n) + 5,
            "pixelFlags_bad": rng.random(n) < 0.1,
        }
    )
