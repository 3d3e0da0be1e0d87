"""What goes wrong at a telescope: the other frames go on, nothing half-made stays, and the way out works."""

import contextlib
import shutil
import subprocess

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table, vstack
from lsst.daf.butler import Butler
from tiny_night import TEMPLATE_VISITS, VISITS, replace_raw, stored, tables
from typer.testing import CliRunner

from nightlab.cli import app
from nightlab.data.ingest import ingest, ingest_reference
from nightlab.data.instruments.sdss import find_frame
from nightlab.data.repository import make_repository
from nightlab.errors import BandMismatch, MissingData, WriteFailed
from nightlab.pipelines import night
from nightlab.stages.templates import warp_template

pytestmark = pytest.mark.slow
RUN = "runs/ApPipe"
MEGABYTE = 2**20


@pytest.fixture
def repo(with_templates, tmp_path):
    return shutil.copytree(with_templates, tmp_path / "repo")


def run(repo, **more):
    return night.run("ApPipe", repository=repo, **({"jobs": 1} | more))


def trouble(report):
    """What went wrong, by stage and visit."""
    return {(item.stage, item.data_id.get("visit")): item for item in report}


def command_line(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


def raw_of(survey, visit):
    return survey / "raw" / f"{visit}_0.fits"


def damage(path, new, how):
    """Copy a raw frame and spoil the copy."""
    shutil.copy(path, new)
    if how == "truncated":
        truncate(new)
    else:
        with fits.open(new, mode="update") as hdus:
            hdus["RAW"].data[:] = 65535
    return new


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_bad_frames_are_left_out_and_taken_in_when_they_are_mended(repo, survey, undisturbed, tmp_path):
    paths = {visit: tmp_path / f"{visit}_0.fits" for visit in VISITS[:2]}
    damage(raw_of(survey, 4101), paths[4101], "truncated")
    damage(raw_of(survey, 4102), paths[4102], "saturated")
    for path in paths.values():
        replace_raw(repo, path)

    report = run(repo).report
    assert report.exit_code == 1
    failed = trouble(report.failed)
    assert set(failed) == {("calibrate", 4101), ("calibrate", 4102)}
    assert failed["calibrate", 4101].error == "CorruptFile"
    assert str(paths[4101]) in failed["calibrate", 4101].message
    assert "fetch it again" in failed["calibrate", 4101].message
    assert failed["calibrate", 4102].error == "AllMasked"
    assert "all are masked or saturated (look at the raw" in failed["calibrate", 4102].message
    assert "failed: calibrate visit 4102 detector 0: no pixel" in report.text()
    # the good one goes through to the database; what is made of all is made of it alone, and says so
    assert {name for name, (_, *who) in tables(repo, RUN) if who in ([], [0, 4401])} == {
        "source", "dia_source_unassociated", "dia_source", "dia_object", "dia_forced_source",
    }  # fmt: skip
    partial = trouble(report.partial)
    assert set(partial) == {("associate", None), ("fill_apdb", None), ("gather_metrics", None)}
    assert "calibrate visit 4101 detector 0" in partial["associate", None].message
    assert "incomplete: associate" in report.text()
    products, stray = stored(repo, RUN)
    assert not stray
    # a failure leaves its log and nothing else
    assert {name for name, who in products if who[1:] == (0, 4101)} == {"calibrate_log"}

    again = run(repo).report
    assert (again.exit_code, again.done, len(again.failed)) == (1, 0, 2)

    for visit, path in paths.items():
        shutil.copy(raw_of(survey, visit), path)
    code, out, _ = command_line("run", "ApPipe", "-b", repo, "-j", 1, "--plain")
    assert code == 1
    # both are older than what the database has
    assert f"visit 4101 (MJD {61474.0 + 40:.0f}"[:20] in out
    assert "LateVisit" not in out
    assert f"nothing else fills the database {repo / 'apdb'}, remove it" in out
    late = run(repo).report
    assert trouble(late.failed)["fill_apdb", None].error == "LateVisit"
    assert tables(repo, RUN) == tables(undisturbed, RUN)
    shutil.rmtree(repo / "apdb")
    mended = run(repo).report
    assert (mended.exit_code, mended.done) == (0, 1)
    assert run(repo).report.done == 0


def test_a_bad_template_visit_is_left_out_and_taken_in_when_it_is_mended(survey, with_templates, tmp_path):
    files = shutil.copytree(survey, tmp_path / "survey")
    folder = tmp_path / "repo"
    bad = files / "raw" / f"{TEMPLATE_VISITS[0]}_0.fits"
    night.run("Templates#calibrate", "simulated", folder, survey=files, query="visit = 102", jobs=1)
    truncate(bad)
    query = "visit = 4401"
    first = run(folder, query=query)
    assert first.exit_code == 1
    assert first.report.ok
    assert str(bad) in first.templates.failed[0].message
    assert trouble(first.templates.partial)["build_template", None]
    again = run(folder, query=query)
    assert (again.exit_code, again.templates.done, again.report.done) == (1, 0, 0)
    shutil.copy(raw_of(survey, TEMPLATE_VISITS[0]), bad)
    shutil.rmtree(folder / "apdb")
    mended = run(folder, query=query)
    assert mended.exit_code == 0
    assert {item for item in ("calibrate", "build_template", "gather_metrics") if mended.templates.ok}
    # the calibrated science frame stands; the difference is made again with the better template
    assert (mended.templates.done, mended.report.existing, mended.report.done) == (3, 1, 7)


def replace_reference(repo, table):
    with Butler.from_config(str(repo), writeable=True) as butler:
        refs = butler.query_datasets("reference", collections="refcats")
        butler.pruneDatasets(refs, disassociate=True, unstore=True, purge=True)
        ingest_reference(butler, table, "moved")


def test_a_frame_without_reference_stars_is_named(repo, survey):
    reference = Table.read(survey / "reference.parquet")
    copies = []
    for k, (east, north) in enumerate([(0.06, 0), (-0.06, 0), (0, 0.06), (0, -0.06)]):
        moved = reference.copy()
        moved["refId"] += 10**6 * k
        for name, step in (("ra", east), ("dec", north)):
            moved[name] = (np.asarray(moved[name]) + step) * moved[name].unit
        copies.append(moved)
    replace_reference(repo, vstack(copies))
    report = run(repo, query="visit = 4101").report
    assert report.exit_code == 1
    [failed] = report.failed
    assert (failed.stage, failed.error, failed.data_id["visit"]) == ("calibrate", "NoOverlap", 4101)
    assert "reference objects lies on the detector" in failed.message
    assert "use a reference catalogue that covers this field" in failed.message
    assert "visit=4101" in failed.command
    assert not tables(repo, RUN)


def test_a_frame_outside_the_reference_catalogue_stays_in_its_own_unit(repo, survey):
    reference = Table.read(survey / "reference.parquet")
    reference["dec"] = (np.asarray(reference["dec"]) + 50.0) * reference["dec"].unit
    replace_reference(repo, reference)
    report = run(repo, query="visit = 4101").report
    assert report.exit_code == 1
    [failed] = report.failed
    assert (failed.stage, failed.error) == ("warp_template", "BadInput")
    assert "nJy" in failed.message
    assert {name for name, _ in tables(repo, RUN)} == {"source"}


@pytest.mark.real_data
def test_a_frame_without_its_psf_file_is_named_and_others_go_on(stripe82, tmp_path):
    folder, paths = tmp_path / "input", {}
    for of, field in ((4192, 300), (6377, 399)):
        rerun = stripe82 / "input" / str(of) / "40"
        frame = find_frame(rerun / "corr" / "4" / f"fpC-{of:06d}-r4-{field:04d}.fit.gz")
        for file in (frame.pixels, frame.mask, frame.psf, frame.astrometry, frame.photometry):
            link = folder / str(of) / "40" / file.relative_to(rerun)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(file)
        paths[of] = find_frame(folder / str(of) / "40" / frame.pixels.relative_to(rerun))
    gone = paths[6377].psf
    original = gone.readlink()
    butler = make_repository(tmp_path / "repo", "SDSS")
    gone.unlink()
    with pytest.raises(MissingData, match=r"psField-006377-4-0399\.fit") as caught:
        ingest(butler, "SDSS", [frame.pixels for frame in paths.values()])
    assert "fetch it" in caught.value.hint
    # nothing was registered; with the file, both are
    gone.symlink_to(original)
    assert len(ingest(butler, "SDSS", [frame.pixels for frame in paths.values()])) == 2
    gone.unlink()
    report = night.run("SingleFrame", repository=tmp_path / "repo", jobs=1).report
    assert (report.exit_code, report.done) == (1, 2)
    [failed] = report.failed
    assert (failed.stage, failed.error, failed.data_id["visit"]) == ("calibrate", "MissingData", paths[6377].visit)
    assert "psField-006377-4-0399.fit" in failed.message
    assert "fetch it from the SDSS archive" in failed.message
    assert {key[1][-1] for key in tables(tmp_path / "repo", "runs/SingleFrame")} == {paths[4192].visit}
    gone.symlink_to(original)
    mended = night.run("SingleFrame", repository=tmp_path / "repo", jobs=1).report
    assert (mended.exit_code, mended.existing, mended.done) == (0, 1, 2)


def test_a_template_of_another_band_is_refused(with_templates, survey, undisturbed):
    with Butler.from_config(str(undisturbed), collections=["runs/Templates", RUN]) as butler:
        [coadd] = [butler.get(ref) for ref in butler.query_datasets("template_coadd")]
        image = butler.get("visit_image", instrument="SimCam", visit=4101, detector=0)
    image._band = "g"
    with pytest.raises(BandMismatch, match=r"r.*g|g.*r") as caught:
        warp_template(image, [coadd])
    assert caught.value.hint


@contextlib.contextmanager
def small_disk(folder, size):
    """Mount a file system of `size` bytes, where that is allowed."""
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True)
    if done.returncode:
        pytest.skip(f"may not mount a small file system: {done.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def free(folder):
    return shutil.disk_usage(folder).free


def test_a_full_disk_is_named_and_nothing_half_written_stays(with_templates, undisturbed, tmp_path):
    with small_disk(tmp_path / "disk", 64 * MEGABYTE) as disk:
        repo = shutil.copytree(with_templates, disk / "repo")
        filler = disk / "filler"
        filler.write_bytes(b"0" * (free(disk) - 5 * MEGABYTE // 2))
        report = run(repo).report
        assert report.exit_code == 1
        assert report.failed
        for item in report.failed:
            assert item.error == "WriteFailed"
            # the files of products, or the database, which then has no room to say that a small one is there
            assert "No space left" in item.message or "database or disk is full" in item.message
            assert str(repo) in item.message
            assert "make room" in item.message
        assert any("No space left" in item.message for item in report.failed)
        assert not stored(repo, RUN)[1]
        filler.unlink()
        assert run(repo).report.ok
        assert tables(repo, RUN) == tables(undisturbed, RUN)


def test_a_full_disk_stops_the_database_too(with_templates, tmp_path):
    with small_disk(tmp_path / "disk", 64 * MEGABYTE) as disk:
        repo = shutil.copytree(with_templates, disk / "repo")
        filler = disk / "filler"
        filler.write_bytes(b"0" * free(disk))
        with pytest.raises(WriteFailed, match=str(repo)) as caught:
            run(repo)
        assert "make room" in caught.value.hint or "free some space" in caught.value.hint
        code, _, err = command_line("run", "ApPipe", "-b", repo, "--plain")
        assert (code, str(repo) in err, "Traceback" in err) == (1, True, False)
        filler.unlink()
        assert run(repo, query="visit = 4101").report.ok


def test_a_read_only_repository_is_named(with_templates, tmp_path):
    with small_disk(tmp_path / "disk", 64 * MEGABYTE) as disk:
        repo = shutil.copytree(with_templates, disk / "repo")
        before, _ = stored(repo, "runs/Templates")
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        code, _, err = command_line("run", "ApPipe", "-b", repo, "--plain")
        assert code == 1
        assert str(repo) in err
        assert "Read-only" in err
        assert "\n  try: " in err
        assert "Traceback" not in err
        # reading it still works
        assert command_line("metrics", "show", repo, "runs/Templates")[0] == 0
        assert stored(repo, "runs/Templates")[0] == before
