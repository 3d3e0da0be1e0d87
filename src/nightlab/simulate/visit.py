"""The plan of the survey and the conditions of each visit: pointing, air, sky and point-spread function."""

from dataclasses import dataclass

import numpy as np
from astropy.time import Time

from nightlab.simulate.config import EXTINCTION, SKY_BRIGHTNESS, ZERO_POINTS, SurveyConfig, random_stream

_HALF_HOUR = 0.5 / 24.0


@dataclass(frozen=True, kw_only=True)
class Visit:
    """One exposure of the whole camera and the truth about it.

    Attributes
    ----------
    visit, index
        Its number, and its place in the plan.
    band, role
        Passband, and ``template`` or ``science``.
    mjd
        Middle of the exposure, MJD TAI [d].
    exposure_time
        Open-shutter time [s].
    day_obs, seq_num
        Night as yyyymmdd (days change at noon TAI), and running number within it.
    ra, dec, rotation
        Nominal boresight and position angle of the focal plane's y axis, as the header has them [deg].
    true_ra, true_dec, true_rotation
        The same, as they were [deg].
    airmass
        Of the field.
    seeing
        FWHM of the PSF at the boresight [arcsec].
    zero_point
        AB magnitude that gives one electron in this exposure [mag].
    sky
        Sky at the boresight [electron/pixel].
    sky_slope
        Relative change of the sky from boresight to the camera's corner along (x, y).
    psf_fwhm, psf_e1, psf_e2
        Coefficients of the PSF's shape over the field, see `psf_shape`.
    satellite
        Whether a satellite crosses.
    """

    visit: int
    index: int
    band: str
    role: str
    mjd: float
    exposure_time: float
    day_obs: int
    seq_num: int
    ra: float
    dec: float
    rotation: float
    true_ra: float
    true_dec: float
    true_rotation: float
    airmass: float
    seeing: float
    zero_point: float
    sky: float
    sky_slope: tuple[float, float]
    psf_fwhm: tuple[float, float, float]
    psf_e1: tuple[float, float, float]
    psf_e2: tuple[float, float, float]
    satellite: bool

    @property
    def electrons_per_njy(self) -> float:
        """Electrons that one nJy leaves in this exposure before the flat."""
        return float(10.0 ** (0.4 * (self.zero_point - 31.4)))


def plan_visits(config: SurveyConfig) -> tuple[Visit, ...]:
    """Plan all visits in time order: template nights first, then science nights.

    A night holds `visits_per_night` rounds through the bands, half an hour apart; the rotation differs from visit to
    visit, and so do seeing, airmass and sky.
    """
    slots: list[tuple[float, str, str, int]] = []
    for role, count, start in (
        ("template", config.n_template, 0.0),
        ("science", config.n_science, config.science_delay),
    ):
        for epoch in range(count):
            night, part = divmod(epoch, config.visits_per_night)
            for number, band in enumerate(config.bands):
                day = round(start + night * config.cadence)
                time = config.first_night + day + 0.15 + part * _HALF_HOUR + number * 90.0 / 86400.0
                slots.append((time, role, str(band), day))
    slots.sort()
    crossed = _satellite_visits(config, [(role, band) for _, role, band, _ in slots])
    visits: list[Visit] = []
    used: dict[int, int] = {}
    for index, (time, role, name, day) in enumerate(slots):
        used[day] = used.get(day, 0) + 1
        visits.append(_observe(config, index, time, role, name, (day, used[day]), index in crossed))
    return tuple(visits)


def _satellite_visits(config: SurveyConfig, slots: list[tuple[str, str]]) -> set[int]:
    crossed: set[int] = set()
    for number, band in enumerate(config.bands):
        candidates = [index for index, slot in enumerate(slots) if slot == ("science", band)]
        rng = random_stream(config, "visits", 1, number)
        count = min(config.n_satellites, len(candidates))
        if count:
            crossed.update(int(i) for i in rng.choice(candidates, count, replace=False))
    return crossed


def _observe(
    config: SurveyConfig, index: int, mjd: float, role: str, band: str, night: tuple[int, int], satellite: bool
) -> Visit:
    rng = random_stream(config, "visits", 0, index)
    day, sequence = night
    shift = config.dither / 3600.0 * np.sqrt(rng.uniform())
    towards, astray = rng.uniform(0.0, 2.0 * np.pi, 2)
    error = config.pointing_error / 3600.0 * rng.uniform(0.7, 1.3)
    cos_dec = np.cos(np.deg2rad(config.dec))
    dec = config.dec + shift * np.cos(towards)
    ra = (config.ra + shift * np.sin(towards) / cos_dec) % 360.0
    rotation = config.rotation_spread * rng.uniform(-1.0, 1.0)
    airmass = rng.uniform(1.0, 1.6)
    cloud = 0.03 * np.abs(rng.standard_normal())
    zero_point = ZERO_POINTS[band] + 2.5 * np.log10(config.exposure_time) - EXTINCTION[band] * airmass - cloud
    sky = config.pixel_scale**2 * 10.0 ** (-0.4 * (SKY_BRIGHTNESS[band] + rng.normal(0.0, 0.15) - zero_point))
    e1, e2 = config.psf_ellipticity * rng.normal(0.0, 0.5, 2)
    slope = config.psf_ellipticity * rng.normal(0.0, 0.5, 4)
    return Visit(
        visit=(day + 1) * 100 + sequence,
        index=index,
        band=band,
        role=role,
        mjd=mjd,
        exposure_time=config.exposure_time,
        day_obs=int(Time(np.floor(mjd - 0.5), format="mjd", scale="tai").strftime("%Y%m%d")),
        seq_num=sequence,
        ra=float(ra),
        dec=float(dec),
        rotation=float(rotation),
        true_ra=float((ra + error * np.sin(astray) / cos_dec) % 360.0),
        true_dec=float(dec + error * np.cos(astray)),
        true_rotation=float(rotation + rng.normal(0.0, 0.01)),
        airmass=float(airmass),
        seeing=float(rng.uniform(config.seeing_best, config.seeing_worst)),
        zero_point=float(zero_point),
        sky=float(sky),
        sky_slope=(float(rng.normal(0.0, 0.01)), float(rng.normal(0.0, 0.01))),
        psf_fwhm=(float(config.psf_variation * rng.uniform(0.5, 1.0)), *_pair(rng, 0.3 * config.psf_variation)),
        psf_e1=(float(e1), float(slope[0]), float(slope[1])),
        psf_e2=(float(e2), float(slope[2]), float(slope[3])),
        satellite=satellite,
    )


def _pair(rng: np.random.Generator, width: float) -> tuple[float, float]:
    a, b = rng.normal(0.0, width, 2)
    return float(a), float(b)
