"""Claims and verdicts: each rule on findings made for it, absent numbers, gaps that are none, and the tables."""

import json
from typing import Any

import pandas as pd
import pytest
from entity_book.claims import claims, findings, handing_over, verdicts
from entity_book.claims.findings import report
from entity_book.figures import charts
from entity_book.figures import claims as figures
from entity_book.official import artefacts as official
from entity_book.paper import paper
from entity_circuits.statistics import Estimate

PAPER = paper()
NAMES = [claim.name for claim in claims.CLAIMS]


def found(**numbers):
    """Findings from {"key__with__slashes": value, or (value, low, high)}."""
    made = {}
    for name, number in numbers.items():
        key = name.replace("__", "/").replace("_over_", "-over-").replace("_random", "-random")
        value, low, high = number if isinstance(number, tuple) else (number, None, None)
        made[key] = report(key, value, low=low, high=high, n=98, unit="share")
    return made


def around(value: float, half: float = 0.02) -> tuple[float, float, float]:
    return (value, value - half, value + half)


def verdict(name: str, numbers) -> str:
    claim = next(claim for claim in claims.CLAIMS if claim.name == name)
    said, why = claims.judge(claim, numbers, PAPER)
    assert why
    return said


def everything() -> dict[str, findings.Reported]:
    """A book in which every claim holds."""
    numbers: dict[str, Any] = {key: around(0.0) for claim in claims.CLAIMS for key in claim.keys}
    numbers |= {key: 0.001 for key in numbers if key.endswith("/p")}
    numbers |= dict.fromkeys([f"reads/{letter}" for letter in "ABCD"], 0.9)
    numbers |= {"accuracy/base": around(0.45), "accuracy/chance": 1 / 7}
    for key in ("gain/arithmetic", "gain/code", "cmap/gap"):
        numbers |= {key: around(0.2), f"{key}-over-control": around(0.2)}
    for who in ("base", "finetuned"):
        numbers |= {f"faithful/{who}": around(0.95), f"faithful/{who}-random": around(0.01)}
    for key in ("carries/A/object/gain", "carries/B/position/gain", "carries/C/position/gain"):
        numbers[key] = around(0.4)
    for key in ("cmap/A", "cmap/B", "cmap/A/q", "cmap/B/v", "cmap/A/q/inputs", "cmap/B/v/inputs"):
        numbers[key] = around(0.8)
    bounds = {key: number if isinstance(number, tuple) else (number, None, None) for key, number in numbers.items()}
    return {key: report(key, value, low=low, high=high) for key, (value, low, high) in bounds.items()}


def test_a_book_in_which_all_holds_replicates_every_claim():
    judged = claims.table(everything())
    assert dict(zip(judged["name"], judged["verdict"], strict=True)) == dict.fromkeys(NAMES, "replicates")


@pytest.mark.parametrize("name", NAMES)
def test_a_claim_without_one_of_its_findings_is_not_tested(name):
    claim = next(claim for claim in claims.CLAIMS if claim.name == name)
    for key in claim.keys:
        numbers = everything()
        del numbers[key]
        said, why = claims.judge(claim, numbers, PAPER)
        assert (said, why) == ("not tested here", f"no finding `{key}`")


@pytest.mark.parametrize("gap", [around(0.01), around(-0.2)])
def test_without_a_gap_nothing_is_said_about_what_recovers_it(gap):
    numbers = {**everything(), **found(cmap__gap=gap)}
    judged = claims.table(numbers).set_index("name")["verdict"]
    assert judged["pair"] == "does not"
    for name in ("A and B", "C and D", "A through q", "B through v", "upstream"):
        assert judged[name] == "not tested here"
        shares = {key: one for key, one in numbers.items() if not key.startswith("cmap/") or key == "cmap/gap"}
        claim = next(claim for claim in claims.CLAIMS if claim.name == name)
        assert "no gap to recover" in claims.judge(claim, shares, PAPER)[1], "shares are not even kept then"


