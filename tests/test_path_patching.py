"""Claims about path patching: what a score is, where it must be zero or NaN, and that both methods give it."""

import math
from dataclasses import replace
from itertools import pairwise
from typing import get_args

import pytest
import tiny
import torch
from entity_circuits import runs, statistics
from entity_circuits.heads import GROUPS, Head
from entity_circuits.methods import path_patching
from entity_circuits.results import Store
from entity_circuits.runs import replay
from entity_circuits.runs.edits import Edit
from entity_circuits.tasks import boxes, toy

ROUNDS = {
    "answer": {"position": "last"},
    "queries at last": {"position": "last", "receivers": [Head(2, 1), Head(3, 0)], "composition": "q"},
    "values at query": {"position": "query", "receivers": [Head(2, 3), Head(1, 5)], "composition": "v"},
    "values at prev, heard everywhere": {"position": "prev", "receivers": [Head(1, 2), Head(3, 4)], "composition": "v"},
    "values at prev, heard at query": {
        "position": "prev",
        "receivers": [Head(1, 2), Head(2, 7), Head(3, 4)],
        "composition": "v",
        "reach": "query",
    },
}
SOME = [Head(layer, head) for layer in range(4) for head in (0, 5)]


def pair(family="qwen2", dtype=torch.float64, n=6):
    subject = tiny.subject(family, dtype=dtype)
    base = boxes.prompts(subject, n, boxes=3)
    return subject, base, boxes.noise(subject, base)


@pytest.mark.parametrize("kind", ROUNDS)
@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_every_round_by_replay_equals_the_definition_head_by_head(family, kind):
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 1e-4)):
        subject, base, source = pair(family, dtype, n=3)
        given = {**ROUNDS[kind], "senders": None if dtype == torch.float64 else SOME}
        fast = path_patching.sweep(subject, base, source, **given)
        literal = path_patching.sweep(subject, base, source, **given, method="definition")
        assert torch.equal(fast.change.isnan(), literal.change.isnan())
        assert (fast.per_example - literal.per_example).abs().nan_to_num().max() < tolerance
        assert fast.per_example.abs().nan_to_num().max() > 10 * tolerance, "the comparison would be empty"


@pytest.mark.parametrize("method", ["replay", "definition"])
@pytest.mark.parametrize("kind", ROUNDS)
def test_a_source_that_is_the_base_scores_exactly_zero(kind, method):
    subject, base, _ = pair(dtype=torch.float32, n=3)
    change = path_patching.sweep(subject, base, base, **ROUNDS[kind], method=method, senders=SOME).change
    assert (change[~change.isnan()] == 0).all()
    assert (~change.isnan()).any()


def test_nothing_is_replaced_where_the_whole_output_of_a_head_is_the_source_s_own():
    subject, base, _ = pair(n=3)
    own = runs.record(subject, base)
    was = [own.at("z", layer, base.last) for layer in range(subject.layers)]
    z = [one + 1 for one in was]
    z[2][0, 5] = was[2][0, 5]
    z[2][1, 5, 1:] = was[2][1, 5, 1:]  # all of it but one number
    z[2][2, :, 0] = was[2][2, :, 0]  # one number of every head
    other = own.with_z(base.last, z)
    assert path_patching.unchanged(own, other, 2, (5, 1), "last").tolist() == [[True, False, False], [False] * 3]


@pytest.mark.parametrize("kind", ROUNDS)
def test_a_sender_without_a_path_is_nan_and_every_other_is_a_number(kind):
    subject, base, source = pair(n=3)
    change = path_patching.sweep(subject, base, source, **ROUNDS[kind]).change
    highest = max((head.layer for head in ROUNDS[kind].get("receivers", ())), default=subject.layers)
    assert change[highest:].isnan().all()
    assert not change[:highest].isnan().any()


def test_a_sweep_gives_what_single_calls_give():
    subject, base, source = pair(n=3)
    together = path_patching.sweep(subject, base, source, **ROUNDS["values at query"])
    assert torch.equal(together.contexts, base.contexts)
    for head in (Head(0, 0), Head(1, 6)):
        alone = path_patching.sweep(subject, base, source, **ROUNDS["values at query"], senders=[head])
        assert torch.allclose(alone.change[head.layer, head.head], together.change[head.layer, head.head], atol=1e-12)
        assert alone.change.isnan().sum() == alone.change.numel() - len(base)


