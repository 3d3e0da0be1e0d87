"""Whether all that NightLab stands on is there, and what to do where it is not."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import typer

from nightlab.cli.common import FAILED, JsonOption, show
from nightlab.errors import MissingData

Verdict = Literal["ok", "note", "problem"]

MEMORY_NEEDED = 2.0  # GB; the demonstration fits
DISK_NEEDED = 1.0  # GB
EXTENSIONS = {  # of the browser: name -> the package that brings it
    "@pyviz/jupyterlab_pyviz": "pyviz_comms",
    "@bokeh/jupyter_bokeh": "jupyter_bokeh",
    "@jupyter-widgets/jupyterlab-manager": "ipywidgets",
    "@jupyterhub/jupyter-server-proxy": "jupyter-server-proxy",
}
SERVER_EXTENSIONS = ("jupyterlab", "jupyter_server_proxy")
RESOURCES = {"bokeh": "server/static/js/bokeh.min.js", "panel": "dist/panel.min.js"}
NOTEBOOKS = "pip install 'nightlab[notebooks]'"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes
    ----------
    what
        Its name.
    verdict
        ``ok``; ``note``, which limits what can be done; ``problem``, which breaks what is installed.
    found
        What there is.
    to_do
        What to do about it; empty when nothing is.
    """

    what: str
    verdict: Verdict
    found: str
    to_do: str = ""


def doctor(as_json: JsonOption = False) -> None:
    """Look at versions, JupyterLab, browser resources, memory, cache and data, and say what to do."""
    from astropy.table import Table

    findings = list(examine())
    rows = [(f.what, f.verdict, f.found, f.to_do) for f in findings]
    show(Table(rows=rows, names=("what", "verdict", "found", "to do")), as_json=as_json)
    problems = sum(finding.verdict == "problem" for finding in findings)
    if not as_json:
        print(f"\n{problems} of {len(findings)} need mending" if problems else "\nall is well")
    if problems:
        raise typer.Exit(FAILED)


def examine() -> Iterator[Finding]:
    """Yield everything `doctor` looks at, one by one."""
    yield from _versions()
    yield from _jupyter()
    yield from _browser()
    yield from _machine()
    yield from _data()


def _versions() -> Iterator[Finding]:
    """Hold what is installed against what NightLab asks for."""
    import platform

    from packaging.requirements import Requirement

    yield Finding("nightlab", "ok", f"{metadata.version('nightlab')} on Python {platform.python_version()}")
    wrong, fine = [], {}
    for line in metadata.requires("nightlab") or []:
        requirement = Requirement(line)
        extra = requirement.marker is not None and not requirement.marker.evaluate({"extra": ""})
        if extra and not requirement.marker.evaluate({"extra": "notebooks"}):  # type: ignore[union-attr]
            continue
        try:
            installed = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            if not extra:
                wrong.append((requirement, "absent"))
            continue
        if requirement.specifier.contains(installed, prereleases=True):
            fine[requirement.name] = installed
        else:
            wrong.append((requirement, installed))
    shown = [f"{name} {fine[name]}" for name in ("panel", "bokeh", "lsst-daf-butler", "lsst-images") if name in fine]
    yield Finding("packages", "ok", f"{len(fine)} as asked for: {', '.join(shown)}, ...")
    for requirement, there in wrong:
        asked = f"{requirement.name}{requirement.specifier}"
        yield Finding(requirement.name, "problem", there, f"pip install '{asked}'")


def _jupyter() -> Iterator[Finding]:
    """Look at JupyterLab, its extensions, and under which path it is served."""
    if find_spec("jupyterlab") is None:
        yield Finding("JupyterLab", "note", "absent; commands and pages work without it", NOTEBOOKS)
        return
    from jupyter_core.paths import jupyter_config_path, jupyter_path

    yield Finding("JupyterLab", "ok", metadata.version("jupyterlab"))
    for name, package in EXTENSIONS.items():
        if any((Path(folder) / name / "package.json").is_file() for folder in jupyter_path("labextensions")):
            yield Finding(name, "ok", "installed")
        else:
            yield Finding(name, "problem", "absent", f"pip install --force-reinstall {package}")
    enabled = _server_extensions(jupyter_config_path())
    for name in SERVER_EXTENSIONS:
        if enabled.get(name):
            yield Finding(f"server extension {name}", "ok", "enabled")
        elif find_spec(name) is None:
            yield Finding(f"server extension {name}", "note", "absent; no pages inside JupyterLab", NOTEBOOKS)
        else:
            how = f"jupyter server extension enable {name} --sys-prefix"
            yield Finding(f"server extension {name}", "problem", "disabled", how)
    yield from _kernel(jupyter_path("kernels"))
    yield from _base_path()


