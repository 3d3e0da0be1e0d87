"""A whole night with the real stages: as often as one likes, with as many processes, and with pipetask."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_night
from lsst.daf.butler import Butler
from tiny_night import INPUTS, VISITS, tables
from typer.testing import CliRunner

from nightlab.cli import app
from nightlab.data.apdb.connect import open_apdb
from nightlab.data.apdb.log import logged_visits
from nightlab.pipelines import night
from nightlab.pipelines.graph import pipeline_file
from nightlab.pipelines.run import output_lock

pytestmark = pytest.mark.slow
RUN = "runs/ApPipe"


def test_a_night_makes_all_tables_and_fills_the_database(undisturbed):
    found = tables(undisturbed, RUN)
    per_visit = ("source", "dia_source_unassociated", "dia_forced_source")
    expected = {(name, ("SimCam", 0, visit)) for name in per_visit for visit in VISITS}
    assert set(found) == expected | {("dia_source", ("SimCam",)), ("dia_object", ("SimCam",))}
    assert tiny_night.rows(undisturbed, RUN, "dia_source") > 20
    assert tiny_night.rows(undisturbed, RUN, "dia_object") > 10
    products, stray = tiny_night.stored(undisturbed, RUN)
    assert len(products) > 60
    assert not stray
    log = logged_visits(open_apdb(undisturbed / "apdb"))
    assert sorted(log) == list(VISITS)
    assert sum(row.nDiaSources for row in log.values()) == tiny_night.rows(undisturbed, RUN, "dia_source")


def test_a_transient_of_the_truth_is_an_object(undisturbed, survey):
    from nightlab.data.runs import open_run
    from nightlab.pipelines.summary import recovery

    found = recovery(open_run(undisturbed, RUN), survey)
    assert found.injected["transient"] >= 5
    assert found.completeness("transient") >= 0.8


def test_a_repeat_does_nothing(undisturbed):
    before = {file: file.stat().st_mtime_ns for file in (undisturbed / RUN).rglob("*")}
    made = night.run("ApPipe", repository=undisturbed, jobs=2)
    assert (made.report.done, made.report.existing, made.exit_code) == (0, 18, 0)
    assert made.report.seconds < 20
    assert {file: file.stat().st_mtime_ns for file in (undisturbed / RUN).rglob("*")} == before


def test_one_process_gives_the_same_tables(undisturbed):
    made = night.run("ApPipe", repository=undisturbed, output_run="runs/One", jobs=1)
    assert made.report.ok, made.report.text()
    assert made.apdb == undisturbed / "apdb-One"
    assert tables(undisturbed, "runs/One") == tables(undisturbed, RUN)


def test_pipetask_gives_the_same_tables(undisturbed, tmp_path):
    command = [
        *(Path(sys.executable).with_name("pipetask"), "run", "-b", undisturbed, "-p", pipeline_file("ApPipe")),
        *("-i", ",".join(INPUTS), "-o", "u/somebody/night", "--register-dataset-types"),
        *("-c", f"fill_apdb:uri={tmp_path / 'apdb'}"),
        *("-d", f"instrument = 'SimCam' AND visit IN {VISITS}"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    with Butler.from_config(str(undisturbed)) as butler:
        # a chain of a run with a time in its name, and of what was read
        [output] = butler.collections.query("u/somebody/night/*")
    assert tables(undisturbed, output) == tables(undisturbed, RUN)
    assert sorted(logged_visits(open_apdb(tmp_path / "apdb"))) == list(VISITS)


def call(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


def test_the_command_line_says_what_is_wrong_with_what_was_typed(undisturbed, tmp_path):
    for arguments, says, expected in (
        (["--query", "vist = 4101"], "vist", 2),
        (["--query", "("], "query", 2),
        (["--query", "visit = 77"], "visit = 77", 3),
        (["--set", "calibrate.nope=1"], "no knob nope", 2),
        (["--set", "calibrate.detect.threshold=high"], "detect.threshold", 2),
        (["--set", "calibrate.detect.threshold=7"], "5.0 then, 7.0 now", 2),
        (["--output", "runs/*"], r"runs/*", 2),
        (["--data", "stripe82"], "'simulated', not of 'stripe82'", 2),
    ):
        code, out, err = call("run", "ApPipe", "-b", undisturbed, "--plain", *arguments)
        assert code == expected, (arguments, err)
        assert says in err
        assert "\n  try: " in err
        assert "Traceback" not in out + err
    with output_lock(undisturbed, RUN):
        code, _, err = call("run", "ApPipe", "-b", undisturbed, "--plain")
        assert (code, "another process" in err) == (1, True)


def test_metrics_are_printed_and_checked(undisturbed):
    code, out, _ = call("metrics", "show", undisturbed, "--json")
    assert code == 0
    records = json.loads(out)
    failed = [record for record in records if record["verdict"] == "fail"]
    assert {record["verdict"] for record in records} <= {"pass", "fail", "unknown", "none"}
    assert call("metrics", "check", undisturbed)[0] == (4 if failed else 0)
    code, out, _ = call("metrics", "show", undisturbed, "--by-band")
    assert code == 0
    assert [line.split()[:2] for line in out.splitlines() if line.strip().startswith("r ")] == [["r", "3"]]
    assert call("metrics", "show", undisturbed, "runs/none")[0] == 3


def test_every_quantum_is_labelled_in_the_metrics(undisturbed):
    with Butler.from_config(str(undisturbed), collections=[RUN]) as butler:
        metrics = butler.get("metrics", instrument="SimCam")
    assert list(metrics["visit"].values) == list(VISITS)
    assert np.isfinite(metrics["difference.noise_ratio"].values).all()
