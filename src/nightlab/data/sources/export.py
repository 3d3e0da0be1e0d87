"""Write a catalogue in the form of intake's second version."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from nightlab.data.sources.catalogue import entries
from nightlab.data.sources.place import Place
from nightlab.data.sources.readers import READERS
from nightlab.errors import BadInput

_TEMPLATE = re.compile(r"\{\{\s*(.*?)\s*\}\}")
_PARAMETERS = "intake.readers.user_parameters"


def export_v2(catalogue: Any) -> str:
    """Write a catalogue, and those nested in it, as one of intake's second version.

    Parameters
    ----------
    catalogue
        As `nightlab.open_catalog` gives it.

    Returns
    -------
    str
        YAML for `intake.from_yaml_file`. Entries keep their full names; parameters are set on the whole catalogue,
        ``catalog(band="g")["stripe82.corrected_frame"].read()``.

    Raises
    ------
    BadInput
        When an entry has a driver that is not ours, or computes something in a template.
    """
    import yaml

    found = {name: _entry(name, entry.describe()) for name, entry in entries(catalogue)}
    document = {
        "version": 2,
        "metadata": {"name": catalogue.name, "description": catalogue.metadata.get("description", "")},
        "user_parameters": {},
        # without this block intake opens the entries and lists none of them
        "aliases": {name: name for name in found},
        "data": {},
        "entries": found,
    }
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=119)


def _entry(name: str, told: Mapping[str, Any]) -> dict[str, Any]:
    driver = told["driver"][0] if told["driver"] else ""
    if driver not in READERS:
        raise BadInput(f"{name} has the driver {driver!r}", hint=f"these can be written: {', '.join(READERS)}")
    reader = READERS[driver]
    options = _translated(name, dict(told["args"]))
    same = sorted(set(options) & {parameter["name"] for parameter in told["user_parameters"]})
    if same:
        # the second version would take the option for a value of the parameter
        raise BadInput(f"{name} calls a parameter and an option {same[0]}", hint="give the parameter another name")
    place = Place(path=options.pop("path", ""), data_set=options.pop("data_set", ""))
    return {
        "reader": reader.qname(),
        "kwargs": {"url": place.url, **options},
        "output_instance": reader.output_instance,
        "metadata": {"description": told["description"], **told["metadata"]},
        "user_parameters": {parameter["name"]: _parameter(parameter) for parameter in told["user_parameters"]},
    }


def _parameter(told: Mapping[str, Any]) -> dict[str, Any]:
    """Parameter as intake's second version keeps it."""
    common = {"default": told.get("default"), "description": told.get("description", ""), "dtype": told["type"]}
    if "allowed" in told:
        return {"cls": f"{_PARAMETERS}:OptionsUserParameter", **common, "options": list(told["allowed"])}
    return {"cls": f"{_PARAMETERS}:SimpleUserParameter", **common}


def _translated(name: str, value: Any) -> Any:
    """Turn ``{{ band }}`` into ``{band}``, in everything there is."""
    if isinstance(value, Mapping):
        return {key: _translated(name, inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_translated(name, inner) for inner in value]
    if not isinstance(value, str):
        return value
    for inside in _TEMPLATE.findall(value):
        if not inside.isidentifier():
            raise BadInput(f"{name} computes {inside!r}", hint="use plain names in templates, and * in paths")
    # the folder of the catalogue ends with a slash in the first version and without one in the second
    return _TEMPLATE.sub(r"{\1}", value.replace("{{ CATALOG_DIR }}", "{CATALOG_DIR}/"))
