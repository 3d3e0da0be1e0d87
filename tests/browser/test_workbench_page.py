"""The workbench in a real browser: run, compare, cancel."""

import pytest
from serving import serving, wait_until

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def address(night, tmp_path_factory):
    with serving(str(night), "--lifetime", "2", cache=tmp_path_factory.mktemp("cache")) as address:
        yield address


def run(tab):
    tab.get_by_role("button", name="Run", exact=True).click()
    tab.get_by_role("button", name="Cancel", exact=True).click(trial=True)
    tab.get_by_text("done ·").wait_for(timeout=60_000)


def test_a_result_is_shown_beside_the_last_one(tab, address):
    tab.goto(f"{address}/workbench?run=simulated%3Aruns%2FApPipe")
    tab.get_by_text("Nothing was run here yet.").first.wait_for()
    run(tab)
    tab.locator("canvas").first.wait_for()
    knob = tab.get_by_label("kernel_order")
    knob.fill("0")
    knob.press("Enter")
    tab.get_by_role("button", name="Run", exact=True).click()
    tab.get_by_text("result 2", exact=True).wait_for(timeout=60_000)
    chosen = tab.get_by_label("result", exact=True)
    wait_until(lambda: chosen.evaluate("it => it.selectedOptions[0].textContent").startswith("2 · subtract"))
    assert tab.get_by_text("result 1", exact=True).count() == 1
    tab.get_by_text("as code", exact=True).click()
    tab.get_by_text("config=nl.SubtractConfig(kernel_order=0)").wait_for()


def test_a_call_is_cancelled_and_the_next_one_works(tab, address):
    tab.goto(f"{address}/workbench?run=simulated%3Aruns%2FApPipe&stage=calibrate")
    button = tab.get_by_role("button", name="Run", exact=True)
    button.wait_for()
    button.click()
    tab.get_by_role("button", name="Cancel", exact=True).click()
    tab.get_by_text("cancelled ·").wait_for(timeout=10_000)
    run(tab)


def test_a_file_outside_the_served_folder_is_refused(tab, address):
    tab.goto(f"{address}/workbench?run=simulated%3Aruns%2FApPipe&source=files")
    for name in ("science", "template"):
        field = tab.get_by_label(f"{name} file")
        field.fill("/etc/passwd")
        field.press("Enter")
    tab.get_by_role("button", name="Run", exact=True).click()
    tab.get_by_text("/etc/passwd is not below a folder that is served", exact=True).wait_for()
