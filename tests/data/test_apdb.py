import os
import shutil
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import sqlalchemy
from astropy.table import Table, vstack

from nightlab.data.apdb import (
    ApdbConfig,
    create_apdb,
    fill_apdb,
    forced_light_curve,
    light_curve,
    open_apdb,
    read_log,
    read_objects,
)
from nightlab.errors import BadInput, CorruptFile, DatabaseFailed, LateVisit, MissingData
from nightlab.stages.association import associate, object_statistics

FLAGS = ("edge", "saturated", "cr", "nodata", "streak", "highVariance", "saturatedTemplate")
N = 4


def _sources(visit, mjd, *, detector=0, band="r", n=N, seed=None):
    rng = np.random.default_rng(visit if seed is None else seed)
    table = Table()
    table["diaSourceId"] = (visit * 1000 + detector) * 100_000 + 1 + np.arange(n)
    table["visit"], table["detector"], table["band"] = np.full(n, visit), np.full(n, detector), np.full(n, band)
    table["midpointMjdTai"] = np.full(n, float(mjd))
    table["ra"] = 359.999 + np.arange(n) * 10 / 3600 + rng.normal(0, 0.05 / 3600, n)
    table["ra"] %= 360.0
    table["dec"] = np.full(n, -5.0)
    table["raErr"] = table["decErr"] = np.full(n, 0.1 / 3600)
    table["x"], table["y"] = np.arange(n) + 100.0, np.arange(n) + 50.0
    for name in ("psfFlux", "scienceFlux"):
        table[name] = rng.normal(1000.0, 10.0, n)
        table[name + "Err"] = np.full(n, 10.0)
    for name in ("isDipole", "isNegative", "centroid_flag", "psfFlux_flag", *(f"pixelFlags_{f}" for f in FLAGS)):
        table[name] = np.zeros(n, dtype=bool)
    return table


def _night(*visits):
    """Associate visits given as (visit, mjd) and force photometry of every object on each of them."""
    result = associate([_sources(visit, mjd) for visit, mjd in visits])
    forced = [_forced(visit, mjd, result.dia_object) for visit, mjd in visits]
    return result.dia_source, result.dia_object, forced


def _forced(visit, mjd, objects):
    n = len(objects)
    table = Table(meta={"visit": visit, "detector": 0, "band": "r", "midpointMjdTai": float(mjd)})
    table["diaForcedSourceId"] = visit * 100_000_000 + np.arange(n)
    table["diaObjectId"] = np.asarray(objects["diaObjectId"], dtype=np.int64) if n else np.empty(0, np.int64)
    table["visit"], table["detector"], table["band"] = np.full(n, visit), np.zeros(n, int), np.full(n, "r")
    table["midpointMjdTai"] = np.full(n, float(mjd))
    table["ra"], table["dec"] = (np.asarray(objects[c]) if n else np.empty(0) for c in ("ra", "dec"))
    for name in ("psfFlux", "psfFluxErr", "scienceFlux", "scienceFluxErr"):
        table[name] = np.linspace(1, 2, n)
    table["psfFlux_flag"] = np.zeros(n, bool)
    return table


@pytest.fixture(scope="module")
def empty(tmp_path_factory):
    folder = tmp_path_factory.mktemp("empty") / "apdb"
    create_apdb(folder)
    return folder


@pytest.fixture(autouse=True)
def _a_fresh_database(tmp_path, empty):
    shutil.copytree(empty, tmp_path / "apdb")  # making one takes a second, most of it spent on reading the schema


def _config(tmp_path, **changes):
    return ApdbConfig(uri=str(tmp_path / "apdb"), time_processed=60100.0, **changes)


def _rows(folder, table):
    engine = sqlalchemy.create_engine(f"sqlite:///{folder}/apdb/apdb.sqlite3", poolclass=sqlalchemy.NullPool)
    with engine.begin() as connection:
        return connection.execute(sqlalchemy.text(f'select * from "{table}" order by 1, 2, 3')).all()


def _everything(folder):
    return {t: _rows(folder, t) for t in ("DiaObject", "DiaSource", "DiaForcedSource", "NightLabVisit")}


