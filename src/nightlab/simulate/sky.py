"""What is in the simulated sky: stars, variables, galaxies, transients and movers, in one table."""

from collections.abc import Sequence

import numpy as np
from astropy.table import Table, vstack
from numpy.typing import NDArray

from nightlab.simulate.config import SurveyConfig, random_stream
from nightlab.simulate.optics import from_tangent_plane, tangent_plane
from nightlab.simulate.visit import Visit

Floats = NDArray[np.float64]

JULIAN_YEAR = 365.25
KINDS = ("star", "variable", "galaxy", "transient", "mover")

_UNITS = {
    "ra": "deg",
    "dec": "deg",
    "epoch": "d",
    "pmRa": "mas/yr",
    "pmDec": "mas/yr",
    "amplitude": "mag",
    "period": "d",
    "startMjd": "d",
    "riseTime": "d",
    "declineTime": "d",
    "bulgeRadius": "arcsec",
    "diskRadius": "arcsec",
    "positionAngle": "deg",
}


def make_sky(config: SurveyConfig, visits: Sequence[Visit]) -> Table:
    """Populate the field.

    Parameters
    ----------
    config
        Densities, magnitudes and seed.
    visits
        The plan, since transients must explode after the template and movers must cross the field while it is seen.

    Returns
    -------
    astropy.table.Table
        One row per object: objectId, kind (one of `KINDS`), ra, dec [deg] at `epoch` [MJD TAI], pmRa (with cos dec)
        and pmDec [mas/yr], <band>_mag (mean of a star or variable, peak of a transient), and what only some have, NaN
        elsewhere: amplitude, period, phase; startMjd, riseTime, declineTime, hostId (0: none); bulgeFraction,
        bulgeRadius, diskRadius (half light), axisRatio, positionAngle (north through east).
    """
    galaxies = _galaxies(config)
    tables = [
        _stars(config),
        _variables(config),
        galaxies,
        _transients(config, visits, galaxies),
        _movers(config, visits),
    ]
    sky = vstack([table for table in tables if len(table)], metadata_conflicts="silent")
    for name in sky.colnames:
        if isinstance(sky[name], np.ma.MaskedArray):
            sky[name] = sky[name].filled(0 if name == "hostId" else np.nan)
    sky = Table({name: np.asarray(sky[name]) for name in sky.colnames})
    for name, unit in _UNITS.items():
        if name in sky.colnames:
            sky[name].unit = unit
    for band in config.bands:
        sky[f"{band}_mag"].unit = "mag"
    return sky


def positions_at(sky: Table, mjd: float) -> tuple[Floats, Floats]:
    """Give ra, dec [deg] of every object at a date [MJD TAI], proper motion applied."""
    years = (mjd - np.asarray(sky["epoch"])) / JULIAN_YEAR
    dec = np.asarray(sky["dec"])
    ra = np.asarray(sky["ra"]) + years * np.asarray(sky["pmRa"]) / 3.6e6 / np.cos(np.deg2rad(dec))
    return ra % 360.0, np.clip(dec + years * np.asarray(sky["pmDec"]) / 3.6e6, -89.9, 89.9)


def fluxes_at(sky: Table, band: str, mjd: float) -> Floats:
    """Give the flux of every object in a band at a date [nJy], light curves applied."""
    kind = np.asarray(sky["kind"])
    flux = 10.0 ** (-0.4 * (np.asarray(sky[f"{band}_mag"]) - 31.4))
    variable = kind == "variable"
    if variable.any():
        turn = 2.0 * np.pi * (mjd / np.asarray(sky["period"])[variable] + np.asarray(sky["phase"])[variable])
        # a sharp rise and a slow decline, as pulsating stars have; the mean over a period is close to zero
        wave = (np.sin(turn) + 0.4 * np.sin(2.0 * turn)) / 1.3
        flux[variable] *= 10.0 ** (-0.4 * 0.5 * np.asarray(sky["amplitude"])[variable] * wave)
    transient = kind == "transient"
    if transient.any():
        flux[transient] *= _light_curve(sky[transient], mjd)
    return flux


def _light_curve(transients: Table, mjd: float) -> Floats:
    age = mjd - np.asarray(transients["startMjd"])
    rise, decline = np.asarray(transients["riseTime"]), np.asarray(transients["declineTime"])
    rising = np.clip(age / rise, 0.0, 1.0) ** 1.5
    return np.asarray(rising * np.exp(-np.clip(age - rise, 0.0, None) / decline), np.float64)


