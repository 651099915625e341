"""What chapters hand to a chapter that sums up, in which order, and when it is out of date; and books of any pair."""

from pathlib import Path

import nbformat
import pytest
from entity_book.build import book, notebooks
from entity_book.build.book import BookError
from entity_book.claims import findings
from small_book import PARAMETERS, add, executed, notebook, outputs, ran

READER = ("from entity_book.claims import findings", "print(findings.load())")


@pytest.fixture
def summary(house):
    """The house with a second chapter, and one that reads findings, listed before the second."""
    add(
        house,
        "00_summary",
        PARAMETERS,
        ("from entity_book.claims import findings\nfindings.load()", ["reads-findings"]),
    )
    add(house, "02_two", ("seed = 0", ["parameters"]), "2")
    return house


def gathered(house: Path) -> dict:
    return findings.gathered(findings.file(house)).reported


def test_findings_reach_a_chapter_that_is_executed_after_all_others_two_at_a_time_too(house, capfd):
    said = (
        "from entity_book.claims import findings\nfor key, one in sorted(findings.load().items()):\n    print(key, one)"
    )
    add(house, "00_summary", (said, ["reads-findings"]))
    slow = "import time\nfrom entity_book.claims import findings\ntime.sleep(1)"
    add(house, "02_two", slow, "findings.keep('size', 98, unit='heads')\nfindings.keep('word', 'none')")
    numbers = "findings.keep('a/gain', Estimate(0.25, 0.1, 0.4, 98, 14), unit='difference', model='tiny')"
    add(
        house,
        "03_three",
        "from entity_book.claims import findings\nfrom entity_circuits.statistics import Estimate",
        numbers,
    )
    assert ran(house, jobs=2) == ["01_one", "02_two", "03_three", "00_summary"]
    assert outputs(house, "00_summary") == "a/gain +0.25 [+0.10, +0.40], n = 98\nsize 98\nword none\n"
    assert gathered(house)["a/gain"].chapter == "03_three"
    cells = notebooks.read(executed(house, "03_three")).cells
    assert [cell.outputs for cell in cells] == [[], []], "a finding shows nothing on its own page"
    assert ran(house, jobs=2) == []


def test_a_chapter_that_reads_without_saying_so_fails(house):
    add(house, "02_two", *READER)
    with pytest.raises(
        BookError, match="a chapter that reads findings says so: give this cell the tag `reads-findings`"
    ):
        book.execute(["02"], root=house)


def test_a_changed_finding_and_only_that_executes_the_reader_again(summary, pretend):
    pretend["02_two"] = {"x": 1.0}
    assert ran(summary) == ["01_one", "02_two", "00_summary"]
    assert ran(summary) == []
    (summary / "chapters" / "02_two.ipynb").write_text(notebook(("seed = 0", ["parameters"]), "2 + 0"))
    assert ran(summary) == ["02_two"], "the chapter changed, its findings did not"
    (summary / "chapters" / "02_two.ipynb").write_text(notebook(("seed = 0", ["parameters"]), "3"))
    pretend["02_two"] = {"x": 2.0}
    assert ran(summary) == ["02_two", "00_summary"]
    assert gathered(summary)["x"].value == 2.0


def test_findings_of_a_chapter_that_changed_since_are_not_used(summary, pretend, capsys):
    pretend["01_one"], pretend["02_two"] = {"y": 1.0}, {"x": 1.0}
    ran(summary)
    (summary / "chapters" / "02_two.ipynb").write_text(notebook(("seed = 0", ["parameters"]), "3"))
    capsys.readouterr()
    assert ran(summary, only=["00"]) == ["00_summary"]
    assert gathered(summary).keys() == {"y"}
    assert "00_summary: without the findings of 02_two, not executed as now written" in capsys.readouterr().err


