import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from lsst.daf.butler import Butler

from nightlab.dashboards.library import Library
from nightlab.dashboards.overview.board import Board, Status, pipeline_of, read_board, stages_of
from nightlab.dashboards.overview.graph import edges_of, makers_of, places
from nightlab.dashboards.overview.grid import Grid, codes, plan_grid
from nightlab.dashboards.overview.products import link, log_of, products_html, timings
from nightlab.dashboards.runner import PipelineRunner
from nightlab.data.repository import make_repository
from nightlab.data.runs import Run, open_run
from nightlab.pipelines.events import StageEvent

BIG = 2**60 + 1
STAGES = stages_of("ApPipe")


@pytest.fixture(scope="module")
def lab(night, tmp_path_factory):
    """A copy of the finished night that may be written to."""
    return shutil.copytree(night, tmp_path_factory.mktemp("runner") / "lab")


@pytest.fixture(scope="module")
def run(night):
    return open_run(night)


@pytest.fixture
def runner(lab):
    library = Library.below(lab.parent)
    made = PipelineRunner(library=library, run=open_run(lab))
    yield made
    made.close()


def event(stage, state, *, visit=1, detector=0, **more):
    data_id = {"instrument": "SimCam", "visit": visit, "detector": detector}
    return StageEvent(stage=stage, data_id=data_id, state=state, done=0, total=9, stage_total=3, **more)


def finish(runner, seconds=240):
    end = time.monotonic() + seconds
    while runner.job is not None:
        assert time.monotonic() < end
        time.sleep(0.05)
        runner.tick()


# the board


def test_a_finished_night_is_done_everywhere(run):
    board = read_board(run, pipeline_of(run))
    assert board.stages == STAGES
    assert {stage: board.status(stage) for stage in STAGES} == dict.fromkeys(STAGES, Status.DONE)
    visits = len(run.visits())
    assert board.settled("subtract") == (visits, visits)
    assert len(board.cells["subtract"]) == visits > 2
    assert board.settled("associate") == (1, 1)


def test_the_pipeline_of_a_run_is_known_by_its_name_or_its_stages(run, night):
    assert pipeline_of(run) == "ApPipe"
    assert pipeline_of(Run(night, "runs/Templates")) == "Templates"


def test_events_move_the_board():
    board = Board(pipeline="ApPipe", stages=STAGES)
    board.apply([event("subtract", "started")])
    assert board.status("subtract") is Status.RUNNING
    assert board.settled("subtract") == (0, 3)
    board.apply([event("subtract", "done", seconds=2.0), event("subtract", "started", visit=2)])
    board.apply([event("subtract", "failed", visit=2, message="too few stars"), event("associate", "blocked")])
    assert board.status("subtract") is Status.FAILED
    assert board.counts("subtract") == {Status.DONE: 1, Status.FAILED: 1, Status.MISSING: 1}
    assert board.messages["subtract", (2, 0)] == "too few stars"
    board.apply([event("calibrate", "skipped", message="complete already, without x, which failed")])
    board.apply([event("warp_template", "skipped", message="no template covers it")])
    assert board.cells["calibrate"][1, 0] is Status.DONE
    assert board.cells["warp_template"][1, 0] is Status.IDLE
    # an event of another pipeline changes nothing
    board.apply([event("build_template", "failed")])
    assert "build_template" not in board.cells
    board.apply([event("subtract", "started", visit=3)])
    board.stopped()
    assert board.cells["subtract"][3, 0] is Status.MISSING


