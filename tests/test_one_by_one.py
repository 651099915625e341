"""The figures that chapters 4 and 6 add: heads one by one, gain by layer and group, shares of many models."""

import math

import numpy as np
import pandas as pd
import pytest
import tiny
import torch
from entity_book.claims import node_findings
from entity_book.figures import charts, evaluation, exploring, improvement, one_by_one
from entity_circuits import runs
from entity_circuits.heads import Head
from entity_circuits.methods import cmap
from entity_circuits.runs import replay
from entity_circuits.tasks import boxes

CONTEXTS = torch.arange(6) // 3


@pytest.fixture(scope="module")
def recording():
    subject = tiny.subject()
    return runs.record(subject, boxes.prompts(subject, 3, boxes=3))


def rows(recording, after, **more):
    before = torch.full((6,), math.log(0.5))
    heads = [Head(layer, 0) for layer in range(len(after))]
    return one_by_one.rows(heads, before, after.log(), CONTEXTS, recording, recording.prompts.last, **more)


def test_a_head_alone_has_the_ratio_of_mean_probabilities_and_that_of_each_prompt(recording):
    after = torch.full((2, 6), 0.5)
    after[1, :3] = 0.25
    table = rows(recording, after, prompt=1)
    assert table["score"].tolist() == pytest.approx([0, -0.25])
    assert np.allclose(table["effects"][1], [-0.5] * 3 + [0] * 3)
    assert ((table["low"] <= table["score"]) & (table["score"] <= table["high"])).all()
    assert table["rank"].tolist() == [2, 1] and rows(recording, after, gain=True)["rank"].tolist() == [1, 2]
    weights = replay.attention(recording, Head(1, 0), recording.prompts.last)[1]
    assert np.allclose(table["attention"][1], weights[: len(table["attention"][1])])


def colours(map_):
    """The scale and the title of the legend of a map's cells."""
    (found,) = [part["encoding"]["color"] for part in map_["layer"] if "color" in part["encoding"]]
    return found["scale"], found["legend"]["title"]


def test_the_map_of_heads_outside_the_rounds_says_what_its_colours_and_signs_mean(recording):
    table = rows(recording, torch.tensor([[0.9] * 6, [0.5] * 6]), gain=True)
    tokens = ["word"] * len(table["attention"][0])
    chart = exploring.explorer(table, tokens, "at the end", gain=True).to_dict()
    words = charts.description(chart)
    assert words.startswith("Heads at the end: a map of 2 heads") and "surely helps: L0H0 +0.80" in words
    assert "does harm" not in str(chart)


def test_what_helps_is_blue_and_what_harms_is_red_whichever_sign_it_has(recording):
    table = rows(recording, torch.tensor([[0.9] * 6, [0.5] * 6]))
    tokens = ["word"] * len(table["attention"][0])
    for gain in (False, True):
        chart = exploring.explorer(table, tokens, "at the end", gain=gain).to_dict()
        scale, title = colours(chart["hconcat"][0])
        assert scale["scheme"] == "redblue" and scale["reverse"] == (not gain)  # red is the low end, unless reversed
        assert title == "score: blue helps, red harms"


def test_a_gain_by_layer_is_the_mean_change_of_log_p_of_its_own_condition():
    base, tuned = tiny.subject(), tiny.subject(seed=1)
    asked = [
        cmap.Condition("A, layer 3", {"last": [Head(3, 0), Head(3, 1)]}),
        cmap.Condition("C, layer 1", {"query": [Head(1, 2)]}),
    ]
    found = cmap.sweep(base, tuned, asked, boxes.prompts(base, 6, boxes=3))
    table = improvement.gains_by_layer(found)
    assert table["gain"].tolist() == pytest.approx((found.logprob - found.base_logprob).mean(1).tolist(), abs=1e-6)
    assert table["layer"].tolist() == [3, 1] and table["heads"].tolist() == [2, 1]
    assert table["group"].tolist() == ["A value fetcher", "C position detector"]
    best, chart = table.nlargest(1, "gain")["condition"].item(), improvement.layered(found).to_dict()
    assert f"Most: {best} " in charts.description(chart)
    scale, title = colours(chart)
    assert not scale["reverse"] and title == "gain of log p: blue helps, red harms"


