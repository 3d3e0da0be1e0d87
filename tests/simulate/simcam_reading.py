"""An independent, slow reading of the format that `nightlab.simulate.raw` describes."""

import numpy as np

from nightlab.simulate import SurveyConfig

TINY = SurveyConfig(
    width=256,
    height=256,
    amp_columns=2,
    amp_rows=2,
    n_template=1,
    n_science=2,
    n_transients=12,
    n_variables=4,
    n_movers=3,
    dither=4.0,
    serial_overscan=16,
)


def assemble(raw, amplifiers, bias):
    """Subtract the overscan row by row, put the amplifiers in their places, and turn adu into electrons."""
    out = np.full(bias.shape, np.nan)
    for amplifier in amplifiers:
        geometry = amplifier.assembled_raw_geometry
        data, overscan = geometry.data_bbox, geometry.serial_overscan_bbox
        for j in range(data.y.start, data.y.stop):
            level = raw[j, overscan.x.start : overscan.x.stop].mean()
            row = raw[j, data.x.start : data.x.stop] - level
            i = j - data.y.start
            ny = data.y.stop - data.y.start
            y = amplifier.bbox.y.start + (ny - 1 - i if geometry.flip_y else i)
            x = slice(amplifier.bbox.x.start, amplifier.bbox.x.stop)
            signal = row[::-1] if geometry.flip_x else row
            out[y, x] = (signal - bias[y, x]) * amplifier.nominal_calibrations.gain
    return out
