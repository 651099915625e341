"""Claims and verdicts: each rule on findings made for it, absent numbers, gaps that are none, and the tables."""

import json
from typing import Any

import pandas as pd
import pytest
from entity_book.claims import claims, comparisons, findings, handing_over, verdicts
from entity_book.claims.comparisons import above, below, over
from entity_book.claims.findings import report
from entity_book.figures import charts
from entity_book.figures import claims as figures
from entity_book.official import artefacts as official
from entity_book.paper import paper
from entity_circuits.statistics import Estimate

PAPER = paper()
SMALLEST = 0.88
"""The smallest faithfulness of the paper's table."""
NAMES = [claim.name for claim in claims.CLAIMS]
OWN = [claim.name for claim in claims.CLAIMS if claim.by == "paper"]


def found(**numbers):
    """Findings from {"key__with__slashes": value, or (value, low, high)}."""
    made = {}
    for name, number in numbers.items():
        key = name.replace("__", "/").replace("_over_", "-over-").replace("_random", "-random")
        made[key] = one(key, number)
    return made


def one(key: str, number: Any, **more: Any) -> findings.Reported:
    value, low, high = number if isinstance(number, tuple) else (number, None, None)
    return report(key, value, low=low, high=high, n=98, unit="share", **more)


def around(value: float, half: float = 0.02) -> tuple[float, float, float]:
    return (value, value - half, value + half)


def judged(name: str, numbers) -> verdicts.Judgement:
    said = claims.judge(next(claim for claim in claims.CLAIMS if claim.name == name), numbers, PAPER)
    assert said.because
    return said


def everything() -> dict[str, findings.Reported]:
    """A book in which every claim holds."""
    numbers: dict[str, Any] = {key: around(0.0) for claim in claims.CLAIMS for key in claim.keys}
    numbers |= {key: 1e-6 for key in numbers if key.endswith("/p")}
    numbers |= dict.fromkeys([f"looks/{letter}" for letter in "ABCD"], around(0.9))
    numbers |= {"accuracy/base": around(0.45), "accuracy/chance": 1 / 7, "overlap/ceiling": 0.6}
    numbers |= {"overlap/all": around(0.7)}
    gains = ("gain/arithmetic/trainings", "gain/arithmetic-over-control", "gain/code/trainings", "gain/code-over-other")
    numbers |= dict.fromkeys([*gains, "cmap/gap", "circuit/over-base", "circuit/gained"], around(0.2))
    numbers |= {"carries/A/object/improved": around(0.2)}
    for who in ("base", "finetuned"):
        numbers |= {f"faithful/{who}": around(0.95), f"faithful/{who}-random": around(0.01)}
    for prefix in ("carries", "carries-tuned"):
        for path in ("A/object", "B/position", "C/position"):
            numbers[f"{prefix}/{path}/gain"] = around(0.4)
    numbers |= dict.fromkeys(("draws/A_without_B", "draws/B"), around(0.8))
    for key in ("A/q", "B/v", "A/q/inputs", "B/q/inputs", "B/v/inputs"):
        numbers[f"cmap/{key}"] = around(0.8)
    return {key: one(key, number) for key, number in numbers.items()}


def test_a_book_in_which_all_holds_replicates_every_claim():
    table = claims.table(everything())
    assert dict(zip(table["name"], table["verdict"], strict=True)) == dict.fromkeys(NAMES, "replicates")


@pytest.mark.parametrize("name", NAMES)
def test_a_claim_without_one_of_its_findings_is_not_tested(name):
    for key in next(claim for claim in claims.CLAIMS if claim.name == name).keys:
        numbers = everything()
        del numbers[key]
        said = judged(name, numbers)
        assert (said.verdict, said.because) == ("not tested here", f"no finding `{key}`")


@pytest.mark.parametrize("gap", [around(0.01), around(-0.2)])
def test_without_a_gap_nothing_is_said_about_what_recovers_it(gap):
    numbers = {**everything(), **found(cmap__gap=gap)}
    table = claims.table(numbers).set_index("name")["verdict"]
    assert table["pair"] == "does not"
    for name in ("enhanced", "A improved", "A and B", "C and D", "A through q", "B through v", "upstream"):
        assert table[name] == "not tested here"
        shares = {key: one for key, one in numbers.items() if not key.startswith("cmap/") or key == "cmap/gap"}
        assert "no gap to recover" in judged(name, shares).because, "shares are not even kept then"


