"""A group of heads has one colour in all figures, and what is no group has none of the four."""

import itertools
import re
from pathlib import Path

import numpy as np
import pytest
from entity_book.figures import behaviour, charts, discovery, improvement, semantics
from entity_circuits.heads import LETTERS, Circuit, Head
from test_charts import DARK, LIGHT, SIGHTS, contrast, lab

SOURCES = sorted(Path(charts.__file__).parent.glob("*.py"))
LETTER_OR_GROUP = re.compile(r"""["'][ABCD]["']:|["']ABCD["']|\bGROUPS\b|value_fetcher""")
COLOUR = re.compile(r"\b(BLUE|VERMILLION|GREEN|PURPLE|PALETTE)\b|" + "|".join(charts.PALETTE))


def test_the_colours_of_the_groups_are_written_once():
    found = {
        path.name
        for path in SOURCES
        for line in path.read_text("utf-8").splitlines()
        if LETTER_OR_GROUP.search(line) and COLOUR.search(line)
    }
    assert found == {"charts.py"}


def scales(spec):
    """Every pair of a name and its colour in the scales of a chart."""
    if isinstance(spec, dict):
        scale = spec.get("scale")
        if isinstance(scale, dict) and {"domain", "range"} <= scale.keys():
            pairs = zip(scale["domain"], scale["range"], strict=True)
            yield from (pair for pair in pairs if str(pair[1]).startswith("#"))
        spec = list(spec.values())
    if isinstance(spec, list):
        for part in spec:
            yield from scales(part)


def test_a_group_has_its_colour_in_the_graph_of_the_circuit():
    circuit = Circuit({"value_fetcher": (Head(3, 1),), "position_detector": (Head(1, 2),)})
    shown = dict(scales(discovery.circuit_graph(circuit, 4).to_dict()))
    assert shown == {discovery.NAMES[group]: charts.GROUP_COLOURS[letter] for group, letter in LETTERS.items()}


def test_a_position_has_the_colour_of_the_group_that_acts_there_and_the_object_none():
    acting = {"prev": "D", "query": "C", "last": "A"}
    assert {place: behaviour.POSITIONS[place] for place in acting} == {
        place: charts.GROUP_COLOURS[letter] for place, letter in acting.items()
    }
    assert behaviour.POSITIONS["object"] == charts.NEUTRAL


def test_what_goes_over_has_the_colour_of_b_and_what_follows_that_of_a():
    shown = dict(scales(improvement.drawing().to_dict()))
    assert shown["read here"] == shown["put in here"] == charts.GROUP_COLOURS["B"]
    assert shown["computed anew"] == charts.GROUP_COLOURS["A"]


def test_no_kind_of_answer_has_the_colour_of_a_group():
    assert not set(semantics.COLOURS.values()) & set(charts.PALETTE)


@pytest.mark.parametrize("page", [LIGHT, DARK])
@pytest.mark.parametrize("colour", charts.INFORMATION.values())
def test_a_kind_of_information_stands_out_from_the_page(colour, page):
    assert contrast(colour, page) >= 3


@pytest.mark.parametrize("sight", SIGHTS)
def test_kinds_of_information_differ_for_everybody(sight):
    pairs = itertools.combinations([*charts.INFORMATION.values(), charts.NEUTRAL], 2)
    assert min(np.linalg.norm(lab(one, sight) - lab(other, sight)) for one, other in pairs) > 12
