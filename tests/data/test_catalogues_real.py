"""Every entry of the catalogues on the real data, at once, later, and through the second version of intake."""

import dask.dataframe
import intake
import numpy as np
import pytest
import xarray as xr
from astropy.io.fits import Header
from astropy.table import Table
from lsst.images import DifferenceImage, MaskedImage, VisitImage

import nightlab as nl
from nightlab.data.locate import data_set
from nightlab.data.manifests import faults, manifest, manifest_names
from nightlab.data.sources.catalogue import entries
from nightlab.data.sources.export import export_v2
from nightlab.errors import MissingData
from nightlab.pipelines.tasks import one_thread

pytestmark = pytest.mark.real_data

KINDS = {"VisitImage": VisitImage, "DifferenceImage": DifferenceImage, "MaskedImage": MaskedImage,
         "Table": Table, "Dataset": xr.Dataset, "Header": Header}  # fmt: skip
CATALOGUE = nl.open_catalog()
ENTRIES = {name: entry for name, entry in entries(CATALOGUE) if entry.describe()["args"].get("data_set")}
PRODUCTS = {name: entry for name, entry in entries(CATALOGUE) if entry.describe()["args"].get("dataset_type")}


def here(name):
    try:
        return data_set(name)
    except MissingData as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "v2.yaml"
    path.write_text(export_v2(CATALOGUE))
    return intake.from_yaml_file(str(path))


def equal(one, other, *, rows=1):
    """Compare two objects of one kind; there must be something in them, and in tables so many rows."""
    assert type(one) is type(other)
    if isinstance(one, MaskedImage):
        assert one.image.array.size > 100
        for plane in ("image", "variance", "mask"):
            np.testing.assert_array_equal(getattr(one, plane).array, getattr(other, plane).array)
    elif isinstance(one, Table):
        assert len(one) >= rows
        assert one.colnames == other.colnames
        for column in one.colnames:
            np.testing.assert_array_equal(np.asarray(one[column]), np.asarray(other[column]))
    elif isinstance(one, xr.Dataset):
        assert one.sizes
        xr.testing.assert_identical(one, other)
    else:
        assert len(one) > 5
        assert one.tostring() == other.tostring()


@pytest.mark.parametrize("name", ENTRIES)
def test_an_entry_opens_in_every_way(name, exported):
    told = ENTRIES[name].describe()
    here(told["args"]["data_set"])
    source = CATALOGUE[name]
    now, later = source.read(), source.to_dask()
    assert isinstance(now, KINDS[told["metadata"]["gives"]])
    equal(now, exported[name].read())
    if isinstance(now, MaskedImage):
        assert later.sizes == {"y": now.bbox.shape.y, "x": now.bbox.shape.x}
        middle = {"y": slice(0, 50), "x": slice(0, 50)}
        np.testing.assert_array_equal(later["image"].isel(middle), now.image.array[:50, :50])
    elif isinstance(later, dask.dataframe.DataFrame):
        assert list(later.columns) == now.colnames
        assert len(later) == len(now)
    else:
        equal(now, later.compute())


def open_in_every_way(name, exported, repository):
    """Open a product in every way."""
    values = {"repository": str(repository)}
    now, later = CATALOGUE[name](**values).read(), CATALOGUE[name](**values).to_dask()
    assert isinstance(now, KINDS[PRODUCTS[name].describe()["metadata"]["gives"]])
    # objects are forced once they were seen twice, and this is one visit
    rows = 0 if name.endswith("dia_forced_source") else 1
    equal(now, exported(**values)[name].read(), rows=rows)
    if isinstance(now, MaskedImage):
        assert later.sizes == {"y": now.bbox.shape.y, "x": now.bbox.shape.x}
        middle = {"y": slice(0, 50), "x": slice(0, 50)}
        np.testing.assert_array_equal(later["variance"].isel(middle), now.variance.array[:50, :50])
    else:
        equal(now, later.compute(), rows=rows)


@pytest.mark.nightly
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", [name for name in PRODUCTS if name.startswith("stripe82.")])
def test_a_product_of_real_sky_opens_in_every_way(name, exported, stripe82_night):
    open_in_every_way(name, exported, stripe82_night)


@pytest.mark.nightly
@pytest.mark.timeout(900)
def test_products_of_real_sky_are_ready_for_the_stages(stripe82_night):
    values = {"repository": str(stripe82_night)}
    science, template, source, difference = (
        CATALOGUE[f"stripe82.{name}"](**values).read()
        for name in ("visit_image", "template_detector", "source", "difference_image")
    )
    with one_thread():  # as in pipelines
        made = nl.subtract(science, template, source).difference_image
    np.testing.assert_array_equal(made.image.array, difference.image.array)
    assert len(nl.detect_dia_sources(difference, science, template).dia_source_unassociated) > 20
    metrics = CATALOGUE["stripe82.metrics"](**values).read()
    assert np.isfinite(metrics["difference.noise_ratio"]).all()


@pytest.mark.parametrize("name", manifest_names())
def test_the_files_are_those_of_the_manifest(name):
    folder = here(name)
    assert [str(fault) for fault in faults(manifest(name), folder)] == []


@pytest.mark.parametrize("name", [name for name in ENTRIES if not name.endswith(("decam_raw", "header", "positions"))])
def test_every_allowed_value_opens(name):
    told = ENTRIES[name].describe()
    here(told["args"]["data_set"])
    for parameter in told["user_parameters"]:
        for value in parameter.get("allowed", [])[1:]:
            source = CATALOGUE[name](**{parameter["name"]: value})
            assert source.place.file().exists()


@pytest.mark.slow
def test_a_corrected_frame_is_ready_for_calibrate(stripe82):
    frame = CATALOGUE["stripe82.corrected_frame"](run=4192, band="g").read()
    reference = CATALOGUE["stripe82.reference"].read()
    assert frame.band == "g"
    result = nl.calibrate(frame, reference=reference)
    assert len(result.source) > 100
    assert str(result.visit_image.unit) == "nJy"


def test_known_facts_come_through(stripe82):
    depth = CATALOGUE["decam.depth_map"](band="r").read().image.array
    # median depth 226.2 per nanomaggy squared, as the survey quotes it
    assert np.median(depth) == pytest.approx(226.2, abs=0.1)
    flat = CATALOGUE["detectors.flat"].read().image.array
    assert np.median(flat[1034:1047]) == pytest.approx(11_737, abs=30)
    assert len(CATALOGUE["stripe82.expected_source"].read()) == 6015
    assert len(CATALOGUE["hsc.gaia"].read()) == 13_005
    kernel = CATALOGUE["lsst.brighter_fatter_kernel"].read()["values"]
    assert float(kernel.sum()) == pytest.approx(-4.6e-6, rel=0.02)
    assert CATALOGUE["hsc.dia_source"](visit="59150_1_16").read()["diaSourceId"].size == 491
