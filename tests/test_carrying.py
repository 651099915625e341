"""What groups carry, in words: each number is that of its row, and what was not measured is said to be so."""

import pandas as pd
from entity_book.claims import carrying

A, B = "value_fetcher", "position_transmitter"


def answers(**shares):
    """Rows of `semantics.answers` of one model: {group: {patched: {answer: share}}}."""
    rows = [
        {"model": "m", "group": group, "patched": patched, "answer": answer, "share": share}
        for group, sets in shares.items()
        for patched, kinds in sets.items()
        for answer, share in kinds.items()
    ]
    return pd.DataFrame(rows)


FOUND = answers(
    value_fetcher={
        "no patch": {"base": 0.6, "position": 0.3, "object": 0.0, "other": 0.1},
        "group": {"base": 0.1, "position": 0.35, "object": 0.25, "other": 0.3},
        "other heads": {"base": 0.5, "object": 0.02, "other": 0.48},
    },
    position_transmitter={
        "no patch": {"base": 0.9, "position": 0.1},
        "group": {"base": 0.2, "position": 0.7, "object": 0.1},
        "other heads": {"base": 0.9, "position": 0.1},
    },
)


def test_a_share_has_its_floor_and_other_heads_beside_it_and_a_kind_that_never_comes_is_0():
    told = carrying.shares(FOUND, {"base": "m"}, {"A": "object", "B": "position"})
    assert told["base_a"] == "0.25 (floor 0.00, other heads 0.02)"
    assert told["base_b"] == "0.70 (floor 0.10, other heads 0.10)"
    assert (told["base_a_other"], told["base_b_other"], told["base_floor_other"]) == ("0.30", "0.00", "0.10")


def test_the_word_that_leads_is_the_one_that_gained_most_and_not_the_most_frequent_one():
    told = carrying.leading(FOUND, "m")
    assert told == {
        "lead_a": "the object's word (+0.25 over the floor)",
        "lead_b": "the position's word (+0.60 over the floor)",
    }


def test_the_cheapest_mask_stands_beside_random_heads_of_its_own_number():
    rows = [("whole group", None, 24, 0.4), ("mask", 1.0, 3, 0.1), ("mask", 0.1, 8, 0.3)]
    rows += [("random", None, 3, 0.01), ("random", None, 8, 0.05), ("random", None, 8, 0.15)]
    table = pd.DataFrame(rows, columns=["kind", "penalty", "heads", "value"]).assign(low=0.0, high=0.5)
    assert carrying.cheapest(table) == {
        "price_low": "0.1",
        "price_kept": "8 of 24 heads",
        "price_mask": "0.30 [0.00, 0.50]",
        "price_random": "0.05 to 0.15",
    }
    alone = carrying.cheapest(table[table["kind"] != "random"])
    assert alone["price_random"] == "not drawn"


def test_a_model_in_which_nothing_was_patched_is_said_to_be_not_measured():
    row = {"selection": "A", "model": "code", "more": 0.1, "more_low": 0.02, "more_high": 0.18}
    table = pd.DataFrame([row | {"alone": -0.05, "alone_low": -0.1, "alone_high": 0.0}])
    told = carrying.elsewhere(table, "A", {"tuned": "code", "control": "shuffled"})
    assert told["cross_tuned"] == "+0.10 [+0.02, +0.18]" and told["plain_tuned"] == "-0.05 [-0.10, +0.00]"
    assert told["cross_control"] == told["plain_control"] == "not measured"
