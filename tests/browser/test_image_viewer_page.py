"""The image viewer in a real browser: the right pixels, and real mouse and keys."""

import io
import json
import re
import urllib.parse

import numpy as np
import pytest
from serving import wait_until

from nightlab.dashboards.images.scaling import look_for, palette
from nightlab.data.runs import open_run

pytestmark = pytest.mark.slow

FRAMES = """() => {
  const found = {};
  for (const doc of window.Bokeh.documents) for (const model of doc._all_models.values()) {
    const hit = (model.name || "").startsWith("pane-") ? window.Bokeh.index.find_one(model) : null;
    if (!hit || !hit.frame || !hit.el.getClientRects().length) continue;
    const at = hit.el.getBoundingClientRect(), box = hit.frame.bbox;
    found[model.name] = {left: at.left + box.left, top: at.top + box.top, width: box.width, height: box.height,
      x1: model.x_range.start, x2: model.x_range.end, y1: model.y_range.start, y2: model.y_range.end};
  }
  return found;
}"""


class Viewer:
    """The page, seen through what it has drawn."""

    def __init__(self, tab, address, **query):
        self.tab = tab
        self.errors = []
        texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in query.items()}
        tab.goto(f"{address}/images?{urllib.parse.urlencode(texts)}")
        tab.locator("canvas").first.wait_for()
        wait_until(lambda: self.frames(), 30)
        self.settle()

    def frames(self):
        return self.tab.evaluate(FRAMES)

    def settle(self):
        """Wait until view and picture have come to rest."""
        last = [None]

        def still():
            now = self.frames(), self.tab.screenshot()
            same, last[0] = now == last[0], now
            return same

        wait_until(still, 20, every=0.5)

    def pixels(self, frame):
        from PIL import Image

        shot = self.tab.screenshot()
        clip = [round(frame[key]) for key in ("left", "top", "width", "height")]
        image = np.asarray(Image.open(io.BytesIO(shot)).convert("RGB"))
        return image[clip[1] : clip[1] + clip[3], clip[0] : clip[0] + clip[2]]

    def screen(self, frame, x, y):
        """Screen position of an image pixel."""
        return (
            frame["left"] + (x - frame["x1"]) / (frame["x2"] - frame["x1"]) * frame["width"],
            frame["top"] + (frame["y2"] - y) / (frame["y2"] - frame["y1"]) * frame["height"],
        )


@pytest.fixture
def shown(tab, server, night):
    """The viewer on the first visit of the finished night, close up, and the arrays it shows."""
    run = open_run(night)
    ref = run.refs("difference_image")[0]
    where = {"visit": ref.dataId["visit"], "detector": ref.dataId["detector"]}
    images = {"science": run.get("visit_image", **where), "difference": run.get("difference_image", **where)}
    looks = {
        "science": {"stretch": "linear", "rule": "manual", "low": -500.0, "high": 1500.0},
        "difference": {"rule": "manual", "low": -800.0, "high": 800.0},
    }
    panes = ["science", "difference"]
    view = [120.0, 110.0, 24.0]
    viewer = Viewer(tab, server, run=run.key, panes=panes, view=view, looks=looks, catalogues=[], **where)
    return viewer, images, looks


def test_the_canvas_shows_every_pixel_in_the_colour_of_its_value(shown):
    viewer, images, looks = shown
    frames = viewer.frames()
    assert set(frames) == {"pane-0", "pane-1"}
    for name, number in (("science", 0), ("difference", 1)):
        frame, values = frames[f"pane-{number}"], images[name].image.array
        assert (frame["x1"] + frame["x2"]) / 2 == pytest.approx(120, abs=1e-6)
        assert frame["x2"] - frame["x1"] == pytest.approx(24, abs=1e-6)
        drawn = viewer.pixels(frame)
        colours = palette(look_for("flux" if name == "science" else "difference").colours)
        compared = 0
        for y in range(107, 118):
            for x in range(110, 131):
                column, row = (round(v) for v in viewer.screen(frame, x, y))
                seen = drawn[row - round(frame["top"]), column - round(frame["left"])]
                if not np.isfinite(values[y, x]) or _near_an_overlay(frame, column, row):
                    continue
                low, high = looks[name]["low"], looks[name]["high"]
                fraction = np.clip((values[y, x] - low) / (high - low), 0, 1)
                wanted = colours[int(fraction * 252 + 0.5)]
                rgb = [int(wanted[k : k + 2], 16) for k in (1, 3, 5)]
                assert np.abs(seen.astype(int) - rgb).max() <= 3, (name, x, y)
                compared += 1
        assert compared > 100


def _near_an_overlay(frame, column, row):
    """Whether a compass, a scale bar or the edge is drawn there."""
    left, bottom = column - frame["left"], frame["top"] + frame["height"] - row
    return (left < 100 and bottom < 100) or (frame["width"] - left < 150 and bottom < 50)


