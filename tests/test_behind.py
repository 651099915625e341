"""What stands behind a figure and a number: the cell, its parameters, its time, its data, as a page leads to them."""

import csv
import io
import subprocess
import sys

import nbformat
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from entity_book.build import behind, executed, notebooks
from entity_book.claims import findings
from entity_book.figures import charts, tables

SPEC = {
    "datasets": {"drawn": [{"x": 0.123456789, "y": 1}, {"x": 2, "y": None, "z": "a,b"}], "idle": [{"x": 9}] * 3},
    "layer": [
        {"data": {"name": "drawn"}, "mark": "point"},
        {"data": {"name": "drawn"}, "mark": "line"},
        {"data": {"values": [{"chance": 0.14}]}, "mark": "rule"},
    ],
}

BAR = {
    "$schema": "https://vega.github.io/schema/vega-lite/v6.4.1.json",
    "description": "One bar of 3.",
    "data": {"values": [{"a": 3}]},
    "mark": "bar",
    "encoding": {"x": {"field": "a", "type": "quantitative"}},
}


def chart(spec):
    return {"data": {charts.MIME: spec}}


def test_the_data_of_a_chart_are_all_that_it_draws_with_all_digits_and_nothing_else():
    (text,) = behind.data(chart(SPEC))
    assert list(csv.reader(io.StringIO(text))) == [["x", "y", "z"], ["0.123456789", "1", ""], ["2", "", "a,b"]]


def test_a_chart_of_single_rows_has_them_all_and_a_picture_without_data_none():
    spec = {"layer": [{"data": {"values": [{"a": 1}]}}, {"data": {"values": [{"b": 2}]}}]}
    assert behind.data(chart(spec)) == ["a\n1\n", "b\n2\n"]
    assert behind.data(chart({"data": {"values": []}})) == []
    assert behind.data({"data": {"text/html": "<p>words</p>"}}) == []


def test_the_data_of_a_table_are_its_own_columns_with_all_digits():
    frame = pd.DataFrame({"head": ["L1H2"], "share": [0.123456789], "share_low": [0.1], "share_high": [0.2]})
    shown = {"data": {tables.CSV: tables.as_csv(frame), "text/html": tables.html(frame)}}
    assert behind.data(shown) == ["head,share,share_low,share_high\nL1H2,0.123456789,0.1,0.2\n"]
    assert tables.as_csv(frame.set_index("head")).startswith("head,share")


def cell(name, *outputs, tags=()):
    return {"id": name, "metadata": {"tags": list(tags)}, "outputs": list(outputs), "source": "seed = 0  # of draws"}


def glued(name):
    return {"data": {"text/plain": "1"}, "metadata": {"scrapbook": {"name": name}}}


def test_a_number_leads_to_the_cell_that_handed_it_over_unless_no_page_shows_that():
    cells = [cell("one", glued("a"), glued("b")), cell("two", glued("c"), tags=["remove-input"])]
    assert behind.handed_over({"cells": cells}) == {"a": "one", "b": "one"}


def test_the_line_says_what_is_known_and_nothing_of_what_is_not():
    line = BeautifulSoup(behind.line("cell-map", "", 3.25, ["../d/a-1.csv", "../d/a-2.csv"]), "html.parser")
    assert line.get_text() == "code · 3.25 s · data (CSV 1) · data (CSV 2)"
    assert [link["href"] for link in line.find_all("a")] == ["#cell-map", "../d/a-1.csv", "../d/a-2.csv"]
    assert behind.line("", "", None, []) == ""


def test_the_parameters_that_were_given_come_before_those_that_a_chapter_declares():
    declared, given = cell("parameters", tags=["parameters"]), cell("injected", tags=["injected-parameters"])
    assert 'href="#cell-parameters" title="seed = 0"' in behind._parameters({"cells": [declared]})
    assert 'href="#cell-injected"' in behind._parameters({"cells": [declared, given]})
    assert behind._parameters({"cells": []}) == ""


@pytest.mark.parametrize("words", ["<script>", '"', "a\nb,c"])
def test_no_data_of_a_chart_leave_their_cell(words):
    (text,) = behind.data(chart({"data": {"values": [{words: words}, {words: 2}]}}))
    assert list(csv.DictReader(io.StringIO(text))) == [{words: words}, {words: "2"}]


def test_a_number_of_another_chapter_leads_there_and_a_number_of_the_page_to_its_cell(house):
    (house / "conf.py").write_text(
        'extensions = ["sphinx.ext.autodoc", "entity_book.build.sphinx_ext", "myst_nb"]\n'
        'exclude_patterns = ["lib", "build"]\nnb_execution_mode = "off"\nnumfig = True\n'
    )
    (house / "chapters").mkdir(exist_ok=True)
    for old in (house / "chapters").glob("*"):
        old.unlink()
    (house / "index.md").write_text("# Title\n\n{finding}`x`\n\n```{toctree}\nchapters/01_one\na\nb\n```\n")
    (house / "dot.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg"/>')
    for name in "ab":
        (house / f"{name}.md").write_text(f"# {name}\n\n```{{figure}} dot.svg\nA dot.\n```\n")
    source = nbformat.v4.new_notebook(metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}})
    shown = {
        "data": {"text/plain": "'0.5 for `--n 7`'"},
        "metadata": {"scrapbook": {"name": "half", "mime_prefix": ""}},
    }
    chart = {"data": {charts.MIME: BAR, "text/plain": "One bar."}, "metadata": {}}
    outputs = [nbformat.v4.new_output("display_data", **one) for one in (shown, chart)]
    source.cells = [
        nbformat.v4.new_markdown_cell("# One\n\nIt is {glue:text}`half`.", id="words"),
        nbformat.v4.new_code_cell("glue()", id="made", outputs=outputs, metadata={"tags": ["hide-input"]}),
    ]
    plain = notebooks.text(notebooks.stripped(source))
    (house / "chapters" / "01_one.ipynb").write_text(plain)
    record = {"source": notebooks.digest(plain), "run": {"cells": {"made": 2.5}}}
    copy = executed.path(house, "01_one")
    copy.parent.mkdir(parents=True)
    copy.write_text(executed.sealed(notebooks.finished(source, record)[0]))
    found = findings.Reported("x", 0.5, 0.4, 0.6, 7, chapter="01_one")
    findings.file(house).write_text(findings.Gathered({"x": found}).to_json())
    out = house / "out"
    subprocess.run([sys.executable, "-m", "sphinx", "-q", "-W", "-b", "html", str(house), str(out)], check=True)
    index = BeautifulSoup((out / "index.html").read_text("utf-8"), "html.parser")
    assert index.select_one(".book-quoted > a")["href"] == "chapters/01_one.html"
    page = BeautifulSoup((out / "chapters" / "01_one.html").read_text("utf-8"), "html.parser")
    quoted = page.select_one("a.book-quoted")
    assert quoted["href"] == "#cell-made" and quoted.get_text() == "0.5 for --n 7"
    assert quoted.select_one("code").get_text() == "--n 7"
    for name in "ab":  # neither has a number of its own
        other = BeautifulSoup((out / f"{name}.html").read_text("utf-8"), "html.parser")
        assert other.select_one(".caption-number").get_text() == "Fig. 1 "
    cell = page.select_one("#cell-made")
    assert "Show code" in cell.select_one("details.above-input summary").get_text()
    assert cell.select_one(".book-behind").get_text() == "code · 2.5 s · data (CSV)"
    data = out / "chapters" / cell.select_one("a[download]")["href"]
    assert data.read_text("utf-8") == "a\n3\n"