def test_replacing_all_heads_of_all_layers_at_last_gives_the_logits_of_the_source():
    subject, base, source = pair()
    recording, given = runs.record(subject, base), runs.record(subject, source)
    every = tuple(range(subject.heads))
    edits = [Edit("z", layer, every, base.last, given.at("z", layer, source.last)) for layer in range(subject.layers)]
    words = torch.arange(subject.model.config.vocab_size).expand(len(base), -1)
    of_source = runs.run(subject, source, targets=words).logits[0]
    for execute in (runs.rerun, replay.replay):
        assert torch.allclose(execute(recording, [edits], targets=words).logits[0], of_source, atol=1e-9)


@pytest.mark.parametrize("method", ["replay", "definition"])
def test_the_toy_scores_are_those_computed_by_hand(method):
    subject, base, source = toy.subject(), toy.prompts("apple", "cup"), toy.prompts("cup", "apple")
    e = math.e
    clean = e**3 / (e**3 + 4)  # logit 3 for the right word, 0 for the four others
    assert torch.allclose(runs.run(subject, base).logprob.exp(), torch.tensor(clean, dtype=torch.float64))

    def score(position, head, **given):
        scores = path_patching.sweep(subject, base, source, position=position, method=method, **given)
        return scores.mean[head.layer, head.head].item()

    relay_moved = e / (e + e**2 + 3) / clean - 1  # the relay's 2 goes to the other word, the direct 1 stays
    direct_moved = e**2 / (e**2 + e + 3) / clean - 1
    top, middle, bottom, direct = Head(2, 0), Head(1, 0), Head(0, 0), Head(2, 1)
    assert score("last", top) == pytest.approx(relay_moved)
    assert score("last", direct) == pytest.approx(direct_moved)
    assert score("last", middle) == pytest.approx(0, abs=1e-12)
    assert score("query", middle, receivers=[top], composition="v") == pytest.approx(relay_moved)
    assert score("query", bottom, receivers=[top], composition="v") == pytest.approx(0, abs=1e-12)
    for reach in ("all", "query"):
        found = score("prev", bottom, receivers=[middle], composition="v", reach=reach)
        assert found == pytest.approx(relay_moved)


def test_statistics_of_scores_follow_their_definitions():
    logprob = torch.tensor([0.5, 0.25, 1e-6]).log()
    after = torch.tensor([0.25, 0.25, 1e-3]).log()
    scores = path_patching.Scores((after - logprob).view(1, 1, 3), logprob, logprob > -2, torch.arange(3))
    assert scores.mean.item() == pytest.approx((-0.5 + 0 + 999) / 3, rel=1e-4)
    assert scores.statistic("median").item() == pytest.approx(0, abs=1e-6)
    assert scores.statistic("ratio_of_means").item() == pytest.approx((0.501 - 0.750001) / 0.750001, rel=1e-4)
    assert scores.where(scores.correct).mean.item() == pytest.approx(-0.25)


def test_the_median_of_scores_is_the_middle_one_or_the_mean_of_the_two_in_the_middle():
    change = torch.tensor([[-3.0, -2, 0, 0.5], [-3, torch.nan, 0, 0.5], [torch.nan] * 4])[None]
    scores = path_patching.Scores(change, torch.zeros(4), torch.ones(4).bool(), torch.arange(4), log=False)
    assert scores.statistic("median").nan_to_num(7).tolist() == [[-1, 0, 7]]


def test_a_ratio_of_means_is_also_that_of_probabilities_too_small_for_their_dtype():
    change, yes = torch.tensor([[-1.0, -0.5], [0.0, 0.1]])[None], torch.ones(2).bool()
    small, plain = (
        path_patching.Scores(change, torch.tensor([-1.0, -2.0]) - less, yes, torch.arange(2)) for less in (200, 0)
    )
    assert torch.allclose(small.statistic("ratio_of_means"), plain.statistic("ratio_of_means"), atol=1e-6)
    assert torch.allclose(small.standard_error("ratio_of_means"), plain.standard_error("ratio_of_means"), atol=1e-6)
    assert small.ranking() == plain.ranking() != []