def test_a_night_comes_back_as_it_was_stored(tmp_path):
    sources, objects, forced = _night((1, 60000.0), (2, 60001.0), (3, 60003.0))
    log = fill_apdb(sources, objects, forced, _config(tmp_path)).apdb_log
    assert log["visit"].tolist() == [1, 2, 3]
    assert log["status"].tolist() == ["stored"] * 3
    assert log["nDiaSources"].tolist() == log["nDiaForcedSources"].tolist() == [N, N, N]
    apdb = open_apdb(tmp_path / "apdb")
    back = read_objects(apdb)
    assert back["diaObjectId"].tolist() == objects["diaObjectId"].tolist()
    np.testing.assert_array_equal(back["ra"], objects["ra"])
    np.testing.assert_allclose(back["r_psfFluxMean"], objects["r_psfFluxMean"], rtol=1e-6)
    np.testing.assert_allclose(back["r_psfFluxSigma"], objects["r_psfFluxSigma"], rtol=1e-5)
    assert back["nDiaSources"].tolist() == [3] * N
    curve = light_curve(apdb, objects["diaObjectId"][2])
    mine = sources[sources["diaObjectId"] == objects["diaObjectId"][2]]
    assert curve["diaSourceId"].tolist() == mine["diaSourceId"].tolist()
    np.testing.assert_array_equal(curve["midpointMjdTai"], [60000.0, 60001.0, 60003.0])
    np.testing.assert_allclose(curve["psfFlux"], mine["psfFlux"], rtol=1e-6)
    assert forced_light_curve(apdb, objects["diaObjectId"][0])["visit"].tolist() == [1, 2, 3]
    assert read_log(apdb)["digest"].tolist() == log["digest"].tolist()


def test_objects_are_found_in_a_circle_across_ra_zero(tmp_path):
    sources, objects, forced = _night((1, 60000.0))
    fill_apdb(sources, objects, forced, _config(tmp_path))
    apdb = open_apdb(tmp_path / "apdb")
    # objects lie at 359.999 deg + 10 arcsec steps, so the first two are within 11 arcsec of the first
    near = read_objects(apdb, ra=-0.001, dec=-5.0, radius=11 / 3600)
    assert near["diaObjectId"].tolist() == sources["diaSourceId"][:2].tolist()
    with pytest.raises(BadInput, match="only some of them"):
        read_objects(apdb, ra=3.0)


def test_validity_says_what_was_known_when(tmp_path):
    sources, objects, forced = _night((1, 60000.0), (2, 60001.0), (3, 60003.0))
    fill_apdb(sources, objects, forced, _config(tmp_path))
    rows = [row._mapping for row in _rows(tmp_path, "DiaObject")]
    first = [row for row in rows if row["diaObjectId"] == objects["diaObjectId"][0]]
    assert [row["validityStartMjdTai"] for row in first] == [60000.0, 60001.0, 60003.0]
    assert [row["validityEndMjdTai"] for row in first] == [60001.0, 60003.0, None]
    assert [row["nDiaSources"] for row in first] == [1, 2, 3]
    upto = object_statistics(sources[sources["visit"] <= 2])
    np.testing.assert_allclose(first[1]["r_psfFluxMean"], upto["r_psfFluxMean"][0], rtol=1e-6)
    assert first[0]["r_psfFluxSigma"] is None


def test_forced_means_grow_with_the_visits(tmp_path):
    sources, objects, forced = _night((1, 60000.0), (2, 60001.0), (3, 60003.0))
    for k in range(3):
        forced[k]["psfFlux"], forced[k]["psfFluxErr"] = np.full(N, 10.0 * k), np.full(N, [1.0, 1.0, 0.5][k])
    forced[1]["psfFlux"][0] = np.nan
    fill_apdb(sources, objects, forced, _config(tmp_path))
    rows = [row._mapping for row in _rows(tmp_path, "DiaObject")]
    rows = [row for row in rows if row["diaObjectId"] == objects["diaObjectId"][1]]
    # weights 1, 1, 4: 0, then (0 + 10) / 2, then (0 + 10 + 4 * 20) / 6
    assert [row["r_fpFluxMean"] for row in rows] == pytest.approx([0.0, 5.0, 15.0])
    assert [row["r_fpFluxMeanErr"] for row in rows] == pytest.approx([1.0, 2**-0.5, 6**-0.5])
    last = read_objects(open_apdb(tmp_path / "apdb"))
    assert last["r_fpFluxMean"][0] == pytest.approx((0 + 4 * 20) / 5)


