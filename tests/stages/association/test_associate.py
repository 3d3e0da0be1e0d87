import numpy as np
import pytest
from astropy.table import Table
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from nightlab.errors import BadInput
from nightlab.numeric.sphere import separation, unit_vectors
from nightlab.stages.association import AssociateConfig, assign, associate

ARCSEC = 1 / 3600
FLAGS = (*AssociateConfig().reject_flags, "isDipole", "isNegative")


def _sources(visit, mjd, ra, dec, *, detector=0, err=0.1, **flags):
    n = len(ra)
    table = Table()
    table["diaSourceId"] = (visit * 1000 + detector) * 100_000 + 1 + np.arange(n)
    table["visit"], table["detector"], table["band"] = np.full(n, visit), np.full(n, detector), np.full(n, "r")
    table["midpointMjdTai"] = np.full(n, float(mjd))
    table["ra"], table["dec"] = np.asarray(ra, float), np.asarray(dec, float)
    table["raErr"] = table["decErr"] = np.broadcast_to(np.asarray(err, float) * ARCSEC, n)
    for name in ("psfFlux", "scienceFlux"):
        table[name], table[name + "Err"] = np.full(n, 100.0), np.full(n, 10.0)
    for name in FLAGS:
        table[name] = np.asarray(flags.get(name, np.zeros(n)), dtype=bool)
    return table


def _grid(n, *, ra=10.0, dec=-5.0, step=30.0):
    return ra + np.arange(n) * step * ARCSEC / np.cos(np.deg2rad(dec)), np.full(n, dec)


def _plane(east, north):
    """Place points by arcseconds around (180, 0), where the sphere is a plane to 1e-10."""
    return unit_vectors(180 + np.asarray(east) * ARCSEC, np.asarray(north) * ARCSEC)


def _errors(*values):
    return np.array([[v, v] for v in values])


def test_five_sources_five_objects_one_of_each_alone():
    rng = np.random.default_rng(5)
    ra, dec = _grid(6)
    first = _sources(1, 60000, ra[:5], dec[:5])
    scatter = rng.uniform(-0.1, 0.1, (2, 5)) * ARCSEC
    second = _sources(2, 60001, ra[1:] + scatter[0], dec[1:] + scatter[1])
    made = associate([first, second])
    old = first["diaSourceId"].tolist()
    new = second["diaSourceId"].tolist()
    assert made.dia_source["diaObjectId"].tolist() == old + old[1:] + new[4:]
    assert made.dia_object["nDiaSources"].tolist() == [1, 2, 2, 2, 2, 1]
    assert made.dia_object["diaObjectId"].tolist() == old + new[4:]
    assert made.metrics["fraction_repeated"].item() == pytest.approx(4 / 6)
    assert 0 < made.metrics["median_separation"].item() < 0.15


def test_exactly_the_nan_positions_are_dropped():
    ra, dec = _grid(8)
    ra[[1, 4]], dec[6] = np.nan, np.nan
    made = associate([_sources(1, 60000, ra, dec)])
    assert made.metrics["n_nan_positions"].item() == 3
    assert len(made.dia_source) == 8
    np.testing.assert_array_equal(np.flatnonzero(made.dia_source["diaObjectId"] == 0), [1, 4, 6])
    assert len(made.dia_object) == 5


def test_no_objects_yet_and_no_sources():
    ra, dec = _grid(3)
    empty = _sources(1, 60000, [], [])
    made = associate([empty, _sources(2, 60001, ra, dec)])
    np.testing.assert_array_equal(made.dia_source["diaObjectId"], made.dia_source["diaSourceId"])
    nothing = associate([empty])
    assert len(nothing.dia_source) == len(nothing.dia_object) == 0
    assert "diaObjectId" in nothing.dia_source.colnames
    assert nothing.metrics["n_dia_objects"].item() == 0
    assert np.isnan(nothing.metrics["fraction_repeated"].item())


def test_a_pair_across_ra_zero_is_one_object():
    step = 0.035 * ARCSEC
    made = associate([_sources(1, 60000, [360 - step], [0.0]), _sources(2, 60001, [step], [0.0])])
    assert made.dia_object["nDiaSources"].tolist() == [2]
    ra = made.dia_object["ra"][0]
    assert min(ra, 360 - ra) < 1e-9
    assert made.metrics["median_separation"].item() == pytest.approx(0.07, rel=1e-6)


@pytest.mark.parametrize("dec", [90.0, -90.0, 89.9999])
def test_poles(dec):
    # at a pole, opposite right ascensions are neighbours
    near = np.sign(dec) * (90 - 0.2 * ARCSEC)
    tables = [_sources(1, 60000, [0.0], [dec if abs(dec) == 90 else near]), _sources(2, 60001, [180.0], [near])]
    assert associate(tables).dia_object["nDiaSources"].tolist() == [2]


def test_assignment_finds_both_where_the_nearest_alone_would_lose_one():
    objects, sources = _plane([0.0, 0.6], [0, 0]), _plane([0.1, -0.4], [0, 0])
    # both sources are nearest to the first object; the first source can also have the second one
    assert assign(sources, _errors(0.3, 0.3), objects, _errors(0.3, 0.3)).tolist() == [1, 0]