def test_what_failed_and_what_is_missing_is_read_from_the_repository(lab, tmp_path):
    broken = shutil.copytree(lab, tmp_path / "broken")
    with Butler.from_config(str(broken), writeable=True) as butler:
        gone = []
        for name in ("difference_image", "difference_metrics", "subtract_metadata", "dia_source_unassociated",
                     "dia_source_metrics", "detect_dia_sources_metadata", "detect_dia_sources_log"):  # fmt: skip
            refs = butler.query_datasets(name, collections="runs/ApPipe", explain=False)
            gone.append(sorted(refs, key=lambda ref: ref.dataId["visit"])[0])
        # metadata without products: there was nothing to do
        for name in ("template_detector", "template_detector_metrics"):
            refs = butler.query_datasets(name, collections="runs/ApPipe", explain=False)
            gone.append(sorted(refs, key=lambda ref: ref.dataId["visit"])[1])
        butler.pruneDatasets(gone, disassociate=True, unstore=True, purge=True)
    board = read_board(open_run(broken), "ApPipe")
    first, second, *others = sorted(board.cells["calibrate"])
    assert others
    assert board.cells["subtract"] == dict.fromkeys([second, *others], Status.DONE) | {first: Status.FAILED}
    assert board.cells["detect_dia_sources"][first] is Status.MISSING
    assert board.cells["warp_template"][second] is Status.IDLE
    runner = PipelineRunner.from_run(open_run(broken))
    assert [item[:2] for item in runner.failures()] == [("subtract", first)]
    runner.choose("detect_dia_sources", first)
    shown = products_html(runner.run, "key", STAGES, runner.cell)
    assert "missing; made by subtract" in shown
    assert "not made" in shown
    assert "ApPipe#detect_dia_sources" in runner.command_for(*runner.cell)
    runner.main()
    runner.choose("subtract", first)
    # the failed cell: what it said and how to do it again
    text = runner._view().tab_panes["log"].shown.object
    assert "<h4>failed</h4>" in text
    assert f"visit={first[0]} AND detector={first[1]}" in text
    runner.close()


def test_an_unfinished_run_and_an_empty_repository_say_what_to_do(tmp_path):
    make_repository(tmp_path / "empty", "SimCam")
    runner = PipelineRunner(library=Library.below(tmp_path))
    assert runner.board.status("calibrate") is Status.MISSING
    runner.main()
    shown = runner._view().grid_place
    assert (shown.state, shown.shown.what_to_do) == ("empty", "Press Run.")
    for name in ("timing", "products", "provenance"):
        runner._view().tabs.active = ("log", "timing", "products", "provenance").index(name)
        assert runner._view().tab_panes[name].state == "empty"
    runner.close()
    nowhere = PipelineRunner(library=Library())
    nowhere.main()
    assert nowhere._view().grid_place.shown.reason == "missing"
    assert nowhere.start() is None
    assert "no place to run" in nowhere.said
    nowhere.close()


# the grid and the graph


def test_few_data_ids_have_a_row_each():
    board = Board(pipeline="ApPipe", stages=STAGES)
    board.apply([event("calibrate", "done", visit=BIG), event("subtract", "failed", visit=BIG)])
    plan = plan_grid(board, "visit")
    assert plan.rows == (f"visit {BIG} detector 0",)
    assert [column[0] for column in plan.columns] == [s for s in STAGES if s in plan.stages]
    picture = codes(board, plan)
    assert picture[0, plan.stages.index("subtract")] == Status.FAILED
    assert (picture != 255).sum() == 2


def test_a_hundred_thousand_data_ids_are_one_small_picture():
    board = Board(pipeline="ApPipe", stages=STAGES)
    n_visits, n_detectors = 530, 189
    for stage in ("calibrate", "subtract"):
        board.cells[stage] = {(v, d): Status.DONE for v in range(n_visits) for d in range(n_detectors)}
    board.cells["subtract"][7, 3] = Status.FAILED
    clicked = []
    grid = Grid("visit", lambda stage, key: clicked.append((stage, key)))
    assert grid.show(board) == 2 * n_visits * n_detectors
    assert len(grid.plan.rows) == n_visits
    picture = grid._image.data["image"][0]
    assert picture.dtype == np.uint8
    row, column = np.argwhere(picture == Status.FAILED)[0]
    assert grid.plan.place["subtract", (7, 3)] == (n_visits - 1 - row, column)
    assert not len(grid._signs.data["x"])

    class At:
        x, y = column + 0.5, row + 0.5

    grid._tap(At())
    assert clicked == [("subtract", (7, 3))]
    At.x, At.y = -5, 0
    grid._tap(At())
    assert len(clicked) == 1


def test_the_first_row_is_at_the_top_and_a_chosen_cell_is_framed():
    board = Board(pipeline="ApPipe", stages=STAGES)
    board.apply([event("calibrate", "failed", visit=1), event("calibrate", "done", visit=2)])
    grid = Grid("visit", lambda stage, key: None)
    grid.show(board)
    assert list(grid._image.data["image"][0][:, 0]) == [Status.DONE, Status.FAILED]
    grid.show(board, ("calibrate", (1, 0)))
    assert (grid._chosen.data["x"], grid._chosen.data["y"]) == ([0.5], [1.5])
    grid.show(board)
    assert grid._chosen.data["x"] == []


