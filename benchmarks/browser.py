"""A served page and a browser in front of it: what travels between them, and when something is on the screen."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from bisect import bisect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

ADDRESS = re.compile(r"http://[\w.]+:\d+\S*")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
TIMED = Path(__file__).with_name("timed_server.py")
SIZE = {"width": 1280, "height": 720}
REST = 0.5  # seconds in which nothing travels and the server does nothing, after which an answer is over
IDLE = 15.0  # milliseconds of processor time in them that count as nothing
LONGEST, HEARD = 120.0, 10.0  # seconds anything may take, and the browser to ask

#: Which of the named figures are on the screen with something drawn in them.
DRAWN = """(names) => {
  if (!window.Bokeh || !Bokeh.documents.length) return false;
  const models = [...Bokeh.documents[0]._all_models.values()].filter((m) => m.type === "Figure");
  const full = (r) => r.visible && Object.values(r.data_source?.data ?? {}).some((c) => c.length > 0);
  const drawn = (m) => !m.properties.inner_width.is_unset && m.inner_width > 0 && m.renderers.some(full);
  return names.every((name) => models.some((m) => (m.name ?? "").match(new RegExp(name)) && drawn(m)));
}"""
#: Whether every pane of an image viewer has the copy that fits its view.
FINE = """(panes) => {
  if (!window.Bokeh || !Bokeh.documents.length) return false;
  const there = [...Bokeh.documents[0]._all_models.values()].filter(
    (m) => (m.name ?? "").startsWith("fine-") && m.visible && m.data_source.data.image.length);
  return there.length === panes;
}"""
PAINTED = "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(true))))"
#: Remember when the pointer moved first (browsers move it once more when a page has changed below), and when words on
#: the page changed last.
HEAR = """() => {
  const within = (root) => [...root.querySelectorAll("*")].filter((e) => e.shadowRoot)
    .flatMap((e) => [e.shadowRoot, ...within(e.shadowRoot)]);
  window.heard = {moved: 0, told: 0};
  document.addEventListener("mousemove", () => { heard.moved ||= performance.now() }, true);
  const told = new MutationObserver(() => { heard.told = performance.now() });
  for (const root of within(document)) told.observe(root, {childList: true, subtree: true, characterData: true});
}"""


@dataclass(frozen=True)
class Served:
    """A running server."""

    address: str
    process: int
    seconds: float  # until it said that it is ready
    times: Path  # what `timed_server` keeps

    def left(self) -> list[float]:
        """When each message left it, by the machine's monotonic clock [s]."""
        return [float(line) for line in self.times.read_text().split()]

    def processor(self) -> float:
        """Milliseconds of processor time that it has used; NaN where Linux does not tell."""
        tasks = Path(f"/proc/{self.process}/task")
        if not tasks.is_dir():
            return float("nan")
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks.iterdir()) / 1e6


@contextlib.contextmanager
def serving(*command: str | Path) -> Iterator[Served]:
    """Run a program that prints the address of its pages, with an empty cache; it ends with the block."""
    with tempfile.TemporaryDirectory(prefix="nightlab-cache-") as cache:
        times = Path(cache, "times")
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", "XDG_CACHE_HOME": cache}
        begin = time.monotonic()
        server = subprocess.Popen(
            [sys.executable, str(TIMED), str(times), *map(str, command)],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment,
        )  # fmt: skip
        try:
            told = []
            for line in server.stdout:
                told.append(line)
                if found := ADDRESS.search(line):
                    break
            else:
                raise SystemExit(f"the server did not start:\n{''.join(told)}")
            seconds = time.monotonic() - begin
            # nobody reads on; a full pipe would stop the server
            threading.Thread(target=server.stdout.read, daemon=True).start()
            yield Served(found.group().rstrip("/"), server.pid, seconds, times)
        finally:
            server.terminate()
            try:
                server.wait(10)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def _program() -> str | None:
    return shutil.which("chromium") or shutil.which("chromium-browser")


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    """A browser that has shown a page before."""
    program = _program()
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        program = None
    if program is None:
        print("skipped: Chromium and playwright are needed: apt install chromium, pip install playwright")
        raise SystemExit(0)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=FLAGS)
        page = browser.new_page()
        page.goto("data:text/html,<canvas></canvas>")
        page.close()
        yield browser
        browser.close()


@contextlib.contextmanager
def returning(browser: Any) -> Iterator[Any]:
    """A visitor with a profile on disk, as everybody has: the browser keeps scripts, and what it made of them."""
    with tempfile.TemporaryDirectory(prefix="nightlab-profile-") as profile:
        kind = browser.browser_type
        visitor = kind.launch_persistent_context(profile, executable_path=_program(), args=FLAGS, viewport=SIZE)
        yield visitor
        visitor.close()


