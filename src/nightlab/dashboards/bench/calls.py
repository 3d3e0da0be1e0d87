"""The call of one stage, in the worker process, and what comes back from it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nightlab.dashboards.bench.pairs import Source
from nightlab.dashboards.errands import Errand
from nightlab.pipelines.events import StageEvent
from nightlab.pipelines.table import STAGES, load


@dataclass(frozen=True, kw_only=True)
class Saved:
    """An image that was written to a file, since images do not travel between processes.

    Attributes
    ----------
    path
        FITS file, without loss.
    kind
        ``module:class`` of the image.
    """

    path: str
    kind: str

    def read(self) -> Any:
        """Read the image."""
        return load(self.kind).read(self.path)


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a call gave.

    Attributes
    ----------
    number
        Counts the calls of a session.
    stage, config, source
        What was called, with which knobs, on what.
    products
        By attribute of the stage's result; images are `Saved`.
    shown
        Images it worked on, by argument.
    seconds
        Wall time of the call itself.
    """

    number: int
    stage: str
    config: Any
    source: Source
    products: Mapping[str, Any]
    shown: Mapping[str, Saved]
    seconds: float

    @property
    def metrics(self) -> Any:
        """What was measured; None when nothing was."""
        return self.products.get("metrics")


def run_stage(errand: Errand, *, number: int, stage: str, config: Any, source: Source, folder: str) -> Result:
    """Call a stage as the pipeline does: the same inputs, the same function, one thread.

    Parameters
    ----------
    errand
        Its memory keeps the inputs of the last call.
    number
        Names the files.
    stage
        A row of the table of stages.
    config
        Its configuration.
    source
        Where inputs come from.
    folder
        Where images go.

    Raises
    ------
    BadInput, MissingData
        When the inputs are not there.
    NightLabError
        Whatever the stage raises.
    """
    from nightlab.pipelines.tasks import one_thread

    _tell(errand, stage, "started", "reading inputs")
    with one_thread():
        if (source, stage) not in errand.memory:
            # of one pair at a time
            errand.memory.clear()
            inputs = source.inputs(stage)
            errand.memory[source, stage] = inputs, _shown(inputs, Path(folder), number)
        inputs, shown = errand.memory[source, stage]
        begin = time.perf_counter()
        result = load(STAGES[stage].function)(**inputs, config=config)
        seconds = time.perf_counter() - begin
    products = {
        name: _portable(getattr(result, name), Path(folder, f"{number}-{name}.fits")) for name in STAGES[stage].outputs
    }
    _tell(errand, stage, "done", f"in {seconds:.2f} s")
    return Result(
        number=number, stage=stage, config=config, source=source, products=products, shown=shown, seconds=seconds
    )


def _tell(errand: Errand, stage: str, state: Any, message: str) -> None:
    errand.tell(StageEvent(stage=stage, state=state, done=int(state == "done"), total=1, message=message))


def _shown(inputs: Mapping[str, Any], folder: Path, number: int) -> dict[str, Saved]:
    """Write the pixels of the images among the inputs; whether they have a PSF does not matter for looking at them."""
    from lsst.images import MaskedImage

    pixels = {
        name: MaskedImage(value.image, mask=value.mask, variance=value.variance, sky_projection=value.sky_projection)
        for name, value in inputs.items()
        if _is_image(value) and hasattr(value, "variance")
    }
    return {name: _portable(value, folder / f"{number}-input-{name}.fits") for name, value in pixels.items()}


def _is_image(value: Any) -> bool:
    return type(value).__module__.startswith("lsst.images") and hasattr(type(value), "read")


def _portable(value: Any, path: Path) -> Any:
    """Write images to files; tables and metrics travel as they are."""
    if not _is_image(value):
        return value
    path.unlink(missing_ok=True)
    value.write(str(path))
    return Saved(path=str(path), kind=f"{type(value).__module__}:{type(value).__name__}")
