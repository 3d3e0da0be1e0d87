import errno
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from lsst.daf.butler import Butler, DatasetType
from sqlalchemy.exc import OperationalError

from nightlab.data.repository import (
    INPUTS,
    folder_of,
    input_collections,
    make_repository,
    open_repository,
    register_instrument,
    writing,
)
from nightlab.errors import BadInput, CorruptFile, MissingData, WriteFailed
from nightlab.report import Metric, report


@pytest.fixture(scope="module")
def repo(empty_repository, tmp_path_factory):
    return open_repository(
        shutil.copytree(empty_repository, tmp_path_factory.mktemp("repo") / "my repo"), writeable=True
    )


def test_instruments_have_detectors_filters_and_collections(repo):
    detectors = repo.query_dimension_records("detector", instrument="SDSS")
    assert {record.full_name for record in detectors} == {
        f"{band}{camcol}" for band in "ugriz" for camcol in range(1, 7)
    }
    filters = repo.query_dimension_records("physical_filter", instrument="SimCam")
    assert {record.name: record.band for record in filters} == {f"sim_{band}": band for band in "ugrizy"}
    assert set(input_collections("SDSS")) <= set(repo.collections.query("*"))
    for name in INPUTS:
        assert repo.get_dataset_type(name).storageClass_name == INPUTS[name][1]


def test_making_it_again_changes_nothing_and_adds_what_lacks(tmp_path):
    make_repository(tmp_path, "SDSS")
    again = make_repository(tmp_path, "SDSS", "GenericFITS")
    assert {record.name for record in again.query_dimension_records("instrument")} == {"SDSS", "GenericFITS"}
    assert len(again.query_dimension_records("detector", instrument="SDSS")) == 30
    assert folder_of(again) == tmp_path


def test_metrics_are_kept_by_the_butler(repo):
    kind = DatasetType("toy_metrics", ("instrument",), "XarrayDataset", universe=repo.dimensions)
    repo.registry.registerDatasetType(kind)
    repo.collections.register("toy")
    made = report({"n": Metric("How many.", "mag")}, {"n": 3.0}, detector=1)
    ref = repo.put(made, "toy_metrics", instrument="SDSS", run="toy")
    assert repo.get(ref).identical(made)
    assert repo.getURI(ref).ospath.endswith(".zarr.zip")


def test_absent_and_damaged_repositories_are_told_apart(empty_repository, tmp_path):
    with pytest.raises(MissingData, match="no data repository") as caught:
        open_repository(tmp_path)
    assert "make" in caught.value.hint
    shutil.copytree(empty_repository, tmp_path, dirs_exist_ok=True)
    (tmp_path / "gen3.sqlite3").write_bytes(b"this is no database, whatever its name says")
    with pytest.raises(CorruptFile, match="cannot be opened"):
        open_repository(tmp_path)


def test_unknown_instruments_are_answered_with_the_known(tmp_path):
    with pytest.raises(BadInput, match="HAL") as caught:
        make_repository(tmp_path, "HAL")
    assert "SimCam" in caught.value.hint


def refuse(*args, **kwargs):
    raise PermissionError(errno.EACCES, "Permission denied", "/somewhere")


def test_a_folder_that_cannot_be_written_is_reported(empty_repository, monkeypatch):
    tmp_path = empty_repository
    with monkeypatch.context() as patch:
        # tests may run as root, whom no permission stops
        patch.setattr(tempfile, "TemporaryFile", refuse)
        with pytest.raises(WriteFailed, match="Permission denied") as caught:
            open_repository(tmp_path, writeable=True)
        assert str(tmp_path) in str(caught.value)
        with pytest.raises(WriteFailed):
            make_repository(tmp_path, "SDSS")
        # reading needs no write
        assert isinstance(open_repository(tmp_path), Butler)


def test_a_repository_that_cannot_be_made_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(WriteFailed, match="cannot write into"):
        make_repository(tmp_path / "new", "SDSS")


def test_a_full_disk_is_a_failed_write_and_a_missing_file_is_not(tmp_path):
    with pytest.raises(WriteFailed, match="No space"), writing(tmp_path):
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(FileNotFoundError), writing(tmp_path):
        (tmp_path / "absent").read_text()
    with pytest.raises(CorruptFile), writing(tmp_path):
        raise CorruptFile("a damaged input")


def test_a_read_only_butler_does_not_write(empty_repository, tmp_path):
    reader = open_repository(empty_repository)
    with pytest.raises(WriteFailed, match="reading only") as caught:
        register_instrument(reader, "SimCam")
    assert "writeable=True" in caught.value.hint
    # a database that turns read-only later is a failed write as well
    with pytest.raises(WriteFailed, match="cannot write"), writing(tmp_path):
        reader.registry.syncDimensionData("skymap", {"name": "a", "hash": b"0"})


def test_a_change_cut_short_by_a_kill_is_taken_back(repo):
    database = repo.get_datastore_roots()
    root = Path(next(iter(database.values())).ospath)
    script = (
        "import os, sqlite3, sys\n"
        "connection = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        # so that pages reach the file before the end of the transaction
        "connection.execute('PRAGMA cache_size = 1')\n"
        "connection.execute('BEGIN IMMEDIATE')\n"
        "connection.execute('CREATE TABLE half (text TEXT)')\n"
        "connection.executemany('INSERT INTO half VALUES (?)', [('x' * 1000,)] * 2000)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    names = set(repo.collections.query("*"))
    repo.close()
    done = subprocess.run([sys.executable, "-c", script, root / "gen3.sqlite3"], check=False)
    assert done.returncode == -9
    assert (root / "gen3.sqlite3-journal").stat().st_size > 0
    with pytest.raises(OperationalError, match="readonly"):
        Butler.from_config(str(root))
    with open_repository(root) as butler:
        assert set(butler.collections.query("*")) == names
    assert not (root / "gen3.sqlite3-journal").exists()
