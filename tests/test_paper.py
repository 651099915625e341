"""The published numbers: each has a source, and what is said twice is said alike."""

import json
import re

import pytest
from entity_book.paper import paper
from entity_circuits import places

PAPER = paper()


def test_every_number_names_its_source():
    for part in (PAPER.task, PAPER.models, PAPER.table_1, PAPER.rankings, PAPER.circuits, PAPER.dcm, PAPER.patching):
        assert len(part)
        assert part.drop(columns="hub_id", errors="ignore").notna().all(axis=None)
        assert all(
            source.startswith(("Nix07/finetuning@379765d: ", "derived from ", "paper, ")) for source in part["source"]
        )
    for part in (PAPER.overlaps, PAPER.cmap):
        assert len(part)
        assert all(source.startswith("Nix07/finetuning@") for source in part["source"])


def test_table_1_agrees_with_the_models_accuracies_and_with_itself():
    for row in PAPER.table_1.itertuples():
        assert row.full_model == PAPER.model(row.model).accuracy
        assert row.circuit_accuracy / row.full_model == pytest.approx(row.faithfulness, abs=0.02)


def test_chance_is_one_in_the_number_of_boxes():
    assert PAPER.fact("chance_accuracy") == pytest.approx(1 / PAPER.fact("num_boxes"), abs=0.005)


def test_rankings_run_from_the_most_negative_score_up():
    assert len(PAPER.rankings) == 12
    for ranking in PAPER.rankings.itertuples():
        scores = [head["score"] for head in ranking.strongest]
        assert scores == sorted(scores) and scores[0] == ranking.min_score
        assert ranking.k_discovery <= ranking.k_candidates


def test_circuits_add_up_to_the_published_sizes():
    assert PAPER.circuits.groupby("model")["size"].sum().to_dict() == {"llama": 72, "goat": 175, "float": 175}


def test_a_head_is_in_the_circuit_exactly_when_its_list_has_it_first():
    """Heads that the ranking calls part of the circuit are the first ones of the circuit's list, in the same order."""
    for group in PAPER.circuits.to_dict("records"):
        strongest = PAPER.ranking(group["model"], group["group"]).strongest
        ranked = [head["head"] for head in strongest if head["in_circuit"]]
        assert ranked == group["first"][: len(ranked)]


def test_overlaps_have_the_sizes_of_the_published_circuits():
    sizes = PAPER.circuits.set_index(["model", "group"])["size"]
    assert len(PAPER.overlaps) == 8
    for row in PAPER.overlaps.itertuples():
        assert (sizes[row.base, row.group], sizes[row.other, row.group]) == (row.size_base, row.size_other)
        assert row.shared <= min(row.size_base, row.size_other)


def test_shares_of_the_gap_follow_from_the_published_accuracies():
    assert PAPER.recovered("goat", "value_fetcher") == pytest.approx(1.0)
    assert PAPER.recovered("goat", "position_detector") == pytest.approx(-0.25)
    assert PAPER.recovered("goat", "value_fetcher", "q") == pytest.approx(0.11 / 0.16)
    assert PAPER.recovered("goat", "position_transmitter", "qkv") == pytest.approx(0.01 / 0.16), "of Llama's own heads"


def test_the_floor_of_position_is_the_mask_that_selected_no_head_and_every_void_number_is_zero():
    assert list(PAPER.dcm[PAPER.dcm["selected"] == 0]["accuracy"]) == [PAPER.fact("positional_floor")]
    for row in (*PAPER.dcm.itertuples(), *PAPER.patching.itertuples()):
        assert row.void == (row.desideratum == "label") and 0 <= row.accuracy <= 1
        assert row.accuracy == 0 or not row.void


def test_a_mask_chooses_among_the_heads_of_the_published_circuit():
    sizes = PAPER.circuits.set_index(["model", "group"])["size"]
    assert all(row.selected <= row.candidates == sizes[row.model, row.group] for row in PAPER.dcm.itertuples())
    assert not PAPER.dcm.duplicated(["model", "group", "desideratum"]).any() and len(PAPER.dcm) == 3 * 4 * 3 + 11
    assert PAPER.carried("llama", "value_fetcher", "object") == 0.468
    assert "not evidence" in PAPER.row("caveats", id="label_token").text


def test_unknown_names_are_refused():
    with pytest.raises(KeyError):
        PAPER.model("gpt")
    with pytest.raises(KeyError):
        PAPER.fact("no_such")
    with pytest.raises(KeyError):
        PAPER.recovered("vicuna", "value_fetcher")


@pytest.mark.parametrize("path", sorted((places.ROOT / "chapters").glob("*.ipynb")), ids=lambda path: path.stem)
def test_no_chapter_types_an_accuracy_of_the_paper_into_its_text(path):
    accuracies = {*PAPER.models["accuracy"], *PAPER.table_1["circuit_accuracy"], PAPER.fact("positional_floor")}
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    text = "".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    assert not {f"{one:.2f}" for one in accuracies} & set(re.findall(r"(?<![\w.])0\.\d\d(?!\d)", text))
