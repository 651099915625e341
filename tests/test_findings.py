"""Findings: what is kept of a number, how it reads, how two books compare."""

import math

import pytest
from entity_book.claims import findings
from entity_book.claims.findings import Gathered, Reported, gather, outside, report
from entity_circuits.statistics import Estimate

ESTIMATE = Estimate(0.4512345678, 0.4, 0.5, 490, 70)


def test_an_estimate_brings_its_interval_and_its_n():
    found = report("accuracy/base", ESTIMATE, unit="accuracy", model="tiny")
    assert found == Reported("accuracy/base", 0.451235, 0.4, 0.5, 490, "accuracy", "tiny")
    assert str(found) == "0.45 [0.40, 0.50], n = 490"


def test_a_finding_without_a_spread_has_no_interval():
    found = report("x", Estimate(0.5, math.nan, math.nan, 7, 1))
    assert (found.low, found.high, found.n) == (None, None, 7)
    assert str(found) == "0.50, n = 7"


@pytest.mark.parametrize(
    ("finding", "words"),
    [
        (Reported("x", 0.1, 0.0, 0.2, unit="difference"), "+0.10 [+0.00, +0.20]"),
        (Reported("x", 98.0, unit="heads"), "98"),
        (Reported("x", 1.0, unit="share"), "1.00"),
        (Reported("x", "none"), "none"),
    ],
)
def test_a_finding_reads_as_what_it_is(finding, words):
    assert str(finding) == words


@pytest.mark.parametrize("key", ["", "a b", "/a", "a/", "a//b", "Ä"])
def test_a_key_of_another_form_is_refused(key):
    with pytest.raises(ValueError, match="a finding is named like"):
        findings.keep(key, 1.0)


@pytest.mark.parametrize("more", [{"low": 0.1}, {"high": 0.1}, {"low": 0.1, "high": math.nan}])
def test_half_an_interval_is_refused(more):
    with pytest.raises(ValueError, match="two ends"):
        report("x", 0.2, **more)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_number_that_is_none_is_refused(value):
    with pytest.raises(ValueError, match="keep only what there is"):
        report("x", value)


def test_a_report_keeps_what_is_given_before_what_an_estimate_brings_to_six_digits():
    given = {"low": 0.30000049, "high": 0.60000051, "n": 3, "df": 1, "about": "of all", "model": "here/base"}
    found = report("x", ESTIMATE, **given)
    assert found == Reported("x", 0.451235, 0.3, 0.600001, 3, "", "here/base", "of all", df=1)
    assert report("x", "none", unit="accuracy", n=0) == Reported("x", "none", n=0, unit="accuracy")
    assert report("x", 2, low=2, high=2) == Reported("x", 2.0, 2.0, 2.0)
    assert [report("x", end, unit="accuracy").value for end in (0, 1)] == [0, 1]


@pytest.mark.parametrize(
    ("value", "more", "words"),
    [
        (-0.1, {"unit": "accuracy"}, "finding x, an accuracy=-0.1: .* at least 0, at most 1"),
        (0.5, {"df": 0}, "df of finding x=0"),
        (0.5, {"n": -1}, "n of finding x=-1: .* at least 0"),
        (0.5, {"low": 0.6, "high": 0.4}, "finding x: its interval from 0.6 to 0.4 is the wrong way round"),
        (0.5, {"low": 0.1}, "finding x: an interval has two ends"),
        ([1], {}, r"finding x is \[1\], which is no number"),
        (math.nan, {}, "finding x is nan: keep only what there is"),
    ],
)
def test_a_report_that_cannot_be_is_refused_by_its_key(value, more, words):
    with pytest.raises(ValueError, match=words):
        report("x", value, **more)


def test_a_key_that_is_no_text_is_refused():
    with pytest.raises(ValueError, match="a finding is named like carries/A/object, not 3"):
        report(3, 0.5)


def test_gathered_findings_are_written_in_one_order_and_without_what_is_not_there():
    rows = {"y": report("y", 0.5, low=0.4, high=0.6, n=0), "a/b": Reported("a/b", "none", unit="word")}
    assert (
        Gathered(rows, ("02_two", "01_one"), {"seed": 1, "boxes": [3]}).to_json()
        == """{
 "findings": {
  "a/b": {
   "unit": "word",
   "value": "none"
  },
  "y": {
   "high": 0.6,
   "low": 0.4,
   "n": 0,
   "value": 0.5
  }
 },
 "missing": [
  "02_two",
  "01_one"
 ],
 "parameters": {
  "boxes": [
   3
  ],
  "seed": 1
 }
}
"""
    )


