"""The figures of circuit evaluation: described in words with their numbers, narrow, and drawable."""

import altair as alt
import numpy as np
import pandas as pd
import pytest
import tiny
from entity_book.figures import charts
from entity_book.figures import evaluation as figures
from entity_circuits import circuits
from entity_circuits.circuits.files import Finding
from entity_circuits.heads import GROUPS, Circuit, Head
from entity_circuits.methods import knockout
from entity_circuits.tasks import boxes

CIRCUIT = Circuit({"value_fetcher": (Head(3, 1), Head(2, 0), Head(3, 0)), "position_detector": (Head(1, 2),)})


@pytest.fixture(scope="module")
def curves():
    subject = tiny.subject("qwen2")
    return knockout.sweep(subject, boxes.prompts(subject, 6, boxes=3)).table()


@pytest.fixture(scope="module")
def impact():
    """Twelve heads a group in two models; every other head of the one acts the other way round in the other."""
    about = {"model": "m", "statistic": "mean"}
    table = -np.linspace(0.1, 0.9, 12).reshape(3, 4)
    one = {group: table * (index + 1) / 4 for index, group in enumerate(GROUPS)}
    other = {group: scores * np.resize([1, -1], (3, 4)) for group, scores in one.items()}
    other["structure_reader"] = np.full((3, 4), np.nan)
    heads = {"position_detector": (Head(2, 3), Head(2, 2)), "value_fetcher": (Head(2, 3),)}
    less = {"position_detector": (Head(2, 3),)}
    findings = [Finding(Circuit(heads, about), {"mean": one}), Finding(Circuit(less, about), {"mean": other})]
    return circuits.impact(*findings)


def drawn(name, curves, impact):
    made = {
        "knockout": lambda: figures.knockout_curves(curves),
        "knockout with a circuit": lambda: figures.knockout_curves(curves, CIRCUIT),
        "one curve": lambda: figures.knockout_curves(curves.query("condition == 'query->prev'"), CIRCUIT),
        "impact": lambda: figures.mirrored_impact(impact, ("base", "fine-tuned")),
        "impact of no head": lambda: figures.mirrored_impact(impact[:0]),
    }
    return made[name]().to_dict()


@pytest.mark.parametrize("name", ["knockout", "knockout with a circuit", "one curve", "impact", "impact of no head"])
def test_a_figure_is_described_narrow_and_drawable(curves, impact, name):
    charts.enable()
    spec = drawn(name, curves, impact)
    assert len(charts.description(spec)) > 40
    assert spec["width"] <= 330
    assert charts.picture(spec, "svg").startswith(b"<svg")
    alt.renderers.enable("default")


def test_shares_of_models_at_chance_are_a_figure_without_points_that_says_so():
    numbers = ["ratio", "ratio_low", "ratio_high"]
    row = {"model": "base", "circuit": "as found", "kind": "circuit", "heads": 4, "accuracy": 0.0, "full": 0.0, "n": 7}
    known, none = ({**row, **dict.fromkeys(numbers, value)} for value in (0.5, np.nan))
    for rows, said in (([known, {**known, "heads": 32}], "50% with 4 heads"), ([none], "no model here answers well")):
        spec = figures.faithfulness(pd.DataFrame(rows)).to_dict()
        assert said in charts.description(spec)
        assert charts.picture(spec, "png").startswith(b"\x89PNG")


def rows(spec):
    return [row for table in spec["datasets"].values() for row in table]


def test_the_words_about_knockout_hold_the_numbers_that_are_drawn(curves):
    table = curves.assign(value=0.25, low=0.2, high=0.3)
    table.loc[(table["condition"] == "last->object") & (table["start"] == 0), "value"] = 0.04
    spec = figures.knockout_curves(table, CIRCUIT).to_dict()
    words = spec["description"]
    assert "last \u2192 object 0.04 and 0.25; last \u2192 query 0.25 and 0.25" in words
    assert "from layer 0 and from layer 4 on" in words and "n = 6" in words
    assert "A in layers 2 to 3, C in layers 1 to 1" in words
    shown = {entry["field"] for entry in spec["layer"][0]["encoding"]["tooltip"]}
    assert {"path", "start", "value", "low", "high", "n"} <= shown


