"""The published numbers: each has a source, and what is said twice is said alike."""

import pytest
from entity_circuits.paper import paper

PAPER = paper()


def test_every_number_names_its_source():
    for part in (PAPER.task, PAPER.models, PAPER.table_1, PAPER.rankings, PAPER.circuits):
        assert part
        assert all(row.source.startswith(("Nix07/finetuning@379765d: ", "derived from ", "paper, ")) for row in part)


def test_table_1_agrees_with_the_models_accuracies_and_with_itself():
    for row in PAPER.table_1:
        assert row.full_model == PAPER.model(row.model).accuracy
        assert row.circuit_accuracy / row.full_model == pytest.approx(row.faithfulness, abs=0.02)


def test_chance_is_one_in_the_number_of_boxes():
    assert PAPER.fact("chance_accuracy") == pytest.approx(1 / PAPER.fact("num_boxes"), abs=0.005)


def test_rankings_run_from_the_most_negative_score_up():
    assert len(PAPER.rankings) == 12
    for ranking in PAPER.rankings:
        scores = [head.score for head in ranking.strongest]
        assert scores == sorted(scores) and scores[0] == ranking.min_score
        assert ranking.k_discovery <= ranking.k_candidates


def test_circuits_add_up_to_the_published_sizes():
    sizes = {name: sum(c.size for c in PAPER.circuits if c.model == name) for name in ("llama", "goat", "float")}
    assert sizes == {"llama": 72, "goat": 175, "float": 175}


def test_a_head_is_in_the_circuit_exactly_when_its_list_has_it_first():
    """Heads that the ranking calls part of the circuit are the first ones of the circuit's list, in the same order."""
    for group in PAPER.circuits:
        ranked = [head.head for head in PAPER.ranking(group.model, group.group).strongest if head.in_circuit]
        assert ranked == list(group.first[: len(ranked)])


def test_unknown_names_are_refused():
    with pytest.raises(KeyError):
        PAPER.model("gpt")
    with pytest.raises(KeyError):
        PAPER.fact("no_such")
