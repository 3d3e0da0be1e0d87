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

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from nightlab.dashboards.explorer import EXPLORERS, default_run
from nightlab.dashboards.library import Library

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


def links(library: Library, chosen: str) -> dict[str, str]:
    """Give the pages worth a picture: name -> path with query."""
    pages = {"start": "/"}
    for slug in EXPLORERS:
        pages[slug] = f"/{slug}?{urlencode({'run': chosen})}"
    return pages


def shoot(page: Page, url: str, wait: int = SETTLE) -> tuple[Image.Image, list[str]]:
    """Open a page and give its picture and what its console complained of."""
    troubles: list[str] = []
    page.on("console", lambda message: troubles.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.goto(url)
    page.wait_for_timeout(wait)
    return Image.open(io.BytesIO(page.screenshot())).convert("RGB"), troubles


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--run", default="", help="key of the run to show; the first finished night when absent")
    parser.add_argument("--out", type=Path, default=Path("shots"))
    parser.add_argument("--only", nargs="*", default=[], help="names of pages")
    parser.add_argument("--docs", action="store_true", help="write the pictures of the documentation")
    arguments = parser.parse_args()
    library = Library.below(arguments.folder)
    pages = links(library, arguments.run or default_run(library))
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
