"""Data repositories: a Butler on SQLite that knows our storage classes, instruments and inputs."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lsst.daf.butler import Butler, CollectionType, Config, DatasetType
from lsst.daf.butler.registry.interfaces import ReadOnlyDatabaseError
from sqlalchemy.exc import OperationalError

from nightlab.data.instruments import instrument as instrument_named
from nightlab.errors import CorruptFile, MissingData, WriteFailed

#: Storage classes the Butler does not ship, with their formatters.
STORAGE = {
    "XarrayDataset": ("xarray.Dataset", "nightlab.data.formatters.ZarrFormatter"),
    "NightLabFootprints": ("nightlab.images.footprints.Footprints", "nightlab.data.formatters.FootprintsFormatter"),
    "NightLabSkyMap": ("nightlab.images.skymap.SkyMap", "lsst.daf.butler.formatters.json.JsonFormatter"),
}

#: Inputs of the pipelines: dimensions, storage class, whether they are valid for a span of time.
INPUTS = {
    "raw": (("instrument", "exposure", "detector"), "VisitImage", False),
    "bias": (("instrument", "detector"), "ImageV2", True),
    "flat": (("instrument", "detector", "physical_filter"), "ImageV2", True),
    "dark": (("instrument", "detector"), "ImageV2", True),
    "defects": (("instrument", "detector"), "ArrowAstropy", True),
    "crosstalk": (("instrument", "detector"), "ArrowAstropy", True),
    "linearity": (("instrument", "detector"), "ArrowAstropy", True),
    "brighter_fatter": (("instrument", "detector"), "ImageV2", True),
    "reference": (("htm7",), "ArrowAstropy", False),
    "sky_map": (("skymap",), "NightLabSkyMap", False),
}

REFERENCES = "refcats"
SKY_MAPS = "skymaps"
ONE_TO_ONE = 0  # visit system: every exposure is a visit


def make_repository(root: str | Path, *instruments: str) -> Butler:
    """Make a repository, or complete one that is there already, and open it for writing.

    Parameters
    ----------
    root
        Its folder; made when absent.
    *instruments
        Names of the instruments to register.

    Raises
    ------
    WriteFailed
        When the folder cannot be written.
    """
    root = Path(root).absolute()
    with writing(root):
        root.mkdir(parents=True, exist_ok=True)
        if not (root / "butler.yaml").exists():
            Butler.makeRepo(str(root), config=_config(), forceConfigRoot=True)
    butler = open_repository(root, writeable=True)
    with writing(root):
        universe = butler.dimensions
        for name, (dimensions, storage_class, is_calibration) in INPUTS.items():
            butler.registry.registerDatasetType(
                DatasetType(
                    name,
                    universe.conform(dimensions),
                    storage_class,
                    isCalibration=is_calibration,
                )
            )
        for run in (REFERENCES, SKY_MAPS):
            butler.collections.register(run, CollectionType.RUN)
        for name in instruments:
            register_instrument(butler, name)
    return butler


def _config() -> Config:
    return Config(
        {
            "storageClasses": {name: {"pytype": pytype} for name, (pytype, _) in STORAGE.items()},
            "datastore": {"formatters": {name: formatter for name, (_, formatter) in STORAGE.items()}},
        }
    )


def open_repository(root: str | Path, *, writeable: bool = False) -> Butler:
    """Open a repository.

    Parameters
    ----------
    root
        Its folder.
    writeable
        Whether it is to be written to.

    Raises
    ------
    MissingData
        When there is no repository.
    CorruptFile
        When its configuration or database cannot be read.
    WriteFailed
        When writing is asked for and not possible.
    """
    root = Path(root).absolute()
    if not (root / "butler.yaml").is_file():
        raise MissingData(
            f"{root} holds no data repository (no butler.yaml)",
            hint="make one with nightlab.data.repository.make_repository or prepare a catalogue entry",
            path=str(root),
        )
    if writeable:
        probe(root)
    try:
        try:
            return Butler.from_config(str(root), writeable=writeable)
        except OperationalError as error:
            if writeable or "readonly database" not in str(error):
                raise
            # somebody was killed in the middle of a change; only who may write can take it back
            Butler.from_config(str(root), writeable=True).close()
            return Butler.from_config(str(root), writeable=False)
    except Exception as error:
        raise CorruptFile(
            f"the repository {root} cannot be opened: {type(error).__name__}: {error}",
            hint="restore it, or remove the folder and prepare it again",
            path=str(root),
        ) from error


def probe(root: Path) -> None:
    """Try a write, since neither permissions nor mount flags tell the truth to every user.

    Raises
    ------
    WriteFailed
        When it does not succeed.
    """
    with writing(root), tempfile.TemporaryFile(dir=root) as file:
        file.write(b"\0")
        file.flush()


@contextmanager
def writing(root: str | Path) -> Iterator[None]:
    """Turn the ways in which a write can fail into `WriteFailed`, naming the place."""
    try:
        yield
    except (PermissionError, OperationalError, ReadOnlyDatabaseError) as error:
        raise _write_failed(root, error) from error
    except OSError as error:
        # ours stay what they are; so does a missing input file
        if error.errno is None or isinstance(error, FileNotFoundError):
            raise
        raise _write_failed(root, error) from error


@contextmanager
def changing(butler: Butler) -> Iterator[None]:
    """Do as `writing`, for an open repository; one that was opened for reading only is refused at once."""
    root = folder_of(butler)
    if not butler.isWriteable():
        raise WriteFailed(
            f"the repository {root} was opened for reading only",
            hint="open it with open_repository(root, writeable=True)",
            path=str(root),
        )
    with writing(root):
        yield


def _write_failed(root: str | Path, error: Exception) -> WriteFailed:
    return WriteFailed(
        f"cannot write into {root}: {error}",
        hint="free some space, or choose a folder you may write to",
        path=str(root),
    )


def register_instrument(butler: Butler, name: str) -> None:
    """Register an instrument with its detectors, filters and its one-to-one visit system; again is a no-op."""
    instrument = instrument_named(name)
    with changing(butler), butler.transaction():
        butler.registry.syncDimensionData(
            "instrument",
            {
                "name": instrument.name,
                "class_name": instrument.class_name,
                "visit_max": instrument.visit_max,
                "exposure_max": instrument.exposure_max,
                "detector_max": instrument.detector_max,
                "visit_system": ONE_TO_ONE,
            },
        )
        butler.registry.insertDimensionData(
            "detector",
            *(
                {
                    "instrument": instrument.name,
                    "id": detector.id,
                    "full_name": detector.full_name,
                    "name_in_raft": detector.full_name,
                    "raft": None,
                    "purpose": detector.purpose,
                }
                for detector in instrument.detectors
            ),
            skip_existing=True,
        )
        butler.registry.insertDimensionData(
            "physical_filter",
            *(
                {"instrument": instrument.name, "name": physical_filter, "band": band}
                for physical_filter, band in instrument.filters.items()
            ),
            skip_existing=True,
        )
        butler.registry.insertDimensionData(
            "visit_system",
            {"instrument": instrument.name, "id": ONE_TO_ONE, "name": "one-to-one"},
            skip_existing=True,
        )
    with changing(butler):
        butler.collections.register(raw_collection(name), CollectionType.RUN)
        butler.collections.register(calib_collection(name), CollectionType.CALIBRATION)


def raw_collection(instrument: str) -> str:
    """RUN that holds the raws of an instrument."""
    return f"{instrument}/raw"


def calib_collection(instrument: str) -> str:
    """CALIBRATION collection of an instrument."""
    return f"{instrument}/calib"


def input_collections(instrument: str) -> tuple[str, ...]:
    """List the collections every pipeline on an instrument reads, in the order they are searched."""
    return raw_collection(instrument), calib_collection(instrument), REFERENCES, SKY_MAPS


def folder_of(butler: Butler) -> Path:
    """Give the folder a repository lies in."""
    roots = [root for root in butler.get_datastore_roots().values() if root is not None]
    return Path(roots[0].ospath) if roots else Path()