FAILS: dict[str, dict[str, Any]] = {
    "tracks": {"accuracy__base": around(0.15)},
    "arithmetic": {"gain__arithmetic__trainings": around(0.0)},
    "groups": {f"looks__{letter}": around(0.3) for letter in "ABCD"},
    "faithful": {"faithful__base": around(0.5)},
    "same circuit": {"faithful__finetuned": around(0.5)},
    "enhanced": {"circuit__over-base": around(-0.07), "circuit__gained": around(0.0)},
    "overlap": {"overlap__all": around(0.3)},
    "A carries": {"carries__A__object__gain": around(0.01)},
    "B carries": {"carries__B__position__gain": around(0.01)},
    "C carries": {"carries__C__position__gain": around(0.01)},
    "D carries": {"carries__D__position__gain": around(0.2)},
    "label": {"carries__B__label__gain": around(0.3)},
    "A carries, tuned": {"carries-tuned__A__object__gain": around(0.01)},
    "B carries, tuned": {"carries-tuned__B__position__gain": around(0.01)},
    "C carries, tuned": {"carries-tuned__C__position__gain": around(0.01)},
    "A improved": {"carries__A__object__improved": around(0.0)},
    "A and B": {"draws__A_without_B": around(0.3), "draws__B": around(0.3)},
    "C and D": {"cmap__C": around(0.6), "cmap__D": around(0.6)},
    "pair": {"cmap__gap": around(0.0)},
    "code": {"gain__code__trainings": around(0.0)},
    "A through q": {"cmap__A__v": around(0.9)},
    "B through v": {"cmap__B__q": around(0.9)},
    "upstream": {f"cmap__{x}__weights": around(0.9) for x in ("A__q", "B__q", "B__v")},
}
"""For each claim, numbers by which it is surely wrong."""


@pytest.mark.parametrize("name", NAMES)
def test_every_rule_can_fail(name):
    numbers = {**everything(), **found(**FAILS[name])}
    assert judged(name, numbers).verdict == "does not"
    assert claims.table(numbers).set_index("name")["verdict"][name] == "does not"


@pytest.mark.parametrize("name", [name for name in NAMES if name != "overlap"])
def test_numbers_that_say_little_leave_every_claim_open(name):
    wide = {key: one(key, (o.value, o.value - 2, o.value + 2)) for key, o in everything().items() if o.low is not None}
    assert judged(name, {**everything(), **wide, "cmap/gap": everything()["cmap/gap"]}).verdict in (
        ("open",) if name != "pair" else ("replicates",)
    )


def test_a_number_without_an_interval_or_with_one_of_no_width_decides_nothing():
    for number in (0.45, (0.45, 0.45, 0.45)):
        assert judged("tracks", {**everything(), **found(accuracy__base=number)}).verdict == "open"


@pytest.mark.parametrize(
    ("name", "changed", "expected"),
    [
        ("tracks", {"accuracy__base": around(0.2)}, "partly"),
        ("arithmetic", {"gain__arithmetic__trainings": around(-0.1)}, "does not"),
        ("arithmetic", {"gain__arithmetic__trainings": (0.04, -0.08, 0.16)}, "open"),
        ("arithmetic", {"gain__arithmetic_over_control": around(0.0)}, "partly"),
        ("arithmetic", {"gain__arithmetic__trainings": around(0.05)}, "partly"),
        ("groups", {"looks__D": around(0.3)}, "partly"),
        ("enhanced", {"circuit__gained": around(0.06)}, "partly"),
        ("enhanced", {"circuit__over-base": around(0.0)}, "partly"),
        ("faithful", {"faithful__base": around(0.84)}, "open"),
        ("faithful", {"faithful__base": around(0.86)}, "replicates"),
        ("faithful", {"faithful__base_random": around(0.95)}, "open"),
        ("overlap", {"overlap__D__p": 0.3}, "partly"),
        ("overlap", {f"overlap__{letter}__p": 0.3 for letter in "ABCD"}, "open"),
        ("A carries", {"carries__A__object__gain": around(0.06)}, "partly"),
        ("A carries", {"carries__A__position__gain": around(0.4)}, "partly"),
        ("B carries", {"carries__B__object__gain": around(0.5)}, "partly"),
        ("A carries", {"carries__A__object__gain": (0.1, -0.05, 0.25)}, "open"),
        ("D carries", {"carries__D__position__gain": around(0.03, 0.05)}, "open"),
        ("A and B", {"draws__B": around(0.4)}, "partly"),
        ("A and B", {"draws__B": (0.8, 0.45, 1.15)}, "partly"),
        ("A and B", {"draws__B__p": 0.3}, "partly"),
        ("A and B", {"draws__A_without_B__p": 0.06, "draws__B__p": 0.06}, "open"),
        ("C and D", {"cmap__C": around(0.6)}, "partly"),
        ("A through q", {"cmap__A__v": around(0.79)}, "open"),
        (
            "A through q",
            {"cmap__A__q": around(0.0), "cmap__A__k": around(-0.5), "cmap__A__v": around(-0.5)},
            "does not",
        ),
        ("upstream", {"cmap__B__q__weights": (0.116, 0.08, 0.15)}, "partly"),
    ],
)
def test_a_rule_follows_the_intervals(name, changed, expected):
    assert judged(name, {**everything(), **found(**changed)}).verdict == expected


