"""Single-frame processing on the ten frames of the Stripe 82 pair, beside the LSST stack's catalogue of them.

python benchmarks/single_frame.py [DATA] [--only r] [--profile]
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.table import Table, vstack
from scipy.spatial import cKDTree

from nightlab.data.instruments.sdss import read_raw
from nightlab.data.locate import data_set
from nightlab.numeric.sphere import match, unit_vectors
from nightlab.numeric.statistics import robust_width
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


@dataclass(frozen=True)
class Beside:
    """Our sources of one frame beside the stack's, for pooling.

    Attributes
    ----------
    values
        Metrics of the frame.
    found
        Of the stack's clean sources, whether we have one within half an arcsecond, and within one.
    unknown
        Of ours at S/N > 10 on rows that the stack looked at, whether it has nothing within an arcsecond, flagged or
        not.
    bright, faint
        Ratios of PSF flux at S/N > 50, and (ratio - 1) over the photon error at S/N 10 to 30; each catalogue's fluxes
        are first brought to 6 pixels by its own stars.
    offset
        (n, 2) x and y of stars of S/N > 50 minus the stack's [pixel].
    size
        Ratio of Ixx + Iyy of these stars.
    residual
        (2, n, 2) east and north of the reference [mas], ours and the stack's, of the same sources: S/N > 20 in both.
    """

    values: dict[str, float]
    found: np.ndarray
    unknown: np.ndarray
    bright: np.ndarray
    faint: np.ndarray
    offset: np.ndarray
    size: np.ndarray
    residual: np.ndarray


def compare(result: CalibratedFrame, stack: Table, run: int, band: str, reference: Table) -> Beside:
    """Measure one frame against the stack's catalogue and the reference."""
    source = result.source
    theirs = clean_stack_sources(stack, run, band)
    everything = stack[(stack["id"] >> 31) == STACK_EXPOSURES[run, band]]
    metric = {name: float(v.values.ravel()[0]) for name, v in result.metrics.items()}
    adu = 10 ** (0.4 * (31.4 - metric["zero_point"]))
    ra, dec = theirs["coord_ra"], theirs["coord_dec"]
    ours = unit_vectors(source["ra"].value, source["dec"].value)
    # the stack lists parents beside their children at the same place: a source of ours may answer for both
    nearest = 3600 * np.rad2deg(cKDTree(ours).query(unit_vectors(ra, dec))[0])
    known = unit_vectors(everything["coord_ra"], everything["coord_dec"])
    # the stack left out the 128 rows that a frame shares with the next one of its strip
    rated = (source["snr"] > 10) & (source["y"].value < everything["base_SdssCentroid_y"].max())
    strange = 3600 * np.rad2deg(cKDTree(known).query(ours[rated])[0]) > 1.0
    i, j, _ = match(ra, dec, source["ra"].value, source["dec"].value, 0.5)
    snr = (theirs["base_PsfFlux_instFlux"] / theirs["base_PsfFlux_instFluxErr"])[i]
    bright = snr > 50 if (snr > 50).sum() > 10 else snr > 20
    star = bright & (theirs["base_ClassificationExtendedness_value"][i] < 0.5) & (source["extendedness"][j] == 0)
    psf, ap = source["psfFlux"].value[j], source["ap06Flux"].value[j]
    their_psf, their_ap = (theirs[f"base_{n}_instFlux"][i] for n in ("PsfFlux", "CircularApertureFlux_6_0"))
    direct = psf / adu / their_psf
    ratio = direct * np.median((ap / psf)[star]) / np.median((their_ap / their_psf)[star])
    faint = (snr > 10) & (snr < 30)
    offset = np.stack([source[axis].value[j] - theirs[f"base_SdssCentroid_{axis}"][i] for axis in ("x", "y")], axis=1)
    size = (source["ixx"] + source["iyy"]).value[j] / (theirs["base_SdssShape_xx"] + theirs["base_SdssShape_yy"])[i]
    strong = source["snr"] > 20
    a, b, _ = match(source["ra"].value[strong], source["dec"].value[strong], reference["ra"], reference["dec"], 1.0)
    east, north = residual(source["ra"].value[strong][a], source["dec"].value[strong][a], reference[b]).T
    both = (snr > 20) & (source["snr"][j] > 20)
    i, j = i[both], j[both]
    a, b, _ = match(source["ra"].value[j], source["dec"].value[j], reference["ra"], reference["dec"], 1.0)
    ours_mas = residual(source["ra"].value[j][a], source["dec"].value[j][a], reference[b])
    theirs_mas = residual(ra[i][a], dec[i][a], reference[b])
    found = np.stack([nearest < 0.5, nearest < 1.0], axis=1)
    return Beside(
        values=metric
        | {
            "theirs": len(theirs),
            "found05": found[:, 0].sum(),
            "found10": found[:, 1].sum(),
            "ours": int((source["snr"] > 10).sum()),
            "unknown": int(strange.sum()),
            "direct": float(np.median(direct[star])),
            "aperture": float(np.median((ap / adu / their_ap)[star])),
            "ratio": float(np.median(ratio[star])),
            "ratio_scatter": robust_width(ratio[star]),
            "centroid": float(np.sqrt((offset[star] ** 2).mean())),
            "size": float(np.nanmedian(size[star])),
            "east": robust_width(east),
            "north": robust_width(north),
            "east_median": float(np.median(east)),
            "north_median": float(np.median(north)),
            "same": len(a),
            "same_east": robust_width(ours_mas[:, 0]),
            "same_north": robust_width(ours_mas[:, 1]),
            "their_east": robust_width(theirs_mas[:, 0]),
            "their_north": robust_width(theirs_mas[:, 1]),
        },
        found=found,
        unknown=strange,
        bright=ratio[bright],
        faint=(ratio[faint] - 1.0) * snr[faint],
        offset=offset[star],
        size=size[star],
        residual=np.stack([ours_mas, theirs_mas]),
    )


