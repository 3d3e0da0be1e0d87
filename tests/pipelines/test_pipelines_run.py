import contextlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import toy_pipeline as toy
from lsst.daf.butler import Butler

from nightlab.errors import BadInput, MissingData, RunLocked, StageFailed
from nightlab.pipelines.events import plain_listener, rich_listener
from nightlab.pipelines.run import output_lock, run

HERE = Path(__file__).parent
RUN = "runs/Toy"
QUERY = "instrument='Toy' AND skymap='toy_sky'"
TABLES = ("toy_table", "toy_stacked", "toy_joined")


def go(pipeline, repo, *, jobs=1, query=QUERY, **more):
    return run(pipeline, repo, query=query, output_run=RUN, inputs=toy.INPUTS, jobs=jobs, **more)


def products(repo, output_run=RUN):
    """Every table of a run, to the last bit."""
    with Butler.from_config(str(repo), collections=[output_run]) as butler:
        found = {}
        for name in sorted(kind.name for kind in butler.registry.queryDatasetTypes(TABLES)):
            for ref in butler.query_datasets(name, find_first=False, explain=False):
                table = butler.get(ref)
                bits = tuple((column, np.asarray(table[column]).tobytes()) for column in table.colnames)
                found[name, tuple(ref.dataId.required_values)] = bits
        return found


@pytest.fixture(scope="session")
def reference(made_once, tmp_path_factory):
    """Products of one undisturbed run in this process."""
    folder = tmp_path_factory.mktemp("reference")
    repo = shutil.copytree(made_once, folder / "repo")
    (folder / "Toy.yaml").write_text(toy.YAML)
    events = []
    report = go(str(folder / "Toy.yaml"), repo, listener=events.append)
    assert report.ok
    assert (report.total, report.done, report.existing) == (11, 11, 0)
    assert [event.state for event in events].count("done") == 11
    assert (events[-1].done, events[-1].total) == (11, 11)
    return repo, products(repo)


def test_products_are_what_the_functions_give(reference):
    repo, found = reference
    assert len(found) == 8 + 2 + 1
    with Butler.from_config(str(repo), collections=[RUN, *toy.INPUTS]) as butler:
        for detector, bias in ((0, 0.5), (1, 0.0)):  # only detector 0 has a bias
            raw = butler.get("toy_raw", instrument="Toy", exposure=3, detector=detector)
            table = butler.get("toy_table", instrument="Toy", visit=3, detector=detector)
            values = 2.0 * np.asarray(raw["value"]) - bias
            np.testing.assert_allclose(table["value"], values * (values @ values) / len(values) / values.sum())
            # two shards of three stars each, which lie on detector 0
            n_shards = len(set(sorted(toy.shards(0))[:2]) & toy.shards(detector))
            assert set(table["n_reference"]) == {3 * n_shards}
        joined = butler.get("toy_joined", instrument="Toy")
        # the data ids are in the order (instrument, detector, visit)
        assert list(joined["visit"]) == [*toy.VISITS, *toy.VISITS]
        for patch in (0, 1):
            stacked = butler.get("toy_stacked", skymap="toy_sky", tract=0, patch=patch, band="r")
            assert stacked["patch"][0] == patch
            inside = [butler.get("toy_table", instrument="Toy", visit=v, detector=patch) for v in toy.VISITS]
            np.testing.assert_allclose(stacked["sum"][0], sum(table["value"].sum() for table in inside))


def test_two_workers_give_the_same_bits_and_a_repeat_does_nothing(repo, pipeline, reference, tmp_path, monkeypatch):
    monkeypatch.setenv("TOY_JOURNAL", str(tmp_path / "journal"))
    monkeypatch.setenv("TOY_KILL", str(tmp_path / "flag"))
    (tmp_path / "flag").write_text("once")  # one worker is killed on the way, too
    text = StringIO()
    report = go(pipeline, repo, jobs=2, listener=plain_listener(text))
    assert report.ok, report.text()
    assert products(repo) == reference[1]
    assert not (tmp_path / "flag").exists()
    assert len(text.getvalue().splitlines()) == 11
    assert (tmp_path / "journal").read_text().splitlines().count("join") == 1
    before = (tmp_path / "journal").stat().st_size
    again = go(pipeline, repo, jobs=2)
    assert again.ok
    assert (again.done, again.existing) == (0, 11)
    assert "nothing to do" in again.text()
    assert (tmp_path / "journal").stat().st_size == before


