"""Single-frame processing on the ten frames of the Stripe 82 pair, beside the LSST stack's catalogue of them.

python benchmarks/single_frame.py [DATA] [--only r] [--profile]
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import time
from pathlib import Path

import numpy as np
from astropy.table import Table, vstack
from scipy.spatial import cKDTree

from nightlab.data.instruments.sdss import read_raw
from nightlab.data.locate import data_set
from nightlab.numeric.sphere import match, unit_vectors
from nightlab.stages.single_frame import CalibratedFrame, calibrate

#: LSST catalogue ids shifted right by 31 bits, per run and band
STACK_EXPOSURES = {
    (4192, "u"): 131001259,
    (4192, "g"): 131004384,
    (4192, "r"): 131007509,
    (4192, "i"): 131010634,
    (4192, "z"): 131013759,
    (6377, "u"): 199282512,
    (6377, "g"): 199285637,
    (6377, "r"): 199288762,
    (6377, "i"): 199291887,
    (6377, "z"): 199295012,
}
FIELDS = {4192: "0300", 6377: "0399"}
FLAGS = (
    "flags_negative",
    "base_SdssCentroid_flag",
    "base_PixelFlags_flag_edge",
    "base_PixelFlags_flag_interpolated",
    "base_PixelFlags_flag_interpolatedCenter",
    "base_PixelFlags_flag_saturated",
    "base_PixelFlags_flag_saturatedCenter",
)


def frame_path(data: Path, run: int, band: str) -> Path:
    return data / f"input/{run}/40/corr/4/fpC-{run:06d}-{band}4-{FIELDS[run]}.fit.gz"


def reference_catalogue(data: Path) -> Table:
    shards = [Table.read(p) for p in sorted((data / "ref_cats/sdss_demo_ref_cat").glob("[0-9]*.fits"))]
    for shard in shards:
        shard.meta.clear()
    table = vstack(shards)
    out = Table({"refId": table["id"]})
    for name in ("ra", "dec"):
        out[name] = np.rad2deg(np.asarray(table[f"coord_{name}"], dtype=float))
    for band in "ugriz":
        out[f"{band}_flux"] = np.asarray(table[f"{band}_flux"], dtype=float)
    out["isStar"] = np.asarray(table["starnotgal"]) > 0
    return out


def stack_catalogue(data: Path) -> Table:
    path = data / "expected/Linux64/detected-sources.txt"
    names = path.read_text().split("\n", 1)[0].lstrip("#").split()
    columns: dict[str, list] = {name: [] for name in names}
    for line in path.read_text().splitlines()[1:]:
        for name, word in zip(names, line.split(), strict=True):
            columns[name].append(word)
    out = Table()
    for name, words in columns.items():
        if name == "id":
            out[name] = np.array(words, dtype=np.int64)
        elif "flag" in name:
            out[name] = np.array([word in ("True", "1") for word in words])
        else:
            out[name] = np.array(words, dtype=float)
    return out


def clean_stack_sources(stack: Table, run: int, band: str, snr: float = 10.0) -> Table:
    rows = stack[(stack["id"] >> 31) == STACK_EXPOSURES[run, band]]
    flagged = np.zeros(len(rows), dtype=bool)
    for name in FLAGS:
        flagged |= rows[name]
    return rows[~flagged & (rows["base_PsfFlux_instFlux"] > snr * rows["base_PsfFlux_instFluxErr"])]


def compare(result: CalibratedFrame, theirs: Table, reference: Table) -> dict[str, float]:
    """Measure one frame against the stack's catalogue and the reference."""
    source = result.source
    metric = {name: float(v.values.ravel()[0]) for name, v in result.metrics.items()}
    adu = 10 ** (0.4 * (31.4 - metric["zero_point"]))
    ra, dec = theirs["coord_ra"], theirs["coord_dec"]
    # the stack lists parents beside their children at the same place: a source of ours may answer for both
    nearest = cKDTree(unit_vectors(source["ra"].value, source["dec"].value)).query(unit_vectors(ra, dec))[0]
    found = {radius: int((np.rad2deg(nearest) * 3600 < radius).sum()) for radius in (0.5, 1.0)}
    i, j, _ = match(ra, dec, source["ra"].value, source["dec"].value, 0.5)
    ratio = source["psfFlux"].value[j] / adu / theirs["base_PsfFlux_instFlux"][i]
    snr = (theirs["base_PsfFlux_instFlux"] / theirs["base_PsfFlux_instFluxErr"])[i]
    bright = snr > 50 if (snr > 50).sum() > 10 else snr > 20
    offset = np.hypot(
        source["x"].value[j] - theirs["base_SdssCentroid_x"][i],
        source["y"].value[j] - theirs["base_SdssCentroid_y"][i],
    )
    strong = source["snr"] > 20
    a, b, _ = match(source["ra"].value[strong], source["dec"].value[strong], reference["ra"], reference["dec"], 1.0)
    east = (source["ra"].value[strong][a] - reference["ra"][b]) * np.cos(np.deg2rad(reference["dec"][b])) * 3.6e6
    north = (source["dec"].value[strong][a] - reference["dec"][b]) * 3.6e6
    size = (source["ixx"] + source["iyy"]).value[j] / (theirs["base_SdssShape_xx"] + theirs["base_SdssShape_yy"])[i]
    return metric | {
        "theirs": len(theirs),
        "found05": found[0.5],
        "found10": found[1.0],
        "ours": int((source["snr"] > 10).sum()),
        "ratio": float(np.median(ratio)),
        "ratio_bright": float(np.median(ratio[bright])),
        "ratio_scatter": float(1.4826 * np.median(np.abs(ratio[bright] - np.median(ratio[bright])))),
        "centroid": float(np.median(offset[bright])),
        "size": float(np.nanmedian(size[bright])),
        "east": float(1.4826 * np.median(np.abs(east - np.median(east)))),
        "north": float(1.4826 * np.median(np.abs(north - np.median(north)))),
        "east_median": float(np.median(east)),
        "north_median": float(np.median(north)),
    }


