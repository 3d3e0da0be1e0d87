"""Pairs of a positive and a negative lobe: a source that moved, or was subtracted out of place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nightlab.stages.differencing.measure import Plane

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class DipoleFit:
    """Fitted dipoles, (n,) each.

    Attributes
    ----------
    x_positive, y_positive, x_negative, y_negative
        Places of the lobes [pixel].
    positive, negative
        Fluxes of the lobes, both counted positive.
    positive_error, negative_error
        Their errors.
    chi2, n_data
        Of the difference alone.
    """

    x_positive: Floats
    y_positive: Floats
    x_negative: Floats
    y_negative: Floats
    positive: Floats
    negative: Floats
    positive_error: Floats
    negative_error: Floats
    chi2: Floats
    n_data: Floats


def fit_dipoles(
    difference: Plane,
    science: Plane,
    template: Plane,
    start: tuple[Floats, Floats, Floats, Floats],
    *,
    weight: float = 0.5,
    limit: float = 5.0,
    iterations: int = 20,
) -> DipoleFit:
    """Fit two PSFs to the difference together with the two images before subtraction.

    From the difference alone only flux times separation is known (DMTN-007). The science image has the positive lobe
    and the template the negative one, each on a constant of its own; they break the degeneracy. Levenberg-Marquardt on
    all dipoles at once.

    Parameters
    ----------
    difference, science, template
        Stamps on the same pixels.
    start
        x+, y+, x-, y- to begin from.
    weight
        Relative weight of the two images before subtraction.
    limit
        How far a lobe may go from its start [pixel].
    iterations
        Steps taken.
    """
    n = len(start[0])
    places = np.stack(start, axis=1).astype(float)
    origin = places.copy()
    p = np.concatenate([places, np.zeros((n, 4))], axis=1)  # x+ y+ x- y- F+ F- sky_science sky_template
    rows = _rows(p, difference, science, template, weight)
    p[:, 4:] = _linear(rows[1], rows[2])
    rows = _rows(p, difference, science, template, weight)
    cost = (rows[2] ** 2).sum(axis=1)
    damping = np.full(n, 1e-2)
    for _ in range(iterations):
        jacobian = np.concatenate([rows[0], rows[1]], axis=1)
        normal = jacobian @ jacobian.transpose(0, 2, 1)
        diagonal = np.einsum("nii->ni", normal)
        damped = (
            normal + np.eye(8) * (damping[:, None] * diagonal + 1e-12 * diagonal.max(axis=1)[:, None] + 1e-30)[:, None]
        )
        step = np.linalg.solve(damped, np.einsum("nap,np->na", jacobian, rows[2])[..., None])[..., 0]
        trial = p + step
        trial[:, :4] = np.clip(trial[:, :4], origin - limit, origin + limit)
        trial[:, 4:6] = np.maximum(trial[:, 4:6], 0.0)
        new = _rows(trial, difference, science, template, weight)
        new_cost = (new[2] ** 2).sum(axis=1)
        better = new_cost <= cost
        p = np.where(better[:, None], trial, p)
        pick = better[:, None, None]
        rows = (
            np.where(pick, new[0], rows[0]),
            np.where(pick, new[1], rows[1]),
            np.where(better[:, None], new[2], rows[2]),
        )
        cost = np.where(better, new_cost, cost)
        damping = np.clip(np.where(better, damping * 0.3, damping * 10), 1e-9, 1e9)
    errors = _errors(rows)
    pixels = difference.values[0].size
    return DipoleFit(
        x_positive=p[:, 0],
        y_positive=p[:, 1],
        x_negative=p[:, 2],
        y_negative=p[:, 3],
        positive=p[:, 4],
        negative=p[:, 5],
        positive_error=errors[:, 4],
        negative_error=errors[:, 5],
        chi2=(rows[2][:, :pixels] ** 2).sum(axis=1),
        n_data=np.isfinite(difference.variance).sum(axis=(1, 2)).astype(float),
    )


def _errors(rows: tuple[Floats, Floats, Floats]) -> Floats:
    """Errors of all parameters, (n, 8), from the curvature at the solution."""
    jacobian = np.concatenate([rows[0], rows[1]], axis=1)
    normal = jacobian @ jacobian.transpose(0, 2, 1)
    scale = np.sqrt(np.maximum(np.einsum("nii->ni", normal), 1e-30))
    covariance = np.linalg.pinv(normal / (scale[:, :, None] * scale[:, None, :]), hermitian=True)
    errors: Floats = np.sqrt(np.maximum(np.einsum("nii->ni", covariance), 0)) / scale
    return errors


def _rows(
    p: Floats, difference: Plane, science: Plane, template: Plane, weight: float
) -> tuple[Floats, Floats, Floats]:
    """Weighted derivatives by the four places and by the four linear terms, and residuals, over the pixels of all."""
    n = len(p)
    x1, y1, x2, y2, f1, f2, sky_s, sky_t = p.T
    plus, minus = difference.slopes(x1, y1), difference.slopes(x2, y2)
    before, after = template.slopes(x2, y2), science.slopes(x1, y1)
    zero, one = np.zeros_like(plus[0]), np.ones_like(plus[0])

    def scaled(flux: Floats, image: Floats) -> Floats:
        product: Floats = flux[:, None, None] * image
        return product

    # a shifted star is P(u - x): its derivative by the place is what `slopes` returns
    blocks: Sequence[tuple[Plane, float, Floats, list[Floats], list[Floats]]] = [
        (
            difference,
            1.0,
            scaled(f1, plus[0]) - scaled(f2, minus[0]),
            [scaled(f1, plus[1]), scaled(f1, plus[2]), -scaled(f2, minus[1]), -scaled(f2, minus[2])],
            [plus[0], -minus[0], zero, zero],
        ),
        (
            science,
            weight,
            scaled(f1, after[0]) + sky_s[:, None, None],
            [scaled(f1, after[1]), scaled(f1, after[2]), zero, zero],
            [after[0], zero, one, zero],
        ),
        (
            template,
            weight,
            scaled(f2, before[0]) + sky_t[:, None, None],
            [zero, zero, scaled(f2, before[1]), scaled(f2, before[2])],
            [zero, before[0], zero, one],
        ),
    ]
    parts: list[list[Floats]] = [[], [], []]
    for plane, share, model, by_place, linear in blocks:
        root = share / np.sqrt(plane.variance)
        parts[0].append((np.stack(by_place, axis=1) * root[:, None]).reshape(n, 4, -1))
        parts[1].append((np.stack(linear, axis=1) * root[:, None]).reshape(n, 4, -1))
        parts[2].append(((plane.values - model) * root).reshape(n, -1))
    return tuple(np.concatenate(part, axis=-1) for part in parts)  # type: ignore[return-value]


def _linear(linear: Floats, residual: Floats) -> Floats:
    """Fluxes and skies for given places, starting from zero."""
    normal = linear @ linear.transpose(0, 2, 1)
    normal = normal + np.eye(4) * (1e-9 * np.trace(normal, axis1=1, axis2=2)[:, None, None] + 1e-30)
    values = np.linalg.solve(normal, np.einsum("nap,np->na", linear, residual)[..., None])[..., 0]
    values[:, :2] = np.maximum(values[:, :2], 0.0)
    return values
