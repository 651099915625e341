"""Claims about the tables and figures of circuit discovery, and about costs."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import tiny
import torch
from entity_book.claims import handing_over
from entity_book.figures import charts, exploring
from entity_book.figures import discovery as figures
from entity_book.paper import paper
from entity_book.studies import cost, looking
from entity_book.studies import discovery as summaries
from entity_circuits import runs
from entity_circuits.heads import GROUPS, LETTERS, Circuit, Head
from entity_circuits.methods import path_patching
from entity_circuits.methods.path_patching import Scores
from entity_circuits.results import Store
from entity_circuits.tasks import boxes


@pytest.fixture(scope="module")
def found():
    subject = tiny.subject("qwen2", layers=6)
    return path_patching.discover(subject, n=6, boxes=3, k=dict(zip(GROUPS, (8, 8, 4, 2), strict=True)))


def test_a_score_table_ranks_the_heads_with_a_path_and_leaves_the_others_empty(found):
    scores = found.scores["position_detector"]
    table = summaries.score_table(scores)
    known = table.dropna(subset=["score"])
    assert 0 < len(known) < len(table)
    assert known.sort_values("rank")["score"].is_monotonic_increasing
    assert list(known.sort_values("rank")["head"]) == [str(head) for head in scores.ranking()]
    assert table[table["score"].isna()][["low", "high", "rank"]].isna().all(axis=None)
    assert ((known["low"] <= known["score"] + 1e-9) & (known["score"] <= known["high"] + 1e-9)).all()


@pytest.mark.parametrize("statistic", ["mean", "median", "ratio_of_means", "mean_log"])
def test_the_table_shows_the_statistic_that_ranks(statistic):
    torch.manual_seed(0)
    scores = Scores(torch.randn(2, 3, 9), -torch.rand(9), torch.ones(9, dtype=torch.bool), torch.arange(9) // 3)
    table = summaries.score_table(scores, statistic)
    assert np.allclose(table["score"], scores.statistic(statistic).flatten(), atol=1e-6)
    assert ((table["low"] <= table["score"]) & (table["score"] <= table["high"])).all()


def test_a_head_is_told_to_look_where_it_looks():
    subject = tiny.subject("llama")
    recording = runs.record(subject, boxes.prompts(subject, 6, boxes=3))
    p = recording.prompts
    every = [Head(layer, head) for layer in range(2) for head in range(3)]
    table = looking.attention_table(recording, every, p.last)
    assert np.allclose(table.groupby("head")["weight"].sum(), 1)
    from entity_circuits.runs import replay

    weights = replay.attention(recording, Head(1, 2), p.last)
    rows = torch.arange(len(p))
    mine = table[table["head"] == "L1H2"].set_index("role")["weight"]
    assert mine["queried label"] == pytest.approx(float(weights[rows, p.prev].mean()), abs=1e-6)
    assert mine["queried object"] == pytest.approx(float(weights[rows, p.object].mean()), abs=1e-6)
    each = table[table["head"] == "L1H2"].set_index("role")["each"]
    assert (
        each["other objects"] == pytest.approx(mine["other objects"] / 2) and each["first token"] == mine["first token"]
    )
    assert mine["query"] == pytest.approx(float(weights[:, int(p.query[0]) - 1 :].sum(-1).mean()), abs=1e-6)


def test_labels_are_told_from_the_rest_where_the_tokenizer_puts_a_space_before_a_text():
    for tokenizer in (tiny.tokenizer(), tiny.sentencepiece()):
        subject = SimpleNamespace(tokenizer=tokenizer, device=torch.device("cpu"))
        p = boxes.prompts(subject, 6, boxes=3)
        roles = looking.roles(SimpleNamespace(prompts=p, subject=subject))
        for kind in ("other labels", "other objects"):
            assert ((roles == looking.ROLES.index(kind)).sum(1) == 2).all()


def test_selectivity_is_the_named_tokens_share_of_its_kind():
    subject = tiny.subject("llama")
    recording = runs.record(subject, boxes.prompts(subject, 6, boxes=3))
    p, head = recording.prompts, Head(1, 2)
    from entity_circuits.runs import replay

    rows = torch.arange(len(p))
    weights, kinds = replay.attention(recording, head, p.last), looking.roles(recording)
    objects = (kinds == looking.ROLES.index("queried object")) | (kinds == looking.ROLES.index("other objects"))
    expected = float((weights[rows, p.object] / (weights * objects).sum(-1)).mean())
    assert looking.selectivity(recording, [head], GROUPS[0]).value == pytest.approx(expected, abs=1e-6)
    question = weights[:, int(p.query[0]) - 1 :].sum(-1)
    expected = float((weights[rows, p.query] / question).mean())
    assert looking.selectivity(recording, [head], GROUPS[1]).value == pytest.approx(expected, abs=1e-6)
    last = looking.selectivity(recording, [head], GROUPS[3])
    assert last.n == 4, "two of six prompts ask for the first statement, before which there is no other"
    both = [looking.selectivity(recording, [each], GROUPS[2]).value for each in (Head(0, 0), head)]
    assert looking.selectivity(recording, [Head(0, 0), head], GROUPS[2]).value == pytest.approx(np.mean(both))


def test_heads_that_do_harm_are_those_whose_interval_lies_above_nothing(found):
    tables = {group: summaries.score_table(scores) for group, scores in found.scores.items()}
    first = tables["value_fetcher"].head(3).copy()
    first.loc[:2, ["score", "low", "high"]] = [[0.3, 0.1, 0.5], [0.5, 0.2, 0.8], [0.9, -0.1, 1.9]]
    harm = summaries.harmful({"value_fetcher": first}, n=2)
    assert list(harm["head"]) == [first["head"][1], first["head"][0]] and set(harm["round"]) == {"A"}
    chosen = summaries.by_statistics(found)
    assert len(chosen) == sum(map(len, found.circuit.groups.values()))
    assert (chosen.groupby("group")["rank, ratio of means"].min() == 1).all()


def test_the_heads_of_an_enlarged_circuit_that_surely_help_are_counted_once_a_place():
    def table(low, high):
        heads = [f"L1H{index}" for index in range(len(low))]
        return pd.DataFrame({"head": heads, "layer": 1, "score": low, "low": low, "high": high, "n": 20})

    tables = {"value_fetcher": table([-3.0, -2, -1], [-1.0, 0.1, 0.2])}
    tables |= {"position_transmitter": table([-3.0, -2, -1], [0.0, -1, 0.2])}
    tables |= {"position_detector": table([-3.0, np.nan], [-1.0, np.nan])}
    some = {"value_fetcher": [Head(1, 0), Head(1, 1)], "position_transmitter": [Head(1, 1), Head(1, 2)]}
    larger = Circuit(some | {"position_detector": [Head(1, 0), Head(1, 1)]})
    assert summaries.sure(larger, tables) == (3, 5), "L1H1 at last in the round of B, L1H0 in A, L1H0 in C"


def test_agreement_counts_shared_heads_and_what_chance_would_share():
    table = pd.DataFrame({"head": list("abcdef"), "score": [0, 1, 2, 3, 4, np.nan], "other": [1, 0, 2, 3, 4, 5]})
    row = summaries.agreement({"A": table}, {"A": 2}).iloc[0]
    assert (row["heads"], row["shared"], row["chance"]) == (5, 2, 4 / 5)
    assert row["spearman"] == pytest.approx(0.9)


def test_a_head_can_be_chosen_by_click_and_from_a_list_and_the_strongest_is_at_first(found):
    recording = found.recordings[0]
    heads = looking.by_head(found.scores["value_fetcher"], recording, recording.prompts.last)
    strongest = heads.sort_values("rank").iloc[0]
    from entity_circuits.runs import replay

    weights = replay.attention(recording, Head(strongest["layer"], strongest["index"]), recording.prompts.last)[0]
    assert np.allclose(strongest["attention"], weights[: len(strongest["attention"])], atol=5e-4)
    assert len(strongest["attention"]) == int(recording.prompts.last[0]) + 1
    assert len(strongest["effects"]) == strongest["n"]
    spec = exploring.explorer(heads, ["word"] * len(strongest["attention"]), "value_fetcher").to_dict()
    (param,) = [one for one in spec["params"] if "select" in one]
    assert param["value"] == [{"head": strongest["head"]}] or param["value"] == strongest["head"]
    assert param["select"]["on"] == "click" and param["bind"]["options"][0] == strongest["head"]
    assert strongest["head"] in charts.description(spec)
    assert charts.picture(spec, "png")[:4] == bytes([0x89]) + b"PNG"


def test_a_head_of_which_only_the_score_is_kept_stands_last_in_the_list_and_the_figure_says_so(found, monkeypatch):
    monkeypatch.setattr(exploring, "SHOWN", 2)
    recording = found.recordings[0]
    heads = looking.by_head(found.scores["value_fetcher"], recording, recording.prompts.last)
    spec = exploring.explorer(heads, ["word"] * len(heads["attention"].iloc[0]), "value_fetcher").to_dict()
    most = set(heads.loc[heads["score"].abs().nlargest(2).index, "head"])
    (choice,) = [one["bind"]["options"] for one in spec["params"] if "select" in one]
    assert set(choice[:2]) == most and sorted(choice) == sorted(heads["head"])
    (kept,) = [one["expr"] for one in spec["params"] if "expr" in one]
    assert all((f"'{head}'" in kept) == (head in most) for head in heads["head"])
    rows = [row for data in spec["datasets"].values() for row in data if "effects" in row and "rank" in row]
    assert {row["head"] for row in rows if row["effects"] and row["attention"]} == most
    assert "kept of the 2 strongest" in str(spec["hconcat"][1]["vconcat"][0])
    said = f"of the 2 strongest of {len(heads)} heads, helpful or harmful; the others have their score alone"
    assert exploring.kept_of(heads) == said and f"Both are kept {said}." in charts.description(spec)
    assert exploring.kept_of(heads.head(2)) == "of all 2 heads"


@pytest.mark.parametrize("most", [0.5, 40.0])
def test_changes_beyond_the_axis_are_said_at_its_end(found, most):
    recording = found.recordings[0]
    heads = looking.by_head(found.scores["value_fetcher"], recording, recording.prompts.last)
    heads["effects"] = [[most] + [0.0] * (len(one) - 1) for one in heads["effects"]]
    spec = exploring.explorer(heads, ["word"], "value_fetcher").to_dict()
    assert ("1 or more" in str(spec)) == (most > 1)


def test_a_round_without_a_path_is_told_and_stops_no_figure_or_table(found):
    scores = found.scores["value_fetcher"]
    none = replace(scores, change=torch.full_like(scores.change, torch.nan))
    heads = looking.by_head(none, found.recordings[0], found.recordings[0].prompts.last)
    words = charts.description(exploring.explorer(heads, ["word"], "structure_reader").to_dict())
    assert words == "Group D: no head has a path."
    assert summaries.harmful({"structure_reader": summaries.score_table(none)}).empty
    alone = replace(found, circuit=Circuit(dict.fromkeys(GROUPS, ())))
    assert summaries.elsewhere(alone, 6, Store()) == {}
    handing_over.reading(found.recordings[0], alone.circuit)


def test_a_group_that_is_replaced_moves_the_objects_as_a_whole_run_does(found):
    prompt = looking.running(found)
    steps = looking.step_by_step(found, prompt)
    groups = [group for group, heads in found.circuit.groups.items() if heads]
    assert list(steps["step"]) == ["nothing", *(LETTERS[group] for group in reversed(groups))]
    base, source = (recording.select(torch.tensor([prompt])) for recording in found.recordings)
    heads = found.circuit.groups["value_fetcher"]
    edits = [
        runs.Edit("z", h.layer, (h.head,), base.prompts.last, source.at("z", h.layer, source.prompts.last)[:, [h.head]])
        for h in heads
    ]
    logits = runs.run(base.subject, base.prompts, edits, targets=base.prompts.choice_ids).logits[0, 0]
    assert np.allclose(steps.set_index("step").loc["A", "p"], logits.softmax(-1), atol=2e-3)
    assert steps["right"].iloc[0].index(True) == prompt % boxes.of(base.prompts).boxes
    spec = exploring.stepper(steps, looking.words(base)).to_dict()
    assert [param["bind"]["options"] for param in spec["params"]] == [list(steps["step"])]
    assert charts.picture(spec, "svg").startswith(b"<svg")


def test_every_figure_says_in_words_what_it_shows_and_can_be_drawn(found):
    tables = {group: summaries.score_table(scores) for group, scores in found.scores.items()}
    first = tables["value_fetcher"]
    scores, recording = found.scores["value_fetcher"], found.recordings[0]
    looks = looking.attention_table(recording, [Head(2, 1)], recording.prompts.last)
    words = looking.words(recording)
    made = [
        figures.path_drawing(),
        exploring.explorer(looking.by_head(scores, recording, recording.prompts.last), words, "value_fetcher"),
        figures.attention(looks),
        figures.circuit_graph(found.circuit, 6),
        figures.circuit_graph(Circuit({"value_fetcher": (Head(1, 1),), "position_detector": ()}), 6),
        figures.depths(summaries.depth_table(found.circuit, 6, paper())),
        figures.scatter(summaries.beside(first, first), "one", "other", "Scores"),
        figures.cost_ratio(pd.DataFrame({"round": ["A"], "ratio": [9.0], "replay_s": [1.0], "definition_s": [9.0]})),
    ]
    for figure in made:
        spec = figure.to_dict()
        assert len(charts.description(spec)) > 40
        assert charts.picture(spec, "svg").startswith(b"<svg")
    best = first.nsmallest(1, "score")["head"].item()
    assert best in charts.description(made[1].to_dict())


def test_both_methods_are_timed_on_the_same_work_and_give_the_same_scores(found):
    table = cost.rounds(found.recordings, found.circuit, layers=(0, 2))
    assert list(table["round"]) == list("ABCD")
    assert (table["definition_gflop_per_head"] > table["replay_gflop_per_head"]).all()
    assert (table[["replay_s", "definition_s", "ratio"]] > 0).all(axis=None)
    same = cost.both_methods(found.recordings, found.circuit, senders=4)
    assert (same["largest_difference"] < 1e-4).all()
    assert (same["largest_effect"] > 1e-3).any()


def test_what_a_discovery_in_stages_has_tried_is_the_share_of_pairs_that_have_a_score(found):
    assert (summaries.tried(found)["share"] == 1).all()
    change = found.scores["position_transmitter"].change.clone()
    change[0, :, 1:] = torch.nan
    some = {**found.scores, "position_transmitter": replace(found.scores["position_transmitter"], change=change)}
    table = summaries.tried(replace(found, scores=some)).set_index("round")
    known = ~change.isnan()
    assert table.loc["B", "share"] == pytest.approx(int(known.sum()) / (int(known.any(-1).sum()) * change.shape[-1]))
    assert table.loc["B", "with all examples"] == int(known.all(-1).sum()) < table.loc["B", "heads"]
    rounds = pd.DataFrame({"round": ["A", "B", "D"], "replay_s": [10.0] * 3})  # C had no sender
    seconds = cost.in_stages(rounds, replace(found, scores=some))["staged_s"]
    assert seconds.tolist() == (10 * table["share"])[["A", "B", "D"]].tolist()


def test_operations_are_those_of_the_matrix_products():
    a, b = torch.randn(8, 16), torch.randn(16, 4)
    assert cost.measure(lambda: a @ b).operations == 2 * 8 * 16 * 4


def test_tables_of_a_discovery_compare_what_they_say_they_compare(found):
    tables = {group: summaries.score_table(scores) for group, scores in found.scores.items()}
    parts = summaries.sizes(found.circuit)
    assert parts == dict(zip("ABCD", (8, 8, 4, 2), strict=True))
    itself = summaries.agreement(summaries.against(tables, tables), parts)
    assert np.allclose(itself["spearman"], 1)
    assert (itself["shared"] == itself["top"]).all()
    ranks = summaries.statistics_table(found, tables)
    assert list(ranks.columns) == list("ABCD")
    assert ranks.loc["mean (the paper)"].between(-1, 1).all()
    assert summaries.dominance(found).between(1 / 6, 1).all()
    assert list(summaries.strongest_table(tables, paper())["group"]) == list("AAABBBCCCDDD")


def test_the_reach_is_compared_on_the_strongest_heads_and_as_many_others(found):
    table = summaries.reach_table(found, Store(None), strongest=2)
    ranking = found.scores["structure_reader"].ranking()
    assert list(table["head"][:2]) == [str(head) for head in ranking[:2]]
    assert list(table["chosen"]) == ["strongest"] * 2 + ["at random"] * min(2, len(ranking) - 2)
    assert (table["only at query"] - table["everywhere"]).abs().max() > 0
    narrow = found.scores["structure_reader"].statistic("ratio_of_means")
    assert table["only at query"][0] == pytest.approx(float(narrow[ranking[0].layer, ranking[0].head]))


def test_screens_stand_beside_the_exact_change_of_the_same_heads(found):
    for letter, table in summaries.screens(found).items():
        known = table.dropna(subset=["score"])
        assert known["other"].notna().all(), letter
        assert np.corrcoef(known["score"], known["other"])[0, 1] > 0.3