@pytest.mark.parametrize(
    ("name", "changed", "words"),
    [
        ("tracks", {}, "surely more than 0.05 above 0.14"),
        ("arithmetic", {"gain__arithmetic__trainings": around(0.01)}, "surely less than 0.05 above 0"),
        ("arithmetic", {"gain__arithmetic__trainings": around(-0.1)}, "above 0; it is surely smaller"),
        ("arithmetic", {"gain__arithmetic_over_control": around(0.0)}, "not surely than the control (0.00 [-0.02,"),
        ("groups", {"looks__B": around(0.3)}, "A 0.90 [0.88, 0.92], B 0.30 [0.28, 0.32], C 0.90"),
        ("faithful", {"faithful__heads": 24}, "0.95 [0.93, 0.97] with 24.00 heads, the paper's smallest 0.88, random"),
        ("overlap", {"overlap__D__p": 0.3}, "more than chance in A, B, C; the base shares 0.60 with itself"),
        ("A carries", {"carries__A__position__gain": around(0.39)}, "not surely more than the position (0.39"),
        ("D carries", {"carries__D__label__gain": around(0.03, 0.06)}, "be excluded: D, label, 0.03 [-0.03, 0.09]"),
        ("D carries", {"carries__D__position__gain": around(0.2)}, "an effect: D, position, 0.20 [0.18, 0.22]"),
        ("A and B", {"draws__A_without_B": around(0.6, 0.2)},
         "A without B 0.60 [0.40, 0.80], p 1e-06 among random heads; B 0.80"),
    ],
)  # fmt: skip
def test_a_reason_names_what_decided(name, changed, words):
    assert words in judged(name, {**everything(), **found(**changed)}).because


A, D = "carries/A/object/gain", "carries/D/{}/gain"
TO_Q = [f"cmap/A/{site}" for site in "qkv"]