def test_a_chapter_that_is_not_executed_again_keeps_its_findings(summary, pretend):
    pretend["01_one"], pretend["02_two"] = {"y": 1.0}, {"x": 1.0}
    ran(summary)
    pretend.clear()
    assert ran(summary, only=["00", "01"], force=True) == ["01_one", "00_summary"]
    assert gathered(summary).keys() == {"x"}


def test_one_chapter_alone_leaves_the_reader_and_says_so(summary, pretend, capsys):
    ran(summary)
    pretend["01_one"] = {"y": 1.0}
    capsys.readouterr()
    assert ran(summary, only=["01"], force=True) == ["01_one"]
    assert gathered(summary) == {}, "what the reader read"
    assert "00_summary: was made from other findings than there are now" in capsys.readouterr().err
    assert ran(summary) == ["00_summary"]
    ran(summary, only=["01"], force=True)
    assert "other findings" not in capsys.readouterr().err


def test_a_reader_alone_in_an_empty_house_is_executed_without_findings(summary, pretend):
    assert ran(summary, only=["00"]) == ["00_summary"]
    assert findings.gathered(findings.file(summary)) == findings.Gathered({}, ("01_one", "02_two"), {})
    assert ran(summary) == ["01_one", "02_two", "00_summary"]


def test_findings_of_other_parameters_are_those_of_another_book(summary, pretend):
    pretend["02_two"], pretend["01_one"] = {"x": 1.0}, {"y": 1.0}
    ran(summary)
    pretend["01_one"] = {"y": 2.0}
    ran(summary, only=["01", "00"], parameters={"boxes": 3})
    assert {key: one.value for key, one in gathered(summary).items()} == {"x": 1.0, "y": 2.0}, "02 has no boxes"
    ran(summary, only=["00"])
    assert gathered(summary).keys() == {"x"}, "01 was executed with three boxes"
    ran(summary, only=["00"], parameters={"seed": 5})
    assert gathered(summary) == {}


def test_the_same_finding_from_two_chapters_or_twice_from_one_is_refused(summary, pretend):
    pretend["01_one"], pretend["02_two"] = {"x": 1.0}, {"x": 1.0}
    with pytest.raises(BookError, match="two chapters keep the finding 'x': 01_one and 02_two"):
        ran(summary)
    twice = nbformat.v4.new_output("display_data", {findings.MIME: {"x": {"value": 1.0}}})
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("x", outputs=[twice, twice])])
    with pytest.raises(ValueError, match="'x' is kept twice"):
        notebooks.finished(made, {})


# Any pair


def pair_house(house: Path) -> None:
    add(house, "02_two", ("base = 'a'\nfinetuned = ['x', 'y']\nseed = 0", ["parameters"]))
    add(house, "03_three", ("model = 'a'", ["parameters"]))
    add(house, "04_four", ("base = 'a'\nfinetuned = 'x'", ["parameters"]))


def test_a_pair_goes_to_every_chapter_in_the_form_that_it_declares(house, pretend):
    pair_house(house)
    runs = book.execute(pair=("b", "z"), parameters={"seed": 2}, root=house)
    assert [run.parameters for run in runs] == [
        {"seed": 2},
        {"base": "b", "finetuned": ["z"], "seed": 2},
        {"model": "b"},
        {"base": "b", "finetuned": "z"},
    ]
    assert book.execute(pair=("b", "z"), parameters={"seed": 2}, root=house) == []
    assert ran(house) == ["01_one", "02_two", "03_three", "04_four"], "the book of its own pair is another one"


def test_a_pair_that_no_chapter_takes_or_that_is_given_twice_stops_before_anything_runs(house):
    with pytest.raises(BookError, match="no chapter here takes a pair of models"):
        book.execute(pair=("b", "z"), root=house)
    pair_house(house)
    with pytest.raises(BookError, match="`model` is given twice"):
        book.execute(pair=("b", "z"), parameters={"model": "c"}, root=house)
    assert not executed(house).parent.exists()
