"""The start page and the server around all pages."""

import re
import subprocess
import sys
import urllib.error
import urllib.request

import pytest
from serving import serving

from nightlab.simulate import PRESETS

pytestmark = pytest.mark.slow


def test_the_start_page_lists_the_runs_and_leads_to_the_explorers(tab, server):
    tab.goto(server + "/")
    card = tab.locator(".nl-run").filter(has_text="simulated · ApPipe")
    card.wait_for()
    visits = PRESETS["tiny"].n_science
    assert f"{visits} visits, 1 detector, bands r" in card.inner_text()
    assert re.search(rf"difference_image\s+{visits}\b", card.inner_text())
    hrefs = [link.get_attribute("href") for link in card.get_by_role("link").all()]
    assert [href.split("?")[0] for href in hrefs] == ["./overview", "./images", "./dia", "./metrics", "./workbench"]
    assert all("run=simulated%3Aruns%2FApPipe" in href for href in hrefs)


def test_a_run_nobody_has_is_told_and_not_opened(tab, server):
    tab.goto(server + "/metrics?run=/etc:passwd")
    tab.get_by_text("Not everything in this link could be understood").wait_for()
    tab.get_by_text("there is no run '/etc:passwd' here").wait_for()


def test_an_empty_folder_is_served_with_the_way_out(tab, tmp_path):
    with serving(str(tmp_path)) as address:
        tab.goto(address + "/")
        tab.get_by_text("No run was found").wait_for()
        tab.get_by_text("nightlab demo").wait_for()


def test_pages_under_a_prefix_find_their_resources(tab, night):
    with serving(str(night), "--prefix", "/user/demo/proxy") as address:
        assert address.endswith("/user/demo/proxy")
        tab.goto(address + "/")
        tab.locator(".nl-run").first.wait_for()
        scripts = tab.evaluate("[...document.scripts].map((script) => script.src)")
        assert any("/user/demo/proxy/" in script and script.endswith("/paint.js") for script in scripts)
        assert not any("mathjax" in script or "bokeh-gl" in script for script in scripts)
        styles = "Bokeh.require('core/dom').InlineStyleSheet.prototype._update.toString()"
        assert "!==" in tab.evaluate(styles), "styles that stay are written anew"


def test_a_password_is_asked_for_and_an_open_address_needs_one(tmp_path):
    command = [sys.executable, "-m", "nightlab.cli", "serve", str(tmp_path), "--address", "0.0.0.0", "--port", "0"]
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "no password was given" in refused.stderr
    secret = tmp_path / "secret"
    secret.write_text("aldebaran\n")
    with (
        serving(str(tmp_path), "--password-file", str(secret)) as address,
        urllib.request.urlopen(address + "/") as page,
    ):
        assert "login" in page.url
        assert b"password" in page.read()


def test_no_file_of_the_server_can_be_read(tmp_path):
    (tmp_path / "secret.txt").write_text("hidden")
    with serving(str(tmp_path)) as address:
        for path in (
            "/secret.txt",
            "/static/../secret.txt",
            "/%2e%2e/secret.txt",
            "//etc/passwd",
            "/assets/secret.txt",
        ):
            with pytest.raises(urllib.error.HTTPError):
                urllib.request.urlopen(address + path)
