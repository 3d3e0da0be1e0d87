"""Numbers with a meaning: gathered over a run, held against their targets, compared with the truth."""

from nightlab.metrics.gather import Gathered, gather
from nightlab.metrics.recovery import Recovery, recover
from nightlab.metrics.verdicts import judge, summarise, verdicts

__all__ = ["Gathered", "Recovery", "gather", "judge", "recover", "summarise", "verdicts"]
