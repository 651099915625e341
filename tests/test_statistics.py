"""Intervals: they cover, they respect contexts, they are seeded, and bad input is refused."""

import itertools

import numpy as np
import pandas as pd
import pytest
import torch
from entity_circuits import bootstrap, units
from entity_circuits.agreement import overlap, spearman
from entity_circuits.statistics import (
    Estimate,
    as_array,
    by,
    difference,
    estimate,
    intervals,
    ratio,
    wilson,
)
from hypothesis import given, settings
from hypothesis import strategies as st


def clustered(seed: int, contexts: int = 60, size: int = 7, spread: float = 0.3) -> tuple[np.ndarray, np.ndarray]:
    """Answers whose chance of being right is drawn once a context, around one half."""
    draw = np.random.default_rng(seed)
    share = draw.uniform(0.5 - spread, 0.5 + spread, contexts)
    correct = draw.random((contexts, size)) < share[:, None]
    return correct.ravel(), np.repeat(np.arange(contexts), size)


def test_the_interval_covers_the_truth_about_95_times_in_100():
    found = [estimate(*clustered(seed), draws=400) for seed in range(200)]
    covered = np.mean([e.low <= 0.5 <= e.high for e in found])
    assert 0.90 <= covered <= 0.985


def test_forgetting_the_contexts_covers_less_often_when_they_agree():
    data = [clustered(seed, spread=0.5) for seed in range(100)]
    kept = np.mean([(e := estimate(*d, draws=300)).low <= 0.5 <= e.high for d in data])
    forgotten = np.mean([(e := estimate(d[0], draws=300)).low <= 0.5 <= e.high for d in data])
    assert kept >= 0.88
    assert forgotten < kept - 0.1


def test_copies_of_one_prompt_are_no_new_evidence():
    values = torch.tensor([0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0])
    once = estimate(values, torch.arange(8))
    copied = estimate(values.repeat_interleave(5), torch.arange(8).repeat_interleave(5))
    assert (copied.value, copied.low, copied.high) == pytest.approx((once.value, once.low, once.high))
    assert (copied.n, copied.contexts) == (40, 8)


def test_the_mean_interval_is_that_of_t_on_what_contexts_add_up_to_beyond_the_mean():
    values, contexts = np.array([1.0, 0.0, 1.0, 5.0, 2.0]), np.array([3, 3, 8, 8, 9])
    off = np.array([1.0 - 2 * 1.8, 6.0 - 2 * 1.8, 2.0 - 1.8])
    half = 4.302653 * np.sqrt(3 / 2 * (off**2).sum()) / 5
    found = estimate(values, contexts)
    assert (found.value, found.low, found.high) == pytest.approx((1.8, 1.8 - half, 1.8 + half))


def test_contexts_of_one_size_have_the_interval_of_t_on_their_means():
    values = np.random.default_rng(0).normal(size=(9, 7))
    found, own = estimate(values.ravel(), np.repeat(np.arange(9), 7)), units.over(values.mean(1))
    assert (found.value, found.low, found.high) == pytest.approx((own.value, own.low, own.high))


def test_the_median_interval_is_that_of_resampling_by_hand():
    values, contexts = np.array([1.0, 0.0, 1.0, 5.0, 2.0]), np.array([3, 3, 8, 8, 9])
    picked = np.random.default_rng(11).integers(3, size=(50, 3))
    groups = [values[:2], values[2:4], values[4:]]
    medians = [np.median(np.concatenate([groups[i] for i in row])) for row in picked]
    found = estimate(values, contexts, statistic="median", draws=50, seed=11)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(medians, [0.025, 0.975])))


