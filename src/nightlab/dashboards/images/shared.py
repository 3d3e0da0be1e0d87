"""Layers shared by all sessions of a process, in bounded memory."""

from __future__ import annotations

import functools
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from nightlab.dashboards.images.layers import Layer

#: Bytes of pixels that a process keeps for whoever asks next. What a page shows lives as long as the page.
MAX_BYTES = 1_500_000_000


class SharedLayers:
    """Layers by key, the ones not asked for longest being forgotten first.

    Parameters
    ----------
    max_bytes
        Of all layers together.
    """

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self.max_bytes = max_bytes
        self._layers: OrderedDict[str, Layer] = OrderedDict()
        self._lock = threading.Lock()
        self._making: dict[str, threading.Lock] = {}

    @property
    def nbytes(self) -> int:
        """Bytes of the layers kept."""
        return sum(layer.nbytes for layer in self._layers.values())

    def get(self, key: str, make: Callable[[], Layer]) -> Layer:
        """Give a layer, making it when nobody has; two who ask at once wait for one making."""
        with self._lock:
            making = self._making.setdefault(key, threading.Lock())
        with making:
            with self._lock:
                if key in self._layers:
                    self._layers.move_to_end(key)
                    return self._layers[key]
            layer = make()
            with self._lock:
                self._layers[key] = layer
                self._making.pop(key, None)
                while len(self._layers) > 1 and self.nbytes > self.max_bytes:
                    self._layers.popitem(last=False)
            return layer


@functools.cache
def shared() -> SharedLayers:
    """Give the layers of this process."""
    return SharedLayers()


def layer_of_run(run: Any, dataset: str, **data_id: int | str) -> Layer:
    """Read an image of a run as a layer, from shared memory when any session has read it before.

    Parameters
    ----------
    run
        A `nightlab.data.runs.Run`.
    dataset
        Dataset type.
    **data_id
        Which image.

    Raises
    ------
    MissingData
        When the run has none.
    """
    from nightlab.dashboards.images.layers import as_layer

    ref = run.ref(dataset, **data_id)
    # leaving out the PSF saves most of the time of a first read
    light = ref.datasetType.storageClass_name in ("VisitImage", "DifferenceImage")
    part = ref.makeComponentRef("masked_image") if light else ref
    return shared().get(str(ref.id), lambda: as_layer(run.butler.get(part), key=str(ref.id)))
