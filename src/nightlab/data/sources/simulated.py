"""A simulated pair of images by name: nothing on disk is needed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nightlab.data.sources.place import Place
from nightlab.errors import BadInput

if TYPE_CHECKING:
    import xarray as xr
    from lsst.images import VisitImage

ROLES = ("science", "template")
_CENTRE = (210.5, -45.2)  # degree
_SCALE = 0.2  # arcsec per pixel
_MJD = {"science": 61000.3, "template": 60900.2}  # TAI


def draw_pair(place: Place, *, role: str = "science", sky: int | str = 1, side: int | str = 512) -> VisitImage:
    """Draw one image of a pair that shows the same stars, and sources that changed between the two.

    Parameters
    ----------
    place
        Not looked at: the image is drawn on the spot.
    role
        ``science`` or ``template``.
    sky
        Seed of the sky; both images of a pair have the same.
    side
        Rows and columns [pixel].

    Returns
    -------
    VisitImage
        In nJy, sky subtracted, with PSF, variance and WCS: as `nightlab.calibrate` would leave it.
    """
    import numpy as np
    from lsst.images import Box, DetectorFrame
    from scipy.special import erf

    from nightlab.images.build import observation, visit_image
    from nightlab.images.camera import make_detector
    from nightlab.images.psf import PolynomialPsf
    from nightlab.images.wcs import tan_projection
    from nightlab.simulate import small_pair

    if role not in ROLES:
        raise BadInput(f"a pair has no {role}", hint=f"it has {' and '.join(ROLES)}", role=role)
    seed, size = int(sky), int(side)
    pair = small_pair(seed, size=size, n_stars=max(20, size * size // 1100), n_transients=max(4, size * size // 5500))
    box = Box.from_shape((size, size))
    visit = 1 + ROLES[::-1].index(role)
    ra, dec = _CENTRE
    middle = (size - 1) / 2
    frame = DetectorFrame(instrument="GenericFITS", visit=visit, detector=0, bbox=box)
    projection = tan_projection(ra, dec, x=middle, y=middle, scale=_SCALE, frame=frame)
    sigma = getattr(pair, f"{role}_sigma")
    edges = (np.arange(-12, 14) - 0.5) / (np.sqrt(2) * sigma)
    profile = np.diff(erf(edges)) / 2
    stamp = np.outer(profile, profile)
    psf = PolynomialPsf(coefficients=stamp[None] / stamp.sum(), order=0, bbox=box)
    return visit_image(
        getattr(pair, role),
        variance=getattr(pair, f"{role}_variance"),
        unit="nJy",
        projection=projection,
        psf=psf.to_piff(),
        detector=make_detector("GenericFITS", 0, "0", box, pixel_scale=_SCALE, visit=visit),
        band="r",
        info=observation(
            "GenericFITS", visit=visit, detector=0, physical_filter="generic_r", mjd_tai=_MJD[role],
            exposure_time=30.0, ra=ra, dec=dec,
        ),
        metadata={"simulated": True, "seed": seed, "role": role},
    )  # fmt: skip


def pair_later(place: Place, *, role: str = "science", sky: int | str = 1, side: int | str = 512) -> xr.Dataset:
    """Give the image as an `xarray.Dataset` of dask arrays, drawn when one of them is computed."""
    from nightlab.data.sources.images import planes_later

    return planes_later(lambda: draw_pair(place, role=role, sky=sky, side=side), (int(side), int(side)))
