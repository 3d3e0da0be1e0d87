import numpy as np
import pytest

from nightlab.dashboards.images.scaling import (
    HATCH,
    HATCH_COLOURS,
    RULES,
    SHADES,
    STRETCHES,
    Limits,
    Look,
    cover,
    find_limits,
    levels_beside,
    look_for,
    palette,
    stretch,
    to_indices,
    unstretch,
)

LINEAR = Look(stretch="linear", rule="manual", low=0.0, high=252.0)


def test_linear_indices_are_the_values_within_the_limits():
    values = np.array([[-5.0, 0.0, 1.0], [100.0, 252.0, 999.0]])
    assert to_indices(values, LINEAR, Limits(0, 252)).tolist() == [[0, 0, 1], [100, 252, 252]]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_pixels_without_value_are_hatched_and_never_a_level_of_the_map(bad):
    values = np.zeros((9, 9))
    values[2:7, 2:7] = bad
    drawn = to_indices(values, LINEAR, Limits(0, 1))
    assert set(np.unique(drawn[2:7, 2:7])) == set(HATCH)
    assert drawn[0, 0] == 0
    assert palette("gray")[-2:] == list(HATCH_COLOURS)
    # the hatch stays on its pixels when the view begins elsewhere
    again = to_indices(values[1:, 2:], LINEAR, Limits(0, 1), origin=(1, 2))
    assert (again == drawn[1:, 2:]).all()


@pytest.mark.parametrize("name", STRETCHES)
@pytest.mark.parametrize("symmetric", [False, True])
def test_stretches_keep_order_and_ends_and_can_be_inverted(name, symmetric):
    look = Look(stretch=name, symmetric=symmetric)
    fraction = np.linspace(0, 1, 501)
    drawn = stretch(fraction, look)
    assert drawn[[0, -1]] == pytest.approx([0, 1], abs=1e-6)
    assert (np.diff(drawn) > 0).all()
    limits = Limits(-2.0, 6.0)
    assert unstretch(drawn, look, limits) == pytest.approx(limits.low + 8 * fraction, abs=2e-2)
    if symmetric:
        assert drawn[250] == pytest.approx(0.5, abs=1e-6)


@pytest.mark.parametrize("rule", RULES)
def test_limits_ignore_what_is_not_finite_and_say_how_much(rule):
    rng = np.random.default_rng(4)
    clean = rng.normal(10, 2, 40_000)
    dirty = np.concatenate([clean, np.full(8_000, np.nan), np.full(2_000, np.inf)])
    look = Look(rule=rule, low=3.0, high=4.0)
    found, wanted = find_limits(dirty, look), find_limits(clean, look)
    assert (found.low, found.high) == (wanted.low, wanted.high)
    assert found.ignored == pytest.approx(0.2)


def test_limits_by_percentile_and_by_sigma_are_what_they_say():
    values = np.random.default_rng(4).normal(10, 2, 200_000)
    by_percent = find_limits(values, Look(rule="percentile", percent=90))
    assert np.mean((values > by_percent.low) & (values < by_percent.high)) == pytest.approx(0.9, abs=1e-3)
    by_sigma = find_limits(values, Look(rule="sigma", sigmas=3))
    assert (by_sigma.low, by_sigma.high) == pytest.approx((4, 16), abs=0.05)


def test_z_scale_does_not_follow_the_stars():
    rng = np.random.default_rng(4)
    values = rng.normal(100, 5, 100_000)
    values[:300] += 50_000
    limits = find_limits(values, Look(rule="z-scale"))
    assert 60 < limits.low < 100 < limits.high < 140


@pytest.mark.parametrize("value", [0.0, 7.5, -1e6])
def test_a_constant_image_gets_a_symmetric_unit_range_and_a_note(value):
    for rule in ("z-scale", "percentile", "sigma"):
        limits = find_limits(np.full(100, value), Look(rule=rule))
        assert (limits.low, limits.high) == (value - 0.5, value + 0.5)
        assert "constant" in limits.note


def test_an_image_without_values_gets_a_note():
    limits = find_limits(np.full(10, np.nan), Look())
    assert limits.low < limits.high
    assert limits.ignored == 1.0
    assert limits.note == "no finite pixel"


def test_differences_are_white_at_zero():
    look = look_for("difference")
    limits = find_limits(np.random.default_rng(1).normal(0.3, 1, 10_000), look)
    assert limits.low == -limits.high
    index = to_indices(np.zeros((1, 1)), look, limits)[0, 0]
    assert palette(look.colours)[index] == "#f7f7f7"


def test_masked_pixels_are_tinted_and_the_first_plane_is_seen():
    levels = levels_beside(2)
    indices = to_indices(np.full((1, 4), 0.0), Look("linear"), Limits(0, 1), levels=levels)
    mask = np.array([[0, 1, 2, 3]], np.uint32)
    drawn = cover(indices, mask, (0, 1), levels)
    assert drawn.tolist() == [[0, levels, levels + SHADES + 1, levels]]
    colours = palette("gray", ("#ff0000", "#0000ff"), 1.0)
    assert [colours[k] for k in drawn[0]] == ["#000000", "#ff0000", "#0000ff", "#ff0000"]


def test_a_masked_pixel_without_value_has_a_shade_of_its_own_and_absent_planes_tint_nothing():
    levels = levels_beside(2)
    indices = to_indices(np.array([[np.nan, 0.5]]), Look("linear"), Limits(0, 1), levels=levels)
    drawn = cover(indices.copy(), np.array([[1, 0]], np.uint32), (0, -1), levels)
    assert drawn[0, 0] == levels + SHADES
    assert drawn[0, 1] == indices[0, 1]


@pytest.mark.parametrize("planes", [0, 1, 10, 40])
def test_palettes_have_256_colours_whatever_the_planes(planes):
    colours = palette("viridis", tuple("#123456" for _ in range(planes)), 0.5)
    assert len(colours) == 256
    mask = np.array([[1 << min(planes, 31)]], np.uint64)
    levels = levels_beside(planes)
    assert cover(np.zeros((1, 1), np.uint8), mask, tuple(range(planes)), levels).max() < HATCH[0]
