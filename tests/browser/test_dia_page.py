"""The explorer of DIASources in a browser: map, table, light curve and cutouts by real mouse and by keys alone."""

import io
import re
from urllib.parse import parse_qs

import numpy as np
import pytest
from PIL import Image
from serving import wait_until

pytestmark = pytest.mark.slow

#: Where points of a figure are on the screen, and what they are.
PLACES = """
([name, column]) => {
  const models = [...Bokeh.documents[0]._all_models.values()]
  const figure = models.filter((m) => m.type === "Figure" && m.name === name).at(-1)
  const view = Bokeh.index.find_one_by_id(figure.id)
  const corner = view.canvas_view.el.getBoundingClientRect()
  const [xs, ys] = [view.frame.x_scale, view.frame.y_scale]
  const found = []
  for (const renderer of figure.renderers) {
    const data = renderer.data_source?.data
    if (!data || !data.x || !data[column]) continue
    for (let i = 0; i < data.x.length; i++) {
      found.push([corner.x + xs.compute(data.x[i]), corner.y + ys.compute(data.y[i]), String(data[column][i])])
    }
  }
  return found
}"""
#: Index and palette of the pixel in the middle of a cutout, and where that is on the screen.
MIDDLE = """
(name) => {
  const models = [...Bokeh.documents[0]._all_models.values()]
  const figure = models.filter((m) => m.type === "Figure" && m.name === name).at(-1)
  if (!figure || !figure.inner_width) return null
  const view = Bokeh.index.find_one_by_id(figure.id)
  const corner = view.canvas_view.el.getBoundingClientRect()
  const renderer = figure.renderers[0], data = renderer.data_source.data, image = data.image[0]
  const n = Math.round(Math.sqrt(image.length)), k = Math.floor(n / 2), index = image[k * n + k]
  const colour = renderer.glyph.color_mapper.palette[index]
  return {x: corner.x + view.frame.x_scale.compute(data.x[0] + k + 0.5),
          y: corner.y + view.frame.y_scale.compute(data.y[0] + k + 0.5), colour, bytes: image.BYTES_PER_ELEMENT}
}"""
FOCUSED = """() => { let e = document.activeElement
  while (e?.shadowRoot?.activeElement) e = e.shadowRoot.activeElement
  return [e?.tagName ?? "", e?.dataset?.id ?? ""] }"""


@pytest.fixture
def explorer(tab, server):
    """The page of the finished night, drawn."""
    tab.goto(server + "/dia?run=simulated:runs/ApPipe")
    tab.locator("tr[data-id]").first.wait_for()
    wait_until(lambda: tab.evaluate(MIDDLE, "cutout difference"))
    return tab


def address(tab):
    """Query of the page's address, as the browser has it now."""
    return parse_qs(tab.evaluate("location.search").removeprefix("?"))


def chosen(tab):
    """Id of the object or source on the card."""
    return re.search(r"\d+", tab.get_by_role("region", name="object").locator("h4").inner_text()).group()


def alone(places):
    """The points that no other is near to."""
    x, y = np.array([place[:2] for place in places], dtype=float).T
    apart = np.hypot(x[:, None] - x, y[:, None] - y) + 1e9 * np.eye(len(x))
    return [places[k] for k in np.argsort(-apart.min(axis=1))]


def test_a_click_leads_from_the_map_to_the_object_its_light_curve_and_the_cutouts(explorer):
    before = chosen(explorer)
    for x, y, _ in alone(explorer.evaluate(PLACES, ["map", "marker"]))[:4]:
        explorer.mouse.click(x, y)
        explorer.wait_for_timeout(300)
        if chosen(explorer) != before:
            break
    now = chosen(explorer)
    assert now != before
    wait_until(lambda: explorer.locator("tr[aria-selected=true]").get_attribute("data-id") == now)
    wait_until(lambda: address(explorer)["object"] == [now])

    # an object with several epochs, then a click on one of them
    explorer.get_by_role("button", name="detections").click()
    explorer.locator("th[aria-sort=descending]", has_text="detections").wait_for()
    row = explorer.locator("tr[data-id]").nth(1)
    number = row.get_attribute("data-id")
    assert number != now
    row.click()
    wait_until(lambda: address(explorer)["object"] == [number])  # the address is written when all else is drawn
    wait_until(lambda: len({place[2] for place in explorer.evaluate(PLACES, ["light curve", "epoch"])}) > 1)
    explorer.get_by_text("forced", exact=True).scroll_into_view_if_needed()
    label = explorer.get_by_text(re.compile(r"^visit \d+, detector \d+$"))
    told = label.inner_text()
    visit, detector = re.findall(r"\d+", told)
    points = explorer.evaluate(PLACES, ["light curve", "epoch"])
    x, y, epoch = next(place for place in points if place[2] != f"{visit}:{detector}")
    explorer.mouse.click(x, y)
    wait_until(lambda: label.inner_text() == f"visit {epoch.split(':')[0]}, detector {epoch.split(':')[1]}")
    wait_until(lambda: address(explorer)["epoch"] == [epoch])


