"""The readers behind the catalogues, on files made here."""

import astropy.units as u
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xarray as xr
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS
from lsst.daf.butler import DatasetType

from nightlab.data.repository import make_repository, open_repository
from nightlab.data.sources.arrays import arrays_later, open_metrics, read_arrays, read_header, read_metrics
from nightlab.data.sources.images import image_later, read_image
from nightlab.data.sources.place import Place
from nightlab.data.sources.products import product_later, read_product
from nightlab.data.sources.tables import parquet_later, read_parquet, read_table, table_later
from nightlab.errors import BadInput, CorruptFile, MissingData, ShapeError

BIG = 2**60 + 1


def at(path, **more):
    return Place(path=str(path), **more)


def sky_header():
    wcs = WCS(naxis=2)
    wcs.wcs.crval, wcs.wcs.crpix, wcs.wcs.cdelt, wcs.wcs.ctype = (
        (10, 20),
        (3, 3),
        (-1e-4, 1e-4),
        ("RA---TAN", "DEC--TAN"),
    )
    return wcs.to_header()


@pytest.fixture
def pixels():
    return np.random.default_rng(1).normal(100, 5, (12, 16)).astype(np.float32)


# ---- places


def test_places_are_urls_and_back():
    assert Place.of("nightlab://kids-galaxies/a/b.fits") == Place(path="a/b.fits", data_set="kids-galaxies")
    assert Place.of("nightlab://kids-galaxies/a/b.fits").url == "nightlab://kids-galaxies/a/b.fits"
    assert Place.of("file:///x/y").path == Place.of("/x/y").url == "/x/y"


def test_a_pattern_must_fit_one_file(tmp_path):
    for name in ("a_1.fits", "a_2.fits"):
        (tmp_path / name).touch()
    assert at(tmp_path / "*_1.fits").file() == tmp_path / "a_1.fits"
    with pytest.raises(BadInput, match="2 files fit"):
        at(tmp_path / "a_*.fits").file()
    with pytest.raises(MissingData) as caught:
        at(tmp_path / "b_*.fits", made_by="make b").file()
    assert caught.value.hint == "make it: make b"


# ---- images


def test_pixels_carry_noise_mask_and_header(tmp_path, pixels):
    pixels[2, 3] = np.nan
    fits.PrimaryHDU(pixels, fits.Header({"BUNIT": "adu", "EXPTIME": 30.0, "LONG": "x" * 60})).writeto(
        tmp_path / "i.fits"
    )
    fits.PrimaryHDU(np.full(pixels.shape, 2.0)).writeto(tmp_path / "sigma.fits")
    bad = np.zeros(pixels.shape, np.int32)
    bad[5, 6] = 7
    fits.PrimaryHDU(bad).writeto(tmp_path / "m.fits")
    image = read_image(
        at(tmp_path / "i.fits"), reader="pixels", sigma=str(tmp_path / "sigma.fits"), mask=str(tmp_path / "m.fits")
    )
    assert image.unit == u.adu
    assert image.sky_projection is None
    assert image.metadata["EXPTIME"] == 30.0
    expected = np.full(pixels.shape, 4.0)
    expected[2, 3] = np.inf
    np.testing.assert_array_equal(image.variance.array, expected)
    assert np.argwhere(image.mask.get("BAD")).tolist() == [[5, 6]]
    assert np.argwhere(image.mask.get("NO_DATA")).tolist() == [[2, 3]]


def test_mask_planes_keep_the_names_of_their_header(tmp_path, pixels):
    mask = np.zeros(pixels.shape, np.int32)
    mask[1, 2], mask[3, 4], mask[5, 6] = 1 << 1, 1 << 5, 1 << 9
    header = fits.Header({"MP_SAT": 1, "HIERARCH MP_DETECTED": 5, "HIERARCH MP_OWN_IDEA": 9})
    hdus = [fits.PrimaryHDU(), fits.ImageHDU(pixels, sky_header()), fits.ImageHDU(mask, header)]
    fits.HDUList([*hdus, fits.ImageHDU(np.full(pixels.shape, 9.0))]).writeto(tmp_path / "c.fits")
    path = tmp_path / "c.fits"
    image = read_image(at(path), reader="pixels", hdu=1, mask=f"{path}#2", variance=f"{path}#3")
    assert np.argwhere(image.mask.get("SATURATED")).tolist() == [[1, 2]]
    assert np.argwhere(image.mask.get("DETECTED")).tolist() == [[3, 4]]
    assert not image.mask.get("BAD").any()
    assert (image.variance.array == 9.0).all()
    sky = image.sky_projection.pixel_to_sky(x=2.0, y=2.0)
    assert (sky.ra.deg, sky.dec.deg) == pytest.approx((10, 20))


