"""The first page says what the findings say: its answer, its drawing, the poster, the picture for other sites."""

import json
import re
import struct
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from types import SimpleNamespace

import nbformat
import pandas as pd
import pytest
from entity_book.build import executed, front
from entity_book.claims import answer, claims, findings
from entity_book.claims.comparisons import VERDICTS
from entity_book.claims.findings import Gathered, Reported
from entity_book.figures import charts, circuit, exploring, poster, preview
from entity_circuits import places

PROMPT = "The cup is in Box R , the hat is in Box S , the pen is in Box T . Box S contains the"
WORDS = PROMPT.split()
FOUND = {
    "accuracy/base": Reported("accuracy/base", 0.49, 0.44, 0.53, 490, "accuracy", "a-model"),
    "accuracy/chance": Reported("accuracy/chance", 1 / 7),
    "circuit/over-base": Reported("circuit/over-base", -0.07, -0.12, -0.02, 490, "difference", "tuned"),
    "circuit/in-base": Reported("circuit/in-base", -0.1, -0.15, -0.05, 490, "difference", "tuned"),
    "circuit/gained": Reported("circuit/gained", 0.06, 0.03, 0.09, 490, "difference", "tuned"),
    "circuit/whole-gained": Reported("circuit/whole-gained", 0.2, 0.16, 0.24, 490, "difference", "tuned"),
    "cmap/gap": Reported("cmap/gap", 0.2, 0.18, 0.22, 2002, "difference"),
    "draws/A_without_B": Reported("draws/A_without_B", 0.92, 0.73, 1.11, 140, "share"),
    "draws/B": Reported("draws/B", 0.76, 0.47, 1.05, 140, "share"),
}


def judged(**verdicts: str) -> pd.DataFrame:
    """The table of these findings, with other verdicts for some of the claims."""
    table = claims.table(FOUND)
    for name, verdict in verdicts.items():
        table.loc[table["name"] == name.replace("_", " "), "verdict"] = verdict
    return table


def steps(groups: str = "DCBA", heads: str = "L1H1, L1H2") -> pd.DataFrame:
    """What `looking.step_by_step` gives on a prompt of three boxes: all look at the hat, more with each group."""
    shared = {"objects": ["cup", "hat", "pen"], "right": [False, True, False], "clean": [0.1, 0.8, 0.1]}
    rows = [{"step": "nothing", "attention": [0.0] * len(WORDS), "p": [0.1, 0.8, 0.1], "words": "Nothing.", **shared}]
    for number, name in enumerate(groups):
        attention = [0.1 * (number + 1) * (place == WORDS.index("hat")) for place in range(len(WORDS))]
        told = f"Group {name}, at last: {heads}.|With their news."
        rows.append({"step": name, "attention": attention, "p": [0.3, 0.4, 0.3], "words": told, **shared})
    return pd.DataFrame(rows)


def cells(frame: pd.DataFrame, handed: dict[str, str] | None = None) -> list[dict]:
    spec = exploring.stepper(frame, WORDS).to_dict()
    told = [
        {"metadata": {"scrapbook": {"name": name}}, "data": {"application/papermill.record/text/plain": repr(words)}}
        for name, words in (handed or {}).items()
    ]
    return [{"outputs": [*told, {"data": {charts.MIME: spec}}]}, {"source": "words"}]


@pytest.fixture
def running() -> circuit.Running:
    found = circuit.read(cells(steps()))
    assert found is not None
    return found


# The answer


def test_the_answer_of_the_repository_has_the_verdict_and_the_numbers_of_its_findings():
    found = Gathered.from_json((places.ROOT / "data" / "findings.json").read_text("utf-8")).reported
    table = claims.table(found)
    central, gain, counts = answer.sentences(table, found)
    assert central.startswith(answer.short(table)) and found["circuit/over-base"].brief in central
    assert all(found[key].brief in gain for key in ("cmap/gap", "draws/A_without_B", "draws/B"))
    assert counts == claims.sentence(table)


def test_the_answer_tells_how_many_heads_are_kept():
    kept = {"": 98, "/beside": 672, "/of": 1680}
    more = {f"circuit/heads{key}": Reported(f"circuit/heads{key}", float(n), unit="heads") for key, n in kept.items()}
    for beside, words in ((672, "to 98 heads and all 672 at further words (of 1,680"), (0, "to 98 heads (of 1,680")):
        more["circuit/heads/beside"] = replace(more["circuit/heads/beside"], value=float(beside))
        assert f"enlarged {words} heads at words)" in answer.sentences(judged(enhanced="partly"), FOUND | more)[0]
    assert "enlarged, the" in answer.sentences(judged(enhanced="partly"), FOUND)[0]


