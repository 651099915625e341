"""Claims about the comparison of peers: what is the same, what is extrapolated, and what the page shows."""

import json

import peers
import pytest
from entity_circuits import places

HEADS = {"L0H0": [0.5, -0.25], "L1H1": [0.0, 0.125]}


def measured():
    """What two rounds of a model with 3 layers of 2 heads, asked of all peers, might have written down."""
    here = {"position": "last", "senders": [[0, 0], [1, 1]]}
    rounds = [
        {**here, "name": "one", "through": None, "receivers": [], "top": 3},
        {**here, "name": "two", "through": "q", "receivers": [[2, 1], [1, 0]], "top": 2},
    ]
    given = {"model": "tiny", "prompts": 2, "tokens": 9, "layers": 3, "heads": 2, "seed": 0, "kernels": "highest"}
    given |= {"rounds": rounds, "edge": {"sender": [1, 1], "layer": 2}}
    took = {"peak_gb": 2.0, "peak_gb_before": 1.0, "record_s": 1.0, "wall_s": 9.0, "threads": 2}
    took["versions"] = {"torch": "2", "transformers": "5"}
    done = {"seconds": 3.0, "heads": 2, "effects": HEADS}
    edge = {"edge": {"L2H0": [0.1, 0.2], "L2H1": [0.2, 0.4]}}
    machine = {"processor": "abacus", "cores": 2, "system": "wood", "python": "3"}
    slow = {**took, **edge, "rounds": [{**done, "default_kernels_s": 4.0} for _ in rounds]}
    lens = {**took, **edge, "pair_s": 5.0, "pairs": 2, "default_kernels_s": 6.0}
    replay = {**took, **edge, "rounds": [done, done], "path": [0.5, 0.7], "machine": machine}
    found = {"replay": replay, "definition": {**took, "rounds": [done, done]}, "hooks": slow, "lens": lens}
    return given, json.loads(json.dumps(found))  # nothing in it is shared


def test_agreement_is_the_largest_difference_over_heads_and_prompts():
    other = {"L1H1": [0.0, 0.0], "L0H0": [0.5, -0.5]}
    assert peers.apart(HEADS, other) == (0.25, "L0H0")
    assert peers.apart(HEADS, HEADS)[0] == 0
    assert peers.apart(HEADS, {**HEADS, "L2H0": [9.0, 9.0]})[0] == 0  # what both have measured
    for nothing in ({}, {"L0H0": [0.5]}, {"L0H0": [0.5, float("nan")]}):
        with pytest.raises(ValueError):
            peers.apart(HEADS, nothing)


def test_a_whole_round_is_the_seconds_of_a_head_times_all_heads_that_have_a_path():
    kept = peers.summary(*measured())
    assert [row["whole_s"] for row in kept["peers"]["definition"]["rounds"]] == [1.5 * 6, 1.5 * 4]
    assert kept["peers"]["lens"]["pairs"]["of"] == 2 * 2 + 1 * 2  # all heads below each of the two receivers
    assert kept["peers"]["lens"]["pairs"]["whole_s"] == 5 * 6


def test_one_number_that_differs_shows_in_its_row_alone():
    given, found = measured()
    found["hooks"]["rounds"][1]["effects"] = {**HEADS, "L1H1": [0.0, 0.0]}
    found["lens"]["edge"]["L2H0"][1] = 0.5
    rows = {row["what"]: row["largest_difference"] for row in peers.summary(given, found)["agreement"]}
    assert {what for what, apart in rows.items() if apart == 0.125} == {
        "round 2: the official way, with hooks and definition",
        "round 2: the official way, with hooks and replay",
    }
    assert sum(apart == pytest.approx(0.3) for apart in rows.values()) == 2
    assert sum(apart == 0 for apart in rows.values()) == len(rows) - 4


@pytest.mark.parametrize(("what", "other"), [("threads", 1), ("versions", {"torch": "3", "transformers": "5"})])
def test_peers_with_other_versions_or_threads_are_not_compared(what, other):
    given, found = measured()
    found["lens"][what] = other
    with pytest.raises(ValueError, match=what):
        peers.summary(given, found)


def test_times_beside_other_programs_are_called_provisional():
    kept = {"date": "today", "command": "python", **peers.summary(*measured())}
    assert "provisional" in peers.page({**kept, "load_before": 2.0})
    assert "provisional" not in peers.page({**kept, "load_before": 0.1})


def test_the_page_shows_the_stored_measurement():
    kept = json.loads(peers.KEPT.read_text(encoding="utf-8"))
    assert places.ROOT / "book" / "parts" / "peers.md" == peers.PAGE
    assert peers.PAGE.read_text(encoding="utf-8") == peers.page(kept)
