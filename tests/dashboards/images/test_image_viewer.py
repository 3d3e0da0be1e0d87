import json

import numpy as np
import panel as pn
import pytest
from image_makers import masked_image

from nightlab.dashboards.image_viewer import SNR, ImageViewer
from nightlab.dashboards.images.scaling import look_for
from nightlab.dashboards.library import Library
from nightlab.dashboards.states import Reason
from nightlab.data.runs import open_run
from nightlab.errors import MissingData


@pytest.fixture(scope="module")
def run(night):
    return open_run(night)


def test_without_a_run_the_viewer_says_so():
    viewer = ImageViewer(library=Library())
    assert viewer.board.empties["science"].reason is Reason.NO_DATA_SELECTED
    assert viewer.main() is not None
    assert viewer.rail() is not None


def test_images_in_memory_get_their_signal_to_noise():
    viewer = ImageViewer.from_images({"science": masked_image(1), "difference": masked_image(2)})
    assert list(viewer.board.layers) == ["science", "difference", SNR]
    assert viewer.board.layers["difference"].kind == "difference"
    np.testing.assert_allclose(viewer.board.layers[SNR].values, masked_image(2).image.array / 3, rtol=1e-6)


def test_without_variance_only_the_signal_to_noise_is_empty(tmp_path):
    viewer = ImageViewer.from_images({"science": tmp_path / "absent.fits", "difference": np.eye(20)})
    assert viewer.board.empties["science"].reason is Reason.FILE_MISSING
    assert "no variance" in viewer.board.empties[SNR].what
    assert list(viewer.board.layers) == ["difference"]


def test_a_file_that_is_no_image_is_named(tmp_path):
    broken = tmp_path / "broken.fits"
    broken.write_bytes(b"nonsense")
    viewer = ImageViewer.from_images({"science": broken})
    assert viewer.board.empties["science"].reason is Reason.SCHEMA_MISMATCH


def test_panes_and_viewer_tell_each_other():
    viewer = ImageViewer.from_images({"science": masked_image(1), "template": masked_image(2)})
    viewer.view = (10.0, 12.0, 30.0)
    assert viewer.board.board.goal.data["view"] == [[10.0, 12.0, 30.0]]
    viewer.board.masks = True
    viewer.press("l")
    viewer.press("s")
    assert (viewer.masks, viewer.link, viewer.looks) == (True, "off", {"science": {"stretch": "linear"}})
    viewer.board.set_look(rule="manual", low=-1.0, high=2.0)
    assert viewer.looks["science"] == {"stretch": "linear", "rule": "manual", "low": -1.0, "high": 2.0}
    viewer.looks = {"template": {"colours": "viridis"}}
    assert viewer.board.look("science") == look_for("flux")
    assert viewer.board.look("template").colours == "viridis"
    viewer.press("b")
    assert viewer.blink
    viewer.press("m")
    viewer.press("r")
    assert (viewer.masks, viewer.view) == (False, None)


def _words(view):
    return " ".join(pane.object for pane in view.select(pn.pane.HTML) if pane.visible)


@pytest.mark.slow
def test_a_catalogue_that_a_run_lacks_is_told(run, monkeypatch):
    viewer = ImageViewer.from_run(run, catalogues=["sources"])
    rail, lacks = viewer.rail(), "This run has no footprints here."
    assert lacks not in _words(rail)
    get = type(run).get

    def lacking(self, dataset, **where):
        if dataset == "source_footprint":
            raise MissingData("there are no footprints")
        return get(self, dataset, **where)

    monkeypatch.setattr(type(run), "get", lacking)
    viewer.catalogues = ["sources", "footprints"]
    assert lacks in _words(rail)
    assert list(viewer.board.marks) == ["sources"]
    viewer.catalogues = ["sources"]
    assert lacks not in _words(rail)


@pytest.mark.slow
def test_a_run_shows_four_layers_of_a_visit(run):
    viewer = ImageViewer.from_run(run)
    assert viewer.visit is not None
    assert viewer.board.panes == ["science", "template", "difference", SNR]
    assert viewer.board.linking == "pixels"
    image = run.get("difference_image", visit=viewer.visit, detector=viewer.detector)
    y, x = (int(n) // 2 for n in image.image.array.shape)
    viewer.board.point(2, x + image.bbox.x.start, y + image.bbox.y.start)
    read = {reading.name: reading for reading in viewer.board.readout.readings}
    assert read["difference"].value == image.image.array[y, x]
    assert read["difference"].unit == "nJy"
    sources = viewer.catalogue("sources")
    assert len(sources) > 0
    viewer.catalogues = ["sources"]
    assert list(viewer.board.marks) == ["sources"]
    viewer.catalogues = ["footprints"]
    (marks,) = viewer.board.marks.values()
    footprints = run.get("source_footprint", visit=viewer.visit, detector=viewer.detector)
    lines = marks.borders(viewer.board.layers["science"], (-1.0, x + 1e4, -1.0, y + 1e4))
    # at least one closed line around each, more where there are holes
    assert np.isnan(lines[0]).sum() >= len(footprints) > 10
    assert len(marks.table) == len(footprints)


@pytest.mark.slow
def test_a_view_reopens_from_its_state_its_link_and_its_code(run):
    viewer = ImageViewer.from_run(run)
    visit = int(run.visits()["visit"][-1])
    changes = {
        "visit": visit,
        "panes": ["difference", "template"],
        "view": (100.0, 90.0, 50.0),
        "masks": True,
        "link": "sky",
        "looks": {"difference": {"stretch": "sqrt", "rule": "manual", "low": -3.0, "high": 7.0}},
    }
    viewer.param.update(**changes)
    state = json.loads(json.dumps(viewer.state()))
    again = ImageViewer.from_state(state, viewer.library)
    by_link = ImageViewer.from_query(viewer.query(), viewer.library)
    namespace = {}
    lines = viewer.as_code().splitlines()
    exec("\n".join([*lines[:-1], f"made = {lines[-1]}"]), namespace)
    for other in (again, by_link, namespace["made"]):
        assert other.state() == viewer.state()
        assert other.board.shown == ["difference", "template"]
        assert other.board.view == (100.0, 90.0, 50.0)
        assert other.board.board.goal.data == {"view": [[100.0, 90.0, 50.0]], "fit": [False]}
        assert other.board.look("difference").stretch == "sqrt"
        assert (other.board.limits("difference").low, other.board.limits("difference").high) == (-3.0, 7.0)


@pytest.mark.slow
def test_two_runs_are_compared_side_by_side(run):
    viewer = ImageViewer.from_run(run, other=run)
    assert "difference B" in viewer.board.layers
    viewer.panes = ["difference", "difference B"]
    assert viewer.board.shown == ["difference", "difference B"]


@pytest.mark.slow
def test_an_image_that_the_run_does_not_have_is_told_of_and_not_replaced(run):
    viewer = ImageViewer.from_query({"run": run.key, "visit": "99", "detector": "7"}, Library.around(run))
    assert {state.reason for state in viewer.board.empties.values()} == {Reason.FILE_MISSING}
    assert "visit=99" in viewer.board.empties["science"].what


@pytest.mark.slow
@pytest.mark.parametrize(
    "looks", ['{"science": {"stretch": "magic"}}', '{"science": {"low": "x"}}', '{"science": {"a": 1}}']
)
def test_a_look_that_cannot_be_is_refused_in_words(run, looks):
    viewer = ImageViewer.from_query({"run": run.key, "looks": looks}, Library.around(run))
    assert any("is no look" in text for text in viewer.refused)
    assert viewer.board.look("science") == look_for("flux")