@pytest.mark.parametrize(
    ("name", "changed", "verdict", "because", "p", "key"),
    [
        # A group carries: the bound is SMALL, the floor 0; the p is that of the comparison that decided.
        ("A carries", {A: (0.02, 0, 0.04)}, "does not", "surely less than 0.05 over its floor (0.02 [0.00, 0.04])",
         lambda n: below(n[A], 0.05), ""),
        ("A carries", {A: (0.1, -0.01, 0.21)}, "open",
         "not surely above what happens without a patch (0.10 [-0.01, 0.21])", lambda n: 1.0, ""),
        ("A carries", {A: (0.1, 0.04, 0.16)}, "partly",
         "above its floor, but not surely by 0.05 (0.10 [0.04, 0.16])", lambda n: above(n[A], 0.0), ""),
        ("A carries", {A: (0.1, 0.05, 0.15), "carries/A/label/gain": (0.08, 0.02, 0.14)}, "partly",
         "0.10 [0.05, 0.15] over its floor, but not surely more than the label (0.08 [0.02, 0.14])",
         lambda n: above(n[A], 0.0), ""),
        ("A carries", {A: (0.12, 0.06, 0.18)}, "replicates",
         "0.12 [0.06, 0.18] over its floor, and more than the other two",
         lambda n: over(n[A], n["carries/A/label/gain"]), ""),
        # A circuit is faithful: needed is the paper's smallest less SMALL, and more than random heads.
        ("faithful", {"faithful/base": (0.80, 0.78, 0.82)}, "does not",
         "0.80 [0.78, 0.82], the paper's smallest 0.88, random heads 0.01 [-0.01, 0.03]",
         lambda n: below(n["faithful/base"], SMALLEST - 0.05), ""),
        ("faithful", {"faithful/base": (0.86, 0.84, 0.88), "faithful/heads": "24", "faithful/base/larger": 0.97},
         "replicates",
         "0.86 [0.84, 0.88] with 24 heads, the paper's smallest 0.88, random heads 0.01 [-0.01, 0.03]"
         "; eight times larger 0.97",
         lambda n: above(n["faithful/base"], SMALLEST - 0.05), ""),
        ("faithful", {"faithful/base-random": (0.9, 0.86, 0.94)}, "replicates",
         "0.95 [0.93, 0.97], the paper's smallest 0.88, random heads 0.90 [0.86, 0.94]",
         lambda n: over(n["faithful/base"], n["faithful/base-random"]), ""),
        ("faithful", {"faithful/base": (0.84, 0.82, 0.86)}, "open",
         "0.84 [0.82, 0.86], the paper's smallest 0.88, random heads 0.01 [-0.01, 0.03]", lambda n: 1.0, ""),
        # Nothing: the surest effect counts as often as there are tests; the least sure of none is shown.
        ("D carries", {D.format("position"): (0.09, 0.07, 0.11), D.format("label"): (0.08, 0.07, 0.09)}, "does not",
         "there is an effect: D, label, 0.08 [0.07, 0.09]", lambda n: 3 * above(n[D.format("label")], 0.05),
         D.format("label")),
        ("D carries", {D.format("position"): (0.02, -0.01, 0.05), D.format("label"): (0.03, -0.03, 0.09)}, "open",
         "no effect surely above 0.05, but it cannot be excluded: D, label, 0.03 [-0.03, 0.09]", lambda n: 1.0,
         D.format("label")),
        ("D carries", {D.format("label"): (0.02, -0.01, 0.045)}, "replicates",
         "surely less than 0.05 in each of 3 tests", lambda n: below(n[D.format("label")], 0.05), D.format("label")),
        # Through one input: more than nothing and than both others; or less than a trace, or than one of the others.
        ("A through q", dict(zip(TO_Q, [(0.3, 0.02, 0.58), (-0.9, -0.95, -0.85), (-0.9, -0.95, -0.85)], strict=True)),
         "replicates", "q recovers more than either other input; q 0.30 [0.02, 0.58], k -0.90 [-0.95, -0.85], "
         "v -0.90 [-0.95, -0.85]", lambda n: above(n[TO_Q[0]], 0.0), ""),
        ("A through q", {TO_Q[1]: (0.7, 0.65, 0.75)}, "replicates",
         "q recovers more than either other input; q 0.80 [0.78, 0.82], k 0.70 [0.65, 0.75], v 0.00 [-0.02, 0.02]",
         lambda n: over(n[TO_Q[0]], n[TO_Q[1]]), ""),
        ("A through q", dict(zip(TO_Q, [(0.07, 0.05, 0.09), (0.3, -0.1, 0.7), (0.3, -0.1, 0.7)], strict=True)),
         "does not", "q 0.07 [0.05, 0.09], k 0.30 [-0.10, 0.70], v 0.30 [-0.10, 0.70]",
         lambda n: below(n[TO_Q[0]], 0.1), ""),
        ("A through q", {TO_Q[2]: around(0.84)}, "does not",
         "q 0.80 [0.78, 0.82], k 0.00 [-0.02, 0.02], v 0.84 [0.82, 0.86]",
         lambda n: 2 * over(n[TO_Q[2]], n[TO_Q[0]]), ""),
        ("A through q", {TO_Q[2]: around(0.83)}, "open",
         "q 0.80 [0.78, 0.82], k 0.00 [-0.02, 0.02], v 0.83 [0.81, 0.85]",
         lambda n: 1.0, ""),
    ],
)  # fmt: skip
def test_a_judgement_has_the_words_the_p_and_the_finding_of_what_decided(name, changed, verdict, because, p, key):
    numbers = {**everything(), **{key: one(key, number) for key, number in changed.items()}}
    assert judged(name, numbers) == (verdict, because, pytest.approx(p(numbers), rel=1e-9), key)


def test_a_verdict_that_one_of_many_would_reach_by_chance_stays_open():
    barely = (0.10, 0.001, 0.20)
    numbers = {**everything(), **found(gain__arithmetic__trainings=barely, gain__code__trainings=barely)}
    assert judged("arithmetic", numbers).verdict == "partly"
    row = claims.table(numbers).set_index("name").loc["arithmetic"]
    assert row["verdict"] == "open" and row["p"] > 0.05
    assert row["because"].endswith(f"alone it does so in part, but not surely among {len(NAMES)} verdicts")