def test_a_statistic_is_over_examples_whatever_the_numbers_of_layers_and_heads():
    change = torch.arange(24.0).reshape(2, 3, 4) / -24
    scores = path_patching.Scores(change, torch.full((4,), -1.0), torch.ones(4, dtype=torch.bool), torch.arange(4))
    for kind in get_args(path_patching.Statistic):
        assert scores.statistic(kind).shape == (2, 3), kind
    assert torch.allclose(scores.statistic("mean_log"), change.mean(-1))
    with pytest.raises(ValueError, match="one of 'mean', 'median', 'ratio_of_means', 'mean_log'"):
        scores.statistic("mode")


def test_a_ratio_of_means_of_any_metric_needs_a_mean_above_zero_and_no_more():
    change, yes = torch.tensor([-0.1, -0.2]).view(1, 1, 2), torch.ones(2, dtype=torch.bool)
    scores = path_patching.Scores(change, torch.tensor([0.5, 0.1]), yes, torch.arange(2), log=False)
    assert scores.statistic("ratio_of_means").item() == pytest.approx(-0.5)
    for none in (torch.tensor([0.5, -0.5]), torch.tensor([-1.0, 0.1])):
        with pytest.raises(ValueError, match="rank by 'mean'"):
            replace(scores, logprob=none).statistic("ratio_of_means")


def test_the_table_of_scores_has_the_heads_with_a_path_the_most_negative_first():
    change = torch.full((2, 2, 4), torch.nan)
    change[0] = torch.tensor([[-0.1, 0.0, -0.3, 0.0], [-2.0, -1.0, -1.0, -2.0]])
    contexts = torch.tensor([0, 0, 1, 1])
    scores = path_patching.Scores(change, torch.zeros(4), torch.ones(4, dtype=torch.bool), contexts)
    table = scores.table()
    assert list(table.columns) == ["head", "change", "low", "high", "n"]
    assert table["head"].tolist() == ["L0H1", "L0H0"] and table["n"].tolist() == [4, 4]
    assert table["change"].tolist() == pytest.approx([-1.5, -0.1])
    by_hand = [statistics.estimate(change[0, head], contexts) for head in (1, 0)]
    assert table["low"].tolist() == pytest.approx([one.low for one in by_hand])
    assert table["high"].tolist() == pytest.approx([one.high for one in by_hand])
    assert scores.table(1)["head"].tolist() == ["L0H1"]


def test_a_discovery_keeps_its_runs_and_its_circuit_says_what_it_was_found_by():
    subject, base, source = pair(n=3)
    given = boxes.ROUNDS[:1]
    found = path_patching.discover(subject, base, source, rounds=given, k=2)
    assert [one.prompts.digest for one in found.recordings] == [base.digest, source.digest]
    about = found.circuit.about
    assert (about["model"], about["fingerprint"], about["n"]) == (subject.name, subject.fingerprint, 3)
    assert about["statistic"] == "ratio_of_means" and not {"metric", "reach"} & set(about)
    other = path_patching.discover(subject, base, source, rounds=given, k=2, metric="choice", reach="all").circuit.about
    assert (other["metric"], other["reach"]) == ("choice", "all")


def test_discovery_runs_four_rounds_and_hands_the_strongest_heads_on():
    subject = tiny.subject("qwen2", layers=6)
    found = path_patching.discover(subject, n=3, boxes=3, k=dict(zip(GROUPS, (8, 8, 4, 2), strict=True)))
    assert [len(found.circuit.groups[group]) for group in GROUPS] == [8, 8, 4, 2]
    for group, following in pairwise(GROUPS):
        highest = max(head.layer for head in found.circuit.groups[group])
        assert all(head.layer < highest for head in found.circuit.groups[following])
        assert found.scores[following].change[highest:].isnan().all()


def test_discovery_ends_with_empty_groups_when_nothing_can_reach_the_receivers():
    found = path_patching.discover(tiny.subject("llama", layers=1), n=3, boxes=3)
    assert [len(found.circuit.groups[group]) for group in GROUPS] == [1, 0, 0, 0]
    assert found.scores["structure_reader"].change.isnan().all()


