"""A preset gives chapters parameters by one name; the command line goes before it; what cannot fit is refused."""

import pytest
from entity_book.build import book, peaks, plan, presets
from entity_book.build.book import BookError
from entity_circuits import places
from small_book import PARAMETERS, add, outputs, ran

CLASS = "[tool.entity-book.presets.class]\n01_one = { boxes = 2 }\n"


@pytest.fixture
def small(house):
    (house / "pyproject.toml").write_text(CLASS)
    add(house, "02_two", PARAMETERS, "print(boxes * 10)")
    return house


def given(house, **options) -> dict[str, dict]:
    return plan.make(house, [], {}, None, **options).given


def test_a_chapter_runs_with_the_parameters_of_the_preset_and_is_taken_back_without_it(small):
    assert ran(small, preset="class") == ["01_one", "02_two"]
    assert outputs(small) == "2\n" and outputs(small, "02_two") == "70\n"
    assert ran(small, preset="class") == []
    assert ran(small) == ["01_one"]
    assert outputs(small) == "7\n"
    assert ran(small, preset="class") == [] and outputs(small) == "2\n"


def test_a_parameter_of_the_command_line_goes_before_the_preset(small):
    made = plan.make(small, ["01_one"], {"boxes": 5}, None, "class")
    assert made.given == {"01_one": {"boxes": 5}, "02_two": {"boxes": 5}}
    assert given(small, preset="class") == {"01_one": {"boxes": 2}, "02_two": {}}
    assert given(small) == {"01_one": {}, "02_two": {}}


@pytest.mark.parametrize(
    ("table", "name", "told"),
    [
        ("", "class", "no preset 'class'. There are none"),
        (CLASS, "clas", "Did you mean 'class'"),
        (CLASS.replace("01_one", "01_other"), "class", "is for '01_other', which is no chapter"),
        (CLASS.replace("boxes = 2", "bokses = 2"), "class", "no chapter has a parameter 'bokses'"),
        (CLASS.replace("boxes = 2", "boxes = 'two'"), "class", "has to be of type int"),
    ],
)
def test_a_preset_that_cannot_be_meant_is_refused_before_anything_runs(house, pretend, table, name, told):
    (house / "pyproject.toml").write_text(table)
    for ask in (book.check, book.reasons, book.execute):
        with pytest.raises(BookError, match=told.replace(".", r"\.")):
            ask(preset=name, root=house)


def test_the_presets_of_the_book_fit_its_chapters_and_ask_for_less():
    chapters = plan.chapters(places.ROOT)
    for name, table in presets.table(places.ROOT).items():
        made = plan.make(places.ROOT, chapters, {}, None, name)
        for chapter, values in table.items():
            assert all(value < made.defaults[chapter][key] for key, value in values.items()), chapter
    small = presets.named(places.ROOT, "class")
    shared = {"03_circuit_discovery", "a1_cost", "a2_official_protocol", "a6_robustness"}  # the same stored scores
    assert len({small[chapter]["examples"] for chapter in shared}) == 1


def test_a_class_needs_no_chapter_with_more_than_6_gib():
    assert all(peaks.stated(places.ROOT, name) <= 6 for name in plan.chapters(places.ROOT))


def test_a_preset_makes_no_chapter_out_of_date(small, pretend):
    book.execute(root=small)
    (small / "pyproject.toml").write_text(CLASS.replace("2", "3"))
    assert set(book.reasons(root=small).values()) == {"unchanged, not run"}
