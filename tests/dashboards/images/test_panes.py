import numpy as np
import pytest
from astropy.table import Table
from bokeh.document import Document
from image_makers import masked_image, projection
from lsst.images import Box

from nightlab.dashboards.images import ImagePanes, Marks, as_layer
from nightlab.dashboards.images.draw import BUDGET
from nightlab.dashboards.images.marks import MOST
from nightlab.dashboards.images.scaling import palette
from nightlab.dashboards.images.sky import link_state, sexagesimal, sky_link
from nightlab.dashboards.states import EmptyState, Nothing, Reason
from nightlab.images.footprints import Footprints
from nightlab.images.wcs import pixel_to_radec, radec_to_pixel


def look_at(panes, box, size=(200, 150), slots=None):
    """What the browser tells once the view has come to rest."""
    x1, x2, y1, y2 = box
    slots = range(len(panes.shown)) if slots is None else slots
    flat = [value for k in slots for value in (k, x1, x2, y1, y2, *size)]
    view = [(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1]
    panes.moved({"boxes": [flat], "view": [view], "fit": [False]})


def sent(panes, slot=0, part="fine"):
    """The image that the browser was sent for a pane."""
    name = panes.shown[slot]
    frame = panes.board.slots[slot].frames[name]
    return getattr(frame, part).data


@pytest.fixture
def pair():
    sky = projection()
    return {"science": masked_image(1, sky=sky), "template": masked_image(2, sky=sky)}


def test_close_up_the_exact_pixels_are_sent(pair):
    panes = ImagePanes(pair)
    panes.set_look(stretch="linear", rule="manual", low=0.0, high=1.0)
    look_at(panes, (9.5, 29.5, 4.5, 19.5))
    data = sent(panes)
    values = as_layer(pair["science"]).values
    x, y = int(data["x"][0] + 0.5), int(data["y"][0] + 0.5)
    image = data["image"][0]
    assert image.dtype == np.uint8
    wanted = np.floor(np.clip(values[y : y + image.shape[0], x : x + image.shape[1]], 0, 1) * 252 + 0.5)
    assert (image == wanted).all()
    assert (data["dw"][0], data["dh"][0]) == (image.shape[1], image.shape[0])
    assert x <= 9
    assert x + image.shape[1] >= 30


def test_zoomed_out_a_reduced_copy_lies_where_its_pixels_are(pair):
    panes = ImagePanes(pair)
    look_at(panes, (-0.5, 79.5, -0.5, 59.5), size=(20, 15))
    data = sent(panes)
    assert data["image"][0].shape == (15, 20)
    assert (data["x"][0], data["y"][0], data["dw"][0], data["dh"][0]) == (-0.5, -0.5, 80, 60)


def test_what_has_not_changed_is_not_sent_again(pair):
    panes = ImagePanes(pair)
    look_at(panes, (0, 40, 0, 30))
    before = [sent(panes, k) for k in (0, 1)]
    look_at(panes, (0, 40, 0, 30))
    panes.active = "template"
    panes.set_look(stretch="sqrt")
    assert sent(panes, 0) is before[0]
    assert sent(panes, 1) is not before[1]


def test_a_pan_sends_the_pixels_that_came_into_view_and_nothing_else(pair):
    panes = ImagePanes(pair)
    document = Document()
    document.add_root(panes.board.grid)
    look_at(panes, (10, 50, 10, 40))
    told = []
    document.on_change(lambda event: told.append((event.model, event.attr)))
    look_at(panes, (10, 50, 10, 40))
    assert told == []
    look_at(panes, (14, 54, 12, 42))
    fine = [panes.board.slots[k].frames[name].fine for k, name in enumerate(pair)]
    assert told == [(source, "data") for source in fine]


def test_all_panes_together_keep_to_the_budget_whatever_the_screen(pair):
    big = {name: np.zeros((2400, 3200), np.float32) for name in "abcd"}
    panes = ImagePanes(big)
    for width in (3200, 1600, 1100, 400):
        look_at(panes, (0, width, 0, 0.75 * width), size=(1920, 1440))
        sizes = [sent(panes, k)["image"][0].nbytes for k in range(4)]
        assert min(sizes) > 0.75 * width**2 / 17**2
        assert sum(sizes) <= 1.02 * BUDGET


def test_a_stretch_stays_with_its_layer_unless_it_is_for_all(pair):
    panes = ImagePanes(pair)
    panes.active = "template"
    panes.set_look(stretch="log")
    assert (panes.look("science").stretch, panes.look("template").stretch) == ("asinh", "log")
    panes.step()
    assert panes.look("template").stretch == "log"
    panes.together = True
    panes.set_look(stretch="sqrt", colours="viridis")
    assert {panes.look(name).stretch for name in pair} == {"sqrt"}
    assert [panes.look(name).colours for name in pair].count("viridis") == 1


def test_view_look_and_masks_stay_when_pixels_change(pair):
    panes = ImagePanes(pair, masks=True)
    look_at(panes, (0, 40, 0, 30))
    panes.set_look(rule="manual", low=-2.0, high=5.0)
    view = panes.view
    panes.load({"science": masked_image(7), "template": masked_image(8)})
    assert panes.view == view
    assert (panes.limits("science").low, panes.limits("science").high) == (-2.0, 5.0)
    assert panes.masks
    assert panes.readout is None or panes.readout.readings


def test_the_readout_of_all_layers_is_exact(pair):
    panes = ImagePanes(pair)
    panes.point(0, 33.2, 12.4)
    values = {reading.name: reading for reading in panes.readout.readings}
    for name, image in pair.items():
        assert values[name].value == image.image.array[12, 33]
        assert values[name].flags == ("DETECTED", "STREAK")
    ra, dec = pixel_to_radec(projection(), [33.2], [12.4])
    assert (panes.readout.ra, panes.readout.dec) == (ra[0], dec[0])


LINKS = {
    "the same": {},
    "moved": {"dx": 11.0, "dy": -4.5},
    "turned": {"rotation": 33.0},
    "flipped": {"flip": True},
    "coarser": {"scale": 0.9},
    "all of it": {"dx": 5.0, "dy": 9.0, "rotation": 200.0, "scale": 0.2, "flip": True},
}


@pytest.mark.parametrize("other", LINKS.values(), ids=LINKS)
def test_the_sky_link_goes_to_the_same_place_on_the_sky(other):
    first, second = projection(), projection(**other)
    link = sky_link(first, second, 40.0, 30.0)
    for x, y in ((40.0, 30.0), (3.0, 5.0), (70.0, 55.0)):
        there = radec_to_pixel(second, *pixel_to_radec(first, [x], [y]))
        assert link(x, y) == pytest.approx((there[0][0], there[1][0]), abs=1e-3)
    assert link.scale == pytest.approx(0.4 / other.get("scale", 0.4), rel=1e-4)


@pytest.mark.parametrize("other", LINKS.values(), ids=LINKS)
def test_linked_by_sky_the_readout_is_of_one_place(other):
    second = masked_image(2, sky=projection(**other))
    panes = ImagePanes({"a": masked_image(1, sky=projection()), "b": second}, link="sky")
    panes.point(0, 41.0, 31.0)
    there = radec_to_pixel(projection(**other), *pixel_to_radec(projection(), [41.0], [31.0]))
    x, y = (int(np.floor(v[0] + 0.5)) for v in there)
    assert panes.readout.readings[1].value == second.image.array[y, x]


def test_images_of_different_shape_are_linked_by_sky_and_the_browser_is_told(pair):
    small = masked_image(3, shape=(60, 80), sky=projection(dx=7.0))
    panes = ImagePanes({"a": masked_image(1, shape=(70, 80), sky=projection()), "b": small})
    assert panes.linking == "sky"
    assert "differ in shape" in panes.link_state().why
    maps = panes.board.link.data["maps"][0]
    assert maps[6:12] == pytest.approx([1, 0, 0, 1, 7, 0], abs=1e-3)
    assert panes.board.link.data["linked"] == [True]


def test_without_wcs_the_sky_link_is_off_with_the_reason_and_pixels_stay_linked():
    panes = ImagePanes({"a": masked_image(1, sky=projection()), "b": masked_image(2)})
    assert panes.linking == "pixels"
    assert panes.link_state().why == "sky: no WCS in b"
    panes.link = "sky"
    assert panes.linking == "off"
    panes.next_link()
    assert panes.linking == "pixels"
    panes.point(1, 3.0, 3.0)
    assert np.isnan(panes.readout.ra)


def test_neither_link_leaves_the_panes_on_their_own():
    panes = ImagePanes({"a": np.zeros((10, 10)), "b": np.eye(20)})
    assert panes.linking == "off"
    assert link_state(panes.layers).why == "pixels: the images differ in shape or place; sky: no WCS in a, b"


def test_images_that_do_not_overlap_are_drawn_and_read_apart():
    far = masked_image(2, sky=projection(dx=50_000.0))
    panes = ImagePanes({"science": masked_image(1, sky=projection()), "template": far}, link="sky")
    panes.point(0, 40.0, 30.0)
    assert panes.readout.readings[0].value is not None
    assert panes.readout.readings[1].value is None
    look_at(panes, (0, 79, 0, 59), slots=[0])
    look_at(panes, (50_000, 50_079, 0, 59), slots=[1])
    assert sent(panes, 1)["image"][0].size == 0


BAD = {
    "all NaN": (np.full((30, 40), np.nan), Reason.ALL_NAN),
    "all masked": (as_layer(np.full((30, 40), np.nan), mask=np.ones((30, 40), np.uint32)), Reason.ALL_MASKED),
    "nothing": (Nothing(Reason.FILE_MISSING, "not there"), Reason.FILE_MISSING),
    "a state": (EmptyState(Reason.NOT_RUN, "not yet"), Reason.NOT_RUN),
}


@pytest.mark.parametrize(("thing", "reason"), BAD.values(), ids=BAD)
def test_an_image_with_nothing_to_show_says_so_and_the_others_are_shown(thing, reason):
    panes = ImagePanes({"good": masked_image(), "bad": thing})
    assert panes.empties["bad"].reason is reason
    assert panes.board.link.data["shown"] == [[0]]
    children = [child for child, *_ in panes.board.grid.children]
    assert children[0] is panes.board.slots[0].figure
    assert f"data-reason='{reason.name}'" in children[1].text
    look_at(panes, (0, 40, 0, 30), slots=[0])
    assert sent(panes, 0)["image"][0].size > 0


ODD = {
    "constant": (np.full((30, 40), 7.0), "constant image: all pixels are 7"),
    "integer": (np.arange(1200).reshape(30, 40), "integer pixels"),
    "big-endian": (np.random.default_rng(1).normal(size=(30, 40)).astype(">f8"), ""),
    "a cube": (np.random.default_rng(1).normal(size=(3, 30, 40)), "plane 1 of 3 is shown"),
    "some NaN": (np.where(np.eye(30, 40) > 0, np.nan, 1.0 + np.arange(40)), "2.5 % without value"),
    "one pixel": (np.ones((1, 1)), "constant image"),
}


@pytest.mark.parametrize(("image", "said"), ODD.values(), ids=ODD)
def test_odd_images_are_drawn_and_the_caption_says_what_is_odd(image, said):
    panes = ImagePanes({"a": image})
    look_at(panes, (-0.5, 39.5, -0.5, 29.5))
    assert said in panes.board.slots[0].figure.title.text
    assert sent(panes)["image"][0].size > 0
    panes.point(0, 0.0, 0.0)
    assert panes.readout.readings[0].sigma is None


def test_masks_are_drawn_where_they_are_set_and_counted(pair):
    panes = ImagePanes(pair, masks=True, planes=["SATURATED"])
    look_at(panes, (-0.5, 79.5, -0.5, 59.5))
    image, frame = sent(panes)["image"][0], panes.board.slots[0].frames["science"]
    tinted = np.argwhere((image >= 245) & (image < 253))
    assert tinted.tolist() == [[5, 7]]
    assert len(frame.mapper.palette) == 256
    assert panes.mask_planes()[:2] == ["BAD", "SATURATED"]
    panes.masks = False
    assert frame.mapper.palette == palette("gray")


def test_blinking_shows_one_layer_after_the_other_and_ends_as_it_began(pair):
    panes = ImagePanes(pair)
    look_at(panes, (0, 40, 0, 30))
    panes.blink = True
    assert panes.shown == ["science"]
    panes.step()
    assert panes.shown == ["template"]
    assert panes.active == "template"
    visible = {name: frame.renderers[1].visible for name, frame in panes.board.slots[0].frames.items()}
    assert visible == {"science": False, "template": True}
    once = sent(panes)
    panes.step()
    panes.step()
    assert sent(panes) is once
    panes.blink = False
    assert panes.shown == ["science", "template"]


def test_a_single_pane_steps_through_all_layers(pair):
    panes = ImagePanes({**pair, "third": masked_image(3)}, panes=["science"])
    seen = []
    for _ in range(3):
        panes.step()
        seen.append(panes.panes)
    assert seen == [["template"], ["third"], ["science"]]


def test_views_are_set_by_pixel_and_by_sky(pair):
    panes = ImagePanes(pair)
    panes.go_to(x=12.0, y=13.0, width=20.0)
    assert panes.view == (12.0, 13.0, 20.0)
    assert panes.board.goal.data == {"view": [[12.0, 13.0, 20.0]], "fit": [False]}
    ra, dec = pixel_to_radec(projection(), [30.0], [31.0])
    panes.go_to(ra=ra[0], dec=dec[0])
    assert panes.view == pytest.approx((30.0, 31.0, 20.0), abs=1e-6)
    panes.reset()
    assert panes.view is None
    assert panes.board.goal.data["fit"] == [True]


def test_a_box_is_measured_in_all_panes(pair):
    panes = ImagePanes(pair)
    panes.measure(1, (10.0, 19.0, 10.0, 19.0))
    assert [found.name for found in panes.statistics] == ["science", "template"]
    assert [found.count for found in panes.statistics] == [100, 100]
    inside = pair["science"].image.array[10:20, 10:20]
    assert panes.statistics[0].median == pytest.approx(np.median(inside))
    assert panes.statistics[0].chi2 == pytest.approx(np.mean(inside**2) / 9, rel=1e-5)


def test_rows_are_found_by_position_and_named_by_text(pair):
    ids = [2**60 + 1, 2**60 + 2]
    ra, dec = pixel_to_radec(projection(), [20.0, 60.0], [30.0, 40.0])
    panes = ImagePanes(pair)
    panes.mark("things", Marks(Table({"id": ids, "ra": ra, "dec": dec, "snr": [5.25, 8.5]}), "id", ("snr",)))
    points = panes.board.slots[0].overlays["marks things"]
    assert points.data_source.data["x"] == pytest.approx([20, 60], abs=1e-4)  # also where no browser tells the view
    look_at(panes, (0, 39, 0, 59))
    assert points.data_source.data["x"] == pytest.approx([20], abs=1e-4)
    look_at(panes, (0, 79, 0, 59))
    panes.point(0, 60.5, 40.5)
    assert panes.near == "id 1152921504606846978 · snr 8.5"
    panes.point(0, 40.0, 5.0)
    assert panes.near == ""
    panes.mark("things", None)
    assert not points.visible


def test_footprints_are_drawn_as_lines_halfway_between_inside_and_outside():
    regions = np.zeros((60, 80), bool)
    regions[20:24, 10:16] = regions[40, 50] = True
    box = Box.factory[100:160, 1000:1080]
    footprints = Footprints.of_regions(
        regions, box, np.array([1012.0, 1050.0]), np.array([121.0, 140.0]), np.array([9.0, 6.0])
    )
    layers = {"science": as_layer(np.ones((60, 80)), x0=1000, y0=100), "elsewhere": as_layer(np.ones((60, 80)))}
    panes = ImagePanes(layers)
    panes.mark("footprints", Marks.of_footprints(footprints))
    look_at(panes, (1000, 1079, 100, 159))
    drawn = {name: panes.board.slots[k].overlays for k, name in enumerate(panes.shown)}
    assert [*drawn["science"]] == ["borders footprints"]
    lines = drawn["science"]["borders footprints"].data_source
    x, y = lines.data["x"], lines.data["y"]
    first, second = (slice(*edges) for edges in zip([0, *(np.flatnonzero(np.isnan(x))[:-1] + 1)],
                                                    np.flatnonzero(np.isnan(x)), strict=True))  # fmt: skip
    assert (x[first].min(), x[first].max(), y[first].min(), y[first].max()) == (1009.5, 1015.5, 119.5, 123.5)
    assert (x[second].min(), x[second].max(), y[second].min(), y[second].max()) == (1049.5, 1050.5, 139.5, 140.5)
    assert (x[first][0], y[first][0]) == (x[first][-1], y[first][-1])
    panes.point(0, 1012.0, 121.0)
    assert panes.near == "footprint 0 · snr 9 · pixels 24 · peaks 1"
    look_at(panes, (1040, 1060, 130, 150))
    assert lines.data["x"].size == x[second].size + 1
    # on an image of another grid there are only their peaks
    assert [*drawn["elsewhere"]] == ["marks footprints"]
    assert drawn["elsewhere"]["marks footprints"].data_source.data["x"] == [1050.0]


def test_an_image_full_of_footprints_shows_their_peaks():
    regions = np.zeros((600, 800), bool)
    regions[::2, ::2] = True
    y, x = np.nonzero(regions)
    footprints = Footprints.of_regions(
        regions, Box.factory[0:600, 0:800], x.astype(float), y.astype(float), np.full(x.size, 5.0)
    )
    marks = Marks.of_footprints(footprints)
    layer = as_layer(np.ones((600, 800)))
    assert marks.borders(layer, (0, 799, 0, 599)) is None
    assert marks.borders(layer, (100, 110, 100, 110)).shape[1] > 0
    assert len(marks.table) == x.size
    none = footprints.chosen(np.zeros(len(footprints), bool))
    assert Marks.of_footprints(none).borders(layer, (0, 799, 0, 599)).shape == (2, 0)


def test_thousands_of_rows_are_drawn_as_a_picture_and_still_found(pair):
    rng = np.random.default_rng(5)
    n = 3 * MOST
    table = Table({"id": np.arange(n), "x": rng.uniform(0, 80, n), "y": rng.uniform(0, 60, n)})
    panes = ImagePanes({"science": as_layer(np.zeros((60, 80)) + np.arange(80))})
    panes.mark("many", Marks(table, "id"))
    look_at(panes, (0, 79, 0, 59))
    drawn = panes.board.slots[0].overlays
    assert [name for name, renderer in drawn.items() if renderer.visible] == ["crowd many"]
    assert drawn["crowd many"].data_source.data["image"][0].any()
    panes.point(0, table["x"][77], table["y"][77])
    assert panes.near == "id 77"
    look_at(panes, (10, 11, 10, 11))
    points = drawn["marks many"].data_source
    assert len(points.data["x"]) == ((np.abs(table["x"] - 10.5) <= 0.5) & (np.abs(table["y"] - 10.5) <= 0.5)).sum() > 0
    assert [name for name, renderer in drawn.items() if renderer.visible] == ["marks many"]


def test_the_sky_grid_is_drawn_when_it_is_asked_for(pair):
    panes = ImagePanes(pair)
    look_at(panes, (0, 79, 0, 59))
    over = panes.board.slots[0].overlays
    assert over == {}
    panes.grid = True
    look_at(panes, (0, 79, 0, 59))
    assert {name for name, drawn in over.items() if drawn.visible} == {"net", "net names"}
    lines, names = (over[name].data_source.data for name in ("net", "net names"))
    for x, y in zip(lines["xs"], lines["ys"], strict=True):
        ra, dec = pixel_to_radec(projection(), x, y)
        assert min(np.ptp(ra), np.ptp(dec)) < 1e-7  # along a line one of them stays
    assert 0 < len(names["text"]) <= len(lines["xs"])
    panes.grid = False
    look_at(panes, (0, 79, 0, 59))
    assert not any(drawn.visible for drawn in over.values())


def test_the_panes_can_be_drawn_without_a_browser(pair):
    png = ImagePanes(pair).picture()
    assert png.startswith(b"\x89PNG")
    assert ImagePanes({"a": np.full((4, 4), np.nan)}).picture() is None


@pytest.mark.parametrize(
    ("ra", "dec", "text"),
    [
        (0.0, 0.0, "00:00:00.000 +00:00:00.00"),
        (359.99999999, -0.0000001, "00:00:00.000 +00:00:00.00"),
        (187.70593, 12.39112, "12:30:49.423 +12:23:28.03"),
        (10.0, -45.5, "00:40:00.000 −45:30:00.00"),
        (np.nan, 3.0, "–"),
    ],
)
def test_positions_are_written_as_astronomers_do(ra, dec, text):
    assert sexagesimal(ra, dec) == text
