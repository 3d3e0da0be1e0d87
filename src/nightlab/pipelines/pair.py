"""Difference two FITS files: no repository, no catalogue, only two images of the same sky."""

from __future__ import annotations

import os
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nightlab.data.instruments.generic import read_generic
from nightlab.data.repository import writing
from nightlab.errors import BadInput, MissingData
from nightlab.images.build import visit_of
from nightlab.images.skymap import SkyMap, TractGrid
from nightlab.images.wcs import fits_header
from nightlab.stages.differencing import DetectConfig, SubtractConfig, detect_dia_sources, subtract
from nightlab.stages.single_frame import CalibrateConfig, calibrate
from nightlab.stages.templates import TemplateConfig, build_template, warp_template

if TYPE_CHECKING:
    import xarray as xr
    from astropy.table import Table
    from lsst.images import DifferenceImage, VisitImage
    from lsst.images.cells import CellCoadd


@dataclass(frozen=True, kw_only=True)
class PairDifference:
    """What `subtract_files` makes.

    Attributes
    ----------
    difference_image
        Science minus template on the pixels and in the unit of the science image.
    dia_source
        What changed.
    metrics
        Of the subtraction.
    """

    difference_image: DifferenceImage
    dia_source: Table
    metrics: xr.Dataset


def subtract_files(
    science: str | Path,
    template: str | Path,
    *,
    calibrate_config: CalibrateConfig = CalibrateConfig(),
    subtract_config: SubtractConfig = SubtractConfig(),
    detect_config: DetectConfig = DetectConfig(),
) -> PairDifference:
    """Difference two FITS images that have a WCS.

    Both are background-subtracted, their PSFs are fitted to their stars, the template is resampled once onto the
    science pixels, matched and subtracted.

    Parameters
    ----------
    science, template
        Paths; mask, variance or weight extensions are used when the files have them.
    calibrate_config, subtract_config, detect_config
        Knobs of the three steps.

    Raises
    ------
    MissingData, CorruptFile, BadInput
        A file is absent, unreadable or without a WCS.
    NoOverlap, TooFewStars
        They do not share enough sky or stars.
    """
    frames = [calibrate(read_generic(path), config=calibrate_config) for path in (science, template)]
    image, other = frames[0].visit_image, frames[1].visit_image
    warped = warp_template(image, [on_grid_of(image, other)])
    difference = subtract(image, warped.template_detector, frames[0].source, config=subtract_config)
    found = detect_dia_sources(difference.difference_image, image, warped.template_detector, config=detect_config)
    return PairDifference(
        difference_image=difference.difference_image,
        dia_source=found.dia_source_unassociated,
        metrics=difference.metrics,
    )


def on_grid_of(image: VisitImage, other: VisitImage) -> CellCoadd:
    """Make a one-visit coadd of `other` whose single patch has the pixels of `image`."""
    shape = (image.bbox.shape.y, image.bbox.shape.x)
    header = fits_header(image.sky_projection, image.bbox)
    tract = TractGrid(tract=0, header=header, shape=shape, patch=shape, border=0, cell=(256, 256))
    sky_map = SkyMap(name=f"pixels of visit {visit_of(image)}", tracts=(tract,))
    return build_template([other], sky_map, 0, 0, config=TemplateConfig()).template_coadd


def check_output(output: str | Path, *, overwrite: bool = False) -> Path:
    """Refuse an output that could not be written, before any work is done for it.

    Parameters
    ----------
    output
        Path of the difference image.
    overwrite
        Whether an existing file may be replaced.

    Raises
    ------
    BadInput
        When the name does not end in ``.fits``, or the file exists and may not be replaced.
    MissingData
        When the folder does not exist.
    """
    output = Path(output)
    if output.suffix != ".fits":
        raise BadInput(f"the output is called {output.name}; a name ending in .fits is needed")
    if output.exists() and not overwrite:
        raise BadInput(f"{output} exists already", hint="choose another name, or allow --overwrite", path=str(output))
    if not output.parent.is_dir():
        raise MissingData(f"the folder {output.parent} does not exist", hint="make it first", path=str(output.parent))
    return output


def write_pair(result: PairDifference, output: str | Path, *, overwrite: bool = False) -> tuple[Path, Path]:
    """Write the difference image (FITS) and, beside it, what changed (parquet); each whole or not at all.

    Parameters
    ----------
    result
        What `subtract_files` made.
    output
        Path of the difference image, ending in ``.fits``.
    overwrite
        Whether an existing file may be replaced.

    Returns
    -------
    tuple of pathlib.Path
        Image and table.

    Raises
    ------
    BadInput, MissingData
        As `check_output`.
    WriteFailed
        When the disk refuses.
    """
    output = check_output(output, overwrite=overwrite)
    table = output.with_name(f"{output.stem}_dia_source.parquet")
    with writing(output.parent):
        for path, write in ((output, result.difference_image.write), (table, result.dia_source.write)):
            part = path.with_name(f".{uuid.uuid4().hex}{path.suffix}")
            try:
                write(str(part))
                os.replace(part, path)
            finally:
                part.unlink(missing_ok=True)
    return output, table