def test_filling_twice_is_filling_once(tmp_path):
    night = _night((1, 60000.0), (2, 60001.0))
    fill_apdb(*night, _config(tmp_path))
    before = _everything(tmp_path)
    log = fill_apdb(*night, ApdbConfig(uri=str(tmp_path / "apdb"))).apdb_log
    assert log["status"].tolist() == ["present", "present"]
    assert _everything(tmp_path) == before
    assert len(before["DiaSource"]) == 2 * N


def test_night_by_night_gives_the_same_as_all_at_once(tmp_path):
    visits = [(1, 60000.0), (2, 60001.0), (3, 60003.0)]
    for k in (1, 2, 3):
        fill_apdb(*_night(*visits[:k]), _config(tmp_path / "grown"))
    fill_apdb(*_night(*visits), _config(tmp_path / "whole"))
    grown, whole = _everything(tmp_path / "grown"), _everything(tmp_path / "whole")
    assert grown["DiaObject"] == whole["DiaObject"]
    assert grown["DiaSource"] == whole["DiaSource"]


def test_forced_sources_of_objects_found_later_are_added(tmp_path):
    one, two = 90_000_000_001, 90_000_000_002  # ids beyond 2^53, which a float would round
    sources, objects, forced = _night((one, 60000.0), (two, 60001.0))
    fill_apdb(sources, objects, [_forced(one, 60000.0, objects[2:3]), forced[1]], _config(tmp_path))
    log = fill_apdb(sources, objects, forced, _config(tmp_path)).apdb_log
    assert log["status"].tolist() == ["amended", "present"]
    assert log["nDiaForcedSources"].tolist() == [N, N]
    rows = [row._mapping for row in _rows(tmp_path, "DiaForcedSource")]
    ids = sorted(row["diaForcedSourceId"] for row in rows if row["visit"] == one)
    assert ids == [one * 100_000_000 + k for k in range(N)]
    assert len(rows) == 2 * N
    assert read_objects(open_apdb(tmp_path / "apdb"))["diaObjectId"].tolist() == objects["diaObjectId"].tolist()
    assert fill_apdb(sources, objects, forced, _config(tmp_path)).apdb_log["status"].tolist() == ["present"] * 2


def test_a_late_visit_is_refused_by_name(tmp_path):
    fill_apdb(*_night((7, 60005.0)), _config(tmp_path))
    before = _everything(tmp_path)
    with pytest.raises(LateVisit, match=r"visit 3 \(MJD 60001\.0.*older than visit 7 \(MJD 60005\.0"):
        fill_apdb(*_night((3, 60001.0), (7, 60005.0)), _config(tmp_path))
    assert _everything(tmp_path) == before


def test_a_stored_visit_is_not_replaced(tmp_path):
    sources, objects, forced = _night((1, 60000.0))
    fill_apdb(sources, objects, forced, _config(tmp_path))
    sources["psfFlux"][0] += 1.0
    with pytest.raises(BadInput, match="visit 1 is in the prompt database with other sources"):
        fill_apdb(sources, objects, forced, _config(tmp_path))


def test_an_empty_visit_leaves_a_trace(tmp_path):
    sources, objects, forced = _night((1, 60000.0), (2, 60001.0))
    forced.append(_forced(5, 60002.0, []))
    log = fill_apdb(sources, objects, forced, _config(tmp_path)).apdb_log
    assert log["visit"].tolist() == [1, 2, 5]
    assert log["nDiaSources"].tolist() == [N, N, 0]
    with pytest.raises(LateVisit, match=r"visit 4 .* older than visit 5"):
        fill_apdb(*_night((1, 60000.0), (2, 60001.0), (4, 60001.5)), _config(tmp_path))


def test_a_visit_with_forced_sources_only(tmp_path):
    sources, objects, forced = _night((1, 60000.0), (2, 60001.0))
    forced.append(_forced(5, 60002.0, objects))
    fill_apdb(sources, objects, forced, _config(tmp_path))
    assert forced_light_curve(open_apdb(tmp_path / "apdb"), objects["diaObjectId"][1])["visit"].tolist() == [1, 2, 5]