def test_the_tighter_object_is_preferred_although_its_chi2_is_larger():
    objects, source = _plane([0.3, -0.3], [0, 0]), _plane([0.0], [0])
    # chi2: 0.09 / (0.05^2 + 0.15^2) = 3.6 against 0.09 / (0.05^2 + 0.6^2) = 0.25; the density at the source is higher
    assert assign(source, _errors(0.05), objects, _errors(0.15, 0.6)).tolist() == [0]


def test_anything_inside_the_gate_beats_no_match():
    source, objects = _plane([0.0], [0]), _plane([0.99, 30.0], [0, 0])
    # 0.99 arcsec are 14 sigma at the error floor
    assert assign(source, _errors(0.01), objects, _errors(0.01, 0.01)).tolist() == [0]
    assert assign(source, _errors(0.01), _plane([1.01], [0]), _errors(0.01)).tolist() == [-1]


def test_missing_errors_fall_back():
    objects, source = _plane([0.3, -0.32], [0, 0]), _plane([0.0], [0])
    # with 0.2 arcsec for the unknown, the known 0.2 arcsec object differs by distance only
    assert assign(source, _errors(0.1), objects, _errors(np.nan, 0.2)).tolist() == [0]
    assert assign(source, _errors(0.1), objects[::-1], _errors(0.2, np.nan)).tolist() == [1]


def test_one_object_takes_one_source_of_an_image():
    ra, dec = _grid(1)
    double = _sources(2, 60001, [ra[0], ra[0]], [dec[0], dec[0] + 0.3 * ARCSEC])
    made = associate([_sources(1, 60000, ra, dec), double])
    assert made.dia_object["nDiaSources"].tolist() == [2, 1]


def test_an_overlap_of_two_detectors_makes_one_object():
    ra, dec = _grid(3)
    tables = [_sources(1, 60000, ra, dec, detector=d) for d in (7, 2)]
    made = associate(tables)
    assert made.dia_object["diaObjectId"].tolist() == tables[1]["diaSourceId"].tolist()
    assert made.dia_object["nDiaSources"].tolist() == [2, 2, 2]


def test_assignment_equals_a_dense_one():
    rng = np.random.default_rng(11)
    objects, sources = (_plane(*rng.uniform(0, 6, (2, n))) for n in (60, 50))
    object_errors, source_errors = rng.uniform(0.05, 0.4, (60, 2)), rng.uniform(0.05, 0.4, (50, 2))
    offset = (objects[None, :, 1:] - sources[:, None, 1:]) / np.deg2rad(ARCSEC)
    variance = source_errors[:, None] ** 2 + object_errors[None] ** 2
    score = 0.5 * (offset**2 / variance).sum(-1) + 0.5 * np.log(variance.prod(-1))
    inside = np.hypot(*np.moveaxis(offset, -1, 0)) <= 1.0
    cost = np.full((50, 110), score[inside].max() + 1)
    cost[:, :60] = np.where(inside, score, 1e6)
    row, column = linear_sum_assignment(cost)
    expected = np.where(column < 60, column, -1)[np.argsort(row)]
    assert (expected >= 0).sum() > 30
    np.testing.assert_array_equal(assign(sources, source_errors, objects, object_errors), expected)


def test_positions_are_the_mean_of_unit_vectors():
    ra, dec = np.array([10.0, 10.0 + 0.4 * ARCSEC, 10.0 + 0.1 * ARCSEC]), np.array([60.0, 60.0, 60.0 + 0.3 * ARCSEC])
    made = associate([_sources(k + 1, 60000 + k, ra[k : k + 1], dec[k : k + 1]) for k in range(3)])
    mean = unit_vectors(ra, dec).sum(axis=0)
    expected = np.rad2deg(np.arctan2(mean[1], mean[0])), np.rad2deg(np.arcsin(mean[2] / np.linalg.norm(mean)))
    assert len(made.dia_object) == 1
    assert separation(made.dia_object["ra"], made.dia_object["dec"], *expected)[0] < 1e-8
    np.testing.assert_allclose(made.dia_object["raErr"], 0.1 * ARCSEC / np.sqrt(3))


def test_flagged_sources_join_but_do_not_start():
    ra, dec = _grid(3)
    cosmic = _sources(1, 60000, ra, dec, pixelFlags_cr=[1, 0, 0], isDipole=[0, 1, 0])
    made = associate([cosmic, _sources(2, 60001, ra, dec), _sources(3, 60002, ra, dec, centroid_flag=[1, 1, 1])])
    ids = np.asarray(made.dia_source["diaObjectId"]).reshape(3, 3)
    first = np.asarray(made.dia_source["diaSourceId"]).reshape(3, 3)
    np.testing.assert_array_equal(ids[0], [0, 0, first[0, 2]])
    np.testing.assert_array_equal(ids[1], [first[1, 0], first[1, 1], first[0, 2]])
    np.testing.assert_array_equal(ids[2], ids[1])
    assert made.metrics["n_unassociated"].item() == made.metrics["n_not_starting"].item() == 2


