import numpy as np
import pytest
from lsst.images import Box

from nightlab.errors import BadInput, CorruptFile
from nightlab.images.footprints import Footprints

BOX = Box.factory[100:112, 50:70]


def picture():
    """A region with a hole and two peaks, one that touches a corner of it with none, one alone, one without a peak."""
    regions = np.zeros((12, 20), bool)
    regions[1:6, 2:8] = True
    regions[3, 4] = False
    regions[6, 8] = True
    regions[8:10, 15:20] = True
    regions[11, 0] = True
    x, y = np.array([53.2, 56.9, 67.0]), np.array([102.1, 104.4, 109.0])
    return regions, x, y, np.array([9.0, 7.0, 5.5])


@pytest.fixture
def footprints():
    regions, x, y, height = picture()
    return Footprints.of_regions(regions, BOX, x, y, height)


def same(one, other):
    assert one.box == other.box
    for name in one.__dataclass_fields__:
        if name != "box":
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)


def test_regions_become_footprints_with_their_peaks(footprints):
    regions, *_ = picture()
    assert len(footprints) == 2
    np.testing.assert_array_equal(footprints.n_peaks, [2, 1])
    np.testing.assert_array_equal(footprints.area, [30, 10])
    regions[11, 0] = False
    np.testing.assert_array_equal(footprints.mask(), regions)
    row = (footprints.span_of == 0) & (footprints.span_y == 103)
    np.testing.assert_array_equal(footprints.span_x0[row], [52, 55])
    np.testing.assert_array_equal(footprints.span_x1[row], [53, 57])


def test_a_place_tells_its_footprint(footprints):
    found = footprints.at([53.0, 54.0, 58.0, 69.4, 10.0, 51.0], [102.0, 103.0, 106.0, 108.4, 102.0, 102.0])
    np.testing.assert_array_equal(found, [0, -1, 0, 1, -1, -1])


def test_any_regions_are_painted_back_as_they_were():
    rng = np.random.default_rng(4)
    for fill in (0.1, 0.4, 0.7, 1.0):
        regions = rng.uniform(size=(12, 20)) < fill
        y, x = np.nonzero(regions)
        made = Footprints.of_regions(regions, BOX, x + 50.0, y + 100.0, np.ones(x.size))
        np.testing.assert_array_equal(made.mask(), regions)
        assert made.area.sum() == regions.sum() == made.n_peaks.sum()
        labels = made.labels()
        np.testing.assert_array_equal(labels[y, x], made.peak_of)


def test_both_signs_travel_together_and_apart(footprints):
    holes = np.zeros((12, 20), bool)
    holes[0, 10:14] = True
    negative = Footprints.of_regions(holes, BOX, np.array([61.0]), np.array([100.0]), np.array([-6.0]), sign=-1)
    both = footprints.with_others(negative)
    assert len(both) == 3
    np.testing.assert_array_equal(both.sign, [1, 1, -1])
    np.testing.assert_array_equal(both.mask(-1), holes)
    np.testing.assert_array_equal(both.mask(1), footprints.mask())
    same(both.chosen(both.sign < 0), negative)
    same(both.chosen(both.sign > 0), footprints)
    with pytest.raises(BadInput, match="belong together"):
        both.with_others(Footprints.of_regions(holes, Box.from_shape((12, 20)), *np.empty((3, 0))))


def test_files_bring_back_what_was_written(footprints, tmp_path):
    path = tmp_path / "footprints.fits"
    footprints.write(path)
    same(Footprints.read(path), footprints)
    with pytest.raises(BadInput, match="there already"):
        footprints.write(path)
    footprints.write(path, overwrite=True)
    none = footprints.chosen(np.zeros(2, bool))
    none.write(path, overwrite=True)
    same(Footprints.read(path), none)
    assert not none.mask().any()
    assert [file.name for file in tmp_path.iterdir()] == ["footprints.fits"]


def test_what_holds_no_footprints_is_told(footprints, tmp_path):
    path = tmp_path / "footprints.fits"
    footprints.write(path)
    path.write_bytes(path.read_bytes()[:4000])
    with pytest.raises(CorruptFile, match="holds no footprints"):
        Footprints.read(path)
    spans, peaks = footprints.to_tables()
    with pytest.raises(CorruptFile, match="sign missing"):
        Footprints.from_tables(spans[["footprint", "y", "x0", "x1"]], peaks)
    with pytest.raises(CorruptFile, match="no run of pixels"):
        Footprints.from_tables(spans[spans["footprint"] != 0], peaks)


def test_regions_of_another_shape_are_refused():
    with pytest.raises(BadInput, match="do not fill"):
        Footprints.of_regions(np.zeros((3, 3), bool), BOX, *np.empty((3, 0)))