def test_the_wheel_zooms_all_panes_and_a_drag_pans_them(shown):
    viewer, _, _ = shown
    before = viewer.frames()
    frame = before["pane-0"]
    x, y = viewer.screen(frame, 120, 110)
    viewer.tab.mouse.move(x, y)
    for _ in range(3):
        viewer.tab.mouse.wheel(0, 240)
    wait_until(lambda: viewer.frames()["pane-0"]["x2"] - viewer.frames()["pane-0"]["x1"] > 30)
    viewer.settle()
    zoomed = viewer.frames()
    first, second = zoomed["pane-0"], zoomed["pane-1"]
    assert (first["x1"], first["x2"]) == pytest.approx((second["x1"], second["x2"]))
    assert (first["y1"], first["y2"]) == pytest.approx((second["y1"], second["y2"]))
    size = (first["x2"] - first["x1"]) / first["width"]
    assert size == pytest.approx((first["y2"] - first["y1"]) / first["height"], rel=1e-3)
    viewer.tab.mouse.move(x, y)
    viewer.tab.mouse.down()
    viewer.tab.mouse.move(x + 60, y - 30, steps=6)
    viewer.tab.mouse.up()
    viewer.settle()
    panned = viewer.frames()
    for name in ("pane-0", "pane-1"):
        assert zoomed[name]["x1"] - panned[name]["x1"] == pytest.approx(60 * size, rel=0.05)
        assert zoomed[name]["y1"] - panned[name]["y1"] == pytest.approx(30 * size, rel=0.1)
    centre = (panned["pane-0"]["x1"] + panned["pane-0"]["x2"]) / 2
    told = wait_until(lambda: _view_of(viewer.tab.evaluate("location.href"), centre))
    assert told[2] == pytest.approx(first["x2"] - first["x1"], abs=0.01)


def _view_of(url, centre):
    query = urllib.parse.parse_qs(urllib.parse.urlsplit(url).query)
    view = json.loads(query.get("view", ["null"])[0])
    return view if view and abs(view[0] - centre) < 0.01 else None


def test_a_click_recentres(shown):
    viewer, _, _ = shown
    viewer.tab.mouse.click(*viewer.screen(viewer.frames()["pane-1"], 125, 112))
    wait_until(lambda: abs(sum(viewer.frames()["pane-0"][key] for key in ("x1", "x2")) / 2 - 125) < 0.1)
    frame = viewer.frames()["pane-0"]
    assert (frame["y1"] + frame["y2"]) / 2 == pytest.approx(112, abs=0.1)


def test_hovering_reads_the_exact_value(shown):
    viewer, images, _ = shown
    x, y = viewer.screen(viewer.frames()["pane-0"], 123, 109)
    viewer.tab.mouse.move(x - 3, y)
    viewer.tab.mouse.move(x, y)
    for image in images.values():
        value = f"{image.image.array[109, 123]:.5g}".replace("-", "−")
        viewer.tab.get_by_role("cell", name=value, exact=True).first.wait_for()
    viewer.tab.get_by_text(re.compile(r"x 12[23]\.\d")).first.wait_for()


COUNT = """() => {
  window.painted = 0;
  const draw = CanvasRenderingContext2D.prototype.drawImage;
  CanvasRenderingContext2D.prototype.drawImage = function (...what) {
    window.painted += 1;
    return draw.apply(this, what);
  };
}"""


def test_the_pointer_moves_its_cross_without_painting_images_anew(shown):
    viewer, _, _ = shown
    frame = viewer.frames()["pane-1"]
    before = viewer.pixels(frame)
    x, y = viewer.screen(viewer.frames()["pane-0"], 123, 109)
    viewer.tab.evaluate(COUNT)
    viewer.tab.mouse.move(x - 3, y)
    viewer.tab.mouse.move(x, y)
    viewer.tab.get_by_text(re.compile(r"x 12[23]\.\d")).first.wait_for()
    viewer.settle()
    changed = (viewer.pixels(frame).astype(int) != before).any(axis=2)
    assert changed.all(axis=0).any(), "no upright line in the other pane"
    assert changed.all(axis=1).any(), "no level line in the other pane"
    assert viewer.tab.evaluate("painted") == 0
    viewer.tab.mouse.wheel(0, -240)
    viewer.settle()
    assert viewer.tab.evaluate("painted") > 0


def test_keys_blink_mask_and_reset(shown):
    viewer, images, _ = shown
    viewer.tab.mouse.move(5, 5)
    viewer.tab.keyboard.press("b")
    wait_until(lambda: set(viewer.frames()) == {"pane-0"} and viewer.frames()["pane-0"]["width"] > 600)
    titles = set()

    def both():
        titles.add(
            viewer.tab.evaluate("""() => { for (const doc of window.Bokeh.documents)
            for (const model of doc._all_models.values()) if (model.name == "pane-0") return model.title.text }""")
        )
        return {title.split()[0] for title in titles} == {"science", "difference"}

    wait_until(both)
    viewer.tab.keyboard.press("b")
    wait_until(lambda: set(viewer.frames()) == {"pane-0", "pane-1"})
    viewer.tab.keyboard.press("m")
    wait_until(lambda: "masks=true" in viewer.tab.evaluate("location.href"))
    viewer.tab.keyboard.press("r")
    width = images["science"].image.array.shape[1]
    wait_until(lambda: viewer.frames()["pane-0"]["x2"] - viewer.frames()["pane-0"]["x1"] >= width - 1)


def test_a_visit_that_is_not_there_is_told(tab, server, night):
    tab.goto(f"{server}/images?run={urllib.parse.quote(open_run(night).key)}&visit=99&detector=0")
    tab.get_by_text("visit=99").first.wait_for()
    assert tab.locator("[data-reason=FILE_MISSING]").count() >= 1
