"""What `nightlab run` says and how it ends, on a finished night."""

import json
import shutil

import pytest
from typer.testing import CliRunner

from nightlab.cli import app
from nightlab.data.runs import open_run

pytestmark = pytest.mark.slow

ORDER = "NIGHTLAB__SUBTRACT__KERNEL_ORDER"


def call(*arguments, **environment):
    """Exit code, standard output and standard error; nothing but an exit may escape."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], env=environment)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture(scope="module")
def lab(night, tmp_path_factory):
    """A copy of the finished night that may be written to."""
    return shutil.copytree(night, tmp_path_factory.mktemp("run") / "lab")


@pytest.fixture(scope="module")
def visits(lab):
    return len(open_run(lab).visits())


def planned(*arguments, **environment):
    """Rows of a dry run by stage."""
    code, out, err = call("run", *arguments, "--dry-run", "--json", **environment)
    assert code == 0, err
    return {row["stage"]: row for row in json.loads(out)}


def test_a_dry_run_counts_what_is_there_and_what_is_to_do(lab, visits):
    before = sorted((str(path), path.stat().st_mtime_ns) for path in lab.rglob("*"))
    there = planned("ApPipe#detector", "-b", lab)
    assert list(there) == ["calibrate", "warp_template", "subtract", "detect_dia_sources"]
    assert {row["to do"] for row in there.values()} == {0}
    assert there["subtract"]["there"] == visits
    new = planned("ApPipe#detector", "-b", lab, "-o", "runs/new")
    assert {stage: row["to do"] for stage, row in new.items()} == {
        stage: row["quanta"] for stage, row in there.items()
    }
    visit = min(open_run(lab).visits()["visit"])
    one = planned("ApPipe#subtract", "-b", lab, "-o", "runs/new", "-d", f"visit = {visit}")
    assert one == {"subtract": {"output run": "runs/new", "stage": "subtract", "quanta": 1, "there": 0, "to do": 1}}
    out = call("run", "ApPipe", "-b", lab, "-o", "runs/new", "--dry-run")[1]
    assert "gather_metrics" in out
    assert sorted((str(path), path.stat().st_mtime_ns) for path in lab.rglob("*")) == before


def test_a_dry_run_refuses_what_a_run_refuses(lab, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for arguments, says, expected in (
        (["-b", lab, "--set", "calibrate.detect.threshold=7"], "5.0 then, 7.0 now", 2),
        (["-b", lab, "-d", "visit = 77"], "visit = 77", 3),
        (["-b", tmp_path / "none"], "none", 3),
        (["--data", "simulated"], "a dry run makes nothing", 3),
    ):
        code, out, err = call("run", "ApPipe", *arguments, "--dry-run")
        assert (code, out) == (expected, ""), err
        assert says in err
        assert "\n  try: " in err
    assert not list(tmp_path.iterdir())


def test_a_part_reads_what_the_whole_has_made_and_knobs_come_from_the_environment(lab, visits):
    place = ("ApPipe#subtract", "-b", lab, "-o", "runs/part", "-j", 1)
    code, out, err = call("run", *place, "--json", **{ORDER: "0"})
    assert code == 0, err
    assert "from the environment: subtract.kernel_order=0" in err
    told = json.loads(out)
    assert told["ok"] is True
    [report] = told["reports"]
    assert (report["done"], report["total"], report["failed"]) == (visits, visits, [])
    assert open_run(lab, "runs/part").types() == {"difference_image": visits, "difference_metrics": visits}
    # what is typed goes before the environment
    code, _, err = call("run", *place, "--set", "subtract.kernel_order=2", **{ORDER: "0"})
    assert code == 2
    assert "subtract.kernel_order: 0 then, 2 now" in err
    code, out, err = call("run", *place, "--quiet", **{ORDER: "0"})
    assert (code, out, err) == (0, "", "")
    # a variable for another stage is none of this run's business
    assert planned("ApPipe#subtract", "-b", lab, "-o", "runs/x", NIGHTLAB__BUILD_TEMPLATE__NOPE="1")


def test_a_stage_that_fails_is_told_in_every_form_and_exits_with_1(lab):
    place = ("ApPipe#subtract", "-b", lab, "-j", 1, "--set", "subtract.stars.minimum=100000")
    code, out, err = call("run", *place, "-o", "runs/fails", "--json", "--quiet")
    assert code == 1, err
    told = json.loads(out)
    failed = told["reports"][0]["failed"]
    assert told["ok"] is False
    assert {item["stage"] for item in failed} == {"subtract"}
    assert all("nightlab run 'ApPipe#subtract'" in item["command"] for item in failed)
    code, out, err = call("run", *place, "-o", "runs/fails", "--quiet")
    assert (code, out) == (1, "")
    assert "failed: subtract" in err
    assert "again: nightlab run" in err
