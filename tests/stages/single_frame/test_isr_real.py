"""A real camera without any calibration: ALFOSC's biases and lamp flats, LSSTCam's crosstalk, HSC's kernel."""

import numpy as np
import pytest
from astropy.io import fits
from lsst.images import Box, DetectorFrame

from nightlab.data.locate import data_set
from nightlab.errors import MissingData
from nightlab.images.build import observation, visit_image
from nightlab.images.camera import make_amplifier, make_detector
from nightlab.images.wcs import tan_projection
from nightlab.stages.single_frame.brighter_fatter import remove_brighter_fatter
from nightlab.stages.single_frame.builders import BuildConfig, build_bias, build_flat, find_defects
from nightlab.stages.single_frame.isr import Calibrations, IsrConfig, overscan_noise, remove_signature
from nightlab.stages.single_frame.overscan import ParallelOverscanConfig

pytestmark = pytest.mark.real_data
LIGHT, OVERSCAN = Box.factory[0:1020, 0:400], Box.factory[1034:1047, 0:400]
GAIN = 0.18  # electron/adu, from the photon transfer of these frames
ISR = IsrConfig(parallel_overscan=ParallelOverscanConfig(method="median"), max_read_noise=25.0)
CONFIG = BuildConfig(isr=ISR)


def real(name):
    try:
        return data_set(name)
    except MissingData as error:
        pytest.skip(str(error))


def alfosc(path):
    with fits.open(path) as hdus:
        # a few pixels have wrapped below zero
        pixels = np.asarray(hdus[1].data, np.uint32).astype(np.uint32).view(np.int32).astype(float)
        seconds = float(hdus[0].header["EXPTIME"])
    amplifier = make_amplifier(
        "A", LIGHT, raw_bbox=Box.from_shape(pixels.shape), data_bbox=LIGHT, parallel_overscan=OVERSCAN,
        gain=GAIN, read_noise=5.7, saturation=7e5,
    )  # fmt: skip
    detector = make_detector("ALFOSC", 0, "CCD14", LIGHT, amplifiers=[amplifier], pixel_scale=0.2138, visit=1)
    frame = DetectorFrame(instrument="ALFOSC", visit=1, detector=0, bbox=LIGHT)
    info = observation(
        "ALFOSC", visit=1, detector=0, physical_filter="white", mjd_tai=58929.0, exposure_time=seconds, ra=0.0, dec=0.0
    )
    projection = tan_projection(0.0, 0.0, x=200, y=500, scale=0.2138, frame=frame)
    return visit_image(pixels, unit="adu", projection=projection, psf=None, detector=detector, band="r", info=info)


@pytest.fixture(scope="module")
def biases():
    return [alfosc(path) for path in sorted((real("not-alfosc-raw-ccd") / "bias").glob("*.fits"))]


@pytest.fixture(scope="module")
def flats():
    return [alfosc(path) for path in sorted((real("not-alfosc-raw-ccd") / "flat").glob("*.fits"))]


def width(values):
    return 1.4826 * np.median(np.abs(values - np.median(values)))


def test_the_bias_of_a_real_camera_leaves_its_read_noise(biases):
    assert len(biases) == 6
    noise = [overscan_noise(bias, ISR)["A"] for bias in biases]
    # 31.5 adu between pairs of biases
    np.testing.assert_allclose(noise, 31.5 * GAIN, rtol=0.06)
    combined = build_bias(biases[:-1], CONFIG)
    left = remove_signature(biases[-1], Calibrations(bias=combined), ISR).pixels
    assert width(left) == pytest.approx(31.5 * GAIN * np.sqrt(1 + 1 / 5), rel=0.05)
    assert left.std() < 2.0 * 31.5 * GAIN
    # the level itself follows the overscan to a few counts, while the bias drifts by 50 adu over these frames
    assert abs(np.median(left)) < 1.0


def test_lamps_of_a_real_camera_make_a_flat_that_takes_their_structure_away(biases, flats):
    bias = build_bias(biases, CONFIG)
    lamp = build_flat(flats[:-1], Calibrations(bias=bias), BuildConfig(isr=ISR, min_frames=2))
    assert np.isfinite(lamp.array).mean() > 0.999
    frame = remove_signature(
        flats[-1], Calibrations(bias=bias, flat=lamp), IsrConfig(**ISR.model_dump() | {"min_flat": 0.02})
    )
    good = frame.usable & (lamp.array > 0.5)
    ratio = frame.pixels[good] / np.median(frame.pixels[good])
    # photons of the frame and of the two flats
    expected = np.sqrt(frame.variance[good] * (1 + 1 / 2)) / np.median(frame.pixels[good])
    assert width((ratio - 1) / expected) == pytest.approx(1.0, abs=0.1)
    raw = remove_signature(flats[-1], Calibrations(bias=bias), ISR).pixels[good]
    assert width(ratio) < 0.1 * width(raw / np.median(raw))


def test_defects_of_a_real_camera_are_few(biases, flats):
    flat = build_flat(flats, Calibrations(bias=build_bias(biases, CONFIG)), CONFIG)
    defects = find_defects(None, flat)
    bad = int((np.asarray(defects["width"]) * np.asarray(defects["height"])).sum())
    assert 0 < bad < 0.005 * LIGHT.x.size * LIGHT.y.size


def test_the_kernel_measured_for_hsc_sharpens_stars_and_keeps_their_flux():
    kernel = np.load(real("lsst-raw-headers-and-calibs") / "calib/hsc/brighter_fatter_kernel.npy")
    assert kernel.shape == (17, 17)
    y, x = np.mgrid[:81, :81] - 40.0
    profile = np.exp(-0.5 * (x**2 + y**2) / 2.0**2)
    growth = []
    for peak in (1e3, 5e4):
        star = peak * profile
        fixed = remove_brighter_fatter(star, kernel, np.ones(star.shape, bool))
        assert abs(fixed.sum() / star.sum() - 1) < 1e-9
        size = (fixed * (x**2 + y**2)).sum() / fixed.sum()
        growth.append(size / 8.0 - 1)
    # stars of HSC grow by about a per cent towards saturation (Coulton et al. 2018, figure 9)
    assert -0.05 < growth[1] < -0.003
    assert abs(growth[0]) < 0.1 * abs(growth[1])
