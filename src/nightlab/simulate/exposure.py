"""One exposure of one detector: the light that is expected, what is in it, and the raw frame that comes out."""

from dataclasses import dataclass

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from nightlab.simulate.camera import Chip, read_out
from nightlab.simulate.config import SurveyConfig, random_stream
from nightlab.simulate.optics import MOFFAT_BETA, cd_matrix, moffat_radius, psf_shape, radec_to_pixel
from nightlab.simulate.pixels import cosmic_rays, draw_galaxies, draw_stars, satellite_trail
from nightlab.simulate.sky import fluxes_at, positions_at
from nightlab.simulate.visit import Visit

Floats = NDArray[np.float64]

_MARGIN = 40.0  # pixels beyond the edge from which an object's light still matters
_TRAIL_STEPS = 9


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What one detector is expected to collect before its flat, and the truth about it.

    Attributes
    ----------
    electrons
        (ny, nx) noiseless expectation on the assembled grid, sky included [electron].
    sources
        One row per object whose true position is on the detector: objectId, kind, x, y [pixel], ra, dec [deg], flux
        [nJy], pixelVariance (of what lies under the object, read noise included) [nJy^2], fwhm [pixel].
    """

    electrons: Floats
    sources: Table


def observe(visit: Visit, chip: Chip, sky: Table, config: SurveyConfig) -> Scene:
    """Draw the sky as one detector sees it during one visit, without noise.

    Parameters
    ----------
    visit, chip
        The conditions and the detector.
    sky
        As `make_sky` gives it.
    config
        Pixel scale, distortion and PSF.
    """
    ra, dec = positions_at(sky, visit.mjd)
    x, y = radec_to_pixel(visit, chip, config, ra, dec)
    ny, nx = chip.bbox.shape
    with np.errstate(invalid="ignore"):
        near = (x > -_MARGIN) & (x < nx + _MARGIN) & (y > -_MARGIN) & (y < ny + _MARGIN)
    sky, ra, dec, x, y = sky[near], ra[near], dec[near], x[near], y[near]
    flux = fluxes_at(sky, visit.band, visit.mjd)
    kind = np.asarray(sky["kind"])
    fwhm, e1, e2 = psf_shape(visit, chip, config, x, y)

    electrons = _sky_background(visit, chip, config)
    light = flux * visit.electrons_per_njy
    galaxy, mover = kind == "galaxy", kind == "mover"
    still = ~galaxy & ~mover & (flux > 0)
    draw_stars(electrons, x[still], y[still], light[still], fwhm[still], e1[still], e2[still])
    _draw_galaxies(electrons, sky[galaxy], x[galaxy], y[galaxy], light[galaxy], (fwhm, e1, e2), galaxy, visit, config)
    _draw_movers(electrons, sky[mover], light[mover], (fwhm[mover], e1[mover], e2[mover]), visit, chip, config)

    inside = (x >= -0.5) & (x < nx - 0.5) & (y >= -0.5) & (y < ny - 0.5)
    own = np.where(galaxy, 0.0, light * (MOFFAT_BETA - 1.0) / (np.pi * moffat_radius(fwhm) ** 2))
    under = electrons[np.rint(y[inside]).astype(int), np.rint(x[inside]).astype(int)] - own[inside]
    read_noise = float(np.mean([amplifier.nominal_calibrations.read_noise for amplifier in chip.amplifiers]))
    # a bright star's own profile, sampled at its centre, exceeds its pixel's mean: never less than the sky itself
    variance = np.maximum(under, visit.sky) + read_noise**2
    sources = Table(
        {
            "objectId": np.asarray(sky["objectId"])[inside],
            "kind": kind[inside],
            "x": x[inside],
            "y": y[inside],
            "ra": ra[inside],
            "dec": dec[inside],
            "flux": flux[inside],
            "pixelVariance": variance / visit.electrons_per_njy**2,
            "fwhm": fwhm[inside],
        },
        units={
            "x": "pix",
            "y": "pix",
            "ra": "deg",
            "dec": "deg",
            "flux": "nJy",
            "pixelVariance": "nJy2",
            "fwhm": "pix",
        },
    )
    return Scene(electrons=electrons, sources=sources)


def expose(
    scene: Scene, visit: Visit, chip: Chip, flat: Floats, bias: Floats, config: SurveyConfig
) -> NDArray[np.uint16]:
    """Take the exposure: satellite, flat, photon noise, cosmic rays and readout.

    Parameters
    ----------
    scene
        The expected light.
    visit, chip
        Whose random numbers and electronics are used.
    flat, bias
        (ny, nx) true response and fixed pattern [adu].
    config
        Rates, full well, seed.

    Returns
    -------
    numpy.ndarray
        The raw frame [adu].
    """
    rng = random_stream(config, "exposure", visit.index, chip.detector)
    expected = scene.electrons
    if visit.satellite:
        expected = expected + _trail(visit, chip, config)
    collected = rng.poisson(expected * flat).astype(np.float64)
    n_rays = rng.poisson(config.cosmic_rays * collected.size / 1.0e6)
    collected += cosmic_rays(collected.shape, n_rays, rng)
    return read_out(collected, chip, bias, config, rng)


def _sky_background(visit: Visit, chip: Chip, config: SurveyConfig) -> Floats:
    ny, nx = chip.bbox.shape
    u, v = (np.arange(nx) + chip.x0) / config.radius, (np.arange(ny) + chip.y0) / config.radius
    slope_x, slope_y = visit.sky_slope
    return np.asarray(visit.sky * (1.0 + slope_x * u[None, :] + slope_y * v[:, None]), np.float64)


def _draw_galaxies(
    electrons: Floats,
    galaxies: Table,
    x: Floats,
    y: Floats,
    light: Floats,
    psf: tuple[Floats, Floats, Floats],
    members: NDArray[np.bool_],
    visit: Visit,
    config: SurveyConfig,
) -> None:
    if len(galaxies) == 0:
        return
    angle, ratio = np.deg2rad(np.asarray(galaxies["positionAngle"])), np.asarray(galaxies["axisRatio"])
    major = np.stack([np.sin(angle), np.cos(angle)], -1)  # east, north
    minor = np.stack([-np.cos(angle), np.sin(angle)], -1)
    circle_to_sky = np.stack([major, minor * ratio[:, None]], -1)
    circle_to_pixel = np.linalg.inv(cd_matrix(config.pixel_scale, visit.true_rotation)) @ circle_to_sky
    draw_galaxies(
        electrons,
        x,
        y,
        light,
        np.asarray(galaxies["bulgeFraction"]),
        circle_to_pixel * np.asarray(galaxies["bulgeRadius"])[:, None, None],
        circle_to_pixel * np.asarray(galaxies["diskRadius"])[:, None, None],
        *(value[members] for value in psf),
    )


def _draw_movers(
    electrons: Floats,
    movers: Table,
    light: Floats,
    psf: tuple[Floats, Floats, Floats],
    visit: Visit,
    chip: Chip,
    config: SurveyConfig,
) -> None:
    """Draw each mover at several instants of the exposure, so that it trails as far as it moves."""
    for part in (np.arange(_TRAIL_STEPS) - _TRAIL_STEPS // 2) / _TRAIL_STEPS:
        ra, dec = positions_at(movers, visit.mjd + part * visit.exposure_time / 86400.0)
        x, y = radec_to_pixel(visit, chip, config, ra, dec)
        draw_stars(electrons, x, y, light / _TRAIL_STEPS, *psf)


def _trail(visit: Visit, chip: Chip, config: SurveyConfig) -> Floats:
    """Draw the satellite, on one line through the whole camera: all detectors share its random numbers."""
    rng = random_stream(config, "exposure", visit.index, config.n_detectors)
    half_y, half_x = config.half_size
    u, v = rng.uniform(-0.4, 0.4) * half_x, rng.uniform(-0.4, 0.4) * half_y
    angle = rng.uniform(0.0, np.pi)
    # as bright as ten times the sky noise on its crest
    fwhm = visit.seeing / config.pixel_scale
    brightness = rng.uniform(8.0, 25.0) * np.sqrt(visit.sky) * fwhm
    return satellite_trail(chip.bbox.shape, u - chip.x0, v - chip.y0, angle, brightness, fwhm)
