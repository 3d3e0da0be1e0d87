"""Fetching a data set, against a server on this machine that can be told to misbehave."""

import errno
import hashlib
import io
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from nightlab.data import locate
from nightlab.data.download import fetch
from nightlab.data.manifests import DataFile, Manifest, faults
from nightlab.errors import CorruptFile, DownloadFailed, MissingData, WriteFailed

CONTENT = {
    "one.dat": np.random.default_rng(1).bytes(300_000),
    "deep/two.dat": np.random.default_rng(2).bytes(1000),
    "empty.dat": b"",
}


class Server:
    """Serves `content`; `break_after` bytes it hangs up, `ranges` says whether it knows them.

    It redirects to files below `moved`, and goes on `slip` bytes beside where it was asked to.
    """

    def __init__(self):
        self.content = {f"/{name}": data for name, data in CONTENT.items()}
        self.break_after, self.ranges, self.asked = None, True, []
        self.moved, self.slip = "", 0
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                asked = self.headers.get("Range")
                server.asked.append((self.path, asked))
                if server.moved and not self.path.startswith(server.moved):
                    self.send_response(302)
                    self.send_header("Location", f"{server.moved}{self.path}")
                    self.end_headers()
                    return
                self.path = self.path.removeprefix(server.moved)
                if self.path not in server.content:
                    self.send_error(404)
                    return
                data = server.content[self.path]
                start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and server.ranges else 0
                if start and start >= len(data):
                    self.send_error(416)
                    return
                self.send_response(206 if start else 200)
                start += server.slip if start else 0
                self.send_header("Content-Length", str(len(data) - start))
                self.end_headers()
                self.wfile.write(data[start:][: server.break_after])
                if server.break_after is not None:
                    self.close_connection = True

            def log_message(self, *_):
                """Keep quiet."""

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()
        self.address = f"http://127.0.0.1:{self.http.server_port}"

    def close(self):
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()


@pytest.fixture
def server():
    server = Server()
    yield server
    server.close()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Folder of the cache; no other place has anything."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("NIGHTLAB_DATA", raising=False)
    monkeypatch.setattr(locate, "_checkout", lambda: None)
    return tmp_path / "nightlab"


def made(server, content=CONTENT):
    files = tuple(
        DataFile(path=name, size=len(data), sha256=hashlib.sha256(data).hexdigest(), url=f"{server.address}/{name}")
        for name, data in content.items()
    )
    return Manifest(name="toy", title="a toy", files=files)


