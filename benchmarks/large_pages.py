"""Serve, the way runs are served, images of 4096 x 4096 pixels with variance and mask, and a million DIASources.

python benchmarks/large_pages.py images | dia
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import panel as pn
from astropy.table import Table

from nightlab.dashboards.messages import prepare_servers
from nightlab.dashboards.page import page

SIDE, PLANES = 4096, ("BAD", "SATURATED", "COSMIC_RAY", "DETECTED")
SOURCES, OBJECTS = 1_000_000, 100_000


def images() -> Callable[[], Any]:
    """Give the opener of an image viewer on a large visit."""
    from nightlab.dashboards.image_viewer import ImageViewer
    from nightlab.dashboards.images.layers import Layer, Plane

    rng = np.random.default_rng(4096)
    planes = tuple(Plane(name, bit) for bit, name in enumerate(PLANES))
    layers: dict[str, Any] = {}
    for name in ("science", "template", "difference"):
        values = rng.normal(0.0, 30.0, (SIDE, SIDE)).astype(np.float32)
        mask = np.zeros((SIDE, SIDE), np.uint32)
        for x, y in rng.integers(20, SIDE - 20, (4000, 2)).tolist():
            values[y - 4 : y + 5, x - 4 : x + 5] += 500.0
            mask[y - 6 : y + 7, x - 6 : x + 7] |= np.uint32(8)
        for bit in range(3):
            mask[tuple(rng.integers(0, SIDE, (2, 20_000)))] |= np.uint32(1 << bit)
        kind: Any = "difference" if name == "difference" else "flux"
        variance = np.full((SIDE, SIDE), 900.0, np.float32)
        layers[name] = Layer(values=values, variance=variance, mask=mask, planes=planes, kind=kind, unit="nJy")
    return lambda: page(ImageViewer.title, ImageViewer.slug, lambda: ImageViewer.from_images(layers, masks=True))


def dia() -> Callable[[], Any]:
    """Give the opener of the explorer of a million sources."""
    from nightlab.dashboards.dia import DiaExplorer

    rng = np.random.default_rng(1_000_000)
    of = rng.integers(0, OBJECTS, SOURCES)
    ra, dec = rng.uniform(150, 152, OBJECTS), rng.uniform(1, 3, OBJECTS)
    flux = rng.normal(0.0, 3000.0, SOURCES)
    sources = Table(
        {
            "diaSourceId": np.arange(SOURCES) + 2**60,
            "diaObjectId": of + 2**59,
            "visit": rng.integers(1, 1000, SOURCES),
            "detector": rng.integers(0, 189, SOURCES),
            "band": np.array(["g", "r", "i"])[rng.integers(0, 3, SOURCES)],
            "midpointMjdTai": rng.uniform(61000, 61365, SOURCES),
            "ra": ra[of] + rng.normal(0, 1e-5, SOURCES),
            "dec": dec[of] + rng.normal(0, 1e-5, SOURCES),
            "x": rng.uniform(0, 4072, SOURCES),
            "y": rng.uniform(0, 4000, SOURCES),
            "psfFlux": flux,
            "psfFluxErr": np.full(SOURCES, 400.0),
            "snr": np.abs(flux) / 400.0,
            "reliability": rng.uniform(0, 1, SOURCES),
            "isDipole": rng.uniform(size=SOURCES) < 0.01,
        }
    )
    return lambda: page(DiaExplorer.title, DiaExplorer.slug, lambda: DiaExplorer.from_tables(sources, kind="sources"))


def main() -> None:
    slug = sys.argv[1]
    prepare_servers()
    pages = {f"/{slug}": {"images": images, "dia": dia}[slug]()}
    server = pn.serve(pages, port=0, start=False, show=False, verbose=False)
    server.start()
    print(f"at http://localhost:{server.port}/", flush=True)
    server.io_loop.start()


if __name__ == "__main__":
    main()
