"""Take the pictures of the explorers: every page, light and dark, in two sizes.

    python docs/screenshots.py FOLDER --out shots            # of all runs below FOLDER
    python docs/screenshots.py FOLDER --docs                 # the ones the documentation shows

FOLDER holds finished runs, such as ``demo`` and ``nightlab-data``. Needs Chromium and the ``test`` extra.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import numpy as np
from astropy.table import Table
from PIL import Image
from playwright.sync_api import Page, sync_playwright

from nightlab.dashboards.library import Library
from nightlab.data.runs import Run

SIZES = ((1280, 720), (1920, 1080))
THEMES = ("default", "dark")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
PICTURES = Path(__file__).parent / "pictures"
SETTLE = 4000  # milliseconds for images to arrive


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Serve a folder; give the address."""
    command = [sys.executable, "-m", "nightlab.cli", "serve", str(folder), "--port", "0", "--warm"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        for line in server.stdout:
            if found := re.search(r"http://\S+", line):
                yield found.group().rstrip("/")
                return
        raise SystemExit("the server did not start")
    finally:
        server.terminate()
        server.wait()


def links(library: Library, real: str, simulated: str) -> dict[str, str]:
    """Give the pages worth a picture: name -> path with query."""
    states = {
        "overview": {"run": real},
        "images": {"run": real, **interesting(library[real])},
        "dia": {"run": simulated, **brightest(library[simulated])},
        "metrics": {"run": real, "metric": "difference.noise_ratio"},
        "workbench": {"run": real, **interesting(library[real], view=False)},
    }
    return {"start": "/", **{slug: f"/{slug}?{urlencode(state)}" for slug, state in states.items()}}


def interesting(run: Run, *, view: bool = True) -> dict[str, str]:
    """Choose the visit with the strongest clean source without neighbours, and a view around it."""
    sources = run.get("dia_source")
    sources = sources[clean(sources) & alone(sources) & (np.asarray(sources["psfFlux"]) > 0)]
    row = sources[np.argmax(np.asarray(sources["snr"], float))]
    state = {"visit": str(row["visit"]), "detector": str(row["detector"])}
    if view:
        state["view"] = f"[{float(row['x']):.0f}, {float(row['y']):.0f}, 200]"
    return state


def clean(sources: Table) -> np.ndarray:
    """Say which sources have no flag of their pixels and are no dipole."""
    flags = [name for name in sources.colnames if name.startswith("pixelFlags") or name == "isDipole"]
    return ~np.any([np.asarray(sources[name], bool) for name in flags], axis=0)


def alone(sources: Table, reach: float = 60.0) -> np.ndarray:
    """Say which sources have no other of their image within some pixels."""
    x, y, visit = (np.asarray(sources[name], float) for name in ("x", "y", "visit"))
    near = (np.abs(x[:, None] - x) < reach) & (np.abs(y[:, None] - y) < reach) & (visit[:, None] == visit)
    return near.sum(axis=1) == 1


def brightest(run: Run) -> dict[str, str]:
    """Choose the object with the strongest change among those seen most often."""
    sources, objects = run.get("dia_source"), run.get("dia_object")
    spoilt = np.unique(sources["diaObjectId"][~clean(sources)])
    objects = objects[~np.isin(objects["diaObjectId"], spoilt)]
    often = np.asarray(objects["nDiaSources"]) == np.max(objects["nDiaSources"])
    columns = [name for name in objects.colnames if name.endswith("_psfFluxSigma")]
    spread = np.nan_to_num(np.array([np.asarray(objects[name], float) for name in columns])).max(axis=0)
    return {"object": str(objects["diaObjectId"][np.argmax(np.where(often, spread, -1.0))])}


def shoot(page: Page, url: str, wait: int = SETTLE) -> tuple[Image.Image, list[str]]:
    """Open a page and give its picture and what its console complained of."""
    troubles: list[str] = []
    page.on("console", lambda message: troubles.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.goto(url)
    page.locator(".nl-run, canvas, .nl-empty").first.wait_for()
    for loading in page.locator(".nl-loading").all():
        loading.wait_for(state="detached")
    page.wait_for_timeout(wait)
    if "/workbench" in url:
        page.get_by_role("button", name="Run", exact=True).click()
        page.get_by_text(re.compile(r"^done")).wait_for(timeout=90_000)
        page.wait_for_timeout(wait)
    return Image.open(io.BytesIO(page.screenshot())).convert("RGB"), troubles


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--run", default="stripe82:runs/ApPipe", help="key of the run to show")
    parser.add_argument("--curves", default="simulated:runs/ApPipe", help="key of the run that shows light curves")
    parser.add_argument("--out", type=Path, default=Path("shots"))
    parser.add_argument("--only", nargs="*", default=[], help="names of pages")
    parser.add_argument("--docs", action="store_true", help="write the pictures of the documentation")
    arguments = parser.parse_args()
    library = Library.below(arguments.folder)
    pages = links(library, arguments.run, arguments.curves)
    pages = {name: path for name, path in pages.items() if not arguments.only or name in arguments.only}
    folder = PICTURES if arguments.docs else arguments.out
    folder.mkdir(parents=True, exist_ok=True)
    sizes, themes = (SIZES[:1], THEMES) if arguments.docs else (SIZES, THEMES)
    with serving(arguments.folder) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        for name, path in pages.items():
            for width, height in sizes:
                for theme in themes:
                    tab = browser.new_page(viewport={"width": width, "height": height})
                    url = address + path + ("&" if "?" in path else "?") + f"theme={theme}"
                    picture, troubles = shoot(tab, url)
                    tab.close()
                    if arguments.docs:
                        file = folder / f"page-{name}{'-dark' if theme == 'dark' else ''}.jpg"
                        picture.save(file, quality=86, optimize=True)
                    else:
                        file = folder / f"{name}-{theme}-{width}.png"
                        picture.save(file)
                    print(file, *troubles)
        browser.close()


if __name__ == "__main__":
    main()
