"""The runner in a real browser: run, watch, cancel, click through."""

import contextlib
import re
import shutil
from pathlib import Path
from urllib.parse import parse_qs, urlparse

import psutil
import pytest
from serving import serving, wait_until

from nightlab.data.runs import open_run

pytestmark = pytest.mark.slow

SPOT = """([name, x, y]) => {
  for (const doc of window.Bokeh.documents) for (const model of doc._all_models.values()) {
    if (model.name !== name) continue
    const view = window.Bokeh.index.find_one(model)
    if (!view || !view.frame) continue
    const at = view.el.getBoundingClientRect()
    return [at.left + view.frame.x_scale.compute(x), at.top + view.frame.y_scale.compute(y)]
  }
  return null
}"""


@pytest.fixture(scope="module")
def lab(night, tmp_path_factory):
    """A copy of the finished night that may be written to."""
    return shutil.copytree(night, tmp_path_factory.mktemp("page") / "lab")


@pytest.fixture(scope="module")
def address(lab, tmp_path_factory):
    with serving(str(lab), "--lifetime", "2", cache=tmp_path_factory.mktemp("cache")) as address:
        yield address


def opened(tab, address, more=""):
    tab.goto(f"{address}/overview?run=simulated%3Aruns%2FApPipe{more}")
    tab.get_by_role("button", name="● calibrate").wait_for()
    wait_until(lambda: tab.evaluate(SPOT, ["stages", 0, 0]))
    return tab


def click(tab, name, x, y):
    """Click where a figure has a point, once the page has come to rest."""
    spots = [None]

    def still():
        spots.append(tab.evaluate(SPOT, [name, x, y]))
        return spots[-1] if spots[-1] == spots[-2] else None

    tab.mouse.click(*wait_until(still, every=0.4))


def type_in(tab, title, text):
    field = tab.get_by_label(title, exact=True)
    field.fill(text)
    field.press("Enter")


def query(tab):
    """What the page's address says; asked of the page, since the driver hears of it only while it is used."""
    return parse_qs(urlparse(tab.evaluate("location.href")).query)


def status(tab):
    return " ".join(tab.locator("[role=status]").all_inner_texts())


def workers():
    """Worker processes of the servers of this test."""
    below = psutil.Process().children(recursive=True)
    with contextlib.suppress(psutil.NoSuchProcess):
        return {child.pid for child in below if any("nightlab.dashboards.errands" in part for part in child.cmdline())}
    return set()


def test_the_page_shows_a_finished_run_and_leads_to_its_products(tab, address, lab):
    opened(tab, address)
    visits = len(open_run(lab).visits())
    assert f"subtract  {visits}/{visits}" in tab.get_by_role("button", name="● subtract").inner_text()
    # a box of the graph
    click(tab, "stages", 2, 0)
    tab.get_by_text("reads visit_image (calibrate), template_detector (warp_template)").wait_for()
    # a cell of the grid: the third stage, the first row
    click(tab, "grid-visit", 2.5, visits - 0.5)
    first = min(open_run(lab).visits()["visit"])
    wait_until(lambda: query(tab).get("visit") == [str(first)])
    assert query(tab)["stage"] == ["subtract"]
    tab.get_by_text("products", exact=True).click()
    link = tab.get_by_role("link", name="difference_image")
    link.wait_for()
    address_of = parse_qs(urlparse(link.get_attribute("href")).query)
    assert (address_of["visit"], address_of["detector"]) == ([str(first)], ["0"])
    link.click()
    tab.wait_for_url(re.compile("/images"))
    tab.locator("canvas").first.wait_for()


def test_a_run_from_the_page_moves_is_cancelled_and_goes_on(tab, address, lab):
    opened(tab, address)
    first, second, *_ = sorted(open_run(lab).visits()["visit"])
    type_in(tab, "which data", f"visit IN ({first}, {second})")
    type_in(tab, "output run", "runs/mouse")
    tab.get_by_role("button", name="Run", exact=True).click()
    seen = set()

    def moved():
        seen.update(re.findall(r"(\d+) of \d+", status(tab)))
        return len(seen) > 2

    wait_until(moved, 90, every=0.05)
    assert tab.get_by_role("button", name="Run", exact=True).is_disabled()
    tab.get_by_role("button", name="Cancel", exact=True).click()
    tab.get_by_text("cancelled; what is whole stays").wait_for(timeout=10_000)
    folder = Path(lab, "runs", "mouse")
    wait_until(lambda: not list(folder.rglob("*.tmp*")))
    tab.get_by_role("button", name="Run", exact=True).click()
    tab.get_by_text(re.compile("^finished")).wait_for(timeout=120_000)
    visits, whole = len(open_run(lab).visits()), open_run(lab).types()
    assert open_run(lab, "runs/mouse").types() == {kind: 2 if n == visits else n for kind, n in whole.items()}
    # the page has gone over to the new run
    wait_until(lambda: query(tab)["run"] == ["simulated:runs/mouse"])


def test_what_cannot_be_is_said_beside_the_knob_and_before_the_run(tab, address):
    opened(tab, address, "&stage=subtract")
    type_in(tab, "kernel_order", "9")
    tab.get_by_text("must be at most 4", exact=True).wait_for()
    tab.get_by_role("button", name="Run", exact=True).click()
    refused = tab.get_by_role("alert").filter(has_text="subtract.kernel_order must be at most 4")
    refused.wait_for()
    type_in(tab, "kernel_order", "2")
    tab.get_by_text("command", exact=True).click()
    tab.get_by_text("--set subtract.kernel_order=2").wait_for()
    type_in(tab, "output run", "../../elsewhere")
    tab.get_by_role("button", name="Run", exact=True).click()
    tab.get_by_role("alert").filter(has_text="cannot be the name of an output run").wait_for()


def test_closing_the_tab_ends_the_run_and_its_processes(chromium, address):
    wait_until(lambda: not workers(), 30)  # those of the tabs before
    context = chromium.new_context()
    tab = opened(context.new_page(), address)
    type_in(tab, "output run", "runs/closed")
    tab.get_by_role("button", name="Run", exact=True).click()
    mine = wait_until(workers)
    context.close()
    wait_until(lambda: not mine & workers(), 60)