@pytest.mark.parametrize("statistic", ["mean", "median"])
@pytest.mark.parametrize(
    "contexts", [None, np.repeat(np.arange(5), 4), np.array([0] * 6 + [1] * 8 + [2, 3, 4, 5, 6, 7])]
)
def test_a_cell_of_a_table_gets_the_interval_it_gets_alone(statistic, contexts):
    scores = torch.randn(2, 3, 20, generator=torch.Generator().manual_seed(0))
    table = intervals(scores, contexts, statistic=statistic, draws=200)
    alone = estimate(scores[1, 2], contexts, statistic=statistic, draws=200)
    assert table.value.shape == (2, 3) and table.n == 20
    assert (table.value[1, 2], table.low[1, 2], table.high[1, 2]) == pytest.approx((alone.value, alone.low, alone.high))


@pytest.mark.parametrize("statistic", ["mean", "median"])
def test_a_head_without_a_path_stays_nan_and_spoils_no_other(statistic):
    scores = torch.full((2, 2, 6), 3.0)
    scores[0, 0] = torch.nan
    table = intervals(scores, statistic=statistic, draws=50)
    assert np.isnan([table.value[0, 0], table.low[0, 0], table.high[0, 0]]).all()
    assert (table.low[1] == 3).all() and (table.high[0, 1] == 3)


def test_pairing_removes_what_two_runs_share():
    difficulty, contexts = np.random.default_rng(3).normal(size=200), np.repeat(np.arange(50), 4)
    first, second = difficulty + 0.1, difficulty
    paired = difference(first, second, contexts)
    apart = [estimate(values, contexts) for values in (first, second)]
    assert paired.value == pytest.approx(0.1) and paired.width < 1e-9
    assert apart[0].low < apart[1].high


def test_every_value_is_its_own_context_unless_contexts_are_given():
    found = estimate([0.0, 1.0, 1.0, 0.0])
    assert (found.n, found.contexts) == (4, 4)
    assert found == estimate([0.0, 1.0, 1.0, 0.0], contexts=[7, 1, 3, 2])


def test_contexts_whose_numbers_are_one_as_floats_are_several():
    large = [2**60, 2**60 + 1, 2**60 + 2, 2**60 + 3]
    for contexts in (large, np.array(large), torch.tensor(large)):
        assert estimate([0.0, 1.0, 1.0, 0.0], contexts) == estimate([0.0, 1.0, 1.0, 0.0])
        assert bootstrap.numbered(contexts).tolist() == [0, 1, 2, 3]


def test_numbers_of_any_kind_are_taken_as_float64():
    for values in ([True, False], [1, 0], np.array([1, 0], dtype=np.float32), torch.tensor([1, 0])):
        assert as_array(values).dtype == np.float64 and as_array(values).tolist() == [1.0, 0.0]


def test_wilson_of_no_success_starts_at_zero_and_counts_every_trial_as_independent():
    none = wilson(0, 10)
    assert (none.value, none.low, none.high) == pytest.approx((0.0, 0.0, 0.2775), abs=1e-4)
    assert (none.n, none.contexts) == (10, 10)


def test_wilson_has_a_width_where_all_are_right_and_that_of_contexts_a_larger_one():
    clustered_, formula = estimate(np.ones(10)), wilson(10, 10)
    assert clustered_.low < formula.low and clustered_.high == 1
    assert (formula.low, formula.high) == pytest.approx((0.7225, 1.0), abs=1e-4)
    assert (wilson(45, 100).low, wilson(45, 100).high) == pytest.approx((0.3561, 0.5476), abs=1e-4)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=2, max_size=40), st.integers(0, 3))
def test_any_interval_is_inside_the_data_and_reproducible(rows, seed):
    values, contexts = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    found = estimate(values, contexts, draws=60, seed=seed)
    assert found.value == pytest.approx(values.mean()) and found.contexts == len(set(contexts))
    if found.contexts == 1:
        assert np.isnan(found.low) and np.isnan(found.high)
    else:
        assert 0 <= found.low <= found.high <= 1 + 1e-12
        assert found == estimate(torch.tensor(values), torch.tensor(contexts), draws=60, seed=seed)


def test_the_numbering_of_contexts_does_not_matter():
    values, contexts = clustered(5)
    assert estimate(values, contexts, draws=100) == estimate(values, contexts * 10 + 3, draws=100)


