"""Studies of what heads carry: nothing stored is computed again, tables agree with the methods, figures say numbers."""

from dataclasses import replace

import altair as alt
import numpy as np
import pandas as pd
import pytest
import tiny
import torch
from entity_book.claims import handing_over
from entity_book.figures import charts
from entity_book.figures import semantics as figures
from entity_book.paper import paper
from entity_book.studies import crossing, mask_tables, semantics, worth
from entity_circuits import circuits
from entity_circuits.heads import POSITIONS, Circuit, Head
from entity_circuits.methods import dcm, interchange
from entity_circuits.results import Store

A, B, C, D = "value_fetcher", "position_transmitter", "position_detector", "structure_reader"
GROUPS = {
    A: tuple(Head(3, j) for j in range(4)),
    B: (Head(2, 0), Head(2, 1)),
    C: (Head(1, 2), Head(0, 3)),
    D: (Head(0, 1),),
}
SIZES = {"contexts": 2, "training": 2, "validation": 1}


def biased(seed=0):
    """A tiny model that knows no other words than the objects of its pairs, so that there are answers of each kind."""
    return tiny.subject("qwen2", seed=seed, dtype=torch.float64)


@pytest.fixture(scope="module")
def study():
    return semantics.study(biased(), GROUPS, **SIZES)


@pytest.fixture(scope="module")
def twin():
    return semantics.study(biased(1), GROUPS, **SIZES)


@pytest.fixture(scope="module")
def masks(study, twin):
    # A penalty of 0 patches whatever helps at all: random heads help a little.
    asked = {A: ["object", "position"], B: ["position"]}
    return semantics.learn([study, twin], asked, penalty=0.0, steps=8)


def both(study, twin, masks):
    return worth.table([tried for one in (study, twin) for tried in worth.tried(one, masks, draws=1)])