def test_numbers_that_wrapped_below_zero_are_brought_back(tmp_path):
    raw = np.full((4, 5), 11_000, np.uint32)
    raw[1, 1] = 2**32 - 17
    fits.PrimaryHDU(raw).writeto(tmp_path / "w.fits")
    image = read_image(at(tmp_path / "w.fits"), reader="pixels", wraps=32)
    assert image.image.array[1, 1] == -17
    assert (np.delete(image.image.array.ravel(), 6) == 11_000).all()


def test_frames_with_a_wcs_take_weight_and_mask_from_other_files(tmp_path, pixels):
    fits.PrimaryHDU(pixels, sky_header()).writeto(tmp_path / "x_ooi.fits")
    weight = np.full(pixels.shape, 0.25)
    weight[0, 0] = 0
    fits.PrimaryHDU(weight).writeto(tmp_path / "x_oow.fits")
    image = read_image(at(tmp_path / "*_ooi.fits"), weight=str(tmp_path / "*_oow.fits"))
    assert image.variance.array[1, 1] == 4.0
    assert np.argwhere(image.mask.get("NO_DATA")).tolist() == [[0, 0]]
    fits.PrimaryHDU(weight[:5]).writeto(tmp_path / "short.fits")
    with pytest.raises(ShapeError):
        read_image(at(tmp_path / "x_ooi.fits"), mask=str(tmp_path / "short.fits"))


@pytest.mark.parametrize("reader", ["pixels", "GenericFITS"])
def test_an_image_later_is_the_same_image(tmp_path, pixels, reader):
    pixels[3, 3] = np.nan
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(pixels, sky_header())]).writeto(tmp_path / "i.fits")
    now, later = (read(at(tmp_path / "i.fits"), reader=reader) for read in (read_image, image_later))
    assert later.sizes == {"y": 12, "x": 16}
    assert later["image"].chunks is not None
    np.testing.assert_array_equal(later["image"], now.image.array)
    np.testing.assert_array_equal(later["variance"], now.variance.array)
    assert np.argwhere(later["flagged"].values).tolist() == [[3, 3]]


def test_images_that_are_none_are_refused(tmp_path):
    Table({"a": [1]}).write(tmp_path / "t.fits")
    for read in (read_image, image_later):
        with pytest.raises(BadInput, match="no two-dimensional image"):
            read(at(tmp_path / "t.fits"), reader="pixels")
    with pytest.raises(BadInput, match="no reader"):
        read_image(at(tmp_path / "t.fits"), reader="Hubble")
    with pytest.raises(BadInput, match="colour"):
        read_image(at(tmp_path / "t.fits"), reader="SDSS", colour="red")
    (tmp_path / "cut.fits").write_bytes(b"SIMPLE")
    with pytest.raises(CorruptFile):
        read_image(at(tmp_path / "cut.fits"), reader="pixels")


# ---- tables


def test_tables_are_read_from_every_format(tmp_path):
    table = Table({"id": np.array([BIG, 2]), "flux": [1.5, np.nan]})
    table.write(tmp_path / "t.fits")
    table.write(tmp_path / "t.ecsv")
    table.write(tmp_path / "t.txt", format="ascii.commented_header")
    table.write(tmp_path / "t.dat", format="ascii.no_header")
    np.savez(tmp_path / "t.npz", rows=table.as_array(), other=np.arange(3))
    named = {"names": ["id", "flux"]}
    for name, options in (
        ("t.fits", {}),
        ("t.ecsv", {"format": "ecsv"}),
        ("t.txt", {"format": "commented"}),
        ("t.dat", {"format": "columns", **named}),
        ("t.npz", {"format": "npz", "member": "rows"}),
    ):
        found = read_table(at(tmp_path / name), units={"flux": "nJy"}, **options)
        assert list(found["id"]) == [BIG, 2], name
        np.testing.assert_array_equal(np.asarray(found["flux"]), [1.5, np.nan])
        assert found["flux"].unit == u.nJy
        assert list(table_later(at(tmp_path / name), **options).compute()["id"]) == [BIG, 2]
    with pytest.raises(BadInput, match="no table format"):
        read_table(at(tmp_path / "t.fits"), format="csv")
    with pytest.raises(CorruptFile):
        read_table(at(tmp_path / "t.npz"), format="npz", member="absent")
    with pytest.raises(CorruptFile):
        read_table(at(tmp_path / "t.npz"))


