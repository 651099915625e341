"""Claims about path patching in stages: the chosen heads are those of the exact sweep, as often as it says."""

from pathlib import Path

import pytest
import tiny
import torch
from entity_circuits.heads import GROUPS, Head
from entity_circuits.methods import path_patching, recorded, stages, swept
from entity_circuits.methods.scores import Scores
from entity_circuits.results import Store
from entity_circuits.tasks import boxes
from safetensors.torch import load_file

CHOSEN = dict(zip(GROUPS, (7, 2, 3, 2), strict=True))


def stored():
    """The exact sweep of the default model, 70 examples, round by round."""
    found = load_file(Path(__file__).with_name("sweep.safetensors"))
    n = len(found["contexts"])
    return {g: Scores(found[g].float(), found["logprob"], torch.ones(n).bool(), found["contexts"]) for g in GROUPS}


@pytest.mark.parametrize("group", GROUPS)
def test_of_a_stored_sweep_a_few_examples_keep_the_heads_that_all_examples_choose(group):
    scores, k, m = stored()[group], CHOSEN[group], 20
    n, able = len(scores.contexts), int((scores.examples > 0).sum())
    exact = set(scores.ranking()[:k])
    random, lost, kept = torch.Generator().manual_seed(0), 0, 0
    for _ in range(100):
        part = scores.where(torch.randperm(n, generator=random)[:m])
        left = set(stages.undecided(part, k, of=n, statistic="ratio_of_means"))
        lost, kept = lost + (not exact <= left), kept + len(left)
    assert lost <= 100 * stages.ERROR
    assert kept / 100 < able / 3, "and most of the others are dropped"


def test_planted_heads_are_dropped_no_more_often_than_stated():
    random, lost, kept, k, n, m = torch.Generator().manual_seed(0), 0, 0, 3, 60, 15
    for _ in range(200):
        effect = torch.zeros(6, 10, 1)
        effect[2, 3:6] = torch.tensor([-0.5, -0.4, -0.3])[:, None]
        effect[4, :5] = -0.25  # near misses
        change = effect + 0.3 * torch.randn(6, 10, n, generator=random)
        scores = Scores(change, torch.zeros(n), torch.ones(n).bool(), torch.arange(n), log=False)
        exact = set(scores.ranking("mean")[:k])
        left = stages.undecided(scores.where(torch.arange(m)), k, of=n, statistic="mean")
        lost, kept = lost + (not exact <= set(left)), kept + len(left)
    assert lost <= 200 * stages.ERROR
    assert kept / 200 < 45


def test_a_head_that_all_examples_have_been_seen_of_is_decided():
    scores = stored()["value_fetcher"]
    left = stages.undecided(scores, 7, of=70, statistic="ratio_of_means")
    assert set(left) == set(scores.ranking()[:7])


def test_the_first_examples_come_from_every_context_and_from_different_places_in_it():
    subject = tiny.subject()
    prompts = boxes.prompts(subject, 21, boxes=3)
    order = stages.spread(prompts)
    assert sorted(order.tolist()) == list(range(21))
    first = prompts.select(order[:7])
    assert len(set(first.contexts.tolist())) == 7
    assert set(boxes.of(first).queries) == {0, 1, 2}


def test_discovery_in_stages_hands_on_the_heads_of_the_exact_one_and_says_what_each_head_rests_on(tmp_path):
    subject = tiny.subject("qwen2", seed=3)
    experiment = boxes.experiment(subject, n=21, boxes=3)
    exact = path_patching.discover(subject, experiment, k=2)
    staged = path_patching.discover(subject, experiment, k=2, stages=(9,), store=Store(tmp_path))
    assert staged.circuit.groups == exact.circuit.groups
    assert staged.circuit.about["stages"] == [9, 21]
    fewer = 0
    for group, scores in staged.scores.items():
        counted, whole = scores.examples, exact.scores[group].examples
        assert set(counted.unique().tolist()) <= {0, 9, 21}
        assert torch.equal(counted > 0, whole > 0)
        fewer += int((counted == 9).sum())
        known = ~scores.change.isnan()
        assert torch.allclose(scores.change[known], exact.scores[group].change[known], atol=1e-5)
        assert all(counted[head.layer, head.head] == 21 for head in staged.circuit.groups[group])
        assert sorted(row.n for row in scores.table().itertuples()) == sorted(counted[counted > 0].tolist())
        low, high = scores.intervals("ratio_of_means")
        assert ((low <= high) == (counted > 0).numpy()).all()
    assert fewer, "somebody was dropped, or this shows nothing"
    again = path_patching.discover(subject, experiment, k=2, stages=(9,), store=Store(tmp_path))
    assert all(torch.equal(again.scores[g].change.nan_to_num(), staged.scores[g].change.nan_to_num()) for g in GROUPS)


def test_more_examples_than_a_chunk_are_swept_in_chunks_with_the_same_scores(monkeypatch):
    subject = tiny.subject("qwen2", dtype=torch.float64)
    experiment = boxes.experiment(subject, n=12, boxes=3)
    whole = path_patching.discover(subject, experiment, k=2)
    for module in (recorded, swept):
        monkeypatch.setattr(module, "CHUNK", 5)
    parts = path_patching.discover(subject, experiment, k=2)
    assert parts.circuit.groups == whole.circuit.groups
    assert max(len(base) for base, _ in parts.runs.made.values()) <= 5, "no more is recorded at a time"
    for group in GROUPS:
        one, other = (found.scores[group].change for found in (whole, parts))
        assert torch.allclose(one, other, atol=1e-11, equal_nan=True)


@pytest.mark.parametrize("given", [(20, 10), (10, 10), (3,), (True,)])
def test_stages_that_do_not_grow_or_tell_nothing_are_refused_before_anything_runs(given):
    subject = tiny.subject()
    with pytest.raises(ValueError, match="stage"):
        path_patching.discover(subject, boxes.experiment(subject, n=9, boxes=3), stages=given)
    with pytest.raises(ValueError, match="median"):
        path_patching.discover(subject, boxes.experiment(subject, n=9, boxes=3), stages=(4,), statistic="median")


def test_a_ratio_of_means_over_some_examples_is_over_their_own_probability():
    change = torch.tensor([[[-0.5, -1.0, torch.nan, torch.nan]]])
    scores = Scores(change, torch.tensor([0.5, 0.2, 0.1, 0.1]).log(), torch.ones(4).bool(), torch.arange(4))
    before = torch.tensor([0.5, 0.2])
    expected = (before * torch.tensor([-0.5, -1.0]).exp()).sum() / before.sum() - 1
    assert scores.statistic("ratio_of_means").item() == pytest.approx(float(expected), rel=1e-6)
    assert scores.ranking() == [Head(0, 0)] and scores.examples.item() == 2
