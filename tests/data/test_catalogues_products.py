"""Every entry of the simulated survey on a finished night: at once, later, and through intake's second version."""

import intake
import numpy as np
import pytest
import xarray as xr
from astropy.table import Table
from lsst.images import DifferenceImage, MaskedImage, VisitImage

import nightlab as nl
from nightlab.data.runs import open_run
from nightlab.data.sources.catalogue import entries
from nightlab.data.sources.export import export_v2
from nightlab.images.footprints import Footprints
from nightlab.pipelines.tasks import one_thread

pytestmark = pytest.mark.slow

KINDS = {"VisitImage": VisitImage, "DifferenceImage": DifferenceImage, "Table": Table, "Dataset": xr.Dataset,
         "Footprints": Footprints}  # fmt: skip
CATALOGUE = nl.open_catalog("simulated")
ENTRIES = {name: entry for name, entry in entries(CATALOGUE) if name != "pair"}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "v2.yaml"
    path.write_text(export_v2(CATALOGUE))
    return intake.from_yaml_file(str(path))


def values_of(name, night):
    """Where the entry is read from, and the first visit where it asks for one."""
    places = {"repository": night, "survey": night.parent / "survey", "visit": min(open_run(night).visits()["visit"])}
    asked = {parameter["name"]: parameter["type"] for parameter in ENTRIES[name].describe()["user_parameters"]}
    return {key: int(value) if key == "visit" else str(value) for key, value in places.items() if key in asked}


@pytest.mark.parametrize("name", ENTRIES)
def test_an_entry_opens_in_every_way(name, exported, night):
    values = values_of(name, night)
    now, later, second = (
        CATALOGUE[name](**values).read(),
        CATALOGUE[name](**values).to_dask(),
        exported(**values)[name].read(),
    )
    assert isinstance(now, KINDS[ENTRIES[name].describe()["metadata"]["gives"]])
    if isinstance(now, MaskedImage):
        assert now.image.array.size > 1e4
        for plane in ("image", "variance", "mask"):
            np.testing.assert_array_equal(getattr(now, plane).array, getattr(second, plane).array)
        np.testing.assert_array_equal(later["image"].compute(), now.image.array)
    elif isinstance(now, Table):
        assert len(now) > 0
        tables = (second, later.compute())
        for other in tables:
            assert list(other.columns) == now.colnames
            assert len(other) == len(now)
            for column in now.colnames:
                np.testing.assert_array_equal(np.asarray(other[column]), np.asarray(now[column]))
    elif isinstance(now, Footprints):
        assert len(now) > 0
        for other in (second, later.compute()):
            np.testing.assert_array_equal(other.labels(), now.labels())
            np.testing.assert_array_equal(other.peak_significance, now.peak_significance)
    else:
        assert now.data_vars
        xr.testing.assert_identical(now, second)
        xr.testing.assert_identical(now, later.compute())


def test_each_is_ready_for_its_stage(night):
    def read(name):
        return CATALOGUE[name](**values_of(name, night)).read()

    run = open_run(night)
    visit = values_of("raw", night)["visit"]
    calibrations = nl.stage_inputs("calibrate", run, visit=visit, detector=0)
    calibrated = nl.calibrate(read("raw"), **{name: calibrations[name] for name in ("bias", "flat")},
                              reference=read("reference"))  # fmt: skip
    assert len(calibrated.source) > 10
    science, template, difference = read("visit_image"), read("template_detector"), read("difference_image")
    with one_thread():  # as in pipelines
        made = nl.subtract(science, template, read("source"))
    np.testing.assert_array_equal(made.difference_image.image.array, difference.image.array)
    found = nl.detect_dia_sources(difference, science, template).dia_source_unassociated
    assert len(found) == (np.asarray(read("dia_source")["visit"]) == visit).sum()
    assert set(read("dia_forced_source")["diaObjectId"]) <= set(read("dia_object")["diaObjectId"])