@pytest.mark.parametrize(
    ("name", "changed", "expected"),
    [
        ("tracks", {"accuracy__base": around(0.15)}, "does not"),
        ("tracks", {"accuracy__base": 0.15}, "replicates"),
        ("arithmetic", {"gain__arithmetic": around(0.01)}, "does not"),
        ("arithmetic", {"gain__arithmetic": around(-0.1)}, "does not"),
        ("arithmetic", {"gain__arithmetic_over_control": around(0.0)}, "partly"),
        ("groups", {"reads__D": 0.5}, "partly"),
        ("groups", {f"reads__{letter}": 0.2 for letter in "ABCD"}, "does not"),
        ("faithful", {"faithful__base": around(0.72)}, "partly"),
        ("faithful", {"faithful__base": around(0.12, 0.04), "faithful__base_random": around(0.06, 0.03)}, "does not"),
        ("faithful", {"faithful__base": around(0.88)}, "replicates"),
        ("same circuit", {"faithful__finetuned": around(0.59)}, "partly"),
        ("overlap", {"overlap__D__p": 0.3}, "partly"),
        ("overlap", {f"overlap__{letter}__p": 0.3 for letter in "ABCD"}, "does not"),
        ("A carries", {"carries__A__object__gain": around(0.01)}, "does not"),
        ("A carries", {"carries__A__object__gain": around(0.06)}, "partly"),
        ("A carries", {"carries__A__position__gain": around(0.4)}, "partly"),
        ("B carries", {"carries__B__object__gain": around(0.5)}, "partly"),
        ("D carries", {"carries__D__position__gain": around(0.2)}, "does not"),
        ("D carries", {"carries__D__position__gain": around(0.03, 0.05)}, "partly"),
        ("label", {"carries__B__label__gain": around(0.3)}, "does not"),
        ("A and B", {"cmap__B": around(0.4)}, "partly"),
        ("A and B", {"cmap__A": around(0.6, 0.2), "cmap__B": around(0.4)}, "does not"),
        ("A and B", {"cmap__A_random": around(0.9)}, "partly"),
        ("C and D", {"cmap__C": around(0.6)}, "partly"),
        ("C and D", {"cmap__C": around(0.9), "cmap__D": around(0.9)}, "does not"),
        ("A through q", {"cmap__A__v": around(0.79)}, "partly"),
        ("A through q", {"cmap__A__v": around(0.9)}, "does not"),
        (
            "A through q",
            {"cmap__A__q": around(0.0), "cmap__A__k": around(-0.5), "cmap__A__v": around(-0.5)},
            "does not",
        ),
        ("B through v", {"cmap__B__q": around(0.9)}, "does not"),
        ("upstream", {"cmap__B__v__weights": around(0.9)}, "partly"),
        ("upstream", {"cmap__A__q__weights": around(0.9), "cmap__B__v__weights": around(0.9)}, "does not"),
    ],
)
def test_a_rule_follows_the_intervals(name, changed, expected):
    assert verdict(name, {**everything(), **found(**changed)}) == expected


