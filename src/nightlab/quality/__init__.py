"""Numbers with a meaning: gathered over a run, held against their targets, compared with the truth."""

from nightlab.quality.gather import Gathered, gather
from nightlab.quality.recovery import Recovery, recover
from nightlab.quality.verdicts import judge, summarise, verdicts

__all__ = ["Gathered", "Recovery", "gather", "judge", "recover", "summarise", "verdicts"]
