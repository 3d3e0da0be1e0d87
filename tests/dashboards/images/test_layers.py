import numpy as np
import pytest
from astropy.io import fits
from image_makers import masked_image, projection

from nightlab.dashboards.images import as_layer
from nightlab.dashboards.images.fits import cutout_fits, read_layer
from nightlab.dashboards.images.layers import trouble
from nightlab.dashboards.images.readout import box_statistics, read_pixel, readout_html
from nightlab.dashboards.images.shared import SharedLayers
from nightlab.dashboards.states import Nothing, Reason
from nightlab.errors import BadInput, CorruptFile, MissingData, ShapeError


def test_the_readout_is_the_pixel_exactly_with_noise_and_mask_names():
    image = masked_image()
    layer = as_layer(image)
    reading = read_pixel("science", layer, 33.4, 11.6)
    assert reading.value == image.image.array[12, 33]
    assert reading.sigma == 3.0
    assert reading.snr == reading.value / 3.0
    assert reading.flags == ("DETECTED", "STREAK")
    assert read_pixel("science", layer, 70, 50).flags == ("BAD", "NO_DATA")
    assert read_pixel("science", layer, 0, 0).flags == ()


@pytest.mark.parametrize(("x", "y"), [(-0.6, 3), (79.6, 3), (3, -0.6), (3, 59.6), (np.nan, 3)])
def test_beside_the_image_nothing_is_read(x, y):
    reading = read_pixel("science", as_layer(masked_image()), x, y)
    assert (reading.value, reading.sigma, reading.flags) == (None, None, ())


def test_pixels_know_their_place_in_a_detector():
    image = masked_image(x0=1000, y0=200)
    reading = read_pixel("science", as_layer(image), 1033, 212)
    assert reading.value == image.image.array[12, 33]


def test_masks_are_counted_by_plane():
    counts = as_layer(masked_image()).plane_counts
    assert {name: n for name, n in counts.items() if n} == {
        "SATURATED": 1, "DETECTED": 100, "STREAK": 1, "BAD": 1, "NO_DATA": 1
    }  # fmt: skip


def test_integers_are_read_without_loss():
    big = 2**40 + 1
    layer = as_layer(np.full((3, 3), big))
    assert read_pixel("a", layer, 1, 1).value == big
    assert str(big) in readout_html_of(layer)
    assert "integer pixels" in layer.notes


def readout_html_of(layer):
    from nightlab.dashboards.images.readout import read_all

    return readout_html(read_all({"a": (layer, 1.0, 1.0)}, "a"))


def test_big_endian_pixels_become_native():
    layer = as_layer(np.arange(12, dtype=">f4").reshape(3, 4))
    assert layer.values.dtype.isnative
    assert layer.values[2, 3] == 11.0


def test_of_a_cube_the_first_plane_is_shown_and_said():
    layer = as_layer(np.arange(24.0).reshape(2, 3, 4))
    assert layer.shape == (3, 4)
    assert layer.notes == ("plane 1 of 2 is shown",)


@pytest.mark.parametrize("thing", [np.zeros(5), np.zeros((0, 4)), np.array([["a", "b"]])])
def test_what_is_no_image_is_refused(thing):
    with pytest.raises(BadInput):
        as_layer(thing)


def test_planes_of_another_shape_are_refused():
    with pytest.raises(ShapeError, match="variance"):
        as_layer(np.zeros((3, 4)), variance=np.zeros((4, 3)))


def test_nothing_but_nan_and_nothing_but_masked_are_named():
    assert trouble(as_layer(np.full((4, 4), np.nan))).state.reason is Reason.ALL_NAN
    masked = as_layer(np.full((4, 4), np.nan), mask=np.ones((4, 4), np.uint32))
    assert trouble(masked).state.reason is Reason.ALL_MASKED
    assert trouble(as_layer(np.zeros((4, 4)))) is None


def test_one_pixel_among_millions_is_enough():
    values = np.full((1500, 1500), np.nan, np.float32)
    values[1, 1] = 1.0
    assert trouble(as_layer(values)) is None