def scanned(change):
    names = ["up to 2, last", "up to 5, last", "from 0, last", "from 3, last", "up to 2, query"]
    ends = {"final": [2, 5, 5, 5, 2], "first": [0, 0, 0, 3, 0]}
    low = np.array(change) - 0.1
    return pd.DataFrame({"condition": names, **ends, "change": change, "change_low": low, "change_high": low + 0.2})


def test_a_scan_turns_at_the_lowest_layer_up_to_which_and_the_highest_from_which_it_surely_gains():
    told = improvement.turning(scanned([0.05, 0.3, 0.4, 0.2, 0.02]))
    assert told["scan_up"].startswith("up to layer 5, +0.30")
    assert told["scan_from"].startswith("from layer 3, +0.20")
    assert told["scan_query"].startswith("up to layer 2, +0.02")
    assert improvement.turning(scanned([0.0] * 5))["scan_up"] == "(nowhere)"


def shares():
    kinds = ["circuit", "circuit", "same layers"]
    one = pd.DataFrame({"kind": kinds, "circuit": ["small", "large", "random"], "heads": [10, 100, 10]})
    one = one.assign(model="base", ratio=[0.1, 0.8, 0.0], accuracy=[0.05, 0.4, 0.0], full=0.5, n=70)
    one = one.assign(ratio_low=one["ratio"] - 0.1, ratio_high=one["ratio"] + 0.1)
    return pd.concat([one, one.assign(model="spoiled", ratio=np.nan)])


def test_a_model_at_chance_has_no_share_in_the_figure_of_shares():
    spec = evaluation.faithfulness(shares()).to_dict()
    words = charts.description(spec)
    assert "base: 10% with 10 heads, 80% with 100 heads" in words and "spoiled" not in words
    assert charts.picture(spec, "svg").startswith(b"<svg")


def test_circuits_with_further_places_stand_at_the_number_of_heads_of_the_ranking():
    grown = pd.DataFrame({"scale": [1, 2, 1], "kind": ["ranking", "ranking", "random"], "heads": [14, 28, 14]})
    both = evaluation.widened(grown, pd.DataFrame({"scale": [1, 2], "kind": "ranking", "heads": [700, 714]}))
    assert both[both["kind"] == "ranking, two more places"]["heads"].tolist() == [14, 28]
    assert len(both) == 5 and set(both["kind"]) <= set(evaluation.KINDS)


def test_the_control_is_told_with_its_whole_model_and_random_heads_or_said_to_be_missing():
    one = {"model": "c", "circuit": "eight times larger", "full": 0.04, "accuracy": 0.2, "low": 0.1, "high": 0.3}
    random = {**one, "circuit": "eight times larger: same layers", "accuracy": 0.0, "low": 0.0, "high": 0.1}
    told = evaluation.control_words(["c"], pd.DataFrame([one, random]))
    assert told["control_circuit"] == "0.20 [0.10, 0.30]" and told["control_full"] == "0.04"
    assert told["control_random"] == "0.00 [0.00, 0.10]"
    assert set(evaluation.control_words([], pd.DataFrame()).values()) == {"(no control)"}


def test_a_curve_of_nodes_is_told_by_the_smallest_half_and_by_all():
    rows = pd.DataFrame({"nodes": [2, 20, 200], "f": [0.1, 0.6, 0.8], "low": 0.0, "high": 1.0, "n": 98})
    rows = rows.assign(score="logit difference", ablation="mean")
    told = node_findings.curve_words(rows)
    assert "20 of 200" in told["nodes_half"] and told["nodes_last"].startswith("80%")
    assert node_findings.curve_words(rows.assign(f=0.1))["nodes_half"] == "none has half of it"
    assert node_findings.curve_words(rows[:0])["nodes_last"] == "not measured"
