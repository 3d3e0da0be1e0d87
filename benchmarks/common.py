"""What the benchmarks share: one thread, CPU seconds, tables of results, and a plain word where a peer is missing."""

from __future__ import annotations

import datetime
import os
import platform
import resource
import shutil
import statistics
import subprocess
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from nightlab.data.locate import data_set
from nightlab.errors import MissingData

REPEATS = 3

# NumPy reads these when it is first imported; nothing above imports it
for _threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(_threads, "1")


def cpu_seconds() -> float:
    """User and system seconds of this process and of the children it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def timed[T](function: Callable[[], T], repeats: int = REPEATS) -> tuple[float, T]:
    """Run `function` `repeats` times: median CPU seconds, and what the last run gave."""
    seconds = []
    for _ in range(repeats):
        begin = cpu_seconds()
        result = function()
        seconds.append(cpu_seconds() - begin)
    return statistics.median(seconds), result


def run(command: Sequence[str | Path], folder: Path, environment: dict[str, str] | None = None) -> str:
    """Run a program quietly; when it fails, show what it said."""
    done = subprocess.run(
        [str(word) for word in command], cwd=folder, capture_output=True, text=True, env=environment, check=False
    )
    if done.returncode:
        raise SystemExit(f"{command[0]} failed with exit code {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return done.stdout + done.stderr


def program(*names: str) -> str | None:
    """Path of the first of `names` that is installed."""
    return next((found for name in names if (found := shutil.which(name))), None)


def skipped(what: str, how: str) -> None:
    print(f"skipped: {what} is not installed, get it with {how}")


def stripe82() -> Path:
    """The Stripe 82 data; without them the benchmark says so and ends well."""
    try:
        return data_set("stripe82")
    except MissingData:
        print("skipped: the Stripe 82 data are not on this machine, get them as docs/data.md says")
        raise SystemExit(0) from None


def version_of(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def heading(title: str, *packages: str, how: str = "") -> None:
    """Say what is measured, when, with which versions, and how."""
    versions = ", ".join(f"{name} {version_of(name)}" for name in ("nightlab", "numpy", *packages))
    print(f"\n{title}")
    today = datetime.datetime.now(datetime.UTC).date()
    print(f"{today}, {os.cpu_count()} cores, Python {platform.python_version()}; {versions}")
    print(f"{how or f'CPU: user + system seconds, one thread, median of {REPEATS} after a warm-up'}\n")


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows under their columns."""
    cells = [[str(c) for c in columns], *[[str(c) for c in row] for row in rows]]
    widths = [max(len(row[k]) for row in cells) for k in range(len(columns))]
    for row in cells:
        print("  ".join([row[0].ljust(widths[0]), *[c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True)]]))


def ratio(what: str, ours: float, theirs: float) -> None:
    print(f"ratio, {what}: {ours:.2f} / {theirs:.2f} s = {ours / theirs:.2f}")
