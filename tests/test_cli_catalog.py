import json

import intake
import pytest
import yaml
from typer.testing import CliRunner

from nightlab.cli import app
from nightlab.data import download, locate
from nightlab.data.manifests import manifest_names


def call(*arguments):
    """Exit code, standard output and standard error of ``nightlab catalog``; nothing but an exit may escape."""
    result = CliRunner().invoke(app, ["catalog", *(str(argument) for argument in arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("NIGHTLAB_DATA", raising=False)
    monkeypatch.setattr(locate, "_checkout", lambda: None)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_entries_are_listed_with_where_their_data_are(nowhere):
    code, out, _ = call("list")
    assert code == 0
    lines = {line.split()[0]: line for line in out.splitlines() if "." in line.split()[0]}
    assert len(lines) > 70
    assert "VisitImage" in lines["simulated.pair"]
    assert " ok " in lines["simulated.pair"]
    assert "to fetch" in lines["stripe82.corrected_frame"]
    assert "to make" in lines["stripe82.visit_image"]


def test_one_entry_is_listed_with_the_values_it_takes(nowhere):
    code, out, _ = call("list", "stripe82.corrected_frame")
    assert code == 0
    assert "band   u g r i z" in out
    rows = json.loads(call("list", "stripe82", "--json")[1])
    assert {row["name"].partition(".")[0] for row in rows} == {"stripe82"}
    assert {row["state"] for row in rows} == {"to fetch", "to make"}


def test_unknown_names_are_usage_errors(nowhere):
    for arguments in (
        ("list", "nope"),
        ("check", "nope"),
        ("fetch", "nope"),
        ("list", "-c", "nope"),
        ("export-v2", "nope"),
    ):
        code, out, err = call(*arguments)
        assert (code, out) == (2, ""), arguments
        assert "nope" in err
        assert "try:" in err


def test_check_opens_what_is_here_and_says_what_is_not(nowhere):
    code, out, _ = call("check", "simulated")
    assert code == 0
    assert "to make" in out
    assert "nightlab run ApPipe --data simulated" in out
    code, out, _ = call("check", "kids", "--json")
    assert code == 3
    rows = json.loads(out)
    assert [row["state"] for row in rows] == ["to fetch"] * 3
    assert all("nightlab catalog fetch kids-galaxies" in row["note"] for row in rows)


def test_check_tells_of_damage(nowhere, monkeypatch):
    folder = nowhere / "nightlab/lsst-throughputs"
    folder.mkdir(parents=True)
    for band in "ugrizy":
        (folder / f"total_{band}.dat").write_text("300 0.1\n")
    code, out, _ = call("check", "lsst.throughput")
    assert code == 1
    assert "damaged" in out
    assert "not the file that was published" in out


def test_an_entry_that_cannot_be_read_does_not_stop_the_check(tmp_path):
    entries = {
        name: {"description": name, "driver": driver, "args": args}
        for name, driver, args in (
            ("foreign", "textfiles", {"urlpath": str(tmp_path / "none.txt")}),
            ("odd", "nightlab_image", {"path": str(tmp_path / "c.yaml"), "reader": "Hubble"}),
            ("pair", "nightlab_simulated", {"side": 64}),
        )
    }
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({"metadata": {"version": 1}, "sources": entries}))
    code, out, _ = call("check", "-c", tmp_path / "c.yaml", "--json")
    assert code == 1
    states = {row["name"]: row["state"] for row in json.loads(out)}
    assert states["odd"] == "failed"
    assert states["pair"] == "ok"
    assert states["foreign"] != "ok"


def test_fetch_without_names_lists_the_data_sets(nowhere):
    code, out, _ = call("fetch", "--json")
    assert code == 0
    rows = json.loads(out)
    assert [row["data_set"] for row in rows] == manifest_names()
    assert {row["folder"] for row in rows} == {""}
    assert all(row["MB"] > 0 for row in rows)


def test_fetch_takes_names_of_entries_and_tells_how_far_it_is(nowhere, monkeypatch):
    def fetch(wanted, *, listener):
        for done in (0, wanted.size // 2, wanted.size):
            listener(download.Fetched(data_set=wanted.name, path="x", done=done, total=wanted.size))
        return nowhere / wanted.name

    monkeypatch.setattr(download, "fetch", fetch)
    code, out, err = call("fetch", "kids.galaxy", "lsst-throughputs", "--json")
    assert code == 0
    assert [row["data_set"] for row in json.loads(out)] == ["kids-galaxies", "lsst-throughputs"]
    assert "kids-galaxies   50 % of 3.0 MB" in err
    assert "lsst-throughputs   100 % of 2.0 MB" in err


def test_a_fetch_that_fails_exits_as_missing_data_does(nowhere, monkeypatch):
    def receive(*_):
        raise ConnectionResetError("no network here")

    monkeypatch.setattr(download, "_receive", receive)
    monkeypatch.setattr(download.time, "sleep", lambda _: None)
    code, _, err = call("fetch", "kids-galaxies")
    assert code == 3
    assert "no network here" in err
    assert "raw.githubusercontent.com" in err


def test_export_writes_what_intake_reads(nowhere):
    code, out, _ = call("export-v2", "simulated", "-o", nowhere / "new/v2.yaml")
    assert (code, out.strip()) == (0, str(nowhere / "new/v2.yaml"))
    assert "pair" in list(intake.from_yaml_file(str(nowhere / "new/v2.yaml")))
    assert yaml.safe_load(call("export-v2", "simulated")[1])["version"] == 2
