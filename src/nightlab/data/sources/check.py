"""Look after the entries of a catalogue: where their data are, and whether each can be opened."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from nightlab.data.locate import data_set, data_set_name
from nightlab.data.manifests import faults, manifest, manifest_names
from nightlab.data.sources.catalogue import entries
from nightlab.data.sources.place import Place
from nightlab.errors import BadInput, CorruptFile, MissingData, NightLabError


class State(StrEnum):
    """How an entry is."""

    OK = "ok"
    TO_FETCH = "to fetch"  # its data set is not on this machine
    TO_MAKE = "to make"  # a product that no run has made yet
    DAMAGED = "damaged"  # a checksum is wrong, or a file cannot be read
    FAILED = "failed"  # anything else


@dataclass(frozen=True, kw_only=True)
class Listed:
    """One entry.

    Attributes
    ----------
    name
        Full name, ``stripe82.corrected_frame``.
    state
        Whether its data are here; once checked, whether it opens.
    gives
        Kind of object.
    units
        Units of it.
    parameters
        What can be chosen, by name: the allowed values, or the type.
    data_set
        Real data set it is read from; empty for products.
    description
        For people.
    note
        What is wrong.
    """

    name: str
    state: State
    gives: str
    units: str
    parameters: dict[str, str]
    data_set: str
    description: str
    note: str = ""


def listed(catalogue: Any, names: Sequence[str] = (), *, read: bool = False) -> Iterator[Listed]:
    """Tell of the entries of a catalogue.

    Parameters
    ----------
    catalogue
        As `nightlab.open_catalog` gives it.
    names
        Entries, or catalogues nested in it, such as ``stripe82``; all when empty.
    read
        Whether to read each entry with its default parameters, and to verify the checksums of the data sets.

    Yields
    ------
    Listed
        In the order of the catalogue.

    Raises
    ------
    BadInput
        When a name fits nothing.
    """
    found = [(name, entry) for name, entry in entries(catalogue) if _wanted(name, names)]
    for name in names:
        if not any(_wanted(entry, [name]) for entry, _ in found):
            raise BadInput(
                f"the catalogue has no {name!r}", hint="nightlab catalog list names what there is", name=name
            )
    whole: dict[str, NightLabError | None] = {}
    for name, entry in found:
        told = entry.describe()
        source = entry()
        # a catalogue of somebody's own may have drivers that are not ours
        place = getattr(source, "place", Place(path=""))
        try:
            if read:
                _verify(place.data_set, whole)
                source.read()
            elif place.path:
                place.files()
            state, note = State.OK, ""
        except MissingData as error:
            state, note = (State.TO_MAKE if place.made_by else State.TO_FETCH), str(error)
        except CorruptFile as error:
            state, note = State.DAMAGED, str(error)
        except Exception as error:  # whatever an entry stumbles over, the others are to be told of
            state, note = State.FAILED, f"{type(error).__name__}: {error}"
        yield Listed(
            name=name,
            state=state,
            gives=str(told["metadata"].get("gives", "")),
            units=str(told["metadata"].get("units", "")),
            parameters={parameter["name"]: _choice(parameter) for parameter in told["user_parameters"]},
            data_set=place.data_set,
            description=told["description"],
            note=note,
        )


def data_sets(names: Sequence[str], catalogue: Any) -> list[str]:
    """Data sets that names stand for.

    Parameters
    ----------
    names
        Of data sets, of entries, or of nested catalogues; all data sets when empty.
    catalogue
        Where entries are looked up.

    Raises
    ------
    BadInput
        When a name is none of these, or needs no data set.
    """
    known = manifest_names()
    if not names:
        return known
    found: list[str] = []
    for name in names:
        if data_set_name(name) in known:
            found.append(data_set_name(name))
            continue
        needed = [row.data_set for row in listed(catalogue, [name]) if row.data_set]
        if not needed:
            raise BadInput(f"{name} needs no data set", hint="it is made here: nightlab catalog list", name=name)
        found += needed
    return list(dict.fromkeys(found))


def _wanted(name: str, names: Sequence[str]) -> bool:
    return not names or any(name == wanted or name.startswith(f"{wanted}.") for wanted in names)


def _verify(name: str, whole: dict[str, NightLabError | None]) -> None:
    """Raise the first fault of a data set; each set is looked through once."""
    if not name:
        return
    if name not in whole:
        folder = data_set(name)
        whole[name] = next(faults(manifest(name), folder), None)
    fault = whole[name]
    if fault is not None:
        raise fault


def _choice(parameter: dict[str, Any]) -> str:
    if "allowed" in parameter:
        values = [str(value) for value in parameter["allowed"]]
        return " ".join(values) if len(values) <= 8 else f"{' '.join(values[:2])} ... {values[-1]} ({len(values)})"
    return str(parameter["type"])