def test_a_path_has_the_colour_of_its_group_and_the_letters_stand_at_the_layers_of_its_heads(curves):
    spec = figures.knockout_curves(curves, CIRCUIT).to_dict()
    scale = spec["layer"][0]["encoding"]["color"]["scale"]
    colours = dict(zip(scale["domain"], scale["range"], strict=True))
    assert colours["last \u2192 object"] == charts.GROUP_COLOURS["A"]
    assert colours["last \u2192 query"] == charts.GROUP_COLOURS["B"]
    assert colours["query \u2192 prev"] == charts.GROUP_COLOURS["C"]
    assert colours["last \u2192 random"] == colours["query \u2192 random"] == charts.NEUTRAL
    letters = {row["start"]: row["heads"] for row in rows(spec) if row.get("group") == "A value fetcher"}
    assert letters == {2: "L2H0", 3: "L3H1, L3H0"}
    below = [row["value"] for row in rows(spec) if "heads" in row]
    bottom = spec["layer"][0]["encoding"]["y"]["scale"]["domain"][0]
    assert max(below) < 0 and bottom < min(below)


def test_colour_and_dash_share_one_legend(curves):
    encoding = figures.knockout_curves(curves).to_dict()["layer"][0]["encoding"]
    assert encoding["color"]["legend"] == encoding["strokeDash"]["legend"]
    assert encoding["color"]["scale"]["domain"] == encoding["strokeDash"]["scale"]["domain"]


def test_fill_and_stroke_of_the_mirror_share_one_legend(impact):
    encoding = figures.mirrored_impact(impact).to_dict()["layer"][0]["encoding"]
    assert encoding["color"]["legend"] == encoding["stroke"]["legend"] is not None
    assert encoding["color"]["scale"]["domain"] == encoding["stroke"]["scale"]["domain"]


def test_a_hollow_bar_is_in_the_legend_and_the_first_heads_are_named(impact):
    spec = figures.mirrored_impact(impact).to_dict()
    fill, edge = (spec["layer"][0]["encoding"][name]["scale"] for name in ("color", "stroke"))
    assert fill["domain"][-1] == "hollow: harms" and fill["range"][-1] == "transparent"
    assert edge["range"][-1] == charts.NEUTRAL
    named = str(spec["layer"][-1]["mark"]["text"])
    assert all(head in named for head in impact["head"][:6])


def test_the_legend_of_faithfulness_names_only_what_is_drawn():
    about = {"heads": 4, "ratio_low": 0.4, "ratio_high": 0.6, "accuracy": 0.3, "full": 0.6, "n": 9, "kind": "circuit"}
    table = pd.DataFrame([{"model": name, "ratio": ratio} | about for name, ratio in (("able", 0.5), ("chance", None))])
    table["circuit"] = "as found"
    encoding = figures.faithfulness(table).to_dict()["layer"][-1]["encoding"]
    assert encoding["color"]["scale"]["domain"] == ["able"] and encoding["shape"]["scale"]["domain"] == ["circuit"]


def test_no_set_of_completeness_hides_on_an_axis_and_each_has_its_name():
    numbers = {"heads": 3, "circuit": 0.0, "full": 0.0, "incompleteness": 0.0, "low": 0.0, "high": 0.0, "n": 9}
    table = pd.DataFrame([{"removed": name} | numbers for name in ("value_fetcher", "random 1", "random 2")])
    spec = figures.completeness(table).to_dict()
    assert {row["label"] for row in rows(spec) if "label" in row} == {"A", "1", "2"}
    assert spec["layer"][1]["encoding"]["x"]["scale"]["domain"][0] < 0
    colours = spec["layer"][1]["encoding"]["color"]["scale"]
    assert colours["range"][colours["domain"].index("A")] == charts.GROUP_COLOURS["A"]


def test_the_mirror_shows_sizes_up_and_down_with_colour_for_members_alone(impact):
    spec = figures.mirrored_impact(impact, ("base", "fine-tuned")).to_dict()
    table = pd.DataFrame(rows(spec)).dropna(subset=["model"])
    base, tuned = (table[table["model"] == name].set_index(["group", "head"]) for name in ("base", "fine-tuned"))
    assert len(base) == 48 and len(tuned) == 36, "a head without a path has no bar"
    assert (base["height"] >= 0).all() and (tuned["height"] <= 0).all()
    assert np.allclose(base["height"], base["effect"].abs())
    members = base[base["what"] != "not in the circuit"]
    assert set(members.index) == {
        ("position_detector", "L2H3"),
        ("position_detector", "L2H2"),
        ("value_fetcher", "L2H3"),
    }
    assert (tuned["what"] != "not in the circuit").sum() == 1
    assert set(base["sense"]) == {"lowers"} and set(tuned["sense"]) == {"lowers", "raises"}
    words = spec["description"]
    assert "48 heads" in words and "3 are in the circuit of base, 1 in that of fine-tuned, 1 in both" in words
    assert "L2H3 -0.90 (no path)" in words