def test_the_graph_tells_who_makes_what():
    products = {(edge.source, edge.target): edge.products for edge in edges_of(STAGES)}
    assert products["calibrate", "subtract"] == ("visit_image", "source")
    assert products["warp_template", "subtract"] == ("template_detector",)
    at = places(STAGES)
    assert at["calibrate"][0] < at["warp_template"][0] < at["subtract"][0] < at["associate"][0]
    assert len(set(at.values())) == len(STAGES)
    assert makers_of("subtract") == {
        "visit_image": "calibrate",
        "template_detector": "warp_template",
        "source": "calibrate",
    }
    assert makers_of("calibrate")["raw"] == ""


# products, log, timing


def test_products_lead_to_the_explorer_of_their_type():
    assert link("a:b", "difference_image", {"visit": BIG, "detector": 1}) == (
        f"./images?run=a%3Ab&visit={BIG}&detector=1&panes=%5B%22difference%22%5D"
    )
    assert link("a:b", "dia_source", {"instrument": "x"}).startswith("./dia?run=a%3Ab")
    assert link("a:b", "subtract_log", {}) == ""


def test_a_quantum_has_its_products_its_log_and_its_time(run):
    [key, *_] = sorted(read_board(run, "ApPipe").cells["subtract"])
    text = products_html(run, "k", STAGES, ("subtract", key))
    made, _, read = text.partition("<h4>read</h4>")
    assert "difference_image" in made
    assert "visit_image" in read
    assert f"visit={key[0]}" in read
    found, total = timings(run, STAGES)
    assert len(found) == total == 5 * len(run.visits()) + 3
    assert all(0 <= timing.start < timing.end for timing in found)
    some, again = timings(run, STAGES, most=8)
    assert (len(some), again) == (8, total)


# the runner


def test_a_run_is_opened_with_its_knobs_and_its_place(runner, lab):
    assert (runner.pipeline, runner.output) == ("ApPipe", "runs/ApPipe")
    assert runner.places[runner.place] == lab
    assert runner.knobs == {}
    assert "fill_apdb.uri" not in runner.command()


def test_the_state_travels(runner):
    [key, *_] = sorted(runner.board.cells["subtract"])
    runner.choose("subtract", key)
    runner.form("subtract").set({"degrees": (6, 3), "stars.min_snr": 30.0})
    runner.output = "runs/try"
    again = PipelineRunner.from_state(runner.state(), runner.library)
    assert again.state() == runner.state()
    assert again.cell == ("subtract", key)
    assert again.form("subtract").value == runner.form("subtract").value
    linked = PipelineRunner.from_query(runner.query(), runner.library)
    assert linked.cell == ("subtract", key)
    assert "--set 'subtract.degrees=(6, 3)'" in again.command()
    assert "--set subtract.stars.min_snr=30.0" in again.command()
    for each in (again, linked):
        each.close()


def test_choosing_walks_through_stages_and_back(runner):
    runner.next_stage()
    assert runner.stage == STAGES[0]
    runner.previous_stage()
    assert runner.stage == STAGES[-1]
    runner.choose("subtract")
    assert (runner.stage, runner.cell) == ("subtract", None)
    key = next(iter(runner.board.cells["subtract"]))
    runner.choose("subtract", key)
    assert runner.cell == ("subtract", key)
    runner.choose("subtract", key)
    assert runner.cell is None
    runner.choose("associate", ("SimCam",))
    assert runner.cell == ("associate", ("SimCam",))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"output": "../../etc"}, "cannot be the name"),
        ({"output": "runs/../SimCam"}, "cannot be the name"),
        ({"output": "SimCam/raw"}, "cannot be the name"),
        ({"output": "runs/a b; rm"}, "cannot be the name"),
        ({"place": "/tmp"}, "no place to run"),
        ({"pipeline": "/tmp/x.yaml"}, "does not match"),
        ({"pipeline": "ApPipe#nothing"}, "no stage nothing"),
        ({"which": "x" * 3000}, "too long"),
        ({"knobs": {"fill_apdb": {"uri": "/tmp/elsewhere"}}}, "may not turn"),
    ],
)
def test_what_a_page_may_not_do_is_refused_before_anything_is_started(runner, change, said):
    if change.get("pipeline"):
        with pytest.raises(ValueError, match=said):
            runner.pipeline = change["pipeline"]
        return
    runner.param.update(**change)
    assert runner.start() is None
    assert said in runner.said
    assert runner.desk.process is None


def test_a_wrong_knob_is_shown_in_the_form_and_stops_the_run(runner):
    runner.main()
    runner.form("subtract").widgets["kernel_order"].value = "9"
    assert runner.start() is None
    assert "subtract.kernel_order must be at most 4" in runner.said
    assert len(runner._view().notice) == 1
    runner.form("subtract").reset()