def _magnitudes(config: SurveyConfig, r: Floats, colour: Floats) -> dict[str, Floats]:
    """Spread an r magnitude over the bands along a one-parameter locus, with g - r = `colour`."""
    red = np.clip(colour - 1.1, 0.0, None)
    r_i = 0.38 * colour + 1.5 * red
    offsets = {
        "u": 0.75 + 2.1 * colour,
        "g": colour,
        "r": np.zeros_like(colour),
        "i": -r_i,
        "z": -1.5 * r_i,
        "y": -1.7 * r_i,
    }
    return {f"{band}_mag": r + offsets[band] for band in config.bands}


def _power_law(rng: np.random.Generator, n: int, bright: float, faint: float, slope: float) -> Floats:
    """Draw magnitudes whose cumulative counts grow as 10^(slope m)."""
    low, high = 10.0 ** (slope * bright), 10.0 ** (slope * faint)
    return np.asarray(np.log10(rng.uniform(low, high, n)) / slope, np.float64)


def _everywhere(config: SurveyConfig, rng: np.random.Generator, density: float) -> tuple[Floats, Floats]:
    """Scatter objects [arcmin^-2] over a disk that no dither, rotation or stamp can leave."""
    radius = (config.radius + 40.0) * config.pixel_scale + config.dither
    n = rng.poisson(density * np.pi * (radius / 60.0) ** 2)
    distance, angle = radius * np.sqrt(rng.uniform(size=n)), rng.uniform(0.0, 2.0 * np.pi, n)
    return from_tangent_plane(distance * np.cos(angle), distance * np.sin(angle), config.ra, config.dec)


def _inner_half(config: SurveyConfig) -> tuple[float, float]:
    """Half extent (east, north) of the rectangle that every visit sees [arcsec]."""
    half_y, half_x = (half * config.pixel_scale for half in config.half_size)
    turn = np.deg2rad(config.rotation_spread)
    lost = 0.75 * config.dither + 6.0
    east, north = half_x - half_y * np.sin(turn) - lost, half_y - half_x * np.sin(turn) - lost
    return max(float(east), 0.3 * half_x), max(float(north), 0.3 * half_y)


def _inside(config: SurveyConfig, rng: np.random.Generator, n: int) -> tuple[Floats, Floats]:
    east, north = _inner_half(config)
    return from_tangent_plane(rng.uniform(-east, east, n), rng.uniform(-north, north, n), config.ra, config.dec)


def _ids(kind: str, n: int) -> dict[str, NDArray]:
    first = KINDS.index(kind) * 1_000_000_000 + 1
    return {"objectId": np.arange(first, first + n, dtype=np.int64), "kind": np.full(n, kind, dtype="U9")}


def _proper_motions(rng: np.random.Generator, n: int) -> dict[str, Floats]:
    motion = rng.normal(0.0, 5.0, (2, n))
    fast = rng.uniform(size=n) < 0.01
    speed, angle = rng.uniform(60.0, 400.0, n), rng.uniform(0.0, 2.0 * np.pi, n)
    motion = np.where(fast, speed * np.stack([np.sin(angle), np.cos(angle)]), motion)
    return {"pmRa": motion[0], "pmDec": motion[1]}


def _still(epoch: float, n: int) -> dict[str, Floats]:
    return {"epoch": np.full(n, epoch), "pmRa": np.zeros(n), "pmDec": np.zeros(n)}


def _stars(config: SurveyConfig) -> Table:
    rng = random_stream(config, "stars")
    ra, dec = _everywhere(config, rng, config.star_density)
    n = len(ra)
    r = _power_law(rng, n, config.star_bright, config.star_faint, 0.2)
    colour = np.where(rng.uniform(size=n) < 0.5, rng.normal(0.5, 0.12, n), rng.normal(1.35, 0.1, n))
    epoch = np.full(n, config.reference_epoch)
    return Table(
        {
            **_ids("star", n),
            "ra": ra,
            "dec": dec,
            "epoch": epoch,
            **_proper_motions(rng, n),
            **_magnitudes(config, r, colour),
        }
    )


def _variables(config: SurveyConfig) -> Table:
    rng = random_stream(config, "variables")
    n = config.n_variables
    ra, dec = _inside(config, rng, n)
    columns = {
        **_ids("variable", n),
        "ra": ra,
        "dec": dec,
        "epoch": np.full(n, config.reference_epoch),
        **_proper_motions(rng, n),
        **_magnitudes(config, rng.uniform(17.5, 21.5, n), rng.normal(0.4, 0.15, n)),
        "amplitude": rng.uniform(0.2, 1.0, n),
        "period": 10.0 ** rng.uniform(-0.4, 1.7, n),
        "phase": rng.uniform(size=n),
    }
    return Table(columns)


