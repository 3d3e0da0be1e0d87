"""Small images for tests of panes."""

import numpy as np
from lsst.images import Box, DetectorFrame, Image, MaskedImage

from nightlab.images.planes import DIFFERENCE_PLANES, new_mask
from nightlab.images.wcs import tan_projection


def frame(shape=(60, 80), y0=0, x0=0):
    return DetectorFrame(
        instrument="Toy", visit=1, detector=2, bbox=Box.factory[y0 : y0 + shape[0], x0 : x0 + shape[1]]
    )


def projection(shape=(60, 80), *, rotation=0.0, dx=0.0, dy=0.0, scale=0.4, flip=False):
    """A gnomonic projection whose reference pixel is the middle, moved by (dx, dy)."""
    x, y = (shape[1] - 1) / 2 + dx, (shape[0] - 1) / 2 + dy
    made = tan_projection(150.0, 2.0, x=x, y=y, scale=scale, rotation=rotation, frame=frame(shape))
    if not flip:
        return made
    from nightlab.images.wcs import projection_from_wcs

    wcs = made.as_fits_wcs(Box.factory[0 : shape[0], 0 : shape[1]])
    header = wcs.to_header(relax=True)
    for key in ("PC1_1", "PC2_1"):
        if key in header:
            header[key] = -header[key]
    from astropy.wcs import WCS

    return projection_from_wcs(WCS(header), frame(shape))


def masked_image(seed=0, shape=(60, 80), y0=0, x0=0, sky=None):
    """Noise of width 3, variance 9, with planes set on known pixels."""
    bbox = Box.factory[y0 : y0 + shape[0], x0 : x0 + shape[1]]
    rng = np.random.default_rng(seed)
    mask = new_mask(DIFFERENCE_PLANES, bbox)
    schema = mask.schema
    mask.array[5, 7] |= schema.bitmask("SATURATED")
    mask.array[10:20, 30:40] |= schema.bitmask("DETECTED")
    mask.array[12, 33] |= schema.bitmask("STREAK")
    mask.array[50, 70] |= schema.bitmask("BAD", "NO_DATA")
    return MaskedImage(
        Image(rng.normal(0, 3, shape).astype(np.float32), bbox=bbox, sky_projection=sky),
        mask=mask,
        variance=Image(np.full(shape, 9.0, np.float32), bbox=bbox),
    )
