import shutil

import astropy.units as u
import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from lsst.images import Box, Image
from lsst.sphgeom import HtmPixelization, LonLat, UnitVector3d

from nightlab.data.ingest import certify, htm_index, ingest, ingest_reference, write_sky_map
from nightlab.data.repository import open_repository
from nightlab.errors import BadInput, CorruptFile
from nightlab.images.skymap import SkyMap, TractGrid


@pytest.fixture
def repo(empty_repository, tmp_path):
    return open_repository(shutil.copytree(empty_repository, tmp_path / "repo"), writeable=True)


def raws(survey):
    return sorted((survey / "raw").glob("*.fits"))


def count(repo, name, collection):
    return len(repo.query_datasets(name, collections=collection, explain=False))


def test_raws_stay_where_they_are_and_come_back_as_images(repo, sdss_field):
    (ref,) = ingest(repo, "SDSS", [sdss_field.frame])
    assert repo.getURI(ref).ospath == str(sdss_field.frame)
    image = repo.get("raw", ref.dataId, collections="SDSS/raw")
    np.testing.assert_array_equal(image.image.array, sdss_field.dn)
    part = repo.get(ref, parameters={"bbox": Box.factory[10:20, 5:25]})
    np.testing.assert_array_equal(part.image.array, sdss_field.dn[10:20, 5:25])
    assert repo.get("raw.obs_info", ref.dataId, collections="SDSS/raw").visit_id == ref.dataId["exposure"]


def test_an_exposure_gets_all_its_records(repo, sdss_field):
    ingest(repo, "SDSS", [sdss_field.frame])
    where = {"instrument": "SDSS"}
    (visit,) = repo.query_dimension_records("visit", **where)
    (exposure,) = repo.query_dimension_records("exposure", **where)
    assert visit.id == exposure.id == 123400561
    assert visit.timespan == exposure.timespan
    assert (visit.timespan.end - visit.timespan.begin).to_value("s") == pytest.approx(53.9, abs=1e-3)
    assert exposure.physical_filter == "sdss_g"
    assert exposure.zenith_angle == pytest.approx(np.rad2deg(np.arccos(1 / 1.25)))
    (region,) = repo.query_dimension_records("visit_detector_region", **where)
    centre = repo.get("raw", exposure=visit.id, detector=25, instrument="SDSS", collections="SDSS/raw").obs_info
    at = centre.tracking_radec
    assert region.region.contains(UnitVector3d(LonLat.fromDegrees(at.ra.deg, at.dec.deg)))
    assert visit.region.contains(region.region)
    for element in ("visit_definition", "visit_system_membership"):
        assert len(repo.query_dimension_records(element, **where)) == 1
    (day,) = repo.query_dimension_records("day_obs", **where)
    assert day.timespan.contains(visit.timespan)


def test_ingesting_twice_or_piece_by_piece_is_the_same(repo, empty_repository, survey, tmp_path):
    paths = raws(survey)
    assert len(ingest(repo, "SimCam", paths[:1])) == 1
    assert len(ingest(repo, "SimCam", paths)) == len(paths) - 1
    assert ingest(repo, "SimCam", paths) == []
    other = open_repository(shutil.copytree(empty_repository, tmp_path / "other"), writeable=True)
    ingest(other, "SimCam", paths)
    ids = [
        sorted(str(ref.id) for ref in butler.query_datasets("raw", collections="SimCam/raw"))
        for butler in (repo, other)
    ]
    assert ids[0] == ids[1]
    assert len(ids[0]) == len(paths)


def test_a_visit_grows_with_its_detectors(repo, survey, tmp_path):
    path = raws(survey)[0]
    twin = tmp_path / "twin.fits"
    with fits.open(path) as hdus:
        hdus[0].header["DETECTOR"], hdus[0].header["DETNAME"] = 1, "D1"
        hdus[0].header["CRPIX1"] -= 200.0
        hdus.writeto(twin)
    ingest(repo, "SimCam", [path])
    (before,) = repo.query_dimension_records("visit", instrument="SimCam")
    ingest(repo, "SimCam", [twin])
    (after,) = repo.query_dimension_records("visit", instrument="SimCam")
    regions = repo.query_dimension_records("visit_detector_region", instrument="SimCam")
    assert len(regions) == 2
    assert all(after.region.contains(region.region) for region in regions)
    assert not before.region.contains(regions[1].region)


def test_one_bad_file_leaves_nothing_behind(repo, survey, tmp_path):
    bad = tmp_path / "bad.fits"
    bad.write_bytes(raws(survey)[0].read_bytes()[:300])
    with pytest.raises(CorruptFile, match=r"bad\.fits"):
        ingest(repo, "SimCam", [*raws(survey), bad])
    assert count(repo, "raw", "SimCam/raw") == 0
    assert not repo.query_dimension_records("visit", instrument="SimCam", explain=False)


def test_raws_that_do_not_belong_are_refused(repo, survey, tmp_path):
    path = raws(survey)[0]
    (tmp_path / "copy.fits").write_bytes(path.read_bytes())
    with pytest.raises(BadInput, match="are both exposure"):
        ingest(repo, "SimCam", [path, tmp_path / "copy.fits"])
    for key, value, word in (("FILTER", "sim_K", "sim_K"), ("DETECTOR", 999, "detector 999")):
        wrong = tmp_path / f"{key}.fits"
        with fits.open(path) as hdus:
            hdus[0].header[key] = value
            hdus.writeto(wrong)
        with pytest.raises(BadInput, match=word):
            ingest(repo, "SimCam", [wrong])


