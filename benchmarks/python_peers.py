"""Catalogues of one frame as people make them with Python's libraries: `sep`, and `photutils`.

Both ask for five pixels of 1.5 sigma in the image filtered with the 3 x 3 kernel of source-extractor, on meshes of 128
pixels, and use what their documentation shows for the rest.
"""

from __future__ import annotations

import warnings
from typing import Any

import common  # noqa: F401  first: it sets the number of threads
import numpy as np
import sep
from astropy.table import Table
from numpy.typing import NDArray

Floats = NDArray[np.floating]

MESH, SIGMA, MIN_AREA = 128, 1.5, 5
KERNEL = np.array([[1.0, 2.0, 1.0], [2.0, 4.0, 2.0], [1.0, 2.0, 1.0]])
FWHM = 3.0  # pixels
RADIUS, STAMP = 6.0, 25
PSF_STARS = 60


def with_sep(pixels: Floats, gain: float) -> Table:
    """Extract, centre with windows, and sum circles: sep knows no PSF.

    Returns
    -------
    Table
        ``x``, ``y`` [pixel, the first being 0] and ``flux`` [adu].
    """
    image = np.ascontiguousarray(pixels, np.float32)
    background = sep.Background(image, bw=MESH, bh=MESH)
    image = image - background.back()
    rms = background.globalrms
    found = sep.extract(image, SIGMA, err=rms, minarea=MIN_AREA, filter_kernel=KERNEL, filter_type="conv")
    radius, _ = sep.flux_radius(image, found["x"], found["y"], 6.0 * found["a"], 0.5, normflux=found["flux"])
    x, y, flag = sep.winpos(image, found["x"], found["y"], 2.0 / 2.35 * radius)
    x, y = np.where(flag == 0, x, found["x"]), np.where(flag == 0, y, found["y"])
    flux, _, _ = sep.sum_circle(image, x, y, RADIUS, err=rms, gain=gain)
    return Table({"x": x, "y": y, "flux": flux})


def with_photutils(pixels: Floats, gain: float) -> Table:
    """Segment and deblend, build an effective PSF from the best stars, and fit it to every source by itself.

    Returns
    -------
    Table
        ``x``, ``y`` [pixel, the first being 0] and ``flux`` [adu].
    """
    from astropy.convolution import convolve_fft
    from astropy.nddata import NDData
    from photutils.background import Background2D
    from photutils.psf import EPSFBuilder, PSFPhotometry, extract_stars
    from photutils.segmentation import SourceCatalog, SourceFinder
    from photutils.utils import calc_total_error

    background = Background2D(pixels, (MESH, MESH))
    image = pixels - background.background
    error = calc_total_error(image, background.background_rms, gain)
    smooth = convolve_fft(image, KERNEL / KERNEL.sum())
    segments: Any = SourceFinder(MIN_AREA, n_levels=32, contrast=0.005)(smooth, SIGMA * background.background_rms)
    catalogue = SourceCatalog(image, segments, convolved_data=smooth, error=error)
    sources = catalogue.to_table(columns=["x_centroid", "y_centroid", "segment_flux", "fwhm", "max_value"])
    stars = _good_stars(sources, pixels.shape)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of stamps over the edge
        cut = extract_stars(NDData(image), Table({"x": stars["x_centroid"], "y": stars["y_centroid"]}), size=STAMP)
        psf, _ = EPSFBuilder(oversampling=2, maxiters=5, progress_bar=False)(cut)
        first = Table({"x": sources["x_centroid"], "y": sources["y_centroid"], "flux": sources["segment_flux"]})
        fitted = PSFPhotometry(psf, (9, 9), aperture_radius=FWHM)(image, error=error, init_params=first)
    good = np.isfinite(fitted["flux_fit"]) & (fitted["flux_fit"] > 0)
    return Table({"x": fitted["x_fit"][good], "y": fitted["y_fit"][good], "flux": fitted["flux_fit"][good]})


def _good_stars(sources: Table, shape: tuple[int, int]) -> Table:
    """Bright, round enough in size to be stars, unsaturated, alone, and off the edge."""
    x, y = np.asarray(sources["x_centroid"]), np.asarray(sources["y_centroid"])
    width = np.asarray(sources["fwhm"], float)
    bright = (np.asarray(sources["max_value"]) > 50) & (np.asarray(sources["max_value"]) < 20_000)
    inside = (x > STAMP) & (x < shape[1] - STAMP) & (y > STAMP) & (y < shape[0] - STAMP)
    typical = np.nanmedian(width[bright & inside])
    apart = np.hypot(x[:, None] - x, y[:, None] - y)
    np.fill_diagonal(apart, np.inf)
    good = bright & inside & (np.abs(width - typical) < 0.15 * typical) & (apart.min(axis=1) > STAMP / 2)
    chosen = sources[good]
    return chosen[np.argsort(chosen["segment_flux"])[::-1][:PSF_STARS]]
