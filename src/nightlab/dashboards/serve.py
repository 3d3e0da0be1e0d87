"""Serve the explorers: one process, one start page, deep links."""

from __future__ import annotations

import gc
import secrets
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import panel as pn

from nightlab.dashboards.explorer import EXPLORERS, explorer_class
from nightlab.dashboards.library import Library
from nightlab.dashboards.messages import prepare_servers
from nightlab.dashboards.page import page
from nightlab.dashboards.setup import setup
from nightlab.dashboards.start import start_page
from nightlab.errors import BadInput

LOCAL = ("localhost", "127.0.0.1", "::1")
LIFETIME = 60.0  # seconds a session without a browser lives
TOKEN = 3600  # seconds within which a page that was fetched must connect
PAUSE, POLITE = 0.05, 5.0  # seconds between warming one explorer and the next: alone, and with somebody there


def applications(library: Library) -> dict[str, Callable[[], Any]]:
    """Give every page by its place below the server's root."""
    pages: dict[str, Callable[[], Any]] = {"/": lambda: start_page(library)}
    for slug in EXPLORERS:
        pages[f"/{slug}"] = _opener(slug, library)
    return pages


def _opener(slug: str, library: Library) -> Callable[[], Any]:
    def opened() -> Any:
        query = {name: values[0].decode(errors="replace") for name, values in pn.state.session_args.items() if values}
        kind = explorer_class(slug)
        return page(kind.title, slug, lambda: kind.from_query(query, library))

    return opened


def serve(
    folders: Sequence[str | Path],
    *,
    port: int = 5006,
    address: str = "localhost",
    prefix: str = "",
    origins: Sequence[str] = (),
    password: str | None = None,
    warm: bool = False,
    show: bool = False,
    on_ready: Callable[[str], None] | None = None,
    blocking: bool = True,
    lifetime: float = LIFETIME,
) -> Any:
    """Serve the runs below some folders.

    Parameters
    ----------
    folders
        Where repositories are looked for; nothing outside them can be opened.
    port
        0 for any that is free.
    address
        What to listen on. Anything but this machine needs a password.
    prefix
        Path the pages are served under, such as ``/user/demo/proxy/5006``.
    origins
        Hosts, with port, from which browsers may connect besides ``address:port``.
    password
        Asked of every visitor when given.
    warm
        Import and compile before the server says that it is ready; otherwise it is done when nobody is there.
    show
        Open a browser.
    on_ready
        Called with the address of the start page once it can be opened.
    lifetime
        How long a session without a browser is kept [s].
    blocking
        Whether to stay in the server's loop; otherwise the server is returned running in this process's loop.

    Raises
    ------
    BadInput
        When a folder does not exist, or the address is open to others and there is no password.
    """
    if address not in LOCAL and not password:
        raise BadInput(
            f"serving on {address} lets others in, and no password was given",
            hint="set NIGHTLAB_PASSWORD or pass --password-file, or leave --address at localhost",
        )
    missing = [str(folder) for folder in folders if not Path(folder).is_dir()]
    if missing:
        raise BadInput(f"no such folder: {', '.join(missing)}", hint="name folders that hold repositories")
    setup()
    prepare_servers()
    library = Library.below(*folders)
    if warm:
        warm_up(library)
    prefix = f"/{prefix.strip('/')}" if prefix.strip("/") else ""
    options: dict[str, Any] = {}
    if password:
        options = {"basic_auth": password, "cookie_secret": secrets.token_hex(32)}
    pages = applications(library)
    server = pn.serve(
        pages,
        port=port,
        address=address,
        prefix=prefix,
        websocket_origin=list(origins) or None,
        show=show,
        start=False,
        title="NightLab",
        use_index=False,
        unused_session_lifetime=int(1000 * lifetime),
        check_unused_sessions=int(1000 * lifetime / 4),
        session_token_expiration=TOKEN,
        verbose=False,
        **options,
    )
    server.start()
    if on_ready is not None:
        host = address if address in LOCAL[:2] else "localhost"
        on_ready(f"http://{host}:{server.port}{prefix}/")
    if not warm:
        _warm_meanwhile(server, library, list(pages))
    if blocking:
        server.io_loop.start()
    return server


def warm_up(library: Library, slugs: Iterable[str] = EXPLORERS) -> None:
    """Import explorers and draw one of each, so that the first visitor does not wait for it."""
    for slug in slugs:
        explorer = explorer_class(slug)
        explorer.from_query({}, library).__panel__()
        # what modules hold stays for good; to look through it for garbage stops the server for most of a second
        gc.collect()
        gc.freeze()


def _warm_meanwhile(server: Any, library: Library, pages: Sequence[str]) -> None:
    """Warm up one explorer after the other, in the server's loop and while nobody waits for a page."""
    slugs = list(EXPLORERS)

    def go_on() -> None:
        somebody = any(server.get_sessions(page) for page in pages)
        if slugs and not somebody:
            warm_up(library, [slugs.pop(0)])
        if slugs:
            server.io_loop.call_later(POLITE if somebody else PAUSE, go_on)

    server.io_loop.call_later(PAUSE, go_on)