@pytest.mark.parametrize("title", ["science", "template", "difference"])
def test_the_cutouts_on_the_screen_are_the_pixels_that_were_sent(explorer, title):
    middle = explorer.evaluate(MIDDLE, f"cutout {title}")
    assert middle["bytes"] == 1
    explorer.mouse.move(5, 300)
    shot = explorer.screenshot(clip={"x": int(middle["x"]), "y": int(middle["y"]), "width": 1, "height": 1})
    seen = np.asarray(Image.open(io.BytesIO(shot)).convert("RGB"))[0, 0].astype(int)
    sent = np.array([int(middle["colour"][k : k + 2], 16) for k in (1, 3, 5)])
    assert np.abs(seen - sent).max() <= 2


def test_the_table_sorts_filters_and_selects_on_the_server(explorer):
    explorer.get_by_role("button", name="S/N", exact=True).click()
    explorer.locator("th[aria-sort=descending]", has_text="S/N").wait_for()
    rows = explorer.locator("tr[data-id]")
    everyone = rows.count()
    explorer.get_by_label("Filter detections").fill("> 1")
    explorer.keyboard.press("Enter")
    explorer.get_by_role("button", name="clear column filters").wait_for()
    assert 0 < rows.count() <= everyone
    row = rows.nth(1)
    number = row.get_attribute("data-id")
    row.click()
    wait_until(lambda: chosen(explorer) == number)
    assert row.get_attribute("aria-selected") == "true"
    explorer.get_by_label("Filter detections").fill("> 1000")
    explorer.keyboard.press("Enter")
    explorer.get_by_text("the filters let none through").wait_for()
    explorer.get_by_role("button", name="clear column filters").click()
    wait_until(lambda: rows.count() == everyone)


def test_a_box_drawn_on_the_map_leaves_its_points_in_the_table(explorer):
    places = explorer.evaluate(PLACES, ["map", "marker"])
    x, y = np.array([place[:2] for place in places]).T
    middle = float(np.median(y))
    explorer.mouse.move(float(x.mean()), middle)  # the tools show when the pointer is over the figure
    explorer.locator(".bk-tool-icon-box-select").first.click()
    explorer.mouse.move(x.min() - 6, y.min() - 6)
    explorer.mouse.down()
    explorer.mouse.move(x.mean(), middle, steps=4)
    explorer.mouse.move(x.max() + 6, middle, steps=4)
    explorer.mouse.up()
    inside = int((y < middle).sum())
    assert 0 < inside < len(y)
    status = explorer.get_by_role("status").filter(has_text="objects").first
    wait_until(lambda: abs(int(re.search(r"\d+", status.inner_text()).group()) - inside) <= 1)
    explorer.get_by_role("button", name="clear the box").click()
    wait_until(lambda: int(re.search(r"\d+", status.inner_text()).group()) == len(y))


def test_everything_can_be_reached_without_a_mouse(explorer):
    for _ in range(90):
        explorer.keyboard.press("Tab")
        if explorer.evaluate(FOCUSED)[0] == "TR":
            break
    tag, first = explorer.evaluate(FOCUSED)
    assert tag == "TR"
    explorer.keyboard.press("ArrowDown")
    _, second = explorer.evaluate(FOCUSED)
    assert second != first
    explorer.keyboard.press("Enter")
    wait_until(lambda: chosen(explorer) == second)
    explorer.keyboard.press("j")
    wait_until(lambda: chosen(explorer) not in ("", second))
    explorer.keyboard.press("k")
    wait_until(lambda: chosen(explorer) == second)
    explorer.keyboard.press("q")
    wait_until(lambda: address(explorer)["quantity"] == ["total flux"])
    told = explorer.get_by_text(re.compile(r"^visit \d+, detector \d+$"))
    epochs = sorted({place[2] for place in explorer.evaluate(PLACES, ["light curve", "epoch"])})
    explorer.keyboard.press("[")
    explorer.keyboard.press("[")
    explorer.keyboard.press("[")
    first_visit = min(epochs, key=lambda epoch: int(epoch.split(":")[0])).split(":")[0]
    wait_until(lambda: told.inner_text().startswith(f"visit {first_visit},"))


def test_the_film_strip_reads_what_comes_into_view(explorer):
    explorer.get_by_role("button", name="film strip").click()
    frames = explorer.locator("button.frame")
    frames.first.wait_for()
    explorer.locator("button.frame img").first.wait_for()
    frames.last.click()
    wait_until(lambda: frames.last.get_attribute("aria-pressed") == "true")


def test_a_run_without_sources_says_what_to_do(tab, server):
    tab.goto(server + "/dia?run=simulated:runs/Templates")
    tab.locator(".nl-empty[data-reason=NOT_RUN]").wait_for()
    assert "nightlab run" in tab.locator(".nl-empty[data-reason=NOT_RUN]").inner_text()
