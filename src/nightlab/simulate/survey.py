"""The whole survey: draw, expose and write every frame of every visit, with the truth beside it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from nightlab.simulate.camera import Chip, bias_structure, calibration_frames, chips, flat_response
from nightlab.simulate.config import PRESETS, SurveyConfig
from nightlab.simulate.exposure import expose, observe
from nightlab.simulate.raw import write_calibration, write_raw, write_table
from nightlab.simulate.sky import make_sky
from nightlab.simulate.truth import join_sources, predict_snr, reference_catalogue, visit_table
from nightlab.simulate.visit import Visit, plan_visits


@dataclass(frozen=True, kw_only=True)
class Survey:
    """A simulated survey on disk.

    Attributes
    ----------
    config
        What it was made of.
    directory
        Where it lies.
    paths
        Its files by name: ``raw/<visit>_<detector>``, ``calib/bias_<detector>``, ``calib/flat_<band>_<detector>``,
        ``reference``, ``truth_objects``, ``truth_visits`` and ``truth_sources``.
    tables
        The last four, in memory.
    """

    config: SurveyConfig
    directory: Path
    paths: Mapping[str, Path]
    tables: Mapping[str, Table]


def simulate_survey(directory: str | Path, config: SurveyConfig = PRESETS["small"]) -> Survey:
    """Simulate a survey and write it into a directory.

    Parameters
    ----------
    directory
        Created when it does not exist. Every file is written whole or not at all; older files of the same names are
        replaced.
    config
        Camera, field, plan and seed; `PRESETS` has four sizes. The same configuration gives the same bytes.

    Returns
    -------
    Survey
        Where the files are, and the tables.

    Raises
    ------
    WriteFailed
        When the directory cannot be written.
    """
    directory = Path(directory)
    visits, camera = plan_visits(config), chips(config)
    sky = make_sky(config, visits)
    paths: dict[str, Path] = {}
    parts = []
    for chip in camera:
        paths |= _write_calibrations(directory, chip, config)
        parts += _take_exposures(directory, visits, chip, sky, config, paths)
    sources = join_sources(parts)
    order = np.lexsort(
        (np.asarray(sources["objectId"]), np.asarray(sources["detector"]), np.asarray(sources["visit"]))
    )
    tables = {
        "reference": reference_catalogue(sky, config),
        "truth_objects": sky,
        "truth_visits": visit_table(visits, config),
        "truth_sources": predict_snr(sources[order], visits),
    }
    for name, table in tables.items():
        paths[name] = directory / f"{name}.parquet"
        write_table(paths[name], table)
    return Survey(config=config, directory=directory, paths=paths, tables=tables)


def _write_calibrations(directory: Path, chip: Chip, config: SurveyConfig) -> dict[str, Path]:
    bias, flats = calibration_frames(config, chip)
    paths = {f"calib/bias_{chip.detector}": directory / "calib" / f"bias_{chip.detector}.fits"}
    write_calibration(paths[f"calib/bias_{chip.detector}"], bias, "bias", chip)
    for band, flat in flats.items():
        name = f"flat_{band}_{chip.detector}"
        paths[f"calib/{name}"] = directory / "calib" / f"{name}.fits"
        write_calibration(paths[f"calib/{name}"], flat, "flat", chip, band)
    return paths


def _take_exposures(
    directory: Path, visits: tuple[Visit, ...], chip: Chip, sky: Table, config: SurveyConfig, paths: dict[str, Path]
) -> list[Table]:
    bias = bias_structure(config, chip)
    flats: dict[str, NDArray[np.float64]] = {band: flat_response(config, chip, band) for band in config.bands}
    parts = []
    for visit in visits:
        scene = observe(visit, chip, sky, config)
        pixels = expose(scene, visit, chip, flats[visit.band], bias, config)
        name = f"{visit.visit}_{chip.detector}"
        paths[f"raw/{name}"] = directory / "raw" / f"{name}.fits"
        write_raw(paths[f"raw/{name}"], pixels, visit, chip, config)
        sources = scene.sources
        sources.add_column(np.full(len(sources), visit.visit, np.int64), name="visit", index=0)
        sources.add_column(np.full(len(sources), chip.detector, np.int64), name="detector", index=1)
        sources.add_column(np.full(len(sources), visit.band, "U1"), name="band", index=2)
        parts.append(sources)
    return parts
