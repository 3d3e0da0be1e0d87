import numpy as np
import pytest

from nightlab.simulate.pixels import draw_stars
from nightlab.simulate.truth import difference_variance, flux_variance, moffat_transfer


@pytest.mark.parametrize("fwhm", [2.8, 3.4, 4.4])
def test_flux_variance_is_that_of_the_drawn_star(fwhm):
    image = np.zeros((121, 121))
    one = np.ones(1)
    draw_stars(image, 60 * one, 60 * one, one * 1e6, fwhm * one, 0 * one, 0 * one)
    psf = image / image.sum()
    assert flux_variance(moffat_transfer(fwhm), 7.0)[0] == pytest.approx(7.0 / (psf**2).sum(), rel=0.01)


def test_a_perfect_template_costs_nothing_and_an_equal_one_doubles_the_variance():
    science, template = moffat_transfer(3.4), moffat_transfer(3.0)
    alone = flux_variance(science, 4.0)
    free = difference_variance(science, np.array([4.0]), template, np.array([0.0]))
    np.testing.assert_allclose(free, alone)
    equal = difference_variance(science, np.array([4.0]), science, np.array([4.0]))
    np.testing.assert_allclose(equal, 2.0 * alone)
    third = difference_variance(science, np.array([4.0]), template, np.array([4.0 / 3.0]))
    assert alone[0] < third[0] < 2.0 * alone[0]


def test_reference_errors_are_honest(small):
    reference, objects = small.tables["reference"], small.tables["truth_objects"]
    truth = objects[np.isin(objects["objectId"], reference["refId"])]
    assert len(truth) == len(reference) > 150
    order = np.argsort(np.asarray(truth["objectId"]))[np.argsort(np.argsort(np.asarray(reference["refId"])))]
    truth = truth[order]
    pull = (np.asarray(reference["dec"]) - np.asarray(truth["dec"])) / np.asarray(reference["decErr"])
    assert pull.std() == pytest.approx(1.0, abs=0.15)
    flux = 10 ** (-0.4 * (np.asarray(truth["r_mag"]) - 31.4))
    pull = (np.asarray(reference["r_flux"]) - flux) / np.asarray(reference["r_fluxErr"])
    assert pull.std() == pytest.approx(1.0, abs=0.15)
    assert reference.meta["epoch"] == 57388.5
