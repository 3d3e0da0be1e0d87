"""Small pairs of frames in memory, for trying out one stage without a survey."""

from dataclasses import dataclass

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from nightlab.errors import BadInput
from nightlab.simulate.pixels import draw_gaussians

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A science frame and a template on one grid, with truth.

    Attributes
    ----------
    science, template
        (ny, nx) pixels, sky subtracted.
    science_variance, template_variance
        (ny, nx) variances of the pixels: sky, read noise and the photons of the sources.
    science_sigma, template_sigma
        Width of the circular Gaussian PSFs [pixel], before integration over the pixels.
    stars
        x, y [pixel], flux, in both frames.
    transients
        x, y [pixel], flux (negative where the source is only in the template), snr (of the
        difference of the PSF fluxes in the two frames).
    """

    science: Floats
    template: Floats
    science_variance: Floats
    template_variance: Floats
    science_sigma: float
    template_sigma: float
    stars: Table
    transients: Table


def small_pair(
    seed: int = 1,
    *,
    size: int = 256,
    n_stars: int = 60,
    n_transients: int = 12,
    science_sigma: float = 1.8,
    template_sigma: float = 1.4,
    science_noise: float = 20.0,
    template_noise: float = 10.0,
    shift: tuple[float, float] = (0.0, 0.0),
    noise: bool = True,
) -> Pair:
    """Draw a science frame and a template of the same stars, and transients in one of them.

    Parameters
    ----------
    seed
        Of positions, fluxes and noise.
    size
        Rows and columns [pixel].
    n_stars, n_transients
        How many; stars keep 8 sigma away from the edge and from one another where that is possible, transients 20
        pixels from the edge. Every sixth transient is in the template only.
    science_sigma, template_sigma
        Widths of the PSFs [pixel].
    science_noise, template_noise
        Standard deviation of the sky pixels.
    shift
        How far (x, y) the template's stars lie from those of the science frame [pixel].
    noise
        Whether to add noise; the variances are the same without it.

    Raises
    ------
    BadInput
        When the frame is smaller than 64 pixels.
    """
    if size < 64:
        raise BadInput(f"a pair of {size} pixels is too small", hint="64 pixels or more", size=size)
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(size,)))
    margin = 8.0 * max(science_sigma, template_sigma)
    x, y = _apart(rng, n_stars, size, margin)
    flux = 10.0 ** rng.uniform(3.3, 5.3, n_stars)
    u, v = rng.uniform(20.0, size - 21.0, (2, n_transients))
    area = 4.0 * np.pi * (science_noise**2 * science_sigma**2 + template_noise**2 * template_sigma**2)
    new = np.sqrt(area) * rng.uniform(8.0, 40.0, n_transients)
    old = np.arange(n_transients) % 6 == 5

    frames = []
    for sigma, sky, move, present in (
        (science_sigma, science_noise, (0.0, 0.0), ~old),
        (template_sigma, template_noise, shift, old),
    ):
        light = np.zeros((size, size))
        draw_gaussians(light, x + move[0], y + move[1], flux, np.full(n_stars, sigma))
        draw_gaussians(light, u[present] + move[0], v[present] + move[1], new[present], np.full(present.sum(), sigma))
        variance = sky**2 + light
        frames.append((light + np.sqrt(variance) * rng.standard_normal(light.shape) * noise, variance))
    (science, science_variance), (template, template_variance) = frames
    found = Table({"x": u, "y": v, "flux": np.where(old, -new, new)})
    found["snr"] = found["flux"] / np.sqrt(area + new)
    return Pair(
        science=science,
        template=template,
        science_variance=science_variance,
        template_variance=template_variance,
        science_sigma=science_sigma,
        template_sigma=template_sigma,
        stars=Table({"x": x, "y": y, "flux": flux}),
        transients=found,
    )


def _apart(rng: np.random.Generator, n: int, size: int, margin: float) -> tuple[Floats, Floats]:
    """Scatter points that keep apart, in random cells of a jittered grid; anywhere if they do not fit."""
    side = int((size - 2.0 * margin) // (1.6 * margin)) if margin else 0
    if side * side < n:
        x, y = rng.uniform(margin, size - 1.0 - margin, (2, n))
        return x, y
    step = (size - 2.0 * margin) / side
    cells = rng.permutation(side * side)[:n]
    x, y = margin + (np.stack(np.divmod(cells, side)[::-1]) + 0.5 + rng.uniform(-0.15, 0.15, (2, n))) * step - 0.5
    return x, y
