import json

import numpy as np
import pytest

from nightlab.data import catalogs
from nightlab.data.catalogs import prepare, prepared_in, read_lsst_reference
from nightlab.data.ingest import htm_index
from nightlab.data.repository import open_repository
from nightlab.errors import BadInput, MissingData
from nightlab.images.wcs import pixel_to_radec, radec_to_pixel


def joined(butler, query):
    with butler.query() as q:
        return {
            (row["visit"], row["detector"], row["tract"], row["patch"])
            for row in q.data_ids(["visit", "detector", "tract", "patch", "band"]).where(query)
        }


@pytest.fixture(scope="module")
def simulated(tmp_path_factory, survey):
    return prepare("simulated", tmp_path_factory.mktemp("simulated"), survey=survey)


def test_a_simulated_survey_is_complete(simulated, survey):
    butler = open_repository(simulated.repository)
    assert len(butler.query_datasets("raw", collections=simulated.collections)) == 3
    assert simulated.bands == ("r",)
    assert len(joined(butler, simulated.template_query)) >= 2
    with butler.query() as q:
        science = {row["visit"] for row in q.data_ids(["visit"]).where(simulated.science_query)}
    roles = {
        record.id: record.observation_reason for record in butler.query_dimension_records("visit", instrument="SimCam")
    }
    assert science == {visit for visit, role in roles.items() if role == "science"}
    assert len(science) == 1
    exposure = science.pop()
    for kind, more in (("bias", {}), ("flat", {"physical_filter": "sim_r"})):
        frame = butler.get(
            kind, instrument="SimCam", detector=0, exposure=exposure, collections=simulated.collections, **more
        )
        assert frame.array.shape == (128, 128)


def test_the_tract_covers_every_frame_at_the_scale_of_the_camera(simulated):
    butler = open_repository(simulated.repository)
    (tract,) = butler.get("sky_map", skymap="simulated", collections="skymaps").tracts
    projection = tract.projection("simulated")
    for ref in butler.query_datasets("raw", collections="SimCam/raw"):
        image = butler.get(ref)
        ra, dec = pixel_to_radec(image.sky_projection, [-0.5, 127.5, 127.5, -0.5], [-0.5, -0.5, 127.5, 127.5])
        x, y = radec_to_pixel(projection, ra, dec)
        assert x.min() > 0
        assert y.min() > 0
        assert x.max() < tract.shape[1] - 1
        assert y.max() < tract.shape[0] - 1
        assert np.hypot(x[1] - x[0], y[1] - y[0]) == pytest.approx(128, rel=2e-3)
    assert all(side % cell == 0 for side, cell in zip(tract.patch, tract.cell, strict=True))


def test_preparing_again_or_after_an_interruption_gives_the_same(simulated, survey, tmp_path, monkeypatch):
    assert prepare("simulated", simulated.repository, survey=survey) == simulated
    assert prepared_in(simulated.repository) == simulated

    def stop(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(catalogs, "ingest_reference", stop)
        with pytest.raises(KeyboardInterrupt):
            prepare("simulated", tmp_path, survey=survey)
    with pytest.raises(MissingData, match="no prepared data"):
        prepared_in(tmp_path)
    resumed = prepare("simulated", tmp_path, survey=survey)
    assert resumed.template_query == simulated.template_query
    assert len(open_repository(tmp_path).query_datasets("raw", collections="SimCam/raw")) == 3
    (tmp_path / "nightlab.json").write_text(json.dumps({"entry": "simulated"}))
    assert prepare("simulated", tmp_path, survey=survey) == resumed


def test_unknown_entries_and_absent_surveys_are_refused(tmp_path):
    with pytest.raises(BadInput, match="no data are called") as caught:
        prepare("stripe83", tmp_path)
    assert "stripe82" in caught.value.hint
    with pytest.raises(MissingData, match="no complete simulated survey"):
        prepare("simulated", tmp_path, survey=tmp_path / "nowhere")
    with pytest.raises(MissingData):
        prepare("stripe82", tmp_path, survey=tmp_path / "nowhere")


def test_further_entries_are_entries_of_a_dict(tmp_path, simulated, monkeypatch):
    monkeypatch.setitem(catalogs.ENTRIES, "mine", lambda root, files: simulated)
    assert prepare("mine", tmp_path) == simulated


@pytest.mark.real_data
def test_stripe82_is_ready_for_both_pipelines(stripe82, tmp_path):
    made = prepare("stripe82", tmp_path)
    butler = open_repository(made.repository)
    assert len(butler.query_datasets("raw", collections=made.collections)) == 10
    rows = joined(butler, made.template_query)
    assert {(visit % 10, detector) for visit, detector, _, _ in rows} == {(0, 15), (1, 27), (2, 3), (3, 9), (4, 21)}
    assert all(tract == detector and patch == 0 for _, detector, tract, patch in rows)
    sky_map = butler.get("sky_map", skymap="stripe82", collections="skymaps")
    for tract in sky_map.tracts:
        (ref,) = butler.query_datasets(
            "raw",
            collections="SDSS/raw",
            where=f"instrument = 'SDSS' AND detector = {tract.tract} AND exposure > 600000000",
        )
        projection = butler.get(ref).sky_projection
        x, y = (grid.ravel() for grid in projection.pixel_bounds.bbox.meshgrid(7))
        again = radec_to_pixel(tract.projection("stripe82"), *pixel_to_radec(projection, x, y))
        # the calibrated grid and the published one agree to a fifth of an arcsecond
        np.testing.assert_allclose(again, [x + 20, y + 20], atol=0.5)
        assert tract.shape[0] >= 1489 + 40
        assert tract.shape[1] >= 2048 + 40


@pytest.mark.real_data
def test_reference_rows_lie_in_the_triangles_their_files_are_named_after(stripe82):
    folder = stripe82 / "ref_cats/sdss_demo_ref_cat"
    table = read_lsst_reference(folder)
    assert len(table) == 28196
    assert (table["g_flux"] > 0).all()
    index = htm_index(table["ra"], table["dec"])
    assert set(index) == {int(path.stem) for path in folder.glob("1*.fits")}
    inside = (table["ra"] > 351.56) & (table["ra"] < 351.73) & (table["dec"] > -0.01) & (table["dec"] < 0.22)
    assert inside.sum() > 100
    assert table["isStar"].all()
