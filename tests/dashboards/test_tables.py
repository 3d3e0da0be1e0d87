import io

import astropy.units as u
import numpy as np
import pyarrow.csv
import pyarrow.parquet
import pytest
from astropy.table import MaskedColumn, Table
from dia_tables import BIG, many_sources

from nightlab.dashboards.rows import MISSING, Rows
from nightlab.dashboards.tables import BigTable
from nightlab.errors import BadInput


def small():
    return Table(
        {
            "id": np.array([BIG, BIG + 1, BIG + 2, BIG + 3]),
            "flux": np.array([3.0, np.nan, -1.0, 20000.0]) * u.nJy,
            "band": ["r", "g", "r", "Ri"],
            "ok": [True, False, True, True],
            "count": MaskedColumn([1, 2, 3, 4], mask=[False, True, False, False]),
        }
    )


def asks(table, **wish):
    """What the browser sends when its reader clicks."""
    table._grid.asked = {**wish, "nonce": table._grid.asked.get("nonce", 0) + 1}


def shown(table):
    return table._grid.content["ids"]


def test_rows_are_ordered_with_missing_values_last_either_way():
    rows = Rows(small(), "id")
    assert rows.order("flux").tolist() == [2, 0, 3, 1]
    assert rows.order("flux", descending=True).tolist() == [3, 0, 2, 1]
    assert rows.order("count", descending=True).tolist() == [3, 2, 0, 1]


@pytest.mark.parametrize(
    ("column", "text", "kept"),
    [
        ("flux", "> 2", [0, 3]),
        ("flux", "-1 .. 5", [0, 2]),
        ("flux", "−1", [2]),
        ("flux", "none", [1]),
        ("flux", "!= 3", [2, 3]),
        ("band", "r", [0, 2, 3]),
        ("band", "= r", [0, 2]),
        ("ok", "no", [1]),
        ("count", "<= 3", [0, 2]),
        ("id", str(BIG), [0]),
        ("id", f"> {BIG + 1}", [2, 3]),
        ("flux", "  ", [0, 1, 2, 3]),
    ],
)
def test_filters_say_what_they_mean(column, text, kept):
    assert np.flatnonzero(Rows(small(), "id").matching({column: text})).tolist() == kept


@pytest.mark.parametrize(("column", "text"), [("flux", "__import__('os')"), ("ok", "maybe"), ("nothing", "1")])
def test_a_filter_that_cannot_be_read_is_refused(column, text):
    with pytest.raises(BadInput, match=r"read|yes or no|no column"):
        Rows(small(), "id").matching({column: text})


def test_a_table_without_its_id_is_refused_and_says_what_there_is():
    with pytest.raises(BadInput, match="no column diaSourceId"):
        Rows(small(), "diaSourceId")


def test_values_are_written_for_readers_with_a_dash_for_none():
    rows = Rows(small(), "id")
    assert rows.text("flux", [0, 1, 2, 3]) == ["3", MISSING, "−1", "20,000"]
    assert rows.text("count", [0, 1]) == ["1", MISSING]
    assert rows.text("ok", [0, 1]) == ["yes", "no"]
    assert [c.unit for c in rows.columns() if c.name == "flux"] == ["nJy"]
    assert Rows({"id": [1], "ra": np.array([1.0])}, "id").text("ra", [0]) == ["1"]


def test_ids_of_64_bits_reach_the_browser_and_come_back_whole():
    table = BigTable(small(), "id")
    assert shown(table)[0] == str(2**60 + 1)
    table._grid.selected = [str(BIG + 1)]
    assert table.selected == ["1152921504606846978"]
    assert table.rows.find(table.selected[0]) == 1
    assert table.rows.find("1152921504606846976") == -1
    assert table.rows.find("99999999999999999999") == -1
    assert table.rows.find("x") == -1


def test_a_selection_made_elsewhere_turns_to_its_page_after_sorting_too():
    source = {"id": np.arange(100) + BIG, "value": np.arange(100.0)}
    table = BigTable(source, "id", page_size=10)
    table.selected = [str(BIG + 57)]
    assert table.page == 5
    assert str(BIG + 57) in shown(table)
    asks(table, sort="value", descending=True)
    assert shown(table)[0] == str(BIG + 99)
    assert table.selected == [str(BIG + 57)]
    table.selected = [str(BIG + 99)]
    assert table.page == 0
    table.step(1)
    assert table.selected == [str(BIG + 98)]


def test_what_the_reader_asks_for_is_checked():
    table = BigTable({"id": np.arange(30), "value": np.arange(30.0)}, "id", page_size=10)
    asks(table, page=99)
    assert table.page == 2
    asks(table, sort="no such column")
    assert table.sort == ""
    asks(table, filter="value", text="nonsense")
    assert "cannot read" in table._grid.content["wrong"]["value"]
    assert table.filtered.size == 30
    asks(table, filter="value", text="> 24")
    assert shown(table) == ["25", "26", "27", "28", "29"]
    asks(table, clear=True)
    assert table.filtered.size == 30


def test_filters_of_others_and_of_columns_both_count_and_none_left_says_so():
    table = BigTable(small(), "id", message="nothing left")
    table.keep = np.array([True, True, False, False])
    table.filters = {"band": "r"}
    assert shown(table) == [str(BIG)]
    table.keep = np.zeros(4, dtype=bool)
    assert shown(table) == []
    assert table._grid.content["message"] == "nothing left"
    assert table.pages == 0


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_downloads_hold_the_filtered_rows_in_order_at_full_precision(kind):
    table = BigTable(small(), "id", sort="flux", filters={"band": "r"})
    content = io.BytesIO(table.rows.export(table.filtered, kind).getvalue())
    read = pyarrow.csv.read_csv(content) if kind == "csv" else pyarrow.parquet.read_table(content)
    assert read["id"].to_pylist() == [BIG + 2, BIG, BIG + 3]
    assert read["flux"].to_pylist() == [-1.0, 3.0, 20000.0]
    if kind == "parquet":
        assert read.schema.field("flux").metadata[b"unit"] == b"nJy"


def test_links_lead_only_where_links_may_lead():
    table = BigTable(small(), "id", links={"band": lambda row: "./images?visit=1" if row else "javascript:alert(1)"})
    (addresses,) = table._grid.content["links"].values()
    assert addresses[:2] == ["", "./images?visit=1"]


def test_a_million_rows_send_one_page():
    table = BigTable(many_sources(), "diaSourceId", page_size=50)
    asks(table, sort="psfFlux", descending=True)
    asks(table, filter="band", text="= r")
    content = table._grid.content
    assert content["all"] == 1_000_000
    assert len(content["rows"]) == len(content["ids"]) == 50
    asks(table, page=content["pages"] - 1)
    flux = table.rows["psfFlux"][table.filtered]
    assert (np.diff(flux) <= 0).all()
    assert set(table.rows["band"][table.filtered]) == {"r"}
    assert shown(table)[-1] == str(table.rows["diaSourceId"][table.filtered[-1]])


@pytest.mark.parametrize("n", [0, 1])
def test_tables_of_no_row_and_of_one_are_tables(n):
    table = BigTable(small()[:n], "id", sort="flux")
    assert len(shown(table)) == n
    table.step(1)
    assert len(table.selected) == n
