import pytest
from simcam_reading import TINY

from nightlab.simulate import PRESETS, simulate_survey


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    return simulate_survey(tmp_path_factory.mktemp("tiny"), TINY)


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    return simulate_survey(tmp_path_factory.mktemp("small"), PRESETS["small"])
