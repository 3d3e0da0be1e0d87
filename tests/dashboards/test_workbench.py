import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from lsst.daf.butler import Butler

from nightlab.dashboards.bench import results
from nightlab.dashboards.bench.pairs import (
    BY_HAND,
    OF_TWO,
    FromFiles,
    FromRun,
    FromSeed,
    file_within,
    write_small_pair,
)
from nightlab.dashboards.library import Library
from nightlab.dashboards.workbench import KEPT, Workbench
from nightlab.data.runs import open_run
from nightlab.errors import BadInput, MissingData
from nightlab.pipelines.tasks import one_thread


@pytest.fixture(scope="module")
def run(night):
    return open_run(night)


@pytest.fixture
def bench(run):
    made = Workbench.from_run(run)
    yield made
    made.close()


@pytest.fixture
def small():
    """A workbench on a simulated pair: a call takes a moment."""
    made = Workbench(library=Library(), source="simulated", seed=3)
    yield made
    made.close()


def call(bench, seconds=120):
    assert bench.start() is not None, bench.said
    end = time.monotonic() + seconds
    while bench.job is not None:
        assert time.monotonic() < end
        time.sleep(0.02)
        bench.tick()
    return bench.result


def same_pixels(ours, theirs):
    return all(
        np.array_equal(getattr(ours, plane).array, getattr(theirs, plane).array, equal_nan=plane != "mask")
        for plane in ("image", "variance", "mask")
    )


def test_stages_that_write_to_a_database_or_work_on_patches_are_left_to_pipelines():
    assert set(BY_HAND) == {"calibrate", "warp_template", "subtract", "detect_dia_sources", "associate",
                            "force_photometry"}  # fmt: skip
    assert set(OF_TWO) < set(BY_HAND)


def test_the_first_image_of_the_run_is_chosen(bench, run):
    assert (bench.visit, bench.detector) == bench.pairs[0]
    assert len(bench.pairs) == len(run.visits()) > 1
    linked = Workbench.from_query({"run": run.key, "visit": str(bench.pairs[1][0])}, Library.around(run))
    assert (linked.visit, linked.detector) == bench.pairs[1]
    linked.close()


@pytest.mark.parametrize("stage", ["calibrate", "warp_template", "subtract", "detect_dia_sources", "force_photometry"])
def test_a_stage_called_here_makes_what_the_pipeline_made(bench, run, stage):
    bench.stage = stage
    result = call(bench)
    assert bench.said is None
    names = {"calibrate": ["visit_image", "source"], "warp_template": ["template_detector"],
             "subtract": ["difference_image"], "detect_dia_sources": ["dia_source_unassociated"],
             "force_photometry": ["dia_forced_source"]}[stage]  # fmt: skip
    for name in names:
        theirs = run.get(name, visit=bench.visit, detector=bench.detector)
        ours = result.products[name]
        if hasattr(ours, "read") and not hasattr(ours, "colnames"):
            assert same_pixels(ours.read(), theirs)
        else:
            assert len(ours) == len(theirs) > 0
            assert all(np.asarray(ours[c]).tobytes() == np.asarray(theirs[c]).tobytes() for c in theirs.colnames
                       if theirs[c].dtype.kind != "O")  # fmt: skip


def test_a_result_comes_beside_the_last_one_and_the_code_makes_it_again(small):
    small.main()
    first = call(small)
    assert (small.result, small.before) == (first, None)
    assert small._view().images.state == "ready"
    small.form().set({"kernel_order": 0, "stars.min_snr": 30.0})
    second = call(small)
    assert (small.result, small.before) == (second, first)
    assert set(small._view().panes.layers) == {"science", "template", "difference", "difference before"}
    layers = small._view().panes.layers
    assert not np.array_equal(layers["difference"].values, layers["difference before"].values, equal_nan=True)
    rows = {name: (this, other) for name, _, this, other in results.compared(second, first)}
    assert len(rows) > 5
    assert any(this != other for this, other in rows.values())
    assert results.told(second).startswith("2 · subtract stars.min_snr=30.0 kernel_order=0 · ")
    assert "<b>" in results.compared_html(second, first)
    assert len(small.table()) == len(rows)
    # the lines that it gives
    scope = {}
    code = small.as_code().replace("folder='.'", f"folder={small._folder.name!r}")
    with one_thread():
        exec(compile(code, "as_code", "exec"), scope)
    assert same_pixels(scope["result"].difference_image, second.products["difference_image"].read())
    # going back in the history
    small.choose(1, beside=2)
    assert (small.result, small.before) == (first, second)
    with pytest.raises(MissingData, match="no result 7"):
        small.choose(7)


def test_the_code_of_a_run_makes_the_result_again(bench):
    bench.form().set({"background_order": 1})
    result = call(bench)
    scope = {}
    with one_thread():
        exec(compile(bench.as_code(), "as_code", "exec"), scope)
    assert len(bench.as_code().splitlines()) == 3
    assert same_pixels(scope["result"].difference_image, result.products["difference_image"].read())
    assert "ApPipe#subtract" in bench.command()
    assert "--set subtract.background_order=1" in bench.command()


def test_found_sources_are_marked_on_the_images(small):
    small.main()
    small.stage = "detect_dia_sources"
    result = call(small)
    assert len(result.products["dia_source_unassociated"]) > 3
    assert "dia_source_unassociated" in small._view().panes.marks


