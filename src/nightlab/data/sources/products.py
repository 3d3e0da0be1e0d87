"""Products of the pipelines by name: the repository, the run, the dataset type, the data id."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nightlab.data.sources.place import Place
from nightlab.errors import MissingData

if TYPE_CHECKING:
    from nightlab.data.runs import Run


def read_product(
    place: Place, *, dataset_type: str, run: str = "runs/ApPipe", data_id: Mapping[str, Any] | None = None
) -> Any:
    """Read a product of a run, ready for a stage.

    Parameters
    ----------
    place
        Folder of the Butler repository.
    dataset_type
        What it is, such as ``visit_image``.
    run
        The output run; what it was made from is searched too.
    data_id
        Which one, such as ``{"visit": 4101, "detector": 0}``; nothing for what a run has once. Empty values count as
        not given.

    Returns
    -------
    object
        What the pipelines read: an image of `lsst.images`, an astropy table, an `xarray.Dataset`.

    Raises
    ------
    MissingData
        When there is no such repository, run or product; the hint says which command makes it.
    BadInput
        When several products fit the data id.
    """
    opened, which = _find(place, dataset_type, run, data_id)
    return opened.get(dataset_type, **which)


def product_later(
    place: Place, *, dataset_type: str, run: str = "runs/ApPipe", data_id: Mapping[str, Any] | None = None
) -> Any:
    """Give a product that is read when it is computed.

    Returns
    -------
    object
        An `xarray.Dataset` of dask arrays for images and metrics, a `dask.delayed.Delayed` of the table for tables.
    """
    opened, which = _find(place, dataset_type, run, data_id)
    kind = opened.butler.get_dataset_type(dataset_type).storageClass_name
    if kind == "XarrayDataset":
        return opened.get(dataset_type, **which).chunk()
    if kind in ("VisitImage", "DifferenceImage", "MaskedImage"):
        from nightlab.data.sources.images import planes_later

        shape = opened.get(dataset_type, component="bbox", **which).shape
        return planes_later(lambda: opened.get(dataset_type, **which), (int(shape.y), int(shape.x)))
    from dask.delayed import delayed

    return delayed(read_product)(place, dataset_type=dataset_type, run=run, data_id=which)


def _find(place: Place, dataset_type: str, run: str, data_id: Mapping[str, Any] | None) -> tuple[Run, dict[str, Any]]:
    """Open the run, and make sure that it has the one product that is asked for."""
    from nightlab.data.runs import Run

    which = _plain(data_id)
    folder = Path(place.path).expanduser()
    way_out = f"make it: {place.made_by}" if place.made_by else "run the pipeline that makes it"
    if not (folder / "butler.yaml").is_file():
        raise MissingData(f"there is no {dataset_type} yet: {folder} is no repository", hint=way_out, path=str(folder))
    try:
        opened = Run(folder, run)
    except MissingData as error:
        raise MissingData(f"there is no {dataset_type} yet: {error.message}", hint=way_out, run=run) from error
    try:
        opened.ref(dataset_type, **which)
    except MissingData as error:
        if opened.refs(dataset_type):
            raise  # the run is done, and the data id is wrong
        raise MissingData(f"there is no {dataset_type} yet: {error.message}", hint=way_out, run=run) from error
    return opened, which


def _plain(data_id: Mapping[str, Any] | None) -> dict[str, Any]:
    """Data id with its numbers as numbers: templates of a catalogue turn them into text."""
    given = {key: value for key, value in (data_id or {}).items() if value not in ("", None)}
    return {key: int(value) if str(value).isdecimal() else value for key, value in given.items()}
