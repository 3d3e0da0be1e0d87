"""The metrics explorer in a browser: tile, metric, point, links."""

import re

import pytest
from serving import wait_until

pytestmark = pytest.mark.slow


@pytest.fixture
def explorer(tab, server):
    """The page of the finished night, drawn."""
    tab.goto(server + "/metrics?run=simulated:runs/ApPipe")
    tab.locator(".bk-Canvas, canvas").first.wait_for()
    tab.get_by_role("heading", name="difference.noise_ratio").wait_for()
    return tab


def click_points(tab):
    """Click on the plot until a point is hit; points lie at the whole numbers of an axis of visits."""
    area = tab.locator(".bk-CartesianFrame, canvas").first.bounding_box()
    found = tab.get_by_role("columnheader", name="look at")
    for x in range(60, int(area["width"]) - 10, 3):
        for y in range(20, int(area["height"]) - 30, 9):
            tab.mouse.click(area["x"] + x, area["y"] + y)
        if found.count():
            return True
    return False


def test_a_tile_changes_the_trend_and_the_address(explorer):
    explorer.get_by_role("button", name=re.compile("^single frame")).click()
    explorer.get_by_role("heading", name=re.compile(r"^single_frame\.")).wait_for()
    explorer.wait_for_function("location.search.includes('metric=single_frame')")
    explorer.get_by_role("button", name=re.compile("zero point scatter")).first.click()
    explorer.get_by_role("heading", name="single_frame.zero_point_scatter").wait_for()
    assert explorer.locator("[aria-pressed=true]", has_text="zero point scatter").count() == 1


def test_keys_step_through_the_metrics(explorer):
    explorer.keyboard.press("]")
    explorer.get_by_role("heading", name="difference.noise_std_ratio").wait_for()
    explorer.keyboard.press("[")
    explorer.get_by_role("heading", name="difference.noise_ratio").wait_for()


def test_a_point_shows_its_data_id_and_the_way_to_its_images(explorer):
    assert click_points(explorer)
    row = explorer.get_by_role("row").nth(1)
    visit = row.get_by_role("cell").first.inner_text()
    assert re.fullmatch(r"\d+", visit)
    link = row.get_by_role("link", name="images").get_attribute("href")
    assert link.startswith("./images?run=simulated%3Aruns/ApPipe")
    assert f"visit={visit}&detector=0" in link
    explorer.wait_for_function(f"location.search.includes('visit={visit}')")


def test_search_narrows_the_list_and_the_level_changes_the_verdicts(explorer):
    box = explorer.get_by_placeholder("noise, zero point …")
    box.fill("zero point")
    box.press("Enter")
    wait_until(lambda: explorer.locator(".row[data-key]").count() < 8)
    assert explorer.locator(".row[data-key]", has_text="zero point").count() == 4
    before = explorer.locator(".tiles").inner_text()
    explorer.get_by_label("targets").select_option("stretch")
    wait_until(lambda: explorer.locator(".tiles").inner_text() != before)
    assert "fail" in explorer.locator(".tiles").inner_text()


def test_jumps_are_looked_for_when_asked(explorer):
    explorer.get_by_role("button", name="Mark jumps").click()
    explorer.get_by_text("No jump beyond 5 sigma.").wait_for()
