import importlib.util
import sys
from pathlib import Path

import pytest
from single_frame_scenes import Field

from nightlab.data.instruments import simcam
from nightlab.simulate import SurveyConfig, simulate_survey


@pytest.fixture(scope="session")
def field():
    return Field(seed=8)


@pytest.fixture(scope="session")
def survey(tmp_path_factory):
    """One simulated visit of a small detector: raw, calibrations, reference, truth."""
    config = SurveyConfig(
        seed=4,
        width=512,
        height=512,
        n_template=1,
        n_science=0,
        n_transients=0,
        n_movers=0,
        n_variables=0,
        n_satellites=0,
    )
    made = simulate_survey(tmp_path_factory.mktemp("survey"), config)
    (raw,) = [path for name, path in made.paths.items() if name.startswith("raw/")]
    return {
        "raw": simcam.read_raw(raw),
        "bias": simcam.read_calibration(made.paths["calib/bias_0"]).image,
        "flat": simcam.read_calibration(made.paths["calib/flat_r_0"]).image,
        "reference": made.tables["reference"],
        "visits": made.tables["truth_visits"],
        "sources": made.tables["truth_sources"],
    }


@pytest.fixture(scope="session")
def benchmark():
    """The module that reads the frames of Stripe 82 and what the LSST stack made of them."""
    path = Path(__file__).parents[3] / "benchmarks/single_frame.py"
    spec = importlib.util.spec_from_file_location("benchmark_single_frame", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module