@pytest.mark.slow
def test_a_wrong_query_is_told_with_a_hint(runner):
    runner.main()
    runner.param.update(output="runs/wrong", which="visit IN __import__('os')")
    assert runner.start() is not None
    finish(runner)
    assert "does not work" in runner.said
    assert "for example" in runner.said
    assert not runner._view().run_button.disabled


@pytest.mark.slow
def test_other_knobs_than_those_of_the_run_are_refused_and_named(runner):
    runner.form("subtract").set({"kernel_order": 2})
    runner.start()
    finish(runner)
    assert "subtract.kernel_order: 1 then, 2 now" in runner.said


@pytest.mark.slow
def test_a_run_of_the_page_makes_what_the_command_line_makes_and_progress_moves(runner, lab):
    [visit, _] = min(runner.board.cells["subtract"])
    runner.main()
    runner.param.update(output="runs/page", which=f"visit = {visit}")
    command = runner.command().replace("runs/page", "runs/line").split(" ", 1)[1]
    seen = []
    assert runner.start() is not None
    while runner.job is not None:
        runner.tick()
        seen.append(sum(runner.board.settled(stage)[0] for stage in STAGES))
        time.sleep(0.05)
    assert runner.said == ""
    assert len(set(seen)) > 3
    assert (runner.run.name, runner.output) == ("runs/page", "runs/page")
    assert all(runner.board.status(stage) is Status.DONE for stage in STAGES)
    assert any("finished" in line for line in runner._view().tab_panes["log"].shown.object.splitlines())
    done = subprocess.run([sys.executable, "-m", "nightlab.cli", *shlex.split(command), "--plain"],
                          capture_output=True, text=True, timeout=240)  # fmt: skip
    assert done.returncode == 0, done.stderr
    page, line = Run(lab, "runs/page"), Run(lab, "runs/line")
    [key] = runner.board.cells["subtract"]
    assert any("Execution of task 'subtract'" in text for text in log_of(page, ("subtract", key)))
    assert page.types() == line.types()
    for name in ("visit_image", "template_detector", "difference_image"):
        ours, theirs = page.get(name, visit=visit), line.get(name, visit=visit)
        for plane in ("image", "variance", "mask"):
            assert np.array_equal(getattr(ours, plane).array, getattr(theirs, plane).array, equal_nan=plane != "mask")
    for name in ("source", "dia_source_unassociated", "dia_source", "dia_object", "dia_forced_source"):
        ours, theirs = page.get(name), line.get(name)
        assert len(ours) == len(theirs)
        # of a single visit no object has the two detections that forced photometry asks for
        assert len(ours) or name == "dia_forced_source"
        assert all(np.asarray(ours[c]).tobytes() == np.asarray(theirs[c]).tobytes() for c in ours.colnames
                   if ours[c].dtype.kind != "O")  # fmt: skip


@pytest.mark.slow
def test_a_cancelled_run_leaves_nothing_half_written_and_goes_on_to_the_same_tables(runner, lab):
    runner.param.update(output="runs/cancelled")
    runner.start()
    end = time.monotonic() + 120
    while sum(runner.board.settled(stage)[0] for stage in STAGES) < 3:
        assert time.monotonic() < end
        assert runner.job is not None
        runner.tick()
        time.sleep(0.02)
    job = runner.job
    process = runner.desk.process
    runner.cancel()
    finish(runner)
    assert job.state == "cancelled"
    assert job.wait_tidied(20)
    assert not Path(f"/proc/{process}/task").exists() or job.result is not None
    assert list((lab / "runs" / "cancelled").rglob("*.tmp*")) == []
    made = sum(runner.board.settled(stage)[0] for stage in STAGES)
    assert 3 <= made < 5 * len(open_run(lab).visits()) + 3
    runner.start()
    finish(runner)
    assert all(runner.board.status(stage) is Status.DONE for stage in STAGES)
    ours, theirs = Run(lab, "runs/cancelled"), Run(lab)
    assert ours.types() == theirs.types()
    for name in ("dia_source", "dia_object"):
        a, b = ours.get(name), theirs.get(name)
        assert len(a) == len(b) > 0
        assert all(np.asarray(a[c]).tobytes() == np.asarray(b[c]).tobytes() for c in a.colnames
                   if a[c].dtype.kind != "O")  # fmt: skip