def test_with_another_verdict_another_answer_comes():
    told = {verdict: answer.sentences(judged(enhanced=verdict, A_and_B=verdict), FOUND) for verdict in VERDICTS}
    assert len({central for central, *_ in told.values()}) == len(VERDICTS)
    assert len({gain for _, gain, _ in told.values()}) == len(VERDICTS)
    assert told["replicates"][0].startswith("Yes") and told["does not"][0].startswith("Not in this model")
    assert "was not tested" in told["not tested here"][1]


def test_the_sign_of_the_difference_is_said_in_words():
    assert "less often" in answer.sentences(judged(enhanced="does not"), FOUND)[0]
    better = FOUND | {"circuit/over-base": Reported("circuit/over-base", 0.1, 0.05, 0.15, 490, "difference")}
    assert "more often" in answer.sentences(judged(enhanced="replicates"), better)[0]


def test_without_findings_the_page_says_so(house):
    assert "has not been executed" in front.answer_line(house)
    assert front.drawn(house) is None and front.running(house) is None


def test_the_answer_on_the_page_is_that_of_the_findings(house):
    path = findings.file(house)
    path.parent.mkdir(parents=True)
    path.write_text(Gathered(FOUND).to_json())
    assert front.answer_line(house).startswith("**Not")
    assert "Of 18 claims" in front.answer_line(house)


# The drawing


def test_the_prompt_and_its_places_are_read_from_the_stepper(running):
    at = [WORDS[place] for place in (running.object, running.prev, running.query, running.last)]
    assert at == ["hat", "S", "S", "the"] and running.prev < running.query < running.last
    assert [WORDS[place] for place in running.statement] == ["the", "hat", "is", "in", "Box", "S"]
    assert running.boxes == (1, 1) and (running.answer, running.clean) == ("hat", 0.8)
    assert running.looks["D"] == pytest.approx(0.1) and running.looks["A"] == pytest.approx(0.4)


def test_how_many_heads_a_group_has_is_counted_or_said_to_be_more():
    many = steps(heads="L1H1, L1H2, L1H3, L1H4 and others")
    handed = {f"heads_{letter}": ", ".join(["L0H10"] * number) for number, letter in enumerate("abcd", 1)}
    some, all_ = circuit.read(cells(many)), circuit.read(cells(many, {"layers_a": "L1H1", **handed}))
    assert some and all_
    assert some.groups["A"].heads == "4 heads and more"
    assert {name: group.heads for name, group in all_.groups.items()} == {
        "A": "1 head", "B": "2 heads", "C": "3 heads", "D": "4 heads",
    }  # fmt: skip


@pytest.mark.parametrize(
    "other",
    [
        [],
        [{"outputs": [{"data": {charts.MIME: {"data": {"values": [{"x": 1}]}}}}]}],
        [{"outputs": [{"text": "no chart"}]}],
        cells(steps("DC")),
    ],
)
def test_another_chapter_has_no_drawing_and_is_no_error(other):
    assert circuit.read(other) is None


@pytest.mark.parametrize("narrow", [False, True])
def test_the_drawing_is_sound_names_all_groups_and_is_told_in_words(running, narrow):
    svg = circuit.picture(running, narrow=narrow)
    drawn = ElementTree.fromstring(svg)
    shown = [element.text for element in drawn.iter() if element.tag.endswith("}text")]
    assert set("ABCD") <= set(shown) and "hat 0.80" in shown
    assert {f"{running.looks[name]:.0%}" for name in "ABC"} <= set(shown)
    assert drawn.attrib["role"] == "img" and "Group C" in drawn.attrib["aria-label"]
    assert " id=" not in svg  # two of them stand in one page
    right = float(drawn.attrib["viewBox"].split()[2])
    assert all(0 <= float(element.attrib["x"]) <= right for element in drawn.iter() if "x" in element.attrib)


def test_words_of_a_prompt_are_no_markup(running):
    bad = circuit.Running(**{**vars(running), "answer": "<b>&"})
    assert "<b>" not in circuit.picture(bad)
    ElementTree.fromstring(circuit.picture(bad))


def test_the_drawing_has_the_colours_of_the_page(running):
    fills = set(re.findall(r'<text [^>]*fill="([^"]+)"', circuit.picture(running)))
    assert fills == {charts.INK}


def test_a_damaged_chapter_is_not_drawn(house):
    copy = executed.path(house, front.CHAPTER)
    copy.parent.mkdir(parents=True)
    made = nbformat.v4.new_notebook()
    made.cells.append(nbformat.v4.new_code_cell("x"))
    made.cells[0].outputs = [
        nbformat.v4.new_output("display_data", {charts.MIME: exploring.stepper(steps(), WORDS).to_dict()})
    ]
    made.metadata["book"] = {}
    copy.write_text(executed.sealed(made))
    assert front.running(house) is not None
    copy.write_text(copy.read_text().replace('"hat"', '"cat"'))
    assert front.running(house) is None


