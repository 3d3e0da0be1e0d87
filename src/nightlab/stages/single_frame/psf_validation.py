"""How well a PSF model foretells stars that it has not seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from nightlab.images.psf import effective_area, polynomial_powers, shift_stamps
from nightlab.numeric.moments import adaptive_moments
from nightlab.stages.single_frame.frame import Bools, Floats, Ints
from nightlab.stages.single_frame.psf import PsfConfig, StarPsf, fit_grid


@dataclass(frozen=True, kw_only=True)
class ReservedStars:
    """Stars beside models that were made without them.

    Attributes
    ----------
    x, y
        (n,) detector positions [pixel].
    snr
        (n,) S/N of the PSF flux.
    size
        (n,) (star - model) / model of T = Ixx + Iyy, from adaptive moments; NaN where they did not converge.
    e1, e2
        (n,) star - model of (Ixx - Iyy) / T and 2 Ixy / T.
    """

    x: Floats
    y: Floats
    snr: Floats
    size: Floats
    e1: Floats
    e2: Floats

    @classmethod
    def joined(cls, parts: Sequence[ReservedStars]) -> ReservedStars:
        """Put the stars of several frames together."""
        return cls(**{f.name: np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(cls)})

    def where(self, chosen: Bools) -> ReservedStars:
        """Give those of the (n,) stars that are `chosen`."""
        return replace(self, **{f.name: getattr(self, f.name)[chosen] for f in fields(self)})

    def summary(self) -> dict[str, float]:
        """Give means over the stars and their standard errors, under the names of the stage's metrics."""
        known = np.isfinite(self.size)
        out = {"n_psf_stars_reserved": float(known.sum())}
        for name in ("size", "e1", "e2"):
            values = getattr(self, name)[known]
            out[f"psf_{name}_residual_reserved"] = float(values.mean()) if values.size else np.nan
            error = float(values.std(ddof=1) / np.sqrt(values.size)) if values.size > 1 else np.nan
            out[f"psf_{name}_residual_reserved_error"] = error
        return out


def no_reserved_stars() -> ReservedStars:
    """Give the outcome of a test that was not made."""
    none = np.empty(0)
    return ReservedStars(x=none, y=none, snr=none, size=none, e1=none, e2=none)


def assign_folds(x: Floats, y: Floats, folds: int) -> Ints:
    """Deal (n,) stars out to `folds` parts, in the order of y and then x, so that each part covers the detector."""
    fold = np.empty(len(x), dtype=np.int64)
    fold[np.lexsort((x, y))] = np.arange(len(x)) % folds
    return fold


def reserve_stars(stars: StarPsf, config: PsfConfig) -> ReservedStars:
    """Compare each star with a model fitted to the stars of the other folds.

    Positions, fluxes and the order of the polynomials are those of the model of all stars. The model is moved to where
    the star lies in its pixel, as it is in use; the star's pixels stay as they were read out. White noise makes T of a
    Gaussian star too large by 4.5 / (S/N)^2 of it: 0.0018 at S/N 50, and a few 1e-4 in the mean of a usual sample.

    Parameters
    ----------
    stars
        A fitted PSF and its stars.
    config
        Knobs; `folds` says how many parts.

    Returns
    -------
    ReservedStars
        Empty when `folds` is below 2 or a part would leave too few stars for a model.
    """
    n = len(stars.x)
    order = stars.psf.order
    needed = max(config.min_stars, len(polynomial_powers(order)))
    if config.folds < 2 or n < config.folds or n - (n + config.folds - 1) // config.folds < needed:
        return no_reserved_stars()
    stamps = stars.stamps
    fold = assign_folds(stars.x, stars.y, config.folds)
    grids = np.empty_like(stamps.centred)
    for k in range(config.folds):
        kept, out = fold != k, fold == k
        model = fit_grid(
            stamps.centred[kept], stamps.variance[kept], stars.x[kept], stars.y[kept], order, stars.psf.bbox, config
        )
        grids[out] = model.grids(stars.x[out], stars.y[out])
    return compare_shapes(stars, shift_stamps(grids, stamps.dx, stamps.dy))


def compare_shapes(stars: StarPsf, models: Floats) -> ReservedStars:
    """Compare stars with what they should look like where they lie in their pixels.

    Parameters
    ----------
    stars
        (n,) stars.
    models
        (n, k, k) images of flux 1, k as that of the stars' stamps; blanked where a star has no data.
    """
    stamps = stars.stamps
    sigma = float(np.sqrt(effective_area(models).mean() / (4.0 * np.pi)))
    information = np.sum(models**2 / stamps.variance, axis=(1, 2))
    models = np.where(np.isfinite(stamps.cutouts), models, np.nan)
    size, e1, e2 = _shapes(stamps.cutouts, stamps.dx, stamps.dy, sigma)
    model_size, model_e1, model_e2 = _shapes(models, stamps.dx, stamps.dy, sigma)
    return ReservedStars(
        x=stars.x,
        y=stars.y,
        snr=np.sqrt(information),
        size=size / model_size - 1.0,
        e1=e1 - model_e1,
        e2=e2 - model_e2,
    )


def _shapes(stamps: Floats, dx: Floats, dy: Floats, sigma: float) -> tuple[Floats, Floats, Floats]:
    moments, _, _ = adaptive_moments(stamps, dx, dy, guess=sigma)
    size = moments[:, 0] + moments[:, 1]
    return size, (moments[:, 0] - moments[:, 1]) / size, 2.0 * moments[:, 2] / size