def test_pipetask_gives_the_same_bits(repo, pipeline, reference):
    command = [Path(sys.executable).with_name("pipetask"), "run", "-b", repo, "-i", ",".join(toy.INPUTS)]
    command += ["--output-run", RUN, "-p", pipeline, "-d", QUERY, "--register-dataset-types"]
    environment = os.environ | {"PYTHONPATH": str(HERE)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert products(repo) == reference[1]
    # and what it left is taken for what it is
    assert go(pipeline, repo).existing == 11


def test_a_failure_stops_only_what_needs_it(repo, pipeline, reference, monkeypatch):
    monkeypatch.setenv("TOY_FAIL", "3")
    report = go(pipeline, repo)
    assert report.exit_code == 1
    assert [(item.stage, item.data_id["visit"]) for item in report.failed] == [("measure", 3)] * 2
    assert not report.blocked
    assert sorted(item.stage for item in report.partial) == ["join", "stack", "stack"]
    assert "made without measure visit 3 detector 0, measure visit 3 detector 1, which failed" in report.text()
    failure = report.failed[0]
    assert failure.error == "TooFewStars"
    assert failure.message == "visit 3 has 2 stars, 10 are needed (lower the threshold)"
    assert "#measure" in failure.command
    assert "visit=3" in failure.command
    assert failure.message in report.text()
    with pytest.raises(StageFailed, match="2 of 11 quanta failed"):
        report.check()
    made = products(repo)
    assert len(made) == 9
    # again: only what failed is tried, and what the rest made of the others stands
    again = go(pipeline, repo)
    assert (again.exit_code, again.existing, again.done, len(again.failed), len(again.partial)) == (1, 9, 0, 2, 3)
    assert products(repo) == made
    without = go(pipeline, repo, query=f"{QUERY} AND visit != 3")
    assert (without.ok, without.existing, without.done) == (True, 9, 0)
    monkeypatch.delenv("TOY_FAIL")
    resumed = go(pipeline, repo)
    assert (resumed.ok, resumed.existing, resumed.done) == (True, 6, 5)
    assert products(repo) == reference[1]


def test_what_rests_on_a_mended_failure_is_made_again(repo, tmp_path, monkeypatch):
    (tmp_path / "Toy.yaml").write_text(toy.WITH_CHECK)
    pipeline = str(tmp_path / "Toy.yaml")
    monkeypatch.setenv("TOY_FAIL", "3")
    report = go(pipeline, repo, jobs=2)
    # one table of each detector is missing: what reads it is blocked, what reads many goes on
    assert sorted((item.stage, item.data_id["visit"]) for item in report.blocked) == [("check", 3)] * 2
    assert "needs measure visit 3 detector 0, which failed" in report.blocked[0].message
    assert report.done == 6 + 3 + 6
    with Butler.from_config(str(repo), collections=[RUN]) as butler:
        before = butler.get("toy_checked", instrument="Toy", visit=1, detector=0)["total"][0]
        assert 3 not in butler.get("toy_joined", instrument="Toy")["visit"]
    again = go(pipeline, repo)
    assert (again.existing, again.done, len(again.failed), len(again.blocked)) == (15, 0, 2, 2)
    monkeypatch.delenv("TOY_FAIL")
    mended = go(pipeline, repo, jobs=2)
    assert (mended.ok, mended.existing, mended.done) == (True, 6, 2 + 3 + 8)
    with Butler.from_config(str(repo), collections=[RUN]) as butler:
        assert butler.get("toy_checked", instrument="Toy", visit=1, detector=0)["total"][0] > before
        assert 3 in butler.get("toy_joined", instrument="Toy")["visit"]
    assert go(pipeline, repo).done == 0


def test_nothing_is_made_of_nothing(repo, tmp_path, monkeypatch):
    (tmp_path / "Toy.yaml").write_text(toy.WITH_CHECK)
    monkeypatch.setenv("TOY_FAIL", "1,2,3,4")
    report = go(str(tmp_path / "Toy.yaml"), repo)
    assert (len(report.failed), len(report.blocked), report.done) == (8, 2 + 1 + 8, 0)
    assert not products(repo)


def test_an_input_that_came_later_makes_its_results_stale(repo, pipeline, reference):
    assert go(pipeline, repo).ok
    with Butler.from_config(str(repo), writeable=True) as butler:
        where = "instrument='Toy' AND exposure=1 AND detector=1"
        [ref] = butler.query_datasets("toy_raw", collections="Toy/raw", where=where, with_dimension_records=True)
        raw = butler.get(ref)
        butler.pruneDatasets([ref], disassociate=True, unstore=True, purge=True)
        raw["value"] *= 2
        butler.put(raw, ref)
    report = go(pipeline, repo)
    # the image, its patch and what is joined of all
    assert (report.ok, report.done, report.existing) == (True, 3, 8)
    changed = {key for key, bits in products(repo).items() if bits != reference[1][key]}
    assert changed == {("toy_table", ("Toy", 1, 1)), ("toy_stacked", ("r", "toy_sky", 0, 1)), ("toy_joined", ("Toy",))}


def test_another_config_is_refused(repo, pipeline):
    query = f"{QUERY} AND visit = 1 AND detector = 0"
    assert go(f"{pipeline}#measure", repo, query=query, config={"measure.gain": "3.0"}).ok
    with pytest.raises(BadInput, match=r"measure\.gain: 3\.0 then, 2\.0 now"):
        go(f"{pipeline}#measure", repo, query=query)
    [file] = (repo / RUN).rglob("*measure_config*.py")
    file.write_text(file.read_text().replace("config.gain", "config.niag"))
    with pytest.raises(BadInput, match=r"another version of the stage .*niag"):
        go(f"{pipeline}#measure", repo, query=query)
    for config, match in (
        ({"measure.gain": -1.0}, "gain"),
        ({"measure.detect.threshold": 60.0, "measure.gain": 60.0}, "cannot both be large"),
        ({"measure.gian": 2.0}, "gian"),
        ({"mesure.gain": 2.0}, "names no knob"),
    ):
        with pytest.raises(BadInput, match=match):
            go(pipeline, repo, query=query, config=config)


def test_nothing_to_do_for_a_quantum_is_reported(repo, pipeline):
    config = {"measure.bare_visit": 2}
    report = go(pipeline, repo, config=config)
    assert report.ok
    assert [item.message for item in report.idle] == ["nothing covers visit 2"] * 2
    assert "nothing covers visit 2" in report.text()
    assert len(products(repo)) == 6 + 2 + 1
    again = go(pipeline, repo, config=config)
    assert again.done == 0
    assert [item.message for item in again.idle] == ["nothing covers visit 2"] * 2


def test_a_worker_that_dies_twice_fails_its_quantum_only(repo, pipeline, tmp_path, monkeypatch):
    monkeypatch.setenv("TOY_KILL", str(tmp_path / "flag"))
    (tmp_path / "flag").write_text("always")
    report = go(f"{pipeline}#measure", repo, jobs=2, query=f"{QUERY} AND detector = 0")
    assert [item.data_id["visit"] for item in report.failed] == [2]
    assert "signal 9" in report.failed[0].message
    assert report.done == 3


def _children(parent):
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[1]) == parent and fields[0] != "Z":
                found.append(int(stat.parent.name))
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_killed_run_leaves_no_worker_and_is_taken_up_again(repo, pipeline, reference, tmp_path):
    journal = tmp_path / "journal"
    code = f"import test_pipelines_run as t; t.go({pipeline!r}, {str(repo)!r}, jobs=2)"
    environment = os.environ | {"PYTHONPATH": str(HERE), "TOY_SECONDS": "0.3", "TOY_JOURNAL": str(journal)}
    parent = subprocess.Popen([sys.executable, "-c", code], env=environment)
    deadline = time.monotonic() + 60
    while not (journal.exists() and len(journal.read_text().splitlines()) >= 4):
        assert time.monotonic() < deadline
        assert parent.poll() is None
        time.sleep(0.02)
    workers = _children(parent.pid)
    assert len(workers) == 2
    with pytest.raises(RunLocked, match=f"process {parent.pid}"):
        go(pipeline, repo)
    time.sleep(float(np.random.default_rng().uniform(0, 0.3)))
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    while any(Path(f"/proc/{worker}").exists() for worker in workers):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    report = go(pipeline, repo)
    assert report.ok
    assert 2 <= report.existing < 11
    assert products(repo) == reference[1]