def content(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_fresh_download_is_whole_verified_and_found_by_name(server, cache):
    events = []
    folder = fetch(made(server), listener=events.append)
    assert folder == cache / "toy" == locate.data_set("toy")
    assert content(folder) == CONTENT
    done = [event.done for event in events]
    assert done == sorted(done)
    assert done[-1] == events[-1].total == sum(map(len, CONTENT.values()))
    assert len(events) > len(CONTENT)
    assert {event.path for event in events} == set(CONTENT)


def test_what_is_there_is_not_asked_for_again(server, cache):
    fetch(made(server))
    before = len(server.asked)
    assert fetch(made(server)) == cache / "toy"
    assert len(server.asked) == before


def test_a_broken_connection_is_resumed_where_it_broke(server, cache):
    server.break_after = 100_000
    folder = fetch(made(server), attempts=4)
    assert content(folder) == CONTENT
    assert [asked for path, asked in server.asked if path == "/one.dat"] == [None, "bytes=100000-", "bytes=200000-"]


def test_a_server_that_goes_away_leaves_a_beginning_for_the_next_attempt(server, cache):
    server.break_after = 100_000
    with pytest.raises(DownloadFailed, match=r"cannot fetch .*one\.dat") as caught:
        fetch(made(server), attempts=1)
    assert "goes on from here" in caught.value.hint
    assert not (cache / "toy").exists()
    server.break_after = None
    server.asked.clear()
    assert content(fetch(made(server), attempts=1)) == CONTENT
    assert server.asked[0] == ("/one.dat", "bytes=100000-")


def test_a_server_without_ranges_begins_anew(server, cache):
    server.break_after, server.ranges = 100_000, False
    with pytest.raises(DownloadFailed):
        fetch(made(server), attempts=1)
    server.break_after = None
    assert content(fetch(made(server), attempts=1)) == CONTENT


def test_an_address_that_has_moved_is_followed_and_resumed(server, cache):
    server.break_after, server.moved = 100_000, "/elsewhere"
    assert content(fetch(made(server), attempts=4)) == CONTENT
    assert ("/elsewhere/one.dat", "bytes=200000-") in server.asked


def test_a_server_that_goes_on_at_another_place_is_found_out(server, cache):
    server.break_after = 100_000
    with pytest.raises(DownloadFailed):
        fetch(made(server), attempts=1)
    server.break_after, server.slip = None, -500
    assert content(fetch(made(server), attempts=1)) == CONTENT


def test_a_full_disk_is_said_and_the_beginning_is_kept(server, cache, monkeypatch):
    class Full(io.BufferedWriter):
        def write(self, block):
            if self.tell() >= 1 << 17:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(block)

    real = Path.open
    monkeypatch.setattr(
        Path,
        "open",
        lambda path, mode="r": Full(io.FileIO(path, mode)) if path.suffix == ".part" else real(path, mode),
    )
    with pytest.raises(WriteFailed, match=r"cannot write toy .*No space left") as caught:
        fetch(made(server))
    assert "make room" in caught.value.hint
    monkeypatch.setattr(Path, "open", real)
    assert not (cache / "toy").exists()
    assert content(fetch(made(server))) == CONTENT
    assert server.asked[1] == ("/one.dat", f"bytes={1 << 17}-")


def test_an_interrupted_download_goes_on_where_it_was(server, cache):
    def interrupt(event):
        if event.done > 100_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(made(server), listener=interrupt)
    assert not (cache / "toy").exists()
    assert content(fetch(made(server))) == CONTENT
    assert server.asked[1] == ("/one.dat", f"bytes={2 << 16}-")


def test_nobody_answers(server, cache):
    manifest = made(server)
    server.http.server_close()
    with pytest.raises(DownloadFailed, match="refused"):
        fetch(manifest, attempts=2)
    assert not (cache / "toy").exists()


def test_a_file_that_is_not_there_is_not_asked_for_twice(server, cache):
    del server.content["/deep/two.dat"]
    with pytest.raises(DownloadFailed, match="404"):
        fetch(made(server), attempts=3)
    assert [path for path, _ in server.asked].count("/deep/two.dat") == 1
    assert not (cache / "toy").exists()


def test_another_content_is_refused_and_removed(server, cache):
    server.content["/one.dat"] = b"x" * 300_000
    with pytest.raises(CorruptFile, match="not the file that was published"):
        fetch(made(server))
    assert not (cache / "toy").exists()
    assert not list(cache.rglob("one.dat*"))
    server.content["/one.dat"] = CONTENT["one.dat"]
    assert content(fetch(made(server))) == CONTENT


@pytest.mark.parametrize("length", [10, 299_999, 400_000])
def test_another_length_is_refused(server, cache, length):
    server.content["/one.dat"] = b"x" * length
    with pytest.raises((CorruptFile, DownloadFailed)):
        fetch(made(server), attempts=1)
    assert not (cache / "toy").exists()


@pytest.mark.parametrize("left", [b"y" * 1000, b"y" * 300_000, b"y" * 300_001])
def test_a_wrong_beginning_is_thrown_away(server, cache, left):
    part = cache / ".arriving/toy/one.dat.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(left)
    assert content(fetch(made(server), attempts=1)) == CONTENT


def test_a_damaged_file_in_the_cache_is_mended(server, cache):
    manifest = made(server)
    folder = fetch(manifest)
    (folder / "deep/two.dat").write_bytes(b"z" * 1000)
    (folder / "one.dat").unlink()
    assert {type(fault) for fault in faults(manifest, folder)} == {CorruptFile, MissingData}
    fetch(manifest)
    assert content(folder) == CONTENT
    assert not list(faults(manifest, folder))


def test_two_at_once_fetch_each_file_once(server, cache):
    with ThreadPoolExecutor(4) as pool:
        folders = list(pool.map(lambda _: fetch(made(server)), range(4)))
    assert set(folders) == {cache / "toy"}
    assert content(cache / "toy") == CONTENT
    assert sorted(path for path, _ in server.asked) == ["/deep/two.dat", "/empty.dat", "/one.dat"]


def test_data_in_another_place_are_left_alone(server, cache, tmp_path, monkeypatch):
    monkeypatch.setenv("NIGHTLAB_DATA", str(tmp_path / "mine"))
    (tmp_path / "mine/toy").mkdir(parents=True)
    assert fetch(made(server)) == tmp_path / "mine/toy"
    assert server.asked == []


def test_a_cache_that_cannot_be_written_is_said(server, tmp_path, cache):
    (tmp_path / "nightlab").write_text("a file where the folder should be")
    with pytest.raises(WriteFailed, match="cannot write toy"):
        fetch(made(server))


def test_a_file_without_an_address_is_left_out(server, cache):
    manifest = made(server)
    files = (*manifest.files, DataFile(path="ours.npy", size=3, sha256="0" * 64, url=None))
    folder = fetch(replace(manifest, files=files))
    assert content(folder) == CONTENT


def test_only_web_addresses_are_followed(server, cache, tmp_path):
    (tmp_path / "secret").write_text("abc")
    file = DataFile(path="a", size=3, sha256="0" * 64, url=f"file://{tmp_path}/secret")
    with pytest.raises(DownloadFailed, match="no web address"):
        fetch(Manifest(name="toy", title="", files=(file,)), attempts=1)


def test_an_absent_data_set_says_which_command_fetches_it(cache):
    with pytest.raises(MissingData) as caught:
        locate.data_set("stripe82")
    assert "nightlab catalog fetch sdss-stripe82-demo" in caught.value.hint
