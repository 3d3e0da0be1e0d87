"""One seeded sky and camera: images with truth, for demonstrations, tests and benchmarks."""

from nightlab.simulate.config import PRESETS, SurveyConfig
from nightlab.simulate.frames import Pair, small_pair
from nightlab.simulate.survey import Survey, simulate_survey

__all__ = ["PRESETS", "Pair", "Survey", "SurveyConfig", "simulate_survey", "small_pair"]
