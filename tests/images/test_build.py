import numpy as np
import pytest
from lsst.images import Box, VisitImage
from lsst.images.fields import ChebyshevField

from nightlab.errors import BadInput, NoPsf, ShapeError
from nightlab.images.build import (
    exposure_time,
    has_psf,
    midpoint_mjd_tai,
    observation,
    psf_flux_correction,
    psf_of,
    visit_image,
    visit_of,
)
from nightlab.images.camera import make_amplifier, make_detector
from nightlab.images.planes import DIFFERENCE_PLANES, VISIT_PLANES, flagged, new_mask
from nightlab.images.psf import PolynomialPsf
from nightlab.images.skymap import SkyMap, TractGrid
from nightlab.images.wcs import fits_header, pixel_to_radec, tan_projection

BOX = Box.from_shape((60, 80))


def _image(psf=True, **changes):
    amplifier = make_amplifier(
        "C00", BOX, raw_bbox=Box.factory[0:60, 0:90], data_bbox=BOX, serial_overscan=Box.factory[0:60, 80:90],
        gain=1.5, read_noise=5.0, saturation=6e4,
    )  # fmt: skip
    detector = make_detector("SimCam", 3, "R3", BOX, amplifiers=[amplifier], pixel_scale=0.25, visit=42)
    stamp = np.exp(-0.5 * (np.hypot(*np.mgrid[-7:8, -7:8]) / 1.5) ** 2)
    arguments = {
        "pixels": np.arange(4800.0).reshape(60, 80),
        "variance": np.full((60, 80), 4.0),
        "planes": {"BAD": np.arange(80)[None, :] + np.zeros((60, 1)) < 2},
        "unit": "adu",
        "projection": tan_projection(10, -5, x=40, y=30, scale=0.25, frame=detector.frame, bbox=BOX),
        "psf": PolynomialPsf(coefficients=stamp[None], order=0, bbox=BOX).to_piff() if psf else None,
        "detector": detector,
        "band": "r",
        "info": observation(
            "SimCam",
            visit=42,
            detector=3,
            physical_filter="sim_r",
            mjd_tai=60000.0,
            exposure_time=864.0,
            ra=10,
            dec=-5,
        ),
        "metadata": {"zeroPoint": 27.5},
    } | changes
    return visit_image(arguments.pop("pixels"), **arguments)


def test_an_image_survives_a_file(tmp_path):
    image = _image()
    image.write(str(tmp_path / "image.fits"))
    back = VisitImage.read(tmp_path / "image.fits")
    np.testing.assert_array_equal(back.image.array, image.image.array)
    np.testing.assert_array_equal(flagged(back.mask, "BAD"), flagged(image.mask, "BAD"))
    assert flagged(back.mask, "BAD").sum() == 120
    assert back.metadata["zeroPoint"] == 27.5
    assert back.sky_projection == image.sky_projection
    assert back.detector == image.detector
    assert back.detector.amplifiers[0].nominal_calibrations.gain == 1.5
    assert visit_of(back) == 42
    np.testing.assert_array_equal(
        back.psf.compute_kernel_image(x=3, y=4).array, image.psf.compute_kernel_image(x=3, y=4).array
    )


def test_times_are_tai():
    image = _image()
    assert exposure_time(image) == pytest.approx(864.0)
    assert midpoint_mjd_tai(image) == pytest.approx(60000.005, abs=1e-9)


def test_a_missing_psf_is_named_only_when_asked_for():
    image = _image(psf=False)
    assert not has_psf(image)
    with pytest.raises(NoPsf, match="visit 42, detector 3 has no point-spread function"):
        psf_of(image)
    assert has_psf(_image())


def test_planes_and_variance_must_share_the_grid():
    with pytest.raises(ShapeError, match=r"variance is \(3, 3\) but the image is \(60, 80\)"):
        _image(variance=np.ones((3, 3)))
    with pytest.raises(ShapeError, match="mask plane BAD is"):
        _image(planes={"BAD": np.zeros((2, 2), bool)})


def test_flagged_joins_planes_and_ignores_unknown_ones():
    mask = new_mask(VISIT_PLANES, Box.from_shape((2, 3)))
    mask.set("BAD", np.array([[1, 0, 0], [0, 0, 0]], bool))
    mask.set("UNMASKED_NAN", np.array([[0, 0, 0], [0, 0, 1]], bool))
    assert flagged(mask, "BAD", "UNMASKED_NAN", "STREAK").tolist() == [[True, False, False], [False, False, True]]
    assert not flagged(mask, "STREAK").any()
    assert "STREAK" in DIFFERENCE_PLANES.names


def test_the_focal_plane_of_a_detector_has_its_scale():
    detector = _image().detector
    here = detector.to_field_angle.apply_forward(x=np.array([0.0, 1.0]), y=np.array([0.0, 0.0]))
    assert np.rad2deg(np.diff(here.x)[0]) * 3600 == pytest.approx(0.25)


def _tract():
    image = _image()
    header = fits_header(image.sky_projection, BOX)
    return image, TractGrid(tract=5, header=header, shape=(60, 80), patch=(30, 40), border=4, cell=(10, 10))


def test_patches_tile_the_tract_and_borders_overlap():
    _, tract = _tract()
    cover = np.zeros((60, 80), int)
    for patch, _, _ in tract.patches():
        box = tract.inner_bbox(patch)
        cover[box.y.start : box.y.stop, box.x.start : box.x.stop] += 1
    assert (cover == 1).all()
    outer = tract.patch_bbox(3)
    assert outer.contains(tract.inner_bbox(3))
    assert outer.shape.y % 10 == outer.shape.x % 10 == 0
    assert tract.cell_grid(3).bbox == outer
    with pytest.raises(BadInput, match="patches 0 to 3, not 4"):
        tract.patch_bbox(4)


def test_a_sky_map_survives_json_and_keeps_its_projection():
    image, tract = _tract()
    sky_map = SkyMap.model_validate_json(SkyMap(name="test", tracts=(tract,)).model_dump_json())
    x, y = np.array([0.0, 79.0]), np.array([0.0, 59.0])
    np.testing.assert_allclose(
        pixel_to_radec(sky_map.tract(5).projection("test"), x, y),
        pixel_to_radec(image.sky_projection, x, y),
        atol=1e-10,
    )
    with pytest.raises(BadInput, match=r"has tracts \[5\], not 6"):
        sky_map.tract(6)


def test_the_aperture_correction_of_an_image_is_evaluated_where_it_is_asked_for():
    image = _image()
    assert psf_flux_correction(image, [3.0, np.nan], [4.0, 4.0])[0] == 1.0
    image.aperture_corrections["psfFlux"] = ChebyshevField(BOX, np.array([[1.05, 0.02]]))
    left, right, nowhere = psf_flux_correction(image, [-0.5, 79.5, np.nan], [10.0, 10.0, 10.0])
    assert (left, right) == (pytest.approx(1.03, abs=1e-3), pytest.approx(1.07, abs=1e-3))
    assert np.isnan(nowhere)
