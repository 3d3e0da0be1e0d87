"""Fetch a real data set from its public address into the user's cache: resumable, verified, whole or not at all."""

from __future__ import annotations

import fcntl
import http.client
import os
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from nightlab.data.locate import cache_folder, known_places
from nightlab.data.manifests import DataFile, Manifest, is_right, manifest
from nightlab.errors import CorruptFile, DownloadFailed, WriteFailed

_BLOCK = 1 << 16  # bytes between two events
_TIMEOUT = 30.0  # s without a byte
_LATER = (408, 429, 500, 502, 503, 504)  # answers that may be another in a moment


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """How far a download has come.

    Attributes
    ----------
    data_set
        Name of the data set.
    path
        File being fetched, or just looked at.
    done, total
        Bytes of the whole data set that are on disk, and that there are.
    """

    data_set: str
    path: str
    done: int
    total: int


type Listener = Callable[[Fetched], None]


def fetch(
    data_set: str | Manifest,
    *,
    listener: Listener | None = None,
    attempts: int = 3,
    timeout: float = _TIMEOUT,
) -> Path:
    """Make sure a data set is on this machine, and fetch into the user's cache what is not.

    Files arrive beside their place and move there when their checksum is right; the folder of the data set appears
    when all of them have. What was interrupted goes on where it stopped. Several processes may fetch one data set at
    once: one works, the others wait for it.

    Parameters
    ----------
    data_set
        Its name, or its manifest.
    listener
        Is told of every step.
    attempts
        How often a connection that breaks is tried.
    timeout
        How long to wait for the next byte [s].

    Returns
    -------
    Path
        Folder of the data set. One that is already in another place is left alone and returned.

    Raises
    ------
    BadInput
        When no data set is called so.
    DownloadFailed
        When an address does not answer, or refuses.
    CorruptFile
        When what arrived is not what was published; it is removed.
    WriteFailed
        When the cache cannot be written.
    """
    wanted = data_set if isinstance(data_set, Manifest) else manifest(data_set)
    cache = cache_folder()
    for place in known_places(wanted.name):
        if place is not None and place.is_dir() and place.parent != cache:
            return place
    try:
        with _alone(cache, wanted.name):
            return _fill(wanted, cache, _Reporter(wanted, listener), attempts, timeout)
    except (CorruptFile, DownloadFailed):
        raise
    except OSError as error:
        raise WriteFailed(
            f"cannot write {wanted.name} into {cache}: {error.strerror or error}",
            hint="make room, or set XDG_CACHE_HOME to a folder that can be written",
            path=str(cache),
        ) from error


def _fill(wanted: Manifest, cache: Path, report: _Reporter, attempts: int, timeout: float) -> Path:
    """Complete the folder of a data set; a new one is filled out of sight and moved into place at the end."""
    final = cache / wanted.name
    folder = final if final.is_dir() else cache / ".arriving" / wanted.name
    for file in wanted.files:
        # a file of our own making (no address) cannot be fetched; the set is as whole as it can be without it
        if file.url is not None and not is_right(folder / file.path, file):
            _fetch_file(file, folder / file.path, report, attempts, timeout)
        report.finish(file)
    if folder != final:
        os.replace(folder, final)
    return final


def _fetch_file(file: DataFile, path: Path, report: _Reporter, attempts: int, timeout: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    resumed = part.is_file()
    _download(file, part, report, attempts, timeout)
    if not is_right(part, file) and resumed:
        # what an earlier attempt left was not the beginning of this file
        part.unlink()
        _download(file, part, report, attempts, timeout)
    if not is_right(part, file):
        size = part.stat().st_size
        part.unlink()
        raise CorruptFile(
            f"{file.url} is not the file that was published: {size} bytes, {file.size} were due, or another content",
            hint="it was removed; try again later, the address may have been answered by something in between",
            url=file.url,
        )
    os.replace(part, path)


def _download(file: DataFile, part: Path, report: _Reporter, attempts: int, timeout: float) -> None:
    """Bring a partial file to its full length, going on where the connection broke."""
    reason = ""
    for attempt in range(attempts):
        try:
            _receive(file, part, report, timeout)
            return
        except urllib.error.HTTPError as error:
            error.close()
            reason = f"{error.code} {error.reason}"
            if error.code == 416:  # we have more than there is
                part.unlink()
            elif error.code not in _LATER:
                break
        except (
            urllib.error.URLError,
            http.client.HTTPException,
            ConnectionError,
            TimeoutError,
            ssl.SSLError,
        ) as error:
            reason = str(getattr(error, "reason", "") or error or type(error).__name__)
        if attempt + 1 < attempts:
            time.sleep(0.5 * 2**attempt)
    raise DownloadFailed(
        f"cannot fetch {file.url}: {reason}",
        hint="the same command goes on from here; without a network, copy the data set and set NIGHTLAB_DATA",
        url=file.url,
    )


def _receive(file: DataFile, part: Path, report: _Reporter, timeout: float) -> None:
    have = part.stat().st_size if part.is_file() else 0
    if part.is_file() and have == file.size:
        return
    if have > file.size:
        part.unlink()
        have = 0
    if file.url is None or not file.url.startswith(("http://", "https://")):
        raise DownloadFailed(f"{file.url} is no web address", hint="mend the manifest", url=file.url)
    request = urllib.request.Request(file.url, headers={"User-Agent": "nightlab"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    with urllib.request.urlopen(request, timeout=timeout) as answer:
        # 200 where 206 was asked for: the server knows no ranges and begins anew
        goes_on = answer.status == 206
        have = have if goes_on else 0
        with part.open("ab" if goes_on else "wb") as stream:
            while block := answer.read(_BLOCK):
                stream.write(block)
                have += len(block)
                report.advance(file, have)
                if have > file.size:
                    break
    if have < file.size:
        raise http.client.IncompleteRead(b"", file.size - have)


class _Reporter:
    """Adds up what is on disk."""

    def __init__(self, wanted: Manifest, listener: Listener | None) -> None:
        self.wanted, self.listener, self.before = wanted, listener, 0

    def advance(self, file: DataFile, have: int) -> None:
        if self.listener is not None:
            done = self.before + min(have, file.size)
            self.listener(Fetched(data_set=self.wanted.name, path=file.path, done=done, total=self.wanted.size))

    def finish(self, file: DataFile) -> None:
        self.advance(file, file.size)
        self.before += file.size


@contextmanager
def _alone(cache: Path, name: str) -> Iterator[None]:
    """Keep others away from a data set while it is filled; a process that dies lets go of it."""
    folder = cache / ".arriving"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{name}.lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