def residual(ra: np.ndarray, dec: np.ndarray, reference: Table) -> np.ndarray:
    """How far east and north of their reference sources lie [mas], as (n, 2)."""
    east = (np.asarray(ra) - reference["ra"]) * np.cos(np.deg2rad(reference["dec"]))
    return 3.6e6 * np.stack([np.asarray(east), np.asarray(dec) - reference["dec"]], axis=1)


def pooled(frames: list[Beside]) -> None:
    """Print the figures of all frames together, with what is asked."""
    all_of = {name: np.concatenate([getattr(frame, name) for frame in frames]) for name in (
        "found", "unknown", "bright", "faint", "offset", "size")}  # fmt: skip
    rms = np.sqrt((all_of["offset"] ** 2).mean(axis=0))
    size = all_of["size"][np.isfinite(all_of["size"])]
    widths = [[robust_width(np.concatenate([frame.residual[who, :, axis] for frame in frames])) for axis in (0, 1)]
              for who in (0, 1)]  # fmt: skip
    rows = (
        ("theirs, clean, S/N > 10, found within 0.5 arcsec (1)", f"{all_of['found'][:, 0].mean():.4f} "
         f"({all_of['found'][:, 1].mean():.4f}) of {len(all_of['found'])}", ">= 0.98"),
        ("ours, S/N > 10, that are none of theirs", f"{all_of['unknown'].mean():.4f} of {len(all_of['unknown'])}",
         "<= 0.05"),
        ("PSF flux ratio, S/N > 50: median", f"{np.median(all_of['bright']):.4f}", "1 +- 0.01"),
        ("PSF flux ratio, S/N > 50: scatter", f"{robust_width(all_of['bright']):.4f}", "<= 0.015"),
        ("PSF flux, S/N 10-30: scatter over photon error", f"{robust_width(all_of['faint']):.3f}", "<= 0.5"),
        ("centroids of stars, S/N > 50: rms x, y [px]", f"{rms[0]:.4f} {rms[1]:.4f}", "< 0.03"),
        ("Ixx + Iyy of these: median, scatter", f"{np.median(size):.4f} {robust_width(size):.4f}",
         "1 +- 0.01, < 0.03"),
        ("reference minus position, same sources, S/N > 20 [mas]", "{:.1f} {:.1f}".format(*widths[0]),
         "<= the stack's {:.1f} {:.1f}".format(*widths[1])),
    )  # fmt: skip
    for what, value, asked in rows:
        print(f"{what:55s} {value:28s} {asked}")


HEADER = (
    "run  band  CPU s  theirs found05 found10  ours unknown | flux, direct to 6 px scatter aperture | "
    "centroid px size | east north mas (median) n; same: ours, theirs | zp  -tsField scatter n | "
    "noise ratio  apcorr  m5 psf"
)


def line(run: int, band: str, seconds: float, v: dict[str, float]) -> str:
    return (
        f"{run} {band}  {seconds:6.2f}  {v['theirs']:5.0f} {v['found05']:5.0f} {v['found10']:5.0f} {v['ours']:6.0f} "
        f"{v['unknown']:4.0f} | "
        f"{v['direct']:.4f} {v['ratio']:.4f} {v['ratio_scatter']:.4f} {v['aperture']:.4f} | "
        f"{v['centroid']:.3f} {v['size']:.3f} | "
        f"{v['east']:5.1f} {v['north']:5.1f} ({v['east_median']:+.1f} {v['north_median']:+.1f}) "
        f"{v['n_astrometric_matches']:.0f}; {v['same']:.0f}: {v['same_east']:.1f} {v['same_north']:.1f}, "
        f"{v['their_east']:.1f} {v['their_north']:.1f} | {v['zero_point']:.3f} {v['zero_point_offset']:+.4f} "
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
    frames = []
    print(HEADER)
    for run, band in STACK_EXPOSURES:
        if band not in arguments.only:
            continue
        raw = read_raw(frame_path(data, run, band))
        begin = time.process_time()
        result = calibrate(raw, reference=reference)
        seconds = time.process_time() - begin
        frames.append(compare(result, stack, run, band, reference))
        print(line(run, band, seconds, frames[-1].values), flush=True)
    pooled(frames)
    if arguments.profile:
        raw = read_raw(frame_path(data, 6377, "r"))
        with cProfile.Profile() as profile:
            calibrate(raw, reference=reference)
        pstats.Stats(profile).sort_stats("cumulative").print_stats(35)


if __name__ == "__main__":
    main()
