"""A real browser and a server for it."""

import contextlib
import shutil

import pytest
from serving import serving

CHROMIUM = next((path for name in ("chromium", "chromium-browser") if (path := shutil.which(name))), "")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="session")
def chromium():
    """A running browser."""
    from playwright.sync_api import sync_playwright

    if not CHROMIUM:
        pytest.skip("no Chromium on this machine; Debian has it as the package chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


#: What JupyterLab leaves behind: questions to a kernel still open when a notebook is left, and the icon that says
#: "busy", whose loading it drops when the kernel has finished before it came.
LEFT_OPEN = ("Canceled future for", "static/favicons/favicon-busy")


class Watched:
    """A tab that remembers what went wrong in it."""

    def __init__(self, page):
        self.page, self.troubles = page, []
        page.on("pageerror", lambda error: self._note(f"page error: {error}"))
        page.on("console", self._console)
        page.on("requestfailed", lambda request: self._note(f"failed: {request.url}"))

    def _console(self, message):
        if message.type == "error":
            self._note(f"console: {message.text}")

    def _note(self, trouble):
        if not any(words in trouble for words in LEFT_OPEN):
            self.troubles.append(trouble)

    def check(self):
        """No error in the console, nothing that could not be loaded, no red banner."""
        assert not self.troubles, self.troubles
        assert self.page.get_by_role("alert").filter(visible=True).count() == 0


@pytest.fixture
def tab(chromium):
    """A fresh tab of 1280 x 720; whatever went wrong in it fails the test at its end."""
    context = chromium.new_context(viewport={"width": 1280, "height": 720})
    watched = Watched(context.new_page())
    yield watched.page
    with contextlib.suppress(Exception):
        context.close()
    assert not watched.troubles, watched.troubles


@pytest.fixture(scope="session")
def server(night, tmp_path_factory):
    """Address of a server that shows the finished night."""
    with serving(str(night), cache=tmp_path_factory.mktemp("cache")) as address:
        yield address
