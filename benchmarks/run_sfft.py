"""Run sfft on FITS files; started by bench_differencing.py with the Python of sfft's own environment.

python run_sfft.py FOLDER KERNEL_RATIO CONVOLVED REPEATS: reads reference.fits and science.fits in FOLDER, writes
difference.fits and kernel.fits (matching kernel at the centre) there, and prints the CPU seconds of each run.
"""

import contextlib
import io
import resource
import sys
import warnings
from pathlib import Path


def cpu_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def main() -> None:
    folder, ratio, convolved, repeats = Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3], int(sys.argv[4])
    import numpy as np
    from astropy.io import fits
    from sfft.EasySparsePacket import Easy_SparsePacket
    from sfft.utils.SFFTSolutionReader import Realize_MatchingKernel

    warnings.simplefilter("ignore")
    for _ in range(repeats):
        begin = cpu_seconds()
        with contextlib.redirect_stdout(io.StringIO()):
            _, prepared, *_ = Easy_SparsePacket.ESP(
                FITS_REF=str(folder / "reference.fits"),
                FITS_SCI=str(folder / "science.fits"),
                FITS_DIFF=str(folder / "difference.fits"),
                FITS_Solution=str(folder / "solution.fits"),
                ForceConv=convolved,
                KerHWRatio=ratio,
                KerPolyOrder=2,
                BGPolyOrder=0,
                ConstPhotRatio=True,
                BACKEND_4SUBTRACT="Numpy",
                NUM_CPU_THREADS_4SUBTRACT=1,
                VERBOSE_LEVEL=0,
            )
        print(f"cpu {cpu_seconds() - begin:.3f}", flush=True)
    print(f"sources {len(prepared['SExCatalog-SubSource'])}")
    header = fits.getheader(folder / "science.fits")
    centre = np.array([[0.5 * (header["NAXIS1"] + 1), 0.5 * (header["NAXIS2"] + 1)]])
    kernel = Realize_MatchingKernel(centre).FromFITS(str(folder / "solution.fits"))[0]
    # sfft's arrays are [x, y]
    fits.writeto(folder / "kernel.fits", np.ascontiguousarray(kernel.T), overwrite=True)


if __name__ == "__main__":
    main()
