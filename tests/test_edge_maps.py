"""Claims: a map's table has its pairs with intervals, and its ceiling is what two halves of the contexts share."""

import math
from dataclasses import replace

import pytest
import torch
from entity_circuits import edges, statistics
from entity_circuits.heads import Head
from entity_circuits.methods.scores import Scores

SENDERS = (Head(0, 0), Head(0, 1), Head(1, 0))
RECEIVERS = (Head(1, 1), Head(2, 0), Head(2, 1))


def mapped(noise, contexts=40, each=2, seed=0, size=3):
    """A map whose pairs have effects from 0 to -1, each context with its own deviation; one of them has no path."""
    generator = torch.Generator().manual_seed(seed)
    effects = -torch.linspace(0, 1, size**2, dtype=torch.float64).view(size, size, 1)
    own = noise * torch.randn(size, size, contexts, generator=generator, dtype=torch.float64)
    change = (effects + own).repeat_interleave(each, dim=-1)
    change[2, 0] = torch.nan
    n = contexts * each
    numbers = torch.arange(contexts).repeat_interleave(each)
    scores = Scores(change, torch.zeros(n, dtype=torch.float64), torch.ones(n, dtype=torch.bool), numbers)
    return edges.Edges(SENDERS * (size // 3), RECEIVERS * (size // 3), scores)


def test_the_table_has_a_row_a_pair_with_a_path_the_most_negative_first():
    found = mapped(0.3)
    table = found.table()
    assert list(table.columns) == ["sender", "receiver", "change", "low", "high", "n"]
    assert len(table) == 8 and table["change"].is_monotonic_increasing
    assert tuple(table.loc[0, ["sender", "receiver"]]) == ("L1H0", "L2H1")
    by_hand = statistics.estimate(found.change[2, 2], found.scores.contexts)
    assert table.loc[0, ["change", "low", "high", "n"]].tolist() == pytest.approx([*vars(by_hand).values()][:4])
    assert found.table(2)["change"].tolist() == table["change"][:2].tolist()
    some = found.where(found.scores.contexts < 10).table()
    assert (some["n"] == 20).all() and len(some) == 8


def test_a_map_that_is_the_same_in_every_context_repeats_itself_wholly():
    for correlation in ("pearson", "spearman"):
        found = edges.ceiling(mapped(0.0), correlation=correlation, halvings=5)
        assert [found.half, found.low, found.high, found.whole] == pytest.approx([1.0] * 4)
    assert (found.contexts, found.pairs) == (20, 8)


def test_the_ceiling_is_what_two_maps_of_one_model_on_other_contexts_agree_by():
    """Held against many maps of as many contexts, drawn anew: what the formula of Spearman and Brown predicts."""
    several = [edges.ceiling(mapped(2.0, seed=seed, size=12), halvings=30) for seed in range(20)]
    maps = [mapped(2.0, seed=seed, size=12).statistic() for seed in range(20, 60)]
    pairs = zip(maps[::2], maps[1::2], strict=True)
    agree = [torch.corrcoef(torch.stack([one[~one.isnan()], other[~one.isnan()]]))[0, 1] for one, other in pairs]
    predicted, halves = (torch.tensor([getattr(one, name) for one in several]).mean() for name in ("whole", "half"))
    assert abs(predicted - torch.stack(agree).mean()) < 0.03
    assert halves < predicted - 0.1 and all(one.low <= one.half <= one.high for one in several)


def test_prompts_of_one_context_are_never_on_both_sides():
    """All that differs between contexts is noise: its two prompts would agree wholly, were they taken apart."""
    generator = torch.Generator().manual_seed(0)
    change = torch.randn(3, 3, 4, generator=generator, dtype=torch.float64).repeat_interleave(2, dim=-1)
    numbers = torch.arange(4).repeat_interleave(2)
    found = edges.Edges(SENDERS, RECEIVERS, Scores(change, torch.zeros(8), torch.ones(8).bool(), numbers))
    assert edges.ceiling(found).high < 0.9
    apart = edges.Edges(SENDERS, RECEIVERS, Scores(change, torch.zeros(8), torch.ones(8).bool(), torch.arange(8)))
    assert edges.ceiling(apart).high > 0.9


def test_one_seed_gives_one_ceiling():
    found = mapped(1.0)
    assert edges.ceiling(found, seed=3) == edges.ceiling(found, seed=3) != edges.ceiling(found, seed=4)


@pytest.mark.parametrize(
    ("change", "asked", "message"),
    [
        (mapped(1.0, contexts=3), {}, "3 contexts"),
        (mapped(1.0), {"correlation": "kendall"}, "no correlation called 'kendall'"),
        (mapped(1.0), {"halvings": 0}, "halvings"),
    ],
)
def test_ceilings_that_would_say_nothing_are_refused(change, asked, message):
    with pytest.raises(ValueError, match=message):
        edges.ceiling(change, **asked)


def test_maps_that_do_not_repeat_themselves_promise_nothing_and_equal_ones_have_no_ceiling():
    noise = torch.randn(3, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rest = Scores(noise - noise.mean(-1, keepdim=True), torch.zeros(4), torch.ones(4).bool(), torch.arange(4))
    found = edges.ceiling(edges.Edges(SENDERS, RECEIVERS, rest))  # what one half has, the other has the opposite of
    assert found.half < 0 and math.isnan(found.whole)
    with pytest.raises(ValueError, match="the same for all pairs"):
        edges.ceiling(edges.Edges(SENDERS, RECEIVERS, replace(rest, change=torch.ones(3, 3, 4, dtype=torch.float64))))


def test_two_pairs_have_no_correlation():
    whole = mapped(1.0)
    few = Scores(whole.change[:1, :2], whole.scores.logprob, whole.scores.correct, whole.scores.contexts)
    with pytest.raises(ValueError, match="3 pairs"):
        edges.ceiling(edges.Edges(SENDERS[:1], RECEIVERS[:2], few))