def test_what_random_draws_do_as_often_decides_how_sure_it_is_that_a_and_b_bring_the_gain():
    few = {**everything(), **found(draws__B__p=0.0099, draws__A_without_B__p=0.0099)}
    assert judged("A and B", few)[:3:2] == ("replicates", 0.0099)
    others = found(draws__B__p=0.04, draws__A_without_B__p=0.0099, gain__code__trainings=(0.2, 0.06, 0.34))
    row = claims.table({**everything(), **others}).set_index("name").loc["A and B"]
    assert row["p"] == pytest.approx(0.04) and row["verdict"] == "replicates", "the least sure of all is not multiplied"
    surer = {**everything(), **found(draws__B__p=0.03, cmap__gap=(0.2, 0.005, 0.395))}
    assert claims.table(surer).set_index("name").loc["A and B", "verdict"] == "open"


def test_the_object_choice_stands_beside_top_1_and_is_not_judged():
    numbers = {**everything(), **found(gain__arithmetic__trainings=around(-0.1))}
    before = claims.table(numbers)
    numbers |= {"choice/gain/arithmetic": one("choice/gain/arithmetic", (-0.01, -0.04, 0.02))}
    table = claims.table(numbers)
    assert table["verdict"].equals(before["verdict"]) and table["p"].equals(before["p"])
    (line,) = [line for line in claims.markdown(table).splitlines() if "Fine-tuning on arithmetic" in line]
    assert "-0.10 [-0.12, -0.08], n = 98; object choice, one training: -0.01 [-0.04, 0.02], n = 98 |" in line
    assert "object choice" not in claims.markdown(before)


def test_three_trainings_have_to_show_more_than_two_thousand_prompts():
    key, interval = "gain", (0.2, 0.02, 0.38)
    many, few = comparisons.above(one(key, interval), 0.0), comparisons.above(one(key, interval, df=2), 0.0)
    assert many == pytest.approx(0.0294, abs=1e-3) and few == pytest.approx(0.0411, abs=1e-3)
    far = (0.2, 0.15, 0.25)
    assert comparisons.above(one(key, far, df=2), 0.0) > 1e3 * comparisons.above(one(key, far), 0.0)


@pytest.mark.parametrize("df", [None, 2, 20])
@pytest.mark.parametrize("bound", [0.09, 0.11, 0.29, 0.31])
def test_a_comparison_agrees_with_the_interval(bound, df):
    given = one("key", (0.2, 0.1, 0.3), df=df)
    assert (comparisons.above(given, bound) < comparisons.ALPHA) == (bound < 0.1)
    assert (comparisons.below(given, bound) < comparisons.ALPHA) == (bound > 0.3)


def test_papers_numbers_come_from_the_file_of_published_numbers():
    published = claims.table({}).set_index("name")["paper"]
    assert published["tracks"] == 0.66
    assert published["arithmetic"] == pytest.approx(0.16)
    assert published["enhanced"] == pytest.approx(0.72 - 0.66)
    assert published["A improved"] == pytest.approx(0.659 - 0.456, abs=0.001)
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


def test_the_counts_are_told_in_grammar_and_what_counts_nothing_is_not():
    verdicts = ["replicates"] * 2 + ["partly"] + ["open"]
    judged = pd.DataFrame({"by": "paper", "verdict": verdicts})
    assert claims.sentence(judged) == "Of 4 claims of the paper, 2 replicate, 1 does so in part and 1 stays open."


def test_the_table_is_the_same_from_an_empty_book_and_says_so():
    table = claims.table({})
    assert claims.counts(table) == dict(zip(comparisons.VERDICTS, (0, 0, 0, 0, len(NAMES)), strict=True))
    assert claims.sentence(table) == f"Of {len(OWN)} claims of the paper, {len(OWN)} could not be tested."
    assert table["ours"].isna().all()


def test_a_row_of_words_has_number_interval_and_verdict_and_cannot_break_the_table():
    numbers = found(accuracy__base=around(0.45), accuracy__chance=1 / 7)
    text = claims.markdown(claims.table(numbers), why=True)
    lines = text.splitlines()
    assert len(lines) == len(NAMES) + 2
    assert lines[0] == "| Claim | Paper | Here | Verdict | Why |"
    assert {line.replace("\\|", "").count("|") for line in lines} == {6}
    assert "| 0.66 | 0.45 [0.43, 0.47], n = 98 | **replicates** | surely more than 0.05 above 0.14 |" in lines[2]
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
