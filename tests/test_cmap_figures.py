"""The figures of cross-model patching: described in words with their numbers, narrow, and drawable."""

import altair as alt
import numpy as np
import pandas as pd
import pytest
import tiny
import torch
from entity_book.figures import charts
from entity_book.figures import improvement as figures
from entity_circuits.heads import Circuit, Head
from entity_circuits.methods import cmap
from entity_circuits.tasks import boxes

CIRCUIT = Circuit(
    {
        "value_fetcher": (Head(3, 1), Head(2, 0)),
        "position_transmitter": (Head(2, 5),),
        "position_detector": (Head(1, 2),),
        "structure_reader": (Head(0, 4),),
    }
)


@pytest.fixture(scope="module")
def table():
    base, tuned = tiny.subject(), tiny.subject(seed=1)
    full = cmap.groups(CIRCUIT)
    kinds = [
        *full,
        *cmap.random_heads(base, full[0], draws=3),
        cmap.groups(CIRCUIT, into="tuned")[1],
        *cmap.inputs(CIRCUIT, sites=("q", "v", "qk")),
        *cmap.random_heads(base, cmap.inputs(CIRCUIT, sites=("q",))[0], draws=2),
    ]
    return cmap.sweep(base, tuned, kinds, boxes.prompts(base, 6, boxes=3)).table().assign(model="tuned")


@pytest.fixture(scope="module")
def scanned():
    base, tuned = tiny.subject(), tiny.subject(seed=1)
    prompts = boxes.prompts(base, 6, boxes=3)
    parts = [cmap.sweep(base, tuned, cmap.scan(base, place), prompts).table() for place in ("last", "query")]
    return pd.concat([part.assign(series=place) for part, place in zip(parts, ("last", "query"), strict=True)])


def drawn(name, table, scanned):
    paper = pd.DataFrame({"condition": ["circuit", "A"], "accuracy": [0.82, 0.8], "base": 0.66, "tuned": 0.82})
    both = pd.concat([table, paper.assign(model="Goat-7B", into="base", sites="z")])
    made = {
        "drawing": figures.drawing,
        "bars": lambda: figures.bars(both),
        "bars of a paper alone": lambda: figures.bars(paper.assign(model="Goat-7B")),
        "bars into the tuned": lambda: figures.bars(table, into="tuned"),
        "inputs": lambda: figures.inputs(table),
        "scan": lambda: figures.scan(scanned),
        "one line": lambda: figures.scan(scanned.query("series == 'last'"), layer="first"),
    }
    return made[name]()


NAMES = ["drawing", "bars", "bars of a paper alone", "bars into the tuned", "inputs", "scan", "one line"]


@pytest.mark.parametrize("name", NAMES)
def test_a_figure_is_described_narrow_and_drawable(table, scanned, name):
    charts.enable()
    spec = drawn(name, table, scanned).to_dict()
    assert len(charts.description(spec)) > 40 and "nan" not in spec["description"]
    assert spec.get("spec", spec)["width"] <= 330
    assert charts.picture(spec, "svg").startswith(b"<svg")
    alt.renderers.enable("default")


def channels(spec, name):
    return [layer["encoding"][name] for layer in spec["layer"] if "field" in layer["encoding"].get(name, {})]


@pytest.mark.parametrize("name", ["bars", "inputs", "scan"])
def test_colour_and_shape_share_one_legend_in_all_layers(table, scanned, name):
    spec = drawn(name, table, scanned).to_dict()
    spec = spec.get("spec", spec)
    colours, shapes = channels(spec, "color"), channels(spec, "shape")
    assert len(colours) > 2
    for channel in (*colours, *shapes):
        assert channel["legend"] == colours[0]["legend"]
        assert channel["scale"]["domain"] == colours[0]["scale"]["domain"]


def test_the_bars_show_the_numbers_of_their_direction_and_controls_are_grey(table):
    told = table.assign(accuracy=0.5, base=0.4, tuned=0.8)
    told.loc[(told["condition"] == "A") & (told["into"] == "base") & (told["sites"] == "z"), "accuracy"] = 0.75
    told.loc[told["draw"] == 1, "accuracy"] = 0.25
    chart = figures.bars(told).to_dict()
    words = chart["description"]
    assert "into the base model" in words and "base model 0.40, fine-tuned 0.80; circuit 0.50, A 0.75" in words
    assert "random heads 0.25 to 0.50" in words
    (rows,) = chart["datasets"].values()
    assert len(rows) == len(cmap.groups(CIRCUIT)) + 3
    assert {row["what"] for row in rows if row["draw"] is not None} == {figures.RANDOM}
    scale = chart["spec"]["layer"][0]["encoding"]["color"]["scale"]
    assert dict(zip(scale["domain"], scale["range"], strict=True))[figures.RANDOM] == charts.NEUTRAL
    other = figures.bars(told, into="tuned").to_dict()
    assert "into the fine-tuned model" in other["description"] and len(next(iter(other["datasets"].values()))) == 1


def test_inputs_are_told_by_group_and_origin(table):
    chart = figures.inputs(table).to_dict()
    row = table[(table["condition"] == "B") & (table["sites"] == "v") & (table["origin"] == "weights")].iloc[0]
    assert f"V from its weights alone {row['accuracy']:.2f}" in chart["description"]
    (rows,) = chart["datasets"].values()
    assert {row["group"] for row in rows} == set(figures.LETTER_NAMES.values())
    assert all(row["sites"] != "z" for row in rows)


def test_a_scan_tells_its_ends_and_its_best_layer(scanned):
    told = scanned.assign(accuracy=np.tile([0.1, 0.6, 0.3, 0.2], 2), base=0.1, tuned=0.7)
    words = figures.scan(told).to_dict()["description"]
    assert "last: 0.10 at layer 0, 0.20 at layer 3, most 0.60 at layer 1; query:" in words and "n = 6" in words
    many = pd.concat([told.assign(series=str(i)) for i in range(5)])
    with pytest.raises(ValueError, match="cannot be told apart"):
        figures.scan(many)


def test_nothing_to_draw_is_said(table):
    with pytest.raises(ValueError, match="nothing to draw"):
        figures.inputs(table[table["sites"] == "z"])


def test_the_tiny_pair_differs_at_all(table):
    assert torch.tensor(table["logprob"].to_numpy()).unique().numel() > 10
