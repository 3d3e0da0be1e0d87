"""Numbers with a meaning: gathered over a run, held against their targets and against other runs, sent elsewhere."""

from nightlab.quality.compare import compare_runs, jumps, only_in
from nightlab.quality.export import export_metrics, text_of
from nightlab.quality.gather import Gathered, gather
from nightlab.quality.merge import by_room, merge_runs, stamp, tidy
from nightlab.quality.recovery import Recovery, recover
from nightlab.quality.series import Statistic, per_detector, series
from nightlab.quality.verdicts import bounds, judge, summarise, target_text, unmatched, verdicts
from nightlab.quality.verify import verify_job
from nightlab.specs import LEVELS, Level, Spec, house_specs, load_specs

__all__ = [
    "LEVELS",
    "Gathered",
    "Level",
    "Recovery",
    "Spec",
    "Statistic",
    "bounds",
    "by_room",
    "compare_runs",
    "export_metrics",
    "gather",
    "house_specs",
    "judge",
    "jumps",
    "load_specs",
    "merge_runs",
    "only_in",
    "per_detector",
    "recover",
    "series",
    "stamp",
    "summarise",
    "target_text",
    "text_of",
    "tidy",
    "unmatched",
    "verdicts",
    "verify_job",
]
