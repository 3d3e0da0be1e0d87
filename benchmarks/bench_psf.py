"""PSF models on stars they have not seen: NightLab's beside Piff's pixel grid, of the same stars in the same folds.

Each star is compared once with a model of the stars of the four other folds, drawn where the star lies in its pixel:
T = Ixx + Iyy, e1 = (Ixx - Iyy) / T, e2 = 2 Ixy / T from adaptive moments of both. Piff has pixels of the frame's size,
stamps as large as ours, polynomials of degree 2, Lanczos interpolation as the Rubin pipelines set it, weights of the
sky's noise with S/N capped at 100, outliers of 4 sigma and at most 5 % of the stars a round.

The simulated frames have stars of S/N 50 to 1000 drawn by GalSim, Moffat profiles whose width and shear vary with the
square of position. The Stripe 82 frames have the PSF that SDSS published too; their stars may be among those it rests
on. Piff does the first frame of each kind only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import common  # first: it sets the number of threads
import galsim
import numpy as np
import piff
from astropy import units as u
from lsst.images import Box
from numpy.typing import NDArray
from single_frame import STACK_EXPOSURES, frame_path

from nightlab.data.instruments.sdss import read_raw
from nightlab.images.psf import psf_stamps
from nightlab.numeric.statistics import robust_width
from nightlab.stages.single_frame import CalibrateConfig, calibrate
from nightlab.stages.single_frame.frame import Frame, corrected_frame
from nightlab.stages.single_frame.psf import PsfConfig, StarPsf, fit_psf
from nightlab.stages.single_frame.psf_validation import (
    ReservedStars,
    assign_folds,
    compare_shapes,
    reserve_stars,
)

Floats = NDArray[np.floating]

SHAPE = (1500, 1500)
SEEDS = range(11, 35)
FIRST = (4192, "r")
SKY_VARIANCE, GAIN = 50.0, 4.0
SCALE = 0.396  # arcsec per pixel, for Piff
MAX_SNR = 100.0
BRIGHT = 200.0
CONFIG = PsfConfig(refit=True)
ROW = (
    "model",
    "CPU s of a fit",
    "stars",
    "dT/T [1e-3]",
    "e1 [1e-3]",
    "e2 [1e-3]",
    f"scatter of the three, S/N > {BRIGHT:g}",
)


@dataclass(frozen=True)
class Field:
    """A sky-subtracted frame and the stars that are on it."""

    frame: Frame
    sky_variance: Floats
    box: Box
    stars: StarPsf

    def reserved(self) -> ReservedStars:
        return reserve_stars(self.stars, CONFIG)


def field_of(frame: Frame, sky_variance: Floats) -> Field:
    box = Box.from_shape(frame.shape, start=(frame.y0, frame.x0))
    return Field(frame, sky_variance, box, fit_psf(frame, sky_variance, box, CONFIG))


def simulated(seed: int, n: int = 200, spacing: float = 60.0) -> Field:
    """Stars on a grid with random steps, so that none disturbs another."""
    rng = np.random.default_rng(seed)
    side = int(np.sqrt(n)) + 1
    node = np.linspace(0.05, 0.95, side) * SHAPE[0]
    x, y = (grid.ravel()[:n] for grid in np.meshgrid(node, node))
    x, y = x + rng.uniform(-spacing, spacing, n) / 3, y + rng.uniform(-spacing, spacing, n) / 3
    signal = np.exp(rng.uniform(np.log(50.0), np.log(1000.0), n))
    image = galsim.ImageD(SHAPE[1], SHAPE[0], xmin=0, ymin=0)
    for a, b, snr in zip(x, y, signal, strict=True):
        p, q = a / SHAPE[1] - 0.5, b / SHAPE[0] - 0.5
        fwhm = 2.8 * (1.0 + 0.1 * p + 0.2 * (p * p + q * q))
        # the flux that has this S/N on sky and its own photons, in the Gaussian approximation
        noise = SKY_VARIANCE * 4.0 * np.pi * (fwhm / 2.35482) ** 2
        flux = 0.5 * (snr**2 / GAIN + snr * np.sqrt(snr**2 / GAIN**2 + 4.0 * noise))
        profile = galsim.Moffat(beta=3.5, fwhm=fwhm, flux=flux).shear(g1=0.02 * p + 0.04 * q * q, g2=-0.03 * p * q)
        centre = galsim.PositionD(a, b)
        box = galsim.BoundsI(round(a) - 30, round(a) + 30, round(b) - 30, round(b) + 30) & image.bounds
        profile.drawImage(image[box], center=centre, scale=1.0, add_to_image=True)
    variance = image.array / GAIN + SKY_VARIANCE
    pixels = image.array + rng.normal(size=SHAPE) * np.sqrt(variance)
    frame = Frame(pixels=pixels, variance=variance, planes={}, x0=0, y0=0, unit=u.adu, gain=GAIN)
    return field_of(frame, np.full(SHAPE, SKY_VARIANCE))


def piff_stars(field: Field) -> list[piff.Star]:
    stars, frame = field.stars, field.frame
    half = stars.stamps.cutouts.shape[1] // 2
    out = []
    for k, cutout in enumerate(stars.stamps.cutouts):
        x, y = float(stars.x[k]), float(stars.y[k])
        xi, yi = round(x - stars.stamps.dx[k]), round(y - stars.stamps.dy[k])
        bounds = {"xmin": xi - half, "ymin": yi - half, "wcs": galsim.PixelScale(SCALE)}
        noise = float(field.sky_variance[yi - frame.y0, xi - frame.x0])
        model = stars.psf.grids(x, y)[0]
        snr = float(np.nansum(cutout * model) / np.sqrt(noise * (model**2).sum()))
        weight = np.where(np.isfinite(cutout), min(1.0, MAX_SNR / snr) ** 2 / noise, 0.0)
        data = piff.StarData(
            galsim.ImageD(np.nan_to_num(cutout), **bounds),
            galsim.PositionD(x, y),
            weight=galsim.ImageD(weight, **bounds),
        )
        out.append(piff.Star(data, None))
    return out


def fit_piff(stars: list[piff.Star], size: int) -> piff.PSF:
    psf = piff.SimplePSF(
        piff.PixelGrid(SCALE, size, interp="Lanczos(11)"),
        piff.BasisPolynomial(order=CONFIG.order),
        outliers=piff.ChisqOutliers(nsigma=4.0, max_remove=0.05),
    )
    psf.fit(stars, {0: galsim.PixelScale(SCALE)}, None)
    return psf


def reserve_for_piff(field: Field) -> ReservedStars:
    """As `reserve_stars`, with Piff's model."""
    stars = piff_stars(field)
    fold = assign_folds(field.stars.x, field.stars.y, CONFIG.folds)
    models = np.empty_like(field.stars.stamps.cutouts)
    for k in range(CONFIG.folds):
        psf = fit_piff([star for star, other in zip(stars, fold, strict=True) if other != k], models.shape[1])
        for n in np.flatnonzero(fold == k):
            models[n] = psf.drawStar(piff.Star(stars[n].data, None)).image.array
    return compare_shapes(field.stars, models)


