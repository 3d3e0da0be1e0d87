"""Mask planes: the names of `lsst.images`, and how to ask for several of them at once."""

import numpy as np
from lsst.images import (
    Box,
    Mask,
    MaskPlane,
    MaskSchema,
    get_legacy_difference_image_mask_planes,
    get_legacy_template_mask_planes,
    get_legacy_visit_image_mask_planes,
)
from numpy.typing import NDArray


def _schema(planes: dict[str, MaskPlane]) -> MaskSchema:
    return MaskSchema(planes.values(), dtype=np.uint8)


VISIT_PLANES = _schema(get_legacy_visit_image_mask_planes())
DIFFERENCE_PLANES = _schema(get_legacy_difference_image_mask_planes())
TEMPLATE_PLANES = _schema(get_legacy_template_mask_planes())


def new_mask(schema: MaskSchema, bbox: Box) -> Mask:
    """Make a mask with nothing set.

    Parameters
    ----------
    schema
        The planes.
    bbox
        The pixels.
    """
    return Mask(schema=schema, bbox=bbox)


def flagged(mask: Mask, *planes: str) -> NDArray[np.bool_]:
    """Say which pixels have any of some planes set.

    Parameters
    ----------
    mask
        A mask of any schema.
    *planes
        Plane names; one that the schema lacks counts as nowhere set.

    Returns
    -------
    numpy.ndarray
        (ny, nx), True where at least one of `planes` is set.
    """
    known = [plane for plane in planes if plane in mask.schema.names]
    if not known:
        return np.zeros(tuple(mask.bbox.shape), dtype=bool)
    return np.any(mask.array & mask.schema.bitmask(*known), axis=-1)
