"""What the shell can complete: pipelines and their stages, stages, entries of the catalogue.

Names are read from the files that define them, without importing what these are for: a shell does not wait.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import yaml

from nightlab.data.locate import shipped

#: Entries that pipelines run on, as `nightlab.data.catalogs.ENTRIES` has them.
DATA = ("simulated", "stripe82")


def pipelines(incomplete: str) -> list[str]:
    """Complete ``ApPipe``, and after a ``#`` the stages and subsets of it."""
    known = {path.stem: path for path in sorted(shipped("pipelines").glob("*.yaml"))}
    name, part, _ = incomplete.partition("#")
    if not part:
        return _fitting(known, incomplete)
    told = yaml.safe_load(known[name].read_text()) if name in known else {}
    labels = [*told.get("tasks", {}), *told.get("subsets", {})]
    return _fitting([f"{name}#{label}" for label in labels], incomplete)


def stages(incomplete: str) -> list[str]:
    """Complete the name of a stage."""
    from nightlab.pipelines.table import STAGES

    return _fitting(STAGES, incomplete)


def data(incomplete: str) -> list[str]:
    """Complete the name of data for pipelines."""
    return _fitting(DATA, incomplete)


def catalogues(incomplete: str) -> list[str]:
    """Complete the name of a catalogue of ours."""
    return _fitting(sorted(path.stem for path in shipped("catalogs").glob("*.yaml")), incomplete)


def entries(incomplete: str) -> list[str]:
    """Complete ``stripe82``, and after a dot the entries of that part."""
    parts = _sources("nightlab")
    if "." not in incomplete:
        return _fitting(parts, incomplete)
    return _fitting([f"{part}.{name}" for part in parts for name in _sources(part)], incomplete)


def data_sets(incomplete: str) -> list[str]:
    """Complete the name of a data set, or of an entry."""
    manifests = sorted(path.stem for path in (shipped("catalogs") / "files").glob("*.json"))
    return [*_fitting(manifests, incomplete), *entries(incomplete)]


def _sources(catalogue: str) -> dict[str, Any]:
    told: dict[str, Any] = yaml.safe_load((shipped("catalogs") / f"{catalogue}.yaml").read_text())["sources"]
    return told


def _fitting(names: Iterable[str], incomplete: str) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]