# The poster, and the picture for other sites


def test_the_poster_has_each_verdict_the_counts_and_a_number_with_its_interval_for_each_step(running):
    table, sheet = claims.table(FOUND), poster.picture(FOUND, running)
    drawn = ElementTree.fromstring(sheet)
    shown = " ".join(element.text or "" for element in drawn.iter() if element.tag.endswith("}text"))
    for verdict, count in claims.counts(claims.of(table, "paper")).items():
        assert f"{verdict}: {count}" in shown
    assert "0.49 [0.44, 0.53]" in shown and "0.92 [0.73, 1.11]" in shown
    assert all(f"{number}. " in shown for number in range(1, 6))
    assert drawn.attrib["width"] == "594mm"


def test_the_poster_is_printed_on_a2(house):
    path = findings.file(house)
    path.parent.mkdir(parents=True)
    path.write_text(Gathered(FOUND).to_json())
    made = front.drawn(house)
    assert made
    box = re.search(rb"/MediaBox\s*\[\s*0 0 ([\d.]+) ([\d.]+)", made[1])
    assert box
    assert [float(side) * 25.4 / 72 for side in box.groups()] == pytest.approx([594, 420], abs=1)


def test_the_poster_of_other_findings_is_another(running):
    other = FOUND | {"accuracy/base": Reported("accuracy/base", 0.12, 0.1, 0.14, 490, "accuracy", "a-model")}
    assert "0.12 [0.10, 0.14]" in poster.picture(other, running)
    assert circuit.MISSING.split()[0] in poster.picture(FOUND, None)


@pytest.mark.parametrize("drawn", [True, False])
def test_the_picture_for_other_sites_has_their_size(running, drawn):
    import vl_convert

    png = vl_convert.svg_to_png(preview.picture(FOUND, running if drawn else None), scale=1)
    assert struct.unpack(">II", png[16:24]) == (1200, 630)


def tags(tmp_path, address: str) -> str:
    (tmp_path / "_static").mkdir(parents=True)
    (tmp_path / "_static" / front.PREVIEW).write_bytes(b"x")
    app = SimpleNamespace(config=SimpleNamespace(html_baseurl=address), outdir=tmp_path)
    context: dict = {"metatags": "<meta />"}
    front.show_picture(app, "book/intro", "", context, object())  # type: ignore[arg-type]
    return context["metatags"]


def test_a_picture_is_named_by_its_whole_address_and_only_where_the_site_has_one(tmp_path):
    assert 'content="https://a.example/book/_static/preview.png"' in tags(tmp_path / "a", "https://a.example/book/")
    assert tags(tmp_path / "b", "") == "<meta />"


def test_the_first_page_asks_the_question_that_the_poster_asks():
    page = (places.ROOT / "book" / "intro.md").read_text("utf-8")
    assert f"\n# {answer.QUESTION}\n" in page
    assert json.dumps(answer.QUESTION)[1:-1] in page.partition("---\n\n")[0]


# In Sphinx


PAGE = """# Why?

```{book-circuit}
```

```{book-answer}
```

See {poster}`the poster`.
"""


@pytest.mark.parametrize(("address", "executed_before"), [("", False), ("", True), ("https://a.example/book", True)])
def test_a_page_is_built_with_and_without_findings_and_an_address(house, address, executed_before):
    (house / "book").mkdir()
    (house / "book" / "index.md").write_text(PAGE)
    if executed_before:
        path = findings.file(house)
        path.parent.mkdir(parents=True)
        path.write_text(Gathered(FOUND).to_json())
    settings = {"extensions": "myst_parser,entity_book.build.front", "root_doc": "book/index"}
    settings |= {"html_theme": "sphinx_book_theme", "exclude_patterns": "build,chapters", "html_baseurl": address}
    options = [word for name, value in settings.items() for word in ("-D", f"{name}={value}")]
    command = [sys.executable, "-m", "sphinx", "-C", "-W", "-q", *options, str(house), str(house / "html")]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    page = (house / "html" / "book" / "index.html").read_text("utf-8")
    made = house / "html" / "_static"
    assert circuit.MISSING in page
    assert ("Of 18 claims" in page) is ('href="../_static/poster.pdf"' in page) is executed_before
    assert [(made / name).is_file() for name in ("poster.svg", "poster.pdf", "preview.png")] == [executed_before] * 3
    assert ("og:image" in page) is bool(address)
    if address:
        assert f'property="og:image" content="{address}/_static/preview.png"' in page