def test_two_visits_at_the_same_time(tmp_path):
    sources, objects, forced = _night((1, 60000.0), (2, 60000.0))
    fill_apdb(sources, objects, forced, _config(tmp_path))
    assert read_objects(open_apdb(tmp_path / "apdb"))["nDiaSources"].tolist() == [2] * N


def test_two_detectors_of_a_visit_are_one_transaction(tmp_path):
    both = associate([_sources(1, 60000.0), _sources(1, 60000.1, detector=4, seed=9)])
    log = fill_apdb(both.dia_source, both.dia_object, [], _config(tmp_path)).apdb_log
    assert log["detectors"].tolist() == ["0,4"]
    assert log["nDiaObjects"].tolist() == [N]
    assert log["midpointMjdTai"].tolist() == [60000.0]


def test_sources_without_position_are_counted_and_left_out(tmp_path):
    table = _sources(1, 60000.0)
    table["ra"][1] = np.nan
    made = associate([table])
    log = fill_apdb(made.dia_source, made.dia_object, [], _config(tmp_path)).apdb_log
    assert (log["nDiaSources"][0], log["nLeftOut"][0]) == (N - 1, 1)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda s: s["ra"].__setitem__(0, np.nan), "1 sources belong to an object and have no finite position"),
        (lambda s: s["midpointMjdTai"].__setitem__(0, np.nan), "no finite midpointMjdTai"),
        (lambda s: s.rename_column("psfFluxErr", "psfFluxerr"), "lack psfFluxErr"),
        (lambda s: s.add_column(1.0, name="pfsFlux"), "DiaSource has no column pfsFlux"),
        (lambda s: s.remove_column("x"), "lack x"),
        (lambda s: s["diaSourceId"].__setitem__(1, s["diaSourceId"][0]), "more than once"),
        (lambda s: s["diaObjectId"].__setitem__(1, 77), "not among the objects, 77"),
    ],
)
def test_bad_sources_are_refused_with_nothing_stored(tmp_path, spoil, message):
    sources, objects, forced = _night((1, 60000.0), (2, 60001.0))
    last = sources[sources["visit"] == 2]
    spoil(last)
    mixed = vstack([sources[sources["visit"] == 1], last]) if last.colnames == sources.colnames else last
    with pytest.raises(BadInput, match=message):
        fill_apdb(mixed, objects, forced, _config(tmp_path))
    assert not _rows(tmp_path, "DiaSource")
    assert not _rows(tmp_path, "DiaObject")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: f["ra"].__setitem__(0, np.nan), "1 rows for DiaForcedSource have no finite ra"),
        (lambda f: f.remove_column("psfFluxErr"), "forced sources lack psfFluxErr"),
        (lambda f: f["diaObjectId"].__setitem__(0, 0), "1 forced sources belong to no object"),
        (lambda f: f.add_column(1, name="fluxx"), "DiaForcedSource has no column fluxx"),
    ],
)
def test_bad_forced_sources_are_refused_with_nothing_stored(tmp_path, spoil, message):
    sources, objects, forced = _night((1, 60000.0))
    spoil(forced[0])
    with pytest.raises(BadInput, match=message):
        fill_apdb(sources, objects, forced, _config(tmp_path))
    assert not _rows(tmp_path, "DiaSource")


def test_what_the_database_refuses_is_our_error(tmp_path):
    sources, objects, forced = _night((1, 60000.0), (2, 60001.0))
    clash = forced[1].copy()
    clash["detector"] = 0  # the same object, visit and detector twice: the primary key of the forced sources
    with pytest.raises(DatabaseFailed, match=r"storing visit 2 \(MJD 60001\.0+\) failed: UNIQUE"):
        fill_apdb(sources, objects, [*forced, clash], _config(tmp_path))
    assert {row._mapping["visit"] for row in _rows(tmp_path, "DiaSource")} == {1}
    fill_apdb(sources, objects, forced, _config(tmp_path))
    assert {row._mapping["visit"] for row in _rows(tmp_path, "DiaSource")} == {1, 2}


