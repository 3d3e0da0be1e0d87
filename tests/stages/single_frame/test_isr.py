import numpy as np
import pytest
from lsst.images import Box, DetectorFrame, Image

from nightlab.errors import AllMasked, BadInput, ShapeError
from nightlab.images.build import observation, visit_image
from nightlab.images.camera import make_amplifier, make_detector
from nightlab.images.wcs import tan_projection
from nightlab.stages.single_frame.isr import Calibrations, IsrConfig, interpolate_pixels, needs_isr, remove_signature

BOX = Box.factory[0:4, 0:6]
CONFIG = IsrConfig(saturation_grow=0.0)


def amplifier(name, column, *, flip, gain, read_noise=3.0):
    """Three columns of light and two of overscan each; the second one is read from the right."""
    start = 5 * column
    return make_amplifier(
        name,
        Box.factory[0:4, 3 * column : 3 * column + 3],
        raw_bbox=Box.factory[0:4, start : start + 5],
        data_bbox=Box.factory[0:4, start : start + 3],
        serial_overscan=Box.factory[0:4, start + 3 : start + 5],
        flip_x=flip,
        gain=gain,
        read_noise=read_noise,
        saturation=5000.0,
    )


def raw_image(pixels, amplifiers):
    detector = make_detector("TestCam", 1, "D1", BOX, amplifiers=amplifiers, pixel_scale=0.3, visit=5)
    frame = DetectorFrame(instrument="TestCam", visit=5, detector=1, bbox=BOX)
    info = observation(
        "TestCam", visit=5, detector=1, physical_filter="r", mjd_tai=6e4, exposure_time=1.0, ra=0.0, dec=0.0
    )
    projection = tan_projection(10.0, 0.0, x=3, y=2, scale=0.3, frame=frame)
    return visit_image(pixels, unit="adu", projection=projection, psf=None, detector=detector, band="r", info=info)


@pytest.fixture
def two_amplifiers():
    light = np.arange(24.0).reshape(4, 6)
    level = np.array([100.0, 101.0, 99.0, 100.0])[:, None]
    raw = np.zeros((4, 10))
    raw[:, 0:3], raw[:, 3:5] = light[:, 0:3] + level, level
    raw[:, 5:8], raw[:, 8:10] = light[:, 3:6][:, ::-1] + 2 * level, 2 * level
    return light, raw, [amplifier("A", 0, flip=False, gain=2.0), amplifier("B", 1, flip=True, gain=3.0)]


def test_amplifiers_are_assembled_without_overscan_and_in_electrons(two_amplifiers):
    light, raw, amplifiers = two_amplifiers
    image = raw_image(raw, amplifiers)
    assert needs_isr(image)
    frame = remove_signature(image, Calibrations(), CONFIG)
    gain = np.repeat([[2.0, 3.0]], 3, axis=1)
    np.testing.assert_allclose(frame.pixels, light * gain)
    np.testing.assert_allclose(frame.variance, light * gain + 9.0)
    assert not any(where.any() for where in frame.planes.values())


def test_bias_and_flat_propagate_into_the_variance(two_amplifiers):
    light, raw, amplifiers = two_amplifiers
    flat = np.full((4, 6), 0.5)
    flat[1, 1], flat[2, 2] = 0.01, np.nan
    frame = remove_signature(
        raw_image(raw, amplifiers),
        Calibrations(bias=Image(np.full((4, 6), 2.0), bbox=BOX), flat=Image(flat, bbox=BOX)),
        CONFIG,
    )
    electrons = (light - 2.0) * np.repeat([[2.0, 3.0]], 3, axis=1)
    good = ~frame.planes["BAD"]
    assert np.argwhere(~good).tolist() == [[1, 1], [2, 2]]
    np.testing.assert_allclose(frame.pixels[good], (electrons / 0.5)[good])
    np.testing.assert_allclose(frame.variance[good], ((np.maximum(electrons, 0) + 9.0) / 0.25)[good])


def test_saturation_is_judged_on_the_raw_level_and_grown(two_amplifiers):
    _, raw, amplifiers = two_amplifiers
    raw[1, 1] = 5000.0
    frame = remove_signature(raw_image(raw, amplifiers), Calibrations(), IsrConfig(saturation_grow=1.0))
    assert np.argwhere(frame.planes["SATURATED"]).tolist() == [[0, 1], [1, 0], [1, 1], [1, 2], [2, 1]]


def test_nan_pixels_have_no_data(two_amplifiers):
    light, raw, amplifiers = two_amplifiers
    raw[3, 0] = np.nan
    frame = remove_signature(raw_image(raw, amplifiers), Calibrations(), CONFIG)
    assert np.argwhere(~frame.usable).tolist() == [[3, 0]]
    assert np.isfinite(frame.pixels).all()
    assert frame.pixels[0, 1] == light[0, 1] * 2.0


def test_refusals(two_amplifiers):
    _, raw, amplifiers = two_amplifiers
    with pytest.raises(AllMasked, match="no usable pixel"):
        remove_signature(raw_image(np.full_like(raw, np.nan), amplifiers), Calibrations(), CONFIG)
    with pytest.raises(ShapeError, match="bias covers"):
        remove_signature(raw_image(raw, amplifiers), Calibrations(bias=Image(np.zeros((3, 6)))), CONFIG)
    with pytest.raises(BadInput, match="gain -1"):
        remove_signature(raw_image(raw, [amplifier("A", 0, flip=False, gain=-1.0)]), Calibrations(), CONFIG)


def test_interpolation_restores_a_plane():
    y, x = np.indices((20, 20))
    plane = 3.0 * x - y + 10.0
    missing = np.zeros((20, 20), bool)
    missing[5, 5:7] = missing[12, 12] = True
    filled = interpolate_pixels(np.where(missing, -999.0, plane), missing)
    np.testing.assert_allclose(filled[12, 12], plane[12, 12])
    np.testing.assert_allclose(filled[5, 5:7], plane[5, 5:7], atol=1.5)
    np.testing.assert_array_equal(filled[~missing], plane[~missing])
