"""The pages in a real browser: first paint, pan and zoom, reading under the pointer, a million sources, memory.

    python benchmarks/bench_pages.py [FOLDER] [--run KEY] [--images KEY] [--only PART ...] [--save F] [--against F]

FOLDER holds finished runs; ``demo`` is what `make demo` leaves. Exits with 1 when a budget is missed, or when a figure
is more than a quarter worse than the one in the file given with ``--against``.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import common
import numpy as np
import psutil
from browser import FINE, Answer, Served, Tab, chromium, returning, serving

PAGES = ("start", "overview", "images", "dia", "metrics", "workbench")
LARGE = Path(__file__).with_name("large_pages.py")
COLD, WARM = 3, 2  # servers, and later sessions of each
SESSIONS = 20
WORSE = 1.25  # a figure may be this much worse than before
#: Most there may be, by what is measured.
BUDGETS = {
    "cold first paint [s]": 12.0,
    "warm first paint [s]": 3.0,
    "view, server [ms]": 150.0,
    "view [kB]": 700.0,
    "answer [ms]": 1000.0,
    "hover, server [ms]": 60.0,
    "hover, on the screen [ms]": 60.0,
    "memory ratio": 1.15,
    "workers left": 0.0,
    "import, wall [s]": 0.3,
    "import, CPU [s]": 0.3,
}


@dataclass(frozen=True)
class Figure:
    """Something measured: medians, and what `BUDGETS` allows."""

    what: str
    kind: str
    value: float

    @property
    def name(self) -> str:
        """What it is compared by."""
        return f"{self.what}, {self.kind}"

    @property
    def missed(self) -> bool:
        """Whether it is over its budget."""
        return self.kind in BUDGETS and not self.value <= BUDGETS[self.kind]


def drawn(slug: str, tab: Tab) -> None:
    """Wait until what a page shows at first is there: pictures, points, rows, not what holds their place."""
    page = tab.page
    match slug:
        case "start":
            page.locator(".nl-run a.open").first.wait_for()
        case "overview":
            tab.drawn("^stages$")
            page.get_by_role("tab", name="log").or_(page.get_by_text("log", exact=True)).first.wait_for()
        case "images":
            tab.drawn("^pane-0$", "^pane-1$", "^pane-2$", "^pane-3$")
        case "dia":
            tab.drawn("^map$", "^light curve$")
            page.locator("tr[data-id]").first.wait_for()
        case "metrics":
            tab.drawn("")
        case "workbench":
            page.get_by_role("button", name="Run", exact=True).wait_for()
            page.locator(".nl-empty:visible").first.wait_for()


def complete(slug: str, tab: Tab) -> None:
    """Wait until nothing on the page is going to be replaced by something finer."""
    if slug == "images":
        tab.page.wait_for_function(FINE, arg=4, polling="raf")


def first_paint(browser: Any, folder: Path, run: str, page: str) -> Iterator[Figure]:
    """Open a page as the first one after the server has started, and the same visitor again later."""
    slug, query = ("", {}) if page == "start" else (page, {"run": run})
    cold, warm = [], []
    for _ in range(COLD):
        server = serving("-m", "nightlab.cli", "serve", folder, "--port", "0")
        with returning(browser) as visitor, server as served:
            seconds = []
            for _ in range(1 + WARM):
                tab = Tab(browser, served, visitor)
                ready = (functools.partial(wait, page) for wait in (drawn, complete))
                seconds.append(tab.open(slug, *ready, **query))
                tab.rest()
                tab.close()
            cold.append(seconds[0])
            warm += seconds[1:]
    for kind, all_seconds in (("cold", cold), ("warm", warm)):
        first, whole = (statistics.median(column) for column in zip(*all_seconds, strict=True))
        yield Figure(page, f"{kind} first paint [s]", first)
        if page == "images":
            yield Figure(page, f"{kind}, exact copies too [s]", whole)


def moves(tab: Tab, what: str) -> Iterator[Figure]:
    """Pan and zoom the image viewer, one way and in bursts, and read under the pointer."""
    page, panes = tab.page, tab.page.locator("canvas")
    at = max((panes.nth(k).bounding_box() for k in range(panes.count())), key=lambda b: b["width"] * b["height"])
    x, y = at["x"] + 0.4 * at["width"], at["y"] + 0.5 * at["height"]

    def wheel(steps: int, towards: int) -> Callable[[], None]:
        def turn() -> None:
            for _ in range(steps):
                page.mouse.wheel(0, towards)
                page.wait_for_timeout(30)

        return turn

    def drag() -> None:
        page.mouse.down()
        for k in range(10):
            page.mouse.move(x - 8 * k, y - 4 * k)
            page.wait_for_timeout(15)
        page.mouse.up()

    page.mouse.move(x, y)
    acts: list[tuple[str, Callable[[], Any]]] = [
        ("zoom, one step", wheel(1, -120)),
        ("zoom, burst of 5 in", wheel(5, -120)),
        ("pan", drag),
        ("zoom, burst of 10 in", wheel(10, -120)),
        ("pan, close up", drag),
        ("zoom, burst of 10 out", wheel(10, 120)),
        ("zoom, burst of 20 out", wheel(20, 120)),
    ]
    for name, act in acts:
        page.mouse.move(x, y)
        answer = tab.answer(name, act)
        yield from view(f"{what}: {name}", answer)
    yield from hovers(tab, f"{what}: hover", x, y)


def view(what: str, answer: Answer) -> Iterator[Figure]:
    """Give the figures of an answer to another view."""
    yield Figure(what, "view, server [ms]", answer.milliseconds)
    yield Figure(what, "view, in the browser [ms]", answer.arrived)
    yield Figure(what, "server CPU [ms]", answer.processor)
    yield Figure(what, "view [kB]", answer.kilobytes)


def hovers(tab: Tab, what: str, x: float, y: float) -> Iterator[Figure]:
    """Move the pointer a few times."""
    found = [tab.hover(x + 7 * k, y + 5 * k) for k in range(1, 10)]
    yield Figure(what, "hover, server [ms]", statistics.median(answer.milliseconds for answer, _ in found))
    yield Figure(what, "server CPU [ms]", statistics.median(answer.processor for answer, _ in found))
    yield Figure(what, "hover, on the screen [ms]", np.nanmedian([screen for _, screen in found]))


def images(browser: Any, folder: Path, run: str) -> Iterator[Figure]:
    """The image viewer on a frame of a run."""
    with serving("-m", "nightlab.cli", "serve", folder, "--port", "0", "--warm") as served:
        tab = Tab(browser, served)
        tab.open("images", functools.partial(drawn, "images"), run=run)
        tab.rest()
        yield from moves(tab, run.partition(":")[0])
        tab.close()


def large_images(browser: Any) -> Iterator[Figure]:
    """The image viewer on 4096 x 4096 pixels with variance and mask, the mask drawn."""
    with serving(LARGE, "images") as served:
        yield from opened(browser, served, "images", "4096 x 4096")
        tab = Tab(browser, served)
        tab.open("images", functools.partial(drawn, "images"))
        tab.rest()
        yield from moves(tab, "4096 x 4096")
        tab.close()


def opened(browser: Any, served: Served, slug: str, what: str) -> Iterator[Figure]:
    """Open a page of a large thing: the first time, and again."""
    seconds: list[float] = []
    with returning(browser) as visitor:
        for _ in range(4):
            tab = Tab(browser, served, visitor)
            seconds += tab.open(slug, functools.partial(drawn, slug))
            tab.close()
    yield Figure(what, "cold first paint [s]", seconds[0])
    yield Figure(what, "warm first paint [s]", statistics.median(seconds[1:]))


def large_dia(browser: Any) -> Iterator[Figure]:
    """The explorer of DIASources on a million of them."""
    with serving(LARGE, "dia") as served:
        yield from opened(browser, served, "dia", "1e6 sources")
        tab = Tab(browser, served)
        tab.open("dia", functools.partial(drawn, "dia"))
        tab.rest()
        page, rows = tab.page, tab.page.locator("tr[data-id]")

        def asked(what: str, act: Callable[[], Any]) -> Iterator[Figure]:
            answer = tab.answer(what, act)
            yield Figure(f"1e6 sources: {what}", "answer [ms]", answer.arrived)
            yield Figure(f"1e6 sources: {what}", "server CPU [ms]", answer.processor)
            yield Figure(f"1e6 sources: {what}", "answer [kB]", answer.kilobytes)

        def fill(column: str, text: str) -> None:
            field = page.get_by_label(f"Filter {column}", exact=True)
            field.fill(text)
            field.press("Enter")

        heading = page.locator("th button", has_text="S/N").first
        yield from asked("sort, first time", heading.click)
        yield from asked("sort, again", page.locator("th button", has_text="S/N").first.click)
        yield from asked("filter of a column", lambda: fill("S/N", "> 5"))
        yield from asked("select a row", lambda: rows.nth(3).click())
        yield from asked("select the next row", lambda: page.keyboard.press("j"))
        page.locator(".bk-tool-icon-box-select").first.scroll_into_view_if_needed()
        at = page.locator("canvas").first.bounding_box()
        x, y = at["x"] + 0.5 * at["width"], at["y"] + 0.5 * at["height"]
        page.mouse.move(x, y)
        yield from view("1e6 sources: zoom the map", tab.answer("zoom the map", lambda: page.mouse.wheel(0, -240)))
        yield from hovers(tab, "1e6 sources: hover", x, y)
        page.locator(".bk-tool-icon-box-select").first.click()

        def box() -> None:
            page.mouse.move(x - 60, y - 40)
            page.mouse.down()
            page.mouse.move(x + 60, y + 40, steps=5)
            page.mouse.up()

        yield from asked("box on the map", box)
        tab.close()


def sessions(browser: Any, folder: Path, run: str) -> Iterator[Figure]:
    """Memory and processes of the server after sessions have come and gone."""
    slugs = PAGES[1:]
    with serving("-m", "nightlab.cli", "serve", folder, "--port", "0", "--lifetime", "1") as served:
        server = psutil.Process(served.process)

        def visit(slug: str) -> None:
            tab = Tab(browser, served)
            tab.open(slug, functools.partial(drawn, slug), run=run)
            tab.close()

        def resident() -> float:
            return sum(process.memory_info().rss for process in [server, *server.children(recursive=True)]) / 1e6

        for slug in slugs * 2:
            visit(slug)
        time.sleep(5)
        before, workers = resident(), len(server.children(recursive=True))
        for number in range(SESSIONS):
            visit(slugs[number % len(slugs)])
        time.sleep(10)
        after = resident()
        yield Figure(f"{SESSIONS} sessions", "memory before [MB]", before)
        yield Figure(f"{SESSIONS} sessions", "memory after [MB]", after)
        yield Figure(f"{SESSIONS} sessions", "memory ratio", after / before)
        yield Figure(f"{SESSIONS} sessions", "workers left", float(len(server.children(recursive=True)) - workers))


def imports() -> Iterator[Figure]:
    """``import nightlab``, the start of Python left out."""
    wall, cpu = [], []
    code = "import time; a = time.perf_counter(), time.process_time(); import nightlab; "
    code += "print(time.perf_counter() - a[0], time.process_time() - a[1])"
    for _ in range(5):
        said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        wall.append(float(said.split()[0]))
        cpu.append(float(said.split()[1]))
    yield Figure("import nightlab", "import, wall [s]", statistics.median(wall))
    yield Figure("import nightlab", "import, CPU [s]", statistics.median(cpu))


def report(figures: Sequence[Figure], before: dict[str, float]) -> bool:
    """Print figures beside their budgets; whether any is missed, or much worse than before."""
    rows, bad = [], False
    for figure in figures:
        budget, old = BUDGETS.get(figure.kind), before.get(figure.name)
        # what is far below its budget may move as it likes
        worse = old is not None and budget is not None and figure.value > max(WORSE * old, budget / 10)
        verdict = "MISSED" if figure.missed else "WORSE" if worse else ""
        bad = bad or bool(verdict)
        digits = 2 if figure.value < 20 else 0
        row = [figure.what, figure.kind, f"{figure.value:.{digits}f}", "" if budget is None else f"{budget:g}"]
        rows.append([*row, *([] if not before else ["" if old is None else f"{old:.{digits}f}"]), verdict])
    common.table(["", "", "measured", "budget", *(["before"] if before else []), ""], rows)
    return bad


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("demo"), help="holds finished runs")
    parser.add_argument("--run", default="simulated:runs/ApPipe", help="run whose pages are opened")
    parser.add_argument("--images", default="", help="run whose images are panned, when another one")
    parser.add_argument("--only", nargs="*", default=[], help="parts, by the beginnings of their names")
    parser.add_argument("--save", type=Path, help="keep the figures in this file")
    parser.add_argument("--against", type=Path, help="compare with the figures in this file")
    options = parser.parse_args()
    if not any(options.folder.rglob("butler.yaml")):
        print(f"skipped: there is no repository in {options.folder}; make demo makes one")
        return 0
    common.heading("Pages in Chromium", "panel", "bokeh", "playwright", how="wall time on a screen of 1280 x 720")
    before = json.loads(options.against.read_text()) if options.against else {}
    figures: list[Figure] = []
    bad = False
    with chromium() as browser:
        paint = functools.partial(first_paint, browser, options.folder, options.run)
        parts: dict[str, Callable[[], Iterator[Figure]]] = {
            "import": imports,
            **{f"paint-{page}": functools.partial(paint, page) for page in PAGES},
            "images": lambda: images(browser, options.folder, options.images or options.run),
            "large-images": lambda: large_images(browser),
            "large-dia": lambda: large_dia(browser),
            "sessions": lambda: sessions(browser, options.folder, options.run),
        }
        for name, part in parts.items():
            if name.startswith(tuple(options.only or [""])):
                found = list(part())
                figures += found
                print(f"{name}, load {os.getloadavg()[0]:.1f}")
                bad = report(found, before) or bad
                print(flush=True)
    if options.save:
        options.save.write_text(json.dumps({figure.name: figure.value for figure in figures}, indent=1))
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
