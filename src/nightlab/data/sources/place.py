"""Where the files of a catalogue entry are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nightlab.data.locate import data_set
from nightlab.errors import BadInput, MissingData

SCHEME = "nightlab://"


@dataclass(frozen=True, kw_only=True)
class Place:
    """A file, or several, of a data set or anywhere on disk.

    Attributes
    ----------
    path
        Path within the data set, or on disk when `data_set` is empty; may hold ``*`` where only one file fits.
    data_set
        Name of a real data set.
    made_by
        Command that makes the file, where it is a product.
    """

    path: str
    data_set: str = ""
    made_by: str = ""

    @classmethod
    def of(cls, url: str, made_by: str = "") -> Place:
        """Place that ``nightlab://<data set>/<path>``, or a plain path, names."""
        if not url.startswith(SCHEME):
            return cls(path=url.removeprefix("file://"), made_by=made_by)
        name, _, path = url.removeprefix(SCHEME).partition("/")
        return cls(path=path, data_set=name, made_by=made_by)

    @property
    def url(self) -> str:
        """The place as one word, the inverse of `of`."""
        return f"{SCHEME}{self.data_set}/{self.path}" if self.data_set else self.path

    def files(self, pattern: str = "") -> list[Path]:
        """Files that fit, sorted.

        Parameters
        ----------
        pattern
            Another path than `path` in the same place.

        Raises
        ------
        MissingData
            When the data set is not on this machine, or no file fits.
        """
        pattern = pattern or self.path
        root = data_set(self.data_set) if self.data_set else Path.cwd()
        whole = Path(pattern).expanduser()
        if whole.is_absolute():
            root, pattern = Path(whole.anchor), str(whole.relative_to(whole.anchor))
        found = sorted(root.glob(pattern)) if "*" in pattern or "?" in pattern else [root / pattern]
        found = [path for path in found if path.exists()]
        if not found:
            raise MissingData(f"there is no {root / pattern}", hint=self._way_out(), path=str(root / pattern))
        return found

    def file(self, pattern: str = "") -> Path:
        """The one file that fits.

        Raises
        ------
        MissingData
            As `files`.
        BadInput
            When several fit.
        """
        found = self.files(pattern)
        if len(found) > 1:
            raise BadInput(
                f"{len(found)} files fit {pattern or self.path}",
                hint=f"name one, such as {found[0].name}",
                found=len(found),
            )
        return found[0]

    def _way_out(self) -> str:
        if self.made_by:
            return f"make it: {self.made_by}"
        return f"nightlab catalog fetch {self.data_set}" if self.data_set else "check the path"
