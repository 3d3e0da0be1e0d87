"""The drivers that catalogues name: one per kind of thing, each a pair of functions from a place to an object.

Every driver takes ``path`` (with ``data_set``, the path within a real data set), ``made_by`` (the command that makes
the file, for the error when it is absent), and what its reading function takes. Making a source touches no file.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, ClassVar

from intake.source.base import DataSource, Schema

from nightlab.data.sources.place import Place


class Source(DataSource):
    """An entry of a catalogue, ready to be read.

    Parameters
    ----------
    path
        Path of the file, within `data_set` where that is given; may hold ``*`` where only one file fits.
    data_set
        Name of a real data set.
    made_by
        Command that makes the file, where it is a product.
    metadata
        Facts about the entry.
    **options
        For the reading function.
    """

    container = "python"
    version = "1"
    partition_access = False
    #: Module and functions: at once, and later.
    reads: ClassVar[tuple[str, str, str]]

    def __init__(
        self,
        path: str = "",
        data_set: str = "",
        made_by: str = "",
        metadata: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(metadata=metadata)
        self.place = Place(path=path, data_set=data_set, made_by=made_by)
        self.options = options

    def _get_schema(self) -> Schema:
        return Schema(dtype=None, shape=None, npartitions=1, extra_metadata={})

    def read(self) -> Any:
        """Read the object, as the docstring of the driver says."""
        return self._function(1)(self.place, **self.options)

    def to_dask(self) -> Any:
        """Give an object that is read when it is computed, as the docstring of the driver says."""
        return self._function(2)(self.place, **self.options)

    def _get_partition(self, i: int) -> Any:
        return self.read()

    def _close(self) -> None:
        """Nothing is held open."""

    def _function(self, which: int) -> Callable[..., Any]:
        return getattr(import_module(self.reads[0]), self.reads[which])


class ImageSource(Source):
    """A FITS image: `VisitImage` (`MaskedImage` for ``reader: pixels``), later an `xarray.Dataset` of its planes."""

    name = "nightlab_image"
    reads = ("nightlab.data.sources.images", "read_image", "image_later")


class TableSource(Source):
    """A table from FITS or text: `astropy.table.Table`, later a `dask.delayed.Delayed` of it."""

    name = "nightlab_table"
    reads = ("nightlab.data.sources.tables", "read_table", "table_later")


class ParquetSource(Source):
    """A parquet table: `astropy.table.Table` with units, later a `dask.dataframe.DataFrame` without."""

    name = "nightlab_parquet"
    reads = ("nightlab.data.sources.tables", "read_parquet", "parquet_later")


class ArraysSource(Source):
    """Arrays of an npz, npy or FITS file: `xarray.Dataset`, later the same of dask arrays."""

    name = "nightlab_arrays"
    reads = ("nightlab.data.sources.arrays", "read_arrays", "arrays_later")


class MetricsSource(Source):
    """Labelled arrays of a zarr store or netCDF file: `xarray.Dataset`, later the same of dask arrays."""

    name = "nightlab_metrics"
    reads = ("nightlab.data.sources.arrays", "read_metrics", "open_metrics")


class HeaderSource(Source):
    """A FITS header: `astropy.io.fits.Header`, later a `dask.delayed.Delayed` of it."""

    name = "nightlab_header"
    reads = ("nightlab.data.sources.arrays", "read_header", "header_later")


class ButlerSource(Source):
    """A product of a run: what the pipelines read, later `xarray.Dataset` or `dask.delayed.Delayed`."""

    name = "nightlab_butler"
    reads = ("nightlab.data.sources.products", "read_product", "product_later")


class SimulatedSource(Source):
    """An image of a simulated pair: `VisitImage`, later an `xarray.Dataset` of its planes."""

    name = "nightlab_simulated"
    reads = ("nightlab.data.sources.simulated", "draw_pair", "pair_later")


DRIVERS: tuple[type[Source], ...] = (
    ImageSource,
    TableSource,
    ParquetSource,
    ArraysSource,
    MetricsSource,
    HeaderSource,
    ButlerSource,
    SimulatedSource,
)
