"""Kill a night again and again, resume it each time, and hold what it ends with against an undisturbed one.

A pipeline run is started as a user would start it, ``nightlab run ApPipe``, and killed with SIGKILL at random moments:
the whole parent, or one of its workers. After each death of a parent there must be no worker left, every registered
dataset must have a complete file, and the same command must go on. At the end all tables must equal, bit for bit,
those of a run that nobody disturbed, and the prompt database must hold every visit once.

    python benchmarks/kill_and_resume.py [--kills 20] [--seed 1] [--survey small] [--folder DIR] [--jobs 2]

Exits with 1 when anything differs, a worker survives its parent, or something half-written is registered.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from nightlab.data.repository import open_repository
from nightlab.pipelines import night
from nightlab.simulate import PRESETS, SurveyConfig, simulate_survey

RUN = "runs/ApPipe"
TABLES = ("source", "dia_source_unassociated", "dia_source", "dia_object", "dia_forced_source")
APDB_TABLES = ("DiaObject", "DiaSource", "DiaForcedSource")
EARLIEST = 0.1  # of the time of a whole night; before it nothing has been imported
GRACE = 10.0  # seconds a worker has to notice that its parent is gone
TINY = SurveyConfig(
    width=320,
    height=320,
    gap=0,
    amp_columns=2,
    n_template=2,
    n_science=3,
    dither=4.0,
    star_density=150.0,
    star_bright=17.0,
    galaxy_density=40.0,
    n_transients=20,
    n_variables=5,
    n_movers=2,
    n_satellites=0,
    cosmic_rays=10.0,
)


def children(parent: int) -> list[int]:
    """Processes that a process started and that still run."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[1]) == parent and fields[0] != "Z":
                found.append(int(stat.parent.name))
    return found