@dataclass(frozen=True)
class Answer:
    """What came back for something that was done.

    Attributes
    ----------
    milliseconds
        From the message that asked leaving the browser to the last of the answer leaving the server.
    arrived
        The same, to the last of the answer being read by the browser, which reads when it has painted.
    kilobytes
        Received, all messages together.
    processor
        Milliseconds of processor time the server spent, on everything that was asked; NaN where it is not known.
    """

    milliseconds: float
    arrived: float
    kilobytes: float
    processor: float


def _longest(asked: list[float], answered: list[float]) -> float:
    """Milliseconds between an answer and what was asked last before it, at most."""
    return 1000 * max(when - asked[bisect(asked, when) - 1] for when in answered if when >= asked[0])


class Tab:
    """A tab with a session of its own, whose messages are counted by the browser itself.

    Tabs of one `visitor` share what the browser has kept of earlier pages; one without has seen nothing before.
    """

    def __init__(self, browser: Any, served: Served, visitor: Any = None) -> None:
        self.served = served
        self.context = browser.new_context(viewport=SIZE) if visitor is None else visitor
        self.page = self.context.new_page()
        self._alone = visitor is None
        self.page.set_default_timeout(1000 * LONGEST)
        self.frames: list[tuple[float, bool, int]] = []  # when [s], received or not, bytes
        self._last, self._unanswered = 0.0, 0
        protocol = self.context.new_cdp_session(self.page)
        protocol.on("Network.webSocketFrameSent", lambda event: self._count(event, received=False))
        protocol.on("Network.webSocketFrameReceived", lambda event: self._count(event, received=True))
        protocol.send("Network.enable")

    def _count(self, event: dict[str, Any], *, received: bool) -> None:
        payload = event["response"]["payloadData"]
        binary = event["response"]["opcode"] == 2  # binary ones are told in base64
        size = len(payload) * 3 // 4 - payload.count("=", -2) if binary else len(payload.encode())
        if not binary and '"msgtype"' in payload:
            self._unanswered += '"PATCH-DOC"' in payload and not received
            self._unanswered -= '"OK"' in payload and received
        self.frames.append((event["timestamp"], received, size))
        self._last = time.monotonic()

    def open(self, slug: str, *ready: Callable[[Tab], Any], **query: Any) -> tuple[float, ...]:
        """Open a page; seconds until each of some things is on the screen."""
        texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in query.items()}
        begin = time.monotonic()
        self.page.goto(f"{self.served.address}/{slug}?{urlencode(texts)}", wait_until="commit")
        seconds = []
        for wait in ready:
            wait(self)
            self.page.evaluate(PAINTED)
            seconds.append(time.monotonic() - begin)
        return tuple(seconds)

    def rest(self) -> None:
        """Wait until nothing travels any more, all is answered, and the server does nothing."""
        while True:
            since, used = time.monotonic(), self.served.processor()
            while time.monotonic() < since + REST:
                self.page.wait_for_timeout(50)
            busy = self.served.processor() - used > IDLE
            if self._last < since and self._unanswered <= 0 and not busy:
                return

    def answer(self, what: str, act: Callable[[], Any]) -> Answer:
        """Do something and wait for all of the answer."""
        self.rest()
        self.frames.clear()
        before = self.served.processor()
        act()
        end = time.monotonic() + HEARD
        while all(come for _, come, _ in self.frames) and time.monotonic() < end:
            self.page.wait_for_timeout(50)
        self.rest()
        spent = self.served.processor() - before
        asked = sorted(when for when, come, _ in self.frames if not come)
        come = [when for when, come, _ in self.frames if come]
        if not asked or not come:
            raise SystemExit(f"{what}: the page did not ask the server for anything")
        size = sum(size for _, come, size in self.frames if come)
        return Answer(_longest(asked, self.served.left()), _longest(asked, come), size / 1e3, spent)

    def hover(self, x: float, y: float) -> tuple[Answer, float]:
        """Move the pointer; the answer, and the milliseconds until words had changed, NaN when none did."""
        if not self.page.evaluate("() => window.heard !== undefined"):
            self.page.evaluate(HEAR)
        self.page.evaluate("() => Object.assign(heard, {moved: 0, told: 0})")
        found = self.answer(f"hover at {x:.0f}, {y:.0f}", lambda: self.page.mouse.move(x, y))
        heard = self.page.evaluate("() => heard")
        wait = heard["told"] - heard["moved"]
        return found, wait if wait > 0 else float("nan")

    def drawn(self, *figures: str) -> None:
        """Wait until figures, by regular expressions of their names, show something."""
        self.page.wait_for_function(DRAWN, arg=list(figures), polling="raf")

    def close(self) -> None:
        """End the session."""
        (self.context if self._alone else self.page).close()