@pytest.mark.parametrize(
    ("name", "changed", "words"),
    [
        ("tracks", {}, "the interval lies above chance, 0.14"),
        ("tracks", {"accuracy__base": around(0.15)}, "the interval does not lie above chance, 0.14"),
        ("arithmetic", {"gain__arithmetic": around(0.01)}, "the interval of the difference contains 0"),
        (
            "arithmetic",
            {"gain__arithmetic": around(-0.1)},
            "the interval of the difference lies below 0: it does worse",
        ),
        ("arithmetic", {"gain__arithmetic": (-0.1, -0.2, 0.0)}, "the interval of the difference contains 0"),
        (
            "arithmetic",
            {"gain__arithmetic_over_control": around(0.0)},
            "better than the base, but not surely than the control (0.00 [-0.02, 0.02])",
        ),
        ("groups", {"reads__B": 0.5, "reads__D": 0.2}, "most heads look where the paper says except in B, D"),
        ("faithful", {"faithful__heads": 98}, "at least the paper's smallest, 0.88 with 98.00 heads"),
        ("faithful", {}, "at least the paper's smallest, 0.88"),
        (
            "faithful",
            {"faithful__base": around(0.72)},
            "better than random heads of the same layers, but below the paper's smallest, 0.88",
        ),
        ("overlap", {"overlap__D__p": 0.3}, "more than random heads of the same layers in A, B, C"),
        (
            "overlap",
            {f"overlap__{x}__p": 0.3 for x in "ABCD"},
            "more than random heads of the same layers in no group",
        ),
        (
            "A carries",
            {"carries__A__position__gain": around(0.3), "carries__A__label__gain": around(0.39)},
            "0.40 [0.38, 0.42] over its floor, but not surely more than the label (0.39 [0.37, 0.41])",
        ),
        ("A carries", {"carries__A__object__gain": around(0.06)}, "above its floor, but little (0.06 [0.04, 0.08])"),
        (
            "D carries",
            {"carries__D__position__gain": around(0.03, 0.05), "carries__D__label__gain": around(0.03, 0.06)},
            "none surely above 0.05, but it cannot be excluded: D, label, 0.03 [-0.03, 0.09]",
        ),
        (
            "D carries",
            {"carries__D__position__gain": around(0.2), "carries__D__label__gain": around(0.3, 0.25)},
            "there is an effect: D, position, 0.20 [0.18, 0.22]",
        ),
        (
            "A and B",
            {"cmap__A": around(0.6, 0.2)},
            "only B surely recovers most of the gap; A 0.60 [0.40, 0.80], B 0.80 [0.78, 0.82]",
        ),
    ],
)
def test_a_reason_names_what_decided(name, changed, words):
    numbers = {**everything(), **found(**changed)}
    assert claims.judge(next(claim for claim in claims.CLAIMS if claim.name == name), numbers, PAPER)[1] == words


@pytest.mark.parametrize(
    ("name", "changed", "expected"),
    [
        ("tracks", {"accuracy__base": 1 / 7}, "does not"),
        ("arithmetic", {"gain__arithmetic": (0.1, 0.0, 0.2)}, "does not"),
        ("arithmetic", {"gain__arithmetic_over_control": (0.1, 0.0, 0.2)}, "partly"),
        ("faithful", {"faithful__base": (0.95, 0.2, 1.0), "faithful__base_random": (0.1, 0.0, 0.2)}, "does not"),
        ("faithful", {"faithful__base": (0.88, 0.8, 0.9)}, "replicates"),
        ("overlap", {"overlap__D__p": 0.05}, "partly"),
        ("A carries", {"carries__A__object__gain": (0.1, 0.0, 0.2)}, "does not"),
        ("A carries", {"carries__A__object__gain": (0.1, 0.05, 0.2)}, "partly"),
        ("A carries", {"carries__A__label__gain": (0.3, 0.2, 0.38)}, "partly"),
        ("D carries", {"carries__D__label__gain": (0.06, 0.05, 0.07)}, "partly"),
        ("D carries", {"carries__D__label__gain": (0.01, 0.0, 0.05)}, "partly"),
        ("A and B", {"cmap__A": (0.7, 0.5, 0.9)}, "partly"),
        ("A and B", {"cmap__A_random": (0.5, 0.4, 0.78)}, "partly"),
        ("C and D", {"cmap__C": (0.4, 0.3, 0.5)}, "partly"),
        ("C and D", {"cmap__C": (0.7, 0.5, 0.9), "cmap__D": around(0.9)}, "partly"),
        ("A through q", {"cmap__A__v": (0.7, 0.6, 0.78)}, "partly"),
        ("A through q", {"cmap__A__q": (0.1, 0.0, 0.2)}, "does not"),
        ("A through q", {"cmap__A__v": (0.8, 0.7, 0.9)}, "does not"),
        ("upstream", {"cmap__A__q__inputs": (0.1, 0.0, 0.2), "cmap__A__q__weights": around(-0.5)}, "partly"),
    ],
)
def test_on_the_border_a_claim_does_not_hold(name, changed, expected):
    assert verdict(name, {**everything(), **found(**changed)}) == expected