def test_a_process_killed_between_store_and_log_is_made_good(tmp_path):
    sources, objects, forced = _night((1, 60000.0), (2, 60001.0))
    sources.write(tmp_path / "sources.ecsv")
    objects.write(tmp_path / "objects.ecsv")
    script = f"""
        import os, signal
        import nightlab.data.apdb.fill as fill
        from astropy.table import Table
        def die(apdb, row):
            if row.visit == 2:
                os.kill(os.getpid(), signal.SIGKILL)
            write_log(apdb, row)
        write_log, fill.write_log = fill.write_log, die
        sources, objects = (Table.read("{tmp_path}/" + name + ".ecsv") for name in ("sources", "objects"))
        fill.fill_apdb(sources, objects, [], fill.ApdbConfig(uri="{tmp_path}/apdb", time_processed=60100.0))
    """
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", textwrap.dedent(script)], env=os.environ, check=False)
    assert done.returncode == -signal.SIGKILL
    assert [row._mapping["visit"] for row in _rows(tmp_path, "NightLabVisit")] == [1]
    assert len(_rows(tmp_path, "DiaSource")) == 2 * N
    with pytest.raises(LateVisit, match="older than visit 2"):
        fill_apdb(*_night((1, 60000.0), (9, 60000.5)), _config(tmp_path))
    log = fill_apdb(sources, objects, forced, _config(tmp_path)).apdb_log
    assert log["status"].tolist() == ["amended", "recovered"]
    assert len(_rows(tmp_path, "DiaSource")) == 2 * N
    assert len(_rows(tmp_path, "DiaForcedSource")) == 2 * N
    assert fill_apdb(sources, objects, forced, _config(tmp_path)).apdb_log["status"].tolist() == ["present"] * 2


def test_a_visit_without_record_and_other_content_is_refused(tmp_path):
    sources, objects, forced = _night((1, 60000.0))
    fill_apdb(sources, objects, forced, _config(tmp_path))
    engine = sqlalchemy.create_engine(f"sqlite:///{tmp_path}/apdb/apdb.sqlite3", poolclass=sqlalchemy.NullPool)
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("delete from NightLabVisit"))
    sources["psfFlux"][0] *= 2
    with pytest.raises(BadInput, match="with other sources"):
        fill_apdb(sources, objects, forced, _config(tmp_path))


def test_a_moved_folder_opens(tmp_path):
    sources, objects, forced = _night((1, 60000.0))
    fill_apdb(sources, objects, forced, _config(tmp_path))
    new = tmp_path / "a folder #1?"
    shutil.move(tmp_path / "apdb", new)
    assert len(read_objects(open_apdb(new))) == N
    assert fill_apdb(sources, objects, forced, ApdbConfig(uri=str(new))).apdb_log["status"].tolist() == ["present"]
    assert not (tmp_path / "apdb").exists()
    (new / "apdb.yaml").unlink()
    assert len(read_objects(open_apdb(new))) == N


def test_places_that_cannot_be_opened(tmp_path):
    with pytest.raises(MissingData, match="no prompt database"):
        open_apdb(tmp_path)
    with pytest.raises(BadInput, match="no place was given"):
        fill_apdb(*_night((1, 60000.0)))
    create_apdb(tmp_path / "one")
    with pytest.raises(BadInput, match="already"):
        create_apdb(tmp_path / "one")
    (tmp_path / "apdb.sqlite3").write_text("not a database at all, only text that is long enough to have a header")
    with pytest.raises(CorruptFile, match="is no prompt database"):
        open_apdb(tmp_path)


def test_a_database_at_a_url(tmp_path):
    night = _night((1, 60000.0))
    config = ApdbConfig(uri=f"sqlite:///{tmp_path}/night.db", time_processed=60100.0)
    assert fill_apdb(*night, config).apdb_log["status"].tolist() == ["stored"]
    assert fill_apdb(*night, config).apdb_log["status"].tolist() == ["present"]
    assert len(read_objects(open_apdb(config.uri))) == N


def test_an_empty_night(tmp_path):
    made = associate([_sources(1, 60000.0, n=0)])
    log = fill_apdb(made.dia_source, made.dia_object, [_forced(1, 60000.0, [])], _config(tmp_path)).apdb_log
    assert (log["visit"].tolist(), log["nDiaSources"].tolist()) == ([1], [0])
    assert len(read_objects(open_apdb(tmp_path / "apdb"))) == 0
