"""What pages say in words: the ends of a map, the heads of groups, the running prompt, flaws that move a number."""

import pandas as pd
import pytest
import tiny
from entity_book.build import used
from entity_book.claims import claims
from entity_book.claims.findings import Reported
from entity_book.figures import behaviour, running, said
from entity_book.studies import looking
from entity_circuits import places
from entity_circuits.heads import Circuit, Head
from entity_circuits.methods import path_patching


def heads(*rows: tuple[str, float, float, float]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["head", "score", "low", "high"])


def test_harm_is_said_of_a_head_whose_interval_lies_above_zero_alone():
    likely, sure = ("L1H1", 0.3, -0.1, 0.7), ("L2H2", 0.1, 0.05, 0.2)
    told = said.ends(heads(("L0H0", -0.2, -0.3, -0.1), likely, sure), "B")
    assert told == {"help_b": "L0H0, -0.20 [-0.30, -0.10]", "harm_b": "L2H2, +0.10 [+0.05, +0.20]"}
    assert said.ends(heads(likely), "B")["harm_b"] == "none surely"


@pytest.mark.parametrize("none", [pd.DataFrame(), heads(("L0H0", float("nan"), float("nan"), float("nan")))])
def test_a_round_without_a_path_is_said_to_have_none(none):
    assert said.ends(none, "c") == {"help_c": "no head has a path", "harm_c": "none surely"}


def test_the_heads_of_a_group_are_counted_and_named_and_an_empty_group_is_not_left_out():
    told = said.groups(Circuit({"value_fetcher": (Head(5, 1),), "position_transmitter": ()}))
    assert told["layers_a"] == "1 head in layer 5" and told["heads_a"] == "L5H1"
    assert told["layers_b"] == "no head" and told["heads_b"] == "none"


def test_the_running_prompt_is_the_one_that_the_maps_of_heads_show():
    subject = tiny.subject("qwen2", seed=0)
    found = path_patching.discover(subject, n=14, boxes=2, seed=3)
    shown, prompts = running.prompt(subject, 2, 3), found.recordings[0].prompts
    assert shown.texts == (prompts.texts[looking.running(found)],)


def test_chapters_1_to_6_show_the_running_prompt():
    found = used.chapters(places.ROOT / "chapters")
    shown = [found[f"entity_book.{name}"] for name in ("figures.running.prompt", "figures.running.pair")]
    first = {name[:2] for names in (*shown, found["entity_book.studies.looking.running"]) for name in names}
    assert sorted(first) == ["01", "02", "03", "04", "05", "06"]


def test_the_pair_of_chapter_5_has_the_running_prompt_as_its_base():
    subject = tiny.subject("qwen2", seed=0)
    one, shown = running.pair(subject, 3, 1), running.prompt(subject, 3, 1)
    assert one.base.texts == shown.texts and one.base.queries == shown.queries
    assert len(set(one.candidates[0].tolist())) == 4, "each hypothesis predicts another word"


def test_the_ends_of_accuracies_are_those_of_top_1():
    rows = {"boxes": [10, 2, 3], "value": [0.3, 0.7, 0.9], "low": 0.1, "high": 1.0}
    table = pd.concat([pd.DataFrame(rows | {"measure": "top-1"}), pd.DataFrame(rows | {"measure": "object choice"})])
    ends = behaviour.ends(table, "boxes", "{boxes} boxes")
    assert ends["first_boxes"].startswith("2 boxes, 0.70") and ends["last_boxes"].startswith("10 boxes, 0.30")
    best = behaviour.extremes(table, "{boxes} boxes")
    assert best["best"].startswith("3 boxes, 0.90") and best["worst"].startswith("10 boxes, 0.30")


def test_a_flaw_moves_a_number_where_its_two_intervals_lie_apart():
    low, high, wide = Reported("x", 0.1, 0.0, 0.2), Reported("x", 0.5, 0.4, 0.6), Reported("x", 0.3, 0.1, 0.5)
    sides = {"B10/1": (low, high), "B2/1": (low, wide), "B2/2": (high, low), "B3/1": (low, Reported("x", 0.9))}
    found = {
        f"official/{key}/{side}": one
        for key, both in sides.items()
        for side, one in zip(("official", "corrected"), both, strict=True)
    }
    assert claims.moved(found) == ["B2", "B10"]