def _server_extensions(folders: list[str]) -> dict[str, bool]:
    """Give what the configuration says of every server extension, the folder named first having the last word."""
    enabled: dict[str, bool] = {}
    for folder in reversed(folders):
        config = Path(folder)
        for path in (*sorted(config.glob("jupyter_server_config.d/*.json")), config / "jupyter_server_config.json"):
            if path.is_file():
                enabled |= json.loads(path.read_text()).get("ServerApp", {}).get("jpserver_extensions", {})
    return enabled


def _kernel(folders: list[str]) -> Iterator[Finding]:
    """Look for the kernel the notebooks ask for."""
    found = [Path(folder) / "python3" for folder in folders if (Path(folder) / "python3/kernel.json").is_file()]
    if found:
        yield Finding("kernel python3", "ok", str(found[0]))
    else:
        yield Finding("kernel python3", "problem", "absent", "python -m ipykernel install --sys-prefix")


def _base_path() -> Iterator[Finding]:
    """Say under which path JupyterLab is served: by a hub, or by what runs here."""
    prefix = os.environ.get("JUPYTERHUB_SERVICE_PREFIX", "")
    if prefix:
        yield Finding("base path", "ok", f"{prefix}, of the hub; pages are at {prefix}nightlab/")
        return
    from jupyter_server.serverapp import list_running_servers

    running = [server["url"] for server in list_running_servers()]
    told = ", ".join(running) if running else "no JupyterLab is running; it would be served at /"
    yield Finding("base path", "ok", told)


def _browser() -> Iterator[Finding]:
    """Check that what browsers load comes with the packages, so that no network is needed."""
    for package, file in RESOURCES.items():
        spec = find_spec(package)
        there = spec is not None and spec.origin and (Path(spec.origin).parent / file).is_file()
        if there:
            yield Finding(f"{package} in the browser", "ok", "served from here, no network needed")
        else:
            how = f"pip install --force-reinstall {package}"
            yield Finding(f"{package} in the browser", "problem", f"{file} is absent", how)


def _machine() -> Iterator[Finding]:
    """Look at processors, memory, disk and cache."""
    from nightlab.data.locate import cache_folder

    caps = {name: os.environ[name] for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS") if name in os.environ}
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    told = ", ".join(f"{name}={value}" for name, value in caps.items()) or "stages use one thread each"
    yield Finding("processors", "ok", f"{count}; {told}")
    free, whole = _memory()
    verdict: Verdict = "ok" if free >= MEMORY_NEEDED else "note"
    to_do = "" if verdict == "ok" else "run with --jobs 1, and close other kernels"
    yield Finding("memory", verdict, f"{free:.1f} GB free of {whole:.1f} GB", to_do)
    disk = shutil.disk_usage(Path.cwd()).free / 1e9
    verdict = "ok" if disk >= DISK_NEEDED else "note"
    yield Finding("disk", verdict, f"{disk:.1f} GB free here", "" if verdict == "ok" else "work in a larger folder")
    cache = cache_folder()
    standing = next(folder for folder in (cache, *cache.parents) if folder.exists())
    if standing.is_dir() and os.access(standing, os.W_OK):
        yield Finding("cache", "ok", f"{cache}, {_size(cache) / 1e6:.0f} MB" if cache.exists() else f"{cache}, empty")
    else:
        yield Finding("cache", "problem", f"cannot write to {cache}", "set XDG_CACHE_HOME to a folder of yours")


def _memory() -> tuple[float, float]:
    """Give free and whole memory [GB], of the container where one sets a limit."""
    import psutil  # type: ignore[import-untyped]

    machine = psutil.virtual_memory()
    free, whole = float(machine.available), float(machine.total)
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        if Path(limit).is_file() and Path(used).is_file() and Path(limit).read_text().strip().isdigit():
            most = float(Path(limit).read_text())
            if most < whole:
                free, whole = min(free, most - float(Path(used).read_text())), most
    return free / 1e9, whole / 1e9


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _data() -> Iterator[Finding]:
    """Say which data sets are on this machine."""
    from nightlab.data.locate import ALIASES, data_set

    yield Finding("data simulated", "ok", "made on demand: nightlab demo")
    for name in ALIASES:
        try:
            yield Finding(f"data {name}", "ok", str(data_set(name)))
        except MissingData as error:
            yield Finding(f"data {name}", "note", "not on this machine", error.hint)