def no_recording(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("something was recorded again")

    monkeypatch.setattr(interchange, "record", refuse)


def test_patching_in_a_study_is_that_of_the_method(study):
    found = study.patch({"group": GROUPS[A]}, "last", "object")
    pairs = interchange.record(study.subject, study.triples["test"].towards("object"))
    wanted = interchange.patch(study.subject, {"group": GROUPS[A]}, pairs, position="last")
    numbers = ["target_logprob"]
    pd.testing.assert_frame_equal(found.drop(columns=numbers), wanted.drop(columns=numbers))
    assert np.allclose(found[numbers], wanted[numbers], atol=1e-10)
    target = found.pivot(index="prompt", columns="patched", values="target_logprob")
    assert (target["group"] - target["no patch"]).abs().max() > 1e-2


def test_a_second_study_with_the_same_store_records_nothing(tmp_path, monkeypatch):
    store = Store(tmp_path)

    def work():
        one = semantics.study(biased(), GROUPS, store=store, **SIZES)
        masks = one.masks([dcm.Asked(GROUPS[A], "last", "object", *kind) for kind in ((0.0, None), (0.5, 1))], steps=4)
        rows = one.patch(GROUPS, "last", "position")
        more = semantics.additional(one, GROUPS[B], ("position", "add_seg_start"), contexts=1)
        return masks, rows, more

    before = work()
    no_recording(monkeypatch)
    after = work()
    pd.testing.assert_frame_equal(before[1], after[1])
    pd.testing.assert_frame_equal(before[2], after[2])
    for one, other in zip(before[0], after[0], strict=True):
        assert (one.heads, one.selected, one.penalty, one.seed) == (
            other.heads,
            other.selected,
            other.penalty,
            other.seed,
        )
        assert (one.desideratum, one.accuracy, one.converged) == (other.desideratum, other.accuracy, other.converged)
        assert torch.equal(one.trace, other.trace) and torch.equal(one.logit, other.logit)
        assert str(one) == str(other)
        assert one.snapshots.to_dict() == other.snapshots.to_dict()


@pytest.mark.parametrize("change", ["model", "heads", "position", "seed"])
def test_what_depends_on_something_else_is_not_taken_from_the_store(tmp_path, monkeypatch, change):
    store = Store(tmp_path)
    one = semantics.study(biased(), GROUPS, store=store, **SIZES)
    one.patch({"group": GROUPS[A]}, "last")
    subject = biased(5 if change == "model" else 0)
    other = semantics.study(subject, GROUPS, store=store, seed=3 if change == "seed" else 0, **SIZES)
    no_recording(monkeypatch)
    heads = GROUPS[B] if change == "heads" else GROUPS[A]
    with pytest.raises(AssertionError, match="recorded again"):
        other.patch({"group": heads}, "query" if change == "position" else "last")


def test_targets_share_what_is_stored_for_heads_do_not_know_what_they_are_asked(tmp_path, monkeypatch):
    one = semantics.study(biased(), GROUPS, store=Store(tmp_path), **SIZES)
    one.patch({"group": GROUPS[A]}, "last", "object")
    one.forget()
    no_recording(monkeypatch)
    by_position = one.patch({"same heads": reversed(GROUPS[A])}, "last", "position")
    assert set(by_position["desideratum"]) == {"position"}


def test_the_few_pairs_are_the_first_of_the_test_pairs(study):
    few, test = study.triples["few"], study.triples["test"]
    assert few.base.texts == test.base.texts[: len(few)] and len(few) == min(49, len(test))
    assert study.pairs("few").triples.base.texts == few.base.texts


def test_a_batch_of_pairs_answers_as_it_does_among_all(study):
    pairs = interchange.record(study.subject, study.triples["test"], batch=7)
    alone = interchange.answers(pairs.batch(1), [GROUPS[A]], "last")
    among = interchange.answers(pairs, [GROUPS[A]], "last")
    assert torch.allclose(alone.logprobs[0], among.logprobs[0, 7:], atol=1e-10)
    assert torch.equal(alone.source_top, among.source_top[7:])


def test_the_pairs_to_learn_on_to_choose_and_to_report_share_no_context(study):
    worlds = [
        set(study.triples[part].base.worlds) | set(study.triples[part].source.worlds)
        for part in ("train", "validation", "test")
    ]
    assert not worlds[0] & worlds[1] and not worlds[0] & worlds[2] and not worlds[1] & worlds[2]


def test_a_head_of_two_groups_at_one_position_stays_where_its_rank_is_better():
    score = np.arange(8.0).reshape(2, 4) - 8  # L0H0 first in every group, but for B
    scores = dict.fromkeys(POSITIONS, score) | {B: score[::-1, ::-1]}
    circuit = Circuit({A: (Head(0, 0),), B: (Head(1, 3),), C: (Head(0, 0),)}, {"model": "m", "statistic": "mean"})
    found = semantics.candidates(circuits.Finding(circuit, {"mean": scores}), scale=5)
    assert not set(found[A]) & set(found[B])
    assert found[A] == (Head(0, 0), Head(0, 1), Head(0, 2), Head(0, 3))
    assert found[B] == (Head(1, 3), Head(1, 2), Head(1, 1), Head(1, 0))
    assert len(found[C]) == 5, "another position has heads of its own"


def test_other_heads_have_the_layers_of_the_group_and_none_of_its_heads(study):
    for heads in semantics.others(study.subject, GROUPS[A] + GROUPS[B], draws=3).values():
        assert sorted(head.layer for head in heads) == [2, 2, 3, 3, 3, 3]
        assert not set(heads) & {*GROUPS[A], *GROUPS[B]} and len(set(heads)) == 6
    crowded = [Head(3, j) for j in range(6)]
    assert len(semantics.others(study.subject, crowded, draws=1)["other heads 0"]) == 2


def test_shares_of_the_answers_add_up_to_one_and_are_those_of_patching(study):
    table = semantics.answers([study], draws=2)
    assert np.allclose(table.groupby(["group", "patched"])["share"].sum(), 1)
    assert list(table["patched"].unique()) == ["no patch", "group", "other heads"]
    rows = study.patch({"group": GROUPS[C]}, "query")
    wanted = (rows[rows["patched"] == "group"]["answer"] == "base").mean()
    found = table[(table["group"] == C) & (table["patched"] == "group") & (table["answer"] == "base")]
    assert found["share"].tolist() == [wanted]


def test_the_table_holds_the_floor_the_group_the_selected_heads_and_random_ones(study, masks):
    table = worth.table(worth.tried(study, masks, draws=3))
    assert len(table) == 4 * 3
    masked = table["masked"].notna()
    assert set(zip(table["group"][masked], table["desideratum"][masked], strict=True)) == {
        (A, "object"),
        (A, "position"),
        (B, "position"),
    }
    for row in table[masked].itertuples():
        chosen = masks[study.name, row.group, row.desideratum].selected
        rows = study.patch({"s": chosen, "g": GROUPS[row.group]}, POSITIONS[row.group], row.desideratum)
        hit = rows.groupby("patched")["hit"].mean()
        assert (row.selected, row.heads) == (len(chosen), len(GROUPS[row.group]))
        assert [row.floor, row.masked, row.whole] == pytest.approx([hit["no patch"], hit["s"], hit["g"]])
        assert row.gain == pytest.approx(row.masked - row.floor) and row.over_random == pytest.approx(
            row.masked - row.random
        )
    without = table[~masked]
    assert without["gain"].to_list() == pytest.approx((without["whole"] - without["floor"]).to_list())
    assert without[["random", "over_random"]].isna().all().all()


def test_masks_that_were_learned_beside_others_are_not_learned_again(tmp_path, monkeypatch):
    one = semantics.study(biased(), GROUPS, store=Store(tmp_path), **SIZES)
    more = [dcm.Asked(None, "last", "object", 0.0), dcm.Asked(GROUPS[A], "last", "object", 0.0, seed=1)]
    found = semantics.learn([one], {A: ["object"], C: ["position"]}, penalty=0.0, steps=4, beside=more)
    assert set(found) == {(one.name, A, "object"), (one.name, C, "position")}
    alone = dcm.together(one.subject, more[1:], one.pairs("train"), one.pairs("validation"), steps=4)
    monkeypatch.setattr(dcm, "together", lambda *_, **__: pytest.fail("learned again"))
    again = one.masks([more[1], dcm.Asked(GROUPS[A], "last", "object", 0.0)], steps=4)
    assert torch.allclose(again[0].trace, alone[0].trace, atol=1e-8)
    assert torch.equal(again[1].trace, found[one.name, A, "object"].trace)
    assert again[0].seed == 1 and again[1].position == "last" and again[1].desideratum == "object"


def selected(mask, *heads):
    return replace(mask, selected=heads)


def test_the_overlap_of_two_models_is_held_against_what_chance_would_share(study, masks):
    mask = masks[study.name, A, "object"]
    made = {("m", A, "object"): selected(mask, Head(3, 0), Head(3, 1))}
    made["n", A, "object"] = selected(mask, Head(3, 1), Head(3, 0))
    row = mask_tables.overlap(made, "m", "n").iloc[0]
    assert (row["shared"], row["one"], row["other"], row["groups_shared"]) == (2, 2, 2, 4)
    assert row["chance"] == pytest.approx(2 * 2 / 4) and row["p"] == pytest.approx(1 / 6)
    made["n", A, "object"] = selected(replace(mask, heads=tuple(Head(2, j) for j in range(4))), Head(2, 0))
    row = mask_tables.overlap(made, "m", "n").iloc[0]
    assert (row["shared"], row["groups_shared"], row["chance"], row["p"]) == (0, 0, 0, 1)


def test_a_mask_over_all_heads_is_held_against_the_groups_at_its_position(study):
    mask = study.masks([dcm.Asked(None, "last", "object")], steps=4)[0]
    assert len(mask.heads) == 32
    table = mask_tables.recovered(selected(mask, *GROUPS[A]), GROUPS).set_index("group")
    assert list(table.index) == [A, B]
    assert table.loc[A, "shared"] == 4 and table.loc[A, "chance"] == pytest.approx(4 * 4 / 32)
    assert table.loc[A, "p"] < 1e-4 and table.loc[A, "layer_chance"] == pytest.approx(2, abs=0.1)
    assert table.loc[A, "depth"] == table.loc[A, "group_depth"] == 3
    assert table.loc[B, "shared"] == 0 and table.loc[B, "p"] == pytest.approx(1)


def test_heads_against_accuracy_has_masks_and_random_sets_of_their_sizes(study, masks):
    mask = masks[study.name, A, "object"]
    some = [selected(mask, Head(3, 0)), replace(selected(mask, Head(3, 0), Head(3, 1)), penalty=2.0, seed=4)]
    table = mask_tables.along(study, some, "last", "object", draws=2)
    assert table["kind"].tolist() == ["no patch", "whole group", "mask", "mask"] + ["random"] * 4
    assert table["heads"].tolist() == [0, 4, 1, 2, 1, 1, 2, 2]
    assert table["penalty"].tolist()[2:4] == [0.0, 2.0] and table["seed"].iloc[3] == 4


def test_additional_desiderata_are_patched_as_if_recorded_alone(study):
    table = semantics.additional(study, GROUPS[B], ("position", "incorrect_segment"), contexts=1)
    assert table.groupby("desideratum", sort=False).size().to_dict() == {"position": 14, "incorrect_segment": 14}
    from entity_circuits.tasks import desiderata

    drawn = desiderata.triples(study.subject, "incorrect_segment", 7, 7, 0, "evaluation")
    wanted = interchange.patch(study.subject, {"heads": GROUPS[B]}, drawn, position="last")
    found = table[table["desideratum"] == "incorrect_segment"]
    assert found["answer"].tolist() == wanted["answer"].astype(str).tolist()
    assert np.allclose(found["target_logprob"], wanted["target_logprob"], atol=1e-10)


def test_heads_are_crossed_between_models_on_the_same_pairs(study, twin):
    table = crossing.cross([study, twin], {"A": crossing.Selection(GROUPS[A], "last", "object")})
    assert table.groupby("model").size().to_dict() == {study.name: 28, twin.name: 28}
    two = [part["base_asked"].tolist() for _, part in table.groupby("model")]
    assert two[0] == two[1]


def test_what_is_crossed_is_held_against_the_floor_and_the_reference_on_the_same_pairs(study, twin):
    rows = crossing.cross([study, twin], {"A": crossing.Selection(GROUPS[A], "last", "object")})
    rows.loc[rows["patched"] == "A", "hit"] = (
        [True] * 7 + [False] * 7 + [True] * 14
    )  # half in one model, all in the other
    rows.loc[rows["patched"] == "no patch", "hit"] = False
    rows["source_right"] = rows["model"] == study.name
    table = crossing.crossed(rows, study.name).set_index("model")
    assert table["value"].to_dict() == {study.name: 0.5, twin.name: 1}
    assert table["more"].to_dict() == {study.name: 0, twin.name: 0.5}
    assert table["alone"].to_dict() == {study.name: 0, twin.name: -1}
    assert (table["floor"] == 0).all() and (table["n"] == 14).all()


def test_words_give_the_selected_heads_where_there_is_a_mask_and_the_group_where_there_is_none(study, masks):
    table = worth.table(worth.tried(study, masks, draws=1))
    row = table["masked"].notna()
    table.loc[row, ["selected", "masked", "masked_low", "masked_high"]] = [2, 0.5, 0.4, 0.6]
    table.loc[~row, ["whole", "whole_low", "whole_high"]] = [0.25, 0.1, 0.3]
    table[["gain", "gain_low", "gain_high"]] = [0.2, -0.1, 0.3]
    told = mask_tables.words(table, {"base": study.name, "other": "not there"})
    assert told["base_a_object"] == "0.50 [0.40, 0.60]" and told["base_d_label"] == "0.25 [0.10, 0.30]"
    assert told["base_b_position_gain"] == "+0.20 [-0.10, +0.30]"
    assert (told["base_a_object_n"], told["base_d_label_n"]) == ("2", str(len(GROUPS[D])))
    assert all(name.startswith("base_") for name in told) and len(told) == 12 * 6


def test_findings_are_those_of_the_selected_heads_or_of_the_group_where_none_is_selected(study, masks, monkeypatch):
    kept = {}
    monkeypatch.setattr(handing_over.findings, "keep", lambda key, value, **more: kept.update({key: (value, more)}))
    table = worth.table(worth.tried(study, masks, draws=1))
    handing_over.semantics(table, study.name)
    row = table.set_index(["group", "desideratum"]).loc[A, "object"]
    value, more = kept["carries/A/object"]
    assert value == row.masked and (more["low"], more["high"], more["n"]) == (row.masked_low, row.masked_high, row.n)
    assert kept["carries/A/object/gain"][0] == row.gain
    label = table.set_index(["group", "desideratum"]).loc[B, "label"]
    assert kept["carries/B/label/gain"][0] == label.beyond
    whole = table.set_index(["group", "desideratum"]).loc["structure_reader", "label"]
    assert kept["carries/D/label"][0] == whole.whole and len(kept) == 12 * 2
    none = {key: replace(mask, selected=()) for key, mask in masks.items()}
    row = worth.table(worth.tried(study, none, draws=1)).set_index(["group", "desideratum"]).loc[A, "object"]
    assert row.masked == row.floor and row.gain == pytest.approx(row.whole - row.floor)


# Figures


def drawn(name, study, twin, masks):
    some = [masks[study.name, A, "object"], masks[study.name, A, "position"]]
    if name == "crossed":
        rows = crossing.cross([study, twin], {"A": crossing.Selection(GROUPS[A], "last", "object")})
        return figures.crossed(crossing.crossed(rows, study.name))
    published = paper()
    return {
        "hypotheses": lambda: figures.hypotheses(study.triples["test"], 2),
        "distribution": lambda: figures.distribution(semantics.answers([study, twin])),
        "additional": lambda: figures.additional(
            semantics.additional(study, GROUPS[B], ("position", "add_seg_start"), contexts=1)
        ),
        "learning": lambda: figures.learning(mask_tables.traces(some)),
        "sparsity": lambda: figures.sparsity(mask_tables.along(study, some, "last", "object"), 0.4),
        "beside paper": lambda: figures.beside_paper(
            both(study, twin, masks),
            published.dcm,
            published.fact("positional_floor"),
        ),
    }[name]()


FIGURES = ("hypotheses", "distribution", "additional", "learning", "sparsity", "beside paper", "crossed")


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_described_and_can_be_drawn(study, twin, masks, name):
    charts.enable()
    spec = drawn(name, study, twin, masks).to_dict()
    assert len(charts.description(spec)) > 60
    picture = charts.picture(spec, "svg")
    assert picture.startswith(b"<svg")
    width = float(picture.decode().split('width="')[1].split('"')[0])
    width /= spec.get("columns", 1)  # where there is no room its panels stand below each other
    assert width <= 360, "it has to fit a phone"
    alt.renderers.enable("default")


def test_the_three_drawings_predict_three_other_words_of_the_pair(study):
    triples = study.triples["test"]
    for row in (0, 5, 11):
        words = str(figures.hypotheses(triples, row).description).split("the answer is ")[1:]
        found = [sentence.split(".")[0] for sentence in words]
        said = figures.predicted(triples, row)
        assert [said[f"says_{name}"] for name in ("position", "object", "label")] == found[:3]
        assert said["says_base"] == triples.base.worlds[row].objects[triples.base.queries[row]]
        base, source = triples.base.worlds[row], triples.source.worlds[row]
        wanted = triples.source.queries[row]
        assert found[0] == base.objects[wanted] and found[1] == source.objects[wanted]
        assert found[2] == base.objects[base.labels.index(source.labels[wanted])]
        assert len(set(found)) == 3


def test_void_numbers_of_the_paper_are_marked_and_its_floor_stands_at_position_alone(study, twin, masks):
    published = paper()
    table = both(study, twin, masks)
    chart = figures.beside_paper(table, published.dcm, 0.134)
    rows = pd.DataFrame([row for data in chart.to_dict()["datasets"].values() for row in data])
    theirs = rows[rows["model"].isin(["Llama-7B", "Goat-7B", "FLoat-7B", "void (paper)"])]
    assert set(theirs[theirs["desideratum"] == "label"]["model"]) == {"void (paper)"}
    assert (theirs["floor"].notna() == (theirs["desideratum"] == "position")).all()
    words = chart.to_dict()["description"]
    assert "A label:" in words and "paper void" in words and "B position:" in words and "Llama-7B 0.36" in words


def test_what_the_same_heads_bring_in_another_model_is_handed_over_for_that_selection_and_model_alone(monkeypatch):
    kept = {}
    monkeypatch.setattr(handing_over.findings, "keep", lambda key, value, **more: kept.update({key: (value, more)}))
    rows = [("heads of one", "two", 0.1), ("heads of one", "three", 0.2), ("heads of two", "two", 0.3)]
    crossed = pd.DataFrame(rows, columns=["selection", "model", "more"]).assign(n=98)
    crossed["more_low"], crossed["more_high"] = crossed["more"] - 0.05, crossed["more"] + 0.05
    handing_over.improved(crossed, "heads of one", "nobody")
    assert not kept
    handing_over.improved(crossed, "heads of one", "two")
    (value, more) = kept.pop("carries/A/object/improved")
    assert (value, more["low"], more["high"], more["n"], more["model"]) == (0.1, 0.05, pytest.approx(0.15), 98, "two")
    assert not kept
