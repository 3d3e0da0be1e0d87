"""How the Butler reads raws of our instruments and keeps metrics on disk."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import xarray as xr
import zarr
from lsst.daf.butler import FormatterV2
from zarr.abc.buffer import Buffer

from nightlab.data.instruments import instrument
from nightlab.errors import CorruptFile
from nightlab.images.footprints import Footprints

EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest a zip archive can say; equal metrics make equal files


class RawFormatter(FormatterV2):
    """Read a raw with the reader of the instrument its data id names; never writes."""

    default_extension = ".fits"
    supported_extensions = frozenset({".fits", ".fit", ".fits.gz", ".fit.gz", ".fits.fz"})
    can_read_from_local_file = True

    def read_from_local_file(self, path: str, component: str | None = None, expected_size: int = -1) -> Any:
        """Read the whole image, a cut-out of it (parameter ``bbox``), or one component."""
        image = instrument(str(self.data_id["instrument"])).read_raw(Path(path))
        parameters = self.file_descriptor.parameters or {}
        if parameters.get("bbox") is not None:
            image = image[parameters["bbox"]]
        return image if component is None else getattr(image, component)


class ZarrFormatter(FormatterV2):
    """Keep an `xarray.Dataset` as a zarr store in one zip file, the same bytes for the same values."""

    default_extension = ".zarr.zip"
    can_read_from_local_file = True

    def write_local_file(self, in_memory_dataset: xr.Dataset, uri: Any) -> None:
        """Write a dataset."""
        write_metrics(in_memory_dataset, Path(uri.ospath))

    def read_from_local_file(self, path: str, component: str | None = None, expected_size: int = -1) -> Any:
        """Read a dataset into memory."""
        return read_metrics(Path(path))


class FootprintsFormatter(FormatterV2):
    """Keep `Footprints` as a FITS file of two tables."""

    default_extension = ".fits"
    can_read_from_local_file = True

    def write_local_file(self, in_memory_dataset: Footprints, uri: Any) -> None:
        """Write footprints."""
        in_memory_dataset.write(uri.ospath, overwrite=True)

    def read_from_local_file(self, path: str, component: str | None = None, expected_size: int = -1) -> Any:
        """Read footprints."""
        return Footprints.read(path)


def write_metrics(dataset: xr.Dataset, path: Path) -> None:
    """Write a dataset as a zarr store in one zip file."""
    members: dict[str, Buffer] = {}  # first all of them, since zarr rewrites some and an archive would keep both
    dataset.to_zarr(zarr.storage.MemoryStore(members), mode="w", consolidated=False, zarr_format=3)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, member in sorted(members.items()):
            info = zipfile.ZipInfo(name, EPOCH)
            info.external_attr = 0o644 << 16
            archive.writestr(info, member.to_bytes())


def read_metrics(path: Path) -> xr.Dataset:
    """Read what `write_metrics` wrote, all of it into memory.

    Raises
    ------
    CorruptFile
        When the archive is truncated or holds no zarr store.
    """
    try:
        store = zarr.storage.ZipStore(path, mode="r")
        try:
            return xr.open_zarr(store, consolidated=False, chunks=None).load()
        finally:
            store.close()
    except (zipfile.BadZipFile, KeyError, ValueError) as error:
        raise CorruptFile(
            f"{path} is not a zipped zarr store: {error}",
            hint="run the stage that makes it again",
            path=str(path),
        ) from error