def test_negatives_and_dipoles_are_a_choice():
    ra, dec = _grid(2)
    table = _sources(1, 60000, ra, dec, isNegative=[1, 0], isDipole=[0, 1])
    for negative in (True, False):
        for dipoles in (True, False):
            config = AssociateConfig(new_from_negative=negative, new_from_dipoles=dipoles)
            started = associate([table], config).dia_source["diaObjectId"] > 0
            assert started.tolist() == [negative, dipoles]


def test_a_small_change_of_a_bright_star_is_a_residual_and_starts_nothing():
    ra, dec = _grid(4)
    sources = _sources(1, 60000, ra, dec)
    sources["psfFlux"] = [100.0, -100.0, 300.0, np.nan]
    sources["scienceFlux"] = [9900.0, 100.0, 9900.0, 9900.0]
    sources["templateFlux"] = [9800.0, 9900.0, 9800.0, 9800.0]
    made = associate([sources])
    assert (made.dia_source["diaObjectId"] > 0).tolist() == [False, False, True, True]
    assert (associate([sources], AssociateConfig(min_change=0.0)).dia_source["diaObjectId"] > 0).all()


def test_a_failed_subtraction_starts_nothing():
    ra, dec = _grid(5)
    made = associate(
        [_sources(1, 60000, ra[:1], dec[:1]), _sources(2, 60001, ra, dec)], AssociateConfig(max_new_objects=3)
    )
    assert made.metrics["n_detectors_refused"].item() == 1
    assert made.metrics["n_not_starting"].item() == 4
    assert made.dia_object["nDiaSources"].tolist() == [2]


def _crowd(rng, n_visits):
    stars = rng.uniform(0, 40, (2, 30)) * ARCSEC
    tables = []
    for visit in range(1, n_visits + 1):
        seen = rng.random(30) < 0.8
        ra, dec = stars[:, seen] + rng.normal(0, 0.15 * ARCSEC, (2, seen.sum()))
        cut = seen.sum() // 2
        tables += [
            _sources(visit, 60000 + visit % 3, ra[part] % 360, dec[part], detector=d, err=rng.uniform(0.05, 0.3))
            for d, part in ((1, slice(cut)), (0, slice(cut - 3, None)))
        ]
    return tables


def _assert_same(a, b):
    for name in ("dia_source", "dia_object"):
        one, other = getattr(a, name), getattr(b, name)
        assert one.colnames == other.colnames
        for column in one.colnames:
            np.testing.assert_array_equal(np.asarray(one[column]), np.asarray(other[column]))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_neither_row_nor_table_order_matters(seed):
    rng = np.random.default_rng(seed)
    tables = _crowd(rng, 4)
    made = associate(tables)
    shuffled = [table[rng.permutation(len(table))] for table in tables]
    rng.shuffle(shuffled)
    _assert_same(associate(shuffled), made)
    assert (made.dia_object["nDiaSources"] >= 2).any()


def test_associating_again_and_with_later_visits_changes_nothing():
    tables = _crowd(np.random.default_rng(3), 5)
    tables.sort(key=lambda table: table["midpointMjdTai"][0])
    made = associate(tables[:6])
    _assert_same(associate([made.dia_source]), made)
    longer = associate(tables).dia_source
    np.testing.assert_array_equal(longer["diaObjectId"][: len(made.dia_source)], made.dia_source["diaObjectId"])


def test_false_associations_are_rare():
    # one star per 100 square arcsec on a 10 arcsec lattice shaken by 4 arcsec, 20 visits with 0.1 arcsec scatter
    rng = np.random.default_rng(8)
    grid = np.stack(np.meshgrid(np.arange(20), np.arange(20))).reshape(2, -1) * 10.0
    stars = (grid + rng.uniform(-4, 4, grid.shape)) * ARCSEC
    tables = [
        _sources(v, 60000 + v, *(stars + rng.normal(0, 0.1 * ARCSEC, stars.shape)), err=0.1) for v in range(1, 21)
    ]
    made = associate(tables)
    star = (np.asarray(made.dia_source["diaSourceId"]) - 1) % 100_000
    wrong = np.mean(star[np.searchsorted(made.dia_source["diaSourceId"], made.dia_source["diaObjectId"])] != star)
    assert wrong < 0.01
    assert abs(len(made.dia_object) - 400) <= 4


def test_inputs_stay_untouched_and_bad_ones_are_refused():
    ra, dec = _grid(2)
    table = _sources(1, 60000, ra, dec)
    names = list(table.colnames)
    associate([table])
    assert table.colnames == names
    with pytest.raises(BadInput, match="no table"):
        associate([])
    with pytest.raises(BadInput, match="2 diaSourceIds occur more than once, 100000001"):
        associate([table, table])
    late = table.copy()
    late["midpointMjdTai"][0] = np.nan
    with pytest.raises(BadInput, match="1 sources have no finite midpointMjdTai"):
        associate([late])
    late.remove_column("pixelFlags_cr")
    with pytest.raises(BadInput, match="lacks pixelFlags_cr"):
        associate([late])
    table["diaSourceId"][0] = 0
    with pytest.raises(BadInput, match="not positive"):
        associate([table])