def test_an_estimate_reads_as_value_interval_and_n():
    assert str(Estimate(0.4512, 0.409, 0.4949, 490, 70)) == "0.45 [0.41, 0.49], n = 490"
    assert str(Estimate(0.5, float("nan"), float("nan"), 7, 1)) == "0.50, n = 7"


def test_groups_are_estimated_each_on_their_own():
    frame = pd.DataFrame({"position": [2, 1, 2, 1], "context": [0, 0, 1, 1], "correct": [True, False, False, False]})
    table = by(frame, "position")
    assert table["position"].tolist() == [2, 1]
    assert table["value"].tolist() == [0.5, 0.0] and table["n"].tolist() == [2, 2]
    kinds = frame.assign(position=pd.Categorical(frame["position"], [1, 2, 3]))
    assert by(kinds, "position")["position"].tolist() == [2, 1], "a group that nobody is in is no row"


def test_rows_whose_group_is_missing_are_a_group_of_their_own():
    frame = pd.DataFrame({"place": ["a", None, "a", None], "context": [0, 0, 1, 1], "correct": [1, 0, 1, 1]})
    table = by(frame, "place")
    assert table["place"].isna().tolist() == [False, True]
    assert table["n"].tolist() == [2, 2] and table["value"].tolist() == [1.0, 0.5]


@pytest.mark.parametrize(
    "call",
    [
        lambda: estimate([]),
        lambda: estimate([0.0, float("nan")]),
        lambda: estimate([[0.0, 1.0]]),
        lambda: estimate([0, 1], contexts=[0]),
        lambda: difference([0, 1], [0]),
        lambda: intervals(torch.zeros(2, 3), statistic="mode"),  # type: ignore[arg-type]
        lambda: wilson(3, 2),
        lambda: wilson(0, 0),
    ],
)
def test_bad_input_is_refused(call):
    with pytest.raises(ValueError):
        call()


def test_a_ratio_draws_both_together_and_none_is_taken_to_nothing():
    correct, contexts = clustered(0)
    half = correct & (np.arange(len(correct)) % 2 == 0)
    found = ratio(half, correct, contexts)
    assert found.value == pytest.approx(half.mean() / correct.mean())
    assert found.low < found.value < found.high
    assert (found.n, found.contexts) == (420, 60)
    same = ratio(correct, correct, contexts)
    assert same.value == same.low == same.high == 1
    assert np.isnan(ratio(half, correct, np.zeros(420)).low), "one context tells nothing of a spread"
    with pytest.raises(ValueError, match="zero"):
        ratio(correct, np.zeros(420), contexts)


def test_the_interval_of_a_ratio_is_that_of_what_contexts_are_off_it():
    above, below = np.array([1.0, 3.0, 0.0]), np.array([1.0, 0.0, 1.0])
    off = above - 2 * below
    half = 4.302653 * np.sqrt(3 / 2 * (off**2).sum()) / 2
    found = ratio(above, below, [0, 1, 2])
    assert (found.value, found.low, found.high) == pytest.approx((2, 2 - half, 2 + half))


def test_the_overlap_of_two_draws_is_that_of_counting_all_draws():
    first, second, found = range(6), range(2, 7), np.zeros(3)
    draws = list(itertools.product(itertools.combinations(first, 3), itertools.combinations(second, 2)))
    for one, other in draws:
        found[len(set(one) & set(other))] += 1 / len(draws)
    assert overlap(6, 5, 4, 3, 2) == pytest.approx(found)


def test_ranks_correlate_whatever_the_scale_and_not_at_all_where_there_is_no_order():
    values = np.array([3.0, 1.0, 2.0, 2.0])
    assert spearman(values, np.exp(values)) == pytest.approx(1)
    assert spearman(values, -(values**3)) == pytest.approx(-1)
    assert np.isnan(spearman(values, np.ones(4))) and np.isnan(spearman(values[:2], values[:2]))
