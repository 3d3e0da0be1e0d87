import importlib.util
from pathlib import Path

import numpy as np
import pytest

from nightlab.data.instruments.sdss import read_raw
from nightlab.stages.single_frame import calibrate

pytestmark = pytest.mark.real_data


@pytest.fixture(scope="module")
def benchmark():
    path = Path(__file__).parents[3] / "benchmarks/single_frame.py"
    spec = importlib.util.spec_from_file_location("benchmark_single_frame", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("run", "band"), [(4192, "r"), (6377, "z")])
def test_a_frame_is_as_good_as_the_stacks(stripe82, benchmark, run, band):
    reference = benchmark.reference_catalogue(stripe82)
    theirs = benchmark.clean_stack_sources(benchmark.stack_catalogue(stripe82), run, band)
    assert len(theirs) > 150
    result = calibrate(read_raw(benchmark.frame_path(stripe82, run, band)), reference=reference)
    seen = benchmark.compare(result, theirs, reference)
    assert seen["found05"] >= 0.97 * len(theirs)
    assert max(seen["east"], seen["north"]) <= 45
    assert abs(seen["east_median"]) + abs(seen["north_median"]) < 20
    assert abs(seen["zero_point_offset"]) < (0.03 if band == "r" else 0.07)
    assert seen["zero_point_scatter"] < 0.04
    assert seen["ratio"] == pytest.approx(1.0, abs=0.03)
    assert seen["centroid"] < 0.03
    assert seen["size"] == pytest.approx(1.0, abs=0.01)
    assert 0.95 < seen["sky_noise_ratio"] < 1.1
    assert np.isfinite(result.visit_image.image.array).all()
