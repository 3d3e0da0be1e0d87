"""The drivers again, as readers of intake's second version: ``nightlab catalog export-v2`` writes catalogues of them.

This module is imported whenever intake is, so that intake can recommend the readers; it imports nothing heavy.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, ClassVar

from intake.readers import datatypes, readers

from nightlab.data.sources.place import Place


class Repository(datatypes.FileData):
    """A Butler repository: a folder of products with a registry."""

    contains: ClassVar[set[str]] = {"butler.yaml"}
    structure: ClassVar[set[str]] = {"catalog"}


class NightLabReader(readers.FileReader):
    """Reads what a place names: ``nightlab://<data set>/<path>``, or a plain path."""

    driver: ClassVar[str] = ""  # of the first version

    def _read(
        self, data: datatypes.FileData | None = None, *, url: str = "", made_by: str = "", **options: Any
    ) -> Any:
        module, _, name = self.func.partition(":")
        place = Place.of(url if data is None else data.url, made_by)
        return getattr(import_module(module), name)(place, **options)


class ImageReader(NightLabReader):
    """A FITS image as an image type of lsst.images."""

    implements: ClassVar[set[type]] = {datatypes.FITS}
    output_instance = "lsst.images:MaskedImage"
    func = "nightlab.data.sources.images:read_image"
    driver = "nightlab_image"


class TableReader(NightLabReader):
    """A table from FITS or text."""

    implements: ClassVar[set[type]] = {datatypes.FITS}
    output_instance = "astropy.table:Table"
    func = "nightlab.data.sources.tables:read_table"
    driver = "nightlab_table"


class ParquetReader(NightLabReader):
    """A parquet table with its units."""

    implements: ClassVar[set[type]] = {datatypes.Parquet}
    output_instance = "astropy.table:Table"
    func = "nightlab.data.sources.tables:read_parquet"
    driver = "nightlab_parquet"


class ArraysReader(NightLabReader):
    """Labelled arrays from npz, npy or FITS."""

    implements: ClassVar[set[type]] = {datatypes.NumpyFile}
    output_instance = "xarray:Dataset"
    func = "nightlab.data.sources.arrays:read_arrays"
    driver = "nightlab_arrays"


class MetricsReader(NightLabReader):
    """Labelled arrays from zarr or netCDF."""

    implements: ClassVar[set[type]] = {datatypes.Zarr}
    output_instance = "xarray:Dataset"
    func = "nightlab.data.sources.arrays:read_metrics"
    driver = "nightlab_metrics"


class HeaderReader(NightLabReader):
    """A FITS header, from FITS or YAML."""

    implements: ClassVar[set[type]] = {datatypes.FITS}
    output_instance = "astropy.io.fits:Header"
    func = "nightlab.data.sources.arrays:read_header"
    driver = "nightlab_header"


class ProductReader(NightLabReader):
    """A product of a run in a Butler repository."""

    implements: ClassVar[set[type]] = {Repository}
    output_instance = "builtins:object"
    func = "nightlab.data.sources.products:read_product"
    driver = "nightlab_butler"


class SimulatedReader(NightLabReader):
    """An image of a simulated pair."""

    implements: ClassVar[set[type]] = {Repository}
    output_instance = "lsst.images:VisitImage"
    func = "nightlab.data.sources.simulated:draw_pair"
    driver = "nightlab_simulated"


READERS: dict[str, type[NightLabReader]] = {
    reader.driver: reader
    for reader in (
        ImageReader,
        TableReader,
        ParquetReader,
        ArraysReader,
        MetricsReader,
        HeaderReader,
        ProductReader,
        SimulatedReader,
    )
}
