import numpy as np
import pytest

from nightlab.data.instruments.sdss import read_raw
from nightlab.numeric.statistics import robust_width
from nightlab.stages.single_frame import calibrate

pytestmark = pytest.mark.real_data


@pytest.mark.parametrize(("run", "band"), [(4192, "r"), (6377, "z")])
def test_a_frame_is_as_good_as_the_stacks(stripe82, benchmark, run, band):
    reference = benchmark.reference_catalogue(stripe82)
    stack = benchmark.stack_catalogue(stripe82)
    result = calibrate(read_raw(benchmark.frame_path(stripe82, run, band)), reference=reference)
    seen = benchmark.compare(result, stack, run, band, reference)
    found, offset = seen.values, seen.offset
    assert len(seen.found) > 150
    assert len(offset) > 25
    assert seen.found[:, 0].mean() >= 0.98
    assert seen.unknown.mean() <= 0.05
    assert np.median(seen.bright) == pytest.approx(1.0, abs=0.01)
    assert robust_width(seen.bright) <= 0.015
    assert robust_width(seen.faint) <= 0.5
    assert np.sqrt((offset**2).mean(axis=0)).max() < 0.03
    assert np.nanmedian(seen.size) == pytest.approx(1.0, abs=0.01)
    assert robust_width(seen.size[np.isfinite(seen.size)]) < 0.03
    assert found["aperture"] == pytest.approx(1.0, abs=0.005)
    assert max(found["east"], found["north"]) <= 43  # what the stack's own leave on these stars
    assert abs(found["east_median"]) + abs(found["north_median"]) < 20
    assert abs(found["zero_point_offset"]) < (0.03 if band == "r" else 0.07)
    assert found["zero_point_scatter"] < 0.04
    assert 0.95 < found["sky_noise_ratio"] < 1.1
    assert np.isfinite(result.visit_image.image.array).all()
