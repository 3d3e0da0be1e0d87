"""Run a program that serves pages, and keep when each message left it.

    python benchmarks/timed_server.py TIMES PROGRAM [ARGUMENT ...]

PROGRAM is a file, or ``-m`` and a module. TIMES gets a line for each message: seconds of the machine's monotonic
clock, which browsers on the same machine time their messages by as well.
"""

from __future__ import annotations

import runpy
import sys
import time
from typing import Any

from tornado.websocket import WebSocketHandler


def main() -> None:
    """Replace this program by the other."""
    times = open(sys.argv[1], "a", buffering=1)  # noqa: SIM115, open as long as the server
    write = WebSocketHandler.write_message

    def timed(self: WebSocketHandler, *arguments: Any, **named: Any) -> Any:
        sent = write(self, *arguments, **named)  # at once; what is given says when all has left
        times.write(f"{time.monotonic()}\n")
        return sent

    WebSocketHandler.write_message = timed
    del sys.argv[:2]
    if sys.argv[0] == "-m":
        del sys.argv[0]
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