def test_findings_are_read_as_they_were_gathered(tmp_path):
    rows = {"01_one": {"x": {"value": 0.5, "low": 0.4, "high": 0.6, "n": 7}}, "02_two": {"y": {"value": "none"}}}
    whole = gather(rows, ["03_three"], {"seed": 1})
    assert whole.reported["x"] == Reported("x", 0.5, 0.4, 0.6, 7, chapter="01_one")
    path = tmp_path / "findings.json"
    path.write_text(whole.to_json())
    assert findings.gathered(path) == whole
    assert findings.load(path) == whole.reported
    assert whole.to_json() == Gathered.from_json(whole.to_json()).to_json()


def test_in_a_notebook_a_finding_is_handed_over_as_it_was_given_and_elsewhere_nothing_is(monkeypatch):
    handed = []
    monkeypatch.setattr("IPython.display.display", lambda *given, **how: handed.append((given, how)))
    monkeypatch.setattr("IPython.get_ipython", lambda: None)
    findings.keep("a/b", 0.5)
    assert handed == []
    monkeypatch.setattr("IPython.get_ipython", object)
    findings.keep("a/b", 0.5, low=0.4, high=0.6, n=98, unit="share", model="tiny", about="of all")
    row = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 98, "unit": "share", "model": "tiny", "about": "of all"}
    assert handed == [(({findings.MIME: {"a/b": row}},), {"raw": True})]
    assert Reported("a/b", **row) == report("a/b", **row)


def test_outside_of_a_build_the_findings_are_those_of_the_checkout(monkeypatch, tmp_path):
    monkeypatch.delenv(findings.VARIABLE, raising=False)
    monkeypatch.setattr(findings.places, "ROOT", tmp_path)
    assert findings.load() == {}
    path = tmp_path / "build" / "executed" / "findings.json"
    path.parent.mkdir(parents=True)
    path.write_text(gather({"01_one": {"x": {"value": 0.5}}}, [], {}).to_json())
    assert findings.load() == {"x": Reported("x", 0.5, chapter="01_one")}


def test_two_chapters_cannot_keep_one_finding():
    with pytest.raises(ValueError, match="two chapters keep the finding 'x': 01_one and 02_two"):
        gather({"01_one": {"x": {"value": 1.0}}, "02_two": {"x": {"value": 1.0}}}, [], {})


@pytest.mark.parametrize("text", ["{", "[]", '{"findings": {"x": {"size": 1}}}', "{}"])
def test_a_file_of_another_form_is_said_to_be_one(tmp_path, text):
    (tmp_path / "f.json").write_text(text)
    with pytest.raises(ValueError, match=r"f\.json does not hold findings"):
        findings.load(tmp_path / "f.json")


def test_a_chapter_that_did_not_say_so_reads_nothing(monkeypatch, tmp_path):
    monkeypatch.setenv(findings.VARIABLE, "")
    with pytest.raises(RuntimeError, match="reads-findings"):
        findings.load()
    monkeypatch.setenv(findings.VARIABLE, str(tmp_path / "not-there.json"))
    assert findings.load() == {}


def test_what_lies_outside_an_earlier_interval_is_told_and_nothing_else():
    old = {
        "x": Reported("x", 0.5, 0.4, 0.6),
        "y": Reported("y", 98.0),
        "z": Reported("z", "none"),
        "gone": Reported("g", 1.0),
    }
    same = {"x": Reported("x", 0.6, 0.5, 0.7), "y": Reported("y", 98.0), "z": Reported("z", "none")}
    assert outside(old, old) == []
    assert outside(same, old) == ["gone: there is no such finding any more"]
    moved = {**old, "x": Reported("x", 0.65, 0.6, 0.7), "y": Reported("y", 90.0), "z": Reported("z", "some")}
    assert outside({**moved, "w": Reported("w", 2.0)}, old) == [
        "w: new, 2",
        "x: 0.650 is 0.050 outside of 0.50 [0.40, 0.60], 0.5 times half its width",
        "y: 90, was 98",
        "z: some, was none",
    ]


def test_a_model_in_a_folder_goes_by_the_name_of_the_folder():
    assert findings.report("a/b", 0.5, model="/somewhere/else/adapter").model == "adapter"
    assert findings.report("a/b", 0.5, model="Qwen/Qwen2.5-0.5B").model == "Qwen/Qwen2.5-0.5B"


def test_a_model_in_a_folder_has_a_name_that_a_key_can_have():
    for model in ("/tmp/made/base", "a folder/my base", "qwen2.5-coder-0.5b", "base+arithmetic"):
        findings.report(f"nodes/{findings.part(model)}/size", 3)
    assert findings.part("qwen2.5-coder-0.5b") == "qwen2.5-coder-0.5b"