HEADER = (
    "run  band  CPU s  theirs found05 found10  ours | flux ratio all/bright scatter | centroid px size | "
    "east north mas (median) n | zp  -tsField scatter n | noise ratio  apcorr  m5"
)


def line(run: int, band: str, seconds: float, v: dict[str, float]) -> str:
    return (
        f"{run} {band}  {seconds:6.2f}  {v['theirs']:5.0f} {v['found05']:5.0f} {v['found10']:5.0f} {v['ours']:6.0f} | "
        f"{v['ratio']:.4f} {v['ratio_bright']:.4f} {v['ratio_scatter']:.4f} | {v['centroid']:.3f} {v['size']:.3f} | "
        f"{v['east']:5.1f} {v['north']:5.1f} ({v['east_median']:+.1f} {v['north_median']:+.1f}) "
        f"{v['n_astrometric_matches']:.0f} | {v['zero_point']:.3f} {v['zero_point_offset']:+.4f} "
        f"{v['zero_point_scatter']:.4f} {v['n_photometric_stars']:.0f} | {v['sky_noise_ratio']:.4f} "
        f"{v['aperture_correction']:.4f} {v['m5']:.2f} {v['psf_sigma']:.3f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", nargs="?", type=Path)
    parser.add_argument("--only", default="ugriz")
    parser.add_argument("--profile", action="store_true")
    arguments = parser.parse_args()
    data = arguments.data or data_set("stripe82")
    reference, stack = reference_catalogue(data), stack_catalogue(data)
    totals = np.zeros(3)
    print(HEADER)
    for run, band in STACK_EXPOSURES:
        if band not in arguments.only:
            continue
        raw = read_raw(frame_path(data, run, band))
        begin = time.process_time()
        result = calibrate(raw, reference=reference)
        values = compare(result, clean_stack_sources(stack, run, band), reference)
        print(line(run, band, time.process_time() - begin, values), flush=True)
        totals += [values["theirs"], values["found05"], values["found10"]]
    print(
        f"pooled: {totals[0]:.0f} of theirs, found {totals[1] / totals[0]:.4f} within 0.5 arcsec, "
        f"{totals[2] / totals[0]:.4f} within 1 arcsec"
    )
    if arguments.profile:
        raw = read_raw(frame_path(data, 6377, "r"))
        with cProfile.Profile() as profile:
            calibrate(raw, reference=reference)
        pstats.Stats(profile).sort_stats("cumulative").print_stats(35)


if __name__ == "__main__":
    main()
