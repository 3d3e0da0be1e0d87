"""What a calibrated detector must not be: sources without positions, a PSF of stars that are not there, dead parts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from lsst.images.cameras import Amplifier
from scipy.spatial import cKDTree

from nightlab.errors import BadInput, NoPsf
from nightlab.stages.single_frame.frame import Floats, Frame
from nightlab.stages.single_frame.measure import Sources

FEW = 3  # sources that may all be bad by chance
MATCHED = 1.0  # pixels between a star of the PSF and the same star among the sources


def check_sources(sources: Sources, psf_stars: tuple[Floats, Floats] | None) -> int | None:
    """Refuse measurements that nothing can rest on.

    Parameters
    ----------
    sources
        The measurements.
    psf_stars
        (n,) positions of the stars behind the PSF [pixel]; None when the PSF was supplied.

    Returns
    -------
    int or None
        How many of the stars behind the PSF are among the sources; None when the PSF was supplied.

    Raises
    ------
    BadInput
        When no position settled.
    NoPsf
        When none of the stars behind the PSF is among the sources.
    """
    n = sources.x.size
    if n > FEW and sources.centroid_flag.all():
        raise BadInput(
            f"none of the positions of {n} sources settled",
            hint="the PSF is not that of this image: supply another or set `psf.refit`; or raise `measure.max_shift`",
            found=0,
            needed=1,
        )
    if psf_stars is None:
        return None
    found = 0
    if n:
        tree = cKDTree(np.stack([sources.x, sources.y], axis=1))
        found = int((tree.query(np.stack(psf_stars, axis=1))[0] < MATCHED).sum())
    if not found:
        raise NoPsf(
            f"none of the {psf_stars[0].size} stars behind the PSF is among the {n} sources",
            hint="lower `detect.threshold` or `measure.min_snr`, or supply a PSF with the image",
            found=0,
            needed=1,
        )
    return found


def n_dead_amplifiers(frame: Frame, amplifiers: Sequence[Amplifier]) -> int:
    """Count the amplifiers without a usable pixel.

    Parameters
    ----------
    frame
        The assembled detector.
    amplifiers
        Its amplifiers; empty when they are not known.
    """
    usable = frame.usable
    places = [
        (
            slice(a.bbox.y.start - frame.y0, a.bbox.y.stop - frame.y0),
            slice(a.bbox.x.start - frame.x0, a.bbox.x.stop - frame.x0),
        )
        for a in amplifiers
    ]
    return sum(not usable[here].any() for here in places)
