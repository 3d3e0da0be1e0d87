"""Catalogues: YAML files that name what can be opened, and errors that say what was typed wrong."""

from __future__ import annotations

import copy
import difflib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from intake.catalog.exceptions import CatalogException
from intake.catalog.local import LocalCatalogEntry, YAMLFileCatalog

from nightlab.data.locate import shipped
from nightlab.errors import BadInput, CorruptFile, MissingData, NightLabError


class Entry(LocalCatalogEntry):
    """An entry that refuses wrong parameters at once and in words of ours."""

    def get(self, **values: Any) -> Any:
        """Make the source of the entry.

        Parameters
        ----------
        **values
            Parameters of the entry.

        Raises
        ------
        BadInput
            When the entry has no such parameter, or the value is not allowed.
        """
        known = {parameter.name for parameter in self._user_parameters}
        strange = sorted(set(values) - known - set(self._open_args) - {"metadata", "name"})
        if strange:
            raise BadInput(
                f"{self.name} has no parameter {', '.join(strange)}",
                hint=f"it has {', '.join(sorted(known)) or 'none'}",
                entry=self.name,
            )
        with warnings.catch_warnings():
            # said of every text parameter, whether it is a shell command or not
            warnings.filterwarnings("ignore", message="Shell command not executed")
            try:
                return super().get(**values)
            except NightLabError:
                raise
            except (ValueError, TypeError, SyntaxError) as error:
                raise BadInput(f"{self.name}: {error}", hint=self._allowed(), entry=self.name) from error

    def _allowed(self) -> str:
        told = []
        for parameter in self._user_parameters:
            if parameter.allowed:
                told.append(f"{parameter.name} is one of {', '.join(map(str, parameter.allowed))}")
            else:
                low, high = parameter.min, parameter.max
                told.append(f"{parameter.name} is {parameter.type}" + (f" from {low} to {high}" if high else ""))
        return "; ".join(told)


class Catalogue(YAMLFileCatalog):
    """A catalogue in a YAML file, whose entries are ours."""

    name = "nightlab_catalog"

    def parse(self, text: str) -> None:
        """Read the entries of the file."""
        super().parse(text)
        for name, entry in self._entries.items():
            ours = copy.copy(entry)
            ours.__class__ = Entry
            self._entries[name] = ours

    def __getitem__(self, key: Any) -> Any:
        """Entry of a name; dots lead into nested catalogues."""
        if not isinstance(key, str) or key in self._entries:
            return super().__getitem__(key)
        first, dot, rest = key.partition(".")
        if dot and first in self._entries:
            return super().__getitem__(first)[rest]
        near = difflib.get_close_matches(first, list(self), 3) or sorted(self)
        raise NoSuchEntry(f"{self.name} has no entry {key!r}", hint=f"it has {', '.join(near)}", entry=key)


class NoSuchEntry(BadInput, KeyError):
    """No entry of a catalogue is called so."""


def open_catalog(name: str | Path = "nightlab") -> Catalogue:
    """Open a catalogue.

    Parameters
    ----------
    name
        ``nightlab`` for everything there is, the name of one of its parts such as ``stripe82``, or the path of a YAML
        file of your own in the form of intake's first version.

    Returns
    -------
    intake.catalog.Catalog
        ``catalog["stripe82.corrected_frame"](band="g").read()``, or ``catalog.stripe82.corrected_frame``.

    Raises
    ------
    MissingData
        When there is no such file.
    CorruptFile
        When the file is not a catalogue.
    BadInput
        When no catalogue is called so; the message lists those there are.
    """
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        folder = shipped("catalogs")
        known = sorted(file.stem for file in folder.glob("*.yaml"))
        if str(name) not in known:
            raise BadInput(f"no catalogue is called {str(name)!r}", hint=f"there are {', '.join(known)}")
        path = folder / f"{name}.yaml"
    if not path.is_file():
        raise MissingData(f"there is no catalogue {path}", hint="check the path", path=str(path))
    try:
        return Catalogue(path=str(path))
    except (CatalogException, yaml.YAMLError) as error:
        raise CorruptFile(f"{path} is no catalogue: {error}", hint="mend the file", path=str(path)) from error


def entries(catalogue: Any, prefix: str = "") -> Iterator[tuple[str, LocalCatalogEntry]]:
    """List the entries of a catalogue and of those nested in it.

    Parameters
    ----------
    catalogue
        As `open_catalog` gives it.
    prefix
        What names begin with.

    Yields
    ------
    (str, entry)
        Full name, ``stripe82.corrected_frame``, and the entry: `describe` tells about it, calling it makes its source.
    """
    for name, entry in catalogue._get_entries().items():
        if entry.describe()["container"] == "catalog":
            yield from entries(entry(), f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", entry
