"""Every page can be read: contrast, size, names of controls and words for pictures, in light and dark."""

from pathlib import Path

import pytest
from serving import wait_until

pytestmark = pytest.mark.slow

READING = (Path(__file__).parent / "reading.js").read_text()
RUN = "run=simulated:runs/ApPipe"
#: Address, what shows that the page is drawn, the least number of texts a reader finds on it.
PAGES = {
    "start": ("/?", ".nl-run", 20),
    "overview": (f"/overview?{RUN}&stage=subtract", "canvas", 40),
    "images": (f"/images?{RUN}", "canvas", 30),
    "dia": (f"/dia?{RUN}", "tr[data-id]", 80),
    "metrics": (f"/metrics?{RUN}", "button.row", 100),
    "workbench": (f"/workbench?{RUN}", ".nl-empty", 30),
    "nothing": ("/dia?run=simulated:runs/Templates", ".nl-empty", 15),
}


def opened(tab, address, page, theme):
    """Open a page and wait until it has come to rest."""
    path, drawn, least = PAGES[page]
    tab.goto(f"{address}{path}&theme={theme}")
    tab.locator(drawn).first.wait_for(timeout=60_000)
    counts = []

    def still():
        counts.append(len(tab.evaluate(READING)["texts"]))
        return len(counts) > 2 and counts[-3] == counts[-1] >= least

    wait_until(still, 60, every=0.5)
    return tab.evaluate(READING)


@pytest.mark.parametrize("theme", ["default", "dark"])
@pytest.mark.parametrize("page", PAGES)
def test_all_words_can_be_read_and_all_controls_and_pictures_have_names(tab, server, page, theme):
    found = opened(tab, server, page, theme)
    assert len(found["texts"]) >= PAGES[page][2]
    background = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (min(map(int, background[4:-1].split(","))) < 128) == (theme == "dark")
    faint = [text for text in found["texts"] if text["ratio"] < text["needed"]]
    assert not faint, "\n".join(f"{t['ratio']:.2f} {t['tag']}.{t['kind']} {t['text']}" for t in faint)
    tiny = [text for text in found["texts"] if text["size"] < 12]
    assert not tiny, "\n".join(f"{t['size']} px {t['tag']}.{t['kind']} {t['text']}" for t in tiny)
    assert not found["nameless"]
    assert not found["unlabelled"]


def test_a_faint_word_is_found(tab, server):
    tab.goto(server + "/")
    tab.locator(".nl-run").first.wait_for()
    tab.evaluate("""() => { const host = document.createElement("div")
      host.attachShadow({mode: "open"}).innerHTML =
        "<p style='color:#777;background:#fff'>faint</p><p style='color:#767676;background:#fff'>clear</p>" +
        "<p style='color:#000;opacity:.5;background:#fff'>veiled</p><input value='nobody'><canvas></canvas>"
      document.body.prepend(host) }""")
    found = tab.evaluate(READING)
    ratio = {text["text"]: text["ratio"] for text in found["texts"]}
    assert ratio["faint"] == pytest.approx(4.48, abs=0.01)  # the published ratios of these two grays
    assert ratio["clear"] == pytest.approx(4.54, abs=0.01)
    assert ratio["veiled"] == pytest.approx(3.98, abs=0.03)  # half black on white is #7f7f7f
    assert len(found["nameless"]) == len(found["unlabelled"]) == 1
