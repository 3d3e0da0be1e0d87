import gc
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from nightlab.dashboards.jobs import LINES, Desk
from nightlab.errors import BadInput, StageFailed, TooFewStars

HERE = Path(__file__).parent


def alive(process):
    stat = Path(f"/proc/{process}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def until(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture
def desk():
    desk = Desk()
    yield desk
    desk.close()


def call(desk, name, **arguments):
    job = desk.start(f"work_to_do:{name}", **arguments)
    assert job.wait(60)
    return job


def test_a_call_gives_its_result_and_the_worker_is_used_again(desk):
    job = call(desk, "add", a=2**60, b=1)
    assert (job.state, job.result, list(job.lines)) == ("done", 2**60 + 1, ["adding"])
    process = desk.process
    assert call(desk, "add", a="x", b="y").result == "xy"
    assert desk.process == process
    call(desk, "remember", key="k", value=5)
    assert call(desk, "remember", key="k").result == 5


def test_events_come_in_order_and_none_twice_however_fast_they_are(desk):
    job = desk.start("work_to_do:count", n=6000)
    heard = []
    while job.active:
        heard += job.take()
        time.sleep(0.05)
    heard += job.take()
    assert [event.data_id["visit"] for event in heard] == list(range(6000))
    assert job.take() == []
    # the log is a ring
    assert len(job.lines) == LINES
    assert "visit 5999" in job.lines[-1]


def test_errors_come_as_what_they_are(desk):
    job = call(desk, "fail", ours=True)
    assert job.state == "failed"
    assert type(job.error) is TooFewStars
    assert job.error.hint == "lower the threshold"
    job = call(desk, "fail", ours=False)
    assert isinstance(job.error, StageFailed)
    assert "ZeroDivisionError: by nothing" in str(job.error)
    assert "work_to_do.py" in job.details
    assert call(desk, "add", a=1, b=1).result == 2


def test_a_worker_that_dies_is_told_and_replaced(desk):
    job = call(desk, "die")
    assert job.state == "failed"
    assert "exit code 3" in str(job.error)
    assert call(desk, "add", a=1, b=1).result == 2


def test_only_one_call_at_a_time(desk):
    job = desk.start("work_to_do:count", n=1000, seconds=0.05)
    with pytest.raises(BadInput, match="running already"):
        desk.start("work_to_do:add", a=1, b=1)
    desk.cancel()
    assert job.wait(20)


def test_a_call_that_listens_ends_by_itself_and_keeps_its_worker(desk):
    job = desk.start("work_to_do:count", n=10000, seconds=0.02)
    until(job.take)
    process = desk.process
    desk.cancel()
    assert job.state in ("stopping", "cancelled")
    assert job.wait(20)
    assert job.state == "cancelled"
    assert 0 < job.result < 10000
    assert desk.process == process
    assert call(desk, "count", n=3).result == 3


@pytest.mark.parametrize("grace", [0.0, 0.3])
def test_a_call_that_does_not_listen_is_ended_and_what_it_left_is_tidied(desk, tmp_path, grace):
    tidied = threading.Event()
    file = tmp_path / "process"
    job = desk.start("work_to_do:deaf", cleanup=tidied.set, file=str(file))
    until(lambda: file.exists() and file.read_text())
    process = int(file.read_text())
    desk.cancel(grace)
    assert job.wait(20)
    assert job.state == "cancelled"
    assert job.wait_tidied(20)
    assert tidied.is_set()
    assert not alive(process)
    until(lambda: desk.process not in (None, process))
    assert call(desk, "add", a=1, b=1).result == 2


def test_a_closed_desk_leaves_no_process_and_takes_no_call(tmp_path):
    desk = Desk()
    file = tmp_path / "process"
    job = desk.start("work_to_do:deaf", file=str(file))
    until(lambda: file.exists() and file.read_text())
    desk.close()
    assert job.wait(20)
    assert not alive(int(file.read_text()))
    assert desk.process is None
    with pytest.raises(BadInput, match="closed"):
        desk.start("work_to_do:add", a=1, b=1)
    idle = Desk()
    call(idle, "add", a=1, b=1)
    process = idle.process
    idle.close()
    assert not alive(process)


def test_a_forgotten_desk_takes_its_process_along():
    desk = Desk()
    call(desk, "add", a=1, b=1)
    process = desk.process
    del desk
    gc.collect()
    until(lambda: not alive(process))


def test_a_worker_does_not_outlive_its_parent_however_that_ends(tmp_path):
    code = (
        "import sys, time\nfrom nightlab.dashboards.jobs import Desk\n"
        "desk = Desk(); desk.start('work_to_do:deaf', file=sys.argv[1]); time.sleep(60)"
    )
    file = tmp_path / "process"
    environment = os.environ | {"PYTHONPATH": str(HERE)}
    parent = subprocess.Popen([sys.executable, "-c", code, str(file)], env=environment)
    until(lambda: file.exists() and file.read_text(), 60)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    until(lambda: not alive(int(file.read_text())))


def test_stages_have_one_thread(desk):
    numba, pools = call(desk, "threads").result
    assert numba == 1
    assert set(pools) <= {1}


def test_each_session_has_its_own_worker():
    desks = [Desk(), Desk()]
    try:
        jobs = [each.start("work_to_do:count", n=20, seconds=0.02) for each in desks]
        assert all(job.wait(60) for job in jobs)
        assert desks[0].process != desks[1].process
    finally:
        for each in desks:
            each.close()


def test_the_worker_knows_nothing_of_pages(desk):
    code = "import sys, nightlab.dashboards.errands, nightlab.dashboards.jobs; assert 'panel' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
