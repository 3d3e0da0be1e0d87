"""What each real data set consists of: its files, their checksums, and the public address of each."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nightlab.data.locate import data_set_name, shipped
from nightlab.errors import BadInput, CorruptFile, MissingData, NightLabError

_BLOCK = 1 << 20  # bytes read at a time


@dataclass(frozen=True, kw_only=True)
class DataFile:
    """One file of a data set.

    Attributes
    ----------
    path
        Where it lies in the folder of the data set.
    size
        Bytes.
    sha256
        Its checksum, as hexadecimal digits.
    url
        Its public address; None for a file that is nowhere offered in this form.
    """

    path: str
    size: int
    sha256: str
    url: str | None


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The files of a data set.

    Attributes
    ----------
    name
        Name of the data set and of its folder.
    title
        One line for people.
    files
        All of them.
    """

    name: str
    title: str
    files: tuple[DataFile, ...]

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(file.size for file in self.files)

    @property
    def digest(self) -> str:
        """One checksum for the whole set: that of all checksums and names, sorted by name."""
        lines = sorted(f"{file.path} {file.sha256}\n" for file in self.files)
        return hashlib.sha256("".join(lines).encode()).hexdigest()


def manifest(name: str) -> Manifest:
    """Manifest of a data set.

    Parameters
    ----------
    name
        Name of the data set, or a short name such as ``stripe82``.

    Raises
    ------
    BadInput
        When no data set is called so; the message lists those there are.
    """
    folder = data_set_name(name)
    if folder not in manifest_names():
        raise BadInput(
            f"no data set is called {name!r}", hint=f"there are {', '.join(manifest_names()) or 'none'}", name=name
        )
    return read_manifest(shipped("catalogs") / "files" / f"{folder}.json")


def manifest_names() -> list[str]:
    """Names of all data sets that can be fetched, sorted."""
    return sorted(path.stem for path in (shipped("catalogs") / "files").glob("*.json"))


def read_manifest(path: Path) -> Manifest:
    """Read a manifest from its file.

    Raises
    ------
    CorruptFile
        When the file is not a manifest, or names a place outside the data set.
    """
    try:
        told = json.loads(path.read_text())
        files = tuple(
            DataFile(
                path=row["path"],
                size=int(row["bytes"]),
                sha256=row["sha256"],
                url=None if source["url"] is None else source["url"] + row.get("there", row["path"]),
            )
            for source in told["sources"]
            for row in source["files"]
        )
        found = Manifest(name=told["name"], title=told["title"], files=files)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CorruptFile(f"{path} is no manifest: {error}", hint="install nightlab again", path=str(path)) from error
    for file in files:
        if Path(file.path).is_absolute() or ".." in Path(file.path).parts:
            raise CorruptFile(f"{path} names {file.path}, outside its data set", hint="mend it", path=str(path))
    return found


def checksum(path: Path) -> str:
    """SHA-256 of a file, as hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def is_right(path: Path, file: DataFile) -> bool:
    """Whether a file on disk is there and has the promised size and checksum."""
    return path.is_file() and path.stat().st_size == file.size and checksum(path) == file.sha256


def faults(of: Manifest, folder: Path) -> Iterator[NightLabError]:
    """Say what is wrong with the files of a data set.

    Parameters
    ----------
    of
        What there should be.
    folder
        Where the data set lies.

    Yields
    ------
    NightLabError
        `MissingData` for a file that is absent, `CorruptFile` for one whose content is another.
    """
    for file in of.files:
        path = folder / file.path
        if not path.is_file():
            yield MissingData(f"{path} is missing", hint=f"nightlab catalog fetch {of.name}", path=str(path))
        elif not is_right(path, file):
            yield CorruptFile(
                f"{path} is not the file that was published (its SHA-256 should be {file.sha256})",
                hint=f"remove it, then nightlab catalog fetch {of.name}",
                path=str(path),
            )
