"""The image viewer with keys alone, rings around what has the focus, and motion only when asked for."""

import io
import json
import zipfile

import numpy as np
import pytest
from serving import wait_until
from test_dia_page import FOCUSED, address
from test_image_viewer_page import Viewer

from nightlab.data.runs import open_run

pytestmark = pytest.mark.slow

NAME = """() => { let e = document.activeElement
  while (e?.shadowRoot?.activeElement) e = e.shadowRoot.activeElement
  return [e?.ariaLabel, e?.title, ...[...(e?.labels ?? [])].map((l) => l.textContent), e?.textContent]
    .map((t) => t?.trim()).filter(Boolean) }"""
RING = """() => { let e = document.activeElement
  while (e?.shadowRoot?.activeElement) e = e.shadowRoot.activeElement
  const style = getComputedStyle(e), box = e.getBoundingClientRect()
  return {tag: e.tagName, kind: String(e.className), seen: box.width > 1 && box.height > 1,
          ring: style.outlineStyle !== "none" ? parseFloat(style.outlineWidth) : 0, shadow: style.boxShadow} }"""


@pytest.fixture
def viewer(tab, server, night):
    """The viewer on the first visit, and its science image."""
    run = open_run(night)
    ref = run.refs("difference_image")[0]
    where = {"visit": ref.dataId["visit"], "detector": ref.dataId["detector"]}
    return Viewer(tab, server, run=run.key, panes=["science", "difference"], **where), run, where


def tab_to(tab, name, most=120):
    """Press Tab until the control of a name has the focus."""
    passed = []
    for _ in range(most):
        tab.keyboard.press("Tab")
        names = tab.evaluate(NAME)
        passed += names[:1]
        if name in names:
            return
    raise AssertionError(f"{name!r} is not among {passed}")


def middle(viewer):
    frame = viewer.frames()["pane-0"]
    return (frame["x1"] + frame["x2"]) / 2, (frame["y1"] + frame["y2"]) / 2, frame["x2"] - frame["x1"]


def test_images_are_looked_at_without_a_mouse(viewer):
    viewer, run, where = viewer
    tab, image = viewer.tab, run.get("visit_image", **where).image.array
    tab.keyboard.press("]")
    tab.get_by_text("of difference").wait_for()
    tab.keyboard.press("m")
    wait_until(lambda: address(tab).get("masks") == ["true"])

    viewer.settle()
    # a place that is typed, then closer and to the left
    tab_to(tab, "go to")
    tab.keyboard.type("130 90")
    tab.keyboard.press("Enter")
    wait_until(lambda: np.allclose(middle(viewer)[:2], (130, 90), atol=0.01))
    width = middle(viewer)[2]
    assert width < image.shape[1]
    tab.keyboard.press("Tab")
    assert tab.evaluate(FOCUSED)[0] == "INPUT"  # the boxes of the catalogues; keys are for the page again elsewhere
    tab_to(tab, "Blink")
    tab.keyboard.press("+")
    wait_until(lambda: middle(viewer)[2] == pytest.approx(width / 1.5, rel=1e-3))
    tab.keyboard.press("ArrowLeft")
    wait_until(lambda: middle(viewer)[0] == pytest.approx(130 - 0.2 * width / 1.5, abs=0.01))

    # rows of the catalogue, one after the other
    sources = run.get("dia_source")
    sources = sources[(sources["visit"] == where["visit"]) & (sources["detector"] == where["detector"])]
    tab.keyboard.press("n")
    tab.get_by_text(str(sources["diaSourceId"][0])).first.wait_for()
    wait_until(lambda: np.hypot(middle(viewer)[0] - sources["x"][0], middle(viewer)[1] - sources["y"][0]) < 1)

    tab.keyboard.press("b")
    wait_until(lambda: set(viewer.frames()) == {"pane-0"} and viewer.frames()["pane-0"]["width"] > 600)
    tab.keyboard.press("b")
    wait_until(lambda: set(viewer.frames()) == {"pane-0", "pane-1"})
    tab.keyboard.press("r")
    wait_until(lambda: middle(viewer)[2] >= image.shape[1] - 1)


def test_a_view_is_saved_with_keys_and_its_code_builds_it_again(viewer, tmp_path):
    viewer, _, where = viewer
    tab = viewer.tab
    tab.keyboard.press("s")
    tab.keyboard.press("m")
    wait_until(lambda: "looks" in address(tab) and "masks" in address(tab))
    tab_to(tab, "Save")
    with tab.expect_download(timeout=30_000) as download:
        tab.keyboard.press("Enter")
    with zipfile.ZipFile(io.BytesIO(download.value.path().read_bytes())) as saved:
        state = json.loads(saved.read("state.json"))
        code = saved.read("view.py").decode()
    assert state["masks"] is True
    assert (state["visit"], state["detector"]) == (where["visit"], where["detector"])
    *lines, last = code.strip().splitlines()
    names: dict = {}
    exec("\n".join(lines), names)
    again = eval(last, names).state()
    assert {name: value for name, value in again.items() if name != "run"} == {
        name: value for name, value in state.items() if name != "run"
    }


@pytest.mark.parametrize("page", ["overview", "images", "dia", "metrics", "workbench"])
@pytest.mark.parametrize("theme", ["default", "dark"])
def test_what_has_the_focus_has_a_ring(tab, server, page, theme):
    tab.goto(f"{server}/{page}?run=simulated:runs/ApPipe&theme={theme}")
    tab.get_by_role("button", name="As code").wait_for()
    looked = []
    for _ in range(40):
        tab.keyboard.press("Tab")
        found = tab.evaluate(RING)
        if found["tag"] != "BODY" and found["seen"]:
            looked.append(found)
    assert len(looked) > 15
    bare = [found for found in looked if found["ring"] < 1 and found["shadow"] == "none"]
    assert not bare, bare


def test_nothing_moves_by_itself_where_motion_is_not_wanted(tab, server):
    tab.emulate_media(reduced_motion="reduce")
    tab.goto(f"{server}/images?run=simulated:runs/ApPipe&blink=true")
    tab.get_by_role("button", name="Blink").wait_for()
    tab.locator("canvas").first.wait_for()
    assert tab.evaluate("matchMedia('(prefers-reduced-motion: reduce)').matches")
    tab.wait_for_timeout(2500)
    assert tab.get_by_role("button", name="Blink").get_attribute("aria-pressed") != "true"
    running = tab.evaluate("document.getAnimations().filter((a) => a.playState === 'running').length")
    assert running == 0
