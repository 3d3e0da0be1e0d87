"""Draw the pictures of the documentation from a finished run.

    python docs/figures.py REPOSITORY OUTPUT_FOLDER [--band r]

Writes, for the chosen band: the calibrated frame, the template, the difference before and after whitening, and the
brightest DIASources as triplets of cutouts (science, template, difference).
"""

import argparse
from pathlib import Path

import matplotlib as mpl
import numpy as np

mpl.use("Agg")
import matplotlib.pyplot as plt
import scipy.ndimage as ndi
from lsst.images import Box

from nightlab.data.repository import open_repository
from nightlab.images.build import visit_of
from nightlab.images.planes import flagged
from nightlab.stages.differencing import SubtractConfig, subtract

RUN = "runs/ApPipe"


def robust(values):
    """Median and 1.4826 MAD of the finite values."""
    finite = values[np.isfinite(values)]
    middle = np.median(finite)
    return middle, 1.4826 * np.median(np.abs(finite - middle))


def show(ax, array, title, *, kind="sky", noise=None):
    """Draw one image: asinh gray for the sky, blue to red about zero for differences."""
    middle, sigma = robust(array)
    sigma = noise or sigma
    if kind == "sky":
        shown = np.arcsinh((array - middle) / (2 * sigma))
        ax.imshow(shown, origin="lower", cmap="gray_r", vmin=-0.7, vmax=4.5, interpolation="nearest")
    else:
        ax.imshow(array, origin="lower", cmap="RdBu_r", vmin=-5 * sigma, vmax=5 * sigma, interpolation="nearest")
    ax.set_title(title, fontsize=9)
    ax.set_xticks([])
    ax.set_yticks([])


def products(butler, band):
    """Everything of one visit of a band."""
    for ref in sorted(butler.query_datasets("difference_image", collections=RUN), key=lambda r: r.dataId["visit"]):
        image = butler.get(ref)
        if image.band == band:
            rest = {
                name: butler.get(name, ref.dataId, collections=RUN)
                for name in ("visit_image", "template_detector", "source", "dia_source_unassociated")
            }
            return image, rest
    raise SystemExit(f"the run has no difference image in band {band}")


def overview(butler, band, folder):
    """Frame, template, difference before and after whitening; and a zoom of each."""
    difference, rest = products(butler, band)
    science, template = rest["visit_image"], rest["template_detector"]
    raw = subtract(science, template, rest["source"], SubtractConfig(decorrelate=False)).difference_image
    images = [
        (science, "calibrated", "sky"),
        (template, "template", "sky"),
        (raw, "difference, before whitening", "difference"),
        (difference, "difference, whitened", "difference"),
    ]
    figure, axes = plt.subplots(2, 4, figsize=(16, 8), layout="constrained")
    table = rest["dia_source_unassociated"]
    centre = np.argmax(np.where(np.abs(table["snr"]) < 60, np.abs(table["snr"]), 0)) if len(table) else None
    x, y = (float(table["x"][centre]), float(table["y"][centre])) if centre is not None else (300.0, 300.0)
    box = science.bbox.intersection(Box.from_shape((160, 160), start=(int(y) - 80, int(x) - 80)))
    for (image, title, kind), top, bottom in zip(images, *axes, strict=True):
        show(top, image.image.array, f"{title} ({band})", kind=kind)
        show(bottom, image[box].image.array, "detail", kind=kind, noise=robust(image.image.array)[1])
    figure.savefig(folder / f"overview_{band}.jpg", dpi=80, pil_kwargs={"quality": 85})
    plt.close(figure)


def near_saturation(image, table, reach=45):
    """DIASources within some pixels of a saturated one: diffraction spikes and bleeding, not the sky."""
    saturated = flagged(image.mask, "SATURATED", "SAT_TEMPLATE")
    distance = ndi.distance_transform_edt(~saturated) if saturated.any() else np.full(saturated.shape, np.inf)
    x, y = (np.rint(np.asarray(table[name], float)).astype(int) for name in ("x", "y"))
    return (distance[y, x] < reach) | np.asarray(table["pixelFlags_edge"], bool)


def triplets(butler, band, folder, count=16, half=20):
    """The brightest DIASources of a band: science, template, difference."""
    difference, rest = products(butler, band)
    table = rest["dia_source_unassociated"]
    table = table[~near_saturation(difference, table)]
    order = np.argsort(-np.abs(np.asarray(table["snr"], float)))[:count]
    figure, axes = plt.subplots(count // 4, 12, figsize=(15, 1.5 * count // 4), layout="constrained")
    for ax in axes.flat:
        ax.set_axis_off()
    noises = {name: robust(image.image.array)[1] for name, image in (("d", difference), ("s", rest["visit_image"]))}
    for k, i in enumerate(order):
        x, y = int(np.rint(table["x"][i])), int(np.rint(table["y"][i]))
        wanted = Box.from_shape((2 * half + 1, 2 * half + 1), start=(y - half, x - half))
        box = wanted.intersection(difference.bbox)
        row = axes[k // 4, 3 * (k % 4) : 3 * (k % 4) + 3]
        marks = "".join(c for c, name in (("D", "isDipole"), ("-", "isNegative")) if table[name][i])
        show(row[0], rest["visit_image"][box].image.array, f"{table['snr'][i]:.0f} {marks}", noise=noises["s"])
        show(row[1], rest["template_detector"][box].image.array, f"{x},{y}", noise=noises["s"])
        show(row[2], difference[box].image.array, "", kind="difference", noise=noises["d"])
    figure.savefig(folder / f"triplets_{band}.png", dpi=80)
    plt.close(figure)


def banner(butler, band, folder):
    """The picture of the README: one patch of sky, science, template and difference side by side."""
    difference, rest = products(butler, band)
    objects = butler.get("dia_source", instrument="SDSS", collections=RUN)
    science = rest["visit_image"]
    mine = objects[(objects["band"] == band) & (objects["visit"] == visit_of(science)) & ~objects["isDipole"]]
    mine = mine[~near_saturation(difference, mine)]
    best = mine[np.argmax(np.where(mine["templateFlux"] < 0.05 * mine["scienceFlux"], mine["snr"], 0))]
    start = [int(best["y"]) - 110, int(best["x"]) - 190]
    box = science.bbox.intersection(Box.from_shape((220, 380), start=start))
    figure, axes = plt.subplots(1, 3, figsize=(12, 2.55), layout="constrained")
    for ax, (image, title, kind) in zip(
        axes,
        [
            (science, "science", "sky"),
            (rest["template_detector"], "template", "sky"),
            (difference, "difference", "difference"),
        ],
        strict=True,
    ):
        show(ax, image[box].image.array, title, kind=kind, noise=robust(image.image.array)[1])
        ax.plot(best["x"] - box.x.start, best["y"] - box.y.start, "o", ms=16, mfc="none", mec="tab:orange", mew=1.2)
    figure.savefig(folder / "banner.png", dpi=100)
    plt.close(figure)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("repository")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--band", default="r")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    butler = open_repository(arguments.repository)
    for draw in (overview, triplets, banner):
        draw(butler, arguments.band, arguments.folder)


if __name__ == "__main__":
    main()
