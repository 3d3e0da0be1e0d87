"""A worker goes with its parent, even while it is still importing."""

import subprocess
import sys
import time

import psutil

from nightlab.pipelines import runner

CODE = """
import time
from nightlab.pipelines import runner
before = runner._MAIN.partition("from nightlab.pipelines.worker")[0]
worker = runner.start_worker(b"", before + "import time; print('held', flush=True); time.sleep(600)")
while not worker.stderr.seek(0, 2):
    time.sleep(0.01)
print(worker.process.pid, flush=True)
time.sleep(600)
"""


def alive(process):
    """Whether a process still does something; one that is gone or only waits to be buried does not."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_worker_that_still_imports_dies_with_its_parent():
    assert runner._MAIN.count("from nightlab.pipelines.worker") == 1
    parent = subprocess.Popen([sys.executable, "-c", CODE], stdout=subprocess.PIPE, text=True)
    try:
        worker = psutil.Process(int(parent.stdout.readline()))
        assert alive(worker)
    finally:
        parent.kill()
        parent.wait()
    end = time.monotonic() + 20
    while alive(worker) and time.monotonic() < end:
        time.sleep(0.05)
    assert not alive(worker)