def row(name: str, seconds: float | None, tested: ReservedStars) -> list[object]:
    values = tested.summary()
    means = [
        f"{1e3 * values[f'psf_{part}_residual_reserved']:+.2f} ± "
        f"{1e3 * values[f'psf_{part}_residual_reserved_error']:.2f}"
        for part in ("size", "e1", "e2")
    ]
    bright = tested.where(np.isfinite(tested.size) & (tested.snr > BRIGHT))
    spread = [f"{robust_width(part):.4f}" for part in (bright.size, bright.e1, bright.e2)]
    spent = "" if seconds is None else f"{seconds:.2f}"
    return [name, spent, int(values["n_psf_stars_reserved"]), *means, " / ".join(spread)]


def beside_piff(title: str, frames: Sequence[Field], published: Sequence[Floats] = ()) -> None:
    """Print a row for each model of the first frame and of all, and how long a fit of the first takes."""
    first = frames[0]
    ours, _ = common.timed(lambda: fit_psf(first.frame, first.sky_variance, first.box, CONFIG))
    folds, tested = common.timed(first.reserved)
    size = first.stars.stamps.cutouts.shape[1]
    theirs, _ = common.timed(lambda: fit_piff(piff_stars(first), size), repeats=1)
    rows = [row("nightlab", ours, tested), row("piff", theirs, reserve_for_piff(first))]
    given = [compare_shapes(f.stars, models) for f, models in zip(frames, published, strict=False)]
    if given:
        rows.append(row("SDSS, not reserved", None, given[0]))
    everything = ReservedStars.joined([f.reserved() for f in frames])
    rows.append(row(f"nightlab, {len(frames)} frames", None, everything))
    rows.append(row(f"those of S/N > {BRIGHT:g}", None, everything.where(everything.snr > BRIGHT)))
    if given:
        rows.append(row(f"SDSS, {len(frames)} frames", None, ReservedStars.joined(given)))
    print(f"\n{title}: {len(first.stars.x)} stars in the first frame, stamps and models of {size} pixels")
    common.table(ROW, rows)
    print(f"five folds of nightlab: {folds:.2f} s beside the fit, which finds the stars too; piff is told them")
    common.ratio("nightlab / piff, one fit", ours, theirs)


def stripe82(data: Path, run: int, band: str) -> tuple[Field, Floats]:
    """A frame without its sky, and its stars as the PSF of SDSS has them."""
    raw = read_raw(frame_path(data, run, band))
    frame = corrected_frame(calibrate(raw, config=CalibrateConfig(psf=CONFIG)).visit_image)
    field = field_of(frame, np.full(frame.shape, np.median(frame.variance)))
    size = field.stars.stamps.cutouts.shape[1]
    return field, psf_stamps(raw.psf, field.stars.x, field.stars.y, size=size)


def main() -> None:
    how = f"CPU: user + system seconds, one thread, median of {common.REPEATS} after a warm-up; one run of piff"
    common.heading("PSF models on reserved stars", "piff", "galsim", how=how)
    beside_piff("Simulated", [simulated(seed) for seed in SEEDS])
    data = common.stripe82()
    exposures = [FIRST, *(place for place in STACK_EXPOSURES if place != FIRST)]
    frames, published = zip(*(stripe82(data, *place) for place in exposures), strict=True)
    beside_piff("Stripe 82, run {} {} first".format(*FIRST), frames, published)


if __name__ == "__main__":
    main()