def test_the_state_travels(run):
    bench = Workbench.from_run(run, stage="detect_dia_sources")
    bench.form().set({"threshold": 4.5})
    again = Workbench.from_state(bench.state(), bench.library)
    assert again.state() == bench.state()
    assert again.form().value.threshold == 4.5
    for each in (bench, again):
        each.close()


def test_a_call_is_cancelled_and_the_next_one_works(bench):
    bench.stage = "calibrate"
    bench.main()
    bench.start()
    time.sleep(0.3)
    process = bench.desk.process
    job = bench.job
    bench.cancel()
    assert job.wait(10)
    bench.tick()
    assert (job.state, bench.job, bench.result) == ("cancelled", None, None)
    assert not bench._view().run_button.disabled
    assert not Path(f"/proc/{process}/exe").exists()
    assert call(bench).stage == "calibrate"


def test_a_wrong_knob_stops_the_call_and_is_named(small):
    small.main()
    small.form().widgets["kernel_order"].value = "many"
    assert small.start() is None
    assert "kernel_order must be a whole number" in str(small.said)
    small.form().reset()
    assert call(small).stage == "subtract"


def test_a_stage_that_fails_says_why(small):
    small.main()
    small.form().set({"stars.minimum": 200})
    assert small.start() is not None
    while small.job is not None:
        time.sleep(0.02)
        small.tick()
    assert "star" in str(small.said)
    assert len(small._view().notice) == 1
    assert small._view().images.state == "empty"


def test_a_missing_input_is_named_with_its_maker(night, tmp_path):
    broken = shutil.copytree(night, tmp_path / "broken")
    with Butler.from_config(str(broken), writeable=True) as butler:
        refs = butler.query_datasets("template_detector", collections="runs/ApPipe", explain=False)
        butler.pruneDatasets(refs, disassociate=True, unstore=True, purge=True)
    run = open_run(broken)
    visit, detector = run.visits()["visit", "detector"][0]
    source = FromRun(repository=str(broken), run=run.name, visit=int(visit), detector=int(detector))
    with pytest.raises(MissingData, match=r"no template_detector.*made by warp_template"):
        source.inputs("subtract")


def test_without_a_run_there_is_a_simulated_pair():
    bench = Workbench(library=Library())
    assert bench.source == "simulated"
    bench.main()
    bench.rail()
    bench.source = "run"
    assert bench.start() is None
    assert "no run here" in str(bench.said)
    bench.close()


def test_two_files_are_enough_for_the_stages_of_two(tmp_path):
    write_small_pair(5, tmp_path / "a.fits", tmp_path / "b.fits")
    bench = Workbench(library=Library(), source="files", science=str(tmp_path / "a.fits"))
    bench.main()
    assert bench.start() is None
    assert "no file is named" in str(bench.said)
    bench.template = str(tmp_path / "none.fits")
    assert bench.start() is None
    assert "no file" in str(bench.said)
    bench.template = str(tmp_path / "b.fits")
    assert call(bench).products["difference_image"].read().bbox.shape == (400, 400)
    assert bench.command().startswith("nightlab subtract ")
    bench.stage = "associate"
    assert bench.start() is None
    assert "two images are not enough" in str(bench.said)
    (tmp_path / "c.fits").write_text("no image")
    bench.param.update(stage="subtract", template=str(tmp_path / "c.fits"))
    bench.start()
    while bench.job is not None:
        time.sleep(0.02)
        bench.tick()
    assert "c.fits" in str(bench.said)
    bench.close()


def test_a_page_reads_no_file_outside_the_served_folders(tmp_path):
    served, outside = tmp_path / "served", tmp_path / "outside"
    for folder in (served, outside):
        folder.mkdir()
        (folder / "x.fits").write_text("x")
    (served / "link.fits").symlink_to(outside / "x.fits")
    assert file_within("x.fits", (served,)) == served / "x.fits"
    assert file_within(str(served / "x.fits"), (served,)) == served / "x.fits"
    for path in ("../outside/x.fits", str(outside / "x.fits"), "link.fits", "/etc/passwd", "../served2/x.fits"):
        with pytest.raises(BadInput, match="not below a folder that is served"):
            file_within(path, (served,))
    with pytest.raises(BadInput):
        file_within("x.fits", ())
    assert file_within(str(outside / "x.fits"), None) == outside / "x.fits"


@pytest.mark.slow
def test_old_results_and_their_files_go(small):
    for _ in range(KEPT + 2):
        call(small)
    assert [result.number for result in small.history] == list(range(3, KEPT + 3))
    files = {file.name for file in Path(small._folder.name).glob("*-difference_image.fits")}
    assert files == {f"{number}-difference_image.fits" for number in range(3, KEPT + 3)}
    assert small.result.shown["science"].read() is not None
    folder = Path(small._folder.name)
    process = small.desk.process
    small.close()
    assert not folder.exists()
    assert not Path(f"/proc/{process}/exe").exists()


def test_a_simulated_pair_is_the_same_for_the_same_seed(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    first, second = (FromSeed(seed=9, folder=str(tmp_path / name)).files() for name in ("one", "two"))
    assert isinstance(first, FromFiles)
    assert Path(first.science).read_bytes() == Path(second.science).read_bytes()
    assert Path(first.science).read_bytes() != Path(first.template).read_bytes()