def test_a_full_disk_fails_the_quantum_and_leaves_nothing_half_written(repo, pipeline, monkeypatch):
    monkeypatch.setenv("TOY_BIG", "1000000")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4_000_000, before[1]))
    try:
        report = go(f"{pipeline}#measure", repo, query=f"{QUERY} AND visit = 1 AND detector = 0")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [item.error for item in report.failed] == ["WriteFailed"]
    assert "toy_table of instrument=Toy" in report.failed[0].message
    assert not products(repo)
    assert not [file for file in (repo / RUN).rglob("*") if file.is_file() and "toy_table" in str(file)]
    assert go(f"{pipeline}#measure", repo, query=f"{QUERY} AND visit = 1 AND detector = 0").ok


def test_a_run_can_be_stopped_and_interrupted(repo, pipeline, reference):
    stop = threading.Event()

    def stop_at_three(event):
        if event.done == 3:
            stop.set()

    report = go(pipeline, repo, listener=stop_at_three, stop=stop)
    assert report.stopped
    assert report.exit_code == 1
    assert report.done == 3

    def interrupt(event):
        if event.state == "done" and event.done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        go(pipeline, repo, listener=interrupt)
    with rich_listener() as listener:
        assert go(pipeline, repo, listener=listener).existing == 5
    assert products(repo) == reference[1]