def alive(process: int) -> bool:
    """Whether a process runs; a dead one that nobody has waited for does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def start(repository: Path, jobs: int, log: Path) -> subprocess.Popen[bytes]:
    """Start the command a user would type."""
    command = [sys.executable, "-c", "from nightlab.cli import main; main()", "run", "ApPipe"]
    command += ["--repository", str(repository), "--jobs", str(jobs), "--plain"]
    with log.open("ab") as file:
        return subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)


def products(repository: Path) -> tuple[dict[tuple, dict], list[str], list[str]]:
    """All tables of the run to the last bit, what is wrong with what it has registered, and files of no dataset."""
    found, faults = {}, []
    with open_repository(repository) as butler:
        if RUN not in butler.collections.query("runs/*"):
            return {}, [], []
        files = set()
        for ref in butler.query_all_datasets(RUN, find_first=False, limit=None):
            where = f"{ref.datasetType.name} {dict(ref.dataId.required)}"
            if not butler.stored(ref):
                faults.append(f"{where} is registered and not stored")
                continue
            files.add(butler.getURI(ref).ospath)
            try:
                value = butler.get(ref)
            except Exception as error:
                faults.append(f"{where} cannot be read: {type(error).__name__}: {error}")
                continue
            if ref.datasetType.name in TABLES:
                found[ref.datasetType.name, tuple(ref.dataId.required_values)] = {
                    name: (
                        str(value[name].unit),
                        np.ma.getmaskarray(value[name]).tolist(),
                        np.asarray(value[name]).tolist(),
                    )
                    for name in value.colnames
                }
    stray = [str(file) for file in (repository / RUN).rglob("*") if file.is_file() and str(file) not in files]
    return found, faults, [f"stray file {file}" for file in stray]


def database(repository: Path) -> dict[str, list]:
    """Rows of the prompt database, without the time of processing."""
    rows = {}
    path = repository / "apdb" / "apdb.sqlite3"
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        for table in APDB_TABLES:
            names = [row[1] for row in connection.execute(f'PRAGMA table_info("{table}")')]
            kept = ", ".join(f'"{name}"' for name in names if "rocess" not in name)
            rows[table] = sorted(map(repr, connection.execute(f'SELECT {kept} FROM "{table}"')))
    return rows


def differences(mine: dict[tuple, dict], reference: dict[tuple, dict]) -> list[str]:
    """Name the tables and columns that differ."""
    lines = [f"{key} is in one run only" for key in sorted(mine.keys() ^ reference.keys(), key=str)]
    for key in sorted(mine.keys() & reference.keys(), key=str):
        names = mine[key].keys() | reference[key].keys()
        # repr, since NaN is not equal to itself
        wrong = [name for name in sorted(names) if repr(mine[key].get(name)) != repr(reference[key].get(name))]
        lines += [f"{key} differs in {', '.join(wrong)}"] if wrong else []
    return lines


def kill_one(
    repository: Path, jobs: int, rng: random.Random, longest: float, log: Path
) -> tuple[str, list[str], bool, float]:
    """Start the run, kill it or one of its workers at a random moment, and look at what is left."""
    process = start(repository, jobs, log)
    moment = rng.uniform(EARLIEST, 1.0) * longest
    begin = time.monotonic()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(moment)
    if process.poll() is not None:
        return f"nobody, it had ended with code {process.returncode}", [], True, time.monotonic() - begin
    workers = children(process.pid)
    faults = []
    if workers and rng.random() < 0.4:
        victim = rng.choice(workers)
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL)
        code = process.wait(600)
        faults += [f"the run ended with code {code} after a worker was killed"] if code else []
        return f"a worker at {moment:5.1f} s, the run went on to the end", faults, True, time.monotonic() - begin
    process.send_signal(signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + GRACE
    while any(map(alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    faults += [f"worker {worker} outlived its parent" for worker in workers if alive(worker)]
    return f"the parent at {moment:5.1f} s, with {len(workers)} workers", faults, False, time.monotonic() - begin


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--survey", choices=["tiny", "small"], default="tiny")
    parser.add_argument("--folder", type=Path, help="kept afterwards; a temporary one when absent")
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    folder = (options.folder or Path(tempfile.mkdtemp(prefix="kill_and_resume_"))).absolute()
    try:
        return trial(folder, TINY if options.survey == "tiny" else PRESETS["small"], options)
    finally:
        if options.folder is None:
            shutil.rmtree(folder)


def trial(folder: Path, config: SurveyConfig, options: argparse.Namespace) -> int:
    rng = random.Random(options.seed)
    base, undisturbed, repository = folder / "base", folder / "undisturbed", folder / "repository"
    log = folder / "log.txt"
    if not base.exists():
        simulate_survey(folder / "survey", config)
        night.run("Templates", "simulated", base, survey=folder / "survey", jobs=1).report.check()
    shutil.rmtree(undisturbed, ignore_errors=True)
    shutil.copytree(base, undisturbed)
    begin = time.monotonic()
    if start(undisturbed, options.jobs, log).wait():
        print(f"the undisturbed run failed, see {log}")
        return 1
    longest = time.monotonic() - begin
    reference, faults, stray = products(undisturbed)
    stored = database(undisturbed)
    print(
        f"undisturbed: {len(reference)} tables, {sum(map(len, stored.values()))} rows in the database, {longest:.0f} s"
    )

    trouble = [*faults, *stray]
    kills = rounds = 0
    shutil.rmtree(repository, ignore_errors=True)
    while True:
        if not repository.exists():
            shutil.copytree(base, repository)
        if kills < options.kills:
            what, faults, ended, _ = kill_one(repository, options.jobs, rng, longest, log)
            kills += "had ended" not in what
        else:
            code = start(repository, options.jobs, log).wait()
            what, ended = "nobody", True
            faults = [f"the last run ended with code {code}"] if code else []
        found, more, stray = products(repository)
        faults += more
        there = f"{len(found)} of {len(reference)} tables there, {len(stray)} unfinished files"
        print(f"[{kills:2d}/{options.kills}] killed {what}; {there}")
        if ended:
            rounds += 1
            faults += [*stray, *differences(found, reference)]
            faults += [
                f"{name} of the database differs"
                for name, rows in database(repository).items()
                if rows != stored[name]
            ]
            print(f"        night {rounds} ended: {'identical' if not faults else 'NOT identical'}")
            shutil.rmtree(repository)
        for fault in faults:
            print(f"        {fault}")
        sys.stdout.flush()
        trouble += faults
        if kills >= options.kills and ended:
            break
    print(f"{kills} kills over {rounds} nights: {'identical' if not trouble else f'{len(trouble)} things wrong'}")
    return bool(trouble)


if __name__ == "__main__":
    sys.exit(main())
