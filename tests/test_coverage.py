"""Do 95% intervals hold the truth 95 times in 100? Data are drawn whose truth is known, and the intervals counted."""

import numpy as np
import pytest
from entity_circuits import intervals, statistics
from entity_circuits.bootstrap import counts, means, resampled

ALIKE = 0.08
"""The correlation of two prompts of a context: about that of the default model's answers."""
SIZE, TIMES = 7, 800
CONTEXTS = [3, 4, 7, 14, 70]


def shares(random, rates, contexts):
    """(times, contexts, outcomes): how often each outcome happens in a context, around the same `rates` for all."""
    drawn = random.gamma(np.array(rates) * (1 - ALIKE) / ALIKE, size=(TIMES, contexts, len(rates)))
    return drawn / drawn.sum(-1, keepdims=True)


def outcomes(rates, contexts, seed=0):
    """(times, n): for each prompt which outcome it has, those of a context correlated by `ALIKE`."""
    random = np.random.default_rng([seed, contexts])
    ends = shares(random, rates, contexts).cumsum(-1)[:, :, None]
    return (random.random((TIMES, contexts, SIZE, 1)) > ends).sum(-1).reshape(TIMES, -1)


def numbers(contexts, seed=0):
    random = np.random.default_rng([seed, contexts])
    common, own = random.normal(size=(TIMES, contexts, 1)), random.normal(size=(TIMES, contexts, SIZE))
    return (ALIKE**0.5 * common + (1 - ALIKE) ** 0.5 * own).reshape(TIMES, -1)


def groups(contexts):
    return np.repeat(np.arange(contexts), SIZE)


def held(low, high, truth):
    return float(((low <= truth) & (truth <= high)).mean())


def percentiles(cells, contexts):
    drawn = means(cells, groups(contexts), counts(resampled(groups(contexts), draws=300)[1]))
    return np.quantile(drawn, [0.025, 0.975], axis=1)


def corrected(cells, contexts):
    """The bootstrap that corrects for bias and skew (BCa), of the means of contexts."""
    from scipy.special import ndtr, ndtri

    own = cells.reshape(TIMES, contexts, SIZE).mean(2)
    drawn = np.sort(means(cells, groups(contexts), counts(resampled(groups(contexts), draws=300)[1])), axis=1)
    middle, last = own.mean(1, keepdims=True), drawn.shape[1] - 1
    bias = ndtri(np.clip(((drawn < middle).mean(1) + (drawn <= middle).mean(1)) / 2, 1 / last, 1 - 1 / last))
    off = (own - middle) / (contexts - 1)
    skew = (off**3).sum(1) / np.maximum(6 * (off**2).sum(1) ** 1.5, 1e-300)
    at = [ndtr(bias + (bias + z) / (1 - skew * (bias + z))) for z in (-1.96, 1.96)]
    return [np.take_along_axis(drawn, (level * last).round().astype(int)[:, None], 1)[:, 0] for level in at]


@pytest.mark.parametrize("contexts", CONTEXTS)
@pytest.mark.parametrize("rate", [0.5, 0.2, 0.95])
def test_answers_have_an_interval_that_holds_the_truth_however_few_contexts(contexts, rate):
    answers = (outcomes([rate, 1 - rate], contexts) == 0).astype(float)
    low, high = intervals.of_means(answers, groups(contexts), intervals.kind_of(answers))
    assert held(low, high, rate) >= 0.93 and low.min() >= 0 and high.max() <= 1
    assert contexts < 70 or held(low, high, rate) <= 0.97, "and at many it is no wider than it says"


@pytest.mark.parametrize("contexts", CONTEXTS)
def test_numbers_have_an_interval_that_holds_the_truth_as_often_as_it_says(contexts):
    values = numbers(contexts)
    assert 0.93 <= held(*intervals.of_means(values, groups(contexts)), 0) <= 0.97


@pytest.mark.parametrize("contexts", CONTEXTS)
@pytest.mark.parametrize("rates", [(0.15, 0.05), (0.05, 0.05), (0.02, 0.0001)])
def test_changes_have_an_interval_that_holds_the_truth_also_where_few_prompts_change(contexts, rates):
    drawn = outcomes([*rates, 1 - sum(rates)], contexts)
    changes = (drawn == 0).astype(float) - (drawn == 1)
    low, high = intervals.of_means(changes, groups(contexts), intervals.kind_of(changes, signed=True))
    assert held(low, high, rates[0] - rates[1]) >= 0.93
    assert (high > low).all(), "no data are proof that nothing changes"


