import numpy as np
import pytest
from pydantic import ValidationError
from simcam_reading import assemble

from nightlab.simulate.camera import bias_structure, calibration_frames, chips, flat_response, read_out
from nightlab.simulate.config import SurveyConfig


def _camera(**knobs):
    config = SurveyConfig(width=128, height=96, amp_columns=2, amp_rows=2, serial_overscan=64, **knobs)
    return config, chips(config)[0]


def test_amplifiers_tile_the_assembled_and_the_raw_frame_once():
    _, chip = _camera()
    assembled, raw = np.zeros(chip.bbox.shape, int), np.zeros(chip.raw_bbox.shape, int)
    for amplifier in chip.amplifiers:
        geometry = amplifier.assembled_raw_geometry
        assembled[amplifier.bbox.slice_within(chip.bbox)] += 1
        raw[geometry.bbox.slice_within(chip.raw_bbox)] += 1
        assert geometry.data_bbox.shape == amplifier.bbox.shape
        parts = (geometry.data_bbox, geometry.serial_overscan_bbox, geometry.parallel_overscan_bbox)
        assert all(geometry.bbox.contains(part) for part in parts)
        assert geometry.x_offset == amplifier.bbox.x.start - geometry.data_bbox.x.start
    assert (assembled == 1).all()
    assert (raw == 1).all()
    assert [a.assembled_raw_geometry.flip_y for a in chip.amplifiers] == [False, False, True, True]


def test_detectors_do_not_overlap_and_surround_the_boresight():
    config = SurveyConfig(detector_columns=2, detector_rows=2, width=128, height=96, gap=10)
    corners = [(chip.x0, chip.y0) for chip in chips(config)]
    assert corners == [(-132.5, -100.5), (5.5, -100.5), (-132.5, 5.5), (5.5, 5.5)]


def test_charge_survives_the_round_trip_through_overscan_bias_and_gain():
    config, chip = _camera(read_noise=3.0)
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:96, :128]
    charge = 2000.0 + 10.0 * x + 3.0 * y  # tells every mirroring from the others
    bias = bias_structure(config, chip)
    raw = read_out(charge, chip, bias, config, rng)
    assert raw.dtype == np.uint16
    found = assemble(raw, chip.amplifiers, bias)
    # read noise, rounding to an adu, and the noise of 64 overscan pixels per row
    residual = found - charge
    assert abs(residual.mean()) < 0.1
    assert residual.std() == pytest.approx(np.hypot(3.0, 1.7 / np.sqrt(12.0)) * np.sqrt(1.0 + 1.0 / 64.0), rel=0.06)
    assert np.abs(residual).max() < 20.0


def test_full_pixels_reach_the_saturation_level_and_others_do_not():
    config, chip = _camera()
    charge = np.full(chip.bbox.shape, 90000.0)
    charge[10, 20] = charge[80, 100] = 5.0e6
    raw = read_out(charge, chip, np.zeros(chip.bbox.shape), config, np.random.default_rng(2))
    saturated = 0
    for amplifier in chip.amplifiers:
        pixels = raw[amplifier.assembled_raw_geometry.bbox.slice_within(chip.raw_bbox)]
        saturated += int((pixels >= amplifier.nominal_calibrations.saturation).sum())
    assert saturated == 2


def test_calibration_frames_are_the_truth_with_little_noise():
    config, chip = _camera()
    bias, flats = calibration_frames(config, chip)
    flat = flat_response(config, chip, "r")
    assert flat.mean() == pytest.approx(1.0)
    assert 0.004 < flat.std() < 0.05
    assert 0.5 < bias_structure(config, chip).std() < 10.0
    assert (bias - bias_structure(config, chip)).std() == pytest.approx(6.0 / 1.7 / 10.0, rel=0.15)
    assert (flats["r"] / flat).std() == pytest.approx(1.0e-3, rel=0.1)
    assert bias.dtype == flats["r"].dtype == np.float32


def test_amplifiers_must_divide_the_detector():
    with pytest.raises(ValidationError, match="do not divide"):
        SurveyConfig(width=130, amp_columns=4)