def test_papers_numbers_come_from_the_file_of_published_numbers():
    published = claims.table({}).set_index("name")["paper"]
    assert published["tracks"] == 0.66
    assert published["arithmetic"] == pytest.approx(0.16)
    assert published["faithful"] == 1.0
    assert published["same circuit"] == 0.88
    assert published["overlap"] == pytest.approx(54 / 72)
    assert published["A carries"] == 0.468
    assert published["B carries"] == PAPER.carried("llama", "position_transmitter", "position")
    assert published["A and B"] == pytest.approx(1.0)
    assert published["C and D"] == pytest.approx(PAPER.recovered("float", "position_detector"))
    assert published["A through q"] == pytest.approx(PAPER.recovered("goat", "value_fetcher", "q"))
    assert published[["code", "groups"]].isna().all()


def test_every_artefact_that_a_claim_names_exists():
    assert {name for claim in claims.CLAIMS for name in claim.artefacts} < set(official.ARTEFACTS)


def test_the_table_is_the_same_from_an_empty_book_and_says_so():
    judged = claims.table({})
    assert claims.counts(judged) == dict(zip(verdicts.VERDICTS, (0, 0, 0, len(NAMES)), strict=True))
    assert claims.sentence(judged).endswith(f"and {len(NAMES)} could not be tested.")
    assert judged["ours"].isna().all()


def test_a_row_of_words_has_number_interval_and_verdict_and_cannot_break_the_table():
    numbers = found(accuracy__base=around(0.45), accuracy__chance=1 / 7)
    text = claims.markdown(claims.table(numbers), why=True)
    lines = text.splitlines()
    assert len(lines) == len(NAMES) + 2
    assert lines[0] == "| Claim | Paper | Here | Verdict | Why |"
    assert {line.replace("\\|", "").count("|") for line in lines} == {6}
    assert "| 0.66 | 0.45 [0.43, 0.47], n = 98 | **replicates** | the interval lies above chance, 0.14 |" in lines[2]
    assert "0.00 (void, B4)" in text


def test_official_rows_are_kept_by_artefact_and_read_back_beside_the_claims(monkeypatch):
    kept = {}
    monkeypatch.setattr(findings, "keep", lambda key, value, **more: kept.update({key: report(key, value, **more)}))
    rows = official.joined(
        official.entry("B1", "floor of position", estimate_of(0.13), estimate_of(0.05)),
        official.entry("B4", "label", 0.0, 0.2),
        official.entry("B1", "group D", 0.14, float("nan")),
    )
    handing_over.artefacts(rows)
    table = claims.artefacts(kept)
    assert list(dict.fromkeys(table["artefact"])) == list(official.ARTEFACTS)
    first, second = table[table["artefact"] == "B1"].to_dict("records")
    assert (first["quantity"], first["official"], first["corrected"]) == (
        "floor of position", "0.13 [0.10, 0.16]", "0.05 [0.02, 0.08]",
    )  # fmt: skip
    assert (second["official"], second["corrected"]) == ("0.14", "–")
    assert "D carries" in first["claims"]
    nothing = table.set_index("artefact").loc["B19"]
    assert (nothing["quantity"], nothing["official"], nothing["corrected"]) == ("not measured", "–", "–")


def estimate_of(value: float) -> Estimate:
    return Estimate(value, value - 0.03, value + 0.03, 98, 14)


def test_the_figure_has_a_panel_a_unit_and_says_every_number():
    numbers = found(accuracy__base=around(0.45), accuracy__chance=1 / 7, faithful__base=around(0.72))
    numbers["accuracy/base"] = report("accuracy/base", 0.45, low=0.43, high=0.47, n=98, unit="accuracy")
    chart = figures.beside(claims.table(numbers))
    spec = json.loads(chart.to_json())
    assert len(spec["vconcat"]) == 2
    assert "tracks: 0.45 (from 0.43 to 0.47), paper 0.66" in charts.description(spec)
    assert charts.picture(spec, "svg").startswith(b"<svg")
    nothing = json.loads(figures.beside(claims.table({})).to_json())
    assert charts.description(nothing).startswith("No claim has a number yet")
    assert charts.picture(nothing, "svg").startswith(b"<svg")


def test_numbers_of_another_unit_are_not_drawn():
    numbers = {"accuracy/base": report("accuracy/base", 9.0, unit="heads"), **found(faithful__base=around(0.7))}
    words = charts.description(json.loads(figures.beside(claims.table(numbers)).to_json()))
    assert "tracks" not in words
    assert isinstance(claims.table(numbers), pd.DataFrame)