@pytest.mark.parametrize("contexts", [4, 7, 14, 70])
def test_a_ratio_has_an_interval_that_holds_the_truth(contexts):
    drawn = outcomes([0.35, 0.2, 0.05, 0.4], contexts)  # both right, the second alone, the first alone, none
    first, second = (np.isin(drawn, some).astype(float) for some in ((0, 2), (0, 1)))
    ends = [intervals.of_ratios(one[None], other, groups(contexts)) for one, other in zip(first, second, strict=True)]
    low, high = np.array(ends)[:, :, 0].T
    assert 0.925 <= held(low, high, 0.4 / 0.55) <= 0.975


@pytest.mark.parametrize("contexts", CONTEXTS)
@pytest.mark.parametrize("rates", [(0.02, 0.02), (0.005, 0.02), (0.01, 0.3)])
def test_a_rare_answer_beyond_a_quarter_of_others_has_the_width_of_a_share(contexts, rates):
    drawn = outcomes([*rates, 1 - sum(rates)], contexts)
    right, others = (drawn == 0).astype(float), (drawn == 1) / 4
    both = zip(right, others, strict=True)
    low, high = np.array([intervals.of_shares(one, other, groups(contexts)) for one, other in both]).T
    assert held(low, high, rates[0] - rates[1] / 4) >= 0.93
    found = statistics.difference(np.zeros(SIZE * contexts), others[others.any(1)][0], groups(contexts))
    share = statistics.estimate(np.zeros(SIZE * contexts), groups(contexts))
    assert found.high >= found.value + share.high, "no right answer at all: how rare they are, only the share tells"


@pytest.mark.parametrize("contexts", CONTEXTS)
@pytest.mark.parametrize("rate", [0.002, 0.005])
def test_a_ratio_of_rare_answers_has_a_width_also_where_none_is_right(contexts, rate):
    drawn = outcomes([rate, 0.5, 0.5 - rate], contexts)
    rare, often = (drawn == 0).astype(float), (drawn <= 1).astype(float)
    ends = [intervals.of_ratios(one[None], other, groups(contexts)) for one, other in zip(rare, often, strict=True)]
    low, high = np.array(ends)[:, :, 0].T
    assert held(low, high, rate / (rate + 0.5)) >= 0.93 and (high > low).all()
    none, share = np.zeros(SIZE * contexts), statistics.estimate(np.zeros(SIZE * contexts), groups(contexts))
    found = statistics.ratio(none, often[0], groups(contexts))
    assert (found.low, found.high) == pytest.approx((0, share.high / often[0].mean()))
    fallen = statistics.ratio(none, -often[0], groups(contexts), signed=True)
    assert fallen.low == pytest.approx(-fallen.high) and fallen.high > 0


@pytest.mark.parametrize("drawn", [percentiles, corrected])
def test_a_bootstrap_of_few_contexts_promises_too_much_and_so_it_is_not_used(drawn):
    kept = {contexts: held(*drawn(numbers(contexts), contexts), 0) for contexts in CONTEXTS}
    assert kept[3] < 0.8 and kept[4] < 0.85 and kept[7] < 0.9 and kept[14] < 0.94 < kept[70] + 0.02
    right = (outcomes([0.5, 0.5], 7) == 0).astype(float)
    assert held(*drawn(right, 7), 0.5) < 0.92


def test_an_estimate_and_a_difference_take_the_interval_that_their_values_ask_for():
    contexts, none = np.repeat(np.arange(10), 7), np.zeros(70)
    answers, same = statistics.estimate(none, contexts), statistics.difference(none, none, contexts)
    assert answers.low == 0 and 0.2 < answers.high < 0.4, (
        "as ten independent prompts: how alike those of one are, is unknown"
    )
    assert same.low == pytest.approx(-same.high) and 0.1 < same.high < 0.4
    scores = statistics.estimate(none + 0.25, contexts)
    assert (scores.low, scores.high) == (0.25, 0.25)


def test_an_effective_number_is_that_of_prompts_that_repeat_each_other():
    whole = np.repeat([1.0, 0, 1, 1, 0, 1, 0, 1, 1, 1], 7)
    low, high = intervals.of_means(whole[None], np.repeat(np.arange(10), 7), "answers")
    t, n = intervals.quantile(0.975, 9), 9  # seven of ten contexts: 0.21 / (0.21 / 9)
    middle, half = 0.7 + t**2 / (2 * n), t * (0.21 / n + t**2 / (4 * n**2)) ** 0.5
    assert (low[0], high[0]) == pytest.approx(((middle - half) / (1 + t**2 / n), (middle + half) / (1 + t**2 / n)))


def test_holm_makes_each_p_that_of_the_family_and_keeps_their_order():
    assert intervals.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert intervals.holm([0.5, 0.9]) == pytest.approx([1, 1]) and intervals.holm([0.02]) == pytest.approx([0.02])
    given = np.random.default_rng(0).uniform(size=(4000, 5))
    false = np.mean([(intervals.holm(row) < 0.05).any() for row in given])
    assert 0.03 < false < 0.065, "where nothing is there, one family in twenty finds something"
    assert len(intervals.holm([])) == 0