def test_the_screen_is_the_first_order_of_the_exact_sweep():
    subject, base, source = pair()
    for kind in ("answer", "queries at last", "values at query", "values at prev, heard at query"):
        recording = runs.record(subject, base)
        both = (tiny.recorded(one, "z") for one in (runs.record(subject, source), recording))
        step = 1e-5 * torch.sub(*both).mean(2)
        at = base.position(ROUNDS[kind]["position"])
        near = recording.with_z(at, [recording.at("z", i, at) + step[i] for i in range(subject.layers)])
        exact = path_patching.sweep(subject, base, base, **ROUNDS[kind], recordings=(recording, near))
        estimate = path_patching.screen(recording, near, **ROUNDS[kind])
        known = ~exact.change.isnan().all(-1)
        assert known.any()
        assert torch.allclose(estimate[known].double(), exact.change.mean(-1)[known], rtol=1e-2, atol=1e-9), kind


def test_a_sweep_that_is_interrupted_and_started_again_ends_with_the_same_scores(tmp_path, monkeypatch):
    subject, base, source = pair(dtype=torch.float32, n=3)
    whole = path_patching.sweep(subject, base, source, position="last")
    calls = []
    real = path_patching.patched

    def dies_at_the_third_layer(*given, **path):
        calls.append(given[2])
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*given, **path)

    monkeypatch.setattr(path_patching, "patched", dies_at_the_third_layer)
    with pytest.raises(KeyboardInterrupt):
        path_patching.sweep(subject, base, source, position="last", store=Store(tmp_path))
    resumed = path_patching.sweep(subject, base, source, position="last", store=Store(tmp_path))
    assert calls == [0, 1, 2, 2, 3], "finished layers are not run again"
    assert torch.equal(resumed.change, whole.change)
    again = path_patching.sweep(subject, base, source, position="last", store=Store(tmp_path))
    assert len(calls) == 5
    assert torch.equal(again.change, whole.change)


def test_nothing_that_comes_from_given_recordings_is_kept_or_found_among_what_is_kept(tmp_path):
    subject, base, source = pair()
    given = {"position": "last", "senders": SOME, "store": tmp_path}
    alone = tuple(runs.record(subject, one, batch=1) for one in (base, source))
    path_patching.sweep(subject, base, source, **given, recordings=alone)
    assert not list(tmp_path.iterdir())
    own = path_patching.sweep(subject, base, source, **given)
    as_base = alone[1].with_z(source.last, [alone[0].at("z", layer, base.last) for layer in range(subject.layers)])
    nothing = path_patching.sweep(subject, base, source, **given, recordings=(alone[0], as_base))
    assert own.change.nan_to_num().any() and not nothing.change.nan_to_num().any()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"position": "query"}, "read at `last`"),
        ({"position": "last", "receivers": [Head(1, 0)]}, "given together"),
        ({"position": "last", "receivers": [], "composition": "q"}, "empty"),
        ({"position": "query", "receivers": [Head(1, 0)], "composition": "v", "reach": "prev"}, "comes before it"),
        ({"position": "query", "receivers": [Head(1, 0)], "composition": "q", "reach": "last"}, "keys and values"),
        (
            {"position": "query", "receivers": [Head(1, 0)], "composition": "z"},
            "no composition called 'z': one of 'q', 'k', 'v'",
        ),
        ({"position": "nowhere", "receivers": [Head(1, 0)], "composition": "v"}, "no place called 'nowhere'"),
        ({"position": "last", "receivers": [Head(9, 0)], "composition": "q"}, "L9H0"),
    ],
)
def test_bad_requests_fail_before_any_model_runs(given, message, monkeypatch):
    subject, base, source = pair(n=3)
    monkeypatch.setattr(runs, "record", lambda *_, **__: pytest.fail("a model was run"))
    with pytest.raises(ValueError, match=message):
        path_patching.sweep(subject, base, source, **given)


def test_recordings_of_other_prompts_or_another_model_are_refused_before_anything_runs():
    subject, base, source = pair()
    own = runs.record(subject, base), runs.record(subject, source)
    path_patching.sweep(subject, base, source, position="last", senders=SOME, recordings=own)
    with pytest.raises(ValueError, match="other prompts"):
        path_patching.sweep(subject, base, source, position="last", recordings=own[::-1])
    moved = replace(base, prev=base.prev - 1)
    with pytest.raises(ValueError, match="other prompts"):
        path_patching.sweep(subject, moved, source, position="last", recordings=own)
    other = tiny.subject(dtype=torch.float64, seed=1)
    with pytest.raises(ValueError, match="another model"):
        path_patching.sweep(other, base, source, position="last", recordings=own)