def test_parquet_keeps_large_integers_units_and_what_is_absent(tmp_path):
    columns = {
        "id": pa.array([BIG, None, 3], pa.int64()),
        "flux": pa.array([1.0, None, np.nan], pa.float32()),
        "name": pa.array(["a", None, "c"]),
        "when": pa.array([1000, None, 3000], pa.timestamp("ns")),
        "flag": pa.array([True, None, False]),
        "nothing": pa.nulls(3),
    }
    pq.write_table(pa.table(columns), tmp_path / "n.parquet")
    found = read_parquet(at(tmp_path / "n.parquet"))
    assert list(found["id"].mask) == list(found["name"].mask) == list(found["flag"].mask) == [False, True, False]
    assert (found["id"][0], found["id"][2]) == (BIG, 3)
    np.testing.assert_array_equal(found["flux"], np.float32([1.0, np.nan, np.nan]))
    assert np.isnan(found["nothing"]).all()
    assert read_parquet(at(tmp_path / "n.parquet"), columns=["flux"]).colnames == ["flux"]
    later = parquet_later(at(tmp_path / "n.parquet"), columns=["flux"])
    assert len(later) == 3

    kept = Table({"ra": [1.0, 2.0] * u.deg})
    kept.write(tmp_path / "u.parquet")
    assert read_parquet(at(tmp_path / "u.parquet"))["ra"].unit == u.deg
    (tmp_path / "u.parquet").write_bytes(b"PAR1")
    with pytest.raises(CorruptFile):
        read_parquet(at(tmp_path / "u.parquet"))


# ---- arrays, metrics, headers


def test_arrays_have_named_axes(tmp_path):
    rows = np.zeros(2, dtype=[("x", float)])
    np.savez(tmp_path / "b.npz", images=np.ones((2, 3, 4)), psf=np.ones((5, 5)), rows=rows)
    options = {"dims": {"images": ["band", "y", "x"]}, "coords": {"band": ["g", "r"]}, "units": {"images": "nJy"}}
    found = read_arrays(at(tmp_path / "b.npz"), **options)
    assert found["images"].sel(band="r").sizes == {"y": 3, "x": 4}
    assert found["images"].attrs["units"] == "nJy"
    assert found["psf"].dims == ("psf_0", "psf_1")
    assert set(found) == {"images", "psf"}
    assert arrays_later(at(tmp_path / "b.npz"), **options)["images"].chunks is not None
    with pytest.raises(BadInput, match="3 axes and 1 names"):
        read_arrays(at(tmp_path / "b.npz"), dims={"images": ["y"]})


def test_stamps_of_one_name_are_stacked(tmp_path):
    stamps = [fits.ImageHDU(np.full((2, 3), k, np.int16), name="IMAGE") for k in range(4)]
    fits.HDUList([fits.PrimaryHDU(), *stamps]).writeto(tmp_path / "s.fits")
    found = read_arrays(at(tmp_path / "s.fits"), hdu="IMAGE", stack=True, dims={"values": ["t", "y", "x"]})
    assert found.sizes == {"t": 4, "y": 2, "x": 3}
    assert list(found["values"].mean(("y", "x"))) == [0, 1, 2, 3]


def test_arrays_that_are_pickles_are_refused(tmp_path):
    np.save(tmp_path / "p.npy", np.array([{"a": 1}], dtype=object))
    with pytest.raises(CorruptFile):
        read_arrays(at(tmp_path / "p.npy"))