def _galaxies(config: SurveyConfig) -> Table:
    rng = random_stream(config, "galaxies")
    ra, dec = _everywhere(config, rng, config.galaxy_density)
    n = len(ra)
    r = _power_law(rng, n, config.galaxy_bright, config.galaxy_faint, 0.35)
    size = np.clip(1.2 * 10.0 ** (-0.12 * (r - 20.0) + rng.normal(0.0, 0.15, n)), 0.1, 3.5)
    columns = {
        **_ids("galaxy", n),
        "ra": ra,
        "dec": dec,
        **_still(config.reference_epoch, n),
        **_magnitudes(config, r, rng.normal(0.7, 0.25, n)),
        "bulgeFraction": np.clip(rng.normal(0.25, 0.25, n), 0.0, 1.0),
        "bulgeRadius": 0.5 * size,
        "diskRadius": size,
        "axisRatio": rng.uniform(0.25, 1.0, n),
        "positionAngle": rng.uniform(0.0, 180.0, n),
    }
    return Table(columns)


def _transients(config: SurveyConfig, visits: Sequence[Visit], galaxies: Table) -> Table:
    rng = random_stream(config, "transients")
    n = config.n_transients
    ra, dec = _inside(config, rng, n)
    template = max(visit.mjd for visit in visits if visit.role == "template")
    science = sorted(visit.mjd for visit in visits if visit.role == "science") or [template + config.science_delay]
    rise = rng.uniform(3.0, 15.0, n)
    latest = science[len(science) // 2] - 0.8 * rise  # bright for the second half of the season at least
    start = template + 0.5 + (latest - template - 0.5) * rng.uniform(0.4, 1.0, n)
    columns = {
        **_ids("transient", n),
        "ra": ra,
        "dec": dec,
        **_still(config.reference_epoch, n),
        **_magnitudes(
            config, rng.uniform(config.transient_bright, config.transient_faint, n), rng.normal(0.2, 0.3, n)
        ),
        "startMjd": np.maximum(start, template + 0.5),
        "riseTime": rise,
        "declineTime": rng.uniform(15.0, 60.0, n),
        "hostId": np.zeros(n, np.int64),
    }
    transients = Table(columns)
    _settle(config, rng, transients, galaxies)
    return transients


def _settle(config: SurveyConfig, rng: np.random.Generator, transients: Table, galaxies: Table) -> None:
    """Move a fraction of freshly made transients onto galaxies, within about a half-light radius."""
    east, north = tangent_plane(galaxies["ra"], galaxies["dec"], config.ra, config.dec)
    limit = _inner_half(config)
    r = np.asarray(galaxies[f"{config.bands[0]}_mag"])
    hosts = np.flatnonzero((np.abs(east) < limit[0]) & (np.abs(north) < limit[1]) & (r < 23.5))
    chosen = np.flatnonzero(rng.uniform(size=len(transients)) < config.hosted) if hosts.size else np.empty(0, np.int64)
    host = rng.choice(hosts, chosen.size, replace=chosen.size > hosts.size) if chosen.size else chosen
    distance = np.asarray(galaxies["diskRadius"])[host] * np.abs(rng.normal(0.0, 0.7, chosen.size))
    angle = rng.uniform(0.0, 2.0 * np.pi, chosen.size)
    ra, dec = from_tangent_plane(
        east[host] + distance * np.sin(angle), north[host] + distance * np.cos(angle), config.ra, config.dec
    )
    transients["ra"][chosen], transients["dec"][chosen] = ra, dec
    transients["hostId"][chosen] = np.asarray(galaxies["objectId"])[host]


def _movers(config: SurveyConfig, visits: Sequence[Visit]) -> Table:
    rng = random_stream(config, "movers")
    n = config.n_movers
    science = [visit.mjd for visit in visits if visit.role == "science"] or [visit.mjd for visit in visits]
    dates = np.array(science)[np.arange(n) % len(science)]
    template = [visit.mjd for visit in visits if visit.role == "template"]
    dates[9::10] = template[0]  # one in ten gets into a template visit, where a good coadd clips it
    ra, dec = _inside(config, rng, n)
    rate = config.mover_rate * rng.uniform(0.15, 1.0, n)  # arcsec per hour
    direction = np.deg2rad(rng.normal(-70.0, 15.0, n))  # near opposition everything runs westward along the ecliptic
    speed = rate * 1000.0 * 24.0 * JULIAN_YEAR
    columns = {
        **_ids("mover", n),
        "ra": ra,
        "dec": dec,
        "epoch": dates,
        "pmRa": speed * np.sin(direction),
        "pmDec": speed * np.cos(direction),
        **_magnitudes(config, rng.uniform(19.0, 22.3, n), rng.normal(0.6, 0.1, n)),
    }
    return Table(columns)
