import os

import numpy as np
import pytest

from nightlab.dashboards.images import pyramid as rooms
from nightlab.dashboards.images.draw import BUDGET, level_for
from nightlab.dashboards.images.pyramid import LEVELS, Pyramid, keep, make, read


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "nightlab" / "pyramids"


def slow_mean(values, level):
    ny, nx = (-(-n // level) for n in values.shape)
    out = np.full((ny, nx), np.nan)
    for j in range(ny):
        for i in range(nx):
            block = values[j * level : (j + 1) * level, i * level : (i + 1) * level]
            good = block[np.isfinite(block)]
            if good.size:
                out[j, i] = good.mean()
    return out


@pytest.mark.parametrize("shape", [(32, 48), (37, 19), (1, 5)])
def test_means_leave_out_what_is_not_finite(shape):
    rng = np.random.default_rng(2)
    values = rng.normal(5, 1, shape).astype(np.float32)
    values[rng.random(shape) < 0.3] = np.nan
    values[0, 0] = np.inf
    made = make(values, None)
    for level in LEVELS:
        np.testing.assert_allclose(made.values[level], slow_mean(values, level), rtol=1e-5)


def test_the_strongest_value_survives_with_its_sign():
    values = np.ones((40, 40), np.float32)
    values[13, 22], values[30, 3], values[5, 5] = -9.0, 7.0, np.nan
    made = make(values, None, strongest=True)
    for level in LEVELS:
        assert made.values[level][13 // level, 22 // level] == -9.0
        assert made.values[level][30 // level, 3 // level] == 7.0
        assert np.isfinite(made.values[level]).all()


def test_a_single_masked_pixel_is_seen_at_every_level():
    mask = np.zeros((50, 30), np.uint32)
    mask[49, 29], mask[48, 28] = 1 << 20, 1 << 3
    made = make(np.zeros(mask.shape), mask)
    for level in LEVELS:
        assert made.masks[level][49 // level, 29 // level] & 1 << 20
        assert np.bitwise_or.reduce(made.masks[level], axis=None) == (1 << 20 | 1 << 3)


def test_integers_and_empty_regions_reduce():
    made = make(np.arange(64, dtype=np.uint16).reshape(8, 8), None)
    assert made.values[2][0, 0] == np.mean([0, 1, 8, 9])
    assert np.isnan(make(np.full((4, 4), np.nan), None).values[4]).all()


def test_pyramids_are_kept_by_key_and_read_again(folder, monkeypatch):
    values, mask = np.random.default_rng(1).normal(size=(70, 90)), np.ones((70, 90), np.uint32)
    made = Pyramid.of(values, mask, key="abc-flux")
    assert [path.name for path in folder.iterdir()] == ["abc-flux.zarr"]
    monkeypatch.setattr(rooms, "make", lambda *_, **__: pytest.fail("made again"))
    again = Pyramid.of(values, mask, key="abc-flux")
    for level in LEVELS:
        assert (again.values[level] == made.values[level]).all()
        assert (again.masks[level] == made.masks[level]).all()


def test_an_image_without_key_leaves_nothing(folder):
    Pyramid.of(np.zeros((8, 8)), None)
    assert not folder.exists()


def test_a_damaged_pyramid_is_made_again(folder):
    values = np.random.default_rng(1).normal(size=(70, 90))
    made = Pyramid.of(values, None, key="abc")
    victim = next(path for path in (folder / "abc.zarr" / "values" / "2").rglob("c/*/*") if path.is_file())
    victim.write_bytes(b"nonsense")
    again = Pyramid.of(values, None, key="abc")
    assert (again.values[2] == made.values[2]).all()
    assert read(folder / "abc.zarr") is not None


def test_a_pyramid_of_another_shape_is_not_believed(folder):
    Pyramid.of(np.zeros((64, 64)), None, key="abc")
    assert Pyramid.of(np.ones((32, 64)), None, key="abc").values[2].shape == (16, 32)


def test_nothing_half_written_is_left_and_a_full_disk_is_no_reason_to_show_nothing(folder, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.rename", full)
    assert Pyramid.of(np.ones((32, 32)), None, key="abc").values[2].shape == (16, 16)
    assert list(folder.iterdir()) == []


def test_the_pyramids_not_used_for_longest_make_room(folder):
    one = make(np.random.default_rng(1).normal(size=(256, 256)), None)
    for k in range(4):
        keep(one, folder / f"{k}.zarr")
        os.utime(folder / f"{k}.zarr", (1000 + k, 1000 + k))
    read(folder / "0.zarr")  # used just now
    size = sum(path.stat().st_size for path in (folder / "0.zarr").rglob("*") if path.is_file())
    keep(one, folder / "new.zarr", max_bytes=int(2.5 * size))
    assert sorted(path.name for path in folder.iterdir()) == ["0.zarr", "new.zarr"]


@pytest.mark.parametrize(
    ("scale", "level"), [(0.05, 1), (1.0, 1), (1.2, 2), (2.0, 2), (3.1, 4), (7.9, 8), (9.0, 16), (40.0, 16)]
)
def test_a_view_gets_the_finest_copy_that_the_screen_can_show(scale, level):
    assert level_for(scale, int(300 * 200 * scale**2)) == level


def test_what_is_sent_stays_within_the_budget():
    for share in (1, 2, 4):
        for pixels in (1e5, 1e6, 1e7):
            level = level_for(1.0, int(pixels), share)
            assert level == LEVELS[-1] or pixels / level**2 <= BUDGET / share
