"""Tables: what of a DataFrame a reader sees, in which form, and that nothing of it becomes markup or is lost."""

import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from entity_book.figures import charts, tables
from entity_circuits import statistics


def seen(table: pd.DataFrame) -> BeautifulSoup:
    return BeautifulSoup(tables.html(table), "html.parser")


def lines(table: pd.DataFrame) -> list[list[str]]:
    return [[cell.get_text() for cell in row.find_all(["th", "td"])] for row in seen(table).find_all("tr")]


HEADS = pd.DataFrame(
    {"head": ["L1H2", "L3H4"], "score": [-0.2, 0.3], "low": [-0.3, np.nan], "high": [-0.1, np.nan], "n": [70, 2]}
)


def test_a_number_and_its_bounds_share_a_cell_and_a_row_is_named_by_its_first_cell():
    assert lines(HEADS) == [
        ["head", "score", "prompts"],
        ["L1H2", "−0.20 [−0.30, −0.10]", "70"],
        ["L3H4", "0.30", "2"],
    ]
    assert seen(HEADS).select_one("tbody th")["scope"] == "row"


def test_each_number_takes_the_bounds_of_its_own_name():
    table = pd.DataFrame({"a": [0.5], "b": [1.5], "b_low": [1.0], "b_high": [2.0], "a_low": [0.4], "a_high": [0.6]})
    assert lines(table) == [["a", "b"], ["0.50 [0.40, 0.60]", "1.50 [1.00, 2.00]"]]


def test_bounds_without_a_number_before_them_stay_columns_of_their_own():
    assert lines(pd.DataFrame({"low": [0.25], "high": [0.75]})) == [["low", "high"], ["0.25", "0.75"]]


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ([0.5, -0.25, None], ["0.50", "−0.25", "–"]),
        ([0.034, -0.021], ["0.034", "−0.021"]),
        ([0.03, 0.05], ["0.03", "0.05"]),
        ([3.0, 14.0, np.nan], ["3", "14", "–"]),
        ([0.8, 0.0004], ["0.80", "0.0004"]),
        ([0.0, -0.000008], ["0.000", "−8 × 10⁻⁶"]),
        ([float("inf"), 0.5], ["inf", "0.50"]),
    ],
)
def test_numbers_have_as_many_digits_as_say_something(values, told):
    assert tables.numbers(values) == told


def test_what_is_missing_true_or_a_list_is_said_in_signs_and_words():
    table = pd.DataFrame(
        {
            "place": ["a_b", None],
            "harms": [True, False],
            "first": pd.array([1, pd.NA], dtype="Int64"),
            "known": [True, None],
            "objects": [["cup", "key"], []],
        }
    )
    assert lines(table)[1:] == [["a b", "yes", "1", "yes", "cup, key"], ["–", "no", "–", "–", ""]]


def test_a_minus_is_one_only_before_a_number():
    table = pd.DataFrame({"what": ["-0.1 [-0.2, -0.0]", "layers 0-5", "code-other", "query-1"]})
    assert [row[0] for row in lines(table)[1:]] == ["−0.1 [−0.2, −0.0]", "layers 0-5", "code-other", "query-1"]


def test_the_first_level_of_an_index_heads_its_rows_and_every_other_stays_in_each_row():
    table = HEADS.assign(model=["base", "base"]).set_index(["model", "head"])
    shown = seen(table)
    assert [head.get_text() for head in shown.select("tbody th[scope=rowgroup]")] == ["model: base"]
    assert [head.get_text() for head in shown.select("tbody th[scope=row]")] == ["L1H2", "L3H4"]
    alone = HEADS.set_index(["head", "n"])
    assert not seen(alone).select("th[scope=rowgroup]")
    assert len(seen(alone).select("tbody th[scope=row]")) == 4


def test_columns_of_two_levels_say_both_at_each_cell_as_a_phone_shows_them():
    wide = HEADS.assign(model="base").pivot(index="head", columns="model", values=["score", "n"])
    assert lines(wide)[:2] == [["", "score", "prompts"], ["head", "base", "base"]]
    assert {cell["data-label"] for cell in seen(wide).find_all("td", {"data-label": True})} == {
        "score, base",
        "prompts, base",
    }


def test_what_pivoted_columns_are_together_stands_above_them():
    wide = HEADS.pivot(index="head", columns="n", values="score")
    assert lines(wide)[0] == ["", "prompts"]
    assert lines(wide)[1] == ["head", "2", "70"]


def test_every_cell_of_a_row_says_what_it_is_and_every_heading_has_a_scope():
    shown = seen(HEADS.assign(model="base").set_index(["model", "head"]))
    assert all(cell.get("data-label") for cell in shown.select("tbody td"))
    assert all(head.get("scope") for head in shown.find_all("th"))
    assert not [head for head in shown.find_all("th") if not head.get_text()]


@pytest.mark.parametrize("words", ["<script>alert(1)</script>", '" onclick="x', "a\nb", "`<b>`", "x-<i>-y"])
def test_no_text_of_a_table_becomes_markup(words):
    shown = seen(pd.DataFrame({words: [words], "second" + words: [words]}, index=pd.Index([words], name=words)))
    assert {tag.name for tag in shown.find_all()} <= {"table", "thead", "tbody", "tr", "th", "td", "span", "code"}
    assert {name for tag in shown.find_all() for name in tag.attrs} <= {"class", "scope", "colspan", "data-label"}


def test_numbers_stand_at_the_right_with_their_heading():
    shown = seen(HEADS)
    assert [head.get_text() for head in shown.select("thead th.num")] == ["score", "prompts"]
    assert len(shown.select("tbody td.num")) == 4


def test_a_long_table_says_how_much_of_it_is_left_out_and_an_empty_one_that_it_is_empty():
    shown = seen(pd.DataFrame({"x": range(500)}))
    assert len(shown.select("tbody tr")) == tables.ROWS
    assert shown.caption.get_text() == f"The first {tables.ROWS} of 500 rows."
    assert "No rows." in seen(pd.DataFrame()).get_text()


def test_two_columns_of_one_name_are_both_shown():
    table = pd.concat([HEADS[["n"]], HEADS[["n"]]], axis=1)
    assert len(seen(table).select("tbody td")) == 4


def test_estimates_are_shown_as_they_write_themselves():
    told = statistics.wilson(6, 10)
    assert lines(pd.DataFrame({"group": ["A"], "share": [told]}))[1] == ["A", str(told)]


def test_a_notebook_shows_every_frame_so_and_keeps_its_plain_text(monkeypatch):
    import IPython
    from IPython.core.formatters import DisplayFormatter

    class Shell:
        display_formatter = DisplayFormatter()

    monkeypatch.setattr(IPython, "get_ipython", lambda: Shell)
    charts.enable()
    data, _ = Shell.display_formatter.format(HEADS)
    assert data["text/html"] == tables.html(HEADS)
    assert data["text/plain"] == repr(HEADS)


def test_a_notebook_keeps_the_digits_of_tables_and_of_nothing_else(monkeypatch):
    import IPython
    from IPython.core.formatters import DisplayFormatter

    class Shell:
        display_formatter = DisplayFormatter()

    monkeypatch.setattr(IPython, "get_ipython", lambda: Shell)
    tables.enable()
    kept, _ = Shell.display_formatter.format(pd.DataFrame({"share": [0.123456789]}))
    assert kept[tables.CSV] == "share\n0.123456789\n"
    for other in (3, "words", [1.0], object()):
        assert tables.CSV not in Shell.display_formatter.format(other)[0]
