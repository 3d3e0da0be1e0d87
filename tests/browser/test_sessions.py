"""Sessions come and go; memory and workers go with them."""

import time

import psutil
import pytest
from serving import serving, wait_until

from nightlab.dashboards.explorer import EXPLORERS

pytestmark = pytest.mark.slow
SESSIONS, WARM = 20, 2


def resident(server):
    """Memory of a server and its children [MB]."""
    return sum(process.memory_info().rss for process in [server, *server.children(recursive=True)]) / 1e6


def visit(chromium, address, slug):
    page = chromium.new_page()
    page.goto(f"{address}/{slug}")
    page.get_by_label("run", exact=True).first.wait_for()
    page.wait_for_timeout(200)
    page.close()


@pytest.mark.nightly
@pytest.mark.timeout(900)
def test_twenty_sessions_give_back_their_memory_and_their_workers(chromium, night, tmp_path):
    slugs = [slug for slug in EXPLORERS if slug != "overview"]
    with serving(str(night), "--lifetime", "1", cache=tmp_path) as address:
        port = int(address.rsplit(":", 1)[1])
        server = next(
            psutil.Process(connection.pid)
            for connection in psutil.net_connections("tcp")
            if connection.laddr.port == port and connection.status == "LISTEN" and connection.pid
        )
        for slug in slugs * WARM:
            visit(chromium, address, slug)
        time.sleep(3)
        before, children = resident(server), len(server.children(recursive=True))
        for number in range(SESSIONS):
            visit(chromium, address, slugs[number % len(slugs)])
        wait_until(lambda: len(server.children(recursive=True)) <= children, seconds=20)
        wait_until(lambda: resident(server) <= 1.15 * before, seconds=20)