def test_signal_to_noise_is_the_quotient_and_needs_variance():
    image = masked_image()
    whole = as_layer(image)
    layer = whole.signal_to_noise
    assert whole.signal_to_noise is layer  # made once for all who look
    np.testing.assert_allclose(layer.values, image.image.array / 3.0, rtol=1e-6)
    with pytest.raises(Nothing, match="no variance"):
        _ = as_layer(np.zeros((3, 3))).signal_to_noise


def test_statistics_of_a_box_count_and_ignore():
    values = np.arange(100.0).reshape(10, 10)
    values[2, 3] = np.nan
    layer = as_layer(values, variance=np.full((10, 10), 4.0))
    found = box_statistics("a", layer, (2.0, 4.0, 1.0, 2.0))
    inside = [12, 13, 14, 22, 24]
    assert (found.count, found.ignored) == (5, 1)
    assert found.median == np.median(inside)
    assert found.sigma == pytest.approx(1.4826 * np.median(np.abs(inside - np.median(inside))))
    assert found.chi2 == pytest.approx(np.mean(np.square(inside)) / 4)
    assert box_statistics("a", layer, (50.0, 60.0, 1.0, 2.0)).count == 0


def test_a_cutout_carries_pixels_names_of_planes_and_sky(tmp_path):
    layer = as_layer(masked_image(sky=projection()))
    path = tmp_path / "cutout.fits"
    path.write_bytes(cutout_fits(layer, (28.0, 45.0, 8.0, 25.0)))
    back = read_layer(path)
    assert (back.x0, back.y0) == (28, 8)
    assert (back.values == layer.values[8:26, 28:46]).all()
    assert (back.variance == 9).all()
    there, here = (read_pixel("a", each, 33, 12) for each in (back, layer))
    assert there == here
    from nightlab.dashboards.images.readout import position

    assert position(back, 33, 12) == pytest.approx(position(layer, 33, 12), abs=1e-9)
    with pytest.raises(BadInput, match="does not touch"):
        cutout_fits(layer, (500.0, 600.0, 8.0, 25.0))


def test_fits_files_of_others_are_read_with_what_they_have(tmp_path):
    path = tmp_path / "other.fits"
    header = fits.Header({"BUNIT": "adu"})
    mask = fits.ImageHDU(np.array([[0, 4]], np.int16), fits.Header({"MP_SAT": 2}), name="MASK")
    weight = fits.ImageHDU(np.array([[0.25, 0.0]]), name="WEIGHT")
    fits.HDUList([fits.PrimaryHDU(np.array([[1, 2]], np.int16), header), mask, weight]).writeto(path)
    layer = as_layer(path)
    assert (layer.unit, layer.projection, layer.title) == ("adu", None, "other.fits")
    assert read_pixel("a", layer, 0, 0).sigma == 2.0
    assert read_pixel("a", layer, 1, 0).flags == ("SAT",)
    assert layer.flags_at(0, 0) == []


def test_files_that_cannot_be_shown_say_why(tmp_path):
    with pytest.raises(MissingData, match="absent"):
        as_layer(tmp_path / "absent.fits")
    broken = tmp_path / "broken.fits"
    broken.write_bytes(b"SIMPLE  = nonsense")
    with pytest.raises(CorruptFile):
        as_layer(broken)
    empty = tmp_path / "empty.fits"
    fits.PrimaryHDU().writeto(empty)
    with pytest.raises(BadInput, match="no image"):
        as_layer(empty)


def test_layers_are_shared_and_the_oldest_are_forgotten():
    room = SharedLayers(max_bytes=3 * as_layer(np.zeros((100, 100))).nbytes)
    made = []

    def make(key):
        made.append(key)
        return as_layer(np.zeros((100, 100)))

    first = room.get("a", lambda: make("a"))
    assert room.get("a", lambda: make("a")) is first
    for key in "bcd":
        room.get(key, lambda key=key: make(key))
    assert made == ["a", "b", "c", "d"]
    assert room.nbytes <= room.max_bytes
    room.get("a", lambda: make("a"))
    assert made[-1] == "a"
