"""A server for the pages, and patience."""

import contextlib
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

READY = re.compile(r"http://[\w.]+:(\d+)\S*")


@contextlib.contextmanager
def serving(*arguments: str, cache: Path | None = None):
    """Run ``nightlab serve`` and give its address; the server ends with the block."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    if cache is not None:
        environment["XDG_CACHE_HOME"] = str(cache)
    command = [sys.executable, "-m", "nightlab.cli", "serve", *map(str, arguments), "--port", "0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    try:
        told = []
        for line in server.stdout:
            told.append(line)
            if found := READY.search(line):
                break
        else:
            pytest.fail(f"the server did not start: {''.join(told)}")
        # nobody reads on; a full pipe would stop the server
        threading.Thread(target=server.stdout.read, daemon=True).start()
        yield found.group().rstrip("/")
    finally:
        server.terminate()
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def wait_until(condition, seconds=15.0, every=0.1):
    """Wait for something to become true, and give it."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(every)
    raise AssertionError(f"not within {seconds} s")