@pytest.mark.parametrize("name", ["m.zarr", "m.nc"])
@pytest.mark.filterwarnings("ignore:.*[Cc]onsolidated.*")
def test_metrics_are_read_and_opened(tmp_path, name):
    made = xr.Dataset({"seeing": ("visit", [1.0, np.nan, 2.0], {"unit": "arcsec"})}, coords={"visit": [1, 2, 3]})
    if name.endswith("zarr"):
        made.to_zarr(tmp_path / name)
    else:
        made.to_netcdf(tmp_path / name, engine="h5netcdf")
    xr.testing.assert_identical(read_metrics(at(tmp_path / name)), made)
    with open_metrics(at(tmp_path / name)) as later:
        assert later["seeing"].chunks is not None
        xr.testing.assert_identical(later.compute(), made)
    (tmp_path / "bad.nc").write_text("no")
    with pytest.raises(CorruptFile):
        open_metrics(at(tmp_path / "bad.nc"))


def test_headers_come_from_fits_and_yaml(tmp_path):
    fits.PrimaryHDU(header=fits.Header({"TELESCOP": "Subaru"})).writeto(tmp_path / "h.fits")
    assert read_header(at(tmp_path / "h.fits"))["TELESCOP"] == "Subaru"
    (tmp_path / "l.yaml").write_text(
        "!<lsst.daf.base.PropertyList>\n- [TELESCOP, String, CTIO, '']\n- [EXP_TIME_LONG, Double, 3.5, x]\n"
    )
    header = read_header(at(tmp_path / "l.yaml"))
    assert (header["TELESCOP"], header["EXP_TIME_LONG"]) == ("CTIO", 3.5)
    (tmp_path / "m.yaml").write_text("TELESCOP: CFHT\nCOMMENT: [a, b]\n")
    assert read_header(at(tmp_path / "m.yaml"))["TELESCOP"] == "CFHT"
    (tmp_path / "x.yaml").write_text("!!python/object/apply:os.system ['true']")
    with pytest.raises(CorruptFile):
        read_header(at(tmp_path / "x.yaml"))


# ---- products


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """One visit's table and metrics in a run of a SimCam repository."""
    folder = tmp_path_factory.mktemp("products") / "repo"
    make_repository(folder, "SimCam")
    butler = open_repository(folder, writeable=True)
    butler.collections.register("runs/ApPipe")
    for name, kind in (("dia_object", "ArrowAstropy"), ("metrics", "XarrayDataset"), ("dia_source", "ArrowAstropy")):
        butler.registry.registerDatasetType(DatasetType(name, ("instrument",), kind, universe=butler.dimensions))
    objects = Table({"diaObjectId": np.array([BIG, 7]), "ra": [1.0, 2.0] * u.deg})
    butler.put(objects, "dia_object", instrument="SimCam", run="runs/ApPipe")
    butler.put(xr.Dataset({"n": ("x", [1.0])}), "metrics", instrument="SimCam", run="runs/ApPipe")
    butler.close()
    return folder


def test_products_are_read_by_name(repository):
    found = read_product(at(repository), dataset_type="dia_object")
    assert list(found["diaObjectId"]) == [BIG, 7]
    assert found["ra"].unit == u.deg
    assert list(product_later(at(repository), dataset_type="dia_object").compute()["diaObjectId"]) == [BIG, 7]
    assert read_product(at(repository), dataset_type="metrics")["n"].item() == 1.0
    assert product_later(at(repository), dataset_type="metrics")["n"].chunks is not None


@pytest.mark.parametrize(
    ("folder", "options"),
    [
        ("nowhere", {"dataset_type": "dia_object"}),
        ("", {"dataset_type": "dia_object", "run": "runs/Templates"}),
        ("", {"dataset_type": "dia_source"}),
        ("", {"dataset_type": "visit_image", "data_id": {"visit": "3", "detector": "0"}}),
    ],
)
def test_a_product_that_is_not_made_yet_names_its_command(repository, folder, options):
    place = Place(path=str(repository / folder), made_by="nightlab run ApPipe")
    for read in (read_product, product_later):
        with pytest.raises(MissingData, match="there is no") as caught:
            read(place, **options)
        assert caught.value.hint == "make it: nightlab run ApPipe"
