"""Where the real data sets are on this machine."""

from __future__ import annotations

import os
from pathlib import Path

from nightlab.errors import MissingData

#: Short names people may type for a data set.
ALIASES = {"stripe82": "sdss-stripe82-demo"}


def data_set(name: str) -> Path:
    """Folder of a real data set.

    Looked for in this order: ``$NIGHTLAB_DATA/<name>``, ``../shared/data/<name>`` beside the checkout, and
    ``nightlab/<name>`` in the user's cache (``$XDG_CACHE_HOME``, else ``~/.cache``).

    Parameters
    ----------
    name
        Name of the data set, or one of `ALIASES`.

    Returns
    -------
    Path
        An existing folder.

    Raises
    ------
    MissingData
        When none of the three exists; the message names them all.
    """
    folder = data_set_name(name)
    if folder in ("", ".", "..") or Path(folder).name != folder:
        raise MissingData(f"{name!r} is not the name of a data set", hint="names are plain folder names", name=name)
    places = known_places(folder)
    for place in places:
        if place is not None and place.is_dir():
            return place
    tried = (
        f"$NIGHTLAB_DATA/{folder}" + (f" = {places[0]}" if places[0] else " (NIGHTLAB_DATA is not set)"),
        str(places[1]) if places[1] else f"../shared/data/{folder} (not running from a checkout)",
        str(places[2]),
    )
    raise MissingData(
        f"the data set {folder!r} is in none of: {'; '.join(tried)}",
        hint=f"nightlab catalog fetch {folder}; or set NIGHTLAB_DATA to the folder that holds it",
        name=folder,
        tried=list(tried),
    )


def data_set_name(name: str) -> str:
    """Name of a data set's folder, from that name or one of `ALIASES`."""
    return ALIASES.get(name, name)


def shipped(kind: str) -> Path:
    """Folder of files that come with the package, such as ``catalogs``: inside an installed package, else beside it.

    Raises
    ------
    MissingData
        When neither is there: the installation is incomplete.
    """
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "_share" / kind, package.parents[1] / kind):
        if folder.is_dir():
            return folder
    raise MissingData(f"nightlab was installed without its {kind}", hint="install it again", kind=kind)


def cache_folder() -> Path:
    """Folder of the user's cache that belongs to NightLab; it need not exist."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    # the specification asks that relative values be ignored
    root = Path(base) if base and Path(base).is_absolute() else Path.home() / ".cache"
    return root / "nightlab"


def known_places(folder: str) -> tuple[Path | None, Path | None, Path]:
    """Where a data set may be, in the order it is looked for; None for a place that this installation has not."""
    named = os.environ.get("NIGHTLAB_DATA", "")
    checkout = _checkout()
    return (
        Path(named).expanduser() / folder if named else None,
        checkout.parent / "shared" / "data" / folder if checkout else None,
        cache_folder() / folder,
    )


def _checkout() -> Path | None:
    """Root of the source tree: around the package when it is an editable install, else around the working folder."""
    for start in (Path(__file__).resolve(), Path.cwd()):
        for folder in (start, *start.parents):
            if (folder / "pyproject.toml").is_file() and (folder / "src" / "nightlab").is_dir():
                return folder
    return None
