"""Calls for a worker process."""

import os
import time
from pathlib import Path

from nightlab.errors import TooFewStars
from nightlab.pipelines.events import StageEvent


def add(errand, *, a, b):
    errand.say("adding")
    return a + b


def count(errand, *, n, seconds=0.0):
    """Tell n events, and end early when asked to stop."""
    for i in range(n):
        if errand.stop.is_set():
            return i
        errand.tell(StageEvent(stage="count", data_id={"visit": i}, state="done", done=i + 1, total=n))
        if seconds:
            time.sleep(seconds)
    return n


def deaf(errand, *, file):
    """Write a file and hear nothing any more."""
    Path(file).write_text(str(os.getpid()))
    while True:
        time.sleep(60)


def fail(errand, *, ours):
    if ours:
        raise TooFewStars("2 stars, 10 are needed", hint="lower the threshold")
    raise ZeroDivisionError("by nothing")


def die(errand):
    os._exit(3)


def remember(errand, *, key, value=None):
    if value is not None:
        errand.memory[key] = value
    return errand.memory.get(key)


def threads(errand):
    import numba
    import threadpoolctl

    return numba.get_num_threads(), [pool["num_threads"] for pool in threadpoolctl.threadpool_info()]
