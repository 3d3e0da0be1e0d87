"""What tests of several rooms need."""

import fcntl
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from threadpoolctl import threadpool_limits

# results depend on the number of threads of linear algebra, at the last bit; for what is loaded later, and for what is
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(name, "1")
threadpool_limits(1)


@pytest.fixture(scope="session")
def stripe82() -> Path:
    """Folder of the SDSS Stripe 82 pair."""
    from nightlab.data.locate import data_set
    from nightlab.errors import MissingData

    try:
        return data_set("stripe82")
    except MissingData as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def once(tmp_path_factory) -> Callable[[str, Callable[[Path], None]], Path]:
    """Give a function that fills a folder which all test processes share."""
    root = tmp_path_factory.getbasetemp()
    root = root.parent if os.environ.get("PYTEST_XDIST_WORKER") else root

    def made(name: str, make: Callable[[Path], None]) -> Path:
        shared = root / name
        shared.mkdir(exist_ok=True)
        with (shared / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (shared / "done").exists():
                make(shared)
                (shared / "done").touch()
        return shared

    return made


@pytest.fixture(scope="session")
def night(once) -> Path:
    """Folder of a repository with a finished tiny night; copy it, never write into it."""
    return once("finished-night", _make_night) / "lab"


@pytest.fixture(scope="session")
def stripe82_night(stripe82, once) -> Path:
    """Folder of a repository with the r band of Stripe 82, run by the command line; copy it, never write into it."""
    return once("finished-stripe82", _make_stripe82_night) / "stripe82"


def _make_stripe82_night(folder: Path) -> None:
    """Run both pipelines on one band."""
    for pipeline in ("Templates", "ApPipe"):
        place = ["--data", "stripe82", "-b", str(folder / "stripe82"), "-d", "band = 'r'", "--quiet"]
        _call([sys.executable, "-m", "nightlab.cli", "run", pipeline, *place])


def _make_night(folder: Path) -> None:
    """Run the real pipelines on the smallest survey, in a process of its own."""
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "import nightlab as nl\n"
        "from nightlab.simulate import PRESETS\n"
        "folder = Path(sys.argv[1])\n"
        "if __name__ == '__main__':\n"
        "    nl.simulate_survey(folder / 'survey', PRESETS['tiny'])\n"
        "    night = nl.run('ApPipe', 'simulated', folder / 'lab', survey=folder / 'survey', jobs=1)\n"
        "    night.report.check()\n"
    )
    script = folder / "make.py"
    script.write_text(code)
    _call([sys.executable, str(script), str(folder)])


def _call(command: list[str]) -> None:
    one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    made = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **one_thread})
    assert made.returncode == 0, made.stderr[-4000:]
