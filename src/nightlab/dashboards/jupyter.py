"""The explorers inside JupyterLab: a server it starts on demand, and tiles in its launcher.

`jupyter-server-proxy` finds the functions below by their entry points. They are called when JupyterLab starts, so this
module imports nothing.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

#: Where the pages are, below JupyterLab's own address.
PLACE = "nightlab"
TIMEOUT = 120  # seconds a cold server may need


def start() -> dict[str, Any]:
    """Describe the server, and the tile of its start page."""
    return _entry(PLACE, "NightLab", f"{PLACE}/", category="Notebook")


def overview() -> dict[str, Any]:
    """Describe the tile of the pipeline runner."""
    return _entry("overview", "Runs and stages", f"{PLACE}/overview")


def images() -> dict[str, Any]:
    """Describe the tile of the image viewer."""
    return _entry("images", "Images and differences", f"{PLACE}/images")


def dia() -> dict[str, Any]:
    """Describe the tile of the explorer of DIASources and DIAObjects."""
    return _entry("dia", "Sources and objects", f"{PLACE}/dia")


def metrics() -> dict[str, Any]:
    """Describe the tile of the metrics."""
    return _entry("metrics", "Metrics", f"{PLACE}/metrics")


def workbench() -> dict[str, Any]:
    """Describe the tile of the workbench."""
    return _entry("workbench", "Workbench", f"{PLACE}/workbench")


def _entry(icon: str, title: str, path: str, category: str = "NightLab") -> dict[str, Any]:
    """Describe a tile that opens a page of the one server, which serves what lies below JupyterLab's folder."""
    return {
        "command": [
            sys.executable, "-m", "nightlab.cli", "serve", ".",
            "--port", "{port}", "--prefix", f"{{base_url}}{PLACE}", "--origin", "*",
        ],
        "absolute_url": True,
        "timeout": TIMEOUT,
        "new_browser_tab": False,
        "launcher_entry": {
            "title": title,
            "path_info": path,
            "category": category,
            "icon_path": str(Path(__file__).parent / "icons" / f"{icon}.svg"),
        },
    }  # fmt: skip