def test_calibrations_are_found_by_time(repo, survey):
    ingest(repo, "SimCam", raws(survey))
    exposures = sorted(repo.query_dimension_records("exposure", instrument="SimCam"), key=lambda record: record.id)
    first, last = (record.timespan.begin.tai.mjd for record in (exposures[0], exposures[-1]))
    middle = 0.5 * (first + last)
    for level, validity in ((3.0, (first - 1, middle)), (5.0, (middle, last + 1))):
        frames = [({"detector": 0}, Image(np.full((32, 32), level, np.float32), unit=u.adu))]
        assert certify(repo, "SimCam", "bias", frames, validity) == 1
        assert certify(repo, "SimCam", "bias", frames, validity) == 0
    for exposure, level in ((exposures[0], 3.0), (exposures[-1], 5.0)):
        bias = repo.get("bias", instrument="SimCam", detector=0, exposure=exposure.id, collections="SimCam/calib")
        assert (bias.array == level).all()


def test_triangles_are_those_of_the_scalar_index():
    rng = np.random.default_rng(2)
    ra = np.concatenate([rng.uniform(0, 360, 50), rng.uniform(359.5, 360.5, 300) % 360, [0.0, 90.0, 180.0]])
    dec = np.concatenate([rng.uniform(-90, 90, 50), rng.uniform(-0.7, 0.7, 300), [0.0, 90.0, -90.0]])
    pixels = HtmPixelization(7)
    one_by_one = [pixels.index(UnitVector3d(LonLat.fromDegrees(*at))) for at in zip(ra, dec, strict=True)]
    assert htm_index(ra, dec).tolist() == one_by_one


def reference(n=200):
    rng = np.random.default_rng(4)
    table = Table({"refId": np.arange(n), "ra": rng.uniform(92.5, 94.0, n), "dec": rng.uniform(11.0, 13.0, n)})
    table["g_flux"] = rng.uniform(1e3, 1e6, n)
    for name, unit in (("ra", "deg"), ("dec", "deg"), ("g_flux", "nJy")):
        table[name].unit = unit
    table.meta["epoch"] = 57388.5
    return table


def test_reference_shards_hold_every_row_once_and_are_found_on_the_sky(repo, sdss_field):
    table = reference()
    made = ingest_reference(repo, table, "toy")
    assert made > 3
    assert ingest_reference(repo, table, "toy") == 0
    shards = [repo.get(ref) for ref in repo.query_datasets("reference", collections="refcats")]
    assert sorted(np.concatenate([shard["refId"] for shard in shards])) == list(range(200))
    assert all((shard["epoch"] == 57388.5).all() for shard in shards)
    assert shards[0]["g_flux"].unit == "nJy"
    assert "epoch" not in table.colnames
    ingest(repo, "SDSS", [sdss_field.frame])
    with repo.query() as query:
        query = query.join_dimensions(["visit", "detector"]).where("instrument = 'SDSS' AND visit = 123400561")
        found = {ref.dataId["htm7"] for ref in query.datasets("reference", "refcats")}
    (region,) = repo.query_dimension_records("visit_detector_region", instrument="SDSS")
    touched = {i for first, past in HtmPixelization(7).envelope(region.region) for i in range(first, past)}
    stored = {ref.dataId["htm7"] for ref in repo.query_datasets("reference", collections="refcats")}
    assert found == touched & stored
    assert found


def test_unusable_references_are_refused(repo):
    with pytest.raises(BadInput, match="lacks ra"):
        ingest_reference(repo, Table({"refId": [1], "dec": [2.0]}), "toy")
    with pytest.raises(BadInput, match="not finite"):
        ingest_reference(repo, Table({"refId": [1], "ra": [np.nan], "dec": [2.0]}), "toy")


def sky_map(name="toy", crval=95.3):
    header = {
        "CTYPE1": "RA---TAN",
        "CTYPE2": "DEC--TAN",
        "CRVAL1": crval,
        "CRVAL2": 12.0,
        "CRPIX1": 200.5,
        "CRPIX2": 100.5,
    }
    header |= {"CD1_1": -1e-4, "CD1_2": 0.0, "CD2_1": 0.0, "CD2_2": 1e-4, "RADESYS": "ICRS"}
    tract = TractGrid(tract=4, header=header, shape=(200, 400), patch=(100, 200), border=10, cell=(20, 20))
    return SkyMap(name=name, tracts=(tract,))


def test_sky_maps_have_regions_and_come_back(repo, sdss_field):
    assert write_sky_map(repo, sky_map())
    assert not write_sky_map(repo, sky_map())
    assert repo.get("sky_map", skymap="toy", collections="skymaps") == sky_map()
    patches = sorted(repo.query_dimension_records("patch", skymap="toy"), key=lambda record: record.id)
    assert [(patch.cell_x, patch.cell_y) for patch in patches] == [(0, 0), (1, 0), (0, 1), (1, 1)]
    (tract,) = repo.query_dimension_records("tract", skymap="toy")
    assert all(tract.region.contains(patch.region) for patch in patches)
    # 0.01 degree east of the middle is left of it
    east = UnitVector3d(LonLat.fromDegrees(95.3 + 0.01, 12.0 - 0.005))
    assert [patch.id for patch in patches if patch.region.contains(east)] == [0]
    ingest(repo, "SDSS", [sdss_field.frame])
    with repo.query() as query:
        where = "skymap = 'toy' AND instrument = 'SDSS' AND visit = 123400561"
        rows = list(query.data_ids(["visit", "detector", "tract", "patch"]).where(where))
    assert all(row["tract"] == 4 for row in rows)


def test_another_map_of_the_same_name_is_refused(repo):
    write_sky_map(repo, sky_map())
    with pytest.raises(BadInput, match="another sky map"):
        write_sky_map(repo, sky_map(crval=95.4))