def test_what_is_not_there_is_named(repo, pipeline, tmp_path):
    with pytest.raises(BadInput, match=r"no pipeline 'ApPip'.*ApPipe"):
        go("ApPip", repo)
    with pytest.raises(MissingData, match=r"no pipeline file .*ApPip.yaml"):
        go("ApPip.yaml", repo)
    with pytest.raises(BadInput, match=r"'runs/\*' cannot be the name"):
        run(pipeline, repo, output_run="runs/*", inputs=toy.INPUTS)
    with pytest.raises(BadInput, match=r"ToyMeasure has no knob nope.*--set"):
        go(pipeline, repo, config={"measure.nope": 1})
    with pytest.raises(BadInput, match=r"threshold.*--set"):
        go(pipeline, repo, config={"measure.detect.threshold": "many"})
    with pytest.raises(BadInput, match="no stage mesure"):
        go(f"{pipeline}#mesure", repo)
    with pytest.raises(MissingData, match=r"nothing to run.*visit = 77"):
        go(pipeline, repo, query=f"{QUERY} AND visit = 77")
    with pytest.raises(BadInput, match="vist"):
        go(pipeline, repo, query=f"{QUERY} AND vist = 1")
    with pytest.raises(MissingData, match="no repository"):
        go(pipeline, tmp_path / "none" / "at all")
    with pytest.raises(MissingData, match=r"nowhere.*Toy/raw"):
        run(pipeline, repo, query=QUERY, output_run=RUN, inputs=["nowhere"])


def test_an_output_run_has_one_writer(repo):
    with output_lock(repo, RUN):
        with pytest.raises(RunLocked, match=f"process {os.getpid()}"), output_lock(repo, RUN):
            pass
        with output_lock(repo, "runs/Other"):
            pass
    with output_lock(repo, RUN):
        pass


def test_what_a_killed_writer_left_is_swept_away(repo, pipeline, reference):
    folder = repo / RUN / "toy_table" / "Toy"
    folder.mkdir(parents=True)
    half = folder / "t2y5o4uftmpxj7bwtoy_table_Toy_1_0.tmp.parq"
    half.write_bytes(b"PAR1")
    other = folder / "notes.tmp.txt"
    other.write_text("somebody's own")
    assert go(pipeline, repo).ok
    assert not half.exists()
    assert other.exists()
    assert products(repo) == reference[1]
