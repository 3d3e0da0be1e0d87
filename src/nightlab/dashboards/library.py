"""The runs one may choose from. Pages know runs by key and can open nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from nightlab.data.runs import Run, repositories, runs_in
from nightlab.errors import MissingData, NightLabError


class Library:
    """Runs by key.

    Parameters
    ----------
    runs
        Those there are.
    folders
        Where to look for more when `refresh` is called.
    """

    def __init__(self, runs: Iterable[Run] = (), folders: Iterable[str | Path] = ()) -> None:
        self.folders = tuple(Path(folder).absolute() for folder in folders)
        self.broken: dict[str, str] = {}
        self._runs: dict[str, Run] = {}
        self._seen: dict[Path, tuple[int, ...]] = {}
        self._add(runs)

    @classmethod
    def below(cls, *folders: str | Path) -> Library:
        """Find all runs of all repositories in some folders."""
        library = cls(folders=folders)
        library.refresh()
        return library

    @classmethod
    def around(cls, run: Run) -> Library:
        """The runs of one repository, `run` first."""
        return cls([run, *(other for other in runs_in(run.repository) if other != run)])

    def refresh(self) -> None:
        """Look again for runs; those known keep their keys, and repositories that are as they were are not opened."""
        for folder in self.folders:
            for repository in repositories(folder):
                state = _state(repository)
                if state and self._seen.get(repository) == state:
                    continue
                try:
                    self._add(runs_in(repository))
                    self._seen[repository] = state
                except NightLabError as error:
                    self.broken[repository.name] = error.message

    def _add(self, runs: Iterable[Run]) -> None:
        known = set(self._runs.values())
        for run in runs:
            if run in known:
                continue
            key, number = run.key, 2
            while key in self._runs:
                key, number = f"{run.folder}~{number}:{run.name}", number + 1
            self._runs[key] = run

    def __getitem__(self, key: str) -> Run:
        if key not in self._runs:
            raise MissingData(
                f"there is no run {key!r} here", hint=f"there are {', '.join(self._runs) or 'none'}", run=key
            )
        return self._runs[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._runs)

    def __len__(self) -> int:
        return len(self._runs)

    def __contains__(self, key: object) -> bool:
        return key in self._runs

    def key_of(self, run: Run | None) -> str:
        """Give the key of a run, which is added when it is new; empty for None."""
        if run is None:
            return ""
        self._add([run])
        return next(key for key, known in self._runs.items() if known == run)

    def repositories(self) -> list[Path]:
        """List the repositories of the runs, and those found in the folders that have no run yet."""
        found = [run.repository for run in self._runs.values()]
        found += [repository for folder in self.folders for repository in repositories(folder)]
        return list(dict.fromkeys(found))


def _state(repository: Path) -> tuple[int, ...]:
    """When the files of a repository's database changed last, and their sizes; empty where there are none."""
    files = [file.stat() for name in ("gen3.sqlite3", "gen3.sqlite3-wal") if (file := repository / name).exists()]
    return tuple(number for file in files for number in (file.st_mtime_ns, file.st_size))
