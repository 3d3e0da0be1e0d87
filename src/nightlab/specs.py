"""What each metric has to reach, as data: the thresholds of `specs.yaml` and the sides they bound."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

from nightlab.errors import BadInput, MissingData

Level = Literal["minimum", "design", "stretch"]
Sense = Literal["lower", "higher", "near", "none"]

LEVELS: tuple[Level, ...] = get_args(Level)
HOUSE = Path(__file__).with_name("specs.yaml")

_KNOWN = {"sense", "unit", "target", "why", *LEVELS}


@dataclass(frozen=True, kw_only=True)
class Spec:
    """The thresholds of one metric.

    Attributes
    ----------
    metric
        Full name, ``room.metric``.
    sense
        ``lower``: at most the threshold is good; ``higher``: at least; ``near``: within the threshold of `target`.
    unit
        Astropy unit string of the thresholds; that of the metric.
    minimum, design, stretch
        Thresholds: the work is usable, the work is good, as good as the method can be.
    target
        Middle of the good interval for ``near``; NaN otherwise.
    why
        One sentence: what goes wrong otherwise, or where the numbers come from.
    """

    metric: str
    sense: Sense
    minimum: float
    design: float
    stretch: float
    target: float = math.nan
    unit: str = ""
    why: str = ""

    def threshold(self, level: Level = "minimum") -> float:
        """Give the threshold of a level."""
        return float(getattr(self, level))

    def limits(self, level: Level = "minimum") -> tuple[float, float]:
        """Give the good interval of a level, infinite where it is open."""
        edge = self.threshold(level)
        match self.sense:
            case "lower":
                return -math.inf, edge
            case "higher":
                return edge, math.inf
        return self.target - edge, self.target + edge

    def attrs(self, level: Level = "minimum") -> dict[str, Any]:
        """Give what rides on an array: sense, target and tolerance."""
        edge = self.threshold(level)
        if self.sense == "near":
            return {"target": self.target, "sense": self.sense, "tolerance": edge}
        return {"target": edge, "sense": self.sense, "tolerance": math.nan}


@cache
def house_specs() -> Mapping[str, Spec]:
    """Give the specs of the house, by full metric name."""
    return load_specs(HOUSE)


def load_specs(path: str | Path) -> dict[str, Spec]:
    """Read specs from a YAML file of the form of `specs.yaml`.

    Parameters
    ----------
    path
        The file.

    Raises
    ------
    MissingData
        When there is none.
    BadInput
        When an entry is incomplete, has an unknown key, or its levels do not get harder from minimum to stretch.
    """
    import yaml

    path = Path(path)
    if not path.is_file():
        raise MissingData(f"there are no specs at {path}", hint=f"those of the house are in {HOUSE}", path=str(path))
    try:
        entries = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} is not YAML: {error}", hint=f"see {HOUSE} for the form", path=str(path)) from error
    if not isinstance(entries, dict):
        raise BadInput(f"{path} holds no specs by metric name", hint=f"see {HOUSE} for the form", path=str(path))
    return {str(name): _spec(str(name), entry, path) for name, entry in entries.items()}


def _spec(name: str, entry: Any, path: Path) -> Spec:
    def bad(what: str) -> BadInput:
        return BadInput(f"spec {name} in {path}: {what}", hint=f"see {HOUSE} for the form", path=str(path))

    if not isinstance(entry, dict):
        raise bad("is not a mapping")
    if unknown := sorted(set(map(str, entry)) - _KNOWN):
        raise bad(f"unknown key {', '.join(unknown)}")
    sense = entry.get("sense")
    if sense not in ("lower", "higher", "near"):
        raise bad(f"sense is {sense!r}; it must be lower, higher or near")
    numbers = (*LEVELS, "target") if sense == "near" else LEVELS
    for key in numbers:
        if isinstance(entry.get(key), bool) or not isinstance(entry.get(key), int | float):
            raise bad(f"{key} is {entry.get(key)!r}; it must be a number")
    if sense != "near" and "target" in entry:
        raise bad("a target belongs to the sense near only")
    edges = [float(entry[level]) for level in LEVELS]
    if sorted(edges, reverse=sense != "higher") != edges:
        raise bad("the levels must get harder from minimum over design to stretch")
    if sense == "near" and edges[-1] < 0:
        raise bad("a half width cannot be negative")
    return Spec(
        metric=name,
        sense=sense,
        minimum=edges[0],
        design=edges[1],
        stretch=edges[2],
        target=float(entry.get("target", math.nan)),
        unit=str(entry.get("unit", "")),
        why=str(entry.get("why", "")),
    )
